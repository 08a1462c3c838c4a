"""What a denoiser is trained to minimise; knows no model, and no more of a prediction than its clean and its noise.

A loss takes a prediction and the clean video and noise that its noisy video was made of, and answers one number a
sample, (batch,): the mean over time, channel and space.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from trimtab.core.companions import Accompanied
from trimtab.core.contracts import Codec, Denoiser, Mixing, NoiseSchedule
from trimtab.core.values import Clip, Conditioning, Fact, Prediction, Video
from trimtab.diffusion.noise import gaussian_noise, uniform_integers

Loss = Callable[[Prediction, Video, Video], Float[Tensor, " batch"]]


def noise_loss(prediction: Prediction, clean: Video, noise: Video) -> Float[Tensor, " batch"]:
    """Squared error of the noise (Ho et al., arXiv 2006.11239)."""
    return per_sample((prediction.noise - noise) ** 2)


def clean_loss(prediction: Prediction, clean: Video, noise: Video) -> Float[Tensor, " batch"]:
    """Squared error of the clean video times alpha^2 / sigma^2, not clipped, as AVID's pixel models are trained.

    It is the number that `noise_loss` gives; use that for noise predictions if the schedule reaches pure noise, where
    they have no clean video.
    """
    alpha, sigma = prediction.level.broadcast()
    return per_sample((alpha / sigma * (prediction.clean - clean)) ** 2)


def velocity_loss(prediction: Prediction, clean: Video, noise: Video) -> Float[Tensor, " batch"]:
    """Squared error of the velocity, alpha * noise - sigma * clean (Salimans and Ho, arXiv 2202.00512)."""
    alpha, sigma = prediction.level.broadcast()
    return per_sample((prediction.velocity - (alpha * noise - sigma * clean)) ** 2)


def change_loss(
    prediction: Prediction, clean: Video, noise: Video, deviation: float = 0.2, tail: float = 0.05, coarsest: int = 8
) -> Float[Tensor, " batch"]:
    """Pseudo-Huber error of the velocity, fine and coarse, weighted up where only the change is left to predict.

    A `FrameChange` network's share in the velocity is ``d / sqrt(alpha^2 d^2 + sigma^2)``, which falls from 1 at a clean
    video to d at pure noise. The squared error is divided by it: halfway between the plain velocity, which neglects the
    noisy levels where a clip takes shape, and the network's own answer, which neglects the rest.

    Changes have heavy tails: most pixels stay, a few jump. Squared errors hear the few alone, and leave haze where nothing
    moves. So an error counts ``sqrt(error^2 + tail^2) - tail``, squared when small and absolute when large (the loss of
    Song and Dhariwal, arXiv 2310.14189, section 3.3, pixel by pixel); what is learned lies between mean and median.

    The median of a small thing whose place is uncertain is that it is nowhere. So errors count as means over squares of
    2, 4, .. `coarsest` pixels too, times their side: there a thing in not quite its place is a small error, and a thing
    that is gone a large one.

    Args:
        prediction, clean, noise: as for every loss.
        deviation: the network's.
        tail: the error at which squares turn into absolute values.
        coarsest: side of the largest squares, a power of two; 1 for errors of pixels alone.
    """
    alpha, sigma = prediction.level.broadcast()
    share = deviation * torch.hypot(alpha, sigma) * torch.rsqrt((alpha * deviation) ** 2 + sigma**2)
    error = ((prediction.velocity - (alpha * noise - sigma * clean)) * share.rsqrt()).flatten(0, 1)
    sides = [2**power for power in range(min(coarsest, *error.shape[2:]).bit_length())]
    total = error.new_zeros(len(clean))
    for side in sides:
        mean = error if side == 1 else functional.avg_pool2d(error, side)
        loss = torch.sqrt(mean**2 + tail**2) - tail
        total = total + side * per_sample(loss.unflatten(0, clean.shape[:2]))
    return total / sum(sides)


@runtime_checkable
class Perceptual(Protocol):
    """Tells how different two clips look."""

    def distance(self, first: Video, second: Video) -> Float[Tensor, "batch time"]:
        """Of two clips, (batch, time, channel, height, width), a frame; differentiable."""


class Perceived(nn.Module):
    """A loss, and the perceptual distance of the predicted clean frames from the real ones.

    Errors of pixels do not say what is seen: of two clips as wrong in pixels, one may be blurred and one a little late.

    Args:
        loss: of pixels.
        perceptual: the distance.
        weight: of the distance, averaged over frames.
    """

    def __init__(self, loss: Loss, perceptual: Perceptual, weight: float) -> None:
        super().__init__()
        self.loss, self.perceptual, self.weight = loss, perceptual, weight

    def forward(self, prediction: Prediction, clean: Video, noise: Video) -> Float[Tensor, " batch"]:
        distance = self.perceptual.distance(prediction.clean, clean).mean(1)
        return self.loss(prediction, clean, noise) + self.weight * distance


def flow_loss(prediction: Prediction, clean: Video, noise: Video) -> Float[Tensor, " batch"]:
    """Squared error of the flow, noise - clean (Lipman et al., arXiv 2210.02747)."""
    return per_sample((prediction.flow - (noise - clean)) ** 2)


def min_snr_loss(prediction: Prediction, clean: Video, noise: Video, gamma: float = 5.0) -> Float[Tensor, " batch"]:
    """Squared error of the clean video times min(alpha^2 / sigma^2, gamma) (Hang et al., arXiv 2303.09556).

    Computed as the error of the noise times min(1, gamma * sigma^2 / alpha^2), which is finite at pure noise.
    """
    alpha, sigma = prediction.level.broadcast()
    return per_sample((gamma * (sigma / alpha) ** 2).clamp(max=1) * (prediction.noise - noise) ** 2)


def per_sample(errors: Video) -> Float[Tensor, " batch"]:
    return errors.flatten(1).mean(1)


class DenoisingLoss(Accompanied):
    """The loss of a denoiser on clips, at noise levels drawn at random.

    It is a module, so that what wraps modules (several processes, mixed precision) wraps the whole training step.

    Args:
        denoiser: what is trained; its parameters are found if it is an `nn.Module`.
        schedule: to draw noise levels from.
        loss: one of the losses of this file, or any function like them.
        seed: of the draws, which depend on (seed, step, sample) alone.
        codec: encodes the clip's frames and context first; without it clips are already in the denoiser's space.
        draws: a level is the noisiest of so many uniform draws. With 1 all are drawn alike; with more, the noisy ones more
            often, where a clip takes shape, and where it shows nothing yet of what the actions will do.
        own: a second loss, of what a mixing denoiser (AVID) itself believes; none in the paper. At first the prior knows
            better, and a mask that learns so shuts the adapter out before it has learned what only it is told; by this
            loss it learns as fast as without a prior.
        departing: whether the squared error of what a prediction departs from is added, where it tells that. Where much is
            still to be guessed a network learns to correct what it departs from before it learns to depart from something
            better; and one that copies learns what to copy by this alone. False to measure.
        forgotten: facts, and the share of clips from which each is withheld, so that the denoiser learns to answer untold,
            too (dropout for guidance; actions by 0.2 in AVID's baseline, text by 0.1 in arXiv 2504.15369).
        context_noise: the context gets Gaussian noise of a deviation drawn from 0 to this, clip by clip, so that the
            denoiser does not trust it to the last detail: in a long rollout it is its own.

    Raises:
        ValueError: a share outside 0..1, or a negative deviation.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        schedule: NoiseSchedule,
        *,
        loss: Loss = velocity_loss,
        seed: int = 0,
        codec: Codec | None = None,
        draws: int = 1,
        own: Loss | None = None,
        departing: bool = True,
        forgotten: Mapping[Fact, float] = MappingProxyType({}),
        context_noise: float = 0.0,
    ) -> None:
        super().__init__()
        if not all(0 <= share <= 1 for share in forgotten.values()) or context_noise < 0:
            raise ValueError(
                "forgotten are shares of the clips, from 0 to 1, and context_noise a deviation from 0 on, not "
                f"{dict(forgotten)} and {context_noise}"
            )
        self.forgotten, self.context_noise = dict(forgotten), context_noise
        self.denoiser, self.schedule, self.seed = denoiser, schedule, seed
        self.departing = departing
        self.companions = (loss, own, codec)  # a codec may be a module, which is not trained
        self.purposes = ["level", *(f"level {draw}" for draw in range(1, draws))]

    @property
    def codec(self) -> Codec | None:
        codec: Codec | None = self.companions[2]
        return codec

    def forward(self, clip: Clip, *, step: int, samples: Sequence[int] | Tensor) -> Float[Tensor, " batch"]:
        """The loss of each sample of the clip, (batch,) float32.

        Args:
            clip: video (batch, time, channel, height, width) and what is known about it.
            step: of training.
            samples: the index of each sample in the data set.

        Raises:
            ValueError: the number of samples is not the batch size.
        """
        if len(samples) != len(clip.video):
            raise ValueError(f"one sample index a video is needed, got {len(samples)} for a batch of {len(clip.video)}")
        if self.codec is not None:
            clip = encoded(clip, self.codec)
        clean = clip.video.float()
        indices = [
            uniform_integers(self.schedule.num_levels, seed=self.seed, step=step, samples=samples, purpose=purpose)
            for purpose in self.purposes
        ]
        level = self.schedule.level(torch.stack(indices).amax(0).to(clean.device))
        noise = gaussian_noise(tuple(clean.shape[1:]), seed=self.seed, step=step, samples=samples, device=clean.device)
        given = clip.given
        for fact, share in self.forgotten.items():
            chance = uniform_integers(2**24, seed=self.seed, step=step, samples=samples, purpose=f"forgotten {fact}")
            given = given.forget(fact, (chance < share * 2**24).to(clean.device))
        if self.context_noise and given.context is not None:
            draw = partial(gaussian_noise, seed=self.seed, step=step, samples=samples, device=clean.device)
            part = uniform_integers(2**24, seed=self.seed, step=step, samples=samples, purpose="context") / 2**24
            added = draw(tuple(given.context.shape[1:]), purpose="context noise")
            added *= self.context_noise * part.to(clean.device)[:, None, None, None, None]
            given = replace(given, context=given.context + added)
        noisy = level.add_noise(clean, noise)
        loss, own, _ = self.companions
        if not isinstance(self.denoiser, Mixing):
            belief = self.denoiser.bind(given)(noisy, level)
            return loss(belief, clean, noise) + self._departed(belief, clean)
        mixed = self.denoiser.believe(given)(noisy, level)
        total = loss(mixed.belief, clean, noise) + self._departed(mixed.own, clean)
        return total if mixed.mask is None or own is None else total + own(mixed.own, clean, noise)

    def _departed(self, belief: Prediction, clean: Video) -> Float[Tensor, " batch"] | float:
        if belief.departs_from is None or not self.departing:
            return 0.0
        return per_sample((belief.departs_from - clean) ** 2)


@torch.no_grad()
def encoded(clip: Clip, codec: Codec) -> Clip:
    """The clip with its frames and its context in the space of the codec."""
    return Clip(codec.encode(clip.video), known_in(clip.given, codec))


@torch.no_grad()
def known_in(given: Conditioning, codec: Codec) -> Conditioning:
    """What is known of a clip, its context in the space of the codec."""
    return given if given.context is None else replace(given, context=codec.encode(given.context))
