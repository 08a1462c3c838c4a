"""AVID's pixel network to the unit (arXiv 2410.12822; methods 1.5 and 1.7), with a map of its public weights; tensors only.

It derives from lucidrains' video-diffusion: convolutions and linear attention act on each frame, only temporal attention
mixes frames. `UNet3D` is the small, fast network that the demo trains; this one is for the paper's sizes and weights.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from trimtab.core.values import Video
from trimtab.networks.attention import FrameNumber, LinearAttention, Order, SpatialAttention, TemporalAttention
from trimtab.networks.blocks import Frames, check_action_range
from trimtab.networks.precision import fast_products

Wider = Float[Tensor, "frames other height width"]


class Unit(torch.autograd.Function):
    """Vectors along the last axis at length one; with half of the passes over memory that autograd would take back."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor) -> Tensor:
        shrink = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True).clamp(min=1e-12).reciprocal().to(vectors.dtype)
        unit = vectors * shrink
        ctx.save_for_backward(unit, shrink)
        return unit

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        unit, shrink = ctx.saved_tensors
        along = (gradient * unit).sum(dim=-1, keepdim=True)
        return torch.addcmul(gradient, unit, along, value=-1) * shrink


class RootMeanSquareNorm(nn.Module):
    """Every position's channels at root mean square one, times a gain."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))

    def forward(self, frames: Frames, scale: Tensor | None = None, shift: Tensor | None = None) -> Frames:
        """With a scale (added to one) and a shift of each frame's channels, (frames, channel)."""
        gain = self.gain * math.sqrt(len(self.gain))
        tokens = frames.permute(0, 2, 3, 1)
        unit: Tensor = Unit.apply(tokens)
        if scale is None or shift is None:
            return (unit * gain.to(unit.dtype)).permute(0, 3, 1, 2)
        gain = (gain * (1 + scale)).to(unit.dtype)
        return torch.addcmul(shift.to(unit.dtype)[:, None, None], unit, gain[:, None, None]).permute(0, 3, 1, 2)


class ResidualBlock(nn.Module):
    """Twice a 3x3 convolution, norm and SiLU; the first is scaled and shifted frame by frame (with `condition` > 0)."""

    def __init__(self, channels: int, out_channels: int, condition: int = 0) -> None:
        super().__init__()
        self.modulation = nn.Linear(condition, 2 * out_channels) if condition else None
        self.first = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.first_norm = RootMeanSquareNorm(out_channels)
        self.second = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.second_norm = RootMeanSquareNorm(out_channels)
        self.skip = nn.Conv2d(channels, out_channels, 1) if channels != out_channels else nn.Identity()

    def forward(self, frames: Frames, condition: Float[Tensor, "frames condition"] | None = None) -> Wider:
        modulation = () if self.modulation is None else self.modulation(condition).chunk(2, dim=1)
        hidden = self.first_norm(self.first(frames), *modulation)
        hidden = functional.silu(self.second_norm(self.second(functional.silu(hidden))))
        return hidden + self.skip(frames)


class Stage(nn.Module):
    """One resolution: two residual blocks, linear attention in space, attention in time, and a change of resolution."""

    def __init__(
        self, channels: int, out_channels: int, condition: int, heads: int, head_dim: int, resample: nn.Module
    ) -> None:
        super().__init__()
        self.first = ResidualBlock(channels, out_channels, condition)
        self.second = ResidualBlock(out_channels, out_channels, condition)
        self.space = LinearAttention(out_channels, heads)
        self.time = TemporalAttention(out_channels, heads, head_dim)
        self.resample = resample

    def forward(self, frames: Frames, condition: Tensor, order: Order) -> Wider:
        """Without the change of resolution, for the sake of the skip connection."""
        frames = self.second(self.first(frames, condition), condition)
        return self.time(self.space(frames), order)


