"""How long can a world model dream? Errors of the benchmark's models over many times the length they were trained on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from rich import get_console
from rich.console import Console
from rich.progress import track
from torch import Tensor

from trimtab import checkpoints
from trimtab.core.contracts import Denoiser
from trimtab.core.files import write_whole
from trimtab.core.markdown import markdown_table
from trimtab.core.values import Conditioning, Video
from trimtab.data.clips import Clips
from trimtab.diffusion import sampling
from trimtab.metrics.actions import COINRUN_JUDGE
from trimtab.metrics.evaluation import REAL, REPEAT_LAST_FRAME, evaluate
from trimtab.metrics.features import in_parts
from trimtab.metrics.frames import Lpips
from trimtab.metrics.horizon import trusted_horizon
from trimtab.metrics.protocol import Evaluation, compared
from trimtab.networks import storage
from trimtab.priors import pixel_unet
from trimtab.priors.pixel_unet import PixelUNet
from trimtab.recipes._held import Held, from_bytes, sampler, to_bytes
from trimtab.recipes.benchmark.bench import Scale
from trimtab.recipes.benchmark.methods import METHODS, slug
from trimtab.recipes.compare import read_result
from trimtab.recipes.domains.coinrun import COINRUN_TABLES, PLAYS, TEST_LEVELS, Policy
from trimtab.recipes.procgen_benchmark import POLICIES, SCALES
from trimtab.recipes.record_procgen import procgen_episodes
from trimtab.report import Report

HandOver = Literal["latents", "frames"]
"""What the next chunk is given of the last: what was imagined, or that as a frame of 256 steps would be stored."""

SHOWN = 4

OF_ONE = ("cell", "clips", "training seed")
"""Notes on the rollouts of one model that do not hold for a table of several."""


def procgen_rollouts(
    *,
    times: int = 10,
    num_clips: int = 48,
    seed: int = 0,
    benchmark: Path = Path("runs/procgen-benchmark-smoke"),
    cells: Path | None = None,
    datasets: Path = Path("datasets"),
    output: Path | None = None,
) -> None:
    """Let every trained method of a benchmark dream on from its own frames, and measure it against what really happened.

    Each chunk of as many frames as a model was trained on is imagined from the last frames of the one before. The report
    shows errors frame by frame, how far each can be trusted, and what the remedies bring: a context that was noised in
    training ("AVID, noised", if the benchmark trained it), and handing over latents instead of stored frames. What a model
    has dreamt, and how good it is, is kept and not done again: figures beside the benchmark's cells, so that a table can be
    of models that are not here any more.

    Args:
        times: the length of a rollout, in trained lengths.
        num_clips: test clips, one a level.
        seed: of the noise, and the training seed of the models, but for variations, which have only the first; both are
            noted.
        benchmark: run folder of a benchmark.
        cells: the folder of its cells, by default `cells` in it.
        datasets: where recorded play is kept.
        output: rollouts.html, rollouts.md and rollouts.json in it are the result, beside the folder of what was dreamt;
            by
            default the benchmark's folder.
    """
    settings: dict[str, Any] = json.loads((benchmark / "settings.json").read_text())["settings"]
    prior, output, cells = pixel_unet.load(settings["prior"]), output or benchmark, cells or benchmark / "cells"
    scale = SCALES[settings["scale"]]
    num_steps = settings["num_steps"] or scale.num_steps
    held = long_clips(prior, times * prior.num_frames, num_clips, datasets, POLICIES[settings["scale"]])
    made_by = {
        "prior": prior.fingerprint, "seed": seed,
        "sampler": f"{scale.sample.__name__}, {num_steps} steps, chunks of {prior.num_frames} frames",
    }  # fmt: skip
    found, untrained, console = list[Evaluation](), set[str](), Console()
    videos: dict[str, Video] = {}
    for name in METHODS:
        for hand_over in get_args(HandOver) if name == "AVID" else ("latents",):
            label = name if hand_over == "latents" else f"{name}, frames handed over"
            trained_with = 0 if METHODS[name].is_made_once else seed
            cell = cells / f"{slug(name)}-{trained_with}.json"
            if not cell.exists():
                continue
            facts = {**made_by, "cell": hashlib.sha256(cell.read_bytes()).hexdigest(), "clips": [times, num_clips]}
            dreamt = output / "rollouts" / f"{slug(label)}.safetensors"
            path = cells / "rollouts" / f"{slug(label)}-{seed}.json"
            video, is_done = kept(dreamt, facts), is_measured(path, facts)
            if video is None and not is_done:
                denoiser = model_of(name, trained_with, cell, benchmark, prior, scale)
                if denoiser is None:
                    untrained.add(name)
                    console.print(f"{label} is left out, as it was not trained in {benchmark}")
                    continue
                console.rule(label)
                video = rollout(denoiser, prior, held, num_steps, seed, hand_over, scale.sample)
                storage.write(dreamt, {"frames": to_bytes(video)}, facts)
            if video is not None:
                videos[label] = video
                if not is_done:
                    notes = {**facts, "training seed": trained_with if METHODS[name].training else None}
                    write_whole(path, measured(label, video, held, notes).to_json())
            found.append(read_result(path))
    if untrained and not found:
        raise ValueError(
            f"there are cells of {', '.join(sorted(untrained))} in {cells}, but not their models in {benchmark}; make the "
            f"cells there, by `trimtab procgen-benchmark --settings {benchmark / 'settings.json'} --output {benchmark}` "
            f"(what is in {benchmark / 'cells'} is not made again: move it away), or keep figures of their rollouts in "
            f"{cells / 'rollouts'}"
        )
    if not found:
        raise ValueError(f"no finished cell of seed {seed} in {cells}; run `trimtab procgen-benchmark` first")
    table = together(found)
    horizons: dict[str, int] = table.protocol["notes"]["trusted frames"]
    write_whole(output / "rollouts.json", table.to_json())
    write_whole(output / "rollouts.md", markdown(table, horizons, prior.num_frames))
    page = report(output / "rollouts.html", table, horizons, videos, held, prior.num_frames)
    for name, frames in horizons.items():
        console.print(f"{name:32} trusted for {frames:3} of {times * prior.num_frames} frames")
    console.print(f"open {page.resolve()}")


def model_of(name: str, seed: int, cell: Path, benchmark: Path, prior: PixelUNet, scale: Scale) -> Denoiser | None:
    """A method as the benchmark trained it with this seed, and measured it in this cell; None if it was not trained in this
    folder.
    """
    method, trained = METHODS[name], None
    if method.training is not None:
        folder = benchmark / "trainings" / f"{method.training}-{seed}"
        if not (folder / checkpoints.CONFIG).exists():
            return None
        trained = checkpoints.load(folder, scale.trainings[method.training].build, prior)
    chosen = read_result(cell).protocol["notes"]["strength"]
    return method.compose(prior, trained, chosen)


def kept(path: Path, facts: Mapping[str, Any]) -> Video | None:
    """What was dreamt under these facts, if its file is there."""
    if not path.exists():
        return None
    tensors, known = storage.read(path)
    return from_bytes(tensors["frames"]) if known == facts else None


def is_measured(path: Path, facts: Mapping[str, Any]) -> bool:
    """Whether there are figures of what was dreamt under these facts."""
    if not path.exists():
        return False
    notes = read_result(path).protocol["notes"]
    return all(notes.get(name) == value for name, value in facts.items())


def measured(label: str, video: Video, held: Held, notes: Mapping[str, Any]) -> Evaluation:
    """What was dreamt beside what happened; how far it can be trusted is added to the notes."""
    return evaluate(
        {label: video}, held.clip.video, context=held.context, actions=held.actions, levels=held.levels,
        judge_file=COINRUN_JUDGE, effects=COINRUN_TABLES,
        notes={**notes, "test levels": TEST_LEVELS, "trusted frames": {label: horizon(video, held)}},
    )  # fmt: skip


def together(found: Sequence[Evaluation]) -> Evaluation:
    """Figures that were made one model at a time, as one table. Raises ValueError if they were not measured alike."""
    first, trusted, seeds = found[0], dict[str, int](), dict[str, int | None]()
    figures = list(first.figures)
    for one in found:
        compared(first, one, REPEAT_LAST_FRAME, REPEAT_LAST_FRAME)  # refuses what was measured otherwise
        trusted |= one.protocol["notes"]["trusted frames"]
        seeds |= dict.fromkeys(one.protocol["notes"]["trusted frames"], one.protocol["notes"].get("training seed"))
        if one is not first:
            figures += [figure for figure in one.figures if figure.method not in (REAL, REPEAT_LAST_FRAME)]
    notes = {name: value for name, value in first.protocol["notes"].items() if name not in OF_ONE}
    notes |= {"training seeds": seeds, "trusted frames": trusted}
    return Evaluation(tuple(figures), {**first.protocol, "notes": notes})


def long_clips(prior: PixelUNet, length: int, num_clips: int, datasets: Path, policy: Policy = "sticky") -> Held:
    """Clips of so many predicted frames, from episodes that last as long, on levels that nothing was trained on."""
    episodes = procgen_episodes(
        first_level=10_000, num_levels=1000, num_frames=200 * length, max_episode_frames=length + prior.num_context,
        seed=3, policy=policy, output=datasets / f"coinrun-test-{length}{PLAYS[policy].ending}",
    )  # fmt: skip
    clips = Clips(episodes, prior.num_context, length)
    return Held.of(clips, clips.evenly(num_clips))


@torch.no_grad()
def rollout(
    denoiser: Denoiser,
    prior: PixelUNet,
    held: Held,
    num_steps: int,
    seed: int,
    hand_over: HandOver,
    sample: Callable[..., Video] = sampling.dpm_solver_pp_2m,
    chunk: int = 16,
) -> Video:
    """All frames after the context, as stored, imagined in chunks of `prior.num_frames`, `chunk` clips at a time."""
    draw, length, codec = sampler(prior, num_steps, sample), held.clip.video.shape[1], prior.codec
    whole: list[Tensor] = []
    for place in track(range(0, len(held.indices), chunk), "dreaming", transient=get_console().is_terminal):
        numbers = held.indices[place : place + chunk].tolist()
        seen, actions = (some[place : place + chunk] for some in (held.context, held.actions))
        context = codec.encode(seen)
        parts: list[Tensor] = []
        for first in range(0, length, prior.num_frames):
            told = actions[:, first : first + prior.num_frames]
            noise = sampling.start_noise((told.shape[1], *prior.frame_shape), seed + first, numbers)
            given = Conditioning(context=context, actions=told)
            video = draw(denoiser, noise, given, seed=seed + first, samples=numbers)
            parts.append(to_bytes(codec.decode(video)))
            following = video if hand_over == "latents" else codec.encode(from_bytes(parts[-1]))
            context = torch.cat([context, following], dim=1)[:, -prior.num_context :]
        whole.append(torch.cat(parts, dim=1))
    return from_bytes(torch.cat(whole))


def horizon(video: Video, held: Held) -> int:
    """Frames for which a method's LPIPS is surely below that of repetition."""
    lpips, repeated = Lpips(), held.context[:, -1:].expand_as(video)
    error, reference = (in_parts(lpips, some, held.clip.video, of="LPIPS") for some in (video, repeated))
    return trusted_horizon(error, reference, held.levels)


