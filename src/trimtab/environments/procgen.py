"""The sixteen Procgen games as vectorised environments of numpy arrays, and a policy to explore them; knows no dataset.

Opened through `procgen.ProcgenGym3Env` in its default "hard" distribution mode. Needs the extra ``trimtab[procgen]``.
Cobbe et al., "Leveraging Procedural Generation to Benchmark Reinforcement Learning", arXiv 1912.01588.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

GAMES = (
    *("bigfish", "bossfight", "caveflyer", "chaser", "climber", "coinrun", "dodgeball", "fruitbot"),
    *("heist", "jumper", "leaper", "maze", "miner", "ninja", "plunder", "starpilot"),
)
ACTION_NAMES = (
    *("left-down", "left", "left-up", "down", "stay", "up", "right-down", "right", "right-up"),
    *("key-d", "key-a", "key-w", "key-s", "key-q", "key-e"),
)
NUM_ACTIONS = len(ACTION_NAMES)
FRAME_RATE = 15.0

COINRUN_EFFECTS: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7, 8, 4, 4, 4, 4, 4, 4)
"""What each action does in coinrun: actions of one class give the same frames from every state (the six keys do
nothing there, as "stay"). "down" differs from "stay" only where the agent can fall through what it stands on, in about
5 % of states; likewise "left-down" from "left" and "right-down" from "right"."""


class Procgen:
    """Several copies of one game, each starting a new level by itself when an episode ends.

    Args:
        game: one of `GAMES`.
        num_environments: how many copies.
        first_level, num_levels: levels are drawn from first_level .. first_level + num_levels - 1.
        seed: of the order of levels.

    Raises:
        ValueError: an argument is out of range.
        ModuleNotFoundError: Procgen is not installed.
    """

    num_actions = NUM_ACTIONS
    action_names = ACTION_NAMES
    frame_rate = FRAME_RATE

    def __init__(
        self, game: str, num_environments: int = 16, first_level: int = 0, num_levels: int = 500, seed: int = 0
    ):
        if game not in GAMES:
            raise ValueError(f"no game {game!r}; the games are {', '.join(GAMES)}")
        if num_environments < 1 or first_level < 0 or num_levels < 1 or seed < 0:
            raise ValueError(
                "Procgen needs num_environments >= 1, first_level >= 0, num_levels >= 1 and seed >= 0, got "
                f"{num_environments}, {first_level}, {num_levels} and {seed}"
            )
        self.game, self.num_environments = game, num_environments
        self._simulator = open_simulator(
            num=num_environments, env_name=game, start_level=first_level, num_levels=num_levels, rand_seed=seed
        )

    def observe(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What is on screen now.

        Returns:
            Frames (n, 64, 64, 3) uint8; whether each is the first of an episode, (n,) bool; its level, (n,) int64.
        """
        _, observation, first = self._simulator.observe()
        levels = np.array([fact["level_seed"] for fact in self._simulator.get_info()], dtype=np.int64)
        return observation["rgb"].copy(), first.copy(), levels

    def act(self, actions: np.ndarray, restart: np.ndarray | None = None) -> None:
        """Take one action in every copy.

        Args:
            actions: (n,) integers in 0..14.
            restart: (n,) bool, where to begin a new episode instead of playing the action.

        Raises:
            ValueError: a wrong shape, dtype or range.
        """
        actions = np.asarray(actions)
        if actions.shape != (self.num_environments,) or not np.issubdtype(actions.dtype, np.integer):
            raise ValueError(
                f"actions are ({self.num_environments},) integers in 0..{NUM_ACTIONS - 1}, "
                f"not {actions.shape} {actions.dtype}"
            )
        if actions.min() < 0 or actions.max() >= NUM_ACTIONS:
            raise ValueError(f"actions lie in 0..{NUM_ACTIONS - 1}, got {actions.min()}..{actions.max()}")
        if restart is not None and (restart.shape != actions.shape or restart.dtype != bool):
            raise ValueError(f"restart is {actions.shape} bool, not {restart.shape} {restart.dtype}")
        # Procgen takes -1 for "end the episode here".
        self._simulator.act(np.where(False if restart is None else restart, -1, actions).astype(np.int32))

    def save(self) -> list[bytes]:
        """The exact state of every copy."""
        return self._simulator.callmethod("get_state")

    def restore(self, states: Sequence[bytes]) -> None:
        """Go back to saved states."""
        self._simulator.callmethod("set_state", list(states))


def open_simulator(**options: Any) -> Any:
    """Import and open Procgen. It imports gym, which prints a notice about its age: the notice is taken away first."""
    try:
        import gym_notices.notices  # type: ignore[import-untyped]

        gym_notices.notices.notices.clear()
        from procgen import ProcgenGym3Env
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"Procgen is not installed ({error}); pip install 'trimtab[procgen]'") from error
    return ProcgenGym3Env(num_threads=1, **options)


EVEN_WEIGHTS = (1.0,) * NUM_ACTIONS
COINRUN_WEIGHTS = (6.0, 9.0, 9.0, 6.0, 6.0, 9.0, 9.0, 15.0, 25.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
"""Percent. Mostly to the right, where coinrun's levels lead; the seven actions that do nothing there share 12."""


class StickyPolicy:
    """Random actions that are held for a random number of frames, so that what an action does can be seen.

    On coinrun a uniform draw every frame undoes itself. `trimtab record-procgen --num-frames 20000` with `--policy
    uniform`: 115 episodes, 16 % of which end within their 200 frames; 46 % of the frames carry an action without
    effect; an action lasts 1.07 frames; 17 % of the frames are still. With `--policy sticky` (`COINRUN_WEIGHTS`, 4
    frames): 190 episodes, of which 75 % end; 11 % of the frames carry an action without effect and every other class of
    effect has 6 to 25 %; an action lasts 4.5 frames; 12 % of the frames are still.

    Args:
        seed: of the actions.
        weights: how often each action is chosen; `COINRUN_WEIGHTS` for coinrun, even ones for other games.
        mean_hold: the mean of the geometric number of frames that a choice is held.

    Raises:
        ValueError: weights or mean_hold are out of range.
    """

    def __init__(self, seed: int = 0, weights: Sequence[float] = EVEN_WEIGHTS, mean_hold: float = 4.0):
        if len(weights) != NUM_ACTIONS or min(weights) < 0 or sum(weights) <= 0:
            raise ValueError(f"weights are {NUM_ACTIONS} numbers >= 0 with a positive sum, got {tuple(weights)}")
        if mean_hold < 1:
            raise ValueError(f"mean_hold is at least one frame, got {mean_hold}")
        self.seed, self.mean_hold = seed, mean_hold
        self.weights = np.asarray(weights, dtype=np.float64) / sum(weights)
        self.reset()

    def reset(self) -> None:
        """Begin the same sequence of actions again."""
        self._random = np.random.default_rng(self.seed)
        self._held: np.ndarray | None = None

    def act(self, observation: np.ndarray) -> np.ndarray:
        """Actions (n,) int64 for frames (n, ...), which it does not look at."""
        num = len(observation)
        chosen = self._random.choice(NUM_ACTIONS, size=num, p=self.weights)
        change = self._random.random(num) < 1 / self.mean_hold
        self._held = chosen if self._held is None or len(self._held) != num else np.where(change, chosen, self._held)
        return self._held.copy()


class UniformPolicy(StickyPolicy):
    """A new action every frame, all equally likely."""

    def __init__(self, seed: int = 0):
        super().__init__(seed, EVEN_WEIGHTS, mean_hold=1.0)
