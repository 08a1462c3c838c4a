"""Chooses the benchmark's learning rates on validation levels; knows no test level."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch
from rich import print
from torch import nn

from trimtab.core.files import write_whole
from trimtab.priors import pixel_unet
from trimtab.priors.pixel_unet import PixelUNet
from trimtab.recipes._held import Held
from trimtab.recipes.benchmark.methods import TRAININGS, Training
from trimtab.recipes.domains.coinrun import COINRUN_ACTIONS, VALIDATION_LEVELS, training_clips, validation
from trimtab.recipes.procgen_prior import LENGTHS
from trimtab.training import record_settings

CHOICES = Path(__file__).parent / "procgen_choices.json"
"""What this command chose last; the benchmark trains with it."""

CHOSEN = tuple(name for name, training in TRAININGS.items() if training.like is None)


def procgen_choices(
    *,
    teraflops: float = 60.0,
    trainings: Sequence[str] = CHOSEN,
    num_clips: int = 128,
    num_frames: int = 50_000,
    batch_size: int = 8,
    prior: str = "procgen",
    seed: int = 0,
    dry_run: bool = False,
    datasets: Path = Path("datasets"),
    output: Path = Path("runs/procgen-choices"),
    record: Path | None = None,
) -> None:
    """Train everything that the benchmark trains for a short while, at every learning rate, and keep the best.

    The best has the lowest loss, of the kind it is trained by, on levels 5000-5499. Trials that are finished, here or,
    with the same settings, in `record`, are not repeated, so that an interrupted run goes on, a rate that is new among
    those of a training is tried alone, and several of these commands may work on different trainings.

    Args:
        teraflops: operations of a trial, in 10^12.
        trainings: only these.
        num_clips: validation clips.
        num_frames: recorded frames to train on.
        batch_size: clips in a training step.
        prior: the name of a prior that ships with the package, or the path of one.
        seed: of weights and batches.
        dry_run: record what data are missing, and then only say what the first trial of each that is to come will need
            in memory, time and disk.
        datasets: where recorded play is kept.
        output: run folder; choices.json in it is the result.
        record: a file from which the benchmark reads choices; these are added to those in it, or take their place.
    """
    if unknown := sorted(set(trainings) - set(CHOSEN)):
        raise ValueError(f"no trainings {unknown}; there are: {', '.join(CHOSEN)}")
    settings = {"teraflops": teraflops, "num_clips": num_clips, "num_frames": num_frames, "batch_size": batch_size}
    record_settings(output, "procgen-choices", {**settings, "prior": prior, "seed": seed}, dry_run=dry_run)
    frozen = pixel_unet.load(prior)
    clips, held = training_clips(frozen, num_frames, datasets), validation(frozen, num_clips, datasets)
    protocol = {**settings, "prior": frozen.fingerprint, "seed": seed, "levels": VALIDATION_LEVELS}
    recorded = json.loads(record.read_text()) if record and record.exists() else {}

    def known(name: str, rate: float) -> float | None:
        """The validation loss of a trial that is finished."""
        path, earlier = output / f"{name}-{rate:g}" / "loss.json", recorded.get(name, {})
        if path.exists():
            return float(json.loads(path.read_text()))
        if earlier.get("protocol") == protocol and f"{rate:g}" in earlier["validation loss"]:
            return float(earlier["validation loss"][f"{rate:g}"])
        return None

    def trial(name: str, rate: float) -> float | None:
        """The validation loss after a short training; None in a dry run."""
        folder = output / f"{name}-{rate:g}"
        _, task = TRAININGS[name].assembled(frozen, seed, COINRUN_ACTIONS)
        run, _ = TRAININGS[name].fitted(
            task, clips, teraflops, batch_size=batch_size, lengths=LENGTHS, dry_run=dry_run, folder=folder,
            title=folder.name, learning_rate=rate, seed=seed,
        )  # fmt: skip
        if run is None:
            return None
        loss = validation_loss(task, held)
        write_whole(folder / "loss.json", json.dumps(loss))
        return loss

    for name in trainings:
        found = {rate: known(name, rate) for rate in TRAININGS[name].rates}
        missing = [rate for rate, loss in found.items() if loss is None]
        for rate in missing[:1] if dry_run else missing:
            found[rate] = trial(name, rate)
        if dry_run:
            continue
        losses = {rate: loss for rate, loss in found.items() if loss is not None}
        best, ends = min(losses, key=lambda rate: losses[rate]), (min(losses), max(losses))
        if len(losses) > 1 and best in ends:
            print(f"[yellow]{name}: {best:g} is an end of those tried; a rate beyond it may be better")
        choice = {
            "learning_rate": best,
            "validation loss": {f"{rate:g}": loss for rate, loss in losses.items()},
            "protocol": protocol,
            "date": datetime.now(UTC).date().isoformat(),
        }
        print(f"{name}: {choice}")
        for path in filter(None, (output / "choices.json", record)):
            kept = json.loads(path.read_text()) if path.exists() else {}
            write_whole(path, json.dumps(kept | {name: choice}, indent=1) + "\n")


@torch.no_grad()
def validation_loss(task: nn.Module, held: Held, batch_size: int = 32) -> float:
    """The mean loss, at the same levels and noise whatever is asked."""
    total = 0.0
    for first in range(0, len(held.indices), batch_size):
        samples = torch.from_numpy(held.indices[first : first + batch_size])
        total += float(task(held.part(first, batch_size), step=0, samples=samples).sum())
    return total / len(held.indices)


def chosen(name: str, training: Training, path: Path, prior: PixelUNet) -> float:
    """The learning rate that was chosen for a training, or that leaves no choice.

    Warns if it was chosen beside another prior than this. Raises ValueError if none was chosen.
    """
    if len(training.rates) == 1:
        return training.rates[0]
    found, name = json.loads(path.read_text()) if path.exists() else {}, training.like or name
    if name not in found:
        raise ValueError(
            f"nothing was chosen for {name!r} yet; run `trimtab procgen-choices --trainings {name} --record {path}`"
        )
    if (beside := found[name]["protocol"]["prior"]) != prior.fingerprint:
        warnings.warn(
            f"learning rates in {path.name} were chosen beside prior {beside}, not {prior.fingerprint}; `trimtab "
            "procgen-choices --prior` chooses them anew",
            stacklevel=2,
        )
    return float(found[name]["learning_rate"])
