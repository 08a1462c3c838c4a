"""Frames per second of the simulators, with what leads to them: physics, experts and drawing; `make bench-rendering`."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from trimtab.environments.dmc import DMC
from trimtab.environments.metaworld import MetaWorld
from trimtab.recipes.record_metaworld import ROBOT

STEPS, ROUNDS = 25, 4
"""Actions of an episode, and episodes that are timed, of which the fastest counts: other work only makes it slower."""

HELD = {"action_repeat": 4, "end_at_success": False}
"""No episode ends while it is timed."""


def main() -> None:
    print("frames per second of one copy, an action held for 4 steps of the simulator")
    print(f"{'':38}{64:>8}{128:>8}{256:>8}  pixels")
    for title, make in (
        ("MetaWorld, drawer-close, its expert", lambda size: MetaWorld("drawer-close", size=size, **HELD)),
        (
            "the same, in the robot's look",
            lambda size: MetaWorld("drawer-close", size=size, look=ROBOT, **HELD),
        ),
        ("MetaWorld, coffee-push, its expert", lambda size: MetaWorld("coffee-push", size=size, **HELD)),
        ("DeepMind Control, walker-walk", lambda size: DMC("walker-walk", size=size, action_repeat=4)),
    ):
        print(f"{title:38}" + "".join(f"{rate(make, size):8.0f}" for size in (64, 128, 256)))


def rate(make: Callable[[int], MetaWorld | DMC], size: int) -> float:
    """Frames of one copy a second, the time of what chooses its actions included."""
    environment, actions = make(size), np.random.default_rng(0)
    least = float("inf")
    for number in range(ROUNDS):
        environment.reset(seed=number)
        began = time.perf_counter()
        for _ in range(STEPS):
            choose = getattr(environment, "expert_actions", None)
            environment.step(choose() if choose else actions.uniform(-1, 1, environment.action_space.shape))
        least = min(least, time.perf_counter() - began)
    environment.close()
    return STEPS / least


if __name__ == "__main__":
    main()
