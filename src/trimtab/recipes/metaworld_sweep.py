"""Chooses guidance and strength of every way of adapting a prior, from start states that no plan is measured from."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from rich import print
from torch import Tensor

from trimtab.adapters.composition import MOST_WEIGHT
from trimtab.core.checks import counted
from trimtab.core.files import write_whole
from trimtab.metrics.frames import Lpips
from trimtab.recipes._held import Held
from trimtab.recipes.domains.metaworld import FIRST_VALIDATION, VALIDATION
from trimtab.recipes.planning.adaptations import ADAPTATIONS, NORMALISED, Adaptation, learning
from trimtab.recipes.planning.bench import Bench
from trimtab.recipes.planning.cells import slug
from trimtab.recipes.planning.continuations import LEAST_EPISODES, video_distance
from trimtab.recipes.planning.results import check_alike
from trimtab.recipes.planning.scales import choice_name
from trimtab.training import record_settings

FVD = "FVD with given frames"

Cell = Mapping[str, float]
Samples = Float[Tensor, "sample clip time 3 height width"]


def metaworld_sweep(
    *,
    methods: Sequence[str] | None = None,
    guidances: Sequence[float] = (2.5, 5.0, 7.5),
    strengths: Sequence[float] = (0.1, 0.5, 2.0),
    num_starts: int = 6,
    num_clips: int = 64,
    num_samples: int = 2,
    random_share: float = 0.0,
    scale: Literal["smoke", "tiny", "paper"] = "smoke",
    teraflops: float | None = None,
    seed: int = 0,
    prior: str = "tabletop",
    reader: Path | None = None,
    reader_weights: Path | None = None,
    dry_run: bool = False,
    datasets: Path = Path("datasets"),
    planning: Path | None = None,
    output: Path | None = None,
    record: Path | None = None,
) -> None:
    """Plan validation tasks with every guidance and strength, and keep the best; draw what was found as heat maps.

    The best of a method succeeds most often; of those that do equally often, its videos are nearest to the experts'. One of
    the tasks is among the demonstrations and one is not; planning measures the first from other start states, and the second
    not at all. What is finished is not done again, and the best is that of all that were tried in this output.

    Args:
        methods: only these, or more; strengths are tried for those that have one. By default all whose weights are
            normalised, and with random actions only those of them that learn from demonstrations.
        guidances: weights of classifier-free guidance, from 1, which is the told model alone, on.
        strengths: of the second voice.
        num_starts: start states of each task that are planned from.
        num_clips: recorded clips whose continuation is imagined; of 20 start states or more for FVD, else LPIPS counts. FVD
            of fewer than 64 says nothing but which of two models is nearer on these very clips.
        num_samples: imagined continuations of a clip whose spread is measured, from 2 on.
        random_share: of the demonstrations' actions, 0 to 1, that are random instead of the expert's; what is chosen with it
            is kept beside the other choices, and planning with this share takes it.
        scale: that the models were trained at, see `trimtab metaworld-planning`.
        teraflops: likewise, where it was not the scale's.
        seed: of the trainings, and of the noise.
        prior: the name of a prior that ships with the package, the path of one, or ``module:function`` (docs/your_model.md);
            it hears texts.
        reader: inverse dynamics, a file of `trimtab inverse-dynamics`; by default those that come with the package.
        reader_weights: the safetensors file of vc1 or dinov2, for a reader that was trained with one.
        dry_run: record what data are missing, and then only say what the trainings will need in memory, time and disk,
            where they are not done yet.
        datasets: where recorded episodes are kept.
        planning: the folder in which `trimtab metaworld-planning` trained, or in which it will find what is trained here; by
            default that of the scale.
        output: run folder, by default runs/metaworld-sweep-<scale>; choices.json in it, and a picture for each method,
            are the result.
        record: a file from which planning reads choices; these are added to those in it, or take their place.
    """
    output = output or Path(f"runs/metaworld-sweep-{scale}")
    if unknown := [name for name in methods or () if name not in ADAPTATIONS]:
        raise ValueError(f"no methods {unknown}; there are: {', '.join(map(repr, ADAPTATIONS))}")
    sensible = all(1 <= one <= MOST_WEIGHT for one in guidances) and all(0 <= one <= MOST_WEIGHT for one in strengths)
    if not (guidances and strengths and sensible):
        came = " and ".join(", ".join(map(str, numbers)) or "none" for numbers in (guidances, strengths))
        raise ValueError(f"guidances are 1 to {MOST_WEIGHT:g} and strengths 0 to {MOST_WEIGHT:g}, got {came}")
    if num_samples < 2:
        raise ValueError(f"a spread is that of 2 samples or more, not {num_samples}")
    counts = counted(num_starts=num_starts, num_clips=num_clips, num_samples=num_samples) | {"seed": seed}
    settings = {**counts, "scale": scale, "teraflops": teraflops, "prior": prior}
    bench = Bench.opened(scale, prior, reader, datasets, planning, teraflops, None, reader_weights, random_share)
    methods = bench.usual(learning(NORMALISED, random_share)) if methods is None else methods
    bench.check(methods)
    if not dry_run:
        bench.reading()  # refused before anything is kept, if none fits, and if there are not as many clips
        bench.clips("validation", VALIDATION, FIRST_VALIDATION, num_clips)
    folder = output / f"random-{round(100 * random_share)}" if random_share else output
    # More methods, guidances and strengths may be tried later.
    record_settings(
        folder, "metaworld-sweep", {**settings, "reader": reader, "reader_weights": reader_weights}, dry_run=dry_run
    )
    if dry_run:
        bench.forecast([ADAPTATIONS[name].training for name in methods], [seed])
        return
    measured = {**bench.protocol, **counts, "tasks": list(VALIDATION)}
    if random_share:  # what was chosen before it could be asked for does not say it
        measured["random_share"] = random_share
    for name in methods:
        how = bench.size.adaptations[name]
        protocol = {**measured, "form": how.form()}
        trials(name, protocol, folder / "cells")  # refused before hours are spent, if one is of another protocol
        for guidance in guidances:
            for strength in strengths if how.strength is not None else (None,):
                trial(bench, name, replace(how, guidance=guidance, strength=strength), protocol, folder / "cells")
        tried = trials(name, protocol, folder / "cells")  # with those of before
        for (guidance, strength), figures in tried.items():
            told = ", ".join(f"{figure} {value:.3g}" for figure, value in figures.items())
            print(f"{name}, guidance {guidance}, strength {strength}: {told}")
        place = best(tried)
        found = {
            "guidance": place[0],
            "strength": place[1],
            "tried": [{"guidance": g, "strength": s, **cell} for (g, s), cell in tried.items()],
            "protocol": protocol,
            "date": datetime.now(UTC).date().isoformat(),
        }
        for path in filter(None, (output / "choices.json", record)):
            known = json.loads(path.read_text()) if path.exists() else {}
            write_whole(path, json.dumps(known | {choice_name(name, random_share): found}, indent=1) + "\n")
        draw(tried, choice_name(name, random_share), folder / f"{slug(name)}.png")
        print(f"{name}: guidance {place[0]}, strength {place[1]}; picture in {folder / f'{slug(name)}.png'}")
        if further := at_the_edge(place, tried):
            print(f"[yellow]it lies at the edge of what was tried: it may pay to try {further}")
    print(f"plan by what was chosen: trimtab metaworld-planning --choices {output / 'choices.json'}")


def trial(bench: Bench, name: str, how: Adaptation, protocol: Mapping[str, Any], cells: Path) -> None:
    """Measure one guidance and strength, and keep the figures in a file, unless it is there."""
    path = cells / f"{slug(name)}--{how.guidance}--{how.strength}.json"
    if path.exists():
        return
    denoiser = how.denoiser(bench.prior, bench.train(how.training, protocol["seed"])[0])
    planner = bench.planner(denoiser, protocol["seed"], how)
    held = bench.clips("validation", VALIDATION, FIRST_VALIDATION, protocol["num_clips"], how)
    seeds = [protocol["seed"] + number for number in range(protocol["num_samples"])]
    samples = torch.stack([bench.continued(denoiser, held, seed, how) for seed in seeds])
    figures = {
        "success": float(np.mean(bench.successes(planner, FIRST_VALIDATION, protocol["num_starts"]))),
        **quality(samples, held, bench.output / "features"),
    }
    made = {"guidance": how.guidance, "strength": how.strength, "figures": figures, "protocol": protocol}
    write_whole(path, json.dumps(made, indent=1) + "\n")


def trials(name: str, protocol: Mapping[str, Any], cells: Path) -> dict[tuple[float, float | None], Cell]:
    """The figures of every guidance and strength of a method that was tried.

    Raises ValueError if one was made under another protocol.
    """
    kept = [json.loads(path.read_text()) for path in sorted(cells.glob(f"{slug(name)}--*.json"))]
    tried: dict[tuple[float, float | None], Cell] = {}
    for one in sorted(kept, key=lambda one: (one["guidance"], one["strength"] or 0)):
        title = f"{name}, guidance {one['guidance']}, strength {one['strength']}"
        check_alike(title, one["protocol"], "what is asked for", protocol)
        tried[one["guidance"], one["strength"]] = one["figures"]
    return tried


def quality(samples: Samples, held: Held, cache: Path) -> dict[str, float]:
    """How near imagined continuations are to the experts', and how far those of one clip are from each other.

    The spread is the deviation of a pixel over samples, on the scale of -1 to 1, meaned over everything else.
    """
    figures = {"LPIPS": Lpips()(samples[0], held.clip.video).mean().item(), "spread": samples.std(0).mean().item()}
    if len(held.levels.unique()) >= LEAST_EPISODES:
        figures[FVD] = video_distance(samples[0], held, cache).mean
    return figures


def at_the_edge(place: tuple[float, float | None], tried: Collection[tuple[float, float | None]]) -> str:
    """Where to try further, as what is best has no neighbour there: in words, empty if it has on all sides.

    Guidance needs none below 1, and a strength none below 0.
    """
    words = []
    for name, one, numbers, least in (
        ("guidance", place[0], {guidance for guidance, _ in tried}, 1.0),
        ("strength", place[1], {strength for _, strength in tried if strength is not None}, 0.0),
    ):
        if one is not None and one == max(numbers):
            words.append(f"a higher {name}")
        if one is not None and one == min(numbers) and one > least:
            words.append(f"a lower {name}")
    return " and ".join(words)


def best(tried: Mapping[Any, Cell]) -> Any:
    """The most successful; of several the one whose videos are nearest to the experts', by FVD where it was measured."""
    nearness = FVD if all(FVD in cell for cell in tried.values()) else "LPIPS"
    return min(tried, key=lambda place: (-tried[place]["success"], tried[place][nearness]))


