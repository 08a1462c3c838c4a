"""The page and the table that the benchmark ends with; knows its cells, and no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trimtab.core.files import write_whole
from trimtab.metrics.evaluation import REAL, REPEAT_LAST_FRAME
from trimtab.metrics.intervals import Interval
from trimtab.metrics.protocol import Evaluation
from trimtab.networks import storage
from trimtab.recipes.benchmark.methods import Method, slug
from trimtab.recipes.benchmark.results import Cell, Results
from trimtab.recipes.benchmark.tables import ACTIONS, DISTANCES, PICTURES, VARIED_IN, markdown
from trimtab.recipes.compare import read_result
from trimtab.report import Report, film_strip


@dataclass(frozen=True)
class Words:
    """What the page calls things.

    Attributes:
        title: of the page.
        level: what clips come from, and is resampled as a whole.
        actions: under each of which a model's pictures show the same start.
    """

    title: str
    level: str
    actions: Sequence[str]


def write_report(
    path: Path,
    cells: Sequence[Evaluation],
    *,
    pictures: Path,
    rollouts: Path,
    methods: Mapping[str, Method],
    words: Words,
) -> Path:
    """Write the page: findings, tables, strips, who listens, AVID's mask; and table.md beside it.

    Args:
        path: of the page.
        cells: finished ones.
        pictures: the folder of what was imagined; methods that are not in it are measured, and not shown.
        rollouts: the folder of the figures that `trimtab procgen-rollouts` made of these cells, if there are any.
        methods: all that there are.
        words: what to call things.
    """
    results = Results(cells, methods)
    protocol = results.first.protocol
    report = Report(
        words.title,
        f"{len(results.methods)} methods, training seeds of each: {max(map(len, results.cells.values()))}, "
        f"{protocol['num_clips']} clips of {protocol['num_levels']} held-out {words.level}s, "
        f"prior {protocol['notes']['prior']}",
    )
    report.summary([*findings(results), *horizons(rollouts, protocol["notes"]["prior"])])
    shown = {name: kept for name in results.methods if (kept := kept_pictures(pictures, name))}
    strips(report, path, results, shown, words)
    tables(report, results, words)
    listening(report, results, shown, words)
    masks(report, results, shown)
    variations(report, results)
    report.settings({"protocol": {key: value for key, value in protocol.items() if key not in ("notes", "levels")}})
    for name in results.methods:
        report.settings({name: {key: value for key, value in results.notes(name).items() if key != "listening"}})
    write_whole(path.with_name("table.md"), markdown(results))
    return report.write(path)


def kept_pictures(folder: Path, method: str) -> dict[str, Tensor]:
    """What was imagined with the first seed, by name; empty if it is not there."""
    found = sorted(folder.glob(f"{slug(method)}-[0-9].safetensors"))
    return storage.read(found[0])[0] if found else {}


def findings(results: Results) -> list[str]:
    """What the numbers say, in sentences."""
    said = []
    sides = {
        "LPIPS": min,
        "FVD with given frames": min,
        "action accuracy (effects)": max,
        "action error ratio (effects)": min,
        "action error ratio": min,
    }
    for metric, best in sides.items():
        for words, group in (
            (
                "without the prior's weights",
                [name for name in results.methods if not results.known[name].needs_weights],
            ),
            ("with them", [name for name in results.methods if results.known[name].needs_weights]),
        ):
            figures = {name: figure for name in group if isinstance(figure := results.figure(name, metric), Interval)}
            if figures:
                name = best(figures, key=lambda name: figures[name].mean)
                said.append(f"Best {metric} {words}: {name}, {figures[name]}.")
    if "AVID" in results.methods:
        for name in results.methods:
            difference = results.difference("AVID", name, "LPIPS") if name != "AVID" else "–"
            if isinstance(difference, Interval):
                word = "below" if difference.high < 0 else "above" if difference.low > 0 else "not told apart from"
                said.append(f"AVID's LPIPS is {word} that of {name} ({difference}).")
    return said


def horizons(rollouts: Path, prior: str) -> list[str]:
    """How far each method can be trusted, in sentences, by the figures of this prior that are in a folder.

    Raises ValueError for a file there that is no result.
    """
    said = []
    for found in map(read_result, sorted(rollouts.glob("*.json"))):
        length, notes = found.protocol["num_predicted"], found.protocol["notes"]
        if notes["prior"] == prior:
            seed = notes.get("training seed")
            trained = "" if seed is None else f", seed {seed},"
            said += [
                f"{name}{trained} can be trusted for {frames} of {length} frames of a longer rollout."
                for name, frames in notes["trusted frames"].items()
            ]
    return said


def strips(
    report: Report, path: Path, results: Results, shown: Mapping[str, Mapping[str, Tensor]], words: Words
) -> None:
    """Of real play and every method; two clips also as a picture beside the page."""
    if not shown:
        return
    first = next(iter(shown.values()))
    report.section(
        "What they imagine", f"The same held-out clips from the same noise, on {words.level}s nothing was trained on."
    )
    rows = {"real": first["real"], **{name: kept[name] for name, kept in shown.items()}}
    labels = [f"{words.level} {level % 2**32}" for level in results.levels[: len(first["real"])].tolist()]
    report.strips(rows, "Real play, and every method.", given=first["given"], labels=labels)
    picture = film_strip(rows, given=first["given"], clips=range(len(labels[:2])), labels=labels[:2], scale=1)
    picture.save(path.with_name("strips.png"), optimize=True)


def tables(report: Report, results: Results, words: Words) -> None:
    """The main tables."""
    protocol = results.first.protocol
    rows = [REPEAT_LAST_FRAME, *results.methods]
    definitions = protocol["metrics"]
    report.section(
        "How good they are",
        f"Means with 95% intervals over {words.level}s. Of several seeds each clip's values are averaged first; distances, "
        "ratios, losses and what wrong actions cost are averaged with both ends of their intervals, which are therefore "
        "those of one training.",
    )
    for caption, metrics, names in (
        ("Frames, each beside its own", PICTURES, rows),
        ("All clips beside all, and change from frame to frame", DISTANCES, rows),
        ("Actions, as a judge reads them", ACTIONS, [REAL, *rows]),
    ):
        there = {name: best for name, best in metrics.items() if name in definitions}
        report.table(
            ["method", "needs weights", *there],
            [
                [name, results.needs_weights(name), *(results.figure(name, metric) for metric in there)]
                for name in names
            ],
            f"{caption}: {protocol['num_clips']} clips of {protocol['num_levels']} {words.level}s.",
            note=". ".join(
                [
                    "; ".join(f"{name}: {definitions[name]}" for name in there),
                    *(
                        f"Left out, {name}: {protocol['left_out'][name]}"
                        for name in metrics
                        if name in protocol["left_out"]
                    ),
                ]
            )
            + ".",
            best={name: best for name, best in there.items() if best},
        )
    trained = [name for name in results.methods if results.notes(name)["training"]]
    report.table(
        ["method", "denoising loss", "trained parameters", "steps", "GFLOP a step", "minutes", "chosen"],
        [[name, results.loss(name), *cost(results.notes(name))] for name in results.methods],
        "What it took: the same number of operations for each training, prior and loss included.",
        best={"denoising loss": "min"},
    )
    if "AVID" in results.methods:
        others = [name for name in results.methods if name != "AVID"]
        for caption, metrics in (("frames", PICTURES), ("change and actions", DISTANCES | ACTIONS)):
            known = [name for name in metrics if name in definitions]
            paired = [name for name in known if isinstance(results.difference("AVID", "AVID", name), Interval)]
            report.table(
                ["AVID minus", *paired],
                [[name, *(results.difference("AVID", name, metric) for metric in paired)] for name in others],
                f"The same clips compared one by one: {caption}.",
            )
    if any(len(results.cells[name]) > 1 for name in trained):
        for caption, metrics in (("frames", PICTURES), ("sets of clips, and change", DISTANCES), ("actions", ACTIONS)):
            main = [name for name in metrics if name in definitions]
            report.table(
                ["method", "seeds", "denoising loss", *main],
                [
                    [name, len(results.cells[name]), results.loss_across_seeds(name),
                     *(results.across_seeds(name, metric) for metric in main)]
                    for name in trained
                ],
                f"Across training seeds, {caption}: mean, and the interval of Student's t.",
            )  # fmt: skip
    steps = list(range(1, protocol["num_predicted"] + 1))
    for metric, caption in (("LPIPS", "LPIPS of each predicted frame"), ("FID", "FID of that frame of every clip")):
        known = [name for name in rows if metric in definitions]
        if curves := {name: (steps, found) for name in known if (found := results.per_step(name, metric))}:
            report.curves(curves, f"{caption}; lower is better.", "predicted frame", metric)


def cost(notes: Mapping[str, Any]) -> list[Cell]:
    training = notes["training"]
    if not training:
        return ["–"] * 5
    tried = [float(strength) for strength in notes["strengths tried (LPIPS on validation levels)"]]
    at_end = ", an end of those tried" if notes["strength"] in (*tried[:1], *tried[-1:]) else ""
    strength = "" if notes["strength"] is None else f", strength {notes['strength']:g}{at_end}"
    chosen = f"learning rate {training['learning_rate']:g}{strength}"
    return [
        f"{training['parameters']:,}",
        f"{training['steps']:,}",
        f"{1000 * training['teraflops a step']:.0f}",
        f"{training['seconds'] / 60:.1f}",
        chosen,
    ]


def listening(report: Report, results: Results, shown: Mapping[str, Mapping[str, Tensor]], words: Words) -> None:
    """A table of all, and AVID in detail."""
    heard = results.noted("listening")
    if not heard:
        return
    verdicts = (f"{name}: {found['verdict']}" for name, found in heard.items())
    report.section("Do they listen?", "\n\n".join(["The same starts and noise, under wrong actions.", *verdicts]))
    kinds = list(dict.fromkeys(kind for found in heard.values() for kind in found["cost"]))
    report.table(
        ["method", "score", *(f"cost, {kind}" for kind in kinds), "response to swapped", "follows swapped"],
        [
            [
                name,
                Interval(**found["score"]),
                *(Interval(**found["cost"][kind]) if kind in found["cost"] else "–" for kind in kinds),
                Interval(**found["response"]["swapped"]) if "swapped" in found["response"] else "–",
                Interval(**found["follows"]) if found["follows"] else "–",
            ]
            for name, found in heard.items()
        ],
        "Score: the mean cost of wrong actions, over the error under true ones; 0 is deaf.",
        best={"score": "max"},
    )
    keys = [f"under {number}" for number in range(len(words.actions))]
    rows = {name: torch.cat([under[key] for key in keys]) for name, under in shown.items() if under.keys() >= {*keys}}
    if rows:
        given = shown[next(iter(rows))]["given"][:1].expand(len(keys), -1, -1, -1, -1)
        report.strips(
            rows, "One start and one noise under every action, held for the whole clip.", given=given,
            labels=words.actions, stills=(),
        )  # fmt: skip


def masks(report: Report, results: Results, shown: Mapping[str, Mapping[str, Tensor]]) -> None:
    """What each learned mask does, in figures and as maps."""
    found = results.noted("mask")
    if not found:
        return
    said = [f"{name}: {failure}" for name, mask in found.items() for failure in mask["failures"]]
    report.section("The masks", "\n\n".join(said or ["None is stuck near 0 or 1, and none is the same everywhere."]))
    report.table(
        ["method", "trust in the prior", "deviation over places", "5%", "95%", "where it moves", "where it stands"],
        [
            [name, *(mask["overall"][key] for key in ("mean", "deviation", "low", "high")),
             *(Interval(**mask[key]) if mask[key] else "–" for key in ("moving", "still"))]
            for name, mask in found.items()
        ],
        "The mask on held-out clips: 1 takes the prior's word, 0 the adapter's.",
    )  # fmt: skip
    for what, keys in (("noise level", "by_noise"), ("predicted frame", "by_frame")):
        curves = {}
        for name, mask in found.items():
            items = mask[keys].items() if what == "noise level" else enumerate(mask[keys], 1)
            places, values = zip(*((float(place), trust["mean"]) for place, trust in items), strict=True)
            curves[name] = (places, values)
        report.curves(curves, f"Mean trust in the prior by {what} (0 is clean, 1 pure noise)."
                      if what == "noise level" else f"Mean trust in the prior by {what}.", what, "mask")  # fmt: skip
    for name in results.methods:
        if (maps := shown.get(name, {}).get("mask")) is not None:
            noises = [f"noise {float(noise):.2f}" for noise in results.notes(name)["mask"]["by_noise"]]
            report.strips(
                {"mean mask": maps}, f"{name}: the mean mask at each place, over clips.", labels=noises,
                stills=sorted({0, len(noises) - 1}),
            )  # fmt: skip


def variations(report: Report, results: Results) -> None:
    """Quality against the adapter's size and against the data's, and what else was tried."""
    varied = [name for name in results.cells if results.known[name].varies]
    if not varied:
        return
    report.section("Other sizes, less data, and what else was tried", "One training seed each.")
    others = [name for name in varied if results.known[name].along is None]
    if others:
        usual = dict.fromkeys(str(results.known[name].varies) for name in others)
        rows = [name for name in (*usual, *others) if name in results.cells]
        metrics = [name for name in VARIED_IN if name in results.first.protocol["metrics"]]
        report.table(
            ["method", "denoising loss", *metrics],
            [[name, results.loss(name), *(results.figure(name, metric) for metric in metrics)] for name in rows],
            "The method itself, and variations of it.",
        )
    bases = dict.fromkeys(str(results.known[name].varies) for name in varied)
    for along, words in (("parameters", "trained parameters"), ("frames", "frames to train on")):
        for metric in ("LPIPS", "action accuracy (effects)", "action error ratio"):
            points = {method: results.points(method, along, metric) for method in bases}
            curves = {method: np.array(some).T for method, some in points.items() if len(some) > 1}
            if curves:
                report.curves(
                    {method: (x, y) for method, (x, y) in curves.items()},
                    f"{metric} against {words}.",
                    words,
                    metric,
                    log_x=True,
                )
