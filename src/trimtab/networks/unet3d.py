"""The small trainable video network: a factorised space-time U-Net over pixel patches; knows tensors only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor, nn
from torch.nn import functional

from trimtab.networks.attention import CopyAttention, Source, TextAttention, mean_token
from trimtab.networks.blocks import Block, ConvToPixels, FourierEmbedding, check_action_range
from trimtab.networks.precision import fast_products

MASK_PACE = 0.25
"""How fast a mask logit learns, compared with the answer. An adapter knows less than its prior at first: a mask that is
quick to say so shuts it out before it has learned what only it is told."""


class Text(NamedTuple):
    """Token states of each video's text, and which videos are told theirs (all by default); no tokens, nobody is told."""

    tokens: Float[Tensor, "batch token feature"] | None = None
    known: Bool[Tensor, " batch"] | None = None


NO_TEXT = Text()


class Trunk(nn.Module):
    """The way down and the middle of `UNet3D`: from frames to features, coarser and coarser.

    Args:
        in_channels, num_actions, action_dim, text_dim, max_frames, patch, widths, depths, embedding, steady: as in `UNet3D`.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_actions: int | None = None,
        action_dim: int | None = None,
        text_dim: int | None = None,
        max_frames: int = 8,
        patch: int = 2,
        widths: Sequence[int] = (64, 128, 256),
        depths: Sequence[int] = (1, 2, 4),
        embedding: int = 256,
        steady: bool = False,
    ) -> None:
        super().__init__()
        if num_actions is not None and action_dim is not None:
            raise ValueError("a network takes discrete actions (num_actions) or continuous ones (action_dim), not both")
        if len(widths) != len(depths) or any(width % 32 for width in widths):
            raise ValueError(f"widths {tuple(widths)} must be multiples of 32, one for each of depths {tuple(depths)}")
        self.in_channels, self.patch, self.max_frames, self.channels = in_channels, patch, max_frames, tuple(widths)
        self.num_actions, self.action_dim, self.text_dim = num_actions, action_dim, text_dim
        self.steady = steady
        self.multiple = patch * 2 ** (len(widths) - 1)

        self.level = nn.Sequential(
            FourierEmbedding(128), nn.Linear(128, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        self.place = nn.Embedding(max_frames, embedding)
        self.action: nn.Module | None = None
        if num_actions is not None:
            self.action = nn.Embedding(num_actions, embedding)
        elif action_dim is not None:
            self.action = nn.Sequential(nn.Linear(action_dim, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        if self.action is not None:
            self.null_action = nn.Parameter(torch.randn(embedding))
        self.gist: nn.Sequential | None = None
        if text_dim is not None:
            outer = nn.Linear(embedding, embedding)
            for parameter in outer.parameters():
                nn.init.zeros_(parameter)
            alike = nn.LayerNorm(text_dim, elementwise_affine=False)  # what tells two texts apart is small as it comes
            self.gist = nn.Sequential(alike, nn.Linear(text_dim, embedding), nn.SiLU(), outer)

        last = len(widths) - 1
        self.stem = nn.Conv2d(in_channels * patch**2, widths[0], 3, padding=1)
        self.down = nn.ModuleList(blocks(depths[stage], widths[stage], embedding) for stage in range(last))
        self.shrink = nn.ModuleList(nn.Conv2d(widths[i], widths[i + 1], 2, stride=2) for i in range(last))
        self.middle = blocks(depths[last], widths[last], embedding)
        self.reads: nn.ModuleList | None = None
        if text_dim is not None:
            self.reads = nn.ModuleList(TextAttention(widths[last], text_dim) for _ in range(depths[last]))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def condition(
        self, angle: Tensor, actions: Tensor | None, known: Tensor | None, text: Text, batch: int, time: int
    ) -> Float[Tensor, "frames embedding"]:
        """What scales and shifts every block, frame by frame."""
        place = self.place.weight[:time].expand(batch, time, -1)
        level = self.level(angle.flatten()).unflatten(0, angle.shape)
        total = place + (level[:, None] if angle.ndim == 1 else level)
        if self.action is not None:
            null = self.null_action.expand(batch, time, -1)
            action = null if actions is None else self.action(actions)
            if actions is not None and known is not None:
                action = torch.where(known[:, None, None], action, null)
            total = total + action
        if self.gist is not None and text.tokens is not None:
            gist = self.gist(mean_token(text.tokens))
            told = gist if text.known is None else torch.where(text.known[:, None], gist, 0.0)
            total = total + told[:, None]
        total = total.flatten(0, 1)
        return functional.silu(functional.layer_norm(total, total.shape[1:]) if self.steady else total)

    def even(self, frames: Tensor) -> Tensor:
        """Frames of mean square 1, if the network is steady, for what is then joined to them."""
        if not self.steady:
            return frames
        size = torch.linalg.vector_norm(frames, dim=(1, 2, 3), keepdim=True, dtype=torch.float32)
        return frames * (math.sqrt(frames[0].numel()) / size.clamp(min=1e-6)).to(frames.dtype)

    def adopt(self, weights: Mapping[str, Tensor]) -> None:
        """Take over the weights of a larger or equal network that is told no actions; at first, no action changes anything.

        Raises ValueError if they are not of this network's sizes, or do not hold all that it has beside actions.
        """
        own = self.state_dict()
        actions = [name for name in own if name.startswith(("action.", "null_action"))]
        last = ("action.weight", "action.2.", "null_action")  # what is added; before it, zeros would not learn
        silent = {name: torch.zeros_like(own[name]) if name.startswith(last) else own[name] for name in actions}
        missing = [name for name in own if name not in weights and name not in silent]
        unlike = [name for name in own if name in weights and own[name].shape != weights[name].shape]
        if missing or unlike:
            raise ValueError(
                f"these are another network's weights: {missing or unlike} are missing or of another shape"
            )
        self.load_state_dict({name: weights[name] if name in weights else silent[name] for name in own})

    def encode(
        self,
        video: Float[Tensor, "batch time channel height width"],
        condition: Float[Tensor, "frames embedding"],
        text: Text = NO_TEXT,
    ) -> list[Tensor]:
        """The features of every resolution: those that are carried across, and last the middle's, which reads the text."""
        time = video.shape[1]
        frames = functional.pixel_unshuffle(video.flatten(0, 1), self.patch)
        frames = self.stem(frames.contiguous(memory_format=torch.channels_last))
        features = []
        for stage, shrink in zip(self.down, self.shrink, strict=True):
            for block in stage:  # type: ignore[attr-defined]
                frames = block(frames, condition, time)
            features.append(frames := self.even(frames))
            frames = shrink(frames)
        for place, block in enumerate(self.middle):
            frames = block(frames, condition, time)
            if self.reads is not None:
                frames = self.reads[place](frames, text.tokens, text.known, time)
        return [*features, frames]

    def features(
        self,
        video: Tensor,
        angle: Tensor,
        actions: Tensor | None = None,
        known: Tensor | None = None,
        text: Text = NO_TEXT,
    ) -> list[Tensor]:
        """Checked, and in the number format of products, all that `encode` says. Arguments as of `UNet3D.forward`."""
        self.check(video, actions, text)
        with fast_products(video.device):
            return self.encode(video, self.condition(angle, actions, known, text, *video.shape[:2]), text)

    def check(self, video: Tensor, actions: Tensor | None, text: Text = NO_TEXT) -> None:
        """Raises ValueError for a shape or dtype that the network was not built for."""
        _, time, channels, height, width = video.shape
        if channels != self.in_channels or height % self.multiple or width % self.multiple:
            raise ValueError(
                f"this network takes {self.in_channels} channels and sides that divide by {self.multiple}, "
                f"got {channels} channels of {height} x {width}"
            )
        if time > self.max_frames:
            raise ValueError(f"this network was built for 1 to {self.max_frames} frames, got {time}; predict in chunks")
        if text.tokens is not None:
            if self.text_dim is None:
                raise ValueError("this network was built without text; pass text_dim when building it")
            if text.tokens.shape[::2] != (len(video), self.text_dim) or text.tokens.shape[1] < 1:
                needed, found = f"({len(video)}, token, {self.text_dim})", tuple(text.tokens.shape)
                raise ValueError(f"text must be {needed}, at least one token; got {found}")
        if actions is None:
            return
        if self.action is None:
            raise ValueError("this network was built without actions; pass num_actions or action_dim when building it")
        discrete = self.num_actions is not None
        expected = tuple(video.shape[:2]) if discrete else (*video.shape[:2], self.action_dim)
        if tuple(actions.shape) != expected or actions.is_floating_point() == discrete:
            kind = f"integers below {self.num_actions}" if discrete else "floats"
            raise ValueError(
                f"actions must be {kind} of shape {expected}, one a frame; got {actions.dtype} {tuple(actions.shape)}"
            )
        if self.num_actions is not None:
            check_action_range(actions, self.num_actions)


