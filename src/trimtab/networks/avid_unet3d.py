"""AVID's pixel network to the unit (arXiv 2410.12822); it knows tensors only.

It derives from lucidrains' video-diffusion: convolutions and linear attention act on each frame, only temporal attention
mixes frames. `UNet3D` is the small, fast network that the demo trains; this one is for the paper's sizes and weights.
"""

from __future__ import annotations

import math
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

    def encode(
        self, video: Video, condition: Tensor, order: Order, control: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """After the stem; and the features: after each stage, and of the middle after its attention and at its end.

        With `control`, something is added to each of these features; to a stage's, only where they are carried across.
        """
        frames = self.stem(video.flatten(0, 1).contiguous(memory_format=torch.channels_last))
        stem = frames = self.stem_time(frames, order)
        features = []
        for stage in self.down:
            features.append(stage(frames, condition, order))
            frames = stage.resample(features[-1])  # type: ignore[operator]
        middle = self.middle_time(self.middle_space(self.middle_first(frames, condition)), order)
        if control is None:
            return stem, [*features, middle, self.middle_second(middle, condition)]
        *of_stages, of_middle, of_end = control
        middle = middle + of_middle
        features = [own + added for own, added in zip(features, of_stages, strict=True)]
        return stem, [*features, middle, self.middle_second(middle, condition) + of_end]

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


class ToldTrunk(Trunk):
    """A trunk that is told actions.

    Args:
        in_channels, width, heads, head_dim, multiples, num_actions: as in `AvidUNet3D`.
        blind: whether what is said of actions passes through one more matrix, zero after `adopt`, and is added to what is
            said without any (ControlNet's copy); else it takes its place.
    """

    def __init__(
        self,
        *,
        in_channels: int = 9,
        width: int = 50,
        heads: int = 4,
        head_dim: int = 50,
        multiples: Sequence[int] = (1, 2, 4, 8),
        num_actions: int = 15,
        blind: bool = False,
    ) -> None:
        super().__init__(in_channels, width, heads, head_dim, multiples, 8 * width)
        self.action = nn.Embedding(num_actions, width)
        self.null_action = nn.Parameter(torch.randn(width))
        self.action_mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, 4 * width))
        self.blind = nn.Linear(4 * width, 4 * width) if blind else None

    @property
    def channels(self) -> tuple[int, ...]:
        """Of each of the features."""
        of_stages = [many for _, many in self.pairs]
        return (*of_stages, of_stages[-1], of_stages[-1])

    def condition(
        self, step: Tensor, actions: Tensor | None, known: Tensor | None, batch: int, time: int
    ) -> Float[Tensor, "frames condition"]:
        """What scales and shifts the residual blocks, frame by frame."""
        null = self.null_action.expand(batch, time, -1)
        action = null if actions is None else self.action(actions)
        if actions is not None and known is not None:
            action = torch.where(known[:, None, None], action, null)
        said = self.action_mlp(action)
        if self.blind is not None:
            said = self.action_mlp(null) + self.blind(said)
        of_step = self.step(sinusoids(step, self.width))[:, None].expand(-1, time, -1)
        return functional.silu(torch.cat([of_step, said], dim=-1).flatten(0, 1))

    def adopt(self, weights: Mapping[str, Tensor]) -> None:
        """Take over the weights of a larger or equal network that was told no actions; at first, no action changes anything.

        Raises ValueError if they are not of this network's sizes, or do not hold all that it has beside actions.
        """
        own = self.state_dict()
        known = [name for name in own if name != "action.weight" and not name.startswith("blind.")]
        unlike = [name for name in known if name not in weights or own[name].shape != weights[name].shape]
        if unlike:
            raise ValueError(f"these are another network's weights: {unlike} are missing or of another shape")
        self.load_state_dict(own | {name: weights[name] for name in known})
        with torch.no_grad():
            if self.blind is None:
                self.action.weight.copy_(self.null_action.expand_as(self.action.weight))
            else:
                self.blind.weight.zero_()
                self.blind.bias.zero_()

    def features(
        self, video: Video, step: Tensor, actions: Tensor | None = None, known: Tensor | None = None
    ) -> list[Tensor]:
        """Checked, and in the number format of products, the features. Arguments as of `AvidUNet3D.forward`."""
        self.check(video, actions)
        batch, time = video.shape[:2]
        with fast_products(video.device):
            condition = self.condition(step, actions, known, batch, time)
            return self.encode(video, condition, self.frame_number(time))[1]

    def check(self, video: Video, actions: Tensor | None = None) -> None:
        """Raises ValueError for shapes and actions that the network was not built for."""
        super().check(video, actions)
        if actions is not None:
            check_action_range(actions, self.action.num_embeddings)


class AvidUNet3D(ToldTrunk):
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
        super().__init__(
            in_channels=in_channels,
            width=width,
            heads=heads,
            head_dim=head_dim,
            multiples=multiples,
            num_actions=num_actions,
        )
        self.out_channels, condition = out_channels, 8 * width
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
        control: Sequence[Tensor] | None = None,
    ) -> tuple[Float[Tensor, "batch time answer height width"], Float[Tensor, "batch time 1 height width"] | None]:
        """The answer and the mask logit (None without a mask), in float32.

        Args:
            video: frames, everything that the network sees stacked on their channels.
            step: of diffusion, 0 (nearly clean) to 199 in the paper.
            actions: for each frame the action that leads to it; None for the null action everywhere.
            known: which samples know their actions; the others get the null action.
            control: what to add to the features, see `encode`.

        Raises:
            ValueError: a shape or an action that the network was not built for.
        """
        self.check(video, actions)
        batch, time = video.shape[:2]
        with fast_products(video.device):
            condition, order = self.condition(step, actions, known, batch, time), self.frame_number(time)
            stem, (*skips, _, frames) = self.encode(video, condition, order, control)
            for stage in self.up:
                frames = stage(torch.cat([frames, skips.pop()], dim=1), condition, order)
                frames = stage.resample(frames)  # type: ignore[operator]
            answer = self.answer(self.last(torch.cat([frames, stem], dim=1))).float()
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
            condition = functional.silu(of_step.flatten(0, 1))
            _, (*_, frames) = self.encode(video, condition, self.frame_number(time))
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
