"""What a video network is asked for: the change since the last context frame, not the frame; knows no network.

Most of a frame is in the frame before. So the network is asked only for what the best linear guess leaves open (as
in Karras et
al., arXiv 2206.00364, but around the last context frame instead of around zero): a network that answers zero already
believes that
the last frame stays, give or take `deviation`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.core.values import NoiseLevel, Prediction, Video

Context = Float[Tensor, "batch num_context channel height width"]


class FrameChange:
    """A noisy clip, seen as the noisy change since the last context frame.

    With r = clean - last, taken as Gaussian of standard deviation d, and change = noisy - alpha * last, the velocity of r is
    ``skip * change + scale * answer``, where ``skip = alpha * sigma * (1 - d^2) * narrow^2``, ``scale = d * narrow`` and
    ``narrow = 1 / sqrt(alpha^2 * d^2 + sigma^2)``; the velocity of the clip is that minus ``sigma * last``.

    Some pixels change much and most not at all, so the network says where: beside its answer it gives log(d / deviation) for
    every pixel. Where it expects no change (d near zero) the belief is the last frame exactly, and no noise has to pass
    through the network to be cancelled.

    Args:
        noisy: (batch, time, channel, height, width), of any schedule; it is brought to alpha^2 + sigma^2 = 1 for the
            network.
        level: of the noise, a video or a frame.
        context: (batch, num_context, channel, height, width), the clean frames before.
        deviation: the root mean square change of a frame, from which the network departs.

    Raises:
        ValueError: context and noisy clip do not fit together.
    """

    def __init__(self, noisy: Video, level: NoiseLevel, context: Context, deviation: float) -> None:
        if context.shape[0] != noisy.shape[0] or context.shape[2:] != noisy.shape[2:]:
            raise ValueError(
                f"context {tuple(context.shape)} and noisy clip {tuple(noisy.shape)} must agree in batch, channels and size"
            )
        length = torch.hypot(level.alpha, level.sigma)
        self.noisy, self.level, self.context, self.deviation = noisy, level, context, deviation
        self.native = NoiseLevel(level.alpha / length, level.sigma / length, level.may_be_pure)
        self.video = noisy / length.reshape(length.shape + (1,) * (5 - length.ndim))
        alpha, sigma = self.native.broadcast()
        self.change = self.video - alpha * context[:, -1:]
        self.narrow = torch.rsqrt((alpha * deviation) ** 2 + sigma**2)

    @property
    def angle(self) -> Tensor:
        """Of the noise level, for the network."""
        return self.native.angle

    def stacked(self, *extra: Video) -> Float[Tensor, "batch time channels height width"]:
        """What the network sees, stacked on channels: change, scaled to variance one; context frames; and `extra`."""
        seen = self.context.flatten(1, 2)[:, None].expand(-1, self.noisy.shape[1], -1, -1, -1)
        return torch.cat([self.change * self.narrow, seen, *extra], dim=2)

    def belief(self, answer: Video) -> Prediction:
        """The network's answer as a belief about the noisy clip, of kind velocity.

        Args:
            answer: (batch, time, channel + 1, height, width); the last channel is log(d / deviation), used between -6 and 2.
        """
        alpha, sigma = self.native.broadcast()
        deviation = self.deviation * answer[:, :, -1:].clamp(-6, 2).exp()
        narrow = torch.rsqrt((alpha * deviation) ** 2 + sigma**2)
        skip = alpha * sigma * (1 - deviation**2) * narrow**2
        velocity = skip * self.change + deviation * narrow * answer[:, :, :-1] - sigma * self.context[:, -1:]
        return Prediction(velocity, "velocity", self.video, self.native).seen_at(self.noisy, self.level)
