"""A benchmark's cells as one: figures over training seeds, and what must not be put into one table; knows no page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from trimtab.metrics.evaluation import REAL, REPEAT_LAST_FRAME
from trimtab.metrics.intervals import Interval, mean_interval, paired_interval, seed_interval
from trimtab.metrics.protocol import Evaluation, compared
from trimtab.recipes.benchmark.methods import Method

Cell = Interval | str | float | int

ALIKE = ("prior", "sampler", "levels")
"""What the notes of all cells of a table agree in."""

APART = "keep the cells of each in a folder of their own"


class Results:
    """All cells of one protocol, by method and seed.

    Args:
        cells: finished ones.
        known: all methods that there are.

    Raises:
        ValueError: there is no cell, or the cells are of several priors or samplers, were not measured alike, or were not
            trained for as many operations.
    """

    def __init__(self, cells: Sequence[Evaluation], known: Mapping[str, Method]) -> None:
        if not cells:
            raise ValueError("there is no finished cell to report; run the benchmark first")
        self.known = known
        self.cells: dict[str, list[Evaluation]] = {}
        for cell in cells:
            self.cells.setdefault(cell.protocol["notes"]["method"], []).append(cell)
        self.first = cells[0]
        check_alike(cells, self.first.protocol["notes"])
        for cell in cells[1:]:
            compared(self.first, cell, REPEAT_LAST_FRAME, REPEAT_LAST_FRAME)  # refuses what was measured otherwise
        check_budgets(cells)
        self.levels = torch.tensor(self.first.protocol["levels"])

    @property
    def methods(self) -> list[str]:
        """Those of the main table, in the order of the cells."""
        return [name for name in self.cells if self.known[name].varies is None]

    def needs_weights(self, method: str) -> str:
        return "–" if method not in self.known else "yes" if self.known[method].needs_weights else "no"

    def notes(self, method: str) -> Mapping[str, Any]:
        """Of the first seed."""
        notes: Mapping[str, Any] = self.cells[method][0].protocol["notes"]
        return notes

    def noted(self, key: str) -> dict[str, Any]:
        """What each cell of the main table notes of something, by method; of several seeds, by method and seed."""
        found = {}
        for name in self.methods:
            for notes in (cell.protocol["notes"] for cell in self.cells[name]):
                if key in notes:
                    found[name if len(self.cells[name]) == 1 else f"{name}, seed {notes['seed']}"] = notes[key]
        return found

    def listening(self, method: str) -> Cell:
        """What wrong actions cost."""
        notes = [cell.protocol["notes"] for cell in self.cells.get(method, [])]
        heard = [Interval(**some["listening"]["score"]) for some in notes if "listening" in some]
        return mean_of(heard) if heard else "–"

    def per_step(self, method: str, metric: str) -> list[float]:
        """A metric of each predicted frame, averaged over the seeds that have it; empty where none has."""
        figures = [cell.figure(method, metric) for cell in self.cells.get(method, [self.first])]
        steps = [figure.per_step for figure in figures if figure.per_step]
        return [sum(values) / len(steps) for values in zip(*steps, strict=True)]

    def figure(self, method: str, metric: str) -> Cell:
        """A metric over seeds: clips averaged over seeds, levels resampled; of distances the mean over seeds."""
        try:
            if method in (REAL, REPEAT_LAST_FRAME):
                return self.first.figure(method, metric).overall
            found = [cell.figure(method, metric) for cell in self.cells[method]]
        except KeyError:
            return "–"
        if found[0].values:
            return mean_interval(torch.tensor([figure.values for figure in found]).mean(0), self.levels)
        return mean_of([figure.overall for figure in found])

    def across_seeds(self, method: str, metric: str) -> Cell:
        """The mean over training seeds, with its own interval (Student's t)."""
        try:
            means = [cell.figure(method, metric).overall.mean for cell in self.cells[method]]
        except KeyError:
            return "–"
        return seed_interval(means) if len(means) > 1 else means[0]

    def difference(self, method: str, other: str, metric: str) -> Cell:
        """A method minus another, clip by clip, averaged over seeds."""
        values = []
        for name in (method, other):
            figures = [cell.figure(name, metric) for cell in self.cells[name]]
            if not all(figure.values for figure in figures):
                return "–"
            values.append(torch.tensor([figure.values for figure in figures]).mean(0))
        return paired_interval(values[0], values[1], self.levels)

    def points(self, method: str, along: str, metric: str) -> list[tuple[float, float]]:
        """A metric of a method and of its variations along "parameters" or "frames", in the order of these."""
        alike = [name for name in self.cells if (self.known[name].varies, self.known[name].along) == (method, along)]
        found = []
        for name in (method, *alike):
            if name in self.cells and isinstance(figure := self.figure(name, metric), Interval):
                found.append((float(self.notes(name)["training"][along]), figure.mean))
        return sorted(found)

    def loss(self, method: str) -> Cell:
        return mean_of(self.losses(method)) if method in self.cells else "–"

    def loss_across_seeds(self, method: str) -> Cell:
        means = [interval.mean for interval in self.losses(method)]
        return seed_interval(means) if len(means) > 1 else means[0]

    def losses(self, method: str) -> list[Interval]:
        """Of each seed."""
        return [Interval(**cell.protocol["notes"]["denoising loss"]) for cell in self.cells[method]]


def check_alike(cells: Sequence[Evaluation], facts: Mapping[str, Any]) -> None:
    """Raises ValueError unless all cells are of these facts: of one prior, sampler and division of levels."""
    for notes in (cell.protocol["notes"] for cell in cells):
        for key in ALIKE:
            if notes[key] != facts[key]:
                raise ValueError(
                    f"{notes['method']}, seed {notes['seed']}, was measured with another {key}: {notes[key]}, not "
                    f"{facts[key]}; {APART}"
                )


def check_planned(cells: Sequence[Evaluation], teraflops: float, num_clips: int) -> None:
    """Raises ValueError if a cell was trained for another number of operations, 10^12, or measured on other clips."""
    for notes, clips in ((cell.protocol["notes"], cell.protocol["num_clips"]) for cell in cells):
        name, training = f"{notes['method']}, seed {notes['seed']}", notes["training"]
        if clips != num_clips:
            raise ValueError(f"{name}, was measured on {clips} clips, not {num_clips}; {APART}")
        if training and training["steps"] != round(teraflops / training["teraflops a step"]):
            done = training["steps"] * training["teraflops a step"]
            raise ValueError(f"{name}, was trained for {done:.3g} teraflops, not {teraflops:.3g}; {APART}")


def check_budgets(cells: Sequence[Evaluation]) -> None:
    """Raises ValueError unless some number of operations, in whole steps, is what all trainings took."""
    least: list[tuple[float, str]] = []
    most: list[tuple[float, str]] = []
    for notes in (cell.protocol["notes"] for cell in cells):
        if training := notes["training"]:
            name, step = f"{notes['method']}, seed {notes['seed']}", training["teraflops a step"]
            least.append(((training["steps"] - 0.5) * step, name))
            most.append(((training["steps"] + 0.5) * step, name))
    if least and max(least)[0] > min(most)[0]:
        raise ValueError(
            f"these cells are of several budgets: {max(least)[1]} was trained for more than {max(least)[0]:.3g} teraflops, "
            f"{min(most)[1]} for fewer than {min(most)[0]:.3g}; {APART}"
        )


def mean_of(intervals: Sequence[Interval]) -> Interval:
    """Mean, and mean ends: an interval of one seed's figure, not of the mean over seeds."""
    mean, low, high = (
        sum(getattr(some, end) for some in intervals) / len(intervals) for end in ("mean", "low", "high")
    )
    return Interval(mean, low, high, intervals[0].num_clips, intervals[0].num_clusters)
