"""Samplers, from noise to a video, as plain functions; they know a denoiser's belief, and no model, method or frame.

Each walks down pairs of noise levels, asks the denoiser what is clean and what is noise, and takes one small step.
Nothing is remembered between calls, and no step looks at a tensor's values.

All noise may be scaled by a temperature, 0 to 1: samples of a Gaussian then deviate from its mean as much less, and at 0
there is one sample. Probabilistic adaptation was proposed with low temperatures (Yang et al., arXiv 2306.01872); the code of
Adapt2Act (arXiv 2504.15369) samples at 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from trimtab.core.contracts import BoundDenoiser, Denoiser, NoiseSchedule
from trimtab.core.values import Conditioning, NoiseLevel, Prediction, Video
from trimtab.diffusion.noise import gaussian_noise


@dataclass(frozen=True)
class Level:
    """A noise level shared by a whole batch, as two numbers; `index` is its place in the schedule, None if clean."""

    alpha: float
    sigma: float
    index: int | None
    may_be_pure: bool

    def of(self, video: Video) -> NoiseLevel:
        """The level of each sample of a batch."""
        alpha, sigma = (video.new_full((len(video),), value, dtype=torch.float32) for value in (self.alpha, self.sigma))
        return NoiseLevel(alpha, sigma, self.may_be_pure)


Step = tuple[Level, Level]
"""From a noisier level to a cleaner one."""

Clamp = tuple[float, float]

Progress = Callable[[Sequence[Step]], Iterable[Step]]
"""Wraps the steps to show progress, as `tqdm.tqdm` or `rich.progress.track` do."""


def pairs(
    schedule: NoiseSchedule,
    num_steps: int,
    *,
    spacing: Literal["leading", "trailing", "linspace"] = "trailing",
    to_clean: bool = True,
) -> list[Step]:
    """The steps of a sampler, from noisy to clean.

    Args:
        schedule: whose levels to visit.
        num_steps: how many, at most `schedule.num_levels`.
        spacing: as in table 2 of arXiv 2305.08891. "trailing" starts at the noisiest level, as the start noise demands;
            "linspace" visits both ends; "leading" starts num_levels / num_steps levels below the noisiest.
        to_clean: end at alpha = 1, sigma = 0; False ends at the schedule's first level.

    Raises:
        ValueError: `num_steps` or `spacing` is not one of the above.
    """
    count = schedule.num_levels
    if not 1 <= num_steps <= count:
        raise ValueError(f"num_steps must be 1 .. {count}, the levels of schedule {schedule.name!r}, got {num_steps}")
    if spacing == "trailing":
        indices = [round(count - k * count / num_steps) - 1 for k in range(num_steps)]
    elif spacing == "leading":
        indices = [k * (count // num_steps) for k in reversed(range(num_steps))]
    elif spacing == "linspace":
        indices = [round(count - 1 - k * (count - 1) / max(num_steps - 1, 1)) for k in range(num_steps)]
    else:
        raise ValueError(f"spacing is 'leading', 'trailing' or 'linspace', got {spacing!r}")
    alphas, sigmas, pure = schedule.alphas.tolist(), schedule.sigmas.tolist(), schedule.may_be_pure
    visited = [Level(alphas[i], sigmas[i], i, pure) for i in indices]
    last = Level(1.0, 0.0, None, pure) if to_clean else Level(alphas[0], sigmas[0], 0, pure)
    return list(zip(visited, [*visited[1:], last], strict=True))


def start_noise(
    shape: tuple[int, ...],
    seed: int,
    samples: Sequence[int] | Tensor,
    *,
    first: Level | None = None,
    temperature: float = 1.0,
    device: torch.device | str = "cpu",
) -> Video:
    """The noise that sampling starts from, (sample, *shape) float32.

    Args:
        shape: of one video, (time, channel, height, width).
        seed: of the run.
        samples: the index of each video.
        first: the level to start at, `pairs[0][0]`, whose sigma scales the noise; without it the variance is one.
        temperature: the noise is scaled by it, 0 to 1; a stochastic sampler is told the same.
        device: where the answer lives.

    Raises:
        ValueError: the temperature is out of range.
    """
    noise = gaussian_noise(shape, seed=seed, step=0, samples=samples, device=device, purpose="start")
    return known_temperature(temperature) * (noise if first is None else first.sigma * noise)


@torch.no_grad()
def ancestral(
    denoiser: Denoiser,
    start: Video,
    given: Conditioning,
    *,
    pairs: Sequence[Step],
    clamp: Clamp | None = None,
    seed: int = 0,
    samples: Sequence[int] | Tensor | None = None,
    temperature: float = 1.0,
    progress: Progress | None = None,
) -> Video:
    """Draws from the posterior of each cleaner level (DDPM: Ho et al., arXiv 2006.11239); stochastic.

    Args:
        denoiser: whose belief to follow.
        start: noise at the first level, float32 (batch, time, channel, height, width).
        given: what is known.
        pairs: the steps, from `pairs()`.
        clamp: limits of the believed clean video, such as (-1, 1); None for latents.
        seed: of the noise of each step.
        samples: the index of each video, which decides its noise; by default its place in the batch.
        temperature: the noise of each step is scaled by it, 0 to 1; that of the start should be, too.
        progress: wraps the steps to show progress.

    Returns:
        The video at the last level of `pairs`.

    Raises:
        ValueError: the start is not float32; the temperature is out of range; a clamp is asked of a combination whose
            weights do not sum to one; or a noise prediction is asked for at alpha = 0.
    """
    denoise, video, warmth = denoiser.bind(given), checked(start), known_temperature(temperature)
    for number, (here, there) in enumerate(progress(pairs) if progress else pairs):
        belief = believe(denoise, video, here, clamp)
        video = posterior_mean(video, belief, here, there)
        if there.sigma > 0:
            deviation = warmth * math.sqrt(max(posterior_variance(here, there), 1e-20))
            video = video + deviation * step_noise(video, seed, number, samples)
    return video


@torch.no_grad()
def ddim(
    denoiser: Denoiser,
    start: Video,
    given: Conditioning,
    *,
    pairs: Sequence[Step],
    eta: float = 0.0,
    clamp: Clamp | None = None,
    seed: int = 0,
    samples: Sequence[int] | Tensor | None = None,
    temperature: float = 1.0,
    progress: Progress | None = None,
) -> Video:
    """Moves the believed clean video and noise to each cleaner level (Song et al., arXiv 2010.02502).

    Deterministic at `eta` = 0, distributed as `ancestral` at 1. With a clamp the noise is the one that agrees with the
    clamped video. The other arguments, the answer and the errors are those of `ancestral`.
    """
    denoise, video, warmth = denoiser.bind(given), checked(start), known_temperature(temperature)
    for number, (here, there) in enumerate(progress(pairs) if progress else pairs):
        belief = believe(denoise, video, here, clamp)
        variance = eta**2 * posterior_variance(here, there)
        video = there.alpha * belief.clean + math.sqrt(max(there.sigma**2 - variance, 0.0)) * belief.noise
        if variance > 0:
            video = video + warmth * math.sqrt(variance) * step_noise(video, seed, number, samples)
    return video


@torch.no_grad()
def dpm_solver_pp_2m(
    denoiser: Denoiser,
    start: Video,
    given: Conditioning,
    *,
    pairs: Sequence[Step],
    clamp: Clamp | None = None,
    seed: int = 0,
    samples: Sequence[int] | Tensor | None = None,
    progress: Progress | None = None,
) -> Video:
    """DPM-Solver++ of second order, multistep, midpoint (Lu et al., arXiv 2211.01095); deterministic.

    The first step, and the step to a clean video, where log(alpha / sigma) is infinite, are of first order. The
    arguments, the answer and the errors are those of `ancestral`; as it draws no noise, `seed` and `samples` change
    nothing.
    """
    denoise, video = denoiser.bind(given), checked(start)
    earlier: tuple[Video, float] | None = None
    for here, there in progress(pairs) if progress else pairs:
        clean = believe(denoise, video, here, clamp).clean
        stride = half_log_snr(there) - half_log_snr(here)
        ahead = clean
        if earlier is not None and there.sigma > 0:
            previous, previous_stride = earlier
            ahead = clean + 0.5 * stride / previous_stride * (clean - previous)
        video = there.sigma / here.sigma * video - there.alpha * math.expm1(-stride) * ahead
        earlier = clean, stride
    return video


@torch.no_grad()
def euler_flow(
    denoiser: Denoiser,
    start: Video,
    given: Conditioning,
    *,
    pairs: Sequence[Step],
    clamp: Clamp | None = None,
    seed: int = 0,
    samples: Sequence[int] | Tensor | None = None,
    progress: Progress | None = None,
) -> Video:
    """Euler steps along the flow, noise - clean (rectified flow: Liu et al., arXiv 2209.03003); deterministic.

    On a schedule that is no straight path the video is first divided by alpha + sigma, which makes it one. The step is
    that of `ddim`, in the terms of flow models. The arguments, the answer and the errors are those of `ancestral`; as it
    draws no noise, `seed` and `samples` change nothing.
    """
    denoise, video = denoiser.bind(given), checked(start)
    for here, there in progress(pairs) if progress else pairs:
        flow = believe(denoise, video, here, clamp).flow
        before, after = here.alpha + here.sigma, there.alpha + there.sigma
        video = after * (video / before + (there.sigma / after - here.sigma / before) * flow)
    return video


def believe(denoise: BoundDenoiser, video: Video, here: Level, clamp: Clamp | None) -> Prediction:
    """The denoiser's belief about a video at a level, its clean video clamped if asked."""
    belief = denoise(video, here.of(video))
    if here.alpha == 0 and belief.kind == "noise":
        raise ValueError(
            "a noise prediction says nothing about the clean video at alpha = 0, where this schedule starts; use a "
            "model that predicts velocity, flow or the clean video, or a schedule that does not reach pure noise"
        )
    if clamp is None:
        return belief
    if not belief.weights_sum_to_one:
        raise ValueError(
            "a clamp would destroy a combination whose weights do not sum to one; pass clamp=None, or combine with "
            "normalise=True"
        )
    return replace(belief, tensor=belief.clean.clamp(*clamp), kind="clean")


