"""Figures that never part from the protocol they were measured under, as a file too; knows no metric and no model."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

from trimtab.core.markdown import markdown_table
from trimtab.metrics.intervals import Interval, paired_interval

NOT_COMPARED = ("notes", "reference")
"""Keys of a protocol in which results may differ and still be compared: they say what was measured, not how."""


@dataclass(frozen=True)
class Figure:
    """One metric of one method: overall, at each predicted frame, and minus the reference method on the same clips.

    Attributes:
        method: whose videos.
        metric: by name; the protocol says what it is.
        overall: over all clips; where no interval could be made its ends are NaN.
        per_step: one value a predicted frame, None where a ratio's denominator is zero; of FID and KID the distance of that
            frame of every clip alone; empty where a metric has no such value (FVD, distances with given frames).
        difference: None for the reference itself, and where there is none.
        values: one a clip, to five significant digits; empty where one clip has no such number (distances, ratios).
    """

    method: str
    metric: str
    overall: Interval
    per_step: tuple[float | None, ...]
    difference: Interval | None
    values: tuple[float, ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """All figures with the protocol that they were measured under; neither is ever handed out without the other."""

    figures: tuple[Figure, ...]
    protocol: Mapping[str, Any]

    def figure(self, method: str, metric: str) -> Figure:
        """Raises KeyError if the table has no such figure."""
        for figure in self.figures:
            if (figure.method, figure.metric) == (method, metric):
                return figure
        raise KeyError(f"no figure {metric!r} of {method!r}; left out: {self.protocol['left_out']}")

    @property
    def methods(self) -> tuple[str, ...]:
        """The rows of the table."""
        return tuple(dict.fromkeys(figure.method for figure in self.figures))

    def to_json(self) -> str:
        """The whole as JSON, a list of plain values on one line. Raises ValueError for a note that is not finite."""
        figures = [asdict(figure) for figure in self.figures]
        for figure in figures:
            overall = figure["overall"]
            overall |= {end: None for end in ("low", "high") if math.isnan(overall[end])}  # JSON has no NaN
        return _written(_plain({"protocol": self.protocol, "figures": figures}))

    @classmethod
    def from_json(cls, text: str) -> Evaluation:
        """What `to_json` wrote. Raises ValueError for anything else, and says what is amiss."""
        try:
            content = json.loads(text)
            protocol = content["protocol"]
            missing = {"num_clips", "levels", "clips", "metrics", "left_out", "intervals"} - protocol.keys()
            if missing:
                raise ValueError(f"its protocol lacks {sorted(missing)}")
            if len(protocol["levels"]) != protocol["num_clips"]:
                raise ValueError(f"{len(protocol['levels'])} levels for {protocol['num_clips']} clips")
            figures = tuple(_figure(figure, protocol["num_clips"]) for figure in content["figures"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"this is no result of this version of trimtab: {reason}; measure again") from error
        return cls(figures, protocol)

    def __str__(self) -> str:
        """A Markdown table, one row a method, under its protocol in one line."""
        metrics = dict.fromkeys(figure.metric for figure in self.figures)
        cells = {(figure.method, figure.metric): str(figure.overall) for figure in self.figures}
        rows = [[method, *(cells.get((method, metric), "") for metric in metrics)] for method in self.methods]
        facts = "{num_clips} clips of {num_levels} levels, {num_context} context and {num_predicted} predicted frames"
        return f"{facts.format(**self.protocol)}\n\n{markdown_table(['method', *metrics], rows)}".rstrip()


def compared(first: Evaluation, second: Evaluation, method: str, other: str) -> dict[str, Interval]:
    """A method of one result minus a method of another, clip by clip, with 95% intervals over levels, by metric.

    Both must have been measured alike, on the same clips. `NOT_COMPARED` says what of the protocol may differ: the notes
    (whoever measured wrote what they liked there; look at them) and the reference, which is not used here. Metrics
    without a value a clip, such as FID, are not among the differences.

    Args:
        first, second: two results, or one result twice.
        method: of the first.
        other: of the second.

    Raises:
        ValueError: the protocols differ, a method is unknown, or no metric of both has a value a clip.
    """
    protocols = [_plain({**result.protocol}) for result in (first, second)]
    differing = [
        f"{key}: {' and '.join(_shortened(one, two))}"
        for key, one, two in _differences(*protocols)
        if key.split(".")[0] not in NOT_COMPARED
    ]
    if differing:
        raise ValueError(
            "these results were not measured alike and cannot be compared; measure both in one way. They differ in:\n  "
            + "\n  ".join(differing)
        )
    values: list[dict[str, torch.Tensor]] = []
    for result, name in ((first, method), (second, other)):
        if name not in result.methods:
            raise ValueError(f"no method {name!r} in this result; there are {', '.join(result.methods)}")
        found = [figure for figure in result.figures if figure.method == name and figure.values]
        values.append({figure.metric: torch.tensor(figure.values, dtype=torch.float64) for figure in found})
    ours, theirs = values
    if ours.keys().isdisjoint(theirs):
        raise ValueError(f"{method!r} and {other!r} have no metric with a value a clip in common")
    levels, seed = torch.tensor(first.protocol["levels"]), first.protocol["intervals"]["seed"]
    return {
        metric: paired_interval(ours[metric], theirs[metric], levels, seed=seed) for metric in ours if metric in theirs
    }


def made_otherwise(first: Evaluation, second: Evaluation) -> list[str]:
    """In which notes of one plain value, such as the prior or the sampler, two results differ, each with both values."""
    notes = [_plain({**result.protocol.get("notes", {})}) for result in (first, second)]
    shared = [key for key in notes[0] if key in notes[1] and key not in ("date", "method")]
    plain = [key for key in shared if not any(isinstance(some[key], dict | list) for some in notes)]
    return [f"{key}: {notes[0][key]} and {notes[1][key]}" for key in plain if notes[0][key] != notes[1][key]]


def _figure(content: Mapping[str, Any], num_clips: int) -> Figure:
    method, metric, overall, difference = (content[key] for key in ("method", "metric", "overall", "difference"))
    per_step, values = tuple(content["per_step"]), tuple(content["values"])
    if not (isinstance(method, str) and isinstance(metric, str)):
        raise ValueError(f"a figure is named by two texts, not {method!r} and {metric!r}")
    name = f"figure {metric!r} of {method!r}"
    if len(values) not in (0, num_clips) or not _are_numbers(values):
        raise ValueError(f"{name} should have a number for each of {num_clips} clips, or none")
    if not _are_numbers(step for step in per_step if step is not None):
        raise ValueError(f"{name} should have a number, or null, for each step")
    unknown = {end: math.nan for end in ("low", "high") if overall[end] is None}
    intervals = [{**overall, **unknown}, *([] if difference is None else [difference])]
    if not all(interval.keys() == _INTERVAL and _are_numbers(interval.values()) for interval in intervals):
        raise ValueError(f"{name} should have intervals of {sorted(_INTERVAL)}, all numbers")
    made = [Interval(**interval) for interval in intervals]
    return Figure(method, metric, made[0], per_step, made[1] if difference is not None else None, values)


_INTERVAL = {field.name for field in fields(Interval)}


def _are_numbers(values: Iterable[Any]) -> bool:
    return all(isinstance(value, int | float) for value in values)


def _plain(content: Any) -> Any:
    """As it would be read back: lists for tuples, text for keys. Raises ValueError for what is not finite."""
    return json.loads(json.dumps(content, allow_nan=False))


def _written(content: Any, line: str = "\n") -> str:
    """Indented JSON, but with a list of plain values on one line."""
    inner = f"{line}  "
    if isinstance(content, dict) and content:
        parts = [f"{json.dumps(name)}: {_written(part, inner)}" for name, part in content.items()]
        return "{" + inner + f",{inner}".join(parts) + line + "}"
    if isinstance(content, list) and any(isinstance(part, dict | list) for part in content):
        return "[" + inner + f",{inner}".join(_written(part, inner) for part in content) + line + "]"
    return json.dumps(content)


_ABSENT = object()


def _differences(first: Any, second: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """Where two protocols differ: dotted keys with both values."""
    if not (isinstance(first, dict) and isinstance(second, dict)):
        return [] if first == second else [(path, first, second)]
    found = []
    for key in {**first, **second}:
        inner = f"{path}.{key}" if path else key
        found += _differences(first.get(key, _ABSENT), second.get(key, _ABSENT), inner)
    return found


def _shortened(*values: Any) -> list[str]:
    """Both as short texts, of long ones the part where they begin to differ."""
    texts = ["absent" if value is _ABSENT else json.dumps(value) for value in values]
    apart = next((place for place, (one, two) in enumerate(zip(*texts, strict=False)) if one != two), 0)
    begin = max(0, apart - 20) if max(map(len, texts)) > 60 else 0
    return ["..." * (begin > 0) + text[begin : begin + 60] + "..." * (begin + 60 < len(text)) for text in texts]
