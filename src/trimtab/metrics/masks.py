"""What a learned mask does, by noise level, by predicted frame and by place; knows masks, and no model that makes them.

A mask is AVID's trust in the frozen prior: out = prior * mask + adapter * (1 - mask). It should differ from place to
place: 1 where the prior knows best, lower where the actions matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from trimtab.core.values import Video
from trimtab.metrics.actions import Context
from trimtab.metrics.intervals import Interval, mean_interval

Mask = Float[Tensor, "batch time 1 height width"]
Places = Bool[Tensor, "batch time 1 height width"]

MOVES = 0.1
"""A place moves if a channel leaves the last context frame's value by more than this, of the range -1 .. 1: 13 steps of
a byte, above what video compression adds and below the edge of anything one sees."""

SHUT_OUT = 0.95
"""A mask that is above this at 95% of the places is stuck near 1: with 5% of the say, an adapter would have to
exaggerate twenty times to get its way."""

IGNORED = 0.05
"""A mask that is below this at 95% of the places is stuck near 0: the prior has 5% of the say left."""

CONSTANT = 0.01
"""A mask whose standard deviation over the places of a frame is below this does not tell places apart: an agent on 2%
of the frame, trusted to the prior by a tenth less than the rest, already makes 0.014."""


@dataclass(frozen=True)
class Trust:
    """The values of some masks, all in 0 .. 1.

    Attributes:
        mean: over places, frames and clips.
        deviation: the standard deviation over the places of a frame, its mean over frames and clips.
        low: the 5% quantile over places, frames and clips.
        median: the 50% quantile.
        high: the 95% quantile.
        moving: the mean over the places where something moves; None if nothing does.
        still: the mean over the places where nothing moves; None if something moves everywhere.
    """

    mean: float
    deviation: float
    low: float
    median: float
    high: float
    moving: float | None
    still: float | None


@dataclass(frozen=True)
class MaskStatistics:
    """What masks do; noise levels count equally in all figures that are not by noise level.

    The last four figures are means over the clips in which something moves and something stands still, and None if
    these are of fewer than two levels; every clip counts equally.

    Attributes:
        overall: of all masks.
        by_noise: for each noise level, as a share of the noise angle: 0 is clean, 1 pure noise; in rising order.
        by_frame: for each predicted frame.
        maps: the mean mask over clips, (noise, time, 1, height, width), noise levels as in `by_noise`; not in the dict.
        moving: the trust in the prior where something moves.
        still: the trust in the prior where nothing moves.
        difference: still minus moving, clip by clip: above zero, the prior is trusted less where something moves.
        correlation: of the mask with what moves (1) or not (0) over the places of a clip, Pearson's; 0 for a mask that
            is constant.
    """

    overall: Trust
    by_noise: Mapping[float, Trust]
    by_frame: tuple[Trust, ...]
    maps: Float[Tensor, "noise time 1 height width"] = field(compare=False)
    moving: Interval | None
    still: Interval | None
    difference: Interval | None
    correlation: Interval | None

    def failures(self) -> list[str]:
        """How the mask failed, one sentence each; empty if it is healthy."""
        low, high, deviation = self.overall.low, self.overall.high, self.overall.deviation
        if low >= SHUT_OUT:
            return [
                f"The mask is stuck near 1 (above {low:.3f} at 95% of the places): the adapter is shut out, the outputs "
                "are the prior's, and the actions do nothing."
            ]
        if high <= IGNORED:
            return [
                f"The mask is stuck near 0 (below {high:.3f} at 95% of the places): the prior is ignored, and this is "
                "training from scratch."
            ]
        if deviation < CONSTANT:
            return [
                f"The mask is the same everywhere in a frame (deviation {deviation:.4f} over places): it does not tell "
                "places apart, and a fixed weight would do."
            ]
        return []

    def to_dict(self) -> dict[str, Any]:
        """Everything but the maps as plain values for JSON, the failures included."""
        values = {name: value for name, value in asdict(self).items() if name != "maps"}
        return {"failures": self.failures(), **values}


def moving_places(real: Video, context: Context, threshold: float = MOVES) -> Places:
    """Where the real frames, in [-1, 1], differ from the last context frame by more than the threshold in a channel.

    For masks over latents, give latents and a threshold in their units.
    """
    return (real - context[:, -1:]).abs().amax(2, keepdim=True) > threshold


def mask_statistics(
    masks: Mapping[float, Mask], moving: Places, levels: Int[Tensor, " batch"], *, seed: int = 0
) -> MaskStatistics:
    """Describe the masks of the same clips at several noise levels.

    Args:
        masks: for each noise level, as a share of the noise angle (``level.angle / (pi / 2)``: 0 is clean, 1 pure
            noise), the masks at that level, (batch, time, 1, height, width) in [0, 1].
        moving: where something moves, of the shape of the masks, such as `moving_places` finds it.
        levels: the level of the game of each clip, resampled as a whole for the intervals.
        seed: of the bootstrap.

    Raises:
        ValueError: there is no mask; shapes disagree; a mask or a noise level leaves [0, 1].
    """
    _check(masks, moving, levels)
    noises = sorted(masks)
    ordered = [masks[noise].detach().cpu().float() for noise in noises]
    moving, levels = moving.cpu(), levels.cpu()
    mean, moves = torch.stack(ordered).mean(0).flatten(1).double(), moving.flatten(1).double()
    both = moving.flatten(1).any(1) & ~moving.flatten(1).all(1)
    intervals: dict[str, Interval | None] = dict.fromkeys(("moving", "still", "difference", "correlation"))
    if len(levels[both].unique()) >= 2:
        where_moving, where_still = ((mean * places).sum(1) / places.sum(1) for places in (moves, 1 - moves))
        per_clip = (where_moving, where_still, where_still - where_moving, _correlation(mean, moves))
        for name, values in zip(intervals, per_clip, strict=True):
            intervals[name] = mean_interval(values[both], levels[both], seed=seed)
    return MaskStatistics(
        overall=_trust(ordered, moving),
        by_noise={noise: _trust([mask], moving) for noise, mask in zip(noises, ordered, strict=True)},
        by_frame=tuple(_trust([mask[:, time] for mask in ordered], moving[:, time]) for time in range(moving.shape[1])),
        maps=torch.stack([mask.double().mean(0).float() for mask in ordered]),
        **intervals,
    )


def _check(masks: Mapping[float, Mask], moving: Places, levels: Int[Tensor, " batch"]) -> None:
    if not masks:
        raise ValueError("there are no masks to describe; ask the adapter for those of one noise level or more")
    shapes = {noise: tuple(mask.shape) for noise, mask in masks.items()}
    if moving.ndim != 5 or moving.shape[2] != 1 or set(shapes.values()) != {tuple(moving.shape)}:
        raise ValueError(
            f"masks and moving must have one shape (batch, time, 1, height, width), not {shapes} and "
            f"{tuple(moving.shape)}; for masks over latents, find what moves in latents"
        )
    if moving.dtype != torch.bool or levels.shape != moving.shape[:1]:
        raise ValueError(
            f"moving must be bool and levels ({len(moving)},), not {moving.dtype} and {tuple(levels.shape)}"
        )
    for noise, mask in masks.items():
        low, high = (value.item() for value in mask.aminmax())
        if not (0 <= noise <= 1 and low >= 0 and high <= 1):  # also false for NaN
            raise ValueError(
                f"noise levels and masks lie in [0, 1], not the mask in [{low:.4g}, {high:.4g}] at noise level {noise}; "
                "pass level.angle / (pi / 2), and masks after their sigmoid"
            )


def _trust(
    masks: Sequence[Float[Tensor, "*frames height width"]], moving: Bool[Tensor, "*frames height width"]
) -> Trust:
    """The values of masks of several noise levels, of the same frames."""
    values = np.concatenate([mask.flatten().numpy() for mask in masks])
    low, median, high = np.quantile(values, [0.05, 0.5, 0.95]).tolist()
    deviations = [mask.flatten(-2).double().std(-1, correction=0).mean().item() for mask in masks]

    def mean_over(places: Tensor) -> float | None:
        return np.mean([mask[places].double().mean().item() for mask in masks]).item() if places.any() else None

    return Trust(
        mean=values.mean(dtype=np.float64).item(),
        deviation=np.mean(deviations).item(),
        low=low,
        median=median,
        high=high,
        moving=mean_over(moving),
        still=mean_over(~moving),
    )


def _correlation(first: Float[Tensor, "clip place"], second: Float[Tensor, "clip place"]) -> Float[Tensor, " clip"]:
    """Pearson's, clip by clip; 0 where one of the two is constant, up to what float32 rounds."""
    first, second = (values - values.mean(1, keepdim=True) for values in (first, second))
    deviations = [values.square().mean(1).sqrt() for values in (first, second)]
    product = (first * second).mean(1) / (deviations[0] * deviations[1]).clamp(min=1e-12)
    return torch.where(torch.minimum(*deviations) > 1e-6, product, 0.0)
