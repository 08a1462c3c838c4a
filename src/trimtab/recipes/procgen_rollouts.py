"""How long can a world model dream? Errors of the benchmark's models over many times the length they were trained on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from rich import print
from rich.progress import track
from torch import Tensor

from trimtab import checkpoints
from trimtab.core.contracts import Denoiser
from trimtab.core.files import write_whole
from trimtab.core.values import Conditioning, Video
from trimtab.data.clips import Clips
from trimtab.diffusion import sampling
from trimtab.metrics.actions import COINRUN_JUDGE
from trimtab.metrics.evaluation import REAL, REPEAT_LAST_FRAME, evaluate
from trimtab.metrics.features import in_parts
from trimtab.metrics.frames import Lpips
from trimtab.metrics.horizon import trusted_horizon
from trimtab.metrics.protocol import Evaluation
from trimtab.networks import storage
from trimtab.priors import pixel_unet
from trimtab.priors.pixel_unet import PixelUNet
from trimtab.recipes._benchmark import Scale
from trimtab.recipes._benchmark_tables import table as as_text
from trimtab.recipes._coinrun import TEST_LEVELS
from trimtab.recipes._held import Held, from_bytes, sampler, to_bytes
from trimtab.recipes._methods import METHODS, slug
from trimtab.recipes.procgen_benchmark import SCALES
from trimtab.recipes.procgen_judge import COINRUN_TABLES
from trimtab.recipes.record_procgen import procgen_episodes
from trimtab.report import Report

HandOver = Literal["latents", "frames"]
"""What the next chunk is given of the last: what was imagined, or that as a frame of 256 steps would be stored."""

SHOWN = 4


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
    has dreamt is kept, and not dreamt again.

    Args:
        times: the length of a rollout, in trained lengths.
        num_clips: test clips, one a level.
        seed: of the noise, and the training seed of the models, but for variations, which have only the first.
        benchmark: run folder of a benchmark.
        cells: the folder of its cells, by default `cells` in it.
        datasets: where recorded play is kept.
        output: rollouts.html, rollouts.md and rollouts.json in it are the result, beside the folder of what was dreamt; by
            default the benchmark's folder.
    """
    settings: dict[str, Any] = json.loads((benchmark / "settings.json").read_text())["settings"]
    prior, output = pixel_unet.load(settings["prior"]), output or benchmark
    scale = SCALES[settings["scale"]]
    num_steps = settings["num_steps"] or scale.num_steps
    held = long_clips(prior, times * prior.num_frames, num_clips, datasets)
    made_by = {
        "prior": prior.fingerprint, "seed": seed,
        "sampler": f"{scale.sample.__name__}, {num_steps} steps, chunks of {prior.num_frames} frames",
    }  # fmt: skip
    videos: dict[str, Video] = {}
    models = models_of(benchmark, cells or benchmark / "cells", prior, scale, seed)
    for name, (denoiser, cell) in models.items():
        hands: tuple[HandOver, ...] = ("latents", "frames") if name == "AVID" else ("latents",)
        for hand_over in hands:
            label = name if hand_over == "latents" else f"{name}, frames handed over"
            dream = partial(rollout, denoiser, prior, held, num_steps, seed, hand_over, scale.sample)
            facts = {**made_by, "cell": cell, "clips": [times, num_clips]}
            videos[label] = kept(output / "rollouts" / f"{slug(label)}.safetensors", facts, dream)
    horizons = {name: horizon(video, held) for name, video in videos.items()}
    table = evaluate(
        videos, held.clip.video, context=held.context, actions=held.actions, levels=held.levels,
        judge_file=COINRUN_JUDGE, effects=COINRUN_TABLES,
        notes={
            **made_by, "benchmark": settings, "test levels": TEST_LEVELS, "trusted frames": horizons,
        },
    )  # fmt: skip
    write_whole(output / "rollouts.json", table.to_json())
    write_whole(output / "rollouts.md", markdown(table, horizons, prior.num_frames))
    page = report(output / "rollouts.html", table, horizons, videos, held, prior.num_frames)
    for name, frames in horizons.items():
        print(f"{name:32} trusted for {frames:3} of {times * prior.num_frames} frames")
    print(f"open {page.resolve()}")