class Trunk(nn.Module):
    """The way down and the middle, which the U-Net and the classifier have in common.

    Args:
        in_channels: of the frames.
        width: channels at full resolution ("dim").
        heads, head_dim: of temporal attention; the same number of heads, of 32 features, attends in space.
        multiples: of the width, at each resolution.
        condition: width of what scales and shifts the residual blocks.
    """

    def __init__(
        self, in_channels: int, width: int, heads: int, head_dim: int, multiples: Sequence[int], condition: int
    ) -> None:
        super().__init__()
        self.in_channels, self.width, self.multiple = in_channels, width, 2 ** (len(multiples) - 1)
        self.step = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, 4 * width))
        self.frame_number = FrameNumber(heads, head_dim)
        self.stem = nn.Conv2d(in_channels, width, 7, padding=3)
        self.stem_time = TemporalAttention(width, heads, head_dim)
        self.pairs = list(pairwise([width, *(width * multiple for multiple in multiples)]))
        wide, last = self.pairs[-1][1], len(self.pairs) - 1
        self.down = nn.ModuleList(
            Stage(few, many, condition, heads, head_dim, nn.Identity() if place == last else halving(many))
            for place, (few, many) in enumerate(self.pairs)
        )
        self.middle_first = ResidualBlock(wide, wide, condition)
        self.middle_space = SpatialAttention(wide, heads)
        self.middle_time = TemporalAttention(wide, heads, head_dim)
        self.middle_second = ResidualBlock(wide, wide, condition)

    def encode(self, video: Video, condition: Tensor, order: Order) -> tuple[Tensor, list[Tensor]]:
        """The middle's frames, and those to be carried across: after the stem, and after each stage."""
        frames = self.stem(video.flatten(0, 1).contiguous(memory_format=torch.channels_last))
        frames = self.stem_time(frames, order)
        skips = [frames]
        for stage in self.down:
            skips.append(stage(frames, condition, order))
            frames = stage.resample(skips[-1])  # type: ignore[operator]
        frames = self.middle_time(self.middle_space(self.middle_first(frames, condition)), order)
        return self.middle_second(frames, condition), skips

    def check(self, video: Video, actions: Tensor | None = None) -> None:
        """Raises ValueError for shapes that the network was not built for."""
        batch, time, channels, height, width = video.shape
        if channels != self.in_channels or height % self.multiple or width % self.multiple:
            raise ValueError(
                f"this network takes {self.in_channels} channels and sides that divide by {self.multiple}, "
                f"got {channels} channels of {height} x {width}"
            )
        if actions is not None and actions.shape != (batch, time):
            raise ValueError(f"actions must be ({batch}, {time}), one a frame; got {tuple(actions.shape)}")


