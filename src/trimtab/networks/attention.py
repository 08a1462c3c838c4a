"""Attention over time and over space, as AVID's pixel network has it (arXiv 2410.12822), and to a text; tensors only.

Frames are folded into the batch, (batch * time, channel, height, width) in channels-last memory, so that a position's
channels lie together and every projection is one matrix product without a copy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from trimtab.networks.blocks import Frames
from trimtab.networks.precision import whole_products

PLACES = 512
"""How many positions attend over time at once: so many that what is worked out for them stays in the processor's cache."""


QUERIES = 1024
"""How many positions look up copies at once, likewise."""


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

    def turn(self, head_dim: int) -> Float[Tensor, "time feature feature"]:
        """Each frame's rotation as a matrix, for features as rows."""
        first = torch.arange(0, 2 * self.cos.shape[-1], 2, device=self.cos.device)
        turn = torch.eye(head_dim, device=self.cos.device).repeat(len(self.cos), 1, 1)
        turn[:, first, first] = turn[:, first + 1, first + 1] = self.cos
        turn[:, first, first + 1], turn[:, first + 1, first] = self.sin, -self.sin
        return turn


class TemporalAttention(nn.Module):
    """Residual attention of each position to itself in the other frames.

    Queries and keys are turned by their frame's number by turning the weights that make them: of those there are fewer.
    """

    def __init__(self, channels: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, head_dim
        self.norm = ChannelNorm(channels)
        self.qkv = nn.Linear(channels, 3 * heads * head_dim, bias=False)
        self.out = nn.Linear(heads * head_dim, channels, bias=False)

    def forward(self, frames: Frames, order: Order) -> Frames:
        (num, channels, height, width), time = frames.shape, len(order.cos)
        tokens = self.norm(frames).permute(0, 2, 3, 1).unflatten(0, (-1, time))
        places = tokens.transpose(0, 1).reshape(time, -1, channels)  # of all clips
        weight = self.turned(order)
        mixed = torch.cat([self.mixed(some, weight, order) for some in places.split(PLACES, dim=1)], dim=1)
        mixed = mixed.unflatten(1, (-1, height, width)).transpose(0, 1).reshape(num, height, width, channels)
        return frames + mixed.permute(0, 3, 1, 2)

    def mixed(
        self, places: Float[Tensor, "time place channel"], weight: Tensor, order: Order
    ) -> Float[Tensor, "time place channel"]:
        qkv = torch.bmm(places, weight).unflatten(-1, (3, self.heads, self.head_dim))
        query, key, value = qkv.permute(2, 1, 3, 0, 4).flatten(1, 2)  # each (place of a head, time, feature)
        logits = torch.bmm(query, key.transpose(1, 2)).unflatten(0, (-1, self.heads))
        weights = softmax_of_few(logits * self.head_dim**-0.5 + order.bias).to(value.dtype)
        mixed = torch.bmm(weights.flatten(0, 1), value).unflatten(0, (-1, self.heads))
        return self.out(mixed.permute(2, 0, 1, 3).flatten(2))

    def turned(self, order: Order) -> Float[Tensor, "time channel three_heads_feature"]:
        """The weights of queries and keys turned by each frame's rotation, those of values the same in every frame."""
        weight = self.qkv.weight.t().contiguous().unflatten(1, (3, -1, self.head_dim))
        turn = order.turn(self.head_dim).to(weight.dtype).transpose(0, 1).flatten(1)
        both = (weight[:, :2].reshape(-1, self.head_dim) @ turn).view(*weight[:, :2].shape[:3], -1, self.head_dim)
        both = both.permute(3, 0, 1, 2, 4)
        return torch.cat([both, weight[:, 2:].to(both.dtype).expand(len(both), -1, -1, -1, -1)], dim=2).flatten(2)


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
        same_head = torch.eye(heads).repeat_interleave(head_dim, 0).repeat_interleave(head_dim, 1)
        self.same_head: Tensor
        self.register_buffer("same_head", same_head * head_dim**-0.5, persistent=False)

    def forward(self, frames: Frames) -> Frames:
        query, key, value = self.qkv(self.norm(frames).permute(0, 2, 3, 1)).flatten(1, 2).chunk(3, dim=-1)
        # One product for all pairs of heads, of which the equal ones are kept, is faster than one a head.
        context = torch.bmm(key.softmax(1).transpose(1, 2), value) * self.same_head
        mixing = context.to(value.dtype) @ self.out.weight.t().to(value.dtype)
        query = query.unflatten(-1, (self.heads, -1)).softmax(-1).flatten(2)
        mixed = torch.baddbmm(self.out.bias.to(value.dtype), query, mixing)
        return frames + mixed.unflatten(1, frames.shape[2:]).permute(0, 3, 1, 2)


class TextAttention(nn.Module):
    """Residual attention of every position of every frame to the tokens of its clip's text, heads of 32 features.

    Beside them stands one learned token, which is all there is for a clip that is told no text. At first nothing is added.

    Args:
        channels: of the frames, a multiple of 32.
        text_dim: features of a token; zeros after a text are none.
    """

    def __init__(self, channels: int, text_dim: int) -> None:
        super().__init__()
        self.heads = channels // 32
        self.norm = ChannelNorm(channels)
        self.query = nn.Linear(channels, channels, bias=False)
        self.key_value = nn.Linear(text_dim, 2 * channels, bias=False)
        self.nothing = nn.Parameter(torch.randn(text_dim))
        self.out = nn.Linear(channels, channels)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self,
        frames: Frames,
        text: Float[Tensor, "batch token text_dim"] | None,
        known: Bool[Tensor, " batch"] | None,
        time: int,
    ) -> Frames:
        """The frames of `time` a clip; `known` says which clips are told their text, all by default."""
        num, channels, height, width = frames.shape
        tokens = self.nothing.expand(num // time, 1, -1)
        told = tokens.new_ones(len(tokens), 1, dtype=torch.bool)
        if text is not None:
            tokens = torch.cat([tokens, text.to(tokens.dtype)], dim=1)
            which = torch.ones_like(told) if known is None else known[:, None]
            told = torch.cat([told, which & (text != 0).any(-1)], dim=1)
        query = self.query(self.norm(frames).permute(0, 2, 3, 1)).reshape(num // time, -1, self.heads, 32)
        key, value = self.key_value(tokens).unflatten(-1, (2, self.heads, 32)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query.transpose(1, 2), key, value, told[:, None, None])
        mixed = self.out(mixed.transpose(1, 2).reshape(num, height, width, channels))
        return frames + mixed.permute(0, 3, 1, 2)


class Source(NamedTuple):
    """A frame that patches are copied from, and what is known of the frames that are put together of them.

    Attributes:
        frame: (batch, source_channel, height, width), clean.
        noisy: (batch, time, source_channel, height, width), those frames as far as they are seen: ``alpha`` times what they
            are, and noise of deviation ``sigma``.
        alpha, sigma: (batch, 1 or time, 1, 1, 1).
        unlike: called with a copy for each frame, of the shape of `noisy`, answers how what is seen is unlike it, likewise.
    """

    frame: Float[Tensor, "batch source_channel height width"]
    noisy: Float[Tensor, "batch time source_channel height width"]
    alpha: Tensor
    sigma: Tensor
    unlike: Callable[[Tensor], Tensor]


def looked_up(
    query: Float[Tensor, "query feature"],
    key: Float[Tensor, "position feature"],
    seen: Float[Tensor, "query number"],
    known: Float[Tensor, "position number"],
    value: Float[Tensor, "position size"],
) -> Float[Tensor, "query size"]:
    """Attention by the sum of what is learned and what is known, some queries at a time.

    Nearly all of the numbers are known and nearly none is looked up. So a product of their own for each, of which most need
    no gradient, is several times as fast as attention that takes all three to be of one size.
    """
    parts = zip(query.split(QUERIES), seen.split(QUERIES), strict=True)
    return torch.cat([torch.addmm(some @ known.mT, asked, key.mT).softmax(dim=-1) @ value for asked, some in parts])


class CopyAttention(nn.Module):
    """For each position of each frame a patch of another frame, the source: of where it stood there that is shown here.

    This is a posterior mean. Which patch is shown, before one looks, is for attention to learn: queries are made of the
    frames' features, keys of the source's pixels. They are divided by their root mean square, and turned by their place
    (rotary embedding, one half of the features by column, the other by row), so that a query asks for a look, for a
    distance, or for both; at first all ask for their own place and what lies around it. To these logits comes how likely
    what is seen there in noise would be if it were that patch, ``-|seen - alpha * patch|^2 / 2 variance`` with a variance of
    ``sigma^2 + (alpha * UNLIKENESS)^2``, up to what is the same for all patches; over the pixels of the patch, and over the
    means of the eight around it. That needs no learning; how much it is heeded, each position learns.

    Args:
        channels: of the frames.
        source_channels: of the source.
        patch: side of a patch in pixels.
        features: of queries and keys, a multiple of 4.
    """

    PACE = 0.03
    """Size of the weights that make queries and keys, of which the direction alone matters: the smaller, the faster it
    turns at the same learning rate. At usual size they find what moved about as fast at ten times that of the rest."""

    SHARPNESS = 0.3
    """What logits are multiplied by at first: so little that far places get a gradient, too."""

    FREQUENCIES = (0.05, 1.6)
    """Of the rotary embedding, radians a patch: lowest and highest."""

    UNLIKENESS = 0.1
    """Deviation of a pixel from that of the right patch, as things turn and their light changes."""

    HEED = (1.0, 0.15)
    """How much the likelihood counts at first of the patch's own pixels, and of those around it, which may belong to
    something else. Found by matching alone, without a guess, over all noise levels."""

    def __init__(self, channels: int, source_channels: int, patch: int, features: int = 16) -> None:
        super().__init__()
        self.patch = patch
        self.query = nn.Conv2d(channels, features, 1)
        self.look = nn.Sequential(
            nn.Conv2d(source_channels * patch**2, channels, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=2, dilation=2),
            nn.SiLU(),
        )
        self.key = nn.Conv2d(channels, features, 1)
        for made in (self.query, self.key):
            assert made.bias is not None
            with torch.no_grad():
                made.weight.mul_(self.PACE)
                made.bias.fill_(self.PACE)
        self.sharper = nn.Parameter(torch.zeros(()))  # in units of PACE, for the same reason
        self.heed = nn.Conv2d(channels, len(self.HEED), 1)
        for parameter in self.heed.parameters():
            nn.init.zeros_(parameter)
        self.frequencies: Tensor
        low, high = (math.log10(frequency) for frequency in self.FREQUENCIES)
        self.register_buffer("frequencies", torch.logspace(high, low, features // 4), persistent=False)

    def forward(
        self, frames: Frames, source: Source
    ) -> Float[Tensor, "frames source_channel source_height source_width"]:
        """The copies for frames (batch * time, channel, source_height / patch, source_width / patch)."""
        num, _, height, width = frames.shape
        patches, turn = functional.pixel_unshuffle(source.frame, self.patch), self.turn(height, width)
        key, query = self.key(self.look(patches)), self.query(frames)
        heed = self.heed(frames).float().exp() * query.new_tensor(self.HEED, dtype=torch.float32)[:, None, None]
        with whole_products(frames.device):  # large numbers, of whose differences it depends
            query = turned(query, turn) * self.SHARPNESS * (self.sharper / self.PACE).exp()
            seen = torch.cat(self.likelihood_queries(source, heed), dim=-1)
            query, seen = (some.reshape(len(source.frame), -1, some.shape[-1]) for some in (query, seen))
            known = torch.cat(self.likelihood_keys(source.frame), dim=-1)
            value = patches.float().permute(0, 2, 3, 1).flatten(1, 2)
            clips = zip(query, turned(key, turn), seen, known, value, strict=True)
            found = torch.stack([looked_up(*clip) for clip in clips])
            size = found.shape[-1]
        return functional.pixel_shuffle(found.reshape(num, height, width, size).permute(0, 3, 1, 2), self.patch)

    def likelihood_keys(self, frames: Frames) -> list[Float[Tensor, "frames position number"]]:
        """Of each patch its pixels, their squared length, and the same of the patches around it."""
        parts = []
        for numbers in self.appearance(frames):
            parts += [numbers, numbers.square().sum(-1, keepdim=True)]
        return parts

    def likelihood_queries(self, source: Source, heed: Frames) -> list[Float[Tensor, "frames position number"]]:
        """What multiplies `likelihood_keys` to be the log likelihood, beside what is the same for all patches."""
        alpha, sigma = (
            some.expand(*source.noisy.shape[:2], 1, 1, 1).reshape(-1, 1, 1) for some in (source.alpha, source.sigma)
        )
        sharp = alpha / (sigma**2 + (alpha * self.UNLIKENESS) ** 2)
        parts = []
        for numbers, much in zip(self.appearance(source.noisy.flatten(0, 1)), heed.flatten(2).unbind(1), strict=True):
            weight = sharp * much[..., None]
            parts += [weight * numbers, -0.5 * alpha * weight]
        return parts

    def appearance(self, frames: Frames) -> tuple[Tensor, Tensor]:
        """Of each patch the pixels, and the means of the eight around it, scaled so that noise in them is as large."""
        own = functional.pixel_unshuffle(frames, self.patch)
        means = self.patch * functional.avg_pool2d(frames, self.patch)
        near = functional.unfold(functional.pad(means, (1, 1, 1, 1), mode="replicate"), 3).unflatten(1, (-1, 9))
        around = torch.cat([near[:, :, :4], near[:, :, 5:]], dim=2).flatten(1, 2)
        return own.flatten(2).transpose(1, 2).float(), around.transpose(1, 2).float()

    def turn(self, height: int, width: int) -> Float[Tensor, "2 position half"]:
        """Of every position, the cosine and sine by which each pair of features is turned."""
        device = self.frequencies.device
        down, across = (torch.arange(side, device=device)[:, None] * self.frequencies for side in (height, width))
        across, down = across.expand(height, -1, -1), down[:, None].expand(-1, width, -1)
        angle = torch.cat([across, down], dim=-1).flatten(0, 1)
        return torch.stack([angle.cos(), angle.sin()])


def turned(features: Frames, turn: Float[Tensor, "2 position half"]) -> Float[Tensor, "frames position channel"]:
    """Features of root mean square one, in float32, pairs of which are turned by their place."""
    rows = features.float().permute(0, 2, 3, 1).flatten(1, 2)
    rows = rows * torch.rsqrt(rows.square().mean(-1, keepdim=True) + 1e-8)
    (first, second), (cos, sin) = rows.chunk(2, dim=-1), turn
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


def mean_token(text: Float[Tensor, "batch token feature"]) -> Float[Tensor, "batch feature"]:
    """The mean over the tokens that a text has; where it has no more, they are zero."""
    has = (text != 0).any(-1, keepdim=True)
    return text.sum(1) / has.sum(1).clamp(min=1)


def softmax_of_few(logits: Float[Tensor, "*batch choice"]) -> Float[Tensor, "*batch choice"]:
    """Softmax over a short last axis, in a fraction of the time of torch's, which is made for long ones."""
    powers = (logits - logits.detach().amax(-1, keepdim=True)).exp()
    few = logits.shape[-1]
    return powers / (powers.view(-1, few) @ powers.new_ones(few, few)).view_as(powers)
