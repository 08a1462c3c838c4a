"""Modules that stand beside another: they go where it goes, and are neither trained nor saved with it; knows no network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class Accompanied(nn.Module):
    """A module whose `companions`, such as a frozen prior, follow it to another device.

    They are no part of it: not of its parameters, not of `state_dict()`, and not of its train mode. One that is no module,
    such as a prior in another process, sees to its device itself.
    """

    companions: tuple[Any, ...] = ()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Accompanied:
        super()._apply(fn, recurse)
        for companion in self.companions:
            follow = getattr(companion, "_apply", None)
            if follow is not None:
                follow(fn)
        return self