def markdown(evaluation: Evaluation, horizons: dict[str, int], trained: int) -> str:
    """LPIPS after one, two, four and all trained lengths, what is measured over all frames, and how far to trust."""
    length, across = evaluation.protocol["num_predicted"], ("LPIPS", "sharpness", "action accuracy (horizontal)")
    frames = sorted({1, *(times * trained for times in (1, 2, 4) if times * trained < length), length})

    def row(name: str) -> list[object]:
        known = {metric: evaluation.figure(name, metric) for metric in across if (name, metric) in there}
        steps = known["LPIPS"].per_step if "LPIPS" in known else ()
        return [
            name, *(f"{steps[frame - 1]:.3f}" if steps else "" for frame in frames),
            *(known[metric].overall if metric in known else "" for metric in across), horizons.get(name, ""),
        ]  # fmt: skip

    there = {(figure.method, figure.metric) for figure in evaluation.figures}
    header = ["LPIPS at frame", *map(str, frames), "LPIPS of all", *across[1:], f"trusted of {length}"]
    return markdown_table(header, map(row, (REAL, REPEAT_LAST_FRAME, *horizons)))


def report(
    path: Path, table: Evaluation, horizons: dict[str, int], videos: dict[str, Video], held: Held, trained: int
) -> Path:
    """The page: horizons, errors frame by frame, and what the dreams look like at the end of each chunk."""
    length = held.clip.video.shape[1]
    page = Report(
        "How long can it dream?",
        f"{len(held.indices)} rollouts of {length} frames, {length // trained} times the trained length",
    )
    alike: dict[int, list[str]] = {}
    for name, frames in sorted(horizons.items(), key=lambda one: -one[1]):
        alike.setdefault(frames, []).append(name)
    page.summary(
        [f"{'; '.join(names)}: trusted for {frames} of {length} frames" for frames, names in alike.items()]
        + ["A model is trusted as long as its LPIPS is surely below that of repeating the last real frame."]
    )
    page.section("Errors, frame by frame", f"A chunk ends every {trained} frames.")
    places = list(range(1, length + 1))
    for metric in ("LPIPS", "sharpness", "action accuracy (horizontal)"):
        curves = {name: (places, list(table.figure(name, metric).per_step)) for name in (*horizons, REPEAT_LAST_FRAME)}
        page.curves(curves, table.protocol["metrics"][metric], "predicted frame", metric)
    page.section("What it looks like", "The last frame of every chunk.")
    ends = slice(trained - 1, None, trained)
    rows = {"real": held.clip.video, **videos}
    page.strips(
        {name: video[:SHOWN, ends] for name, video in rows.items()}, "Real play, and every method.",
        given=held.context[:SHOWN], frame_rate=2,
    )  # fmt: skip
    page.section("Settings")
    page.settings({key: value for key, value in table.protocol.items() if key != "levels"})
    return page.write(path)
