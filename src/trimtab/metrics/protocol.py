"""Figures that never part from the protocol they were measured under; knows no metric and no model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from trimtab.metrics.intervals import Interval


@dataclass(frozen=True)
class Figure:
    """One metric of one method: overall, at each predicted frame, and minus the reference method on the same clips.

    A step at which a ratio's denominator is zero is None.
    """

    method: str
    metric: str
    overall: Interval
    per_step: tuple[float | None, ...]
    difference: Interval | None


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

    def to_json(self) -> str:
        figures = [asdict(figure) for figure in self.figures]
        return json.dumps({"protocol": self.protocol, "figures": figures}, indent=2, allow_nan=False)

    def __str__(self) -> str:
        """A Markdown table, one row a method, under its protocol in one line."""
        metrics, methods = (dict.fromkeys(getattr(f, name) for f in self.figures) for name in ("metric", "method"))
        cells = {(figure.method, figure.metric): str(figure.overall) for figure in self.figures}
        rows = [[method, *(cells.get((method, metric), "") for metric in metrics)] for method in methods]
        lines = [["method", *metrics], ["---"] * (len(metrics) + 1), *rows]
        facts = "{num_clips} clips of {num_levels} levels, {num_context} context and {num_predicted} predicted frames"
        return "\n".join([facts.format(**self.protocol), "", *("| " + " | ".join(line) + " |" for line in lines)])
