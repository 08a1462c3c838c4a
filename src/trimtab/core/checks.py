"""Checks of what models are told; knows no model."""

from __future__ import annotations

from torch import Tensor

from trimtab.core.contracts import ClipSpace
from trimtab.core.values import Conditioning


def check_open(prior: object, method: str) -> None:
    """Raises TypeError unless the weights of this prior are within reach."""
    # Not by isinstance with OpenPrior, which in Python 3.11 reads every property, the hash of all weights among them.
    if not all(hasattr(type(prior), name) for name in ("told_actions", "controller", "channels")):
        raise TypeError(
            f"{method} needs a prior whose weights are within reach (an OpenPrior), which {type(prior).__name__} is not; "
            "AVID and product_of_experts work beside any prior"
        )


def checked_context(given: Conditioning, clips: ClipSpace) -> Tensor:
    """The context frames, (batch, num_context, channel, height, width) floats in [-1, 1] or latents.

    Raises ValueError if they are missing, or of another shape or dtype than `clips` have.
    """
    context, expected = given.context, (clips.num_context, *clips.frame_shape)
    if context is None or tuple(context.shape[1:]) != expected:
        came = "none" if context is None else str(tuple(context.shape))
        raise ValueError(f"this model needs context frames of shape (batch, *{expected}), got {came}")
    if not context.is_floating_point():
        raise ValueError(f"context frames are floats in [-1, 1], got {context.dtype}; divide by 127.5 and subtract 1")
    return context