def posterior_mean(video: Video, belief: Prediction, here: Level, there: Level) -> Video:
    """The mean of the video at a cleaner level, given the video and its clean video (DDPM, equation 7)."""
    ratio = here.alpha / there.alpha
    added = here.sigma**2 - (ratio * there.sigma) ** 2
    return (ratio * there.sigma**2 * video + there.alpha * added * belief.clean) / here.sigma**2


def posterior_variance(here: Level, there: Level) -> float:
    """The variance around `posterior_mean`; what was added on the way from there to here, seen from there."""
    added = here.sigma**2 - (here.alpha / there.alpha * there.sigma) ** 2
    return added * there.sigma**2 / here.sigma**2


def half_log_snr(level: Level) -> float:
    """log(alpha / sigma), minus infinity at pure noise and infinity for a clean video."""
    if level.alpha == 0 or level.sigma == 0:
        return math.inf if level.sigma == 0 else -math.inf
    return math.log(level.alpha / level.sigma)


def step_noise(video: Video, seed: int, number: int, samples: Sequence[int] | Tensor | None) -> Video:
    """The noise of one step."""
    indices = range(len(video)) if samples is None else samples
    if len(indices) != len(video):
        raise ValueError(f"one sample index a video is needed, got {len(indices)} for a batch of {len(video)}")
    return gaussian_noise(
        tuple(video.shape[1:]), seed=seed, step=number, samples=indices, device=video.device, purpose="sampling"
    )


def known_temperature(temperature: float) -> float:
    """The temperature, if it has sense."""
    if not 0 <= temperature <= 1:
        raise ValueError(f"a temperature is 0 (one sample) to 1 (the model's own), got {temperature}")
    return temperature


def checked(start: Video) -> Video:
    """The start noise, if it is float32, the precision that steps are taken in."""
    if start.dtype != torch.float32:
        raise ValueError(f"sampling starts from float32 noise, got {start.dtype}; the denoiser may compute in less")
    return start
