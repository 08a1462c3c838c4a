"""Plays one episode in every copy of an environment, and tells how each went; knows neither environment nor policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from gymnasium.vector import AutoresetMode


@dataclass(frozen=True)
class Plan:
    """What one copy intends.

    Attributes:
        step: of the episode at which it was made.
        frames: what it expects to see after each action, (time, height, width, 3) uint8.
        actions: (time, dim) float32 in [-1, 1].
    """

    step: int
    frames: np.ndarray
    actions: np.ndarray


@runtime_checkable
class Player(Protocol):
    """A policy for several copies of an environment, which is told of what they are to do."""

    @property
    def plans(self) -> Mapping[int, Plan]:
        """The last plan of each copy that has one."""

    def reset(self, texts: Sequence[str] | None = None, episodes: Sequence[int] | None = None) -> None:
        """Begin an episode in every copy, told the task in words, and a number that stands for the episode."""

    def act(self, frames: np.ndarray, active: np.ndarray | None = None) -> np.ndarray:
        """Frames (num_envs, height, width, 3) uint8 to actions (num_envs, dim); zeros where `active` is false."""


@runtime_checkable
class Environment(Protocol):
    """Copies of a simulator: any `gymnasium.vector.VectorEnv` that informs of "text", one entry a copy.

    And of "success", if it knows any.
    """

    @property
    def num_envs(self) -> int: ...

    @property
    def metadata(self) -> dict[str, Any]: ...

    def reset(self, *, seed: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode in every copy, each from its seed of a list."""

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]: ...


@dataclass(frozen=True)
class Episode:
    """How one episode went.

    Attributes:
        seed: that the copy was reset with.
        text: the task in words.
        success: whether the task was done at any step, which ended the episode; False where nothing says so.
        total_reward: the sum of rewards (the return).
        num_steps: actions played.
        frames: what was seen, (num_steps + 1, height, width, 3) uint8; None if not kept.
        plans: in the order they were made; empty if not kept. A plan's frame k imagines ``frames[plan.step + 1 + k]``.
    """

    seed: int
    text: str
    success: bool
    total_reward: float
    num_steps: int
    frames: np.ndarray | None = None
    plans: tuple[Plan, ...] = ()


def run_episodes(
    environment: Environment,
    player: Player,
    seeds: Sequence[int],
    *,
    copies: Sequence[int] | None = None,
    keep_frames: bool = False,
) -> list[Episode]:
    """Play one episode in every copy, until its task is done, or the environment ends it.

    A copy whose episode is over is stepped on with zeros and ignored, while it begins its next episode by itself.

    Args:
        environment: whose `max_episode_steps` ends what does not succeed.
        player: what plays; told the texts, and the seeds as the numbers of the episodes.
        seeds: one a copy.
        copies: the numbers of the copies that are to play; by default all.
        keep_frames: keep what was seen, and the plans.

    Returns:
        The episodes of `copies`, in their order.

    Raises:
        ValueError: there is another number of seeds, no such copy, or the environment informs of no text, or does
            not begin the next episode at the step after the end.
    """
    num_envs, mode = environment.num_envs, environment.metadata.get("autoreset_mode")
    if mode is not AutoresetMode.NEXT_STEP:
        raise ValueError(f"expected an environment with AutoresetMode.NEXT_STEP in its metadata, got {mode}")
    copies = range(num_envs) if copies is None else copies
    if len(seeds) != num_envs or not set(copies) <= set(range(num_envs)):
        raise ValueError(f"expected {num_envs} seeds and copies of 0 .. {num_envs - 1}, got {seeds} and {list(copies)}")
    frames, information = environment.reset(seed=list(seeds))
    texts = [str(text) for text in told(information, "text")]
    player.reset(texts, seeds)
    active = np.isin(np.arange(num_envs), copies)
    success, rewards, num_steps = np.zeros(num_envs, bool), np.zeros(num_envs), np.zeros(num_envs, int)
    films, plans = [[frame.copy()] for frame in frames], [dict[int, Plan]() for _ in frames]
    while active.any():
        actions = player.act(frames, active)
        frames, reward, terminated, truncated, information = environment.step(actions)
        if "success" in information:
            success |= active & np.asarray(information["success"], dtype=bool)
        rewards += np.where(active, reward, 0.0)
        num_steps += active
        for copy in np.flatnonzero(active & keep_frames).tolist():
            films[copy].append(frames[copy].copy())
            if copy in player.plans:
                plans[copy][player.plans[copy].step] = player.plans[copy]
        active &= ~(success | terminated | truncated)
    return [
        Episode(
            seeds[copy],
            texts[copy],
            bool(success[copy]),
            float(rewards[copy]),
            int(num_steps[copy]),
            np.stack(films[copy]) if keep_frames else None,
            tuple(plans[copy].values()),
        )
        for copy in copies
    ]


def told(information: Mapping[str, Any], name: str) -> Any:
    """What an environment informs of. Raises ValueError if it does not."""
    if name not in information:
        raise ValueError(
            f"the environment must inform of {name!r}, one entry a copy; it informs of {sorted(information)}"
        )
    return information[name]
