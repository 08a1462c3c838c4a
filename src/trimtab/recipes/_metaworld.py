"""The robot that plans are made for: its tasks, seen and novel, how it is recorded, and in which words; knows no method."""

from __future__ import annotations

from pathlib import Path

from trimtab.data.episodes import Episodes
from trimtab.environments.metaworld import TEXTS
from trimtab.networks.encoders import MiniLM
from trimtab.recipes.record_metaworld import metaworld_episodes

ACTION_REPEAT, MAX_STEPS = 4, 50
"""At which MetaWorld's experts still succeed in 123 of 128 trials (`environments/metaworld.py: TEXTS`)."""

LINGER = 8
"""Steps that recorded experts go on after success: as many as a plan has frames, so that what is trained on them has seen
plans begin wherever a robot may be before it is done."""

SEEN = ("button-press", "drawer-close", "window-open")
NOVEL = ("door-close", "handle-press", "window-close")
"""Tasks that the in-domain set shows, and tasks that it does not. The prior saw all of them, never in this look."""

VALIDATION = ("drawer-close", "faucet-open")
"""A seen and a novel task, for what is chosen; of these the second is nowhere measured, the first from other starts."""

FIRST_VALIDATION = 200_000
"""The seed of the first start state, of those that anything is chosen on."""

UNPLAYED = (*NOVEL, *(task for task in VALIDATION if task not in SEEN))
"""Tasks that nothing which belongs to this robot may see done before it is measured or chosen for on them."""

PLAYED = tuple(task for task in TEXTS if task not in UNPLAYED)
"""All others."""

NUM_TOKENS = 24
"""Of a text, for the tabletop prior and all that is composed with it."""

TEMPERATURE = 0.7
"""Of what they imagine. Where a model is unsure, as one that was trained shortly is of all that moves, a pixel differs from
its neighbours as the noise does; less noise leaves the picture blurred there instead."""


def encoder() -> MiniLM:
    """Sentences to token states, as the tabletop prior is told them."""
    return MiniLM(NUM_TOKENS)


def demonstrations(
    random_share: float,
    datasets: Path,
    num_episodes: int = 25,
    *,
    action_repeat: int = ACTION_REPEAT,
    max_steps: int = MAX_STEPS,
) -> Episodes:
    """The in-domain set: the seen tasks in the robot's own look, with a share of random actions."""
    return metaworld_episodes(
        tasks=SEEN,
        num_episodes=num_episodes,
        random_share=random_share,
        action_repeat=action_repeat,
        max_episode_steps=max_steps,
        linger=LINGER,
        output=place(datasets, f"seen-{round(100 * random_share)}", action_repeat, max_steps),
    )


def place(datasets: Path, name: str, action_repeat: int, max_steps: int) -> Path:
    """The folder of a recorded set; sets of another pace than the usual lie apart."""
    usual = (action_repeat, max_steps) == (ACTION_REPEAT, MAX_STEPS)
    return datasets / (f"metaworld-{name}" if usual else f"metaworld-{name}-{action_repeat}x{max_steps}")


def at_play(
    folder: Path, *, seed: int, num_episodes: int, action_repeat: int = ACTION_REPEAT, max_steps: int = MAX_STEPS
) -> Episodes:
    """The robot at every task but those unplayed, every second choice random, each held for a while.

    Args:
        folder: of the set.
        seed: of the first episode of each task; what learns and what judges take others.
        num_episodes: of each task.
        action_repeat, max_steps: of the environment.
    """
    return metaworld_episodes(
        tasks=PLAYED,
        num_episodes=num_episodes,
        random_share=0.5,
        random_hold=4,
        seed=seed,
        action_repeat=action_repeat,
        max_episode_steps=max_steps,
        output=folder,
    )


def play(
    datasets: Path, num_episodes: int = 24, *, action_repeat: int = ACTION_REPEAT, max_steps: int = MAX_STEPS
) -> tuple[Episodes, Episodes]:
    """What inverse dynamics learn from: the robot at play, and roaming the scenes of the unplayed tasks, where all choices
    are random, so that it knows the places and not the tasks.
    """
    roaming = metaworld_episodes(
        tasks=UNPLAYED,
        num_episodes=2 * num_episodes,
        random_share=1.0,
        random_hold=8,
        seed=1000,
        action_repeat=action_repeat,
        max_episode_steps=max_steps,
        output=place(datasets, "roam", action_repeat, max_steps),
    )
    folder = place(datasets, "play", action_repeat, max_steps)
    pace = {"action_repeat": action_repeat, "max_steps": max_steps}
    return at_play(folder, seed=1000, num_episodes=num_episodes, **pace), roaming
