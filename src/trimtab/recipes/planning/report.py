"""The page and the table that planning ends with; knows its cells, and no model."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from trimtab.control.blame import Cause, first_cause
from trimtab.core.files import write_whole
from trimtab.core.markdown import markdown_table
from trimtab.metrics.intervals import Interval, mean_interval, paired_interval, seed_interval
from trimtab.networks import storage
from trimtab.recipes.benchmark.results import mean_of
from trimtab.recipes.planning.adaptations import AS_WRITTEN, IN_DOMAIN, INVERSE, LATE, PRIOR
from trimtab.report import Report, film_strip

EXPERT, TRUE_VIDEO = "the expert", "the expert's video"
TRUTHS = (EXPERT, TRUE_VIDEO)
"""Rows with one part swapped for the truth: no plan is better than the first, and no imagination than the second."""

REFERENCE = IN_DOMAIN
"""The method that the others are compared with, start by start."""

LEAST_GAP = 1.3
"""Of the bare prior's denoising loss on seen tasks to the in-domain model's; below it there is little to adapt."""

LEAST_KEPT = 0.7
"""Of a method's success on novel tasks, with 70% of random actions among its demonstrations."""

BAR = 0.5
"""Of success at a task: what arXiv 2504.15369 reports for door-open by its inverse form, which no other method did."""

NUM_FRAMES = 14
"""Of an episode, at even distances, in a strip."""

Cell = Mapping[str, Any]


class Results:
    """All cells of one protocol.

    Raises:
        ValueError: there is no cell, or the cells were not measured alike.
    """

    def __init__(self, cells: Sequence[Cell], videos: Sequence[Cell] = (), losses: Sequence[Cell] = ()) -> None:
        if not cells:
            raise ValueError("there is no finished cell to report; run the command first")
        own: dict[str, Cell] = {}
        begun: dict[str, Cell] = {}
        for cell in cells:
            first = begun.setdefault(cell["task"], cell)
            check_alike(name_of(cell), begun_from(cell["starts"]), name_of(first), begun_from(first["starts"]))
        for cell in (*cells, *videos, *losses):
            check_alike(name_of(cell), shared(cell), name_of(cells[0]), shared(cells[0]))
            first = own.setdefault(cell["method"], cell)
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

    def against(self, reference: str, method: str, **facts: Any) -> Interval | str:
        """By how much the share of successes is above that of another method at the same starts, seeds averaged."""
        ours, theirs = (by_start(*self.successes(method=name, **facts)) for name in (method, reference))
        both = sorted(ours.keys() & theirs.keys())
        if len(both) < 2 or method == reference:
            return ""
        first, second = (torch.tensor([some[start] for start in both], dtype=torch.float64) for some in (ours, theirs))
        return paired_interval(first, second, torch.tensor(both))

    def over_seeds(self, method: str, reference: str | None = None, **facts: Any) -> Interval | str:
        """The share of successes over training seeds, or how far it is above another method's; text with fewer than two."""
        names = [method] if reference is None else [method, reference]
        found = [{cell["seed"] for cell in self.of(method=name, **facts)} for name in names]
        seeds = sorted(set.intersection(*found)) if reference != method else []
        each = [[self.successes(method=name, seed=s, **facts)[0].mean().item() for s in seeds] for name in names]
        means = each[0] if reference is None else [ours - theirs for ours, theirs in zip(*each, strict=True)]
        return seed_interval(means) if len(means) > 1 else ""

    def at_share(self, method: str, share: float, beside: Sequence[float]) -> Interval | str:
        """Success on novel tasks by the share of random actions, on which the bare prior does not depend.

        Of the tasks and seeds alone that were measured with all the shares beside it, as their luck would else pass for a
        share's.
        """
        if method == PRIOR:
            return self.rate(method=method, novel=True)
        measured = self.of(method=method, novel=True)
        places: dict[float, set[tuple[str, int]]] = {}
        for cell in (some for some in measured if some["random_share"] in beside):
            places.setdefault(cell["random_share"], set()).add((cell["task"], cell["seed"]))
        common = set.intersection(*places.values()) if places else set()
        alike = [cell for cell in measured if (cell["task"], cell["seed"]) in common]
        return rate_of(*self.outcomes([cell for cell in alike if cell["random_share"] == share]))

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
    """The share of successes, start states resampled; text if there are fewer than two."""
    return "" if len(starts.unique()) < 2 else mean_interval(values, starts)


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


