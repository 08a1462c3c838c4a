"""Do the two models of a composition speak of the same? The distance of what they predict, against the noise level."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int
from rich import print
from torch import Tensor
from torch.nn import functional

from trimtab.core.contracts import Denoiser
from trimtab.core.files import write_whole
from trimtab.core.values import Prediction
from trimtab.data.clips import spread
from trimtab.diffusion import sampling
from trimtab.metrics.intervals import Interval, mean_interval, paired_interval
from trimtab.priors.pixel_unet import PixelUNet
from trimtab.recipes._held import Held
from trimtab.recipes._metaworld import FIRST_VALIDATION, VALIDATION
from trimtab.recipes._planning import Bench
from trimtab.recipes._planning_scales import counted
from trimtab.recipes.tabletop_prior_card import told
from trimtab.training import record_settings

SAID = ("own text", "shuffled text", "untold")
"""What the in-domain model is told of a clip, while the prior is told the clip's own text."""

DISTANCES = {"mean squared distance": "mean squared", "cosine similarity": "cosine"}
"""How they are called in the picture, and in short."""

Levels = Float[Tensor, "level clip"]


def score_alignment(
    *,
    num_levels: int = 8,
    num_clips: int = 64,
    scale: Literal["smoke", "tiny", "paper"] = "smoke",
    teraflops: float | None = None,
    seed: int = 0,
    prior: str = "tabletop",
    dry_run: bool = False,
    datasets: Path = Path("datasets"),
    planning: Path | None = None,
    output: Path = Path("runs/score-alignment"),
) -> None:
    """Ask the prior and the in-domain model about the same noisy clips, and compare the noises that they predict.

    The in-domain model is told a clip's own text, another clip's, or none; where the first is nearest to the prior, both
    mean the same by the words. Distances are in the space that both diffuse in, here of pixels.

    Args:
        num_levels: noise levels, spread evenly over the prior's schedule.
        num_clips: recorded clips of the validation tasks.
        scale: that the in-domain model was trained at, see `trimtab metaworld-planning`.
        teraflops: likewise, where it was not the scale's.
        seed: of its training, and of the noise.
        prior: the name of a prior that ships with the package, or the path of one, that hears texts.
        dry_run: only say what the in-domain model's training will need in memory, time and disk, where it is not done yet.
        datasets: where recorded episodes are kept.
        planning: the folder in which `trimtab metaworld-planning` trained, or in which it will find what is trained here; by
            default that of the scale.
        output: run folder; score_alignment.png and score_alignment.json in it are the result.
    """
    counts = counted(num_levels=num_levels, num_clips=num_clips)
    settings = {**counts, "scale": scale, "teraflops": teraflops, "seed": seed}
    bench = Bench.opened(scale, prior, Path(), datasets, planning, teraflops)  # nothing is planned or read
    record_settings(output, "score-alignment", {**settings, "prior": prior}, dry_run=dry_run)
    if dry_run:
        bench.forecast(["in-domain"], [seed])
        return
    trained, _ = bench.train("in-domain", seed)
    held = bench.clips("validation", VALIDATION, FIRST_VALIDATION, num_clips)
    indices = spread(bench.prior.schedule.num_levels, num_levels)
    found = alignment(bench.prior, trained, held, indices.tolist(), seed)
    levels = bench.prior.schedule.level(torch.from_numpy(indices)).sigma.tolist()
    figures = intervals(found, recorded(held))
    written = {
        "prior": bench.prior.fingerprint,
        "sigma": levels,
        "figures": {
            said: {name: [asdict(one) for one in row] for name, row in of.items()} for said, of in figures.items()
        },
    }
    write_whole(output / "score_alignment.json", json.dumps(written, indent=1) + "\n")
    plot(figures, levels, output / "score_alignment.png")
    for name in DISTANCES.values():
        for said, of in figures.items():
            print(f"{name:13} {said:32}" + " ".join(f"{one.mean:9.4g}" for one in of[name]))
    print(f"sigma: {', '.join(f'{one:.3g}' for one in levels)}; picture in {output / 'score_alignment.png'}")


def distances(ours: Prediction, theirs: Prediction) -> dict[str, Float[Tensor, " clip"]]:
    """The mean squared difference and the cosine of the noises that two predictions of one noisy video amount to."""
    first, second = ours.noise.flatten(1), theirs.noise.flatten(1)
    return {
        "mean squared": (first - second).square().mean(1),
        "cosine": functional.cosine_similarity(first, second, dim=1),
    }


