"""Pretrain a prior of the embedded one's size on films of moving photographs: does a prior of another domain help, too?"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich import print

from trimtab.data.clips import Clips
from trimtab.data.episodes import Episodes, EpisodeWriter
from trimtab.data.recording import record, recorded_once
from trimtab.environments.photographs import ACTION_NAMES, EPISODE_FRAMES, FRAME_RATE, Photographs, Watching
from trimtab.forecast import fit_or_forecast
from trimtab.priors.pixel_unet import PixelUNet, load
from trimtab.recipes.procgen_prior import LENGTHS, frames_task
from trimtab.training import Budget, record_settings


def photographs_prior(
    *,
    minutes: float = 60.0,
    batch_size: int = 16,
    learning_rate: float = 2e-3,
    cool_down: float = 0.0,
    seed: int = 0,
    initial: str | None = None,
    dry_run: bool = False,
    num_levels: int = 4000,
    data: Path = Path("datasets/photographs-pretraining"),
    output: Path = Path("runs/photographs-prior"),
) -> None:
    """Train (or go on training) the action-free prior of photographs, in pieces of any length.

    Args:
        minutes: of training in all, earlier pieces included.
        batch_size: clips in a step.
        learning_rate: of AdamW, in this piece.
        cool_down: share of the minutes over which the learning rate falls to zero; give it in the last piece.
        seed: of weights and draws.
        initial: start from the weights of this prior, a name or a path, instead of random ones.
        dry_run: record what data are missing, and then only say what it will need in memory, time and disk.
        num_levels: films to train on, of 48 frames each, from level 0 on; those after them are for tests.
        data: where the recorded films are, or will be.
        output: run folder; prior.safetensors in it is the result.
    """
    fixed = {"batch_size": batch_size, "seed": seed, "initial": initial, "num_levels": num_levels, "data": data}
    record_settings(output, "photographs-prior", fixed, dry_run=dry_run)  # the rest may differ in a piece
    torch.manual_seed(seed)
    clips, prior = Clips(photographs_episodes(num_levels=num_levels, folder=data)), PixelUNet()
    if initial is not None:
        prior.load_state_dict(load(initial).state_dict())
    run = fit_or_forecast(
        dry_run,
        frames_task(prior, prior.schedule, seed, draws=2),
        clips,
        Budget(seconds=minutes * 60),
        folder=output,
        title="photographs prior",
        batch_size=batch_size,
        learning_rate=learning_rate,
        cool_down=cool_down,
        average_decay=0.999,
        lengths=LENGTHS,
        seed=seed,
    )
    if run is None:
        return
    prior.save(output / "prior.safetensors")
    print(
        f"the prior is {output / 'prior.safetensors'}; what it is worth beside games:\n"
        f"trimtab procgen-benchmark --prior {output / 'prior.safetensors'} --output runs/procgen-benchmark-photographs"
    )


def photographs_episodes(*, first_level: int = 0, num_levels: int = 4000, folder: Path) -> Episodes:
    """The film of each of these levels: opened if they are there, else recorded first, by one process at a time.

    Raises:
        ValueError: another set is in the same place; or a setting is out of range.
    """
    request: dict[str, Any] = {"environment": "photographs", "first_level": first_level, "num_levels": num_levels}

    def write() -> None:
        packages = ("trimtab", "scikit-image", "numpy", "pyarrow", "pillow")
        environment = Photographs(1, first_level, num_levels)
        provenance = {**request, "versions": {name: version(name) for name in packages}}
        with EpisodeWriter(folder, frame_rate=FRAME_RATE, action_names=ACTION_NAMES, provenance=provenance) as writer:
            record(environment, Watching(), writer, num_levels * EPISODE_FRAMES, task="watch photographs")

    return recorded_once(folder, request, write)