def write_report(path: Path, results: Results, *, pictures: Path) -> Path:
    """Write the page, and beside it its tables as table.md and its strips, a picture a task; answers the page's path.

    Args:
        path: of the page.
        results: all that is finished.
        pictures: where what was imagined and what was seen lies.
    """
    first, written = results.cells[0], list[str]()
    report = Report(
        "Planning by imagined video", f"MetaWorld, {len(results.tasks)} tasks, prior {first['protocol']['prior']}"
    )

    report.summary(findings(results))

    def table(of: tuple[list[str], list[list[Any]]], caption: str, note: str = "") -> None:
        report.table(*of, caption, note)
        written.append(f"{caption}. {note}".strip() + f"\n\n{markdown(*of)}\n")

    report.section(
        "Success",
        "The share of start states from which the task is done at any step. Demonstrations show the seen tasks; novel ones "
        "only the prior has seen, in other looks. The expert's row needs no plan, the row of the expert's video no "
        "imagination: what is lost there is lost to the tasks and to the inverse dynamics.",
    )
    note = "Intervals: start states resampled, training seeds together; of FVD the mean over training seeds, and mean ends."
    table(success_table(results), "Success", note)
    of_seeds = seeds_table(results)
    if of_seeds[1]:
        note = "Intervals: Student's t over training seeds, which are few; differences are those of each seed."
        table(of_seeds, "Success on novel tasks, over training seeds", note)
    if len(results.shares) > 1:
        of_shares = share_table(results)
        caption = "Success on novel tasks, by the share of random actions in the demonstrations"
        table(of_shares, caption, "Of the tasks and training seeds that were measured with every share.")
        report.curves(
            {row[0]: (results.shares, [mean(rate) for rate in row[1:]]) for row in of_shares[1]},
            "Success on novel tasks; the bare prior has seen no demonstrations", "share of random actions", "success",
        )  # fmt: skip
    if results.losses:
        report.section(
            "Something to adapt", "Where the bare prior denoises the robot's look as well, nothing is missing."
        )
        table(loss_table(results), "Denoising loss on held-out clips of the seen tasks", "Intervals: start states.")
    report.section("Blame", "For each failed episode, the first part whose swap for the truth restores success.")
    table(blame_table(results), "What failed, in episodes")
    report.section("Imagined and executed", "Above what was imagined frame by frame, below what then happened.")
    for task in results.tasks:
        strips = strips_of(results, task, pictures)
        if strips:
            report.strips(strips, task, labels=["first start"], stills=[0])
            film_strip(strips, scale=1).save(path.with_name(f"{task}.png"), optimize=True)
    own = {cell["method"]: cell["protocol"]["own"] for cell in results.cells if cell["protocol"]["own"]}
    report.settings({**shared(first), **own, **first["versions"]})
    write_whole(path.with_name("table.md"), "\n".join(written))
    return report.write(path)


def findings(results: Results) -> list[str]:
    """Whether what was hoped for came true, in sentences."""
    share, said = results.shares[0], list[str]()
    rates = {name: results.rate(method=name, novel=True, random_share=share) for name in results.methods}
    planned = {name: rate for name, rate in rates.items() if isinstance(rate, Interval) and name not in TRUTHS}
    if planned:
        best = max(planned, key=lambda name: planned[name].mean)
        above = results.against(REFERENCE, best, novel=True, random_share=share)
        beyond = ""
        if isinstance(above, Interval):
            beyond = f", {above} above {REFERENCE}" + ("" if above.low > 0 else ", which is within the interval")
        said.append(f"Most success on novel tasks: {best}, {planned[best]}{beyond}.")
        for other in sorted(planned.keys() - {best}, key=lambda name: -planned[name].mean):
            ahead = results.against(other, best, novel=True, random_share=share)
            if isinstance(ahead, Interval):
                word = "" if ahead.low > 0 else ", which is within the interval"
                said.append(f"It is ahead of {other}, {planned[other]}, by {ahead}{word}.")
        for other in (REFERENCE, PRIOR):
            beyond_seeds = results.over_seeds(best, other, novel=True, random_share=share)
            if isinstance(beyond_seeds, Interval):
                word = "more" if beyond_seeds.low > 0 else "not more"
                said.append(f"Over training seeds {best} is above {other} by {beyond_seeds}, {word} than their chance.")
    for name in planned:
        if name in (INVERSE, LATE, AS_WRITTEN[1]):
            done = {task: mean(results.rate(method=name, task=task, random_share=share)) for task in results.tasks}
            most = ", ".join(task for task, rate in done.items() if rate > BAR)
            below = ", ".join(task for task, rate in done.items() if rate <= BAR)
            said.append(
                f"{name} succeeds from more than {BAR:.0%} of the start states of {most or 'no task'}"
                + (f", and not of {below}." if below else ".")
            )
    for name in planned if {0.0, 0.7} <= set(results.shares) else ():
        before, kept = (results.at_share(name, one, (0.0, 0.7)) for one in (0.0, 0.7))
        if isinstance(kept, Interval) and mean(before) > 0 and name != PRIOR:
            part = kept.mean / mean(before)
            word = "at least" if part >= LEAST_KEPT else "less than"
            said.append(
                f"With 70% of random actions {name} keeps {part:.0%} of it, {word} the {LEAST_KEPT:.0%} asked for."
            )
    if hours := results.hours(share):
        said.append(f"The trainings took {hours:.1f} hours, one after another.")
    for row in loss_table(results)[1]:
        word = "enough" if row[-1].mean >= LEAST_GAP else f"less than {LEAST_GAP}, so that there is little"
        ratio = f"{row[-1].mean:.2f} times the in-domain model's"
        said.append(f"Seed {row[0]}: the prior's loss on seen tasks is {ratio}, {word} to adapt.")
    return said


