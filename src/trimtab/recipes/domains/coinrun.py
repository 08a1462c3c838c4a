"""Recorded coinrun, split by levels; knows no method."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trimtab.data.clips import Clips
from trimtab.environments.procgen import COINRUN_EFFECTS, NUM_ACTIONS
from trimtab.priors.pixel_unet import PixelUNet
from trimtab.recipes._held import Held
from trimtab.recipes.record_procgen import procgen_episodes

Policy = Literal["sticky", "uniform"]


@dataclass(frozen=True)
class Play:
    """How the sets of a policy are recorded.

    Attributes:
        ending: of their names.
        training: frames after which an episode to train on is cut, and a new level begins.
        held_out: the same, of episodes to choose and measure on.
    """

    ending: str
    training: int
    held_out: int


PLAYS: dict[Policy, Play] = {"sticky": Play("", 200, 48), "uniform": Play("-uniform", 1000, 1000)}
"""Uniform play is AVID's, as long on a level as AVID's; sticky play is cut sooner, to be of more levels."""

COINRUN_ACTIONS = {"num_actions": NUM_ACTIONS}
"""As adapters are told of them."""

COINRUN_TABLES: dict[str, tuple[int, ...]] = {
    "effects": COINRUN_EFFECTS,
    # "down" does something only on a crate, so frames elsewhere cannot tell it from "stay".
    "effects without down": (0, 0, 1, 2, 2, 3, 4, 4, 5, *(2,) * 6),
    "horizontal": (0, 0, 0, 1, 1, 1, 2, 2, 2, *(1,) * 6),
}
"""Tables that merge coinrun's actions, from the exact classes to those that almost every frame shows."""

IDLE = 4
"""The action that does nothing."""

TRAINING_LEVELS, VALIDATION_LEVELS, TEST_LEVELS = "0-499", "5000-5499", "10000-10999"
"""Weights are learned on the first, what is chosen is chosen on the second, and figures are made on the third."""


def num_training_levels(num_frames: int, policy: Policy) -> int:
    """500; of uniform play as many as AVID's sets have (of 100k, 500k and 2.5M frames), one for each thousand frames."""
    return max(1, num_frames // 1000) if policy == "uniform" else 500


def training_clips(prior: PixelUNet, num_frames: int, datasets: Path, policy: Policy = "sticky") -> Clips:
    """Recorded coinrun, levels from 0 on."""
    play = PLAYS[policy]
    episodes = procgen_episodes(
        num_levels=num_training_levels(num_frames, policy), num_frames=num_frames, max_episode_frames=play.training,
        policy=policy, output=datasets / f"coinrun-train-{num_frames}{play.ending}",
    )  # fmt: skip
    return Clips(episodes, prior.num_context, prior.num_frames)


def held_out(prior: PixelUNet, num_clips: int, datasets: Path, policy: Policy = "sticky") -> Held:
    """Clips of levels 10000-10999, one a level up to `MANY`, the same every time. Nothing is trained or chosen on them."""
    return _held(prior, num_clips, datasets / "coinrun-test", policy, first_level=10_000, num_levels=1000, seed=1)


def validation(prior: PixelUNet, num_clips: int, datasets: Path, policy: Policy = "sticky") -> Held:
    """Clips of levels 5000-5499, to choose weights, scales and rates on."""
    return _held(prior, num_clips, datasets / "coinrun-validation", policy, first_level=5000, num_levels=500, seed=2)


MANY = 256
"""More held-out clips than this are of a larger set of their own, with up to four of a level."""


def _held(
    prior: PixelUNet, num_clips: int, folder: Path, policy: Policy, *, first_level: int, num_levels: int, seed: int
) -> Held:
    many, play = num_clips > MANY, PLAYS[policy]
    name = f"{folder.name}-{num_clips}" if many else folder.name
    episodes = procgen_episodes(
        first_level=first_level, num_levels=num_levels, num_frames=play.held_out * (2 * num_clips if many else 500),
        max_episode_frames=play.held_out, seed=seed, policy=policy, output=folder.with_name(f"{name}{play.ending}"),
    )  # fmt: skip
    clips = Clips(episodes, prior.num_context, prior.num_frames)
    return Held.of(clips, clips.evenly(num_clips, per_level=4 if many else 1))
