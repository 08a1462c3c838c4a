"""What a video network is asked for: how a frame differs from the last context frame; knows no network.

Most of a frame is in the frame before, if somewhere else. So the network is asked only for what the best linear guess
leaves open (as in Karras et al., arXiv 2206.00364, but around the last context frame instead of around zero): a network
that answers zero already believes that the last frame goes on as it drifts, give or take `deviation`.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from trimtab.core.values import NoiseLevel, Prediction, Video

Context = Float[Tensor, "batch num_context channel height width"]
Drift = Float[Tensor, "batch 2"]

STEP = 4.0
"""Pixels of motion, and natural logarithms of deviation, to a unit of the network's answer: they are reached in a
short training, in which answers stay of order one."""

LASTING = 0.8
"""Share of a drift that is left a frame later: cameras brake, jumps end (a damped trend)."""


class FrameChange:
    """A noisy clip, seen as the noisy change since the last context frame, by an eye that moves with the picture.

    If the whole picture drifts (a camera moves), the network sees all frames as if it did not: each displaced by the drift
    since the last one, which fades from frame to frame, in whole pixels, so that nothing is blurred. What a camera follows
    does not drift with the rest, so it also sees the last frame as it stood. It says four things about every pixel: how it
    moves besides the drift, by how much it is instead what stood there, how far it may be from that (a deviation d), and
    where in this range it is. Motion adds up over the frames of the clip (frame k is displaced by the drift until then and
    the sum of the first k answers), so that steady motion is the same answer at every frame. With e the frame so expected,
    r = clean - e, taken as Gaussian of standard deviation d, and change = noisy - alpha * e, the velocity of r is
    ``skip * change + scale * answer``, where ``skip = alpha * sigma * (1 - d^2) * narrow^2``, ``scale = d * narrow`` and
    ``narrow = 1 / sqrt(alpha^2 * d^2 + sigma^2)``; the velocity of the clip is that minus ``sigma * e``.

    Some pixels change much and most only move or stay. Where no change is expected (d near zero) the belief is the last
    frame, displaced, and no noise has to pass through the network to be cancelled.

    Args:
        noisy: (batch, time, channel, height, width), of any schedule; it is brought to alpha^2 + sigma^2 = 1 for the
            network.
        level: of the noise, a video or a frame.
        context: (batch, num_context, channel, height, width), the clean frames before.
        deviation: the root mean square change of a frame, from which the network departs.
        drift: (batch, 2), as `observed_drift` finds it in the context; none by default.

    Raises:
        ValueError: context and noisy clip do not fit together.
    """

    def __init__(
        self,
        noisy: Video,
        level: NoiseLevel,
        context: Context,
        deviation: float,
        drift: Drift | None = None,
    ) -> None:
        if context.shape[0] != noisy.shape[0] or context.shape[2:] != noisy.shape[2:]:
            raise ValueError(
                f"context {tuple(context.shape)} and noisy clip {tuple(noisy.shape)} must agree in batch, channels and size"
            )
        length = torch.hypot(level.alpha, level.sigma)
        self.noisy, self.level, self.context, self.deviation = noisy, level, context, deviation
        drift = context.new_zeros(len(context), 2) if drift is None else drift
        drift = drift[:, None, :, None, None]
        fades = LASTING ** torch.arange(noisy.shape[1], device=noisy.device)
        self.drifted = (drift * fades.cumsum(0)[:, None, None, None]).round()  # of each frame, from the last
        self.native = NoiseLevel(level.alpha / length, level.sigma / length, level.may_be_pure)
        self.video = noisy / length.reshape(length.shape + (1,) * (5 - length.ndim))
        self.drift = drift
        self.last = displaced(context[:, -1:], self.drifted)

    @staticmethod
    def answer_channels(channels: int) -> int:
        """Of the network's answer about frames of so many channels: as many, deviation, displacement of two, stillness."""
        return channels + 4

    @staticmethod
    def seen_channels(channels: int, num_context: int) -> int:
        """Of `stacked`, without extras: change, context frames, the last of them as it stood, what speaks for that."""
        return channels * (2 + num_context) + 1

    @property
    def angle(self) -> Tensor:
        """Of the noise level, for the network."""
        return self.native.angle

    def stacked(self, *extra: Video) -> Float[Tensor, "batch time channels height width"]:
        """What the network sees, stacked on channels.

        These are the change, scaled to variance one; the context frames, displaced; the last of them as it stood, and by
        how much better it agrees with the frame before if nothing drifted (in mean absolute difference); and `extra`.
        """
        back = range(self.context.shape[1] - 1, 0, -1)  # steps from each context frame to the last
        seen = [displaced(self.context[:, -1 - age, None], self.drifted + age * self.drift) for age in back]
        seen.append(self.last)
        change = self.unlike(self.last)
        stood, before = self.context[:, -1:], self.context[:, -2:][:, :1]
        unlike, unlike_drifted = (
            (stood - some).abs().mean(2, keepdim=True) for some in (before, displaced(before, self.drift))
        )
        still = (some.expand(-1, self.video.shape[1], -1, -1, -1) for some in (stood, unlike_drifted - unlike))
        return torch.cat([change, *seen, *still, *extra], dim=2)

    def unlike(self, frames: Video) -> Video:
        """The noisy change from these frames, scaled to variance one if that from the last is as large as usual."""
        alpha, sigma = self.native.broadcast()
        return (self.video - alpha * frames) * torch.rsqrt((alpha * self.deviation) ** 2 + sigma**2)

    def belief(self, answer: Video) -> Prediction:
        """The network's answer as a belief about the noisy clip, of kind velocity.

        Args:
            answer: (batch, time, channel + 4, height, width). After the channels come log(d / deviation) / 4, used between
                -6 and 2 after multiplication; by how many times 4 pixels, right and down, beyond the drift, the place
                in the last frame that a pixel is taken from is farther away than for the frame before; and half the share
                of the last frame as it stood, used between 0 and 1. As many channels more are a copy, put in the place of
                the last frame as it drifted (see `CopyAttention`); then what is departed from learns by
                `DenoisingLoss(departing=True)` alone, as all else corrects it, and would keep it as it was.
        """
        channels = self.noisy.shape[2]
        position, scale, motion, still, copy = answer.split([channels, 1, 2, 1, answer.shape[2] - channels - 4], dim=2)
        copies = bool(copy.shape[2])
        alpha, sigma = self.native.broadcast()
        besides = STEP * motion.cumsum(dim=1)
        moved = displaced(copy, besides) if copies else displaced(self.context[:, -1:], self.drifted + besides)
        # Nothing pushes further beyond 0 and 1: the many pixels that drift must not drown the few that say that they stand.
        expected = torch.lerp(moved, self.context[:, -1:], clamped(2 * still, 0.0, 1.0))
        departs_from, expected = (expected, expected.detach()) if copies else (None, expected)
        deviation = self.deviation * clamped(STEP * scale, -6.0, 2.0).exp()
        narrow = torch.rsqrt((alpha * deviation) ** 2 + sigma**2)
        skip = alpha * sigma * (1 - deviation**2) * narrow**2
        velocity = skip * (self.video - alpha * expected) + deviation * narrow * position - sigma * expected
        belief = Prediction(velocity, "velocity", self.video, self.native, departs_from=departs_from)
        return belief.seen_at(self.noisy, self.level)


