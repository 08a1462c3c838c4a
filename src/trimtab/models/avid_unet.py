"""AVID's pixel model (arXiv 2410.12822): its network, shown context frames and noisy frames as they are, answers clean ones.

The base model has width 100 and 8 heads of 64, the small adapter width 50 and 4 heads of 50, the large one 90 and 6 of 50.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trimtab.core.checks import checked_context
from trimtab.core.contracts import Ask, ClipSpace
from trimtab.core.values import Conditioning, NoiseLevel, Prediction, Video
from trimtab.networks.avid_unet3d import AvidUNet3D

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
        if action_dim is not None:
            raise ValueError(
                f"avid_unet takes discrete actions, got action_dim={action_dim}; take the model change_unet"
            )
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
        context = checked_context(given, clips)
        if given.actions is not None and not self.told:
            raise ValueError("this model was built without actions; pass num_actions when building it")
        known = None if given.actions is None else given.is_known("actions")
        by_channel = context.transpose(1, 2).flatten(1, 2)[:, None]  # R of both frames, then G, then B

        def ask(noisy: Video, level: NoiseLevel, prior: Prediction | None = None) -> tuple[Prediction, Tensor | None]:
            video, native, step = clips.schedule.native(noisy, level)
            if step.ndim > 1:
                raise ValueError("avid_unet takes one noise level a clip, not one a frame; take the model change_unet")
            seen = [by_channel.expand(-1, noisy.shape[1], -1, -1, -1), video]
            if prior is not None and self.sees_prior:
                seen.append(prior.tensor)
            answer, mask = self(torch.cat(seen, dim=2), step, given.actions, known)
            if prior is not None and self.added is not None:
                return prior.like(prior.tensor + self.added(answer.flatten(0, 1)).unflatten(0, answer.shape[:2])), mask
            return Prediction(answer, "clean", video, native).seen_at(noisy, level), mask

        return ask
