"""AVID: a small adapter that sees only the frozen prior's outputs, and a learned mask that mixes the two; knows no prior.

    out = prior * m + adapter * (1 - m)        (arXiv 2410.12822; the mask weights the prior)

The mixture is made in the prior's own kind of prediction, which the adapter also sees. Trained with the ordinary
denoising loss; where training is short, with that of the adapter's own belief beside it (`DenoisingLoss(own=..)`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from trimtab.core.companions import Accompanied
from trimtab.core.contracts import BoundDenoiser, Prior
from trimtab.core.values import Conditioning, Fact, Mixed, NoiseLevel, Prediction, Video, Weights, combine
from trimtab.models import build


class AVID(Accompanied):
    """A `Denoiser` that steers `prior` by actions or, told none, to another look of what it is told in words.

    Its parameters are the adapter's alone; the prior never changes.

    Args:
        prior: frozen, never told the actions, always evaluated without gradients. It is not part of `state_dict()`.
        model: of the adapter, the name of a file in models/.
        num_actions: size of a discrete action set, or
        action_dim: width of a continuous action.
        learn_mask: False for the ablation without a mask, out = prior + adapter (which starts exactly as the prior).
        see_prior: False for the ablation whose adapter does not see the prior's output.
        mask_bias: the initial mask logit: 0 trusts the prior by one half, as in the paper; 2 by 88%, so that a short
            training starts near the prior.
        sizes: of the model's network; also `recompute=True`, to train in less memory, and `text_dim`, the features of a
            token of text, which the prior is told, too.
    """

    def __init__(
        self,
        prior: Prior,
        *,
        model: str = "change_unet",
        num_actions: int | None = None,
        action_dim: int | None = None,
        learn_mask: bool = True,
        see_prior: bool = True,
        mask_bias: float = 0.0,
        **sizes: Any,
    ) -> None:
        super().__init__()
        self.companions = (prior,)  # neither trained, nor saved, nor switched to train mode
        actions: dict[str, Any] = {"num_actions": num_actions, "action_dim": action_dim}
        switches = {"learn_mask": learn_mask, "see_prior": see_prior, "mask_bias": mask_bias}
        self.network = build(
            model,
            prior,
            **actions,
            sees_prior=see_prior,
            residual=not learn_mask,
            mask=learn_mask,
            mask_bias=mask_bias,
            **sizes,
        )
        self.settings: dict[str, Any] = {"model": model, **actions, **switches, **self.network.sizes}

    @property
    def prior(self) -> Prior:
        prior: Prior = self.companions[0]
        return prior

    @property
    def space(self) -> str:
        return self.prior.space

    @property
    def uses(self) -> frozenset[Fact]:
        acts = self.settings["num_actions"] or self.settings["action_dim"]
        facts: set[Fact] = {"context", "actions"} if acts else {"context"}
        return self.prior.uses | facts

    def bind(self, given: Conditioning) -> BoundDenoiser:
        believe = self.believe(given)
        return lambda noisy, level: believe(noisy, level).belief

    def believe(self, given: Conditioning) -> Callable[[Video, NoiseLevel], Mixed]:
        """As `bind`, with the adapter's own belief and the mask beside the mixture's; no mask where none is learned."""
        without = given.without("actions")
        ask, ask_prior = self.network.bind(given if "actions" in self.uses else without), self.prior.bind(without)

        def denoise(noisy: Video, level: NoiseLevel) -> Mixed:
            with torch.no_grad():
                prior = ask_prior(noisy, level)
            own, logit = ask(noisy, level, prior)
            if logit is None:
                return Mixed(own, own, None)
            mask = torch.sigmoid(logit)
            return Mixed(combine([own.as_kind(prior.kind), prior], Weights.remainder(mask)), own, mask)

        return denoise

    def forward(self, noisy: Video, level: NoiseLevel, given: Conditioning) -> Prediction:
        return self.bind(given)(noisy, level)


def tiny(prior: Prior) -> AVID:
    """An adapter of toy size with three actions, for tests."""
    return AVID(prior, num_actions=3, widths=(32,), depths=(1,), patch=1)
