"""AVID's pixel model (arXiv 2410.12822): its network, shown context frames and noisy frames as they are, answers clean ones.

The base model has width 100 and 8 heads of 64, the small adapter width 50 and 4 heads of 50, the large one 90 and 6 of 50.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trimtab.core.checks import checked_context
from trimtab.core.contracts import Ask, ClipSpace
from trimtab.core.values import Conditioning, NoiseLevel, Prediction, Video
from trimtab.networks.avid_unet3d import AvidUNet3D, ToldTrunk

TINY = {"width": 16, "heads": 2, "head_dim": 32, "multiples": (1, 2)}
"""Sizes for tests."""


class Model(AvidUNet3D):
    """A `VideoModel` whose beliefs are clean frames.

    Args:
        clips: that it is to diffuse, by whose schedule the network is told the noise level.
        num_actions: size of a discrete action set; 15, Procgen's, for a network that is never told any.
        sees_prior, residual, mask, mask_bias: as for every model, see `build`; the paper has no bias.
        width, heads, head_dim, multiples: of `AvidUNet3D`.

    Raises:
        ValueError: continuous actions, which this network cannot take.
    """

    def __init__(
        self,
        clips: ClipSpace,
        *,
        num_actions: int | None = None,
        action_dim: int | None = None,
        sees_prior: bool = False,
        residual: bool = False,
        mask: bool = False,
        mask_bias: float = 0.0,
        width: int = 50,
        heads: int = 4,
        head_dim: int = 50,
        multiples: Sequence[int] = (1, 2, 4, 8),
    ) -> None:
        check_discrete(action_dim)
        channels = clips.frame_shape[0]
        super().__init__(
            in_channels=channels * (1 + clips.num_context + int(sees_prior)),
            out_channels=channels,
            num_actions=num_actions or 15,
            mask=mask,
            width=width,
            heads=heads,
            head_dim=head_dim,
            multiples=multiples,
        )
        self.sizes = {"width": width, "heads": heads, "head_dim": head_dim, "multiples": list(multiples)}
        self.clips = (clips,)  # in a tuple, so that a prior is neither trained nor saved with it
        self.told, self.sees_prior = num_actions is not None, sees_prior
        if self.mask is not None:
            nn.init.constant_(self.mask.bias, mask_bias)  # type: ignore[arg-type]
        self.added = nn.Conv2d(channels, channels, 1) if residual else None
        if self.added is not None:
            for parameter in self.added.parameters():
                nn.init.zeros_(parameter)

    def bind(self, given: Conditioning) -> Ask:
        clips = self.clips[0]
        context = by_channel(checked_context(given, clips))
        if given.actions is not None and not self.told:
            raise ValueError("this model was built without actions; pass num_actions when building it")
        known = None if given.actions is None else given.is_known("actions")

        def ask(
            noisy: Video,
            level: NoiseLevel,
            prior: Prediction | None = None,
            control: Sequence[Tensor] | None = None,
        ) -> tuple[Prediction, Tensor | None]:
            video, own, step = native(clips, noisy, level)
            extra = [prior.tensor] if prior is not None and self.sees_prior else []
            answer, mask = self(seen(context, video, *extra), step, given.actions, known, control)
            if prior is not None and self.added is not None:
                return prior.like(prior.tensor + self.added(answer.flatten(0, 1)).unflatten(0, answer.shape[:2])), mask
            return Prediction(answer, "clean", video, own).seen_at(noisy, level), mask

        return ask


class Controller(ToldTrunk):
    """The half of `Model` that looks, as a `Controller`.

    Args:
        clips, num_actions, action_dim, width, heads, head_dim, multiples: as in `Model`.

    Raises:
        ValueError: continuous actions, which this network cannot take.
    """

    def __init__(
        self,
        clips: ClipSpace,
        *,
        num_actions: int | None = None,
        action_dim: int | None = None,
        width: int = 52,
        heads: int = 8,
        head_dim: int = 64,
        multiples: Sequence[int] = (1, 2, 4, 8),
    ) -> None:
        check_discrete(action_dim)
        sizes: dict[str, Any] = {"width": width, "heads": heads, "head_dim": head_dim, "multiples": list(multiples)}
        channels = clips.frame_shape[0] * (1 + clips.num_context)
        super().__init__(in_channels=channels, num_actions=num_actions or 15, blind=True, **sizes)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.sizes, self.clips = sizes, (clips,)

    def bind(self, given: Conditioning) -> Callable[[Video, NoiseLevel], list[Tensor]]:
        clips = self.clips[0]
        context = by_channel(checked_context(given, clips))
        known = None if given.actions is None else given.is_known("actions")

        def look(noisy: Video, level: NoiseLevel) -> list[Tensor]:
            video, _, step = native(clips, noisy, level)
            return self.features(seen(context, video), step, given.actions, known)

        return look


def by_channel(context: Video) -> Float[Tensor, "batch 1 stacked height width"]:
    """Context frames on the channels of one frame: R of all of them, then G, then B."""
    return context.transpose(1, 2).flatten(1, 2)[:, None]


def seen(context: Tensor, *videos: Video) -> Float[Tensor, "batch time stacked height width"]:
    """What the network sees, stacked on channels."""
    return torch.cat([context.expand(-1, videos[0].shape[1], -1, -1, -1), *videos], dim=2)


def native(clips: ClipSpace, noisy: Video, level: NoiseLevel) -> tuple[Video, NoiseLevel, Tensor]:
    """The noisy clip in the schedule that the network knows. Raises ValueError for a level per frame."""
    video, own, step = clips.schedule.native(noisy, level)
    if step.ndim > 1:
        raise ValueError("avid_unet takes one noise level a clip, not one a frame; take the model change_unet")
    return video, own, step


def check_discrete(action_dim: int | None) -> None:
    if action_dim is not None:
        raise ValueError(f"avid_unet takes discrete actions, got action_dim={action_dim}; take the model change_unet")
