"""Planning's cells as one: rates, differences and blame, and what must not stand in one table; knows no page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import torch
from torch import Tensor

from trimtab.control.blame import Cause, first_cause
from trimtab.metrics.intervals import Interval, mean_interval, paired_interval, seed_interval
from trimtab.recipes.benchmark.results import mean_of
from trimtab.recipes.planning.adaptations import IN_DOMAIN, PRIOR

EXPERT, TRUE_VIDEO = "the expert", "the expert's video"
TRUTHS = (EXPERT, TRUE_VIDEO)
"""Rows with one part swapped for the truth: what is lost to tasks and step limit, and to inverse dynamics besides."""

REFERENCE = IN_DOMAIN
"""The method that the others are compared with, start by start."""

Cell = Mapping[str, Any]


class Results:
    """All cells of one protocol.

    Raises:
        ValueError: there is no cell, or the cells were not measured alike.
    """

    def __init__(self, cells: Sequence[Cell], videos: Sequence[Cell] = (), losses: Sequence[Cell] = ()) -> None:
        if not cells:
            raise ValueError("there is no finished cell to report; run the command first")
        own: dict[tuple[str, float], Cell] = {}
        begun: dict[str, Cell] = {}
        for cell in cells:
            first = begun.setdefault(cell["task"], cell)
            check_alike(name_of(cell), begun_from(cell["starts"]), name_of(first), begun_from(first["starts"]))
        for cell in (*cells, *videos, *losses):
            check_alike(name_of(cell), shared(cell), name_of(cells[0]), shared(cells[0]))
            first = own.setdefault((cell["method"], cell["random_share"]), cell)
            check_alike(name_of(cell), settings(cell), name_of(first), settings(first))
        self.cells, self.videos, self.losses = cells, videos, losses
        self.methods = list(dict.fromkeys(cell["method"] for cell in cells))
        self.tasks = sorted({cell["task"] for cell in cells}, key=lambda task: (self.of(task=task)[0]["novel"], task))
        self.shares = sorted({cell["random_share"] for cell in cells})

    def of(self, **facts: Any) -> list[Cell]:
        """The cells of which these facts are true."""
        return [cell for cell in self.cells if all(cell[name] == value for name, value in facts.items())]

    def successes(self, **facts: Any) -> tuple[Tensor, Tensor]:
        """As `outcomes`, of the cells of which these facts are true."""
        return self.outcomes(self.of(**facts))

    def outcomes(self, found: Sequence[Cell]) -> tuple[Tensor, Tensor]:
        """Of each start of each of these cells whether it succeeded, and a number that stands for task and start."""
        values = [float(value) for cell in found for value in cell["success"]]
        numbers = [self.tasks.index(cell["task"]) << 32 | start for cell in found for start in cell["starts"]]
        return torch.tensor(values, dtype=torch.float64), torch.tensor(numbers, dtype=torch.int64)

    def rate(self, **facts: Any) -> Interval | str:
        """The share of successes, start states resampled; text if nothing was measured."""
        return rate_of(*self.successes(**facts))

    def group(self, method: str, share: float, *, novel: bool) -> Interval | str:
        """Success at the seen or the novel tasks, of the seeds with which each of them was measured, as some are easier than
        others; text if there is none.
        """
        tasks = {cell["task"] for cell in self.of(novel=novel, random_share=share) if cell["method"] not in TRUTHS}
        found = self.of(method=method, random_share=share, novel=novel)
        done = {seed: {cell["task"] for cell in found if cell["seed"] == seed} for seed in {c["seed"] for c in found}}
        return rate_of(*self.outcomes([cell for cell in found if tasks <= done[cell["seed"]]]))

    def against(self, reference: str, method: str, **facts: Any) -> Interval | str:
        """By how much the share of successes is above another method's at the same starts and seeds, seeds averaged."""
        ours, theirs = (by_start(*self.outcomes(cells)) for cells in self.alike(method, reference, **facts))
        both = sorted(ours.keys() & theirs.keys())
        if len(both) < 2 or method == reference:
            return ""
        first, second = (torch.tensor([some[start] for start in both], dtype=torch.float64) for some in (ours, theirs))
        return paired_interval(first, second, torch.tensor(both))

    def over_seeds(self, method: str, reference: str | None = None, **facts: Any) -> Interval | str:
        """The share of successes over training seeds, or how far it is above another method's; text with fewer than two.

        Of the tasks alone that were measured with all of these seeds.
        """
        names = [method] if reference is None else [method, reference]
        if reference == method or set(names) & {*TRUTHS}:
            return ""
        found = self.alike(*names, **facts)
        seeds = sorted({cell["seed"] for cell in found[0]})
        tasks = [{cell["task"] for cell in found[0] if cell["seed"] == seed} for seed in seeds]
        common = set.intersection(*tasks) if tasks else set()
        if len(seeds) < 2 or not common:
            return ""
        alike = [[cell for cell in cells if cell["task"] in common] for cells in found]
        means = [
            [self.outcomes([cell for cell in cells if cell["seed"] == seed])[0].mean().item() for seed in seeds]
            for cells in alike
        ]
        return seed_interval([ours - sum(theirs) for ours, *theirs in zip(*means, strict=True)])

    def seeds_of(self, method: str, share: float) -> set[int]:
        """That a method was measured with; a truth depends on none."""
        return set() if method in TRUTHS else {cell["seed"] for cell in self.of(method=method, random_share=share)}

    def alike(self, *methods: str, **facts: Any) -> list[list[Cell]]:
        """The cells of each of these methods, of the tasks and seeds that all were measured with; a truth has no seed."""
        found = [self.of(method=name, **facts) for name in methods]
        places = [{(c["task"], c["seed"]) for c in cells if c["method"] not in TRUTHS} for cells in found]
        tasks = set.intersection(*({c["task"] for c in cells} for cells in found))
        common = set.intersection(*(some for some in places if some)) if any(places) else set()
        return [
            [c for c in cells if c["task"] in tasks and (c["method"] in TRUTHS or (c["task"], c["seed"]) in common)]
            for cells in found
        ]

    def at_share(self, method: str, share: float, beside: Sequence[float]) -> Interval | str:
        """Success on novel tasks by the share of random actions, on which the bare prior does not depend.

        Of the tasks and seeds alone that every method that was measured with all the shares beside it was measured with, as
        their luck would else pass for a share's, or for a method's. Where there are none, of all that there are.
        """
        share = 0.0 if method == PRIOR else share
        if common := self.places(beside):
            return rate_of(*self.outcomes(self.at(common, method, share)))
        return self.rate(method=method, novel=True, random_share=share)

    def kept(self, method: str, share: float) -> Interval | str:
        """Which part of its success at novel tasks is left where so many actions are random, start states resampled.

        Of the tasks and seeds that were measured with both. Text if there are too few successes for an interval.
        """
        before, after = (
            by_start(*self.outcomes(self.at(self.places((0.0, share), (method,)), method, one))) for one in (0.0, share)
        )
        starts = list(before)
        first, second = (
            torch.tensor([some[start] for start in starts], dtype=torch.float64) for some in (before, after)
        )
        try:
            return mean_interval(second, torch.tensor(starts), over=first)
        except ValueError:
            return ""

    def places(self, shares: Sequence[float], methods: Sequence[str] = ()) -> set[tuple[str, int]]:
        """Novel tasks and seeds at which all of these methods, or all that depend on demonstrations and were measured with
        all these shares of random actions, were measured with them.
        """
        found = []
        for method in methods or self.methods:
            each = [
                {(cell["task"], cell["seed"]) for cell in self.of(method=method, novel=True, random_share=share)}
                for share in shares
            ]
            if method != PRIOR and all(each):
                found.append(set.intersection(*each))
        return set.intersection(*found) if found else set()

    def at(self, places: set[tuple[str, int]], method: str, share: float) -> list[Cell]:
        """The cells of a method at these tasks and with these seeds."""
        return [cell for cell in self.of(method=method, random_share=share) if (cell["task"], cell["seed"]) in places]

    def video_distance(self, method: str, share: float) -> Interval | str:
        """Of what a method imagines of novel tasks from the experts' videos, the mean over seeds; text if not measured."""
        found = [cell for cell in self.videos if cell["method"] == method and cell["random_share"] == share]
        return mean_of([Interval(**cell["FVD with given frames"]) for cell in found]) if found else ""

    def hours(self, share: float) -> float:
        """That the trainings with this share of random actions took, one after another; those that methods share once."""
        facts = [
            {**cell["training"], "seed": cell["seed"]} for cell in self.of(random_share=share) if cell.get("training")
        ]
        return sum({json.dumps(some, sort_keys=True): some["seconds"] for some in facts}.values()) / 3600

    def causes(self, method: str, share: float) -> dict[str, int]:
        """What the failures of a method are to blame on, by how the truths did at the same starts (`control.blame`)."""
        video, actions = (by_start(*self.successes(method=name)) for name in (TRUE_VIDEO, EXPERT))
        values, starts = self.successes(method=method, random_share=share)

        failed = starts[values == 0].tolist()
        both = video.keys() & actions.keys()
        found = [first_cause(video[at] > 0, actions[at] > 0) if at in both else "not known" for at in failed]
        return {"failed": len(found), **{name: found.count(name) for name in (*get_args(Cause), "not known")}}


