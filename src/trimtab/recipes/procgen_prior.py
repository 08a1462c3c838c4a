"""Pretrain the embedded Procgen prior: 15 games, no actions, never coinrun."""

from __future__ import annotations

from pathlib import Path

import torch

from trimtab.data.clips import Clips
from trimtab.data.episodes import Episodes
from trimtab.diffusion.losses import DenoisingLoss
from trimtab.environments.procgen import GAMES
from trimtab.priors.pixel_unet import PixelUNet
from trimtab.training import Budget, fit

LENGTHS = (1, 2, 3, 4, 5, 6, 7, *[8] * 7)
"""Half of the steps predict 8 frames, half 1 to 7."""


def procgen_prior(
    *,
    minutes: float = 60.0,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    cool_down: float = 0.0,
    seed: int = 0,
    data: Path = Path("datasets/procgen-pretraining"),
    output: Path = Path("runs/procgen-prior"),
) -> None:
    """Train (or go on training) the action-free Procgen prior, in pieces of any length.

    Args:
        minutes: of training in all, earlier pieces included.
        batch_size: clips in a step.
        learning_rate: of AdamW.
        cool_down: share of the minutes over which the learning rate falls to zero; give it in the last piece.
        seed: of weights and draws.
        data: where the recorded games are.
        output: run folder; prior.safetensors in it is the result.
    """
    torch.manual_seed(seed)
    games = [game for game in GAMES if game != "coinrun"]
    clips = Clips([Episodes.open(data / game) for game in games])
    prior = PixelUNet()
    task = DenoisingLoss(prior, prior.schedule, seed=seed)
    fit(
        task,
        clips,
        Budget(seconds=minutes * 60),
        folder=output,
        title="procgen prior",
        batch_size=batch_size,
        learning_rate=learning_rate,
        cool_down=cool_down,
        average_decay=0.9995,
        lengths=LENGTHS,
        seed=seed,
    )
    prior.save(output / "prior.safetensors")
