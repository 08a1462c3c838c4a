"""Attention over time and over space, as AVID's pixel network has it (arXiv 2410.12822); tensors only.

Frames are folded into the batch, (batch * time, channel, height, width) in channels-last memory, so that a position's
channels lie together and every projection is one matrix product without a copy.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from trimtab.networks.blocks import Frames


class ChannelNorm(nn.Module):
    """Layer norm over the channels of every position, with a gain and no shift."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))

    def forward(self, frames: Frames) -> Frames:
        tokens = frames.permute(0, 2, 3, 1)
        return functional.layer_norm(tokens, self.gain.shape, self.gain).permute(0, 3, 1, 2)


class FrameNumber(nn.Module):
    """What attention over time knows about which frame is which, computed once for all layers of a network.

    Rotary embedding (Su et al., arXiv 2104.09864): the first min(32, head_dim) features of queries and keys are turned, in
    pairs lying side by side, by the frame's number times 10000^(-pair / pairs). And a learned bias by how far two frames lie
    apart, in 32 buckets (Raffel et al., arXiv 1910.10683): half for each direction; distances below 8 have their own,
    farther ones share logarithmically up to 32.
    """

    NUM_BUCKETS = FARTHEST = 32

    def __init__(self, heads: int, head_dim: int) -> None:
        super().__init__()
        size = min(32, head_dim)
        frequencies = 10_000.0 ** -(torch.arange(0, size, 2) / size)
        self.frequencies = nn.Parameter(frequencies, requires_grad=False)  # a constant that the public weights hold too
        self.bias = nn.Embedding(self.NUM_BUCKETS, heads)

    def forward(self, time: int) -> Order:
        frame = torch.arange(time, device=self.frequencies.device)
        angle = frame[:, None] * self.frequencies
        ahead = frame[:, None] - frame  # of the query, before the key
        half, distance = self.NUM_BUCKETS // 2, ahead.abs()
        exact = half // 2
        far = exact + (distance.clamp(min=1) / exact).log() / math.log(self.FARTHEST / exact) * (half - exact)
        bucket = torch.where(distance < exact, distance, far.long().clamp(max=half - 1)) + half * (ahead < 0)
        return Order(angle.cos(), angle.sin(), self.bias(bucket).permute(2, 0, 1))


class Order(NamedTuple):
    """The cosine and sine of each frame's rotation, and the bias of each frame's attention to each other."""

    cos: Float[Tensor, "time pairs"]
    sin: Float[Tensor, "time pairs"]
    bias: Float[Tensor, "heads time time"]

    def rotate(self, features: Float[Tensor, "*batch time feature"]) -> Float[Tensor, "*batch time feature"]:
        size = 2 * self.cos.shape[-1]
        turned, rest = features.split([size, features.shape[-1] - size], dim=-1)
        first, second = turned.unflatten(-1, (-1, 2)).unbind(-1)
        cos, sin = self.cos.to(features.dtype), self.sin.to(features.dtype)
        pairs = torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-1)
        return torch.cat([pairs.flatten(-2), rest], dim=-1)


class TemporalAttention(nn.Module):
    """Residual attention of each position to itself in the other frames."""

    def __init__(self, channels: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, head_dim
        self.norm = ChannelNorm(channels)
        self.qkv = nn.Linear(channels, 3 * heads * head_dim, bias=False)
        self.out = nn.Linear(heads * head_dim, channels, bias=False)

    def forward(self, frames: Frames, order: Order) -> Frames:
        (num, _, height, width), time = frames.shape, len(order.cos)
        tokens = self.norm(frames).permute(0, 2, 3, 1)
        qkv = self.qkv(tokens).reshape(num // time, time, height * width, 3, self.heads, self.head_dim)
        query, key, value = qkv.permute(3, 0, 2, 4, 1, 5)  # each (batch, place, head, time, feature)
        logits = order.rotate(query * self.head_dim**-0.5) @ order.rotate(key).transpose(-1, -2)
        mixed = torch.softmax(logits.float() + order.bias, dim=-1).to(value.dtype) @ value
        joined = mixed.permute(0, 3, 1, 2, 4).reshape(num, height, width, -1)
        return frames + self.out(joined).permute(0, 3, 1, 2)


class SpatialAttention(nn.Module):
    """Residual attention of all positions of a frame to each other, heads of 32 features."""

    def __init__(self, channels: int, heads: int, head_dim: int = 32) -> None:
        super().__init__()
        self.heads = heads
        self.norm = ChannelNorm(channels)
        self.qkv = nn.Linear(channels, 3 * heads * head_dim, bias=False)
        self.out = nn.Linear(heads * head_dim, channels, bias=False)

    def forward(self, frames: Frames) -> Frames:
        num, _, height, width = frames.shape
        qkv = self.qkv(self.norm(frames).permute(0, 2, 3, 1)).reshape(num, height * width, 3, self.heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2)
        return frames + self.out(mixed.reshape(num, height, width, -1)).permute(0, 3, 1, 2)


class LinearAttention(nn.Module):
    """Residual attention over a frame at a price linear in its positions: keys are softmaxed over positions, queries over
    features (Shen et al., arXiv 1812.01243), heads of 32 features."""

    def __init__(self, channels: int, heads: int, head_dim: int = 32) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, head_dim
        self.norm = ChannelNorm(channels)
        self.qkv = nn.Linear(channels, 3 * heads * head_dim, bias=False)
        self.out = nn.Linear(heads * head_dim, channels)

    def forward(self, frames: Frames) -> Frames:
        num, _, height, width = frames.shape
        qkv = self.qkv(self.norm(frames).permute(0, 2, 3, 1)).reshape(num, height * width, 3, self.heads, self.head_dim)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (frame, head, place, feature)
        query = query.softmax(-1) * self.head_dim**-0.5
        mixed = query @ (key.softmax(-2).transpose(-1, -2) @ value)
        return frames + self.out(mixed.transpose(1, 2).reshape(num, height, width, -1)).permute(0, 3, 1, 2)
