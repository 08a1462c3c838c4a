"""The robot that plans are made for: its tasks, seen and novel, how it is recorded, and in which words; knows no method."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from trimtab.data.episodes import Episodes
from trimtab.environments.metaworld import TEXTS, MetaWorld
from trimtab.networks.encoders import MiniLM
from trimtab.recipes._prior import NUM_TOKENS
from trimtab.recipes.record_metaworld import ROBOT, metaworld_episodes

ACTION_REPEAT, MAX_STEPS = 4, 50
"""At which MetaWorld's experts succeed in 123 of 128 trials within these 50 steps, and in 126 within the 200 that
`environments/metaworld.py: TEXTS` speaks of."""

SIZE = 64
"""Side of a frame in pixels, unless a prior imagines larger ones."""

LINGER = 8
"""Steps that recorded experts go on after success: as many as a plan has frames, so that what is trained on them has seen
plans begin wherever a robot may be before it is done."""

SEEN = ("button-press", "drawer-close", "window-open")
NOVEL = ("door-close", "handle-press", "window-close")
"""Tasks that the in-domain set shows most, and that it does not show. The prior saw all of them, never in this look."""

NOVEL_OF_THE_PAPER = ("door-close", "door-open", "coffee-push", "soccer")
"""Those of the tasks that arXiv 2504.15369 names which the in-domain set does not show."""

VALIDATION = ("drawer-close", "faucet-open")
"""A seen and a novel task, for what is chosen; planning measures the first from other starts, and the second not at all."""

FIRST_START = 600_000
"""The seed of the first start state that is planned from; what the prior learns begins at 0, at 50_000 and at 100_000, what
its card is measured on at 500, demonstrations at 0, play at 1000, and what is chosen is chosen from 200_000 on."""

FIRST_CLIP = 300_000
"""The seed of the first start state of the clips of novel tasks that videos are compared with."""

FIRST_CHECK = 400_000
"""The seed of the first start state of validation tasks from which what was chosen on them is measured."""

FIRST_LOSS = 500_000
"""The seed of the first start state of the clips of seen tasks on which denoising is measured."""

FIRST_VALIDATION = 200_000
"""The seed of the first start state, of those that anything is chosen on."""

UNPLAYED = tuple(task for task in TEXTS if task in {*NOVEL, *NOVEL_OF_THE_PAPER, *VALIDATION} - {*SEEN})
"""Tasks that nothing which belongs to this robot may see done before it is measured or chosen for on them, at any scale."""

PLAYED = tuple(task for task in TEXTS if task not in UNPLAYED)
"""All others."""

ASTRAY = 0.5
"""The share of the demonstrations that begin where random actions led: beside the experts' way, where plans lead, too."""

NUM_SEEN, NUM_OTHERS = 50, 10
"""Demonstrations of each seen task, and of each other one that is played. Of three tasks alone a small model learns three
places by heart: in any other it draws what happens in those, however little noise is left."""

TEMPERATURE = 0.7
"""Of what they imagine. Where a model is unsure, as one that was trained shortly is of all that moves, a pixel differs from
its neighbours as the noise does; less noise leaves the picture blurred there instead."""


@cache
def scene(task: str, num_envs: int, action_repeat: int, max_steps: int, size: int) -> MetaWorld:
    """The robot at a task; built once, as that takes a second a copy."""
    return MetaWorld(task, num_envs, size=size, action_repeat=action_repeat, max_episode_steps=max_steps, look=ROBOT)


def encoder() -> MiniLM:
    """Sentences to token states, as the tabletop prior is told them."""
    return MiniLM(NUM_TOKENS)


def demonstrations(
    random_share: float,
    datasets: Path,
    *,
    action_repeat: int = ACTION_REPEAT,
    max_steps: int = MAX_STEPS,
    size: int = SIZE,
) -> tuple[Episodes, Episodes]:
    """The in-domain set, in the robot's own look, with a share of random actions: the seen tasks, and less of the others."""
    others = tuple(task for task in PLAYED if task not in SEEN)
    seen, more = (
        metaworld_episodes(
            tasks=tasks,
            num_episodes=num_episodes,
            random_share=random_share,
            action_repeat=action_repeat,
            max_episode_steps=max_steps,
            size=size,
            linger=LINGER,
            robot=True,
            astray=ASTRAY,
            output=place(datasets, f"{name}-{round(100 * random_share)}", action_repeat, max_steps, size),
        )
        for name, tasks, num_episodes in (("seen", SEEN, NUM_SEEN), ("others", others, NUM_OTHERS))
    )
    return seen, more


def place(datasets: Path, name: str, action_repeat: int, max_steps: int, size: int = SIZE) -> Path:
    """The folder of a recorded set; sets of another pace than the usual, or of larger frames, lie apart."""
    pace = "" if (action_repeat, max_steps) == (ACTION_REPEAT, MAX_STEPS) else f"-{action_repeat}x{max_steps}"
    return datasets / f"metaworld-{name}{pace}{'' if size == SIZE else f'-{size}px'}"


def at_play(
    folder: Path,
    *,
    seed: int,
    num_episodes: int,
    action_repeat: int = ACTION_REPEAT,
    max_steps: int = MAX_STEPS,
    size: int = SIZE,
) -> Episodes:
    """The robot at every task but those unplayed, every second choice random, each held for a while.

    Args:
        folder: of the set.
        seed: of the first episode of each task; what learns and what judges take others.
        num_episodes: of each task.
        action_repeat, max_steps, size: of the environment.

    Raises:
        ValueError: another set is in the folder, such as one of other tasks, which an earlier version recorded.
    """
    return metaworld_episodes(
        tasks=PLAYED,
        num_episodes=num_episodes,
        random_share=0.5,
        random_hold=4,
        robot=True,
        seed=seed,
        action_repeat=action_repeat,
        max_episode_steps=max_steps,
        size=size,
        output=folder,
    )


def play(
    datasets: Path,
    num_episodes: int = 24,
    *,
    action_repeat: int = ACTION_REPEAT,
    max_steps: int = MAX_STEPS,
    size: int = SIZE,
) -> tuple[Episodes, Episodes]:
    """What inverse dynamics learn from: the robot at play, and roaming the scenes of the unplayed tasks, where all choices
    are random, so that it knows the places and not the tasks.
    """
    roaming = metaworld_episodes(
        tasks=UNPLAYED,
        num_episodes=2 * num_episodes,
        random_share=1.0,
        random_hold=8,
        robot=True,
        seed=1000,
        action_repeat=action_repeat,
        max_episode_steps=max_steps,
        size=size,
        output=place(datasets, "roam", action_repeat, max_steps, size),
    )
    folder = place(datasets, "play", action_repeat, max_steps, size)
    scenery = {"action_repeat": action_repeat, "max_steps": max_steps, "size": size}
    return at_play(folder, seed=1000, num_episodes=num_episodes, **scenery), roaming
