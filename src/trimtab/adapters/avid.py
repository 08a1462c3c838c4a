"""AVID: a small adapter that sees only the frozen prior's outputs, and a learned mask that mixes the two; knows no prior.

    out = prior * m + adapter * (1 - m)        (arXiv 2410.12822; the mask weights the prior)

The mixture is made in the prior's own kind of prediction, which the adapter also sees. Trained with the ordinary
denoising loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trimtab.core.contracts import BoundDenoiser, Prior
from trimtab.core.values import Conditioning, Fact, NoiseLevel, Prediction, Video, Weights, combine
from trimtab.diffusion.preconditioning import FrameChange, observed_drift
from trimtab.networks.unet3d import UNet3D

Mask = Float[Tensor, "batch time 1 height width"] | None


class AVID(nn.Module):
    """A `Denoiser` that steers `prior` by actions. Its parameters are the adapter's alone; the prior never changes.

    Args:
        prior: frozen, never told the actions, always evaluated without gradients. It is not part of `state_dict()`.
        num_actions: size of a discrete action set, or
        action_dim: width of a continuous action.
        learn_mask: False for the ablation without a mask, out = prior + adapter (which starts exactly as the prior).
        see_prior: False for the ablation whose adapter does not see the prior's output.
        mask_bias: the initial mask logit: 0 trusts the prior by one half, as in the paper; 2 by 88%, so that a short
            training starts near the prior.
        deviation: the usual change between frames, see `FrameChange`.
        widths, depths, patch: of the adapter's network.
    """

    def __init__(
        self,
        prior: Prior,
        *,
        num_actions: int | None = None,
        action_dim: int | None = None,
        learn_mask: bool = True,
        see_prior: bool = True,
        mask_bias: float = 2.0,
        deviation: float = 0.2,
        widths: Sequence[int] = (64, 128, 192),
        depths: Sequence[int] = (1, 1, 2),
        patch: int = 2,
    ) -> None:
        super().__init__()
        self._prior = (prior,)  # in a tuple, so that it is neither trained, nor saved, nor switched to train mode
        self.settings: dict[str, Any] = {
            "num_actions": num_actions, "action_dim": action_dim, "learn_mask": learn_mask, "see_prior": see_prior,
            "mask_bias": mask_bias, "deviation": deviation, "widths": list(widths), "depths": list(depths), "patch": patch,
        }  # fmt: skip
        self.learn_mask, self.see_prior, self.deviation = learn_mask, see_prior, deviation
        channels = prior.frame_shape[0]
        answer_channels = FrameChange.answer_channels(channels) if learn_mask else channels  # else a plain residual
        self.network = UNet3D(
            in_channels=channels * (1 + prior.num_context + int(see_prior)),
            out_channels=answer_channels,
            num_actions=num_actions,
            action_dim=action_dim,
            max_frames=prior.num_frames,
            patch=patch,
            widths=widths,
            depths=depths,
            mask=learn_mask,
            mask_bias=mask_bias,
        )

    @property
    def prior(self) -> Prior:
        return self._prior[0]

    @property
    def space(self) -> str:
        return self.prior.space

    @property
    def uses(self) -> frozenset[Fact]:
        return self.prior.uses | {"context", "actions"}

    def bind(self, given: Conditioning) -> BoundDenoiser:
        believe = self.believe(given)
        return lambda noisy, level: believe(noisy, level)[0]

    def believe(self, given: Conditioning) -> Callable[[Video, NoiseLevel], tuple[Prediction, Mask]]:
        """As `bind`, with the mask beside each belief: the trust in the prior, in (0, 1); None without a learned mask."""
        context = given.context
        if context is None:
            raise ValueError(f"AVID needs the {self.prior.num_context} context frames before the clip, got none")
        known = None if given.actions is None else given.is_known("actions")
        prior_believes = self.prior.bind(given.without("actions"))
        drift = observed_drift(context)

        def denoise(noisy: Video, level: NoiseLevel) -> tuple[Prediction, Mask]:
            with torch.no_grad():
                prior = prior_believes(noisy, level)
            change = FrameChange(noisy, level, context, self.deviation, drift)
            seen = change.stacked(prior.tensor) if self.see_prior else change.stacked()
            answer, logit = self.network(seen, change.angle, given.actions, known)
            if logit is None:
                return prior.like(prior.tensor + answer), None
            mask = torch.sigmoid(logit)
            own = change.belief(answer).as_kind(prior.kind)
            return combine([own, prior], Weights.remainder(mask)), mask

        return denoise

    def forward(self, noisy: Video, level: NoiseLevel, given: Conditioning) -> Prediction:
        return self.bind(given)(noisy, level)


def tiny(prior: Prior) -> AVID:
    """An adapter of toy size with three actions, for tests."""
    return AVID(prior, num_actions=3, widths=(32,), depths=(1,), patch=1)
