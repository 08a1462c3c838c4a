"""Do the two models of a composition speak of the same, and which is right? By distance and by error, against noise."""

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

from trimtab.core.checks import counted
from trimtab.core.contracts import Denoiser, Prior
from trimtab.core.files import write_whole
from trimtab.core.values import Prediction
from trimtab.data.clips import spread
from trimtab.diffusion import sampling
from trimtab.diffusion.losses import encoded
from trimtab.environments.metaworld import TEXTS
from trimtab.metrics.intervals import Interval, mean_interval, paired_interval
from trimtab.metrics.text_match import which_text
from trimtab.recipes._held import Held, moved
from trimtab.recipes._prior import words_of
from trimtab.recipes.domains.metaworld import FIRST_VALIDATION, PLAYED, VALIDATION
from trimtab.recipes.planning.bench import Bench
from trimtab.training import record_settings

SAID = ("own text", "shuffled text", "untold")
"""What the in-domain model is told of a clip, while the prior is told the clip's own text."""

DISTANCES = {"mean squared distance": "mean squared", "cosine similarity": "cosine"}
"""How they are called in the picture, and in short."""

VOICES = ("prior", "in-domain", "half of each")
"""Whose error is measured, told the clip's own text."""

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
    output: Path | None = None,
) -> None:
    """Ask the prior and the in-domain model about the same noisy clips, and compare what they predict.

    The in-domain model is told a clip's own text, another clip's, or none; where the first is nearest to the prior, both
    mean the same by the words. Distances are of the predicted noises, in the space that both diffuse in.
    Errors are of the predicted clips, as shares of the error of repeating the frame before: at noise levels where half of
    each is nearer to a task that no demonstration shows than the prior alone, the in-domain model may well have a say.

    Args:
        num_levels: noise levels, spread evenly over the prior's schedule.
        num_clips: recorded clips of the validation tasks.
        scale: that the in-domain model was trained at, see `trimtab metaworld-planning`.
        teraflops: likewise, where it was not the scale's.
        seed: of its training, and of the noise.
        prior: the name of a prior that ships with the package, the path of one, or ``module:function`` (docs/your_model.md);
            it hears texts.
        dry_run: record what data are missing, and then only say what the in-domain model's training will need in memory,
            time and disk, where it is not done yet.
        datasets: where recorded episodes are kept.
        planning: the folder in which `trimtab metaworld-planning` trained, or in which it will find what is trained here; by
            default that of the scale.
        output: run folder, by default runs/score-alignment-<scale>; score_alignment.png and score_alignment.json in it
            are the result.
    """
    output = output or Path(f"runs/score-alignment-{scale}")
    counts = counted(num_levels=num_levels, num_clips=num_clips)
    settings = {**counts, "scale": scale, "teraflops": teraflops, "seed": seed}
    bench = Bench.opened(scale, prior, None, datasets, planning, teraflops)  # nothing is planned or read
    held = None if dry_run else bench.clips("validation", VALIDATION, FIRST_VALIDATION, num_clips)
    record_settings(output, "score-alignment", {**settings, "prior": prior}, dry_run=dry_run)
    if held is None:
        bench.forecast(["in-domain"], [seed])
        return
    trained, _ = bench.train("in-domain", seed)
    indices = spread(bench.prior.schedule.num_levels, num_levels)
    found, wrong, still = alignment(bench.prior, trained, held, indices.tolist(), seed)
    levels = bench.prior.schedule.level(torch.from_numpy(indices)).sigma.tolist()
    figures, errors = intervals(found, held.recordings), errors_by_task(wrong, still, held, bench.prior)
    written = {
        "prior": bench.prior.fingerprint,
        "sigma": levels,
        "figures": {
            said: {name: [asdict(one) for one in row] for name, row in of.items()} for said, of in figures.items()
        },
        "errors": {
            task: {voice: [asdict(one) for one in row] for voice, row in of.items()} for task, of in errors.items()
        },
    }
    write_whole(output / "score_alignment.json", json.dumps(written, indent=1) + "\n")
    plot(figures, errors, levels, output / "score_alignment.png")
    rows = [(f"{name:13} {said}", of[name]) for name in DISTANCES.values() for said, of in figures.items()]
    rows += [(f"error, {task}, {voice}", row) for task, of in errors.items() for voice, row in of.items()]
    for title, row in rows:
        print(f"{title:46}" + " ".join(f"{one.mean:9.4g}" for one in row))
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


