"""How much longer does a from-scratch model train until it is as good as AVID? Follows up on a finished demo."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich import print

from trimtab import checkpoints
from trimtab.adapters.avid import AVID
from trimtab.core.files import write_whole
from trimtab.networks import storage
from trimtab.priors import pixel_unet
from trimtab.recipes._held import held_out_loss
from trimtab.recipes.demo import build, train
from trimtab.recipes.domains.coinrun import held_out, training_clips
from trimtab.training import Budget


def catch_up(
    *,
    times: float = 10.0,
    demo: Path = Path("runs/demo"),
    output: Path = Path("runs/catch-up"),
    datasets: Path = Path("datasets"),
    record: Path | None = None,
    dry_run: bool = False,
) -> None:
    """Train from scratch for up to `times` the steps of the demo, and find where its loss reaches AVID's.

    Goes on from the demo's from-scratch model, one multiple of its steps at a time, each with the same cool-down of the
    learning rate as the demo's, and stops when the goal is reached. Steps are counted rather than seconds, so that a busy
    machine does not change the answer; a step from scratch costs the same in both runs.

    Args:
        times: how often the demo's number of steps to go on for.
        demo: run folder of a finished demo.
        output: run folder of the long training; it is resumed.
        datasets: where recorded play is kept.
        dry_run: record what data are missing, and then only say what all of it will need in memory, time and disk.
        record: also write the finding to this file, which the demo's report quotes.
    """
    settings: dict[str, Any] = json.loads((demo / "settings.json").read_text())["settings"]
    prior = pixel_unet.load(settings["prior"])
    avid = checkpoints.load(demo / "avid", AVID, prior)
    _, ours = storage.read(demo / "scratch" / "state.safetensors")
    clips = training_clips(prior, settings["num_frames"], datasets)
    few = held_out(prior, max(2, settings["num_clips"] // 4), datasets)
    goal = held_out_loss(avid, prior, few).mean().item()
    torch.manual_seed(settings["seed"])
    model = build("scratch", prior, settings["mask_bias"])
    if not (output / "state.safetensors").exists():
        write_whole(output / "state.safetensors", (demo / "scratch" / "state.safetensors").read_bytes())
    for part in range(1, math.ceil(times) + 1):
        longer = times if dry_run else min(part, times)
        run = train(
            model, prior, clips, few, Budget(steps=round(longer * ours["step"])), folder=output,
            title=f"from scratch, {longer:g} times as long", batch_size=settings["batch_size"],
            learning_rate=settings["learning_rate"], seed=settings["seed"], dry_run=dry_run,
        )  # fmt: skip
        if run is None:
            return
        points = [(line["step"], line["held_out_loss"]) for line in run.curve if "held_out_loss" in line]
        points.append((run.step, held_out_loss(model, prior, few).mean().item()))
        reached = next((step for step, loss in points if loss <= goal), None)
        if reached is not None:
            break
    lowest = min(loss for _, loss in points)
    if reached is None:
        sentence = (
            f"In a longer run, from scratch did not reach the loss of AVID ({goal:.4f}) within {times:g} times the steps: "
            f"its lowest was {lowest:.4f}."
        )
    else:
        sentence = (
            f"In a longer run, from scratch reached the loss of AVID ({goal:.4f}) after "
            f"{reached / ours['step']:.1f} times the steps of the demo."
        )
    facts = {
        "sentence": sentence,
        "goal": goal,
        "reached_at_times": None if reached is None else reached / ours["step"],
        "demo_steps": ours["step"],
        "curve": points,
        "prior": prior.fingerprint,
        "demo_settings": settings,
        "date": datetime.now(UTC).date().isoformat(),
    }
    for path in filter(None, (output / "catch_up.json", record)):
        write_whole(path, json.dumps(facts, indent=1) + "\n")
    print(sentence)
