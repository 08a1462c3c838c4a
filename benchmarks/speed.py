"""Speed of the embedded models, each figure a share of what this machine's matrix units were measured to reach.

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

from trimtab.adapters.avid import AVID
from trimtab.core.values import Clip, Conditioning
from trimtab.data import samples
from trimtab.data.clips import Clips
from trimtab.diffusion import sampling
from trimtab.diffusion.losses import DenoisingLoss
from trimtab.networks.precision import keep_freed_memory, matrix_dtype
from trimtab.priors import pixel_unet
from trimtab.priors.pixel_unet import PixelUNet
from trimtab.world_model import WorldModel

BATCH = 16
STEPS = 4


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


def limit() -> float:
    """Operations a second of the best convolution of the models' own shapes, in the number format they run in."""
    best = 0.0
    for channels, side in ((64, 32), (128, 16), (256, 8)):
        images = torch.randn(BATCH * 8, channels, side, side, dtype=matrix_dtype("cpu"))
        kernel = torch.randn(channels, channels, 3, 3, dtype=matrix_dtype("cpu"))
        run = partial(
            functional.conv2d, images.to(memory_format=torch.channels_last), kernel.to(memory_format=torch.channels_last),
            padding=1,
        )  # fmt: skip
        rate = operations(run) / seconds(run, 10)
        print(f"  3x3 convolution, {channels:3} channels, {side:2} x {side:2}: {rate / 1e9:6.0f} GFLOP/s")
        best = max(best, rate)
    return best


def main() -> None:
    keep_freed_memory()
    play = samples.coinrun()
    clips = Clips(play)
    clip = clips.batch(clips.draw(0, 0, BATCH))
    prior = pixel_unet.load("procgen")
    adapter = AVID(prior, num_actions=15)
    trainable = PixelUNet(prior.settings)
    print(f"{torch.get_num_threads()} threads, {matrix_dtype('cpu')}; limits on the models' own layer shapes:")
    best = limit()

    def train(model: torch.nn.Module, some: Clip) -> None:
        DenoisingLoss(model, prior.schedule)(some, step=0, samples=range(BATCH)).mean().backward()  # type: ignore[arg-type]
        model.zero_grad()

    level = prior.schedule.level(torch.full((BATCH,), 500))
    noise = sampling.start_noise(tuple(clip.video.shape[1:]), 0, range(BATCH))
    sampler = partial(sampling.dpm_solver_pp_2m, pairs=sampling.pairs(prior.schedule, STEPS), clamp=(-1.0, 1.0))

    def ask(model: PixelUNet | AVID, given: Conditioning) -> None:
        with torch.no_grad():
            model.bind(given)(noise, level)

    jobs: list[tuple[str, Callable[[], object], int]] = [
        ("prior, forward", partial(ask, prior, clip.given), BATCH),
        ("prior, training step", partial(train, trainable, clip), BATCH),
        ("AVID pair, forward", partial(ask, adapter.eval(), clip.given), BATCH),
        ("AVID pair, training step", partial(train, adapter, clip), BATCH),
        (f"AVID pair, sampling in {STEPS} steps", lambda: sampler(adapter, noise, clip.given), BATCH),
    ]
    print(f"{'clips of 8 frames':36}{'clips/s':>9}{'GFLOP/clip':>12}{'GFLOP/s':>9}{'share':>7}")
    for name, run, count in jobs:
        work, took = operations(run), seconds(run, 3)
        print(
            f"{name:36}{count / took:9.1f}{work / count / 1e9:12.1f}{work / took / 1e9:9.0f}{work / took / best:7.0%}"
        )

    frames = np.stack([play.episode(number)[0][: prior.num_context] for number in range(len(play))])
    for count in (1, 8):
        world = WorldModel(adapter, prior, sampler, frames, num_envs=count, num_actions=15)
        world.reset(seed=0)
        took = seconds(lambda world=world, count=count: world.step(np.full(count, 7)), 20)  # type: ignore[misc]
        print(f"world model, {count} environment(s), {STEPS} steps: {count / took:.1f} frames/s")


if __name__ == "__main__":
    main()
