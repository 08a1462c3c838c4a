"""A small policy that acts on states, with a file of its own; knows neither the simulator nor how it was trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from trimtab.networks import storage


class Actor(nn.Module):
    """What to do in a state, by a network of two hidden layers: a `core.contracts.Policy` of many copies at once.

    Args:
        state_dim: numbers in a state.
        action_dim: numbers in an action.
        width: of the hidden layers.
    """

    def __init__(self, state_dim: int, action_dim: int, width: int = 256) -> None:
        super().__init__()
        self.sizes = {"state_dim": state_dim, "action_dim": action_dim, "width": width}
        self.network = nn.Sequential(
            nn.Linear(state_dim, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, action_dim),
            nn.Tanh(),
        )

    def forward(self, states: Float[Tensor, "batch state"]) -> Float[Tensor, "batch action"]:
        """Actions in (-1, 1)."""
        return self.network(states)

    def reset(self) -> None:
        """Nothing is remembered."""

    @torch.no_grad()
    def act(self, observation: np.ndarray) -> np.ndarray:
        """Actions (n, action_dim) float32 in -1 .. 1 for states (n, state_dim). Raises ValueError for another shape."""
        if observation.ndim != 2 or observation.shape[1] != self.sizes["state_dim"]:
            raise ValueError(f"states are (n, {self.sizes['state_dim']}), got {observation.shape}")
        return self(torch.from_numpy(observation.astype(np.float32))).numpy()

    def save(self, path: Path, facts: Mapping[str, Any]) -> None:
        """Write the weights, and beside them what is worth knowing of them, plain values."""
        storage.write(path, self.state_dict(), {"actor": self.sizes, "facts": dict(facts)})


def load(path: Path) -> tuple[Actor, dict[str, Any], str]:
    """The policy that `save` wrote, its facts, and the sha256 of both. Raises ValueError if there is none."""
    if not path.is_file():
        raise ValueError(f"no policy at {path}; train one with `trimtab dmc-policy`")
    weights, settings = storage.read(path)
    if "actor" not in settings:
        raise ValueError(f"{path} holds no policy; train one with `trimtab dmc-policy`")
    actor = Actor(**settings["actor"])
    actor.load_state_dict(weights)
    return actor.eval(), settings["facts"], storage.checksum(weights, settings)