def success_table(results: Results) -> tuple[list[str], list[list[Any]]]:
    """Header and rows: success by task, of seen and novel ones, above the in-domain model's and the bare prior's on novel
    ones, and FVD there.
    """
    share = results.shares[0]
    above = [f"novel, above {name}" for name in (REFERENCE, PRIOR)]
    header = ["method", *results.tasks, "seen", "novel", *above, "FVD, novel"]
    rows = []
    for method in results.methods:
        facts = {"method": method, "random_share": share}
        rows.append(
            [
                method,
                *(mean_text(results.rate(task=task, **facts)) for task in results.tasks),
                results.rate(novel=False, **facts),
                results.rate(novel=True, **facts),
                *(results.against(name, method, novel=True, random_share=share) for name in (REFERENCE, PRIOR)),
                results.video_distance(method, share),
            ]
        )
    return header, rows


def seeds_table(results: Results) -> tuple[list[str], list[list[Any]]]:
    """Header and rows: success on novel tasks over training seeds, and how far it is above others', of what has some."""
    facts = {"novel": True, "random_share": results.shares[0]}
    rows = [
        [name, *(results.over_seeds(name, other, **facts) for other in (None, REFERENCE, PRIOR))]
        for name in results.methods
    ]
    return ["method", "novel", *(f"above {name}" for name in (REFERENCE, PRIOR))], [row for row in rows if row[1]]


def share_table(results: Results) -> tuple[list[str], list[list[Any]]]:
    """Header and rows: success on novel tasks by the share of random actions in the demonstrations."""
    several = [name for name in results.methods if len({c["random_share"] for c in results.of(method=name)}) > 1]
    methods = [name for name in results.methods if name in (PRIOR, *several) and name not in TRUTHS]
    header = ["method", *(f"{share:.0%}" for share in results.shares)]
    return header, [
        [name, *(results.at_share(name, share, results.shares) for share in results.shares)] for name in methods
    ]


def loss_table(results: Results) -> tuple[list[str], list[list[Any]]]:
    """Header and rows: by seed, the loss of the bare prior and of the in-domain model, and how much higher the first is."""
    figures = ("the prior", "in-domain", "the prior / in-domain")
    found = [cell for cell in results.losses if cell["random_share"] == results.shares[0]]
    return ["seed", *figures], [[str(cell["seed"]), *(Interval(**cell[name]) for name in figures)] for cell in found]


def blame_table(results: Results) -> tuple[list[str], list[list[Any]]]:
    """Header and rows: how many failures of each method each part is to blame for."""
    share = results.shares[0]
    counts = {method: results.causes(method, share) for method in results.methods if method not in TRUTHS}
    header = ["method", *next(iter(counts.values()), {})]
    return header, [[method, *found.values()] for method, found in counts.items()]


def mean(rate: Interval | str) -> float:
    """NaN where nothing was measured."""
    return math.nan if isinstance(rate, str) else rate.mean


def mean_text(rate: Interval | str) -> str:
    return rate if isinstance(rate, str) else f"{rate.mean:.0%}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table to paste into docs."""

    def text(value: Any) -> str:
        if isinstance(value, Interval):
            return f"{value.mean:.3g} [{value.low:.3g}, {value.high:.3g}]"
        return str(value)

    return markdown_table(header, ([text(value) for value in row] for row in rows)).rstrip()


def strips_of(results: Results, task: str, pictures: Path) -> dict[str, Tensor]:
    """What each method imagined and did from the first start of a task, (1, time, 3, height, width) in [-1, 1]."""
    found: dict[str, Tensor] = {}
    for path in sorted(pictures.glob(f"{task}--*.safetensors")):
        tensors, facts = storage.read(path)
        known = facts["method"] in results.methods  # else its cell was never finished, or lies elsewhere
        if not known or facts["seed"] or facts["random_share"] != results.shares[0]:
            continue
        for kind in ("imagined", "executed"):
            if kind == "imagined" and facts["method"] == EXPERT:
                continue
            found[f"{facts['method']}, {kind}"] = as_clip(tensors[f"{kind} 0"])
    order = {method: place for place, method in enumerate(results.methods)}
    return dict(sorted(found.items(), key=lambda row: order[row[0].rsplit(", ", 1)[0]]))


def as_clip(frames: Tensor) -> Tensor:
    """Frames (time, height, width, 3) uint8 at even distances, as a video of one clip."""
    places = np.linspace(0, len(frames) - 1, NUM_FRAMES).round().astype(int)
    return (frames[places].movedim(-1, 1).float() / 127.5 - 1)[None]
