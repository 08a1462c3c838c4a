"""The page that planning ends with; knows its cells, and no model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from trimtab.core.files import write_whole
from trimtab.networks import storage
from trimtab.recipes.planning.results import EXPERT, Results, shared
from trimtab.recipes.planning.scales import choice_name
from trimtab.recipes.planning.tables import (
    ahead_table,
    blame_table,
    findings,
    loss_table,
    markdown,
    mean,
    share_table,
    success_table,
)
from trimtab.report import Report, film_strip

NUM_FRAMES = 14
"""Of an episode, at even distances, in a strip."""


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
    note = "By start states these are resampled, seeds averaged; over seeds, which are few, intervals are Student's t."
    table(ahead_table(results), "Success on novel tasks, and how far it is from the best", note)
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
    own = {
        choice_name(cell["method"], cell["random_share"]): cell["protocol"]["own"]
        for cell in results.cells
        if cell["protocol"]["own"]
    }
    report.settings({**shared(first), **own, **first["versions"]})
    write_whole(path.with_name("table.md"), "\n".join(written))
    return report.write(path)


def strips_of(results: Results, task: str, pictures: Path) -> dict[str, Tensor]:
    """What each method imagined and did from the first start of a task, (1, time, 3, height, width) in [-1, 1].

    Their names say whether the task was done in the end.
    """
    found: dict[str, Tensor] = {}
    for path in sorted(pictures.glob(f"{task}--*.safetensors")):
        tensors, facts = storage.read(path)
        cells = results.of(**facts)  # none if it was never finished, or lies elsewhere
        if not cells or facts["seed"] or facts["random_share"] != results.shares[0]:
            continue
        end = "done" if cells[0]["success"][0] else "not done"
        for kind, said in (("imagined", ""), ("executed", f": {end}")):
            if kind == "imagined" and facts["method"] == EXPERT:
                continue
            found[f"{facts['method']}, {kind}{said}"] = as_clip(tensors[f"{kind} 0"])
    order = {method: place for place, method in enumerate(results.methods)}
    return dict(sorted(found.items(), key=lambda row: order[row[0].rsplit(", ", 1)[0]]))


def as_clip(frames: Tensor) -> Tensor:
    """Frames (time, height, width, 3) uint8 at even distances, as a video of one clip."""
    places = np.linspace(0, len(frames) - 1, NUM_FRAMES).round().astype(int)
    return (frames[places].movedim(-1, 1).float() / 127.5 - 1)[None]
