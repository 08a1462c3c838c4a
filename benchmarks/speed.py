"""Speed of the models, each figure as a share of what this machine was measured to reach in the same run.

Run with `make bench`. Floating-point operations are counted by torch, those of convolutions and matrix products. There are
two limits: the best rate of any single layer or matrix product, and for each job the rate of its own layers, one after
another, each at its own shape, forward: what the job would reach if all else (norms, activations, attention, copies,
gradients) were free and the way back as fast as the way forward.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.module import register_module_forward_hook
from torch.utils.flop_counter import FlopCounterMode

import public_layout
from trimtab.adapters.avid import AVID
from trimtab.adapters.classifier_guidance import ActionClassifier, ClassifierGuidance
from trimtab.adapters.composition import (
    action_guidance,
    classifier_free_guidance,
    inverse_probabilistic_adaptation,
    probabilistic_adaptation,
    product_of_experts,
    repeated,
)
from trimtab.adapters.from_scratch import FromScratch
from trimtab.core.contracts import Denoiser
from trimtab.core.values import Clip, Conditioning, NoiseLevel, stack
from trimtab.data import samples
from trimtab.data.clips import Clips
from trimtab.diffusion import sampling
from trimtab.diffusion.losses import DenoisingLoss, clean_loss
from trimtab.networks.avid_unet3d import AvidUNet3D
from trimtab.networks.encoders import MiniLM
from trimtab.networks.precision import compile_frozen, keep_freed_memory, matrix_dtype
from trimtab.priors import pixel_unet
from trimtab.priors.pixel_unet import PixelUNet, PixelUNetSettings
from trimtab.priors.remembering import Remembering
from trimtab.recipes.benchmark.methods import PASSES
from trimtab.recipes.domains.metaworld import NUM_TOKENS
from trimtab.recipes.planning.adaptations import TRAININGS
from trimtab.recipes.procgen_prior import frames_task
from trimtab.recipes.tabletop_prior import TABLETOP
from trimtab.world_model import WorldModel

STEPS = 2
LAYERS = ((64, 32), (128, 16), (256, 8), (50, 64), (100, 64), (200, 32), (400, 16), (800, 8))
"""Channels and side of the 3x3 convolutions that time should go into: the embedded models', then the paper's."""


def seconds(run: Callable[[], object], repeats: int = 5, *, warm: bool = True) -> float:
    """The shortest of several runs, after one to warm up."""
    if warm:
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


Layer = tuple[nn.Module, torch.Size]
"""A layer, and the shape of what it is given."""


def layers_of(run: Callable[[], object]) -> Counter[Layer]:
    """The convolutions and linear layers that a run passes, and how often."""
    passed: Counter[Layer] = Counter()

    def note(module: nn.Module, given: tuple[Tensor, ...], _: object) -> None:
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            passed[module, given[0].shape] += 1

    with register_module_forward_hook(note):
        run()
    return passed


class Alone:
    """The layers of a run, each by itself, forward, one after another; those that learn three times when training.

    Attributes:
        work: floating-point operations of all.
    """

    def __init__(self, passed: Counter[Layer], training: bool) -> None:
        dtype, self.runs, self.work = matrix_dtype("cpu"), [], 0
        for (layer, shape), times in passed.items():
            own, given = deepcopy(layer).to(dtype), torch.randn(shape, dtype=dtype)
            if not isinstance(layer, nn.Linear):
                given = given.to(memory_format=torch.channels_last)
            times *= 3 if training and layer.weight.requires_grad else 1  # type: ignore[union-attr]
            self.runs.append((partial(own, given), times))
            with torch.no_grad():
                self.work += times * operations(self.runs[-1][0])

    @torch.no_grad()
    def __call__(self) -> None:
        for run, times in self.runs:
            for _ in range(times):
                run()


class Train:
    """So many training steps on the same batch, each time of the same new noise."""

    def __init__(self, task: DenoisingLoss, clip: Clip, passes: int = 1) -> None:
        self.task, self.clip, self.passes, self.step = task, clip, passes, 0
        self.optimizer = torch.optim.AdamW(task.parameters(), lr=1e-5)

    def __call__(self) -> None:
        self.step += 1
        for _ in range(self.passes):
            self.task(self.clip, step=self.step, samples=range(len(self.clip.video))).mean().backward()
            self.optimizer.step()
            self.optimizer.zero_grad()


def ask(model: Denoiser, clip: Clip, prior: PixelUNet) -> None:
    level = prior.schedule.level(torch.full((len(clip.video),), prior.schedule.num_levels // 2))
    with torch.no_grad():
        model.bind(clip.given)(clip.video, level)


@dataclass(frozen=True)
class Job:
    """Something to time: what to run, over how many clips, and what to count in its place (by default the same)."""

    run: Callable[[], object]
    clips: int
    counted: Callable[[], object] | None = None
    training: bool = False


def report(best: float, jobs: dict[str, Job], rounds: int = 3) -> dict[str, float]:
    """Print the jobs' speed, and their share of the best rate and of their own layers'; answers seconds a clip.

    A job and its layers alone run in turn, as a machine is not always as fast: the share is the median over rounds, the
    speeds are the best round's.
    """
    print(
        f"{'clips of 8 frames':32}{'clips/s':>9}{'GFLOP/clip':>12}{'GFLOP/s':>9}{'of best':>9}"
        f"{'own layers':>12}{'of own':>8}"
    )
    took = {}
    for name, job in jobs.items():
        alone, work = Alone(layers_of(job.run), job.training), operations(job.counted or job.run)
        turns = [(seconds(job.run, 1, warm=turn == 0), seconds(alone, 1, warm=turn == 0)) for turn in range(rounds)]
        share = median((work / whole) / (alone.work / layers) for whole, layers in turns)
        fastest, own = (min(times) for times in zip(*turns, strict=True))
        took[name] = fastest / job.clips
        print(
            f"{name:32}{job.clips / fastest:9.2f}{work / job.clips / 1e9:12.1f}{work / fastest / 1e9:9.0f}"
            f"{work / fastest / best:9.0%}{alone.work / own / 1e9:12.0f}{share:8.0%}"
        )
    return took


def embedded(best: float) -> None:
    """The models that ship and that the demo trains."""
    play = samples.coinrun()
    clips = Clips(play)
    clip = clips.batch(clips.draw(0, 0, 16))
    prior = pixel_unet.load("procgen")
    adapter, trainable = AVID(Remembering(prior, 1), num_actions=15), PixelUNet(prior.settings)
    sampler = partial(sampling.dpm_solver_pp_2m, pairs=sampling.pairs(prior.schedule, STEPS), clamp=(-1.0, 1.0))
    noise = sampling.start_noise(tuple(clip.video.shape[1:]), 0, range(16))
    of_prior, of_adapter = (frames_task(model, prior.schedule, seed=0) for model in (trainable, adapter))
    report(
        best,
        {
            "prior, forward": Job(partial(ask, prior, clip, prior), 16),
            "prior, training step": Job(Train(of_prior, clip), 16, training=True),
            "AVID pair, forward": Job(partial(ask, adapter, clip, prior), 16),
            f"AVID pair, {PASSES} training steps": Job(Train(of_adapter, clip, PASSES), 16 * PASSES, training=True),
            f"AVID pair, sampling in {STEPS} steps": Job(lambda: sampler(adapter, noise, clip.given), 16),
        },
    )


def world_models(best: float, counts: Sequence[int], *, compiled: bool = False) -> None:
    """Steps of so many imagined environments, by networks as they are or compiled, which takes a C++ compiler."""
    play, prior = samples.coinrun(), pixel_unet.load("procgen")
    adapter = AVID(prior, num_actions=15).eval()
    sampler = partial(sampling.dpm_solver_pp_2m, pairs=sampling.pairs(prior.schedule, STEPS), clamp=(-1.0, 1.0))
    frames = np.stack([play.episode(number)[0][: prior.num_context] for number in range(len(play))])
    steps, how = [], ", compiled" if compiled else ""
    for copies in counts:
        world = WorldModel(adapter, prior, sampler, frames, num_envs=copies, num_actions=15)
        world.reset(seed=0)
        steps.append(partial(world.step, np.full(copies, 7)))
    work = [operations(step) for step in steps]
    for network in (prior.network, adapter.network) if compiled else ():
        compile_frozen(network)
    for copies, step, done in zip(counts, steps, work, strict=True):
        took = seconds(step, 20)
        print(
            f"world model, {copies} environment(s), {STEPS} steps{how}: {copies / took:.1f} frames/s, "
            f"{done / copies / 1e9:.1f} GFLOP a frame, {done / took / best:.0%} of best"
        )


def compositions(batch: int = 8, rounds: int = 12) -> None:
    """What composing costs beyond the networks that are called: belief by belief, the context encoded before.

    Both are timed in turn, and the median counts, as a machine is not always as fast.
    """
    clips = Clips(samples.coinrun())
    given, prior = clips.batch(clips.draw(0, 0, batch)).given, pixel_unet.load("procgen")
    expert = FromScratch(prior, num_actions=15).eval()
    classifier = ActionClassifier(prior, num_actions=15).eval()
    twice = stack([given, given.without("actions")])
    noisy = torch.randn(batch, prior.num_frames, *prior.frame_shape)
    level = prior.schedule.level(torch.full((batch,), prior.schedule.num_levels // 2))
    ask_prior, ask_expert, ask_both = prior.bind(given), expert.bind(given), expert.bind(twice)

    def gradient() -> Tensor:
        with torch.enable_grad():
            point = noisy.clone().requires_grad_(True)
            return torch.autograd.grad(classifier.log_likelihood(point, level, given).sum(), point)[0]

    def both() -> object:
        return ask_both(*repeated(noisy, level, 2))

    def alone() -> object:
        return ask_prior(noisy, level)

    cases: Cases = {
        "product of experts": (product_of_experts(prior, expert, 0.5), (alone, lambda: ask_expert(noisy, level))),
        "action guidance": (action_guidance(prior, expert, 1.0), (alone, both)),
        "classifier-free guidance": (classifier_free_guidance(expert, 2.0), (both,)),
        "classifier guidance": (ClassifierGuidance(prior, classifier, 1.0), (alone, gradient)),
    }
    compare(cases, given, noisy, level, rounds)


def adaptations(batch: int = 8, rounds: int = 12) -> None:
    """As `compositions`, of three voices that hear a text: a prior of the tabletop's size, and a small in-domain model."""
    prior, clips = PixelUNet(TABLETOP).frozen(), Clips(samples.coinrun(), num_context=TABLETOP.num_context)
    small = TRAININGS["in-domain"].made(prior).eval()
    text = torch.randn(batch, NUM_TOKENS, MiniLM.dim)
    given = replace(clips.batch(clips.draw(0, 0, batch)).given.without("actions"), text=text)
    noisy = torch.randn(batch, prior.num_frames, *prior.frame_shape)
    level = prior.schedule.level(torch.full((batch,), prior.schedule.num_levels // 2))
    twice = stack([given.without("text"), given])
    once, both = ([model.bind(known) for model in (small, prior)] for known in (given, twice))

    def networks(guided: int, other: int) -> tuple[Callable[[], object], ...]:
        return lambda: both[guided](*repeated(noisy, level, 2)), lambda: once[other](noisy, level)

    standard = probabilistic_adaptation(small, prior, guidance=2.5, prior_strength=0.1, normalise=True)
    inverse = inverse_probabilistic_adaptation(small, prior, guidance=2.5, in_domain_strength=0.5, normalise=True)
    cases: Cases = {
        "probabilistic adaptation": (standard, networks(0, 1)),
        "inverse probabilistic adaptation": (inverse, networks(1, 0)),
    }
    compare(cases, given, noisy, level, rounds)


Cases = dict[str, tuple[Denoiser, tuple[Callable[[], object], ...]]]
"""Compositions by name, and the calls of networks that each is made of."""


def compare(cases: Cases, given: Conditioning, noisy: Tensor, level: NoiseLevel, rounds: int) -> None:
    """Print what each composition costs beyond its networks."""
    for name, (composed, networks) in cases.items():
        ask, turns = composed.bind(given), []
        with torch.no_grad():
            for turn in range(rounds):
                whole, *parts = (seconds(run, 1, warm=turn == 0) for run in (partial(ask, noisy, level), *networks))
                turns.append((whole / sum(parts), whole, sum(parts)))
        share, whole, called = (median(figures) for figures in zip(*turns, strict=True))
        print(f"{name:32}{whole * 1e3:7.1f} ms, its networks {called * 1e3:7.1f} ms: {share - 1:+.1%}")


def of_the_papers_size(best: float, batch: int = 4) -> None:
    """AVID's 22M adapter on its 92M base, with random weights, and the same in the layout of its public code."""
    clips = Clips(samples.coinrun())
    clip = clips.batch(clips.draw(0, 0, batch))
    sizes = {"width": 100, "heads": 8, "head_dim": 64}
    base = PixelUNet(PixelUNetSettings("avid_unet", sizes, schedule="sigmoid", num_levels=200)).frozen()
    adapter = AVID(base, model="avid_unet", num_actions=15, mask_bias=0.0)
    task = DenoisingLoss(adapter, base.schedule, loss=clean_loss)
    public, frozen = adapter.network, AvidUNet3D(**sizes)
    video, step, actions = torch.randn(batch, 8, 9, 64, 64), torch.full((batch,), 100), clip.given.actions
    assert actions is not None  # recorded clips have them

    def answer_in_the_public_layout(base_with_gradients: bool = False) -> tuple[Tensor, Tensor]:
        with torch.set_grad_enabled(base_with_gradients):
            prior, _ = public_layout.answer(frozen, video, step, actions)
        return public_layout.answer(public, torch.cat([video, prior.detach()], dim=2), step, actions)

    def step_in_the_public_layout(base_with_gradients: bool = False) -> None:
        answer, mask = answer_in_the_public_layout(base_with_gradients)
        (answer.square().mean() + mask.mean()).backward()
        public.zero_grad()

    # Counted in the public layout: our own spends some more operations to save time.
    forward = Job(partial(ask, adapter, clip, base), batch, torch.no_grad()(answer_in_the_public_layout))
    training = Job(Train(task, clip), batch, step_in_the_public_layout, training=True)
    found = report(best, {"AVID-22M pair, forward": forward, "AVID-22M pair, training step": training}, rounds=2)
    took = seconds(partial(step_in_the_public_layout, True), 1, warm=False)  # its code keeps the base's graph, too
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
    world_models(best, (1, 8))
    compositions()
    adaptations()
    of_the_papers_size(best)
    world_models(best, (1,), compiled=True)  # last, as not every machine has a C++ compiler


if __name__ == "__main__":
    main()