def models_of(
    benchmark: Path, cells: Path, prior: PixelUNet, scale: Scale, seed: int
) -> dict[str, tuple[Denoiser, str]]:
    """Every method of which the benchmark has finished a cell with this seed, or with the first where it makes no other,
    and the hash of that cell. What was not trained in this folder is left out, and said so.

    Raises ValueError if there is none.
    """
    found: dict[str, tuple[Denoiser, str]] = {}
    for name, method in METHODS.items():
        own = 0 if method.is_made_once else seed
        cell = cells / f"{slug(name)}-{own}.json"
        if not cell.exists():
            continue
        trained = None
        if method.training is not None:
            folder = benchmark / "trainings" / f"{method.training}-{own}"
            if not (folder / checkpoints.CONFIG).exists():
                print(f"{name} is left out, as {folder} is not there")
                continue
            trained = checkpoints.load(folder, scale.trainings[method.training].build, prior)
        written = cell.read_text()
        chosen = Evaluation.from_json(written).protocol["notes"]["strength"]
        found[name] = method.compose(prior, trained, chosen), hashlib.sha256(written.encode()).hexdigest()
    if not found:
        raise ValueError(f"no finished cell of seed {seed} in {cells}; run `trimtab procgen-benchmark` first")
    return found


def kept(path: Path, facts: Mapping[str, Any], dream: Callable[[], Video]) -> Video:
    """What was dreamt under these facts, from its file if it is there."""
    if path.exists():
        frames, known = storage.read(path)
        if known == facts:
            return from_bytes(frames["frames"])
    video = dream()
    storage.write(path, {"frames": to_bytes(video)}, facts)
    return video


def long_clips(prior: PixelUNet, length: int, num_clips: int, datasets: Path) -> Held:
    """Clips of so many predicted frames, from episodes that last as long, on levels that nothing was trained on."""
    episodes = procgen_episodes(
        first_level=10_000, num_levels=1000, num_frames=200 * length, max_episode_frames=length + prior.num_context,
        seed=3, output=datasets / f"coinrun-test-{length}",
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
    for place in track(range(0, len(held.indices), chunk), "dreaming", transient=True):
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
        known = {metric: evaluation.figure(name, metric) for metric in across if (name, metric) in measured}
        steps = known["LPIPS"].per_step if "LPIPS" in known else ()
        return [
            name, *(f"{steps[frame - 1]:.3f}" if steps else "" for frame in frames),
            *(known[metric].overall if metric in known else "" for metric in across), horizons.get(name, ""),
        ]  # fmt: skip

    measured = {(figure.method, figure.metric) for figure in evaluation.figures}
    header = ["LPIPS at frame", *map(str, frames), "LPIPS of all", *across[1:], f"trusted of {length}"]
    return as_text(header, map(row, (REAL, REPEAT_LAST_FRAME, *horizons)))


def report(
    path: Path, table: Evaluation, horizons: dict[str, int], videos: dict[str, Video], held: Held, trained: int
) -> Path:
    """The page: horizons, errors frame by frame, and what the dreams look like at the end of each chunk."""
    length = held.clip.video.shape[1]
    page = Report(
        "How long can it dream?",
        f"{len(held.indices)} rollouts of {length} frames, {length // trained} times the trained length",
    )
    page.summary(
        [f"{name} can be trusted for {frames} of {length} frames: so far its LPIPS is surely below that of repeating the "
         "last real frame." for name, frames in horizons.items()]
    )  # fmt: skip
    page.section("Errors, frame by frame", f"A chunk ends every {trained} frames.")
    frames = list(range(1, length + 1))
    for metric in ("LPIPS", "sharpness", "action accuracy (horizontal)"):
        curves = {name: (frames, list(table.figure(name, metric).per_step)) for name in (*videos, REPEAT_LAST_FRAME)}
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