class AvidUNet3D(Trunk):
    """The space-time U-Net of AVID's pixel models.

    Args:
        in_channels: everything stacked on channels: context frames channel by channel (R of both, G of both, B of both), the
            noisy frame, and for an adapter the prior's output: 9, or 12.
        out_channels: channels of the answer.
        width, heads, head_dim, multiples: as in `Trunk`; 100, 8, 64 for the base model, 50, 4, 50 and 90, 6, 50 for the
            small and the large adapter.
        num_actions: size of the discrete action set.
        mask: whether to answer a mask logit; it passes through one last factor and shift, both zero at first.
    """

    def __init__(
        self,
        *,
        in_channels: int = 9,
        out_channels: int = 3,
        width: int = 50,
        heads: int = 4,
        head_dim: int = 50,
        multiples: Sequence[int] = (1, 2, 4, 8),
        num_actions: int = 15,
        mask: bool = False,
    ) -> None:
        condition = 8 * width
        super().__init__(in_channels, width, heads, head_dim, multiples, condition)
        self.out_channels = out_channels
        self.action = nn.Embedding(num_actions, width)
        self.null_action = nn.Parameter(torch.randn(width))
        self.action_mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, 4 * width))
        last = len(multiples) - 1
        self.up = nn.ModuleList(
            Stage(2 * many, few, condition, heads, head_dim, nn.Identity() if place == last else doubling(few))
            for place, (few, many) in enumerate(reversed(self.pairs))
        )
        self.last = ResidualBlock(2 * width, width)
        self.answer = nn.Conv2d(width, out_channels + int(mask), 1)
        self.mask = nn.Conv2d(1, 1, 1) if mask else None
        if self.mask is not None:
            for parameter in self.mask.parameters():
                nn.init.zeros_(parameter)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(
        self,
        video: Video,
        step: Float[Tensor, " batch"] | Int[Tensor, " batch"],
        actions: Int[Tensor, "batch time"] | None = None,
        known: Bool[Tensor, " batch"] | None = None,
    ) -> tuple[Float[Tensor, "batch time answer height width"], Float[Tensor, "batch time 1 height width"] | None]:
        """The answer and the mask logit (None without a mask), in float32.

        Args:
            video: frames, everything that the network sees stacked on their channels.
            step: of diffusion, 0 (nearly clean) to 199 in the paper.
            actions: for each frame the action that leads to it; None for the null action everywhere.
            known: which samples know their actions; the others get the null action.

        Raises:
            ValueError: a shape or an action that the network was not built for.
        """
        self.check(video, actions)
        if actions is not None:
            check_action_range(actions, self.action.num_embeddings)
        batch, time = video.shape[:2]
        with fast_products(video.device):
            null = self.null_action.expand(batch, time, -1)
            action = null if actions is None else self.action(actions)
            if actions is not None and known is not None:
                action = torch.where(known[:, None, None], action, null)
            of_step = self.step(sinusoids(step, self.width))[:, None].expand(-1, time, -1)
            condition = functional.silu(torch.cat([of_step, self.action_mlp(action)], dim=-1).flatten(0, 1))
            order = self.frame_number(time)
            frames, skips = self.encode(video, condition, order)
            for stage in self.up:
                frames = stage(torch.cat([frames, skips.pop()], dim=1), condition, order)
                frames = stage.resample(frames)  # type: ignore[operator]
            answer = self.answer(self.last(torch.cat([frames, skips.pop()], dim=1))).float()
        answer, logit = answer.tensor_split([self.out_channels], dim=1)
        mask = None if self.mask is None else self.mask(logit).unflatten(0, (batch, time))
        return answer.unflatten(0, (batch, time)), mask


