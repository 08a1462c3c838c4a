"""Finetuning, of all the weights or of low-rank changes to them: the prior itself, told actions; needs its weights.

All the weights as AVID's strongest baseline (arXiv 2410.12822; methods 2.7); low-rank changes as in LoRA (arXiv 2106.09685).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from trimtab.core.checks import check_open
from trimtab.core.contracts import BoundDenoiser, OpenPrior
from trimtab.core.values import Conditioning, Fact, NoiseLevel, Prediction, Video


class Finetune(nn.Module):
    """A `Denoiser`: a copy of the prior that is told actions. It begins as the prior, whatever the actions.

    Args:
        prior: whose weights to begin with; it stays as it is.
        num_actions: size of a discrete action set, or
        action_dim: width of a continuous action.
        rank: None trains every weight. A number trains, beside what the actions go through, for every matrix and convolution
            a change of at most this rank, which is added to it, and is all that is saved.

    Raises:
        ValueError: a rank below one.
        TypeError: a prior whose weights are out of reach.
    """

    uses: frozenset[Fact] = frozenset({"context", "actions"})

    def __init__(
        self,
        prior: OpenPrior,
        *,
        num_actions: int | None = None,
        action_dim: int | None = None,
        rank: int | None = None,
    ) -> None:
        super().__init__()
        check_open(prior, type(self).__name__)
        if rank is not None and rank < 1:
            raise ValueError(f"a change is of rank 1 or more, not {rank}; None trains every weight")
        self.space = prior.space
        network: Any = prior.told_actions(num_actions=num_actions, action_dim=action_dim)
        self.network = network
        self.settings = {"num_actions": num_actions, "action_dim": action_dim, "rank": rank}
        if rank is not None:
            change_by_rank(network, rank)
            self.register_state_dict_post_hook(leave_out_frozen)
            self.register_load_state_dict_post_hook(miss_no_frozen)

    def bind(self, given: Conditioning) -> BoundDenoiser:
        ask = self.network.bind(given)
        return lambda noisy, level: ask(noisy, level)[0]

    def forward(self, noisy: Video, level: NoiseLevel, given: Conditioning) -> Prediction:
        return self.bind(given)(noisy, level)


def leave_out_frozen(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """A hook of `state_dict`: what is not trained is the prior's, and is not saved again."""
    for name in frozen_in(module):
        state.pop(prefix + name)


def miss_no_frozen(module: nn.Module, incompatible: Any) -> None:
    """A hook of `load_state_dict`, which therefore does not find it."""
    frozen = tuple(frozen_in(module))
    incompatible.missing_keys[:] = [name for name in incompatible.missing_keys if not name.endswith(frozen)]


def frozen_in(module: nn.Module) -> list[str]:
    return [name for name, parameter in module.named_parameters() if not parameter.requires_grad]


class LowRankChange(nn.Module):
    """A weight, and the change that is learned: up @ down, at first zero.

    Args:
        weight: its first axis is of outputs, all others are of inputs.
        rank: of the change.
    """

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        outputs, inputs = len(weight), weight[0].numel()
        self.down = nn.Parameter(torch.randn(rank, inputs) / inputs**0.5)
        self.up = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.up @ self.down).view_as(weight)


def change_by_rank(network: nn.Module, rank: int) -> None:
    """Freeze a network but for what the actions go through; give its matrices and convolutions changes of this rank."""
    for name, module in list(network.named_modules()):
        told = name.split(".")[0] in ("action", "null_action")
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(told or parameter is getattr(network, "null_action", None))
        if isinstance(module, nn.Conv2d | nn.Linear) and not told:
            parametrize.register_parametrization(module, "weight", LowRankChange(module.weight, rank))


def tiny(prior: OpenPrior) -> Finetune:
    """The prior's copy with three actions, for tests."""
    return Finetune(prior, num_actions=3)
