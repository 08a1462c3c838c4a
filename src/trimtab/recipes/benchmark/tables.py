"""A benchmark's tables as text, to paste into docs, and which metrics they have; knows its cells, and no page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from trimtab.core.markdown import markdown_table
from trimtab.metrics.evaluation import REAL, REPEAT_LAST_FRAME
from trimtab.metrics.intervals import Interval, seed_interval
from trimtab.recipes.benchmark.results import Results

PICTURES: dict[str, Literal["min", "max"] | None] = {
    "LPIPS": "min",
    "LPIPS (VGG)": "min",
    "SSIM": "max",
    "PSNR": "max",
    "sharpness": None,
}
DISTANCES: dict[str, Literal["min", "max"] | None] = {
    "FID": "min",
    "KID": "min",
    "FID with given frames": "min",
    "FVD with given frames": "min",
    "FVD": "min",
    "temporal error": "min",
}
ACTIONS: dict[str, Literal["min", "max"] | None] = {
    "action accuracy (effects)": "max",
    "action accuracy (horizontal)": "max",
    "action accuracy (15 actions)": "max",
    "action error ratio (effects)": "min",
    "action error": "min",
    "action error ratio": "min",
}
VARIED_IN = (
    "LPIPS",
    "SSIM",
    "sharpness",
    "FID",
    "FVD with given frames",
    "action accuracy (effects)",
    "action error ratio",
)


def markdown(results: Results) -> str:
    """What was trained and how frames are, what clips and actions are like, AVID minus the others, what several trainings of
    one method give, and variations.
    """
    pictures, others, varied_in = (
        [name for name in some if name in results.first.protocol["metrics"] and name != "action accuracy (15 actions)"]
        for some in (PICTURES, (*DISTANCES, *ACTIONS), VARIED_IN)
    )
    tables = [
        markdown_table(
            ["method", "needs weights", "trained parameters", "seeds", "steps", "denoising loss", *pictures],
            (
                [name, results.needs_weights(name), *trained(results, name), results.loss(name),
                 *(results.figure(name, metric) for metric in pictures)]
                for name in (REPEAT_LAST_FRAME, *results.methods)
            ),
        ),
        markdown_table(
            ["method", *others, "wrong actions cost"],
            (
                [name, *(results.figure(name, metric) for metric in others), results.listening(name)]
                for name in (REAL, REPEAT_LAST_FRAME, *results.methods)
            ),
        ),
    ]  # fmt: skip
    if "AVID" in results.methods:
        metrics = (*pictures, *others)
        paired = [name for name in metrics if isinstance(results.difference("AVID", "AVID", name), Interval)]
        rest = [name for name in results.methods if name != "AVID"]
        rows = ([name, *(results.difference("AVID", name, metric) for metric in paired)] for name in rest)
        tables.append(markdown_table(["AVID minus", *paired], rows))
    several = [name for name in results.methods if len(results.cells[name]) > 1 and results.notes(name)["training"]]
    if several:
        rows = (
            [name, listed([loss.mean for loss in results.losses(name)]),
             *(listed([cell.figure(name, metric).overall.mean for cell in results.cells[name]]) for metric in varied_in)]
            for name in several
        )  # fmt: skip
        tables.append(markdown_table(["training seed by seed", "denoising loss", *varied_in], rows))
    varied = [name for name in results.cells if results.known[name].varies]
    usual = dict.fromkeys(str(results.known[name].varies) for name in varied)
    if varied:
        tables.append(
            markdown_table(
                ["variation", "trained parameters", "seeds", "steps", "frames to train on", "denoising loss", *varied_in],
                (
                    [name, *trained(results, name), f"{results.notes(name)['training']['frames']:,}", results.loss(name),
                     *(results.figure(name, metric) for metric in varied_in)]
                    for name in (*(name for name in usual if name in results.cells), *varied)
                ),
            )
        )  # fmt: skip
    return "\n".join(tables)


def trained(results: Results, name: str) -> tuple[str, str, str]:
    """Parameters, seeds and steps of a method's training."""
    training = results.notes(name)["training"] if name in results.cells else None
    if not training:
        return ("–",) * 3
    return f"{training['parameters']:,}", str(len(results.cells[name])), f"{training['steps']:,}"


def listed(values: Sequence[float]) -> str:
    """One number a training, and their mean with its interval over trainings (Student's t)."""
    return f"{', '.join(f'{value:.4g}' for value in values)}: {seed_interval(values)}"
