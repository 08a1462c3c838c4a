"""Intervals of figures over clips that come in clusters, such as levels; knows no metric.

Clips of one level share its look and its difficulty, so the levels are resampled, not the clips: an interval over clips
would be too narrow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Num
from rich import get_console
from rich.progress import track
from torch import Tensor

NUM_RESAMPLES = 4000

STUDENT_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""97.5% quantiles for 1 to 10 degrees of freedom; for more of them the last is a little wide."""

BLOCKS = 20
"""Of clusters, each left out once by `jackknife`."""

_OF_BLOCKS = 2.093
"""97.5% of Student's t distribution with one degree of freedom less than blocks."""


@dataclass(frozen=True)
class Interval:
    """A mean with its 95% bootstrap interval, and how much data stands behind it."""

    mean: float
    low: float
    high: float
    num_clips: int
    num_clusters: int

    def __str__(self) -> str:
        return f"{self}"

    def __format__(self, spec: str) -> str:
        spec = spec or ".4g"
        mean, low, high = (round(value, 12) + 0.0 for value in (self.mean, self.low, self.high))  # 0, not -2e-17
        return f"{mean:{spec}} [{low:{spec}}, {high:{spec}}]"


def mean_interval(
    values: Num[Tensor, " clip"],
    clusters: Num[Tensor, " clip"],
    *,
    over: Num[Tensor, " clip"] | None = None,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The mean over clips, or with `over` the ratio of two means, with a 95% percentile interval over clusters.

    Whole clusters are drawn with replacement, as many as there are; a clip weighs the same in every resample it is in.

    Args:
        values: one value a clip.
        clusters: the cluster (level) of each clip.
        over: one denominator a clip; the figure is then ``mean(values) / mean(over)``.
        num_resamples: bootstrap resamples.
        seed: of the resampling.

    Raises:
        ValueError: shapes differ, a value is not finite, there are fewer than two clusters, or a denominator is zero.
    """
    if values.ndim != 1 or clusters.shape != values.shape or (over is not None and over.shape != values.shape):
        shapes = [tuple(tensor.shape) for tensor in (values, clusters, over) if tensor is not None]
        raise ValueError(f"an interval needs one value and one cluster a clip, all (clip,), not {shapes}")
    numerator = values.double().cpu().numpy()
    denominator = np.ones_like(numerator) if over is None else over.double().cpu().numpy()
    if not (np.isfinite(numerator).all() and np.isfinite(denominator).all()):
        raise ValueError("an interval needs finite values; look for the clip whose metric is not finite")
    names, index = np.unique(clusters.cpu().numpy(), return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"an interval needs clips of two clusters or more, not {len(names)}; evaluate on more levels")
    above, below = np.bincount(index, numerator), np.bincount(index, denominator)
    drawn = np.random.default_rng(seed).integers(len(names), size=(num_resamples, len(names)))
    if below.sum() == 0 or not (total := below[drawn].sum(1)).all():
        raise ValueError("the denominator's mean is zero, or zero in a resample; evaluate on more clips")
    low, high = np.quantile(above[drawn].sum(1) / total, [0.025, 0.975])
    return Interval(float(above.sum() / below.sum()), float(low), float(high), len(numerator), len(names))


def paired_interval(
    first: Num[Tensor, " clip"],
    second: Num[Tensor, " clip"],
    clusters: Num[Tensor, " clip"],
    *,
    over: Num[Tensor, " clip"] | None = None,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The interval of ``mean(first - second)`` for two methods on the same clips, narrower than two separate intervals.

    Arguments and errors as in `mean_interval`.
    """
    if first.shape != second.shape:
        raise ValueError(f"paired values need one shape, not {tuple(first.shape)} and {tuple(second.shape)}")
    difference = first.double() - second.double()
    return mean_interval(difference, clusters, over=over, num_resamples=num_resamples, seed=seed)


@dataclass(frozen=True)
class Jackknife:
    """A figure of a set of clips, and of the set less one of its `BLOCKS`; two of equal blocks can be subtracted."""

    whole: float
    without: Float[np.ndarray, " block"]
    num_clips: int
    num_clusters: int

    def __sub__(self, other: Jackknife) -> Jackknife:
        return Jackknife(self.whole - other.whole, self.without - other.without, self.num_clips, self.num_clusters)

    @property
    def interval(self) -> Interval:
        """The figure with its 95% interval, from how it scatters without one block or another."""
        margin = _OF_BLOCKS * float(np.sqrt((BLOCKS - 1) * self.without.var()))
        return Interval(self.whole, self.whole - margin, self.whole + margin, self.num_clips, self.num_clusters)


def jackknife(
    figure: Callable[[Bool[Tensor, " clip"]], float], clusters: Num[Tensor, " clip"], *, of: str, seed: int = 0
) -> Jackknife:
    """A figure that is no mean over clips, of all of them and without each block of clusters, under a bar.

    Args:
        figure: of the clips that a mask keeps.
        clusters: the cluster (level) of each clip; they are dealt into `BLOCKS`.
        of: what the bar says is measured.
        seed: of the dealing.

    Raises:
        ValueError: fewer clusters than blocks, or what `figure` refuses.
    """
    names, index = np.unique(clusters.cpu().numpy(), return_inverse=True)
    if len(names) < BLOCKS:
        raise ValueError(f"an interval needs clips of {BLOCKS} clusters or more, not {len(names)}")
    block = np.random.default_rng(seed).permutation(len(names))[index] % BLOCKS
    kept = [torch.ones(len(index), dtype=torch.bool), *(torch.from_numpy(block != number) for number in range(BLOCKS))]
    whole, *without = [figure(clips) for clips in track(kept, of, transient=get_console().is_terminal)]
    return Jackknife(whole, np.array(without), len(index), len(names))


def seed_interval(means: Sequence[float]) -> Interval:
    """The mean over training seeds with its 95% interval, by Student's t; clips and clusters both count the seeds.

    What another training would give, whereas `mean_interval` says what other levels would.

    Raises:
        ValueError: fewer than two seeds, or a value that is not finite.
    """
    values = np.asarray(means, dtype=np.float64)
    if len(values) < 2 or not np.isfinite(values).all():
        raise ValueError(f"an interval over seeds needs two finite values or more, not {list(means)}; train more seeds")
    quantile = STUDENT_T[min(len(values) - 1, len(STUDENT_T)) - 1]
    margin = float(quantile * values.std(ddof=1) / len(values) ** 0.5)
    mean = float(values.mean())
    return Interval(mean, mean - margin, mean + margin, len(values), len(values))
