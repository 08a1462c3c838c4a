"""Trained parts on disk, bound to the prior that they were trained beside, if they ever asked it; knows no method.

A checkpoint is a folder: ``adapter.safetensors`` (the trained part alone) and ``config.json`` (for people: what the
file's own metadata say). Loading it beside another prior is refused, unless its method never asks one (`asks_prior`
is False): such weights go with every prior of the same clips.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from trimtab.core.contracts import Prior
from trimtab.core.files import write_whole
from trimtab.networks import storage

WEIGHTS, CONFIG = "adapter.safetensors", "config.json"


@runtime_checkable
class Trained(Protocol):
    """An adapter: an nn.Module whose state is its trained part, and the settings that rebuild it."""

    settings: dict[str, Any]

    def state_dict(self) -> dict[str, Tensor]: ...


Adapter = TypeVar("Adapter", bound=nn.Module)


def save(folder: Path, adapter: Trained, prior: Prior, *, facts: dict[str, Any] | None = None) -> None:
    """Write the trained part, atomically.

    Args:
        folder: made if need be.
        adapter: whose `state_dict()` and `settings` to keep; float32 as trained.
        prior: the one it was trained beside.
        facts: more to record, such as data and training; plain values.
    """
    config = {
        "method": type(adapter).__name__,
        "prior": bound_to(type(adapter), prior),
        "settings": adapter.settings,
        "facts": facts or {},
    }
    storage.write(folder / WEIGHTS, adapter.state_dict(), config)
    write_whole(folder / CONFIG, json.dumps(config, indent=2, sort_keys=True) + "\n")


def facts_of(folder: Path, **how: Any) -> dict[str, Any] | None:
    """What was recorded of the training that is kept in a folder, None if none is.

    Raises ValueError if one of these things was another in it than it is asked to be.
    """
    if not (folder / CONFIG).exists():
        return None
    facts: dict[str, Any] = json.loads((folder / CONFIG).read_text())["facts"]
    if changed := [f"{name} {facts.get(name)}, not {now}" for name, now in how.items() if facts.get(name) != now]:
        raise ValueError(f"{folder} was trained with {', '.join(changed)}; move it away to train anew")
    return facts


def bound_to(method: type[Any], prior: Prior) -> str:
    """What weights of this method fit: the prior's fingerprint, or what clips it is of, where the method never asks it."""
    if getattr(method, "asks_prior", True):
        return prior.fingerprint
    schedule = prior.schedule
    alphas = schedule.level(torch.arange(schedule.num_levels)).alpha
    shape = prior.codec.space, prior.frame_shape, prior.num_context, prior.num_frames
    facts = json.dumps([*shape, (alphas.double() * 1e6).round().long().tolist()])
    return f"any of clips {hashlib.sha256(facts.encode()).hexdigest()[:16]}"


def load(folder: Path, method: type[Adapter], prior: Prior) -> Adapter:
    """The adapter in a folder, in eval mode, beside `prior`.

    Args:
        folder: that `save` wrote.
        method: the adapter's class, called as ``method(prior, **settings)``.
        prior: the one it was trained beside, or, if the method never asks it, any of the same clips.

    Raises:
        ValueError: no checkpoint there, a damaged one, one of another method, or one trained beside another prior.
    """
    if not (folder / WEIGHTS).is_file():
        raise ValueError(f"no checkpoint in {folder}: {WEIGHTS} is missing; train one first")
    weights, config = storage.read(folder / WEIGHTS)
    if config.get("method") != method.__name__:
        raise ValueError(f"{folder} holds a {config.get('method')} adapter, not {method.__name__}")
    ours = bound_to(method, prior)
    if config["prior"] not in (ours, prior.fingerprint):  # models from scratch, too, were once bound to one prior
        raise ValueError(
            f"the adapter in {folder} was trained beside the prior {config['prior']}, and this one is {ours}; "
            "load that prior, or train the adapter again beside this one"
        )
    adapter = method(prior, **config["settings"])
    adapter.load_state_dict(weights)
    return adapter.eval()
