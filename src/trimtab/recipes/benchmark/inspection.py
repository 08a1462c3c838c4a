"""Asks a model about held-out clips whether it listens to its actions, and AVID where it trusts its prior."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter

import torch
from rich.progress import track
from torch import Tensor
from torch.nn import functional

from trimtab.adapters.avid import AVID
from trimtab.core.contracts import Denoiser, Prior
from trimtab.core.values import Conditioning, Video
from trimtab.diffusion import sampling
from trimtab.diffusion.losses import encoded, known_in
from trimtab.diffusion.noise import gaussian_noise
from trimtab.metrics.actions import JudgeFile
from trimtab.metrics.listening import Listening, measure_listening, under_every_action, under_every_dimension
from trimtab.metrics.masks import MaskStatistics, mask_statistics, moving_places
from trimtab.recipes._held import Held, from_bytes, moved, sampler, to_bytes

CHUNK = 16
"""Clips that are imagined together."""

NUM_ASKED = 64
"""Clips that are enough for both."""

MASK_LEVELS = (0.05, 0.2, 0.4, 0.6, 0.8, 0.95)
"""Of the schedule, from nearly clean to nearly pure noise."""


@dataclass(frozen=True)
class Imaginer:
    """What is known of some held-out clips -> their videos, as stored, from noise that is theirs, whatever is known.

    Attributes:
        denoiser: whose videos.
        prior: whose schedule to walk down.
        held: all clips.
        num_steps: of sampling.
        sample: of `diffusion/sampling.py`.
        seed: of the noise.
    """

    denoiser: Denoiser
    prior: Prior
    held: Held
    num_steps: int
    sample: Callable[..., Video] = sampling.dpm_solver_pp_2m
    seed: int = 0

    def __call__(self, given: Conditioning, first: int = 0) -> Video:
        """Of the clips from the `first` on, as many as the context has."""
        assert given.context is not None  # every recorded clip has it
        numbers = self.held.indices[first : first + len(given.context)].tolist()
        codec, length = self.prior.codec, self.held.clip.video.shape[1]
        noise = sampling.start_noise((length, *self.prior.frame_shape), self.seed, numbers)
        sample = sampler(self.prior, self.num_steps, self.sample)
        video = sample(self.denoiser, noise, known_in(given, codec), samples=numbers)
        return from_bytes(to_bytes(codec.decode(video)))

    def all(self) -> Video:
        """All held-out clips, under what really is known."""
        given, firsts = self.held.clip.given, range(0, len(self.held.indices), CHUNK)
        parts = [
            self(given.map(itemgetter(slice(first, first + CHUNK))), first) for first in track(firsts, "imagining")
        ]
        return torch.cat(parts)


def listening_of(
    imagine: Imaginer, idle: int | Tensor, effects: Sequence[int] | None, judge_file: JudgeFile | None
) -> Listening:
    """Whether it listens, by a few of the held-out clips; the judge is asked about discrete actions alone."""
    held = imagine.held
    return measure_listening(
        imagine, held.part(0, NUM_ASKED), held.levels[:NUM_ASKED], idle=idle, effects=effects,
        judge_file=judge_file if isinstance(idle, int) else None, chunk=CHUNK,
    )  # fmt: skip


def under_every(imagine: Imaginer, idle: int | Tensor, num_actions: int) -> list[Video]:
    """The first clip's start under each discrete action; of vectors, each number in turn a deviation below and above."""
    held, start = imagine.held, imagine.held.told[:1]
    if isinstance(idle, int):
        return [*under_every_action(imagine, start, num_actions, held.clip.video.shape[1]).values()]
    deviation = held.actions.flatten(0, 1).std(0)
    return [*under_every_dimension(imagine, start, deviation, held.clip.video.shape[1], idle=idle).values()]


@torch.no_grad()
def masks_of(avid: AVID, prior: Prior, held: Held) -> MaskStatistics:
    """The masks on a few held-out clips, at noise levels from nearly clean to nearly pure noise."""
    frames, numbers, masks = held.part(0, NUM_ASKED), held.indices[:NUM_ASKED], dict[float, list[Tensor]]()
    with moved(avid) as place:
        for first in range(0, len(numbers), CHUNK):
            samples = numbers[first : first + CHUNK].tolist()
            clip = encoded(held.part(first, len(samples)).to(place), prior.codec)
            noise = gaussian_noise(tuple(clip.video.shape[1:]), seed=0, step=0, samples=samples, device=place)
            believe = avid.believe(clip.given)
            for share in MASK_LEVELS:
                index = torch.full((len(samples),), round(share * (prior.schedule.num_levels - 1)), device=place)
                level = prior.schedule.level(index)
                mask = believe(level.add_noise(clip.video, noise), level).mask
                assert mask is not None  # this AVID learned one
                masks.setdefault(float(level.angle[0]) / (math.pi / 2), []).append(mask.cpu())
    found = {share: torch.cat(parts) for share, parts in masks.items()}
    moving = moving_places(frames.video, frames.given.facts()["context"])
    sides = next(iter(found.values())).shape[-2:]
    moving = functional.adaptive_max_pool2d(moving.flatten(0, 1).float(), sides).unflatten(0, moving.shape[:2]) > 0
    return mask_statistics(found, moving, held.levels[:NUM_ASKED])
