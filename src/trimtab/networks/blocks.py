"""The blocks that the video networks are built from; they know tensors only.

Everything runs on frames folded into the batch, (batch * time, channel, height, width) in channels-last memory. In that
layout a convolution over time is a convolution over the first axis of (batch, channel, time, height * width): a view, not
a copy.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

Frames = Float[Tensor, "frames channel height width"]


class TemporalConv(nn.Module):
    """A convolution over time alone, zero-padded at both ends, at the price of a third of a 3x3 convolution."""

    def __init__(self, channels: int, kernel_size: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, (kernel_size, 1), padding=(kernel_size // 2, 0))

    def forward(self, frames: Frames, time: int) -> Frames:
        num, channels, height, width = frames.shape
        folded = frames.permute(0, 2, 3, 1).reshape(num // time, time, height * width, channels).permute(0, 3, 1, 2)
        mixed = self.conv(folded)
        return mixed.permute(0, 2, 3, 1).reshape(num, height, width, channels).permute(0, 3, 1, 2)


class ConvToPixels(nn.Conv2d):
    """A convolution whose answer at each position is a patch of pixels: `pixel_shuffle(conv(frames), patch)`.

    It computes the pixels of a patch in the order in which they lie in channels-last memory, which torch's shuffle and the
    gradients that it returns leave.
    """

    def __init__(self, channels: int, out_channels: int, patch: int, kernel_size: int = 1) -> None:
        super().__init__(channels, out_channels * patch**2, kernel_size, padding=kernel_size // 2)
        self.patch = patch

    def forward(self, frames: Frames) -> Float[Tensor, "frames out_channel finer_height finer_width"]:
        patch = self.patch
        weight, bias = self._in_memory_order(self.weight), self._in_memory_order(self.bias)
        patches = functional.conv2d(frames, weight, bias, padding=self.padding).permute(0, 2, 3, 1)
        rows = patches.unflatten(-1, (patch, patch, -1)).transpose(2, 3)
        return rows.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)

    def _in_memory_order(self, parameter: Tensor | None) -> Tensor:
        assert parameter is not None  # it is built with a bias
        return parameter.unflatten(0, (-1, self.patch**2)).transpose(0, 1).flatten(0, 1)


class Block(nn.Module):
    """A factorised residual block: norm, scale and shift, 3x3 convolution in space, 3-tap convolution in time."""

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(channels // 32, channels, affine=False)
        self.modulation = nn.Linear(condition, 2 * channels)
        self.space = nn.Conv2d(channels, channels, 3, padding=1)
        self.time = TemporalConv(channels)
        for parameter in self.time.parameters():
            nn.init.zeros_(parameter)

    def forward(self, frames: Frames, condition: Float[Tensor, "frames condition"], time: int) -> Frames:
        scale, shift = self.modulation(condition)[:, :, None, None].chunk(2, dim=1)
        hidden = functional.silu(torch.addcmul(shift, self.norm(frames), 1 + scale))
        hidden = functional.silu(self.space(hidden))
        return frames + self.time(hidden, time)


class FourierEmbedding(nn.Module):
    """A number in [0, pi / 2] (the angle of a noise level) as sines and cosines of rising frequency."""

    def __init__(self, dim: int, highest: float = 256.0) -> None:
        super().__init__()
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.logspace(0, math.log10(highest), dim // 2), persistent=False)

    def forward(self, angle: Float[Tensor, " frames"]) -> Float[Tensor, "frames dim"]:
        phase = angle[:, None] * self.frequencies
        return torch.cat([phase.sin(), phase.cos()], dim=-1)


def check_action_range(actions: Int[Tensor, "*shape"], num_actions: int) -> None:
    """Raises ValueError for actions outside 0 .. num_actions - 1.

    Not asked on a GPU, where the question would stall, nor in compiled code, which it would cut in two.
    """
    if actions.device.type == "cpu" and actions.numel() and not torch.compiler.is_compiling():
        lowest, highest = int(actions.min()), int(actions.max())
        if lowest < 0 or highest >= num_actions:
            raise ValueError(f"actions are 0 .. {num_actions - 1}, got {lowest} .. {highest}")
