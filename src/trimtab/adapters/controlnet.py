"""ControlNet: a copy of the half of the prior that looks, told actions, adds to the prior's features; needs its weights.

Zhang et al., arXiv 2302.05543, as AVID compares itself with it (arXiv 2410.12822).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from trimtab.core.checks import check_open
from trimtab.core.companions import Accompanied
from trimtab.core.contracts import BoundDenoiser, OpenPrior
from trimtab.core.values import Conditioning, Fact, NoiseLevel, Prediction, Video
from trimtab.networks.precision import fast_products


class ControlNet(Accompanied):
    """A `Denoiser`: the prior, to whose features something is added. It begins exactly as the prior.

    Args:
        prior: frozen, never told the actions.
        num_actions: size of a discrete action set, or
        action_dim: width of a continuous action.
        sizes: none for the full method, a trainable copy of the prior's own half, at first blind to actions. Those of a
            smaller network, such as `widths`, for the small one: untrained, with projections to the prior's widths.

    Raises:
        ValueError: sizes with another number of resolutions than the prior's.
        TypeError: a prior whose weights are out of reach.
    """

    def __init__(
        self, prior: OpenPrior, *, num_actions: int | None = None, action_dim: int | None = None, **sizes: Any
    ) -> None:
        super().__init__()
        check_open(prior, type(self).__name__)
        self.companions = (prior,)  # neither trained, nor saved, nor switched to train mode
        self.space = prior.space
        self.uses: frozenset[Fact] = prior.uses | {"actions"}
        actions: dict[str, Any] = {"num_actions": num_actions, "action_dim": action_dim}
        self.controller: Any = prior.controller(**actions, **sizes)
        channels, wide = self.controller.channels, prior.channels
        self.gates = nn.ModuleList(nn.Conv2d(few, few, 1) for few in channels)
        for parameter in self.gates.parameters():
            nn.init.zeros_(parameter)
        if len(wide) != len(channels):
            raise ValueError(f"the prior has features at {len(wide)} resolutions, sizes {sizes} make {len(channels)}")
        # Without a bias, so that it begins as the prior; with ordinary weights, so that the zeros before it learn.
        self.projections = nn.ModuleList(
            nn.Conv2d(few, many, 1, bias=False) for few, many in zip(channels, wide, strict=True) if sizes
        )
        self.settings: dict[str, Any] = {**actions, **{name: self.controller.sizes[name] for name in sizes}}

    def bind(self, given: Conditioning) -> BoundDenoiser:
        look, ask = self.controller.bind(given), self.companions[0].network.bind(given.without("actions"))

        def denoise(noisy: Video, level: NoiseLevel) -> Prediction:
            return ask(noisy, level, control=self.added(look(noisy, level)))[0]

        return denoise

    def added(self, features: list[Tensor]) -> list[Tensor]:
        """What the prior's features get."""
        with fast_products(features[0].device):
            added = [gate(feature) for gate, feature in zip(self.gates, features, strict=True)]
            if self.projections:
                added = [project(some) for project, some in zip(self.projections, added, strict=True)]
        return added

    def forward(self, noisy: Video, level: NoiseLevel, given: Conditioning) -> Prediction:
        return self.bind(given)(noisy, level)


def tiny(prior: OpenPrior) -> ControlNet:
    """A small one of toy size with three actions, for tests."""
    depth = len(prior.channels)
    return ControlNet(prior, num_actions=3, widths=(32,) * depth, depths=(1,) * depth)