class AvidActionClassifier(Trunk):
    """Reads the actions off a clip: AVID's judge of generated video (width 64, 6 heads of 64), and, told the diffusion step,
    its guide of sampling (width 80, 8 heads of 64). Its 39,699,359 and 59,747,471 parameters are for 64 x 64 pixels."""

    def __init__(
        self,
        *,
        width: int = 64,
        heads: int = 6,
        head_dim: int = 64,
        multiples: Sequence[int] = (1, 2, 4, 8),
        num_actions: int = 15,
        hidden: int = 1024,
        size: int = 64,
    ) -> None:
        super().__init__(3, width, heads, head_dim, multiples, 4 * width)
        many = self.pairs[-1][1]
        features = (size // 2 ** len(multiples)) ** 2 * many
        self.size, self.shrink = size, halving(many)
        self.head = nn.Sequential(
            nn.LayerNorm(features), nn.Linear(features, hidden), nn.GELU(), nn.Linear(hidden, num_actions)
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(
        self, video: Video, num_context: int, step: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch frames action"]:
        """Logits of the action that led to each frame after the first `num_context`.

        Args:
            video: (batch, time, 3, size, size) in [-1, 1], the context frames first.
            num_context: frames at the start of which no action is asked.
            step: of diffusion, for noisy clips (their context stays clean); 0 without it.

        Raises:
            ValueError: a shape that the network was not built for.
        """
        self.check(video)
        batch, time, _, height, width = video.shape
        if (height, width) != (self.size, self.size) or time <= num_context:
            raise ValueError(
                f"this classifier takes clips of more than {num_context} frames of {self.size} x {self.size}, "
                f"got {time} of {height} x {width}"
            )
        step = torch.zeros(batch, device=video.device) if step is None else step
        with fast_products(video.device):
            of_step = self.step(sinusoids(step, self.width))[:, None].expand(-1, time, -1)
            frames, _ = self.encode(video, functional.silu(of_step.flatten(0, 1)), self.frame_number(time))
            features = self.shrink(frames).permute(0, 2, 3, 1).flatten(1).unflatten(0, (batch, time))
            return self.head(features[:, num_context:]).float()


def halving(channels: int) -> nn.Module:
    return nn.Conv2d(channels, channels, 4, stride=2, padding=1)


def doubling(channels: int) -> nn.Module:
    return nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1)


def sinusoids(step: Tensor, dim: int) -> Float[Tensor, "batch dim"]:
    """Sines, then cosines, of frequencies from 1 to 1 / 10000."""
    half = dim // 2
    frequency = torch.exp(torch.arange(half, device=step.device) * (-math.log(10_000) / (half - 1)))
    phase = step.float()[:, None] * frequency
    return torch.cat([phase.sin(), phase.cos()], dim=-1)


ATTENTION = {
    r"\.fn\.norm\.gamma": ".norm.gain",
    r"\.fn\.fn(\.fn)?\.to_qkv\.": ".qkv.",
    r"\.fn\.fn(\.fn)?\.to_out\.": ".out.",
}
BLOCK = {
    r"\.mlp\.1\.": ".modulation.",
    r"\.block1\.proj\.": ".first.",
    r"\.block2\.proj\.": ".second.",
    r"\.block1\.norm\.gamma": ".first_norm.gain",
    r"\.block2\.norm\.gamma": ".second_norm.gain",
    r"\.res_conv\.": ".skip.",
}
PLACES = {
    r"^init_conv\.": "stem.",
    r"^init_temporal_attn\.": "stem_time.",
    r"^time_rel_pos_bias\.relative_attention_bias\.": "frame_number.bias.",
    r"^time_mlp\.1\.": "step.0.",
    r"^time_mlp\.3\.": "step.2.",
    r"^action_emb\.": "action.",
    r"^null_action_emb$": "null_action",
    r"^(down|up)s\.(\d+)\.0\.": r"\1.\2.first.",
    r"^(down|up)s\.(\d+)\.1\.": r"\1.\2.second.",
    r"^(down|up)s\.(\d+)\.2\.": r"\1.\2.space.",
    r"^(down|up)s\.(\d+)\.3\.": r"\1.\2.time.",
    r"^(down|up)s\.(\d+)\.4\.": r"\1.\2.resample.",
    r"^mid_block1\.": "middle_first.",
    r"^mid_block2\.": "middle_second.",
    r"^mid_spatial_attn\.": "middle_space.",
    r"^mid_temporal_attn\.": "middle_time.",
    r"^final_conv\.0\.": "last.",
    r"^final_down\.": "shrink.",
    r"^out_mlp\.": "head.",
    r"^final_conv\.1\.": "answer.",
}


def from_public(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of the public network (`Unet3D` of AVID's pixel code) under this network's names and shapes.

    Names are rewritten by the tables above; convolutions lose their time axis of length one, gains their axes of length
    one; the rotary frequencies, which every attention there repeats, are kept once. The adapter's last factor and shift of
    the mask lie outside that network (`mixture_conv` of the diffusion): pass them along under that name. The public
    classifier (`Unet3DEncoder`) is mapped in the same way.
    """
    mapped = {}
    for name, value in weights.items():
        if name.endswith("rotary_emb.freqs"):
            mapped["frame_number.frequencies"] = value
            continue
        if name.startswith("mixture_conv."):
            mapped["mask." + name.removeprefix("mixture_conv.")] = value.flatten(2, 3) if value.ndim == 5 else value
            continue
        new = name
        for pattern, replacement in (PLACES | ATTENTION | BLOCK).items():
            new = re.sub(pattern, replacement, new)
        if new.endswith(".gain"):
            value = value.flatten()
        elif value.ndim == 5:
            value = value.squeeze(2)
        elif value.ndim == 4:  # the 1x1 convolutions of linear attention are matrices here
            value = value.flatten(1)
        mapped[new] = value
    return mapped
