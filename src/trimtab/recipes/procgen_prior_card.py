"""Measure a Procgen prior on levels it never saw, game by game, and write its card."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich import print
from rich.progress import track

from trimtab.core.files import write_whole
from trimtab.core.markdown import markdown_table
from trimtab.data.clips import Clips
from trimtab.diffusion import sampling
from trimtab.metrics.frames import Lpips, sharpness, ssim
from trimtab.metrics.intervals import mean_interval, paired_interval
from trimtab.networks import storage
from trimtab.recipes._held import Held, held_out_loss, sampler
from trimtab.recipes._prior_card import of_run
from trimtab.recipes.procgen_prior import PRETRAINING
from trimtab.recipes.record_procgen import procgen_episodes
from trimtab.report import film_strip

FRAMES = 4
"""Predicted frames that the comparison with the last frame looks at."""


def procgen_prior_card(
    *,
    prior: str | None = None,
    run: Path = Path("runs/procgen-prior"),
    num_clips: int = 32,
    num_steps: int = 2,
    seed: int = 0,
    note: str = "",
    data: Path = Path("datasets/procgen-heldout"),
    output: Path | None = None,
) -> None:
    """Write procgen.json (figures and training), procgen.md (the same to read) and procgen.png (samples).

    Args:
        prior: the name of a prior that ships with the package, or the path of one; by default that of the run.
        run: where it was trained, for steps and curve.
        num_clips: held-out clips of each game, each of another level where there are enough.
        num_steps: sampling steps.
        seed: of the samples.
        note: a sentence about the training that its files do not tell.
        data: where the held-out play is kept; levels 2000-2099, for coinrun 10000-10999.
        output: folder of the card, by default `card` in that of the run; those that ship are in
            src/trimtab/priors/weights.
    """
    (model, trained_with), output, lpips = of_run(prior, run), output or run / "card", Lpips()
    _, counters = storage.read(run / "state.safetensors")
    games: dict[str, dict[str, Any]] = {}
    rows = {}
    for game in track([*PRETRAINING, "coinrun"], "measuring each game"):
        first, levels = (10_000, 1000) if game == "coinrun" else (2000, 100)
        episodes = procgen_episodes(
            game=game,
            first_level=first,
            num_levels=levels,
            num_frames=3000,
            max_episode_frames=48,
            seed=1,
            output=data / game,
        )
        clips = Clips(episodes, model.num_context, model.num_frames)
        held = Held.of(clips, clips.evenly(num_clips, per_level=4))
        noise = sampling.start_noise(tuple(held.clip.video.shape[1:]), seed, held.indices.tolist())
        video = sampler(model, num_steps)(model, noise, held.clip.given)
        real = held.clip.video
        repeat = held.context[:, -1:].expand_as(real).contiguous()
        ours, theirs = (lpips(some, real)[:, :FRAMES].mean(1) for some in (video, repeat))
        alike, alike_repeat = (ssim(some, real)[:, :FRAMES].mean(1) for some in (video, repeat))
        sharp = sharpness(video, real)[:, :FRAMES].mean(1)
        loss = held_out_loss(model, model, held, num_draws=2)
        games[game] = {
            "loss": vars(mean_interval(loss, held.levels)),
            "lpips": vars(mean_interval(ours, held.levels)),
            "lpips_repeat": vars(mean_interval(theirs, held.levels)),
            "lpips_minus_repeat": vars(paired_interval(ours, theirs, held.levels)),
            "ssim_minus_repeat": vars(paired_interval(alike, alike_repeat, held.levels)),
            "sharpness": vars(mean_interval(sharp, held.levels)),
        }
        moving = int((real - repeat).square().mean((1, 2, 3, 4)).argsort()[len(real) * 3 // 4])
        rows[f"{game}, real"] = torch.cat([held.context[moving], real[moving]])[None]
        rows[f"{game}, prior"] = torch.cat([held.context[moving], video[moving]])[None]
    pretrained = [figures for game, figures in games.items() if game != "coinrun"]
    better = sum(figures["lpips_minus_repeat"]["mean"] < 0 for figures in pretrained)
    more_alike = sum(figures["ssim_minus_repeat"]["mean"] > 0 for figures in pretrained)
    card = {
        "name": "procgen",
        "fingerprint": model.fingerprint,
        "parameters": sum(value.numel() for value in model.parameters()),
        "settings": vars(model.settings),
        "training": {
            "data": "70,000 frames of each of 15 Procgen games (never coinrun), levels 0-1999, sticky random play, seed 0",
            "steps": counters["step"],
            "batch_size": trained_with["batch_size"],
            "seed": trained_with["seed"],
            "note": note,
            "hours": round(counters["seconds"] / 3600, 2),
            "hardware": "1 to 2 cores of an x86-64 CPU with AMX, shared with other work",
            "curve": [(line["step"], line["loss"]) for line in counters["curve"]][
                :: max(1, len(counters["curve"]) // 50)
            ],
        },
        "evaluation": {
            "date": datetime.now(UTC).date().isoformat(),
            "levels": "2000-2099; coinrun 10000-10999",
            "sampler": f"dpm_solver_pp_2m, {num_steps} steps, seed {seed}",
            "lpips": f"LPIPS v0.1 AlexNet, mean of predicted frames 1 to {FRAMES}, one sample a clip",
            "games_better_than_repeat": better,
            "games_better_than_repeat_in_ssim": more_alike,
            "games": games,
        },
    }
    output.mkdir(parents=True, exist_ok=True)
    film_strip(rows, scale=1).save(output / "procgen.png", optimize=True)
    for name, text in (("procgen.json", json.dumps(card, indent=1)), ("procgen.md", card_text(card))):
        write_whole(output / name, text + "\n")
    print(f"LPIPS below repeating the last frame in {better} of {len(PRETRAINING)} games; card in {output}")


def card_text(card: dict[str, Any]) -> str:
    """The card as Markdown."""
    training, evaluation = card["training"], card["evaluation"]
    lines = [
        f"# The `{card['name']}` prior, {card['fingerprint']}",
        "",
        f"An action-free video diffusion model of {card['parameters']:,} weights in pixel space: 1 to 8 frames of 64 x 64 "
        "from 2, velocity prediction.",
        "",
        f"Data: {training['data']}. Training: {training['steps']} steps of {training['batch_size']} clips, "
        f"{training['hours']} hours on "
        f"{training['hardware']}; `trimtab procgen-prior`, seed {training['seed']}. {training['note']}".strip(),
        "",
        f"Measured {evaluation['date']} on levels {evaluation['levels']} with {evaluation['sampler']}; "
        f"{evaluation['lpips']}; means with 95% intervals, levels resampled. `trimtab procgen-prior-card`",
        "",
        markdown_table(
            [
                "game",
                "denoising loss",
                "LPIPS",
                "LPIPS of the last frame",
                "difference",
                "SSIM less that of the last frame",
                "gradient energy / real",
            ],
            (
                [
                    game,
                    *(f"{value['mean']:.4f} [{value['low']:.4f}, {value['high']:.4f}]" for value in figures.values()),
                ]
                for game, figures in evaluation["games"].items()
            ),
        ),
        f"LPIPS is below that of repeating the last frame in {evaluation['games_better_than_repeat']} of the 15 games, SSIM "
        f"above it in {evaluation['games_better_than_repeat_in_ssim']}. LPIPS is part of what the prior is trained by, SSIM "
        "is not.",
        "",
        "![samples](procgen.png)",
    ]
    return "\n".join(lines)
