"""A prior whose data are Gaussian, so that every answer is known exactly, for tests; knows no network."""

from __future__ import annotations

import hashlib
import json

import torch
from torch import Tensor, nn

from trimtab.core.contracts import BoundDenoiser
from trimtab.core.values import Conditioning, Fact, Kind, NoiseLevel, Prediction, Video
from trimtab.diffusion.noise import gaussian_noise
from trimtab.diffusion.schedules import Schedule, linear


class Frames:
    """The codec of a prior that diffuses the frames themselves."""

    space = "frames"
    frames_per_latent = 1

    def encode(self, frames: Video) -> Video:
        return frames

    def decode(self, latents: Video) -> Video:
        return latents


class GaussianPrior(nn.Module):
    """Videos with independent Gaussian pixels, whose mean the facts shift; its belief is the exact posterior mean.

    The mean of predicted frame k is ``mean[k] + context_weight * (last context frame) + (effect of action k) + (effect of
    the text)``. A fact that is not known shifts nothing. Being exact, it answers at any noise level, on its schedule or not.

    Args:
        mean: (time, channel, height, width).
        deviation: the standard deviation, positive, of the same shape.
        action_effect: what an action adds to the mean of the frame that it causes, (dim, channel, height, width): row
            `a` for integer action `a`, the sum of rows weighted by the action for float actions (batch, step, dim).
        text_effect: what a text adds to the mean of every frame, (feature, channel, height, width): the sum of rows weighted
            by the mean of its token states.
        context_weight: how much of the last context frame the mean of every predicted frame contains.
        num_context: how many context frames to ask for; at least one if `context_weight` is not zero.
        kind: what to predict.
        schedule: by default `linear()`.
        frame_rate: frames a second.

    Raises:
        ValueError: shapes disagree, or a deviation is not positive.
    """

    mean: Tensor
    deviation: Tensor
    action_effect: Tensor | None
    text_effect: Tensor | None

    def __init__(
        self,
        mean: Tensor,
        deviation: Tensor,
        *,
        action_effect: Tensor | None = None,
        text_effect: Tensor | None = None,
        context_weight: float = 0.0,
        num_context: int = 0,
        kind: Kind = "velocity",
        schedule: Schedule | None = None,
        frame_rate: float = 15.0,
    ) -> None:
        super().__init__()
        if mean.ndim != 4 or deviation.shape != mean.shape or not (deviation > 0).all():
            raise ValueError(
                "mean and deviation must both be (time, channel, height, width) and the deviation positive, got "
                f"{tuple(mean.shape)} and {tuple(deviation.shape)}"
            )
        for name, effect in (("an action", action_effect), ("a text", text_effect)):
            if effect is not None and effect.shape[1:] != mean.shape[1:]:
                raise ValueError(f"{name}'s effect is a frame {tuple(mean.shape[1:])}, not {tuple(effect.shape[1:])}")
        if context_weight != 0 and num_context < 1:
            raise ValueError("a mean that contains the last context frame needs num_context of at least 1")
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)
        self.register_buffer("action_effect", action_effect)
        self.register_buffer("text_effect", text_effect)
        self.context_weight, self.num_context, self.kind = context_weight, num_context, kind
        self.schedule = linear() if schedule is None else schedule
        self.frame_rate = frame_rate
        self.codec = Frames()
        self.num_frames = len(mean)
        self.frame_shape: tuple[int, int, int] = (mean.shape[1], mean.shape[2], mean.shape[3])

    @property
    def space(self) -> str:
        return self.codec.space

    @property
    def uses(self) -> frozenset[Fact]:
        facts: set[Fact] = set()
        if self.action_effect is not None:
            facts.add("actions")
        if self.text_effect is not None:
            facts.add("text")
        if self.context_weight != 0:
            facts.add("context")
        return frozenset(facts)

    @property
    def fingerprint(self) -> str:
        """Hash of the numbers that decide the answer."""
        settings = [self.kind, self.context_weight, self.num_context, self.frame_rate, self.schedule.to_dict()]
        digest = hashlib.sha256(json.dumps(settings).encode())
        for name, value in self.state_dict().items():
            digest.update(f"{name}{tuple(value.shape)}".encode() + value.float().cpu().numpy().tobytes())
        return digest.hexdigest()

    def bind(self, given: Conditioning) -> BoundDenoiser:
        """The exact belief given the facts. Raises ValueError for facts of another shape, dtype or range."""
        means = self.mean_given(given)

        def denoise(noisy: Video, level: NoiseLevel) -> Prediction:
            mean, deviation = self.first_frames(means, noisy.shape[1])
            alpha, sigma = level.broadcast()
            surprise = (noisy - alpha * mean) / (alpha**2 * deviation**2 + sigma**2)
            clean, noise = mean + alpha * deviation**2 * surprise, sigma * surprise
            answers = {"clean": clean, "noise": noise, "velocity": alpha * noise - sigma * clean, "flow": noise - clean}
            return Prediction(answers[self.kind], self.kind, noisy, level)

        return denoise

    def destination(self, start: Video, level: NoiseLevel, given: Conditioning) -> Video:
        """Where the probability flow takes a video from this level: the limit of every deterministic sampler."""
        mean, deviation = self.first_frames(self.mean_given(given), start.shape[1])
        alpha, sigma = level.broadcast()
        return mean + deviation * (start - alpha * mean) / (alpha**2 * deviation**2 + sigma**2).sqrt()

    def first_frames(self, means: Video, num_frames: int) -> tuple[Tensor, Tensor]:
        """The mean and the deviation of the first frames. Raises ValueError if there are not as many."""
        if num_frames > means.shape[1]:
            raise ValueError(
                f"got a video of {num_frames} frames, but this prior knows {means.shape[1]}: it predicts up to "
                f"{self.num_frames}, and one for each action given"
            )
        return means[:, :num_frames], self.deviation[None, :num_frames]

    def mean_given(self, given: Conditioning) -> Video:
        """The mean given the facts, (batch or 1, time, channel, height, width), as many frames as there are actions."""
        means = self.mean[None]
        if self.context_weight != 0 and given.context is not None:
            expected = (self.num_context, *self.frame_shape)
            if given.context.shape[1:] != expected:
                raise ValueError(f"context must be (batch, *{expected}), got {tuple(given.context.shape)}")
            means = means + masked(self.context_weight * given.context[:, -1:], given, "context")
        if self.text_effect is not None and given.text is not None:
            if given.text.shape[2] != len(self.text_effect):
                raise ValueError(f"text must be (batch, token, {len(self.text_effect)}), got {tuple(given.text.shape)}")
            meant = torch.einsum("btf,fchw->bchw", given.text, self.text_effect) / given.text.shape[1]
            means = means + masked(meant[:, None], given, "text")
        if self.action_effect is not None and given.actions is not None:
            effect = masked(self.effect_of(given.actions), given, "actions")
            num_frames = min(effect.shape[1], self.num_frames)
            means = means[:, :num_frames] + effect[:, :num_frames]
        return means

    def effect_of(self, actions: Tensor) -> Video:
        """What each action adds to the mean of its frame, (batch, step, channel, height, width)."""
        effect = self.action_effect
        assert effect is not None
        if actions.ndim == 2 and not actions.is_floating_point():
            if ((actions < 0) | (actions >= len(effect))).any():
                raise ValueError(f"integer actions must be 0 .. {len(effect) - 1}, got {actions}")
            return effect[actions.long()]
        if actions.ndim != 3 or not actions.is_floating_point() or actions.shape[2] != len(effect):
            raise ValueError(
                f"actions must be integers (batch, step) or floats (batch, step, {len(effect)}), got "
                f"{actions.dtype} of shape {tuple(actions.shape)}"
            )
        return torch.einsum("bsd,dchw->bschw", actions, effect)


def masked(shift: Video, given: Conditioning, fact: Fact) -> Video:
    """Zero for the samples that do not know the fact."""
    return shift * given.is_known(fact)[:, None, None, None, None]


def tiny(kind: Kind = "velocity", schedule: Schedule | None = None) -> GaussianPrior:
    """Four frames of 3 x 8 x 8 after two context frames, with three actions, as tests use it."""

    def draw(number: int, *shape: int) -> Tensor:
        return gaussian_noise(shape, seed=0, step=0, samples=[number], purpose="tiny gaussian prior")[0]

    return GaussianPrior(
        mean=0.3 * draw(0, 4, 3, 8, 8),
        deviation=0.2 + 0.3 * torch.sigmoid(draw(1, 4, 3, 8, 8)),
        action_effect=0.3 * draw(2, 3, 3, 8, 8),
        context_weight=0.5,
        num_context=2,
        kind=kind,
        schedule=schedule,
    )
