"""Training a part of a network, or low-rank changes to it, and saving no more than that; knows no network.

Low-rank changes as in LoRA (Hu et al., arXiv 2106.09685).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


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


def change_by_rank(network: nn.Module, rank: int, spared: Sequence[str] = ()) -> None:
    """Give matrices and convolutions changes of this rank, all but those in the modules of these names.

    Raises ValueError for a rank below one.
    """
    if rank < 1:
        raise ValueError(f"a low-rank change is of rank 1 or more, not {rank}")
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.Conv2d | nn.Linear) and not within(name, spared):
            parametrize.register_parametrization(module, "weight", LowRankChange(module.weight, rank))


def train_only(network: nn.Module, sites: Sequence[str]) -> None:
    """Freeze a network but for the modules and parameters of these names."""
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and within(name, sites))


def within(name: str, sites: Sequence[str]) -> bool:
    """Whether a module or parameter is one of these, or in one of them."""
    return any(f"{name}.".startswith(f"{site}.") for site in sites)


def save_trained_alone(module: nn.Module) -> None:
    """What is frozen is another's: from now on the module's `state_dict` leaves it out, and is loaded without it."""
    module.register_state_dict_post_hook(leave_out_frozen)
    module.register_load_state_dict_post_hook(miss_no_frozen)


def leave_out_frozen(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """A hook of `state_dict`."""
    for name in frozen_in(module):
        state.pop(prefix + name)


def miss_no_frozen(module: nn.Module, incompatible: Any) -> None:
    """A hook of `load_state_dict`."""
    frozen = tuple(frozen_in(module))
    incompatible.missing_keys[:] = [name for name in incompatible.missing_keys if not name.endswith(frozen)]


def frozen_in(module: nn.Module) -> list[str]:
    return [name for name, parameter in module.named_parameters() if not parameter.requires_grad]
