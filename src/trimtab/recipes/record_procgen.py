"""Records a set of Procgen episodes to disk; knows no model."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from rich import print

from trimtab.data.episodes import Episodes, EpisodeWriter
from trimtab.data.recording import describe_play, record, recorded_once
from trimtab.environments.procgen import (
    ACTION_NAMES,
    COINRUN_EFFECTS,
    COINRUN_WEIGHTS,
    EVEN_WEIGHTS,
    FRAME_RATE,
    Procgen,
    StickyPolicy,
    UniformPolicy,
)


def record_procgen(
    *,
    game: str = "coinrun",
    first_level: int = 0,
    num_levels: int = 500,
    num_frames: int = 50_000,
    max_episode_frames: int = 200,
    num_environments: int = 16,
    seed: int = 0,
    policy: Literal["sticky", "uniform"] = "sticky",
    output: Path | None = None,
) -> None:
    """Record episodes of a Procgen game with random actions, for training and evaluation.

    A finished set in the same place is kept if it was recorded with the same settings; one with others is refused.

    Args:
        game: one of the sixteen games; coinrun is the one that pretraining leaves out.
        first_level: the first level to draw from.
        num_levels: how many levels to draw from.
        num_frames: how many frames to record, at least.
        max_episode_frames: longer episodes are cut here and a new level begins.
        num_environments: how many copies of the game play at once.
        seed: of the levels and of the actions.
        policy: sticky holds each random action for a few frames; uniform draws a new one every frame.
        output: the folder of the set; by default datasets/<game>-<first level>-<number of levels>.
    """
    episodes = procgen_episodes(
        game=game,
        first_level=first_level,
        num_levels=num_levels,
        num_frames=num_frames,
        max_episode_frames=max_episode_frames,
        num_environments=num_environments,
        seed=seed,
        policy=policy,
        output=output,
    )
    print(episodes)
    for name, value in describe_play(episodes, COINRUN_EFFECTS if game == "coinrun" else None).items():
        print(f"  {name:22}{value:.3f}" if isinstance(value, float) else f"  {name:22}{value}")


def procgen_episodes(
    *,
    game: str = "coinrun",
    first_level: int = 0,
    num_levels: int = 500,
    num_frames: int = 50_000,
    max_episode_frames: int = 200,
    num_environments: int = 16,
    seed: int = 0,
    policy: Literal["sticky", "uniform"] = "sticky",
    output: Path | None = None,
) -> Episodes:
    """The set that `record_procgen` makes with these settings: opened if it is there, else recorded first.

    Of several processes that ask at once, one records, and the others wait for it.

    Raises:
        ValueError: another set is in the same place; or a setting is out of range.
    """
    folder = output or Path("datasets") / f"{game}-{first_level}-{num_levels}"
    request: dict[str, Any] = {
        "environment": "procgen",
        "game": game,
        "first_level": first_level,
        "num_levels": num_levels,
        "num_frames_asked": num_frames,
        "max_episode_frames": max_episode_frames,
        "num_environments": num_environments,
        "seed": seed,
        "policy": policy,
    }

    def write() -> None:
        player: StickyPolicy = UniformPolicy(seed)
        if policy == "sticky":
            player = StickyPolicy(seed, COINRUN_WEIGHTS if game == "coinrun" else EVEN_WEIGHTS)
        provenance = {
            **request,
            "policy_weights": player.weights.tolist(),
            "policy_mean_hold": player.mean_hold,
            "versions": {name: version(name) for name in ("trimtab", "procgen-mirror", "numpy", "pyarrow", "pillow")},
        }
        environment = Procgen(game, num_environments, first_level, num_levels, seed)
        with EpisodeWriter(folder, frame_rate=FRAME_RATE, action_names=ACTION_NAMES, provenance=provenance) as writer:
            record(environment, player, writer, num_frames, max_episode_frames=max_episode_frames, task=f"play {game}")

    return recorded_once(folder, request, write)