def shuffled(text: Float[Tensor, "clip token feature"], seed: int) -> Float[Tensor, "clip token feature"]:
    """For each clip a text that others have and it has not. Raises ValueError if all have the same."""
    kinds, which = torch.unique(text, dim=0, return_inverse=True)
    if len(kinds) < 2:
        raise ValueError("all clips have one text, so that none can be told another's; take clips of two tasks or more")
    further = torch.randint(1, len(kinds), which.shape, generator=torch.Generator().manual_seed(seed))
    return kinds[(which + further) % len(kinds)]


def recorded(held: Held) -> Int[Tensor, " clip"]:
    """The episode of each clip, which is of one start state and has one text."""
    kinds, which = torch.unique(told(held), dim=0, return_inverse=True)
    return held.levels * len(kinds) + which


@torch.no_grad()
def alignment(
    prior: PixelUNet, model: Denoiser, held: Held, levels: Sequence[int], seed: int
) -> dict[str, dict[str, Levels]]:
    """How far a model's predictions are from the prior's, by what it is told and by distance, (level, clip).

    Args:
        prior: told the text of each clip.
        model: told it, another one, or none.
        held: the clips.
        levels: of the prior's schedule.
        seed: of the noise, the same for all, and of the other texts.
    """
    noise = sampling.start_noise(tuple(held.clip.video.shape[1:]), seed, held.indices.tolist())
    other = shuffled(told(held), seed)
    found = {said: {name: torch.zeros(len(levels), len(noise)) for name in DISTANCES.values()} for said in SAID}
    for first in range(0, len(noise), 16):
        part, rows = held.part(first, 16), slice(first, first + 16)
        given = part.given.without("actions")
        ask = prior.bind(given)
        told_so = (given, replace(given, text=other[rows]), given.without("text"))
        answers = {said: model.bind(what) for said, what in zip(SAID, told_so, strict=True)}
        for row, index in enumerate(levels):
            level = prior.schedule.level(torch.full((len(part.video),), index))
            noisy = level.add_noise(part.video, noise[rows])
            belief = ask(noisy, level)
            for said, answer in answers.items():
                for name, values in distances(belief, answer(noisy, level)).items():
                    found[said][name][row, rows] = values
    return found


def less(said: str) -> str:
    return f"{said} less {SAID[0]}"


def intervals(
    found: Mapping[str, Mapping[str, Levels]], clusters: Int[Tensor, " clip"]
) -> dict[str, dict[str, list[Interval]]]:
    """Means over clips with their intervals, level by level; and of what else was told less the own text, clip by clip."""
    own, *others = SAID
    figures = {
        said: {name: [mean_interval(row, clusters) for row in values] for name, values in of.items()}
        for said, of in found.items()
    }
    for said in others:
        figures[less(said)] = {
            name: [paired_interval(*rows, clusters) for rows in zip(values, found[own][name], strict=True)]
            for name, values in found[said].items()
        }
    return figures


def plot(figures: Mapping[str, Mapping[str, Sequence[Interval]]], levels: Sequence[float], path: Path) -> None:
    """Both distances, and how much larger the first is than with the own text; a line for each thing told, 95% intervals."""
    from matplotlib.figure import Figure

    more = tuple(map(less, SAID[1:]))
    colors = dict(zip((*SAID, *more), ("C0", "C1", "C2", "C1", "C2"), strict=True))
    panels: list[tuple[str, str, tuple[str, ...]]] = [(title, name, SAID) for title, name in DISTANCES.items()]
    panels.append((f"mean squared distance, less that of the {SAID[0]}", "mean squared", more))
    figure = Figure(figsize=(14, 4), layout="constrained")
    for axes, (title, name, lines) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for said in lines:
            row, color = figures[said][name], colors[said]
            axes.plot(levels, [one.mean for one in row], marker="o", label=said, color=color)
            axes.fill_between(levels, [one.low for one in row], [one.high for one in row], alpha=0.15, color=color)
        axes.set_xlabel("noise level (sigma)")
        axes.set_title(title, loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_yscale("log")
    figure.axes[0].legend(frameon=False, fontsize=8)
    figure.axes[-1].axhline(0, color="0.5", linestyle=":")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
