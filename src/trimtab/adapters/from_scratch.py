"""Action-conditioned diffusion from scratch, the baseline: AVID's network without prior and mask; knows neither."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from trimtab.core.contracts import BoundDenoiser, Prior
from trimtab.core.values import Conditioning, Fact, NoiseLevel, Prediction, Video
from trimtab.diffusion.preconditioning import FrameChange, observed_drift
from trimtab.networks.unet3d import UNet3D


class FromScratch(nn.Module):
    """A `Denoiser` of the same clips as `prior`, which it takes only the shapes from (arXiv 2410.12822).

    Args:
        prior: whose clip length, context, frame shape and space to share.
        num_actions, action_dim, deviation, widths, depths, patch: as in `AVID`.
    """

    uses: frozenset[Fact] = frozenset({"context", "actions"})

    def __init__(
        self,
        prior: Prior,
        *,
        num_actions: int | None = None,
        action_dim: int | None = None,
        deviation: float = 0.2,
        widths: Sequence[int] = (64, 128, 192),
        depths: Sequence[int] = (1, 1, 2),
        patch: int = 2,
    ) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {
            "num_actions": num_actions, "action_dim": action_dim, "deviation": deviation,
            "widths": list(widths), "depths": list(depths), "patch": patch,
        }  # fmt: skip
        self.space, self.deviation, self.num_context = prior.space, deviation, prior.num_context
        channels = prior.frame_shape[0]
        self.network = UNet3D(
            in_channels=channels * (1 + prior.num_context),
            out_channels=FrameChange.answer_channels(channels),
            num_actions=num_actions,
            action_dim=action_dim,
            max_frames=prior.num_frames,
            patch=patch,
            widths=widths,
            depths=depths,
        )

    def bind(self, given: Conditioning) -> BoundDenoiser:
        context = given.context
        if context is None:
            raise ValueError(f"this model needs the {self.num_context} context frames before the clip, got none")
        known = None if given.actions is None else given.is_known("actions")
        drift = observed_drift(context)

        def denoise(noisy: Video, level: NoiseLevel) -> Prediction:
            change = FrameChange(noisy, level, context, self.deviation, drift)
            answer, _ = self.network(change.stacked(), change.angle, given.actions, known)
            return change.belief(answer)

        return denoise

    def forward(self, noisy: Video, level: NoiseLevel, given: Conditioning) -> Prediction:
        return self.bind(given)(noisy, level)


def tiny(prior: Prior) -> FromScratch:
    """A model of toy size with three actions, for tests."""
    return FromScratch(prior, num_actions=3, widths=(32,), depths=(1,), patch=1)
