"""How far into a rollout a model can be trusted; knows figures frame by frame, and no model."""

from __future__ import annotations

from jaxtyping import Int
from torch import Tensor

from trimtab.metrics.frames import PerFrame
from trimtab.metrics.intervals import paired_interval


def trusted_horizon(error: PerFrame, reference: PerFrame, levels: Int[Tensor, " batch"], *, seed: int = 0) -> int:
    """The number of frames, counted from the first, at all of which a model errs less than a reference, for sure.

    A model that errs no less than repetition of the last frame is of no use to a planner. "For sure" is that the 95%
    interval of the paired difference lies below zero, frame by frame.

    Args:
        error: of the model, a value a clip and frame, such as its LPIPS; lower is better.
        reference: the same of what it must beat, on the same clips.
        levels: the level of each clip, resampled as a whole.
        seed: of the bootstrap.

    Returns:
        0 .. the number of frames.

    Raises:
        ValueError: what `paired_interval` refuses.
    """
    for frame in range(error.shape[1]):
        if paired_interval(error[:, frame], reference[:, frame], levels, seed=seed).high >= 0:
            return frame
    return error.shape[1]
