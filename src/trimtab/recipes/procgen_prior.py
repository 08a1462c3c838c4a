"""Pretrain the embedded Procgen prior: 15 games, no actions, never coinrun."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from rich import print
from torch import Tensor, nn

from trimtab.core.contracts import Denoiser
from trimtab.core.values import Clip
from trimtab.data.clips import Clips
from trimtab.data.episodes import Episodes
from trimtab.diffusion.losses import DenoisingLoss, Perceived, change_loss, clean_loss
from trimtab.diffusion.schedules import Schedule
from trimtab.environments.procgen import GAMES
from trimtab.forecast import fit_or_forecast
from trimtab.metrics.frames import Lpips
from trimtab.priors.pixel_unet import PixelUNet, PixelUNetSettings, load
from trimtab.recipes.record_procgen import procgen_episodes
from trimtab.training import Budget, record_settings

PRETRAINING = tuple(game for game in GAMES if game != "coinrun")
"""All games but the one that adaptation is about."""

PAPER = PixelUNetSettings(
    model="avid_unet", sizes={"width": 100, "heads": 8, "head_dim": 64}, schedule="sigmoid", num_levels=200
)
"""AVID's base model of 92 million weights."""

LENGTHS = (1, 2, 3, 4, 5, 6, 7, 8, 8, 8)
"""Frames that a training step predicts, one of these entries, so that one model serves whole clips and single steps."""


def procgen_prior(
    *,
    minutes: float = 60.0,
    batch_size: int = 16,
    learning_rate: float = 2e-3,
    cool_down: float = 0.0,
    seed: int = 0,
    initial: str | None = None,
    dry_run: bool = False,
    split: bool = False,
    size: Literal["embedded", "paper"] = "embedded",
    data: Path = Path("datasets/procgen-pretraining"),
    output: Path = Path("runs/procgen-prior"),
) -> None:
    """Train (or go on training) the action-free Procgen prior, in pieces of any length.

    Args:
        minutes: of training in all, earlier pieces included.
        batch_size: clips in a step.
        learning_rate: of AdamW, in this piece.
        cool_down: share of the minutes over which the learning rate falls to zero; give it in the last piece.
        seed: of weights and draws.
        initial: start from the weights of this prior, a name or a path, instead of random ones.
        dry_run: record what data are missing, and then only say what it will need in memory, time and disk.
        split: under `torchrun`, keep only a share of what is trained in each process.
        size: of the prior: the embedded one, or AVID's base model with its schedule and loss, for GPUs; take its batch of 64
            and rate of 1e-4 for it, too.
        data: where the recorded games are, or will be.
        output: run folder; prior.safetensors in it is the result.
    """
    fixed = {
        "batch_size": batch_size,
        "seed": seed,
        "initial": initial,
        "size": size,
        "data": data,
    }  # the rest may differ in a piece
    record_settings(output, "procgen-prior", fixed, dry_run=dry_run)
    torch.manual_seed(seed)
    clips = Clips([recorded(game, data, size) for game in PRETRAINING])
    prior = PixelUNet(PAPER if size == "paper" else None)
    if initial is not None:
        prior.load_state_dict(load(initial).state_dict())
    task: nn.Module
    if size == "paper":
        task = DenoisingLoss(prior, prior.schedule, loss=clean_loss, seed=seed)
    else:
        task = GamesAlike(frames_task(prior, prior.schedule, seed, draws=2), clips)
    run = fit_or_forecast(
        dry_run,
        task,
        clips,
        Budget(seconds=minutes * 60),
        folder=output,
        title="procgen prior",
        batch_size=batch_size,
        learning_rate=learning_rate,
        cool_down=cool_down,
        average_decay=0.999,
        lengths=(prior.num_frames,) if size == "paper" else LENGTHS,
        seed=seed,
        split=split,
    )
    if run is None:
        return
    prior.save(output / "prior.safetensors")
    print(f"the prior is {output / 'prior.safetensors'}; `trimtab procgen-prior-card` measures it")


def frames_task(
    denoiser: Denoiser, schedule: Schedule, seed: int, *, own: bool = True, **options: Any
) -> DenoisingLoss:
    """What the embedded models are trained by: the change in pixels, and how different the frames look.

    Args:
        denoiser, schedule, seed, options: those of `DenoisingLoss`.
        own: whether what a mixing denoiser itself believes is trained by the same beside the mixture.
    """
    loss = Perceived(change_loss, Lpips(), weight=0.5)
    return DenoisingLoss(denoiser, schedule, loss=loss, seed=seed, own=loss if own else None, **options)


class GamesAlike(nn.Module):
    """A loss that hears quiet games too: each game's by the inverse square root of how much its frames change, but none's
    more than four times.

    The weight of a clip depends on its game alone, so that what is best for a game stays what it was.
    """

    def __init__(self, task: DenoisingLoss, clips: Clips) -> None:
        super().__init__()
        self.task, self.clips = task, clips
        changes = torch.tensor([mean_change(Clips(game)) for game in clips.sets])
        weights = changes.rsqrt() * (changes.mean() / changes.sqrt().mean())  # as loud as before together
        self.weights = weights.clamp(max=4)

    def forward(self, clip: Clip, *, step: int, samples: Tensor) -> Tensor:
        weights = self.weights[self.clips.sets_of(samples)].to(clip.video.device)
        return self.task(clip, step=step, samples=samples) * weights


def mean_change(clips: Clips) -> float:
    """The mean absolute difference of frames from the last context frame, over a few clips."""
    clip = clips.batch(clips.draw(seed=0, step=0, num=64))
    assert clip.given.context is not None  # every recorded clip has it
    return (clip.video - clip.given.context[:, -1:]).abs().mean().item()


def recorded(game: str, data: Path, size: Literal["embedded", "paper"] = "embedded") -> Episodes:
    """70,000 frames of one game, or the paper's 2 million of uniformly random play; levels 0-1999; recorded if not there."""
    if size == "paper":
        return procgen_episodes(
            game=game, num_levels=2000, num_frames=2_000_000, max_episode_frames=1000, policy="uniform",
            output=data / f"{game}-paper",
        )  # fmt: skip
    return procgen_episodes(game=game, num_levels=2000, num_frames=70_000, max_episode_frames=128, output=data / game)
