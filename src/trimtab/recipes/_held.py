"""Held-out clips, and how a model is asked about them; knows no method, and not what the clips show."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from trimtab.core.contracts import Denoiser, Prior
from trimtab.core.values import Clip, Conditioning, Video
from trimtab.data.clips import Clips
from trimtab.diffusion import sampling
from trimtab.diffusion.losses import DenoisingLoss
from trimtab.priors.pixel_unet import PixelFrames


@dataclass(frozen=True)
class Held:
    """Held-out clips that everything is measured on.

    Attributes:
        indices: their numbers.
        clip: their videos, and what a model is told of each.
        context: the frames before, of which a judge may see more than a model.
        actions: that led to each frame.
        levels: the level of each, resampled as a whole.
    """

    indices: np.ndarray
    clip: Clip
    context: Video
    actions: Tensor
    levels: Tensor

    @classmethod
    def of(cls, clips: Clips, indices: np.ndarray, num_told: int | None = None) -> Held:
        """The windows with these numbers; a model is told the last `num_told` frames of their context, or all."""
        clip = clips.batch(indices)
        context, actions = clip.given.context, clip.given.actions
        assert context is not None
        assert actions is not None  # every recorded clip has both
        if num_told is not None:
            clip = replace(clip, given=replace(clip.given, context=context[:, -num_told:]))
        return cls(indices, clip, context, actions, torch.from_numpy(clips.levels(indices)))

    @property
    def told(self) -> Video:
        """The context that a model is told."""
        assert self.clip.given.context is not None
        return self.clip.given.context

    @property
    def texts(self) -> Tensor:
        """The texts of the clips, (clip, token, feature)."""
        return self.clip.given.facts()["text"]

    @property
    def recordings(self) -> Int[Tensor, " clip"]:
        """The episode of each clip, which is of one level, or start state, and has one text."""
        kinds, which = torch.unique(self.texts, dim=0, return_inverse=True)
        return self.levels * len(kinds) + which

    def part(self, first: int, size: int) -> Clip:
        """Some of the clips."""
        choose = itemgetter(slice(first, first + size))
        return Clip(choose(self.clip.video), self.clip.given.map(choose))


def device() -> torch.device:
    """Where models are asked: on a GPU, if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def moved(denoiser: Denoiser) -> Iterator[torch.device]:
    """A denoiser on `device()` for the time, and where to ask it: there, or if it has no modules, on the CPU."""
    modules = modules_of(denoiser)
    place = device() if modules else torch.device("cpu")
    homes = [(module, first.device) for module in modules for first in islice(module.parameters(), 1)]
    away = [(module, home) for module, home in homes if home != place]
    try:
        for module, _ in away:
            module.to(place)
        yield place
    finally:
        for module, home in away:
            module.to(home)


def modules_of(denoiser: Any) -> list[nn.Module]:
    """What of a denoiser can be moved: itself, or the voices that it is made of."""
    if isinstance(denoiser, nn.Module):
        return [denoiser]
    voices = [getattr(voice, "denoiser", voice) for voice in getattr(denoiser, "voices", ())]
    return [module for voice in voices for module in modules_of(voice)]


@torch.no_grad()
def held_out_loss(model: Denoiser, prior: Prior, held: Held, num_draws: int = 1, batch_size: int = 32) -> Tensor:
    """The velocity loss on each held-out clip, (clip,), the same noise for every model, averaged over draws."""
    task = DenoisingLoss(model, prior.schedule, seed=12345, codec=prior.codec, departing=False)
    total = torch.zeros(len(held.indices))
    with moved(model) as place:
        for first in range(0, len(held.indices), batch_size):
            clip, samples = held.part(first, batch_size).to(place), held.indices[first : first + batch_size].tolist()
            for draw in range(num_draws):
                total[first : first + batch_size] += task(clip, step=draw, samples=samples).cpu()
    return total / num_draws


def mean_loss(model: Denoiser, prior: Prior, held: Held) -> dict[str, float]:
    """One figure for the curve."""
    return {"held_out_loss": held_out_loss(model, prior, held).mean().item()}


def sampler(
    prior: Prior, num_steps: int, sample: Callable[..., Video] = sampling.dpm_solver_pp_2m
) -> Callable[..., Video]:
    """From noise to a clip in `num_steps` calls of the denoiser: ``sample(denoiser, noise, given)``.

    What is believed of frames is clamped to -1 .. 1, of latents it is not. The denoiser is asked on `device()`, and the clip
    is where the noise was.
    """
    return partial(sampled, sample, pairs=sampling.pairs(prior.schedule, num_steps), clamp=clamp_of(prior))


def clamp_of(prior: Prior) -> tuple[float, float] | None:
    """Between which what is believed of frames is kept; latents have none."""
    return (-1.0, 1.0) if prior.codec.space == PixelFrames.space else None


def sampled(
    sample: Callable[..., Video], denoiser: Denoiser, noise: Video, given: Conditioning, **options: Any
) -> Video:
    """``sample(denoiser, noise, given, **options)`` on `device()`; the video is where the noise was."""
    with moved(denoiser) as place:
        return sample(denoiser, noise.to(place), given.map(lambda value: value.to(place)), **options).to(noise.device)


def to_bytes(video: Video) -> Tensor:
    """Frames as they are stored, uint8, rounded."""
    return ((video.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def from_bytes(stored: Tensor) -> Video:
    return stored.float() / 127.5 - 1
