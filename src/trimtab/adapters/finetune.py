"""Finetuning a copy of the prior: all weights, low-rank changes to them, or what mixes frames; needs the prior's weights.

All the weights as AVID's strongest baseline (arXiv 2410.12822); low-rank changes as in LoRA (arXiv 2106.09685);
what mixes frames as the direct finetuning of arXiv 2504.15369.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from trimtab.core.checks import check_open
from trimtab.core.contracts import BoundDenoiser, OpenPrior
from trimtab.core.values import Conditioning, Fact, NoiseLevel, Prediction, Video
from trimtab.networks.low_rank import change_by_rank, save_trained_alone, train_only

OF_ACTIONS = ("action", "null_action")
"""What actions go through in every network, which is trained whatever else is."""


class Finetune(nn.Module):
    """A `Denoiser`: a copy of the prior, told what the prior is told, and actions if any. It begins as the prior.

    Args:
        prior: whose weights to begin with; it stays as it is.
        num_actions: size of a discrete action set, or
        action_dim: width of a continuous action; neither for a copy that is told no actions.
        rank: None trains every weight. A number trains, beside what the actions go through, for every matrix and convolution
            a change of at most this rank, which is added to it, and is all that is saved.
        temporal: train, beside what the actions go through, only what mixes frames, and save no more: from a few
            demonstrations it learns how things move, and what they look like stays the prior's.

    Raises:
        ValueError: a rank below one, or beside `temporal`.
        TypeError: a prior whose weights are out of reach.
    """

    def __init__(
        self,
        prior: OpenPrior,
        *,
        num_actions: int | None = None,
        action_dim: int | None = None,
        rank: int | None = None,
        temporal: bool = False,
    ) -> None:
        super().__init__()
        check_open(prior, type(self).__name__)
        if temporal and rank is not None:
            raise ValueError(f"temporal trains weights whole, rank={rank} changes to all of them; take one of the two")
        self.space = prior.space
        actions: dict[str, Any] = {"num_actions": num_actions, "action_dim": action_dim}
        told = OF_ACTIONS if any(size is not None for size in actions.values()) else ()
        self.uses: frozenset[Fact] = prior.uses | {"actions"} if told else prior.uses
        network: Any = prior.told_actions(**actions)
        self.network = network
        self.settings = {**actions, "rank": rank, "temporal": temporal}
        if temporal or rank is not None:
            train_only(network, told + (prior.temporal if temporal else ()))
            save_trained_alone(self)
        if rank is not None:
            change_by_rank(network, rank, spared=told)

    def bind(self, given: Conditioning) -> BoundDenoiser:
        ask = self.network.bind(given if "actions" in self.uses else given.without("actions"))
        return lambda noisy, level: ask(noisy, level)[0]

    def forward(self, noisy: Video, level: NoiseLevel, given: Conditioning) -> Prediction:
        return self.bind(given)(noisy, level)


def tiny(prior: OpenPrior) -> Finetune:
    """The prior's copy with three actions, for tests."""
    return Finetune(prior, num_actions=3)
