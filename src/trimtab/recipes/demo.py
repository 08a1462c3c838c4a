"""The main job in a quarter of an hour: steer the frozen Procgen prior by coinrun's actions, and look at the result."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from trimtab import checkpoints
from trimtab.adapters.avid import AVID
from trimtab.adapters.from_scratch import FromScratch
from trimtab.core.files import write_whole
from trimtab.core.values import Conditioning, Video
from trimtab.data.clips import Clips
from trimtab.diffusion import sampling
from trimtab.environments.procgen import COINRUN_EFFECTS, NUM_ACTIONS
from trimtab.forecast import fit_or_forecast
from trimtab.metrics.actions import COINRUN_JUDGE
from trimtab.metrics.evaluation import evaluate
from trimtab.networks import storage
from trimtab.priors import pixel_unet
from trimtab.priors.pixel_unet import PixelUNet
from trimtab.priors.remembering import Remembering
from trimtab.recipes._demo_report import NAMES, write_report
from trimtab.recipes._held import Held, from_bytes, held_out_loss, mean_loss, sampler, to_bytes
from trimtab.recipes.benchmark.inspection import Imaginer, listening_of, masks_of
from trimtab.recipes.domains.coinrun import COINRUN_TABLES, IDLE, TEST_LEVELS, TRAINING_LEVELS, held_out, training_clips
from trimtab.recipes.procgen_prior import LENGTHS, frames_task
from trimtab.training import ROTATION, Budget, Run, record_settings

Model = AVID | FromScratch

METHODS: dict[str, type[Model]] = {"avid": AVID, "scratch": FromScratch}

UNSAID = ("started", "console", "dry_run", "recompute")
"""What changes no result, and is no setting of a run."""


def demo(
    *,
    seconds: float = 240.0,
    num_clips: int = 256,
    num_steps: int = 2,
    num_frames: int = 50_000,
    batch_size: int = 8,
    learning_rate: float = 1e-3,
    mask_bias: float = 0.0,
    passes: int = 4,
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
        passes: how often AVID trains on what the prior has answered once.
        prior: the name of a prior that ships with the package, or the path of one.
        seed: of weights, batches and samples.
        dry_run: record what data are missing, and then only say what the two trainings will need in memory, time and
            disk.
        recompute: train in less memory and more time (gradient checkpointing).
        datasets: where recorded play is kept.
        output: run folder; report.html in it is the result.
    """
    started, console = time.perf_counter(), Console()
    settings = {name: value for name, value in locals().items() if name not in UNSAID}
    record_settings(output, "demo", settings, dry_run=dry_run)
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
            passes=passes if name == "avid" else 1,
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
            "training levels": TRAINING_LEVELS,
            "test levels": TEST_LEVELS,
        },
    )
    write_whole(output / "results.json", table.to_json())
    console.print("asking whether AVID listens")
    avid = models["avid"]
    assert isinstance(avid, AVID)
    imagine = Imaginer(avid, frozen, held, num_steps, seed=seed)
    listening, what_if = listening_of(imagine, IDLE, COINRUN_EFFECTS, COINRUN_JUDGE), under_actions(imagine)
    lines = curves(runs, mean_loss(frozen, frozen, few)["held_out_loss"])
    report = write_report(
        output / "report.html", table=table, losses=losses, levels=held.levels, curves=lines, clip=held.clip,
        videos=videos, mask=mask, masks=masks_of(avid, frozen, held), listening=listening, what_if=what_if,
        settings=settings, seconds=seconds,
    )  # fmt: skip
    console.print(f"{table}\n")
    console.print(f"done in {(time.perf_counter() - started) / 60:.1f} minutes; open {report.resolve()}")


def build(name: str, prior: PixelUNet, mask_bias: float, recompute: bool = False) -> Model:
    """An untrained model; both have one network, apart from the mask and the view of the prior."""
    options: dict[str, Any] = {"num_actions": NUM_ACTIONS, "recompute": recompute}
    if name == "avid":
        return AVID(Remembering(prior, ROTATION), mask_bias=mask_bias, **options)
    return FromScratch(prior, **options)


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
            mixed = believe(*arguments)
            if mixed.mask is not None:
                self.masks.append(mixed.mask)
            return mixed.belief

        return denoise


def under_actions(imagine: Imaginer) -> dict[str, Video]:
    """The same starts, and the same noise, under one action held for the whole clip."""
    context, shape = imagine.held.context[:6], imagine.held.clip.video[:6].shape[:2]
    return {
        name: imagine(Conditioning(context=context, actions=torch.full(shape, action)))
        for name, action in (("left", 1), ("stay", 4), ("right", 7), ("jump", 5), ("jump right", 8))
    }


def curves(runs: Mapping[str, Run], prior_loss: float) -> dict[str, tuple[list[float], list[float]]]:
    """Held-out loss against seconds of training; the prior's does not change."""
    found = {NAMES["prior"]: ([0.0, max(run.seconds for run in runs.values())], [prior_loss] * 2)}
    for name, run in runs.items():
        points = [(line["seconds"], line["held_out_loss"]) for line in run.curve if "held_out_loss" in line]
        if points:  # a very short run has none
            found[NAMES[name]] = ([x for x, _ in points], [y for _, y in points])
    return found
