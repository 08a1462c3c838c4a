"""Pretrain the embedded text-to-video prior: an arm at 32 tasks, in many looks, never in the one that robots are seen in."""

from __future__ import annotations

from pathlib import Path

import torch
from rich import print

from trimtab.data.clips import Clips
from trimtab.data.episodes import Episodes
from trimtab.forecast import fit_or_forecast
from trimtab.networks.encoders import MiniLM
from trimtab.networks.optimizers import Kind
from trimtab.priors.pixel_unet import SCHEDULES, PixelUNet, PixelUNetSettings, load
from trimtab.recipes._metaworld import ACTION_REPEAT, LINGER, MAX_STEPS, encoder
from trimtab.recipes.procgen_prior import frames_task
from trimtab.recipes.record_metaworld import metaworld_episodes
from trimtab.training import Budget, record_settings

TABLETOP = PixelUNetSettings(
    sizes={
        "widths": (64, 128, 256),
        "depths": (1, 2, 4),
        "text_dim": MiniLM.dim,
        "gist": True,
        "context_optional": True,
    },
    num_context=1,
    frame_rate=20.0,
    schedule="linear",
)
PURE = SCHEDULES["linear, zero terminal SNR"](TABLETOP.num_levels)
"""What it is trained by: all noise that its own schedule has, and up to pure noise, so that it can be loaded with either."""

FORGOTTEN = {"text": 0.1, "context": 0.05}
"""Shares of the clips, as both are told and untold when models are composed."""

HALFWAY = 2
"""How often a clip that words alone decide comes for each time that another does."""

LENGTHS = (1, 2, 4, 4, 4, 8)
"""Predicted frames of a training step, in turn: mostly as many as a plan has."""


def tabletop_prior(
    *,
    minutes: float = 240.0,
    batch_size: int = 16,
    optimizer: Kind = "adamw",
    learning_rate: float = 1e-3,
    cool_down: float = 0.0,
    seed: int = 0,
    initial: str | None = "procgen",
    dry_run: bool = False,
    num_episodes: int = 30,
    datasets: Path = Path("datasets"),
    output: Path = Path("runs/tabletop-prior"),
) -> None:
    """Train (or go on training) the text-to-video prior of robot arms, in pieces of any length.

    Args:
        minutes: of training in all, earlier pieces included.
        batch_size: clips in a step.
        optimizer: of the weights; muon wants a learning rate of its own.
        learning_rate: of the optimizer, in this piece.
        cool_down: share of the minutes over which the learning rate falls to zero; give it in the last piece.
        seed: of weights and draws.
        initial: the prior whose weights to start from, a name or a path, told texts or not; by default that of games,
            which knows how to tell a picture from noise and what moves from what stands; None for random ones.
        dry_run: only say what it will need in memory, time and disk.
        num_episodes: of each task, three in a look.
        datasets: where the recorded episodes are, or will be.
        output: run folder; prior.safetensors in it is the result.
    """
    fixed = {
        "batch_size": batch_size, "seed": seed, "initial": initial, "num_episodes": num_episodes, "datasets": datasets,
        "optimizer": optimizer,
    }  # fmt: skip
    record_settings(output, "tabletop-prior", fixed)  # the rest may differ in a piece
    torch.manual_seed(seed)
    clips = tabletop_clips(datasets, num_episodes)
    prior = PixelUNet(TABLETOP)
    if initial is not None:
        prior.inherit(load(initial))
    run = fit_or_forecast(
        dry_run,
        frames_task(prior, PURE, seed, draws=2, forgotten=FORGOTTEN),
        clips,
        Budget(seconds=minutes * 60),
        folder=output,
        title="tabletop prior",
        batch_size=batch_size,
        optimizer=optimizer,
        learning_rate=learning_rate,
        cool_down=cool_down,
        average_decay=0.999,
        lengths=LENGTHS,
        seed=seed,
    )
    if run is None:
        return
    prior.save(output / "prior.safetensors")
    print(f"the prior is {output / 'prior.safetensors'}")


def tabletop_clips(datasets: Path, num_episodes: int = 30) -> Clips:
    """What the prior and the judge of its words learn from: all tasks from their beginnings, and opposite ones from half
    way, which come `HALFWAY` times as often, as only they teach words.
    """
    all_tasks = tabletop_episodes(num_episodes=num_episodes, folder=datasets / "tabletop")
    halfway = halfway_episodes(num_episodes=num_episodes, folder=datasets / "tabletop-halfway")
    return Clips((all_tasks, *(halfway,) * HALFWAY), num_context=1, encode=encoder())


def tabletop_episodes(*, num_episodes: int = 30, first_look: int = 1, seed: int = 0, folder: Path) -> Episodes:
    """MetaWorld's experts at every task, a third as many looks of a task as episodes, and no two tasks in the same.

    Raises:
        ValueError: another set is in the same place; or a setting is out of range.
    """
    return _experts(num_episodes, first_look, seed, folder)


def halfway_episodes(
    *, num_episodes: int = 30, first_look: int = 100_001, seed: int = 100_000, folder: Path
) -> Episodes:
    """The experts of opposite tasks from the same first frames, in which what they move is half way: only words tell what
    follows. So many episodes of each task in each scene that it shares, three in a look.

    Raises:
        ValueError: another set is in the same place; or a setting is out of range.
    """
    return _experts(num_episodes, first_look, seed, folder, halfway=True)


def _experts(num_episodes: int, first_look: int, seed: int, folder: Path, *, halfway: bool = False) -> Episodes:
    return metaworld_episodes(
        num_episodes=num_episodes,
        num_looks=-(-num_episodes // 3),
        first_look=first_look,
        seed=seed,
        action_repeat=ACTION_REPEAT,
        max_episode_steps=MAX_STEPS,
        linger=LINGER,
        halfway=halfway,
        output=folder,
    )
