"""How trained weights follow their gradients: AdamW, or Muon for the weights of linear maps; knows no task and no model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trimtab.networks.precision import fast_products

Kind = Literal["adamw", "muon"]

BETAS = (0.9, 0.99)
MOMENTUM = 0.95
LEAST_SIDE = 32
"""Of a weight, as a matrix, that is worth making orthogonal; smaller ones, such as a network's last, go by AdamW."""

TO_ORTHOGONAL = (3.4445, -4.7750, 2.0315)
"""Coefficients of the iteration, which grows small singular values fastest, and leaves all near 1 and not at it."""


class Muon(torch.optim.AdamW):
    """Momentum made orthogonal for the weights of linear layers and convolutions, AdamW for all others.

    A gradient moves a few directions of a weight far and most hardly at all; an orthogonal update moves all alike (Jordan et
    al., 2024, "Muon: an optimizer for hidden layers in neural networks"). It is scaled to the root mean square of 0.2 times
    the learning rate (Liu et al., arXiv 2502.16982), which AdamW's comes to after a while. A convolution is taken as the
    matrix of its output channels by all else. torch's own Muon takes matrices alone.

    Args:
        matrices: weights whose updates to make orthogonal, each (row, column, ..).
        others: all that goes by AdamW.
        learning_rate, weight_decay: of all.
    """

    def __init__(
        self,
        matrices: Sequence[nn.Parameter],
        others: Sequence[nn.Parameter],
        learning_rate: float,
        weight_decay: float,
    ) -> None:
        groups = [
            {"params": list(matrices), "matrix": True},
            {"params": list(others), "matrix": False},
        ]
        super().__init__(groups, learning_rate, betas=BETAS, weight_decay=weight_decay)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update, by the gradients that there are; there is no closure."""
        whole = self.param_groups
        for group in (some for some in whole if some["matrix"]):
            for weight in (some for some in group["params"] if some.grad is not None):
                state = self.state[weight]
                if not state:
                    state |= {"step": torch.tensor(0.0), "momentum": torch.zeros_like(weight)}
                momentum, state["step"] = state["momentum"], state["step"] + 1
                momentum.lerp_(weight.grad, 1 - MOMENTUM)
                update = orthogonal(weight.grad.lerp(momentum, MOMENTUM).flatten(1))
                scale = 0.2 * math.sqrt(max(update.shape))  # an orthogonal matrix's elements have 1 / sqrt(longer side)
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.sub_(update.view(weight.shape), alpha=group["lr"] * scale)
        self.param_groups = [some for some in whole if not some["matrix"]]
        try:
            super().step()
        finally:
            self.param_groups = whole


def optimizer_of(
    kind: Kind, task: nn.Module, trained: Mapping[str, nn.Parameter], learning_rate: float, weight_decay: float
) -> torch.optim.AdamW:
    """The optimizer of what is trained of a task, by the name of each parameter."""
    if kind == "adamw":
        return torch.optim.AdamW(trained.values(), learning_rate, betas=BETAS, weight_decay=weight_decay)
    maps = {id(module.weight) for module in task.modules() if isinstance(module, nn.Linear | nn.Conv2d)}

    def is_matrix(value: nn.Parameter) -> bool:
        return id(value) in maps and min(len(value), value[0].numel()) >= LEAST_SIDE

    matrices, others = ([value for value in trained.values() if is_matrix(value) is it] for it in (True, False))
    return Muon(matrices, others, learning_rate, weight_decay)


def orthogonal(matrix: Float[Tensor, "row column"], num_iterations: int = 5) -> Float[Tensor, "row column"]:
    """A matrix of the same singular vectors, whose singular values lie near 1, those that were tiny perhaps below.

    Newton and Schulz's iteration: an odd polynomial of a matrix is that polynomial of its singular values.
    """
    first, third, fifth = TO_ORTHOGONAL
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
    found = wide / wide.norm().clamp(min=1e-7)
    with fast_products(matrix.device):
        for _ in range(num_iterations):
            square = found @ found.mT
            found = first * found + (third * square + fifth * square @ square) @ found
    found = found.to(matrix.dtype)
    return found if matrix.shape[0] <= matrix.shape[1] else found.mT