def draw(tried: Mapping[tuple[float, float | None], Cell], title: str, path: Path) -> None:
    """A heat map a figure, guidance down and strength across, blank where nothing was tried; what is chosen is framed."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    guidances = sorted({guidance for guidance, _ in tried})
    strengths = sorted({strength for _, strength in tried}, key=lambda strength: strength or 0.0)
    chosen = best(tried)
    names = list(next(iter(tried.values())))
    figure = Figure(figsize=((1.8 + 0.6 * max(3, len(strengths))) * len(names), 3.8), layout="constrained")
    figure.suptitle(title, fontsize=11)
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        values = np.array([[tried.get((g, s), {}).get(name, np.nan) for s in strengths] for g in guidances])
        picture = axes.imshow(values, cmap="viridis", aspect="auto")
        low, high = np.nanmin(values), np.nanmax(values)
        for row, column in np.argwhere(np.isfinite(values)).tolist():
            value = values[row, column]
            light = (value - low) / max(high - low, 1e-9) > 0.6
            axes.text(column, row, f"{value:.3g}", ha="center", va="center", color="black" if light else "white")
        corner = strengths.index(chosen[1]) - 0.5, guidances.index(chosen[0]) - 0.5
        axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="red", linewidth=2))
        axes.set_xticks(range(len(strengths)), ["" if value is None else str(value) for value in strengths])
        axes.set_yticks(range(len(guidances)), [str(value) for value in guidances])
        axes.set_xlabel("" if strengths == [None] else "strength of the second voice")
        axes.set_ylabel("guidance")
        axes.set_title(name, loc="left", fontsize=10)
        figure.colorbar(picture, ax=axes)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
