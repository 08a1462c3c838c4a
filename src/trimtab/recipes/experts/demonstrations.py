"""Plays an expert in a vector environment, with any share of random actions, or led astray; knows neither of the two."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

MOST_OF_THE_WAY, MOST_LED, LED_HOLD = 12, 8, 4
"""How many steps of the expert's, and then at random, lead an episode astray at most, and for how many a random action is
held."""


@dataclass(frozen=True)
class Episode:
    """What was seen and done. As everywhere, the last row's action leads out of the episode: it is chosen, but not played.

    Attributes:
        frames: (time, size, size, 3) uint8.
        actions: (time, dim) float32.
        states: (time, dim) float32.
        successes: (time,) bool, whether the task was done when the frame was reached; None if the environment does not say.
        rewards: (time - 1,), of the actions that were played.
        ended: whether the task was done, or the environment ended it; else it was cut.
    """

    frames: np.ndarray
    actions: np.ndarray
    states: np.ndarray
    successes: np.ndarray | None
    rewards: np.ndarray
    ended: bool


def play(
    environment: VectorEnv[np.ndarray, np.ndarray, np.ndarray],
    expert: Callable[[dict[str, Any]], np.ndarray],
    task: str,
    seed: int,
    *,
    random_share: float = 0.0,
    random_hold: int = 1,
    linger: int | None = None,
    astray: bool = False,
) -> Episode:
    """One episode of an environment with one copy, whose information has "state" and, if it knows any, "success".

    Args:
        environment: is reset.
        expert: from what the environment informs of to actions, (1, dim) in -1 .. 1.
        task: the random actions of the same seed differ from task to task.
        seed: of the episode and of the random actions.
        random_share: of the choices, 0 to 1, that are uniformly random instead of the expert's.
        random_hold: for how many steps each choice stands; the expert's actions follow what happens all the same.
        linger: for how many steps it goes on once the task is done; None until the environment ends it.
        astray: whether it begins where random actions led from somewhere on the expert's way, none of which are kept; the
            environment is to allow for `MOST_OF_THE_WAY` and `MOST_LED` steps more.
    """
    random = np.random.default_rng([seed, zlib.crc32(task.encode())])
    dim = environment.action_space.shape[1]  # type: ignore[index]
    held: np.ndarray | None = None  # the random action of these steps; None where they are the expert's

    def choose(step: int) -> np.ndarray:
        nonlocal held
        if step % random_hold == 0:
            replaced, drawn = random.random() < random_share, random.uniform(-1, 1, dim).astype(np.float32)
            held = drawn if replaced else None
        return expert(facts[-1])[0] if held is None else held

    frame, information = led_astray(environment, expert, task, seed) if astray else environment.reset(seed=seed)
    frames, facts = [frame[0]], [information]
    actions, rewards, over, since_done = [choose(0)], list[float](), False, None
    while not over:
        frame, reward, terminated, truncated, information = environment.step(actions[-1][None])
        frames.append(frame[0])
        facts.append(information)
        rewards.append(float(reward[0]))
        actions.append(choose(len(actions)))
        if linger is not None and (since_done is not None or information["success"][0]):
            since_done = 0 if since_done is None else since_done + 1
        over = bool(terminated[0] or truncated[0]) or (linger is not None and since_done == linger)
    successes = np.array([one["success"][0] for one in facts]) if "success" in facts[0] else None
    states = np.stack([one["state"][0] for one in facts])
    ended = bool(terminated[0]) or since_done is not None
    return Episode(np.stack(frames), np.stack(actions), states, successes, np.array(rewards), ended)


def led_astray(
    environment: VectorEnv[Any, Any, Any], expert: Callable[[dict[str, Any]], np.ndarray], task: str, seed: int
) -> tuple[np.ndarray, dict[str, Any]]:
    """Where random actions led from somewhere on the expert's way: the frame there, and what the environment informs of.

    Who only ever saw experts does not know what to do beside their way, and who acts by what it learned soon is there. If
    the task is done meanwhile, it is tried again from half as far.
    """
    random = np.random.default_rng([seed, zlib.crc32(task.encode()), 1])
    alone, led = int(random.integers(MOST_OF_THE_WAY + 1)), int(random.integers(1, MOST_LED + 1))
    dim = environment.action_space.shape[1]  # type: ignore[index]
    pushes = np.repeat(random.uniform(-1, 1, (-(-led // LED_HOLD), 1, dim)).astype(np.float32), LED_HOLD, axis=0)[:led]
    while True:
        frame, information = environment.reset(seed=seed)
        done = False
        for step in range(alone + led):
            action = expert(information) if step < alone else pushes[step - alone]
            frame, _, _, _, information = environment.step(action)
            done = done or ("success" in information and bool(information["success"][0]))
        if not done or not alone + led:
            return frame, information
        alone, led = alone // 2, led // 2
