"""Diffusion from scratch, told actions, text or both: AVID's model without prior and mask; knows neither.

Told actions it is AVID's baseline (arXiv 2410.12822); told text, the small in-domain model that probabilistic adaptation
composes with a large prior (arXiv 2504.15369).
"""

from __future__ import annotations

from typing import Any

from torch import nn

from trimtab.core.contracts import BoundDenoiser, Prior
from trimtab.core.values import Conditioning, Fact, NoiseLevel, Prediction, Video
from trimtab.models import build


class FromScratch(nn.Module):
    """A `Denoiser` of the same clips as `prior`, which it takes only the shapes and the schedule from.

    Args:
        prior: whose clip length, context, frame shape, schedule and space to share.
        model, num_actions, action_dim, sizes: as in `AVID`; also `text_dim`, the features of a token of text.
    """

    asks_prior = False  # so that one in-domain model can be composed with every prior of the same clips

    def __init__(
        self,
        prior: Prior,
        *,
        model: str = "change_unet",
        num_actions: int | None = None,
        action_dim: int | None = None,
        **sizes: Any,
    ) -> None:
        super().__init__()
        actions: dict[str, Any] = {"num_actions": num_actions, "action_dim": action_dim}
        self.space = prior.space
        self.network = build(model, prior, **actions, **sizes)
        self.settings: dict[str, Any] = {"model": model, **actions, **self.network.sizes}

    @property
    def uses(self) -> frozenset[Fact]:
        told: dict[Fact, tuple[str, ...]] = {"actions": ("num_actions", "action_dim"), "text": ("text_dim",)}
        facts = {fact for fact, names in told.items() if any(self.settings.get(name) for name in names)}
        return frozenset({"context", *facts})

    def bind(self, given: Conditioning) -> BoundDenoiser:
        ask = self.network.bind(given if "actions" in self.uses else given.without("actions"))
        return lambda noisy, level: ask(noisy, level)[0]

    def forward(self, noisy: Video, level: NoiseLevel, given: Conditioning) -> Prediction:
        return self.bind(given)(noisy, level)


def tiny(prior: Prior) -> FromScratch:
    """A model of toy size with three actions, for tests."""
    return FromScratch(prior, num_actions=3, widths=(32,), depths=(1,), patch=1)
