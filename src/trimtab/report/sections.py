"""Two sections of a report: does a model listen to its actions, and what does its mask do; knows figures, and no metric.

What is shown comes as objects with the attributes below, such as metrics make them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from trimtab.report.page import Cell, Measured, Report


@dataclass(frozen=True)
class Percent:
    """A mean and its interval in percent of something."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, value: Measured, whole: float = 1.0) -> Percent:
        return cls(*(100 * part / whole for part in (value.mean, value.low, value.high)))


@runtime_checkable
class Listened(Protocol):
    """What wrong actions do to a model's videos; for each kind of wrong actions a response and a cost."""

    @property
    def score(self) -> Measured: ...

    @property
    def error(self) -> Measured: ...

    @property
    def response(self) -> Mapping[str, Measured]: ...

    @property
    def cost(self) -> Mapping[str, Measured]: ...

    @property
    def left_out(self) -> Mapping[str, str]: ...

    @property
    def protocol(self) -> Mapping[str, Any]: ...

    def verdict(self) -> str: ...


@runtime_checkable
class Values(Protocol):
    """The values of some masks."""

    @property
    def mean(self) -> float: ...

    @property
    def deviation(self) -> float: ...

    @property
    def low(self) -> float: ...

    @property
    def median(self) -> float: ...

    @property
    def high(self) -> float: ...

    @property
    def moving(self) -> float | None: ...

    @property
    def still(self) -> float | None: ...


@runtime_checkable
class Masked(Protocol):
    """What masks do: by noise level, by predicted frame, by place, and where something moves."""

    @property
    def by_noise(self) -> Mapping[float, Values]: ...

    @property
    def by_frame(self) -> Sequence[Values]: ...

    @property
    def maps(self) -> Float[Tensor, "noise time 1 height width"]: ...

    @property
    def moving(self) -> Measured | None: ...

    @property
    def still(self) -> Measured | None: ...

    @property
    def difference(self) -> Measured | None: ...

    @property
    def correlation(self) -> Measured | None: ...

    def failures(self) -> list[str]: ...


def listening_section(
    report: Report,
    result: Listened,
    shown: Mapping[str, Tensor] | None = None,
    *,
    given: Tensor | None = None,
    labels: Sequence[str] | None = None,
    heading: str = "Does it listen to its actions?",
) -> None:
    """Add the verdict, a table of what each kind of wrong actions does, and the same starts under different actions.

    Args:
        report: to add to.
        result: what was measured.
        shown: for the name of each action, the videos (clip, time, 3, height, width) in [-1, 1] under it; none is shown
            by default.
        given: the starts, (clip, num_context, 3, height, width).
        labels: one a clip.
        heading: of the section.

    Raises:
        ValueError: the videos cannot be shown, as in `Report.strips`.
    """
    report.section(
        heading,
        f"{result.verdict()}\n\nThe same starts are imagined from the same noise under actions that are wrong. The "
        "response is the LPIPS between the videos under these and those under the true actions: 0 is deaf. The cost is how "
        "much further the videos are from what really happened than under the true actions: above 0, these helped.",
    )
    told, error = result.protocol["told"], result.error.mean
    rows: list[list[Cell]] = [
        [kind, told[kind], Percent.of(response, error), Percent.of(result.cost[kind], error)]
        for kind, response in result.response.items()
    ]
    rows.append(["the score", f"the mean of {', '.join(result.protocol['score'])}", "–", Percent.of(result.score)])
    report.table(
        ["actions told", "which are", "response, %", "cost, %"],
        rows,
        f"What wrong actions do, in percent of the LPIPS that true actions leave, {_text(result.error)}.",
        note=" ".join(
            [
                f"{result.protocol['num_clips']} clips of {result.protocol['num_levels']} levels; means with 95% "
                "intervals, levels resampled. A clip whose wrong actions are its true ones is not counted.",
                *(f"Left out: {kind}, as {reason}." for kind, reason in result.left_out.items()),
            ]
        ),
    )
    if shown:
        report.strips(shown, "The same start and noise under different actions.", given=given, labels=labels)


def mask_section(report: Report, statistics: Masked, *, heading: str = "What the mask does") -> None:
    """Add what failed, if anything did, the trust by noise level and by predicted frame, and the mean mask as maps.

    Args:
        report: to add to.
        statistics: what was measured.
        heading: of the section.
    """

    def places(mask: Values) -> list[float | str]:
        return ["–" if value is None else value for value in (mask.moving, mask.still)]

    failures = statistics.failures()
    health = " ".join(failures) or "It tells places apart, and is stuck at neither end."
    report.section(
        heading, f"1 takes the frozen prior's word for it, 0 the adapter's. {health}\n\n{_moves(statistics)}"
    )
    report.table(
        ["noise", "mean", "deviation", "5%", "median", "95%", "where something moves", "where nothing moves"],
        [
            [f"{noise:.2f}", mask.mean, mask.deviation, mask.low, mask.median, mask.high, *places(mask)]
            for noise, mask in statistics.by_noise.items()
        ],
        "The mask at each noise level, 0 clean and 1 pure noise.",
        note="The deviation is that over the places of a frame, averaged; percentages are quantiles of all places.",
    )
    noises = list(statistics.by_noise)
    frames = list(range(1, len(statistics.by_frame) + 1))
    if len(noises) > 1:
        curves = _curves(noises, list(statistics.by_noise.values()))
        report.curves(curves, "Mean mask at each noise level, 0 clean and 1 pure noise.", "noise", "mask")
    if len(frames) > 1:
        curves = _curves(frames, statistics.by_frame)
        report.curves(curves, "Mean mask of each predicted frame, over the noise levels.", "predicted frame", "mask")
    report.strips(
        {"mean mask": statistics.maps},
        "The mean mask at each place, over clips.",
        labels=[f"noise {noise:.2f}" for noise in noises],
        stills=sorted({0, len(noises) - 1}),
    )


def _moves(statistics: Masked) -> str:
    """What the mask does where something moves, in a sentence."""
    moving, still, difference, correlation = (
        getattr(statistics, name) for name in ("moving", "still", "difference", "correlation")
    )
    if moving is None or still is None or difference is None or correlation is None:
        return "Too little moves to say what the mask does about it."
    word = "less than" if difference.low > 0 else "more than" if difference.high < 0 else "not told apart from"
    return (
        f"Where something moves it trusts the prior by {moving.mean:.3f}, {word} where nothing does ({still.mean:.3f}; "
        f"difference {_text(difference)}); its correlation with what moves is {_text(correlation)}."
    )


def _curves(x: list[float] | list[int], values: Sequence[Values]) -> dict[str, tuple[list[Any], list[float]]]:
    """The mean mask everywhere, where something moves and where nothing does; the latter two if there are such places."""
    curves = {
        "everywhere": [value.mean for value in values],
        "where something moves": [math.nan if value.moving is None else value.moving for value in values],
        "where nothing moves": [math.nan if value.still is None else value.still for value in values],
    }
    return {name: (x, y) for name, y in curves.items() if not all(map(math.isnan, y))}


def _text(value: Measured) -> str:
    return f"{value.mean:.3f} [{value.low:.3f}, {value.high:.3f}]".replace("-", "\N{MINUS SIGN}")
