"""Checks of what models and commands are told; knows no model."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from trimtab.core.contracts import ClipSpace
from trimtab.core.values import Conditioning


def counted(**numbers: int | None) -> dict[str, int | None]:
    """Numbers of steps, clips and the like, by name. Raises ValueError for one that is below 1."""
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise ValueError(f"{name} is at least 1, got {number}; leave it out for the usual number")
    return numbers


def check_level(name: str, level: int, num_levels: int) -> None:
    """Raises ValueError unless a schedule of so many levels has this one."""
    if not 0 <= level < num_levels:
        raise ValueError(f"{name} is a level, 0 .. {num_levels - 1}, got {level}")


def is_open(prior: object) -> bool:
    """Whether the weights of this prior are within reach."""
    # Not by isinstance with OpenPrior, which in Python 3.11 reads every property, the hash of all weights among them.
    return all(hasattr(type(prior), name) for name in ("told_actions", "controller", "channels", "temporal"))


def check_open(prior: object, method: str) -> None:
    """Raises TypeError unless the weights of this prior are within reach."""
    if not is_open(prior):
        raise TypeError(
            f"{method} needs a prior whose weights are within reach (an OpenPrior), which {type(prior).__name__} is not; "
            "AVID and product_of_experts work beside any prior"
        )


def checked_context(given: Conditioning, clips: ClipSpace) -> Tensor:
    """The context frames, (batch, num_context, channel, height, width) floats in [-1, 1] or latents.

    Raises ValueError if they are missing, be it for a part of the batch, or of another shape or dtype than `clips` have.
    """
    context, expected = given.context, (clips.num_context, *clips.frame_shape)
    if context is None or "context" in given.known:
        part = "" if context is None else " for a part of the batch"
        raise ValueError(
            f"this model needs context frames of shape (batch, *{expected}), got none{part}; only one that is built, and "
            "trained, with context_optional=True answers without"
        )
    if tuple(context.shape[1:]) != expected:
        raise ValueError(f"this model needs context frames of shape (batch, *{expected}), got {tuple(context.shape)}")
    if not context.is_floating_point():
        raise ValueError(f"context frames are floats in [-1, 1], got {context.dtype}; divide by 127.5 and subtract 1")
    return context


def optional_context(given: Conditioning, clips: ClipSpace) -> Tensor | None:
    """The context frames for a model that answers without, too: grey for samples that do not know theirs, None if none does.

    Raises ValueError if they are of another shape or dtype than `clips` have.
    """
    if given.context is None:
        return None
    context = checked_context(replace(given, known={}), clips)
    if "context" not in given.known:
        return context
    return torch.where(given.known["context"][:, None, None, None, None], context, 0.0)
