"""A tiny real world: a red square to be moved to a green one, with an expert; the truth as videos, and their reader."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor

from trimtab.control.video_planner import Present, Videos

SIZE = 24
SPEED = 2.0  # pixels that an action of 1 moves
NEAR = 0.75  # pixels, which is success


def draw(place: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """(SIZE, SIZE, 3) uint8; edges are soft, so that the centre of mass of a colour is where it is."""
    frame = np.zeros((SIZE, SIZE, 3))
    for channel, (x, y) in enumerate((place, goal)):
        across, down = (np.clip(2.5 - np.abs(np.arange(SIZE) + 0.5 - centre), 0, 1) for centre in (x, y))
        frame[..., channel] = np.outer(down, across)
    return (255 * frame).round().astype(np.uint8)


class Point(gymnasium.Env):
    """Actions are (x, y) in -1 .. 1; a drift, in pixels a step, that nobody is told of, pushes the point as well."""

    observation_space = Box(0, 255, (SIZE, SIZE, 3), np.uint8)
    action_space = Box(-1, 1, (2,), np.float32)

    def __init__(self, text: str, max_episode_steps: int, drift: tuple[float, float], end_at_success: bool) -> None:
        self.text, self.max_episode_steps, self.end_at_success = text, max_episode_steps, end_at_success
        self.drift = np.array(drift)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.place, self.goal = np.zeros((2, 2))
        while np.abs(self.place - self.goal).max() < 8:
            self.place, self.goal = self.np_random.uniform(5, SIZE - 5, (2, 2))
        self.num_steps = 0
        return draw(self.place, self.goal), {"success": False, "text": self.text}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.place = np.clip(self.place + SPEED * action + self.drift, 3, SIZE - 3)
        self.num_steps += 1
        success = bool(np.abs(self.place - self.goal).max() < NEAR)
        over = self.num_steps == self.max_episode_steps
        facts = {"success": success, "text": self.text}
        return draw(self.place, self.goal), -1.0, success and self.end_at_success, over, facts

    def expert_action(self) -> np.ndarray:
        return np.clip((self.goal - self.place) / SPEED, -1, 1).astype(np.float32)


class Points(SyncVectorEnv):
    """Copies of the world, with one length of episodes or one a copy. `astray` makes the expert go the other way."""

    def __init__(
        self,
        num_envs: int = 3,
        *,
        max_episode_steps: int | Sequence[int] = 12,
        drift: tuple[float, float] = (0.0, 0.0),
        end_at_success: bool = True,
        astray: bool = False,
        kind: type[Point] = Point,
        autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP,
    ) -> None:
        def build(number: int) -> Callable[[], Point]:
            most = max_episode_steps if isinstance(max_episode_steps, int) else max_episode_steps[number]
            return lambda: kind(f"go to mark {number % 2}", most, drift, end_at_success)

        super().__init__([build(number) for number in range(num_envs)], autoreset_mode=autoreset_mode)
        self.astray = astray

    def expert_continuation(
        self, num_steps: int, copies: Sequence[int] | None = None, drift: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        frames: list[np.ndarray] = []
        actions: list[np.ndarray] = []
        for number in range(self.num_envs) if copies is None else copies:
            point = deepcopy(self.envs[number])
            assert isinstance(point, Point)
            point.drift = point.drift if drift is None else drift
            for _ in range(num_steps):
                actions.append(-point.expert_action() if self.astray else point.expert_action())
                frames.append(point.step(actions[-1])[0])
        return np.stack(frames).reshape(-1, num_steps, SIZE, SIZE, 3), np.stack(actions).reshape(-1, num_steps, 2)


class Oracle:
    """An imagination that draws what the expert would do if nothing drifted; remembers for whom it was asked.

    `change`, of that and of the frame seen now, breaks it.
    """

    num_context = 1

    def __init__(
        self, points: Points, horizon: int = 8, change: Callable[[Videos, Videos], Videos] = lambda video, now: video
    ) -> None:
        self.points, self.horizon, self.change = points, horizon, change
        self.asked: list[Present] = []

    def __call__(self, present: Present) -> Videos:
        self.asked.append(present)
        frames, _ = self.points.expert_continuation(self.horizon, present.copies, np.zeros(2))
        video, now = (torch.tensor(part)[:, None].movedim(-1, -3) / 127.5 - 1 for part in (frames, present.frames))
        return self.change(video, now)


def profiles(before: Tensor, after: Tensor) -> Tensor:
    """How much more red there is in each row and column: (pair, 2 * SIZE)."""
    moved = (after - before)[:, 0].double()
    return torch.cat([moved.sum(1), moved.sum(2)], dim=1)


class LeastSquares:
    """Inverse dynamics: linear in the profiles of the red square's movement."""

    def __init__(self, num_pairs: int = 300, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        places, actions = random.uniform(6, SIZE - 6, (num_pairs, 2)), random.uniform(-1, 1, (num_pairs, 2))
        goal = np.full(2, SIZE / 2)
        before, after = (
            torch.tensor(np.stack([draw(place, goal) for place in some])).movedim(-1, -3) / 127.5 - 1
            for some in (places, places + SPEED * actions)
        )
        self.weights = torch.linalg.lstsq(profiles(before, after), torch.tensor(actions), driver="gelsd").solution

    def __call__(self, before: Tensor, after: Tensor) -> Tensor:
        return (profiles(before, after) @ self.weights).float()
