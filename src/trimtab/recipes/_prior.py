"""The prior that a command is told by a word: one that ships, a file of one, or what a function of the user's own makes."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import torch

from trimtab.core.contracts import Prior
from trimtab.priors import pixel_unet

OWED = (
    "uses", "space", "bind", "schedule", "num_context", "num_frames", "frame_shape", "codec", "frame_rate", "fingerprint",
)  # fmt: skip
"""What a `Prior` has."""


def prior_of(name: str, schedule: str | None = None) -> Prior:
    """A prior by name, path, or ``module:function``, which is called without arguments.

    The module is one that is installed, or a file in the folder that the command is called from.

    Args:
        name: any of the three.
        schedule: that an embedded prior diffuses by instead of its own, if any; a prior of yours keeps its own.

    Raises:
        ValueError: no such prior, or what the function makes is none.
    """
    if ":" not in name or Path(name).exists():
        return pixel_unet.load(name, schedule=schedule)
    module, function = name.rsplit(":", 1)
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        make = getattr(importlib.import_module(module), function)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ValueError(
            f"no prior {name!r}: {error}; before the colon goes a module that is installed, or a file in {here} without "
            "its .py, after it a function in it"
        ) from error
    made: Prior = make()
    if missing := [owed for owed in OWED if not hasattr(type(made), owed) and not hasattr(made, owed)]:
        raise ValueError(f"what {name} makes is no prior: it lacks {', '.join(missing)}; see docs/your_model.md")
    return made


def frame_size(prior: Prior) -> tuple[int, int]:
    """Height and width of the frames that a prior imagines, in pixels."""
    height, width = prior.codec.decode(torch.zeros(1, 1, *prior.frame_shape)).shape[-2:]
    return height, width
