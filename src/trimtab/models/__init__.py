"""What prior, adapters and baselines are made of: a network, how it is asked about a noisy clip, and how it answers.

One file a model, with the model's class as `Model`, and the half of it that looks as `Controller`; `build` and `controller`
find them by the file's name.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from trimtab.core.contracts import ClipSpace
from trimtab.networks import memory


def build(name: str, clips: ClipSpace, *, recompute: bool = False, **options: Any) -> Any:
    """An untrained `VideoModel`, an nn.Module.

    Args:
        name: of its file in this folder.
        clips: that it is to diffuse.
        recompute: train in less memory and more time (gradient checkpointing).
        options: the size of its network, and, as every model takes them, `num_actions` (of a discrete set) or `action_dim`
            (of continuous actions), `sees_prior` (whether the prior's prediction is shown to it), `residual` (it answers
            what to add to the prior's prediction, at first nothing, instead of a belief of its own), `mask` (whether it
            answers a mask, too) and `mask_bias` (the logit of the untrained mask).

    Raises:
        ValueError: no model of this name.
    """
    return _built(name, "Model", clips, recompute, options)


def controller(name: str, clips: ClipSpace, *, recompute: bool = False, **options: Any) -> Any:
    """An untrained `Controller`, an nn.Module: the half of the model of this name that looks.

    Args:
        name, clips, recompute: as in `build`.
        options: the size of its network, and `num_actions` or `action_dim`.

    Raises:
        ValueError: no model of this name.
    """
    return _built(name, "Controller", clips, recompute, options)


def _built(name: str, part: str, clips: ClipSpace, recompute: bool, options: Mapping[str, Any]) -> Any:
    names = [found.name for found in pkgutil.iter_modules(__path__)]
    if name not in names:
        raise ValueError(f"no model {name!r}; there are: {', '.join(sorted(names))}")
    built = getattr(importlib.import_module(f"{__name__}.{name}"), part)(clips, **options)
    if recompute:
        memory.recompute(built)
    return built
