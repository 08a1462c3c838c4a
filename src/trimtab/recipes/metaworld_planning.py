"""Which way of adapting a text-to-video prior plans best? Every method, on seen and on novel tasks of a robot arm."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from trimtab.core.files import write_whole
from trimtab.environments.metaworld import TEXTS
from trimtab.recipes._prior import prior_of
from trimtab.recipes.domains.metaworld import SEEN, VALIDATION
from trimtab.recipes.planning.adaptations import ADAPTATIONS, IN_DOMAIN, learning
from trimtab.recipes.planning.bench import Bench
from trimtab.recipes.planning.cells import LOSSES, VIDEOS, cell_name, cells_in
from trimtab.recipes.planning.continuations import LEAST_EPISODES
from trimtab.recipes.planning.report import write_report
from trimtab.recipes.planning.results import TRUTHS, Results, begun_from, check_alike, name_of, settings, shared
from trimtab.recipes.planning.scales import SCALES, chosen
from trimtab.training import record_settings


def metaworld_planning(
    *,
    scale: Literal["smoke", "tiny", "paper"] = "smoke",
    methods: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    random_share: float = 0.0,
    teraflops: float | None = None,
    num_starts: int | None = None,
    first_start: int | None = None,
    num_clips: int | None = None,
    num_steps: int | None = None,
    temperature: float | None = None,
    num_plans: int | None = None,
    replan_every: int | None = None,
    horizon: int | None = None,
    prior: str = "tabletop",
    reader: Path | None = None,
    reader_weights: Path | None = None,
    choices: Path | None = None,
    dry_run: bool = False,
    datasets: Path = Path("datasets"),
    planning: Path | None = None,
    output: Path | None = None,
    cells: Path | None = None,
) -> None:
    """Train every method on demonstrations of the seen tasks, plan seen and novel tasks by it, and compare success.

    What is finished is not done again, and several may run at once that train different things: each task, method and seed
    leaves a small file, a cell, and the report is made of all cells that are there. An interrupted training goes on.

    Args:
        scale: smoke has one seed, four start states and trainings of 16 x 10^12 operations, tiny three, ten and at most 200,
            each with trainings of its own; paper has the tasks that arXiv 2504.15369 names, its pace, step limit, sampling,
            replanning and weights that are not normalised, for GPUs, a prior of its size, and inverse dynamics that were
            trained at its pace.
        methods: only these, or more, in quotes, such as "in-domain only" "inverse probabilistic adaptation"; the tables name
            all, and a composition "as written" is not normalised. By default the scale's, and with random actions only
            those of them that train something, as the others see no demonstrations.
        tasks: only these, or others of the 32 that are recorded, but for the one that is kept for choosing; those that no
            demonstration shows count as novel. The card of the prior that ships names the 16 that it has seen.
        seeds: only these, of weights, batches and the noise of what is imagined.
        random_share: of the demonstrations' actions, 0 to 1, that are random instead of the expert's. Runs with other shares
            go into the same output, and the page shows all.
        teraflops: operations of one training, in 10^12, instead of the scale's.
        num_starts: start states of each task, instead of the scale's.
        first_start: the seed of the first of them, 600000 or more, instead of the scale's; what was made to succeed from
            those is tested by others.
        num_clips: clips of the experts that videos are compared with, from 20 to as many as are recorded, some 170, instead
            of the scale's.
        num_steps: sampling steps of a plan, instead of the scale's.
        temperature: the noise that a video starts from is scaled by it, 0 to 1, instead of the scale's.
        num_plans: videos sampled for each plan, of which the one is followed whose actions are nearest to the mean, so that
            it takes three to choose; instead of the scale's.
        replan_every: actions that are played of a plan, from 1 to all of it, instead of the scale's.
        horizon: frames that are imagined of a plan, up to the prior's clip length, instead of the scale's.
        prior: the name of a prior that ships with the package, the path of one, or ``module:function``, which makes yours
            (docs/your_model.md). It hears texts. Beside one whose weights are out of reach the usual methods are those that
            need none.
        reader: inverse dynamics, a file of `trimtab inverse-dynamics`; by default those that come with the package.
        reader_weights: the safetensors file of vc1 or dinov2, for a reader that was trained with one.
        choices: guidance and strength that `trimtab metaworld-sweep` chose beside this prior, at this pace, for the same
            sampler, steps and temperature: choices.json in its output. By default those that come with the package. Methods
            without a choice keep their defaults.
        dry_run: record what data are missing, and then only say what the trainings will need in memory, time and disk.
        datasets: where recorded episodes are kept.
        planning: the run folder of another planning, whose trainings are used, and which new ones go to; by default the
            output.
        output: run folder, by default runs/metaworld-planning-<scale>; report.html in it is the result.
        cells: the folder of the cells, by default `cells` in the output.
    """
    own = {
        "teraflops": teraflops, "num_starts": num_starts, "first_start": first_start, "num_clips": num_clips,
        "num_steps": num_steps, "temperature": temperature, "num_plans": num_plans, "replan_every": replan_every,
        "horizon": horizon,
    }  # fmt: skip
    size, output = SCALES[scale].but(own), output or Path(f"runs/metaworld-planning-{scale}")
    if size.num_clips < LEAST_EPISODES:
        raise ValueError(f"FVD and its interval need num_clips of {LEAST_EPISODES} or more, got {size.num_clips}")
    cells = cells or output / "cells"
    for kind, names, known in (("methods", methods, (*TRUTHS, *ADAPTATIONS)), ("tasks", tasks, tuple(TEXTS))):
        if unknown := [name for name in names or () if name not in known]:
            raise ValueError(f"no {kind} {unknown}; there are: {', '.join(map(repr, known))}")
    if kept := [name for name in tasks or () if name in VALIDATION and name not in SEEN]:
        raise ValueError(
            f"{kept} is kept for choosing guidance and strength, by `trimtab metaworld-sweep`; name others"
        )
    frozen, console = prior_of(prior), Console()
    adaptations = chosen(choices, frozen, size, random_share)
    bench = Bench(  # which refuses what has no sense before it is recorded as a setting
        frozen, size, reader, random_share, datasets, output, reader_weights, adaptations=adaptations, planning=planning
    )
    names = bench.usual(learning(size.methods, random_share)) if methods is None else methods
    bench.check(names)
    numbers = range(size.num_seeds) if seeds is None else seeds
    todo = todo_of(bench, cells, size.tasks if tasks is None else tasks, names, numbers)
    bench.reading()  # refused before anything is recorded, if it does not fit
    if not dry_run:  # refused before anything is kept
        ours = [name for name in names if name in bench.adaptations and bench.adaptations[name].chosen]
        if ours:
            console.print(f"Guidance and strength were chosen by a sweep for: {', '.join(map(repr, ours))}.")
        elif names:
            console.print("Guidance and strength are the methods' own, chosen by no sweep of a run like this.")
        check_kept(bench, cells)
        bench.check_clips({path.parent.name for path, _, _ in todo})
    # Methods, tasks and seeds are pieces of one run and left out; each share of random actions is a run within it.
    place = output / f"random-{round(100 * random_share)}" if random_share else output
    of_all = {
        "scale": scale, **own, "prior": prior, "reader": reader, "reader_weights": reader_weights, "planning": planning,
    }  # fmt: skip
    record_settings(
        place, "metaworld-planning", {**of_all, "choices": choices, "random_share": random_share}, dry_run=dry_run
    )
    if dry_run:
        bench.forecast([ADAPTATIONS[name].training for name in names if name in ADAPTATIONS], numbers)
        return
    for number, (path, title, make) in enumerate(todo):
        console.rule(f"{number + 1} of {len(todo)}: {title}")
        cell = make()
        write_whole(path, json.dumps(cell, indent=1) + "\n")
        if "success" in cell:
            console.print(f"{sum(cell['success'])} of {len(cell['success'])} succeeded")
    results = Results(cells_in(cells), cells_in(cells / VIDEOS), cells_in(cells / LOSSES))
    report = write_report(output / "report.html", results, pictures=output / "pictures")
    console.print(f"open {report.resolve()}")


def check_kept(bench: Bench, cells: Path) -> None:
    """Raises ValueError unless what is asked for may stand beside all cells that are there."""
    bench.reading()
    for cell in (*cells_in(cells), *cells_in(cells / VIDEOS), *cells_in(cells / LOSSES)):
        expected = bench.record(cell["method"])
        for part in (shared, settings) if cell["random_share"] == bench.random_share else (shared,):
            check_alike(name_of(cell), part(cell), "what is asked for", part(expected))
        if "starts" in cell:
            check_alike(name_of(cell), begun_from(cell["starts"]), "what is asked for", begun_from(bench.starts))


Piece = tuple[Path, str, Callable[[], dict[str, Any]]]
"""The file that a result is kept in, its title, and what makes it."""


def todo_of(bench: Bench, cells: Path, tasks: Sequence[str], names: Sequence[str], seeds: Sequence[int]) -> list[Piece]:
    """What is not finished: tasks, then videos, then the denoising of seen tasks."""
    pieces, share = pieces_of(names, seeds), bench.random_share
    made: list[Piece] = [
        (
            cells / cell_name(task, method, seed, share),
            f"{task}, {method}, seed {seed}",
            partial(bench.cell, task, method, seed),
        )
        for task in tasks
        for method, seed in pieces
    ]
    made += [
        (
            cells / VIDEOS / cell_name("novel", method, seed, share),
            f"videos of {method}, seed {seed}",
            partial(bench.likeness, method, seed),
        )
        for method, seed in pieces
        if method in ADAPTATIONS
    ]
    trained = {ADAPTATIONS[name].training for name in names if name in ADAPTATIONS}
    made += [
        (
            cells / LOSSES / cell_name("seen", IN_DOMAIN, seed, share),
            f"denoising of seen tasks, seed {seed}",
            partial(bench.losses, seed),
        )
        for seed in seeds
        if ADAPTATIONS[IN_DOMAIN].training in trained
    ]
    return [piece for piece in made if not piece[0].exists()]


def pieces_of(methods: Sequence[str], seeds: Sequence[int]) -> list[tuple[str, int]]:
    """Method and seed of what is played: where no model imagines anything, there is one seed, whichever are asked for."""
    return [(method, seed) for method in methods for seed in (seeds if method in ADAPTATIONS else [0])]
