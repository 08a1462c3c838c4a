"""Recorded coinrun, split by levels, and how a model is asked about it; knows no method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from trimtab.core.contracts import Denoiser
from trimtab.core.values import Clip, Video
from trimtab.data.clips import Clips
from trimtab.diffusion import sampling
from trimtab.diffusion.losses import DenoisingLoss
from trimtab.priors.pixel_unet import PixelUNet
from trimtab.recipes.record_procgen import procgen_episodes

Policy = Literal["sticky", "uniform"]

TRAINING_LEVELS, VALIDATION_LEVELS, TEST_LEVELS = "0-499", "5000-5499", "10000-10999"
"""Weights are learned on the first, what is chosen is chosen on the second, and figures are made on the third."""


@dataclass(frozen=True)
class Held:
    """Held-out clips that everything is measured on: their numbers, their parts, and the level of each."""

    indices: np.ndarray
    clip: Clip
    context: Video
    actions: Tensor
    levels: Tensor

    @classmethod
    def of(cls, clips: Clips, indices: np.ndarray) -> Held:
        clip = clips.batch(indices)
        assert clip.given.context is not None
        assert clip.given.actions is not None  # every recorded clip has both
        return cls(indices, clip, clip.given.context, clip.given.actions, torch.from_numpy(clips.levels(indices)))

    def part(self, first: int, size: int) -> Clip:
        """Some of the clips."""
        choose = itemgetter(slice(first, first + size))
        return Clip(choose(self.clip.video), self.clip.given.map(choose))


def training_clips(prior: PixelUNet, num_frames: int, datasets: Path, policy: Policy = "sticky") -> Clips:
    """Recorded coinrun, levels 0-499."""
    folder = datasets / (f"coinrun-train-{num_frames}" + ("" if policy == "sticky" else f"-{policy}"))
    episodes = procgen_episodes(num_levels=500, num_frames=num_frames, policy=policy, output=folder)
    return Clips(episodes, prior.num_context, prior.num_frames)


def held_out(prior: PixelUNet, num_clips: int, datasets: Path) -> Held:
    """Clips of levels 10000-10999, one a level up to `MANY`, the same every time. Nothing is trained or chosen on them."""
    return _held(prior, num_clips, datasets / "coinrun-test", first_level=10_000, num_levels=1000, seed=1)


def validation(prior: PixelUNet, num_clips: int, datasets: Path) -> Held:
    """Clips of levels 5000-5499, to choose weights, scales and rates on."""
    return _held(prior, num_clips, datasets / "coinrun-validation", first_level=5000, num_levels=500, seed=2)


MANY = 256
"""More held-out clips than this are of a larger set of their own, with up to four of a level."""


def _held(prior: PixelUNet, num_clips: int, folder: Path, *, first_level: int, num_levels: int, seed: int) -> Held:
    many = num_clips > MANY
    episodes = procgen_episodes(
        first_level=first_level, num_levels=num_levels, num_frames=96 * num_clips if many else 24_000,
        max_episode_frames=48, seed=seed, output=folder.with_name(f"{folder.name}-{num_clips}") if many else folder,
    )  # fmt: skip
    clips = Clips(episodes, prior.num_context, prior.num_frames)
    return Held.of(clips, clips.evenly(num_clips, per_level=4 if many else 1))


@torch.no_grad()
def held_out_loss(model: Denoiser, prior: PixelUNet, held: Held, num_draws: int = 1, batch_size: int = 32) -> Tensor:
    """The velocity loss on each held-out clip, (clip,), the same noise for every model, averaged over draws."""
    task = DenoisingLoss(model, prior.schedule, seed=12345)
    total = torch.zeros(len(held.indices))
    for first in range(0, len(held.indices), batch_size):
        clip, samples = held.part(first, batch_size), held.indices[first : first + batch_size].tolist()
        for draw in range(num_draws):
            total[first : first + batch_size] += task(clip, step=draw, samples=samples)
    return total / num_draws


def mean_loss(model: Denoiser, prior: PixelUNet, held: Held) -> dict[str, float]:
    """One figure for the curve."""
    return {"held_out_loss": held_out_loss(model, prior, held).mean().item()}


def sampler(prior: PixelUNet, num_steps: int, *, ancestral: bool = False) -> Callable[..., Video]:
    """From noise to a clip in `num_steps` calls of the denoiser: ``sample(denoiser, noise, given)``.

    An ancestral one also takes the numbers of the clips, `samples`, which decide the noise of its steps.
    """
    steps = sampling.pairs(prior.schedule, num_steps)
    return partial(sampling.ancestral if ancestral else sampling.dpm_solver_pp_2m, pairs=steps, clamp=(-1.0, 1.0))


def to_bytes(video: Video) -> Tensor:
    """Frames as they are stored, uint8, rounded."""
    return ((video.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def from_bytes(stored: Tensor) -> Video:
    return stored.float() / 127.5 - 1
