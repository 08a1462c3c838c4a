"""Speed of the models, each figure a share of what this machine's matrix units were measured to reach in the same run.

Run with `make bench`. Floating-point operations are counted by torch, those of convolutions and matrix products.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

import public_layout
from trimtab.adapters.avid import AVID
from trimtab.core.contracts import Denoiser
from trimtab.core.values import Clip
from trimtab.data import samples
from trimtab.data.clips import Clips
from trimtab.diffusion import sampling
from trimtab.diffusion.losses import DenoisingLoss, clean_loss
from trimtab.networks.avid_unet3d import AvidUNet3D
from trimtab.networks.precision import keep_freed_memory, matrix_dtype
from trimtab.priors import pixel_unet
from trimtab.priors.pixel_unet import PixelUNet, PixelUNetSettings
from trimtab.recipes.procgen_prior import frames_task
from trimtab.world_model import WorldModel

STEPS = 2
LAYERS = ((64, 32), (128, 16), (256, 8), (50, 64), (100, 64), (200, 32), (400, 16), (800, 8))
"""Channels and side of the 3x3 convolutions that time should go into: the embedded models', then the paper's."""


def seconds(run: Callable[[], object], repeats: int = 5) -> float:
    """The shortest of several runs, after one to warm up."""
    run()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)


def operations(run: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def convolution_limit(channels: int, side: int, dtype: torch.dtype, frames: int = 64) -> float:
    """Operations a second of one 3x3 convolution in channels-last memory."""
    images = torch.randn(frames, channels, side, side, dtype=dtype).to(memory_format=torch.channels_last)
    kernel = torch.randn(channels, channels, 3, 3, dtype=dtype).to(memory_format=torch.channels_last)
    run = partial(functional.conv2d, images, kernel, padding=1)
    return operations(run) / seconds(run, 8)


def product_limit(dtype: torch.dtype, size: int = 2048) -> float:
    """Operations a second of a square matrix product."""
    left, right = torch.randn(2, size, size, dtype=dtype)
    return 2 * size**3 / seconds(lambda: left @ right, 8)


def limit() -> float:
    """The best that matrix products and the models' own layers reach, in operations a second; prints all of them."""
    fast, best = matrix_dtype("cpu"), 0.0
    for dtype in dict.fromkeys((fast, torch.float32)):
        rates = {"matrix product, 2048": product_limit(dtype)}
        rates |= {
            f"3x3 convolution, {wide} channels, {side}": convolution_limit(wide, side, dtype) for wide, side in LAYERS
        }
        for name, rate in rates.items():
            print(f"  {str(dtype).removeprefix('torch.'):9}{name:40}{rate / 1e9:6.0f} GFLOP/s")
        best = max(best, *rates.values()) if dtype == fast else best
    return best


def train(task: DenoisingLoss, clip: Clip) -> None:
    """Everything of a training step but the optimizer's."""
    task(clip, step=0, samples=range(len(clip.video))).mean().backward()
    task.zero_grad()


