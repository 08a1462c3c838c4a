"""The main job in a quarter of an hour: steer the frozen Procgen prior by coinrun's actions, and look at the result."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from trimtab import checkpoints
from trimtab.adapters.avid import AVID
from trimtab.adapters.from_scratch import FromScratch
from trimtab.core.contracts import Denoiser
from trimtab.core.files import write_whole
from trimtab.core.values import Clip, Conditioning, Video
from trimtab.data.clips import Clips
from trimtab.diffusion import sampling
from trimtab.diffusion.losses import DenoisingLoss
from trimtab.environments.procgen import NUM_ACTIONS
from trimtab.forecast import fit_or_forecast
from trimtab.metrics.actions import COINRUN_JUDGE
from trimtab.metrics.evaluation import evaluate
from trimtab.networks import storage
from trimtab.priors import pixel_unet
from trimtab.priors.pixel_unet import PixelUNet
from trimtab.recipes._demo_report import NAMES, write_report
from trimtab.recipes.procgen_judge import COINRUN_TABLES
from trimtab.recipes.procgen_prior import LENGTHS, frames_task
from trimtab.recipes.record_procgen import procgen_episodes
from trimtab.training import Budget, Run, record_settings

Model = AVID | FromScratch

METHODS: dict[str, type[Model]] = {"avid": AVID, "scratch": FromScratch}

UNSAID = ("started", "console", "dry_run", "recompute")
"""What changes no result, and is no setting of a run."""


@dataclass(frozen=True)
class Held:
    """Held-out clips that everything is measured on: their numbers, their parts, and the level of each."""

    indices: np.ndarray
    clip: Clip
    context: Video
    actions: Tensor
    levels: Tensor

    @classmethod
    def of(cls, clips: Clips, indices: np.ndarray) -> Held:
        clip = clips.batch(indices)
        assert clip.given.context is not None
        assert clip.given.actions is not None  # every recorded clip has both
        return cls(indices, clip, clip.given.context, clip.given.actions, torch.from_numpy(clips.levels(indices)))

    def part(self, first: int, size: int) -> Clip:
        """Some of the clips."""
        choose = itemgetter(slice(first, first + size))
        return Clip(choose(self.clip.video), self.clip.given.map(choose))


def demo(
    *,
    seconds: float = 240.0,
    num_clips: int = 256,
    num_steps: int = 2,
    num_frames: int = 50_000,
    batch_size: int = 8,
    learning_rate: float = 1e-3,
    mask_bias: float = 0.0,
    prior: str = "procgen",
    seed: int = 0,
    dry_run: bool = False,
    recompute: bool = False,
    datasets: Path = Path("datasets"),
    output: Path = Path("runs/demo"),
) -> None:
    """Train an AVID adapter and a from-scratch model of the same size for the same time, and compare them.

    Both learn coinrun, which the prior has never seen, from recorded play on levels 0-499, and are measured on levels
    10000-10999 beside the bare prior and repetition of the last frame. What is already in the output folder is reused.

    Args:
        seconds: of training, for each of the two.
        num_clips: held-out clips to measure on, one a level.
        num_steps: sampling steps a clip.
        num_frames: of recorded play to train on.
        batch_size: clips in a training step.
        learning_rate: of AdamW.
        mask_bias: AVID's initial trust in the prior, a logit.
        prior: the name of a prior that ships with the package, or the path of one.
        seed: of weights, batches and samples.
        dry_run: only say what the two trainings will need in memory, time and disk.
        recompute: train in less memory and more time (gradient checkpointing).
        datasets: where recorded play is kept.
        output: run folder; report.html in it is the result.
    """
    started, console = time.perf_counter(), Console()
    settings = {name: value for name, value in locals().items() if name not in UNSAID}
    record_settings(output, "demo", settings)
    frozen = pixel_unet.load(prior)
    clips = training_clips(frozen, num_frames, datasets)
    held = held_out(frozen, num_clips, datasets)
    few = held_out(frozen, max(2, num_clips // 4), datasets)
    models: dict[str, Model] = {}
    runs: dict[str, Run] = {}
    for name in METHODS:
        torch.manual_seed(seed)
        models[name] = build(name, frozen, mask_bias, recompute)
        run = train(
            models[name], frozen, clips, few, Budget(seconds=seconds), dry_run=dry_run, folder=output / name,
            title=NAMES[name], batch_size=batch_size, learning_rate=learning_rate, seed=seed,
        )  # fmt: skip
        if run is not None:
            runs[name] = run
            checkpoints.save(output / name, models[name], frozen, facts={"seconds": seconds, "steps": run.step})
    if dry_run:
        return
    denoisers: dict[str, Model | PixelUNet] = {"prior": frozen, **models}
    losses = {name: held_out_loss(model, frozen, held, num_draws=4) for name, model in denoisers.items()}
    videos, mask = sample_all(denoisers, frozen, held, num_steps, seed, output / "samples.safetensors")
    console.print("measuring the videos")
    table = evaluate(
        {NAMES[name]: video for name, video in videos.items()},
        held.clip.video,
        context=held.context,
        actions=held.actions,
        levels=held.levels,
        reference=NAMES["avid"],
        judge_file=COINRUN_JUDGE,
        effects=COINRUN_TABLES,
        notes={
            "settings": {key: str(value) for key, value in settings.items()},
            "prior": frozen.fingerprint,
            "sampler": f"dpm_solver_pp_2m, {num_steps} steps",
            "training levels": "0-499",
            "test levels": "10000-10999",
        },
    )
    write_whole(output / "results.json", table.to_json())
    what_if = under_actions(models["avid"], frozen, held, num_steps, seed)
    lines = curves(runs, mean_loss(frozen, frozen, few)["held_out_loss"])
    report = write_report(
        output / "report.html", table=table, losses=losses, levels=held.levels, curves=lines, clip=held.clip,
        videos=videos, mask=mask, what_if=what_if, settings=settings, seconds=seconds,
    )  # fmt: skip
    console.print(f"{table}\n")
    console.print(f"done in {(time.perf_counter() - started) / 60:.1f} minutes; open {report.resolve()}")


def build(name: str, prior: PixelUNet, mask_bias: float, recompute: bool = False) -> Model:
    """An untrained model; both have one network, apart from the mask and the view of the prior."""
    options: dict[str, Any] = {"mask_bias": mask_bias} if name == "avid" else {}
    return METHODS[name](prior, num_actions=NUM_ACTIONS, recompute=recompute, **options)


def training_clips(prior: PixelUNet, num_frames: int, datasets: Path) -> Clips:
    """Recorded coinrun, levels 0-499."""
    folder = datasets / f"coinrun-train-{num_frames}"
    return Clips(
        procgen_episodes(num_levels=500, num_frames=num_frames, output=folder), prior.num_context, prior.num_frames
    )


def train(
    model: Model, prior: PixelUNet, clips: Clips, few: Held, budget: Budget, *, seed: int, dry_run: bool, **options: Any
) -> Run | None:
    """Train one model, with its loss on a few held-out clips in the log; `options` are those of `fit`."""
    return fit_or_forecast(
        dry_run,
        frames_task(model, prior.schedule, seed),
        clips,
        budget,
        lengths=LENGTHS,
        average_decay=0.995,
        seed=seed,
        evaluate=partial(mean_loss, model, prior, few),
        evaluate_every=50,
        **options,
    )


def held_out(prior: PixelUNet, num_clips: int, datasets: Path) -> Held:
    """Clips of levels that nothing was trained on, one a level, the same every time."""
    episodes = procgen_episodes(
        first_level=10_000,
        num_levels=1000,
        num_frames=24_000,
        max_episode_frames=48,
        seed=1,
        output=datasets / "coinrun-test",
    )
    clips = Clips(episodes, prior.num_context, prior.num_frames)
    return Held.of(clips, clips.evenly(num_clips))


@torch.no_grad()
def held_out_loss(model: Denoiser, prior: PixelUNet, held: Held, num_draws: int = 1, batch_size: int = 32) -> Tensor:
    """The velocity loss on each held-out clip, (clip,), the same noise for every model, averaged over draws."""
    task = DenoisingLoss(model, prior.schedule, seed=12345)
    total = torch.zeros(len(held.indices))
    for first in range(0, len(held.indices), batch_size):
        clip, samples = held.part(first, batch_size), held.indices[first : first + batch_size].tolist()
        for draw in range(num_draws):
            total[first : first + batch_size] += task(clip, step=draw, samples=samples)
    return total / num_draws


def mean_loss(model: Denoiser, prior: PixelUNet, held: Held) -> dict[str, float]:
    """One figure for the curve."""
    return {"held_out_loss": held_out_loss(model, prior, held).mean().item()}


def sampler(prior: PixelUNet, num_steps: int) -> Callable[[Denoiser, Video, Conditioning], Video]:
    """From noise to a clip in `num_steps` calls of the denoiser."""
    steps = sampling.pairs(prior.schedule, num_steps)
    return partial(sampling.dpm_solver_pp_2m, pairs=steps, clamp=(-1.0, 1.0))


def sample_all(
    denoisers: Mapping[str, Model | PixelUNet], prior: PixelUNet, held: Held, num_steps: int, seed: int, path: Path
) -> tuple[dict[str, Video], Tensor]:
    """The videos of every model on the held-out clips, of frames as they would be stored, and AVID's average mask.

    They are kept in one file, and reused if they were made by the same weights in the same way.
    """
    avid = denoisers["avid"]
    assert isinstance(avid, AVID)
    made_by = {name: storage.checksum(model.state_dict(), {}) for name, model in denoisers.items()}
    made_by |= {
        "steps": str(num_steps),
        "seed": str(seed),
        "clips": storage.checksum({"": torch.from_numpy(held.indices)}, {}),
    }
    if path.exists():
        kept, key = storage.read(path)
        if key == made_by:
            return {name: from_bytes(kept[name]) for name in denoisers}, kept["mask"]
    samples: dict[str, list[Tensor]] = {name: [] for name in denoisers}
    masks: list[Tensor] = []
    sample = sampler(prior, num_steps)
    for first in track(range(0, len(held.indices), 16), "imagining held-out clips"):
        clip = held.part(first, 16)
        noise = sampling.start_noise(tuple(clip.video.shape[1:]), seed, held.indices[first : first + 16].tolist())
        for name, denoiser in denoisers.items():
            seen: list[Tensor] = []
            voice = Watched(avid, seen) if name == "avid" else denoiser
            samples[name].append(to_bytes(sample(voice, noise, clip.given)))
            if name == "avid":
                masks.append(torch.stack(seen).mean(0))
    whole = {name: torch.cat(parts) for name, parts in samples.items()} | {"mask": torch.cat(masks)}
    storage.write(path, whole, made_by)
    return {name: from_bytes(whole[name]) for name in denoisers}, whole["mask"]


class Watched:
    """AVID, with its masks noted down as it is asked."""

    def __init__(self, avid: AVID, masks: list[Tensor]) -> None:
        self.avid, self.masks, self.uses, self.space = avid, masks, avid.uses, avid.space

    def bind(self, given: Conditioning) -> Callable[..., Any]:
        believe = self.avid.believe(given)

        def denoise(*arguments: Any) -> Any:
            belief, mask = believe(*arguments)
            if mask is not None:
                self.masks.append(mask)
            return belief

        return denoise


def under_actions(model: Denoiser, prior: PixelUNet, held: Held, num_steps: int, seed: int) -> dict[str, Video]:
    """The same starts, and the same noise, under one action held for the whole clip."""
    video, context = held.clip.video[:6], held.context[:6]
    noise = sampling.start_noise(tuple(video.shape[1:]), seed, held.indices[:6].tolist())
    shown = {}
    for name, action in (("left", 1), ("stay", 4), ("right", 7), ("jump", 5), ("jump right", 8)):
        actions = torch.full(video.shape[:2], action)
        shown[name] = sampler(prior, num_steps)(model, noise, Conditioning(context=context, actions=actions))
    return shown


def curves(runs: Mapping[str, Run], prior_loss: float) -> dict[str, tuple[list[float], list[float]]]:
    """Held-out loss against seconds of training; the prior's does not change."""
    found = {NAMES["prior"]: ([0.0, max(run.seconds for run in runs.values())], [prior_loss] * 2)}
    for name, run in runs.items():
        points = [(line["seconds"], line["held_out_loss"]) for line in run.curve if "held_out_loss" in line]
        if points:  # a very short run has none
            found[NAMES[name]] = ([x for x, _ in points], [y for _, y in points])
    return found


def to_bytes(video: Video) -> Tensor:
    """Frames as they are stored, uint8, rounded."""
    return ((video.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def from_bytes(stored: Tensor) -> Video:
    return stored.float() / 127.5 - 1
