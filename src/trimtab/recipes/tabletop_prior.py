"""Pretrain the embedded text-to-video prior: an arm at 16 tasks, in many looks, never in the one that robots are seen in."""

from __future__ import annotations

from pathlib import Path

import torch
from rich import print

from trimtab.forecast import fit_or_forecast
from trimtab.networks.encoders import MiniLM
from trimtab.networks.optimizers import Kind
from trimtab.priors.pixel_unet import PixelUNet, PixelUNetSettings, load
from trimtab.recipes.domains.tabletop import Told, lessons
from trimtab.training import Budget, record_settings

TABLETOP = PixelUNetSettings(
    sizes={
        "widths": (32, 96, 192),
        "depths": (1, 1, 3),
        "text_dim": MiniLM.dim,
        "context_optional": True,
        "copies": True,
        "steady": True,
    },
    num_context=1,
    frame_rate=20.0,
    schedule="linear",
)
LENGTHS = (1, 2, 4, 4, 4, 8)
"""Predicted frames of a training step, in turn: mostly as many as a plan has."""


def tabletop_prior(
    *,
    minutes: float = 240.0,
    batch_size: int = 8,
    optimizer: Kind = "muon",
    learning_rate: float = 4e-3,
    cool_down: float = 0.0,
    seed: int = 0,
    initial: str | None = None,
    dry_run: bool = False,
    num_episodes: int = 30,
    datasets: Path = Path("datasets"),
    output: Path = Path("runs/tabletop-prior"),
) -> None:
    """Train (or go on training) the text-to-video prior of robot arms, in pieces of any length.

    Args:
        minutes: of training in all, earlier pieces included.
        batch_size: clips in a step.
        optimizer: of the weights; adamw wants a learning rate of about 0.001.
        learning_rate: of the optimizer, in this piece.
        cool_down: share of the minutes over which the learning rate falls to zero; give it in the last piece.
        seed: of weights and draws.
        initial: the prior of these sizes whose weights to start from, a name or a path; by default random ones.
        dry_run: record what data are missing, and then only say what it will need in memory, time and disk.
        num_episodes: of each task, and of each of two opposite tasks begun half way.
        datasets: where the recorded episodes are, or will be.
        output: run folder; prior.safetensors in it is the result.

    Raises:
        ValueError: `initial` is of other sizes; nothing is recorded then.
    """
    fixed = {
        "batch_size": batch_size, "seed": seed, "initial": initial, "num_episodes": num_episodes, "datasets": datasets,
        "optimizer": optimizer,
    }  # fmt: skip
    torch.manual_seed(seed)
    prior = PixelUNet(TABLETOP)
    if initial is not None:
        other = load(initial)
        if other.settings != TABLETOP:
            raise ValueError(
                f"the prior {initial} has {other.settings}, where this training has {TABLETOP}; leave it out"
            )
        prior.load_state_dict(other.state_dict())
    record_settings(output, "tabletop-prior", fixed, dry_run=dry_run)  # the rest may differ in a piece
    learned_from = lessons(datasets, num_episodes)
    run = fit_or_forecast(
        dry_run,
        Told(prior, seed),
        learned_from,
        Budget(seconds=minutes * 60),
        folder=output,
        title="tabletop prior",
        batch_size=batch_size,
        optimizer=optimizer,
        learning_rate=learning_rate,
        cool_down=cool_down,
        average_decay=0.995,
        lengths=LENGTHS,
        seed=seed,
    )
    if run is None:
        return
    prior.save(output / "prior.safetensors")
    print(f"the prior is {output / 'prior.safetensors'}")