class Clamped(torch.autograd.Function):
    """The nearest value between two bounds; beyond them only gradients that lead back are let through."""

    @staticmethod
    def forward(context: Any, values: Tensor, low: float, high: float) -> Tensor:
        context.save_for_backward(values)
        context.bounds = low, high
        return values.clamp(low, high)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        ((values,), (low, high), (gradient,)) = context.saved_tensors, context.bounds, gradients
        outward = ((values < low) & (gradient > 0)) | ((values > high) & (gradient < 0))
        return gradient.masked_fill(outward, 0), None, None


def clamped(values: Tensor, low: float, high: float) -> Tensor:
    """As `Tensor.clamp`, but what is beyond a bound can learn its way back.

    Where most of a picture stands still, the few pixels that move are carried beyond with the rest, and would stay there.
    """
    found: Tensor = Clamped.apply(values, low, high)
    return found


def observed_drift(context: Context) -> Drift:
    """How many whole pixels, right and down, from a pixel of the last frame to where it was in the frame before.

    It is the displacement, of at most a tenth of the frame's side, at which the two differ least where they overlap, in
    mean square, if that is a fifth less than without displacement; else none. All are tried at once, by Fourier transforms.
    Context of one frame has no drift.
    """
    batch, num_context, channels, height, width = context.shape
    reach = min(height, width) // 10
    if num_context < 2 or reach == 0:
        return context.new_zeros(batch, 2)
    frames = context[:, -2:].float()
    energy = frames.square().sum(2, keepdim=True)
    size = (height + reach, width + reach)  # zeros on one side are enough, as the transform wraps around
    before, last = torch.fft.rfft2(torch.cat([frames, energy, torch.ones_like(energy)], dim=2), s=size).unbind(1)
    parts = before * last.conj()
    crossed = before[:, channels] * last[:, -1].conj() + before[:, -1] * last[:, channels].conj()
    products = torch.stack([crossed - 2 * parts[:, :channels].sum(1), parts[:, -1]], dim=1)
    error, overlap = torch.fft.irfft2(products, s=size).roll((reach, reach), (-2, -1)).unbind(1)
    side = 2 * reach + 1
    mean = (error / overlap.clamp(min=1))[:, :side, :side].flatten(1)
    least, where = mean.min(dim=1)
    found = torch.stack([where % side, where // side], dim=1) - reach
    return torch.where((least < 0.8 * mean[:, side * side // 2])[:, None], found, 0).to(context.dtype)


def displaced(
    frame: Float[Tensor, "batch #time channel height width"],
    displacement: Float[Tensor, "batch time 2 height width"] | Float[Tensor, "batch time 2 1 1"],
) -> Video:
    """For each pixel of a clip the frame's value at a displacement from it, bilinear; beyond the border, the border's.

    Args:
        frame: (batch, 1, channel, height, width), or one for each frame of the clip.
        displacement: (batch, time, 2, height, width) in pixels, to the right and down; of size 1 for whole frames.
    """
    (height, width), (batch, time) = frame.shape[3:], displacement.shape[:2]
    across, down = (
        (torch.arange(size, device=frame.device, dtype=frame.dtype) + 0.5) * 2 / size - 1 for size in (width, height)
    )
    here = torch.stack(torch.meshgrid(across, down, indexing="xy"), dim=-1)
    there = here + displacement.permute(0, 1, 3, 4, 2) * (2 / displacement.new_tensor([width, height]))
    frames = frame.expand(-1, time, -1, -1, -1).flatten(0, 1)
    found = functional.grid_sample(frames, there.flatten(0, 1), padding_mode="border", align_corners=False)
    return found.unflatten(0, (batch, time))