def shared(cell: Cell) -> dict[str, Any]:
    """What two cells must share to be compared."""
    return {name: value for name, value in cell["protocol"].items() if name != "own"}


def begun_from(starts: Sequence[int]) -> dict[str, Any]:
    """The start states of a task, by their seeds, in short; two cells of it must share them."""
    return {"start states": f"{len(starts)} from {starts[0]}"}


def rate_of(values: Tensor, starts: Tensor) -> Interval | str:
    """The share of successes, start states resampled; text if there are fewer than two, which have no interval."""
    if len(starts.unique()) < 2:
        return f"{values.mean().item():.0%} of one start" if len(starts) else ""
    return mean_interval(values, starts)


def settings(cell: Cell) -> dict[str, Any]:
    """What two cells of one method must share, however it was settled."""
    return {name: value for name, value in cell["protocol"]["own"].items() if name != "chosen"}


def name_of(cell: Cell) -> str:
    return f"{cell['method']}, seed {cell['seed']}, {cell.get('task', 'videos or losses')}"


def check_alike(name: str, found: Mapping[str, Any], other: str, expected: Mapping[str, Any]) -> None:
    """Raises ValueError, which names what differs, unless two cells were made alike."""
    if differing := [
        f"{key} ({found.get(key)!r}, not {expected.get(key)!r})"
        for key in dict.fromkeys((*expected, *found))
        if found.get(key) != expected.get(key)
    ]:
        raise ValueError(
            f"{name} and {other} cannot stand in one table, they differ in {', '.join(differing)}; keep the cells of each "
            "in a folder of their own"
        )


def by_start(values: Tensor, starts: Tensor) -> dict[int, float]:
    """The mean at each start."""
    return {start: values[starts == start].mean().item() for start in starts.unique().tolist()}
