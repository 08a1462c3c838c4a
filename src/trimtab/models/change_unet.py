"""The embedded model: the small U-Net, asked for the change since the last frame (see `FrameChange`); knows no prior."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trimtab.core.checks import checked_context, optional_context
from trimtab.core.contracts import Ask, ClipSpace
from trimtab.core.values import Conditioning, NoiseLevel, Prediction, Video
from trimtab.diffusion.preconditioning import FrameChange, observed_drift
from trimtab.networks.attention import Source
from trimtab.networks.blocks import TemporalConv
from trimtab.networks.unet3d import NO_TEXT, Text, Trunk, UNet3D

TINY = {"widths": (32,), "depths": (1,), "patch": 1}
"""Sizes for tests."""


class Model(UNet3D):
    """A `VideoModel` whose beliefs are velocities.

    Args:
        clips: that it is to diffuse.
        sees_prior, residual: as for every model, see `build`.
        deviation: the usual change between frames.
        context_optional: whether it answers without context, too, as it then has to be trained (`forgotten` clips). A sample
            that does not know its context is shown grey frames in its place.
        copies: whether a frame is departed from that attention puts together of the last context frame, from anywhere in it
            (`CopyAttention`), and not only from what stood nearby. It helps where things move farther in a frame than they
            are large. A residual model departs from its prior instead, and never copies.
        widths, depths, patch: of the network, as the other options (such as `text_dim`), see `UNet3D`.
    """

    def __init__(
        self,
        clips: ClipSpace,
        *,
        sees_prior: bool = False,
        residual: bool = False,
        deviation: float = 0.2,
        context_optional: bool = False,
        widths: Sequence[int] = (64, 96, 128),
        depths: Sequence[int] = (1, 1, 2),
        patch: int = 2,
        copies: bool = False,
        **options: Any,
    ) -> None:
        channels = clips.frame_shape[0]
        super().__init__(
            in_channels=FrameChange.seen_channels(channels, clips.num_context) + channels * int(sees_prior),
            out_channels=channels if residual else FrameChange.answer_channels(channels),
            max_frames=clips.num_frames,
            widths=widths,
            depths=depths,
            patch=patch,
            copies=channels if copies and not residual else None,
            **options,
        )
        self.clips = (clips,)  # in a tuple, so that a prior is neither trained nor saved with it
        self.sizes = sizes(self, deviation, depths, context_optional, copies)
        self.sees_prior, self.residual = sees_prior, residual
        self.deviation, self.context_optional = deviation, context_optional

    def inherit(self, weights: Mapping[str, Tensor], num_context: int) -> None:
        """Begin with what another network of these sizes learned, told texts or not, and shown `num_context` frames.

        Shown fewer frames than it was, this one answers as that one does if the first of them stood there before. Shown
        more, it does not heed the older ones; nor, at first, a text that the other could not hear. If it copies and the
        other did not, it answers otherwise until it has learned to.

        Raises ValueError for the weights of any other network.
        """
        own, channels = self.state_dict(), self.clips[0].frame_shape[0]
        num_seen = FrameChange.seen_channels(channels, num_context)
        if (found := weights["stem.weight"].shape[1]) != num_seen * self.patch**2:
            raise ValueError(
                f"these are another network's weights: it sees {found} numbers, not {num_seen * self.patch**2}"
            )
        seen = weights["stem.weight"].unflatten(1, (num_seen, -1))
        noisy, context, others = seen.tensor_split([channels, channels * (1 + num_context)], dim=1)
        frames, missing = context.split(channels, dim=1), self.clips[0].num_context - num_context
        shown = [*[torch.zeros_like(noisy)] * missing, *frames[max(-missing, 0) :]]
        shown[0] = shown[0] + sum(frames[: max(-missing, 0)])
        may_lack = ("reads.", "gist.", "copy.", "show.", "again.")
        lacked = {name: value for name, value in own.items() if name.startswith(may_lack)}
        stem = torch.cat([noisy, *shown, others], dim=1).flatten(1, 2)
        inherited = lacked | {**weights, "stem.weight": stem}
        shapes = [{(name, value.shape) for name, value in some.items()} for some in (own, inherited)]
        if unlike := sorted({name for name, _ in shapes[0] ^ shapes[1]}):
            raise ValueError(f"these are another network's weights: {unlike} are missing, too many or of another shape")
        self.load_state_dict(inherited)

    def bind(self, given: Conditioning) -> Ask:
        see = eye(self.clips[0], given, self.deviation, self.context_optional)
        known = None if given.actions is None else given.is_known("actions")
        text = told_text(self, given)

        def ask(
            noisy: Video,
            level: NoiseLevel,
            prior: Prediction | None = None,
            control: Sequence[Tensor] | None = None,
        ) -> tuple[Prediction, Tensor | None]:
            shown = prior if self.sees_prior else None
            change, extra = see(noisy, level), [] if shown is None else [shown.tensor]
            source = None if self.copy is None else source_of(change)
            answer, mask = self(change.stacked(*extra), change.angle, given.actions, known, control, text, source)
            if prior is not None and self.residual:
                return prior.like(prior.tensor + answer), mask
            return change.belief(answer), mask

        return ask


def sizes(
    network: Trunk, deviation: float, depths: Sequence[int], context_optional: bool, copies: bool
) -> dict[str, Any]:
    """The options that rebuild a model or a controller around this network."""
    text = {} if network.text_dim is None else {"text_dim": network.text_dim}
    more = {"context_optional": context_optional, "copies": copies, "steady": network.steady}
    widths = list(network.channels)
    return {
        "deviation": deviation,
        "widths": widths,
        "depths": list(depths),
        "patch": network.patch,
        **text,
        **{name: True for name, has in more.items() if has},
    }


def eye(
    clips: ClipSpace, given: Conditioning, deviation: float, context_optional: bool
) -> Callable[[Video, NoiseLevel], FrameChange]:
    """How a noisy clip is seen beside its context, or, where that is optional and not known, beside grey frames."""
    context = optional_context(given, clips) if context_optional else checked_context(given, clips)
    drift = None if context is None else observed_drift(context)

    def see(noisy: Video, level: NoiseLevel) -> FrameChange:
        grey = noisy.new_zeros(len(noisy), clips.num_context, *clips.frame_shape)
        return FrameChange(noisy, level, grey if context is None else context, deviation, drift)

    return see


def source_of(change: FrameChange) -> Source:
    """The last context frame, to be copied from into a noisy clip."""
    return Source(change.context[:, -1], change.video, *change.native.broadcast(), change.unlike)


def told_text(network: Trunk, given: Conditioning) -> Text:
    """What of the text a network hears."""
    if network.text_dim is None or given.text is None:
        return NO_TEXT
    return Text(given.text, given.known.get("text"))


class Controller(Trunk):
    """The half of `Model` that looks, as a `Controller`.

    Args:
        clips, deviation, context_optional, copies, widths, depths, patch, options: as in `Model`. It copies nothing itself.
    """

    def __init__(
        self,
        clips: ClipSpace,
        *,
        deviation: float = 0.2,
        context_optional: bool = False,
        widths: Sequence[int] = (64, 96, 128),
        depths: Sequence[int] = (1, 1, 2),
        patch: int = 2,
        copies: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            in_channels=FrameChange.seen_channels(clips.frame_shape[0], clips.num_context),
            max_frames=clips.num_frames,
            widths=widths,
            depths=depths,
            patch=patch,
            **options,
        )
        self.clips = (clips,)
        self.sizes = sizes(self, deviation, depths, context_optional, copies)
        self.deviation, self.context_optional = deviation, context_optional
        for block in self.modules():
            if isinstance(block, TemporalConv):  # zeros would learn late here, and what is added is gated anyway
                block.conv.reset_parameters()

    def bind(self, given: Conditioning) -> Callable[[Video, NoiseLevel], list[Tensor]]:
        see = eye(self.clips[0], given, self.deviation, self.context_optional)
        known = None if given.actions is None else given.is_known("actions")
        text = told_text(self, given)

        def look(noisy: Video, level: NoiseLevel) -> list[Tensor]:
            change = see(noisy, level)
            return self.features(change.stacked(), change.angle, given.actions, known, text)

        return look