@torch.no_grad()
def alignment(
    prior: Prior, model: Denoiser, held: Held, levels: Sequence[int], seed: int
) -> tuple[dict[str, dict[str, Levels]], dict[str, Levels], Float[Tensor, " clip"]]:
    """How far a model's predictions are from the prior's, by what it is told and by distance, and from the clips, by voice.

    All (level, clip), in the prior's space; and how far it is to repeat the frame before.

    Args:
        prior: told the text of each clip.
        model: told it, another one, or none.
        held: the clips.
        levels: of the prior's schedule.
        seed: of the noise, the same for all, and of the other texts.
    """
    noise = sampling.start_noise((held.clip.video.shape[1], *prior.frame_shape), seed, held.indices.tolist())
    other = shuffled(held.texts, seed)
    found = {said: {name: torch.zeros(len(levels), len(noise)) for name in DISTANCES.values()} for said in SAID}
    wrong = {voice: torch.zeros(len(levels), len(noise)) for voice in VOICES}
    still = torch.zeros(len(noise))
    with moved(prior), moved(model) as place:
        for first in range(0, len(noise), 16):
            rows = slice(first, first + 16)
            part, starts = encoded(held.part(first, 16).to(place), prior.codec), noise[rows].to(place)
            given = part.given.without("actions")
            still[rows] = (given.facts()["context"][:, -1:] - part.video).square().flatten(1).mean(1).cpu()
            ask = prior.bind(given)
            told_so = (given, replace(given, text=other[rows].to(place)), given.without("text"))
            answers = {said: model.bind(what) for said, what in zip(SAID, told_so, strict=True)}
            for row, index in enumerate(levels):
                level = prior.schedule.level(torch.full((len(part.video),), index, device=place))
                noisy = level.add_noise(part.video, starts)
                belief = ask(noisy, level)
                spoken = {said: answer(noisy, level) for said, answer in answers.items()}
                for said, theirs in spoken.items():
                    for name, values in distances(belief, theirs).items():
                        found[said][name][row, rows] = values.cpu()
                clips = [one.as_kind("clean").tensor for one in (belief, spoken[SAID[0]])]
                for voice, video in zip(VOICES, (*clips, sum(clips) / 2), strict=True):
                    wrong[voice][row, rows] = (video - part.video).square().flatten(1).mean(1).cpu()
    return found, wrong, still


def errors_by_task(
    wrong: Mapping[str, Levels], still: Float[Tensor, " clip"], held: Held, prior: Prior
) -> dict[str, dict[str, list[Interval]]]:
    """Errors as shares of that of repeating the frame before, `still`, level by level, for each task."""
    asked, found = which_text(held.texts, words_of(prior)(list(TEXTS.values()))), {}
    for number, task in enumerate(TEXTS):
        if not (those := asked == number).any():
            continue
        found[f"{task}, {'seen' if task in PLAYED else 'novel'}"] = {
            voice: [mean_interval(row[those], held.levels[those], over=still[those]) for row in rows]
            for voice, rows in wrong.items()
        }
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


def plot(
    figures: Mapping[str, Mapping[str, Sequence[Interval]]],
    errors: Mapping[str, Mapping[str, Sequence[Interval]]],
    levels: Sequence[float],
    path: Path,
) -> None:
    """Both distances, how much larger the first is than with the own text, and errors; a line for each, 95% intervals."""
    from matplotlib.figure import Figure

    panels = [(title, {said: figures[said][name] for said in SAID}) for title, name in DISTANCES.items()]
    more = {less(said): figures[less(said)]["mean squared"] for said in SAID[1:]}
    panels.append((f"mean squared distance, less that of the {SAID[0]}", more))
    panels += [(f"error / that of repeating: {task}", dict(of)) for task, of in errors.items()]
    figure = Figure(figsize=(14, 8), layout="constrained")
    for axes, (title, lines) in zip(figure.subplots(-(-len(panels) // 3), 3).flat, panels, strict=False):
        for number, (name, row) in enumerate(lines.items(), start=3 - len(lines)):
            axes.plot(levels, [one.mean for one in row], marker="o", label=name, color=f"C{number}")
            axes.fill_between(
                levels, [one.low for one in row], [one.high for one in row], alpha=0.15, color=f"C{number}"
            )
        axes.set_xlabel("noise level (sigma)")
        axes.set_title(title, loc="left", fontsize=10)
        axes.legend(frameon=False, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_yscale("log")
    figure.axes[2].axhline(0, color="0.5", linestyle=":")
    for axes in figure.axes[len(panels) :]:
        axes.remove()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