class UNet3D(Trunk):
    """Noisy frames (and whatever is stacked on their channels) to an answer a pixel, and optionally a mask logit a patch.

    Frames are cut into patches (pixel-unshuffle), so that the widths suit matrix units and little time goes into large,
    thin images. Every block mixes space by a 3x3 convolution and time by a 3-tap one, and is scaled and shifted frame by
    frame by the sum of three embeddings: noise level, place of the frame in the clip, and the action that causes the
    frame; so is what the answer is made of. The answer starts at zero, the mask logit at `mask_bias` everywhere.

    Args:
        in_channels: channels of the input, the noisy frame and everything stacked on it.
        out_channels: channels of the answer.
        num_actions: size of a discrete action set, or
        action_dim: width of a continuous action; neither for a network without actions.
        text_dim: features of a token of text; None for a network without text. The middle attends to the tokens, and their
            mean, the gist, is a part of that sum, too, so that each block hears the text; at first neither adds anything.
            Zeros after a text are no tokens.
        max_frames: the longest clip.
        patch: side of a patch in pixels; height and width must divide by patch * 2 ** (len(widths) - 1).
        widths: channels at each resolution, multiples of 32.
        depths: blocks at each resolution, on the way down and again on the way up (the last: once, in the middle).
        embedding: width of the embeddings.
        steady: whether features are brought to one size wherever others are added to them or they go on to another
            resolution, and the embeddings' sum before it is used. Else weights that grow, as they do in long trainings with
            large steps, let features grow until skips add nothing to them, and push the sum to where nothing comes through.
        mask: whether to answer a mask logit too.
        mask_bias: the mask logit of the untrained network.
        copies: channels of a frame of which each frame's patches are copied, from wherever attention finds them; None for a
            network that copies nothing. The copy is a part of the answer, after the `out_channels`; for the rest of the
            answer one block more sees it, so that it can tell where the copy is right.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        num_actions: int | None = None,
        action_dim: int | None = None,
        text_dim: int | None = None,
        max_frames: int = 8,
        patch: int = 2,
        widths: Sequence[int] = (64, 128, 256),
        depths: Sequence[int] = (1, 2, 4),
        embedding: int = 256,
        mask: bool = False,
        mask_bias: float = 0.0,
        copies: int | None = None,
        steady: bool = False,
    ) -> None:
        super().__init__(
            in_channels=in_channels,
            num_actions=num_actions,
            action_dim=action_dim,
            text_dim=text_dim,
            max_frames=max_frames,
            patch=patch,
            widths=widths,
            depths=depths,
            embedding=embedding,
            steady=steady,
        )
        self.out_channels, self.mask_bias = out_channels, mask_bias
        last = len(widths) - 1
        self.grow = nn.ModuleList(ConvToPixels(widths[i + 1], widths[i], 2) for i in range(last))
        self.up = nn.ModuleList(blocks(depths[stage], widths[stage], embedding) for stage in range(last))
        self.norm = nn.GroupNorm(widths[0] // 32, widths[0])
        self.modulation = nn.Linear(embedding, 2 * widths[0])
        self.answer = ConvToPixels(widths[0], out_channels, patch, kernel_size=3)
        self.mask = nn.Conv2d(widths[0], 1, 3, padding=1) if mask else None  # a trust a patch
        heads = [self.modulation, self.answer] + ([] if self.mask is None else [self.mask])
        for parameter in (parameter for head in heads for parameter in head.parameters()):
            nn.init.zeros_(parameter)
        self.copy = None if copies is None else CopyAttention(widths[0], copies, patch)
        if copies is not None:
            self.show = nn.Conv2d(2 * copies * patch**2, widths[0], 3, padding=1)
            self.again = Block(widths[0], embedding)
            for parameter in self.show.parameters():
                nn.init.zeros_(parameter)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(
        self,
        video: Float[Tensor, "batch time channel height width"],
        angle: Float[Tensor, " batch"] | Float[Tensor, "batch time"],
        actions: Num[Tensor, "batch time *dim"] | None = None,
        known: Bool[Tensor, " batch"] | None = None,
        control: Sequence[Tensor] | None = None,
        text: Text = NO_TEXT,
        source: Source | None = None,
    ) -> tuple[Float[Tensor, "batch time answer height width"], Float[Tensor, "batch time 1 height width"] | None]:
        """The answer and the mask logit (None without a mask), in float32.

        Args:
            video: 1 to `max_frames` frames of `in_channels` channels.
            angle: of the noise level, 0 (clean) to pi / 2 (pure noise), per video or per frame.
            actions: for each frame the action that causes it: integers below `num_actions`, or floats of width
                `action_dim`.
            known: which samples know their actions; the others get the null action, as all do when actions are None.
            control: what to add to the features of every resolution, before they are carried across, and to the middle's.
            text: the tokens of each video's text.
            source: what patches are copied from, if the network copies.

        Raises:
            ValueError: a shape or dtype that the network was not built for, or nothing to copy from.
        """
        self.check(video, actions, text)
        if self.copy is not None and source is None:
            raise ValueError("this network copies patches of a frame; pass it as source")
        batch, time = video.shape[:2]
        with fast_products(video.device):
            condition = self.condition(angle, actions, known, text, batch, time)
            *skips, frames = features = self.encode(video, condition, text)
            if control is not None:
                *skips, frames = (own + added for own, added in zip(features, control, strict=True))
            for stage, grow, skip in reversed(list(zip(self.up, self.grow, skips, strict=True))):
                frames = self.even(grow(frames)) + skip
                for block in stage:  # type: ignore[attr-defined]
                    frames = block(frames, condition, time)
            carried: list[Tensor] = []
            if self.copy is not None and source is not None:
                copy = self.copy(self.head(frames, condition), source).float()
                carried.append(copy)
                beside = source.unlike(copy.detach().unflatten(0, (batch, time))).flatten(0, 1)
                shown = functional.pixel_unshuffle(torch.cat([copy.detach(), beside], dim=1), self.patch)
                frames = self.again(
                    self.even(frames) + self.show(shown.contiguous(memory_format=torch.channels_last)), condition, time
                )
            frames = self.head(frames, condition)
            answer, mask = self.answer(frames), None if self.mask is None else self.mask(frames)
            answer = torch.cat([answer.float(), *carried], dim=1)
        unfold = (batch, time)
        if mask is not None:
            mask = self.mask_bias + MASK_PACE * mask.float()
            mask = functional.interpolate(mask, scale_factor=self.patch).unflatten(0, unfold)
        return answer.unflatten(0, unfold), mask

    def head(self, frames: Tensor, condition: Tensor) -> Tensor:
        """What answer, mask and queries for a copy are made of: features of the finest resolution, normed and modulated."""
        scale, shift = self.modulation(condition)[:, :, None, None].chunk(2, dim=1)
        return functional.silu(torch.addcmul(shift, self.norm(frames), 1 + scale))


def blocks(depth: int, width: int, embedding: int) -> nn.ModuleList:
    return nn.ModuleList(Block(width, embedding) for _ in range(depth))
