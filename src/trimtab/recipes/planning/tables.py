"""Planning's tables, as header and rows, and what they say in sentences; knows its cells, and no page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from trimtab.core.markdown import markdown_table
from trimtab.metrics.intervals import Interval
from trimtab.recipes.planning.adaptations import AS_WRITTEN, INVERSE, LATE, PRIOR
from trimtab.recipes.planning.results import REFERENCE, TRUTHS, Results

LEAST_GAP = 1.3
"""Of the bare prior's denoising loss on seen tasks to the in-domain model's; below it there is little to adapt."""

LEAST_KEPT = 0.7
"""Of a method's success on novel tasks, with 70% of random actions among its demonstrations."""

BAR = 0.5
"""Of success at a task: what arXiv 2504.15369 reports for door-open by its inverse form, which no other method did."""


def findings(results: Results) -> list[str]:
    """Whether what was hoped for came true, in sentences."""
    share, said = results.shares[0], list[str]()
    best, planned = best_of(results)
    tried = [name for name in results.methods if name not in TRUTHS]
    if best:
        said.append(f"Most success on novel tasks: {best}, {planned[best]}.")
        for other in dict.fromkeys((*list(planned)[1:2], *(name for name in (REFERENCE, PRIOR) if name in planned))):
            ahead = results.against(other, best, novel=True, random_share=share)
            over = results.over_seeds(best, other, novel=True, random_share=share)
            if isinstance(ahead, Interval):
                few = f"; over training seeds by {over}{chance(over)}" if isinstance(over, Interval) else ""
                said.append(f"It is ahead of {other}, {planned[other]}, by {ahead}{chance(ahead)}{few}.")
    if best and (partly := [name for name in tried if name not in planned]):
        said.append(f"Measured at some of the novel tasks only, and not compared there: {', '.join(partly)}.")
    for name in tried:
        if name in (INVERSE, LATE, AS_WRITTEN[1]):
            done = {task: mean(results.rate(method=name, task=task, random_share=share)) for task in results.tasks}
            most = ", ".join(task for task, rate in done.items() if rate > BAR)
            below = ", ".join(task for task, rate in done.items() if rate <= BAR)
            said.append(
                f"{name} succeeds from more than {BAR:.0%} of the start states of {most or 'no task'}"
                + (f", and not of {below}." if below else ".")
            )
    for name in tried if {0.0, 0.7} <= set(results.shares) else ():
        before, kept = (results.at_share(name, one, (0.0, 0.7)) for one in (0.0, 0.7))
        if isinstance(kept, Interval) and mean(before) > 0 and name != PRIOR:
            within = results.kept(name, 0.7)
            part = within.mean if isinstance(within, Interval) else kept.mean / mean(before)
            word = "at least" if part >= LEAST_KEPT else "less than"
            sure = not isinstance(within, Interval) or within.low >= LEAST_KEPT or within.high < LEAST_KEPT
            said.append(
                f"With 70% of random actions {name} keeps {within or part:.0%} of it, {word} the {LEAST_KEPT:.0%} asked for"
                + ("." if sure else ", which is within the interval.")
            )
    if hours := results.hours(share):
        said.append(f"The trainings took {hours:.1f} hours, one after another.")
    if rows := loss_table(results)[1]:
        ratios = ", ".join(f"{row[-1].mean:.2f}" for row in rows)
        least = min(row[-1].mean for row in rows)
        word = "enough" if least >= LEAST_GAP else f"less than {LEAST_GAP}, so that there is little"
        said.append(f"The prior's loss on seen tasks is {ratios} times the in-domain model's, {word} to adapt.")
    return said


def chance(ahead: Interval) -> str:
    """What a lead is to be taken for whose interval is not above zero."""
    if ahead.high < 0:
        return ", so that it is behind with the seeds of both"
    return "" if ahead.low > 0 else ", which is within the interval"


def success_table(results: Results) -> tuple[list[str], list[list[Any]]]:
    """Header and rows: success by task, of seen and novel ones, above the in-domain model's and the bare prior's on novel
    ones, and FVD there.
    """
    share = results.shares[0]
    above = [f"novel, above {name}" for name in (REFERENCE, PRIOR)]
    header = ["method", "seeds", *results.tasks, "seen", "novel", *above, "FVD, novel"]
    rows = []
    for method in results.methods:
        facts = {"method": method, "random_share": share}
        rows.append(
            [
                method,
                str(len(results.seeds_of(method, share)) or ""),
                *(mean_text(results.rate(task=task, **facts)) for task in results.tasks),
                results.group(method, share, novel=False),
                results.group(method, share, novel=True),
                *(results.against(name, method, novel=True, random_share=share) for name in (REFERENCE, PRIOR)),
                results.video_distance(method, share),
            ]
        )
    return header, rows


def best_of(results: Results) -> tuple[str, dict[str, Interval]]:
    """The method with the most success on novel tasks, an empty name if none has any, and that of each, most first.

    Of those that were measured at all of these tasks.
    """
    share = results.shares[0]
    rates = {name: results.group(name, share, novel=True) for name in results.methods if name not in TRUTHS}
    found = {name: rate for name, rate in rates.items() if isinstance(rate, Interval)}
    ranked = sorted(found, key=lambda name: -found[name].mean)
    return next(iter(ranked), ""), {name: found[name] for name in ranked}


def ahead_table(results: Results) -> tuple[list[str], list[list[Any]]]:
    """Header and rows: success on novel tasks over training seeds, and how far the best is ahead, by start states and
    over seeds.
    """
    facts = {"novel": True, "random_share": results.shares[0]}
    best, ranked = best_of(results)
    header = ["method", "over seeds", "behind the best, by starts", "behind the best, over seeds"]
    return header, [
        [
            name,
            results.over_seeds(name, **facts),
            results.against(name, best, **facts),
            results.over_seeds(best, name, **facts),
        ]
        for name in ranked
    ]


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
    texts = ([f"{value:.3g}" if isinstance(value, Interval) else str(value) for value in row] for row in rows)
    return markdown_table(header, texts).rstrip()
