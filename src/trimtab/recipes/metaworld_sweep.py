"""How strong should each voice be? Guidance and strength of the two compositions, chosen where nothing is measured later."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from rich import print

from trimtab.control.episodes import run_episodes
from trimtab.control.video_planner import Imagination, VideoPlanner
from trimtab.core.contracts import Denoiser
from trimtab.core.files import write_whole
from trimtab.metrics.distributions import fvd
from trimtab.priors import pixel_unet
from trimtab.recipes._adaptations import ADAPTATIONS, INVERSE, PROBABILISTIC
from trimtab.recipes._continuations import continued, validation_clips
from trimtab.recipes._held import Held
from trimtab.recipes._metaworld import FIRST_VALIDATION, VALIDATION, encoder
from trimtab.recipes.metaworld_planning import SCALES, Bench, reading, scene, slug
from trimtab.training import record_settings

FIGURES: dict[str, Callable[[Sequence[float]], int]] = {
    "success": lambda values: int(np.argmax(values)),
    "FVD with given frames": lambda values: int(np.argmin(values)),
    "spread": lambda values: int(np.argmax(values)),
}
"""What each cell of the grid is judged by, and which one is marked."""


def metaworld_sweep(
    *,
    form: Literal["inverse", "probabilistic"] = "inverse",
    guidances: Sequence[float] = (1.0, 2.5, 5.0),
    strengths: Sequence[float] = (0.1, 0.5, 2.0),
    num_starts: int = 6,
    num_clips: int = 64,
    num_samples: int = 3,
    scale: Literal["smoke", "tiny", "paper"] = "smoke",
    seed: int = 0,
    prior: str = "tabletop",
    reader: Path = Path("runs/inverse-dynamics/inverse_dynamics.safetensors"),
    datasets: Path = Path("datasets"),
    planning: Path = Path("runs/metaworld-planning-smoke"),
    output: Path = Path("runs/metaworld-sweep"),
) -> None:
    """Plan validation tasks with every guidance and strength; draw success, FVD and spread as heat maps.

    One of the tasks is among the demonstrations and one is not, and neither start states nor the second task are used to
    measure anything else. What is finished is not done again.

    Args:
        form: which of the two compositions.
        guidances: how far the answer goes beyond the untold one.
        strengths: of the second voice.
        num_starts: start states of each task that are planned from.
        num_clips: recorded clips whose continuation is imagined, for FVD.
        num_samples: imagined continuations of a clip whose spread is measured.
        scale: that the in-domain model was trained at, see `trimtab metaworld-planning`.
        seed: of its training, and of the noise.
        prior: the name of a prior that ships with the package, or the path of one, that hears texts.
        reader: inverse dynamics, from `trimtab inverse-dynamics`.
        datasets: where recorded episodes are kept.
        planning: the folder in which `trimtab metaworld-planning` trained, or in which it will find what is trained here.
        output: run folder; a picture, <form>.png, and what it shows, <form>.json, are the result.
    """
    settings = {"scale": scale, "num_starts": num_starts, "num_clips": num_clips, "num_samples": num_samples}
    record_settings(output, "metaworld-sweep", {**settings, "seed": seed, "prior": prior})
    bench = Bench(pixel_unet.load(prior), SCALES[scale], reader, 0.0, datasets, planning)
    name = INVERSE if form == "inverse" else PROBABILISTIC
    adaptation = ADAPTATIONS[name]
    trained, _ = bench.train(adaptation.training, seed)
    held = validation_clips(bench.prior, num_clips, datasets)
    found: dict[str, dict[str, float]] = {}
    for guidance in guidances:
        for strength in strengths:
            path = output / "cells" / f"{slug(name)}--{guidance}--{strength}.json"
            if not path.exists():
                denoiser = adaptation.compose(bench.prior, trained, guidance, strength)
                cell = {
                    "success": float(np.mean(successes(bench, denoiser, num_starts, seed))),
                    **quality(bench, denoiser, held, num_samples, seed),
                }
                write_whole(path, json.dumps(cell, indent=1) + "\n")
            found[f"{guidance}, {strength}"] = cell = json.loads(path.read_text())
            print(f"guidance {guidance}, strength {strength}: " + ", ".join(f"{k} {v:.3g}" for k, v in cell.items()))
    best = list(found)[FIGURES["success"]([cell["success"] for cell in found.values()])]
    write_whole(output / f"{form}.json", json.dumps({"form": name, "best": best, "cells": found}, indent=1) + "\n")
    draw(found, guidances, strengths, output / f"{form}.png")
    print(f"most successful: guidance and strength {best}; picture in {output / f'{form}.png'}")


def successes(bench: Bench, denoiser: Denoiser, num_starts: int, seed: int) -> list[bool]:
    """From which start states of the validation tasks plans succeed, task by task."""
    imagine = Imagination(
        denoiser, bench.prior, bench.sampler(), encode=encoder(), horizon=bench.size.horizon, seed=seed
    )
    player = VideoPlanner(imagine, reading(bench.reader), replan_every=bench.size.replan_every)
    starts = [FIRST_VALIDATION + number for number in range(num_starts)]
    return [one.success for task in VALIDATION for one in run_episodes(scene(task, num_starts), player, starts)]


def quality(bench: Bench, denoiser: Denoiser, held: Held, num_samples: int, seed: int) -> dict[str, float]:
    """How near imagined continuations are to the experts' as a set, and how far those of one clip are from each other.

    The spread is the deviation of a pixel over samples, on the scale of -1 to 1, meaned over everything else.
    """
    samples = torch.stack([continued(denoiser, bench.sampler(), held, seed + number) for number in range(num_samples)])
    return {
        "FVD with given frames": fvd(samples[0], held.clip.video, held.context),
        "spread": samples.std(0).mean().item(),
    }


def draw(
    found: Mapping[str, Mapping[str, float]], guidances: Sequence[float], strengths: Sequence[float], path: Path
) -> None:
    """A heat map a figure, guidance down and strength across, the best cell framed."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    for axes, (name, choose) in zip(figure.subplots(1, len(FIGURES)), FIGURES.items(), strict=True):
        values = np.array([[found[f"{g}, {s}"][name] for s in strengths] for g in guidances])
        picture = axes.imshow(values, cmap="viridis", aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            light = (value - values.min()) / max(np.ptp(values), 1e-9) > 0.6
            axes.text(column, row, f"{value:.3g}", ha="center", va="center", color="black" if light else "white")
        row, column = divmod(choose(values.ravel().tolist()), len(strengths))
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="red", linewidth=2))
        axes.set_xticks(range(len(strengths)), [str(value) for value in strengths])
        axes.set_yticks(range(len(guidances)), [str(value) for value in guidances])
        axes.set_xlabel("strength of the second voice")
        axes.set_ylabel("guidance")
        axes.set_title(name, loc="left", fontsize=10)
        figure.colorbar(picture, ax=axes)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