def ask(model: Denoiser, clip: Clip, prior: PixelUNet) -> None:
    level = prior.schedule.level(torch.full((len(clip.video),), prior.schedule.num_levels // 2))
    with torch.no_grad():
        model.bind(clip.given)(clip.video, level)


def report(best: float, jobs: dict[str, tuple[Callable[[], object], int]], repeats: int = 3) -> dict[str, float]:
    """Print, for runs over so many clips each, their speed and their share of the best; answers seconds a clip."""
    found = {}
    print(f"{'clips of 8 frames':40}{'clips/s':>9}{'GFLOP/clip':>12}{'GFLOP/s':>9}{'share':>7}")
    for name, (run, count) in jobs.items():
        work, took = operations(run), seconds(run, repeats)
        rate = work / took
        print(f"{name:40}{count / took:9.2f}{work / count / 1e9:12.1f}{rate / 1e9:9.0f}{rate / best:7.0%}")
        found[name] = took / count
    return found


def embedded(best: float) -> None:
    """The models that ship and that the demo trains, and the world model."""
    play = samples.coinrun()
    clips = Clips(play)
    clip = clips.batch(clips.draw(0, 0, 16))
    prior = pixel_unet.load("procgen")
    adapter, trainable = AVID(prior, num_actions=15), PixelUNet(prior.settings)
    sampler = partial(sampling.dpm_solver_pp_2m, pairs=sampling.pairs(prior.schedule, STEPS), clamp=(-1.0, 1.0))
    noise = sampling.start_noise(tuple(clip.video.shape[1:]), 0, range(16))
    jobs: dict[str, tuple[Callable[[], object], int]] = {
        "prior, forward": (partial(ask, prior, clip, prior), 16),
        "prior, training step": (partial(train, frames_task(trainable, prior.schedule, seed=0), clip), 16),
        "AVID pair, forward": (partial(ask, adapter, clip, prior), 16),
        "AVID pair, training step": (partial(train, frames_task(adapter, prior.schedule, seed=0), clip), 16),
        f"AVID pair, sampling in {STEPS} steps": (lambda: sampler(adapter, noise, clip.given), 16),
    }
    report(best, jobs)
    frames = np.stack([play.episode(number)[0][: prior.num_context] for number in range(len(play))])
    for count in (1, 8):
        world = WorldModel(adapter.eval(), prior, sampler, frames, num_envs=count, num_actions=15)
        world.reset(seed=0)
        took = seconds(lambda world=world, count=count: world.step(np.full(count, 7)), 20)  # type: ignore[misc]
        print(f"world model, {count} environment(s), {STEPS} steps: {count / took:.1f} frames/s")


def of_the_papers_size(best: float, batch: int = 4) -> None:
    """AVID's 22M adapter on its 92M base, with random weights, and the same in the layout of its public code."""
    clips = Clips(samples.coinrun())
    clip = clips.batch(clips.draw(0, 0, batch))
    sizes = {"width": 100, "heads": 8, "head_dim": 64}
    base = PixelUNet(PixelUNetSettings("avid_unet", sizes, schedule="sigmoid", num_levels=200)).frozen()
    adapter = AVID(base, model="avid_unet", num_actions=15, mask_bias=0.0)
    task = DenoisingLoss(adapter, base.schedule, loss=clean_loss)
    found = report(
        best,
        {
            "AVID-22M pair, forward": (partial(ask, adapter, clip, base), batch),
            "AVID-22M pair, training step": (partial(train, task, clip), batch),
        },
        repeats=2,
    )
    public, frozen = adapter.network, AvidUNet3D(**sizes)
    video, step, actions = torch.randn(batch, 8, 9, 64, 64), torch.full((batch,), 100), clip.given.actions
    assert actions is not None  # recorded clips have them

    def step_of_the_public_layout() -> None:
        prior, _ = public_layout.answer(frozen, video, step, actions)  # its base runs with gradients on, too
        answer, mask = public_layout.answer(public, torch.cat([video, prior.detach()], dim=2), step, actions)
        (answer.square().mean() + mask.mean()).backward()  # type: ignore[union-attr]
        public.zero_grad()

    took = seconds(step_of_the_public_layout, 1)
    ours = found["AVID-22M pair, training step"] * batch
    print(
        f"training step of {batch} clips: {ours:.1f} s; in the public layout, float32: {took:.1f} s, {took / ours:.1f} times"
    )


def main() -> None:
    keep_freed_memory()
    print(f"{torch.get_num_threads()} threads, {matrix_dtype('cpu')}; limits:")
    best = limit()
    print(f"shares below are of the best of these in {matrix_dtype('cpu')}, {best / 1e9:.0f} GFLOP/s")
    embedded(best)
    of_the_papers_size(best)


if __name__ == "__main__":
    main()
