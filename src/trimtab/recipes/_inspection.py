"""Asks a model about held-out coinrun clips whether it listens to its actions, and AVID where it trusts its prior."""

from __future__ import annotations

import math
from dataclasses import dataclass
from operator import itemgetter

import torch
from rich.progress import track
from torch import Tensor

from trimtab.adapters.avid import AVID
from trimtab.core.contracts import Denoiser
from trimtab.core.values import Conditioning, Video
from trimtab.diffusion import sampling
from trimtab.diffusion.noise import gaussian_noise
from trimtab.environments.procgen import COINRUN_EFFECTS
from trimtab.metrics.actions import COINRUN_JUDGE
from trimtab.metrics.listening import Listening, measure_listening
from trimtab.metrics.masks import MaskStatistics, mask_statistics, moving_places
from trimtab.priors.pixel_unet import PixelUNet
from trimtab.recipes._coinrun import Held, from_bytes, sampler, to_bytes

CHUNK = 16
"""Clips that are imagined together."""

IDLE = 4
"""The action that does nothing."""

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
        ancestral: whether they are ancestral, or of DPM-Solver++.
        seed: of the noise.
    """

    denoiser: Denoiser
    prior: PixelUNet
    held: Held
    num_steps: int
    ancestral: bool = False
    seed: int = 0

    def __call__(self, given: Conditioning, first: int = 0) -> Video:
        """Of the clips from the `first` on, as many as the context has."""
        assert given.context is not None  # every recorded clip has it
        numbers = self.held.indices[first : first + len(given.context)].tolist()
        noise = sampling.start_noise(tuple(self.held.clip.video.shape[1:]), self.seed, numbers)
        sample = sampler(self.prior, self.num_steps, ancestral=self.ancestral)
        more = {"samples": numbers} if self.ancestral else {}
        return from_bytes(to_bytes(sample(self.denoiser, noise, given, **more)))

    def all(self) -> Video:
        """All held-out clips, under what really is known."""
        given, firsts = self.held.clip.given, range(0, len(self.held.indices), CHUNK)
        parts = [
            self(given.map(itemgetter(slice(first, first + CHUNK))), first) for first in track(firsts, "imagining")
        ]
        return torch.cat(parts)


def listening_of(imagine: Imaginer) -> Listening:
    """Whether it listens, by a few of the held-out clips."""
    held = imagine.held
    return measure_listening(
        imagine, held.part(0, NUM_ASKED), held.levels[:NUM_ASKED], idle=IDLE, effects=COINRUN_EFFECTS,
        judge_file=COINRUN_JUDGE, chunk=CHUNK,
    )  # fmt: skip


@torch.no_grad()
def masks_of(avid: AVID, prior: PixelUNet, held: Held) -> MaskStatistics:
    """The masks on a few held-out clips, at noise levels from nearly clean to nearly pure noise."""
    clip, samples = held.part(0, NUM_ASKED), held.indices[:NUM_ASKED].tolist()
    noise = gaussian_noise(tuple(clip.video.shape[1:]), seed=0, step=0, samples=samples)
    believe, masks = avid.believe(clip.given), dict[float, Tensor]()
    for share in MASK_LEVELS:
        index = torch.full((len(clip.video),), round(share * (prior.schedule.num_levels - 1)))
        level = prior.schedule.level(index)
        mask = believe(level.add_noise(clip.video, noise), level).mask
        assert mask is not None  # this AVID learned one
        masks[float(level.angle[0]) / (math.pi / 2)] = mask
    return mask_statistics(masks, moving_places(clip.video, held.context[:NUM_ASKED]), held.levels[:NUM_ASKED])
