"""Records demonstrations of MetaWorld's scripted experts to disk, with any share of random actions; knows no model."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from rich import print
from rich.progress import track

from trimtab.data.episodes import Episodes, EpisodeWriter
from trimtab.data.recording import recorded_once
from trimtab.environments._mujoco import SAMPLES
from trimtab.environments.looks import Look
from trimtab.environments.metaworld import SCENES, SIMULATOR_RATE, TEXTS, MetaWorld, check_scene
from trimtab.recipes.experts.demonstrations import MOST_LED, MOST_OF_THE_WAY, Episode, play

ROBOT = Look(seed=None, hue=-80.0)
"""How the robot looks that plans are made for, the same in every scene: in colours of which no look that the tabletop prior
learns from is near, so that there is something to adapt."""


def record_metaworld(
    *,
    tasks: tuple[str, ...] = tuple(TEXTS),
    num_episodes: int = 25,
    random_share: float = 0.0,
    random_hold: int = 1,
    seed: int = 0,
    camera: str = "close",
    size: int = 64,
    action_repeat: int = 2,
    max_episode_steps: int = 100,
    linger: int = 0,
    first_look: int = 0,
    num_looks: int = 0,
    robot: bool = False,
    halfway: bool = False,
    astray: float = 0.0,
    output: Path | None = None,
) -> None:
    """Record MetaWorld's scripted experts, for training and evaluation.

    A finished set in the same place is kept if it was recorded with the same settings; one with others is refused.

    Args:
        tasks: such as door-close drawer-open; all by default.
        num_episodes: of each task.
        random_share: of the choices, 0 to 1, that are uniformly random instead of the expert's.
        random_hold: for how many steps each is held, random or the expert's; a held random action shows better what an
            action does, as the arm lags behind.
        seed: of the first episode of each task; the next have the next seeds.
        camera: close, corner, corner2, corner3 or topview.
        size: of a frame, 64, 128, 256 or 512 pixels.
        action_repeat: for how many of the simulator's 1/80 seconds an action is held.
        max_episode_steps: within which the task is to be done.
        linger: for how many steps every episode goes on after the task was done, or was to be done; a clip of so many frames
            can then begin wherever the task is not done yet.
        first_look: the seed of the first look.
        num_looks: how many colours, lights and places of the camera the episodes of a task take in turn, no two tasks the
            same; 0 is MetaWorld's own look.
        robot: whether all episodes are in the look of the robot that plans are made for, instead of these.
        halfway: whether, of the tasks that have an opposite, each is recorded in every scene that the two share, beginning
            with what is moved in the middle of its way, both in the same looks, so that only words tell them apart; others
            are left out, and num_episodes are of each task in each such scene.
        astray: the share of the episodes, 0 to 1, that begin where random actions led from somewhere on the expert's way, so
            that the expert shows what to do there. Where any do, each episode is allowed as many steps more as lead the
            longest astray.
        output: the folder of the set; by default datasets/metaworld-<percent random>-<seed>.
    """
    episodes = metaworld_episodes(
        tasks=tasks,
        num_episodes=num_episodes,
        random_share=random_share,
        random_hold=random_hold,
        seed=seed,
        camera=camera,
        size=size,
        action_repeat=action_repeat,
        max_episode_steps=max_episode_steps,
        linger=linger,
        first_look=first_look,
        num_looks=num_looks,
        robot=robot,
        halfway=halfway,
        astray=astray,
        output=output,
    )
    print(episodes)
    shares = episodes.provenance["share_successful"]
    for task, share in shares.items():
        print(f"  {task:22}{share:.2f} successful")
    print(f"  {'all':22}{np.mean(list(shares.values())):.2f} successful")


def metaworld_episodes(
    *,
    tasks: tuple[str, ...] = tuple(TEXTS),
    num_episodes: int = 25,
    random_share: float = 0.0,
    random_hold: int = 1,
    seed: int = 0,
    camera: str = "close",
    size: int = 64,
    action_repeat: int = 2,
    max_episode_steps: int = 100,
    linger: int = 0,
    first_look: int = 0,
    num_looks: int = 0,
    robot: bool = False,
    halfway: bool = False,
    astray: float = 0.0,
    output: Path | None = None,
) -> Episodes:
    """The set that `record_metaworld` makes with these settings: opened if it is there, else recorded first.

    The level of an episode is its seed, its task is the text, and it ended, rather than was cut, if it was successful.
    Of several processes that ask at once, one records, and the others wait for it.

    Raises:
        ValueError: another set is in the same place; or a setting is out of range.
    """
    if not tasks or len(set(tasks)) < len(tasks):
        raise ValueError(f"name one task or several, each once, of {', '.join(TEXTS)}; got {' '.join(tasks) or 'none'}")
    counts = {"seed": seed, "linger": linger, "first_look": first_look, "num_looks": num_looks}
    shares_fit = 0 <= random_share <= 1 and 0 <= astray <= 1
    if min(num_episodes, random_hold) < 1 or not shares_fit or min(counts.values()) < 0:
        raise ValueError(
            f"recording needs num_episodes and random_hold >= 1, random_share and astray in 0 .. 1 and {', '.join(counts)} "
            f">= 0, got {num_episodes}, {random_hold}, {random_share}, {astray}, {', '.join(map(str, counts.values()))}"
        )
    if robot and num_looks:
        raise ValueError(
            f"the robot has one look, its own; ask for it, or for num_looks, here {num_looks}, not for both"
        )
    settings: dict[str, Any] = {
        "camera": camera,
        "size": size,
        "action_repeat": action_repeat,
        "max_episode_steps": max_episode_steps,
    }
    request = {
        "environment": "metaworld",
        "tasks": list(tasks),
        "num_episodes_a_task": num_episodes,
        "random_share": random_share,
        "random_hold": random_hold,
        "seed": seed,
        "linger": linger,
        "first_look": first_look,
        "num_looks": num_looks,
        **({"looks": Look.ranges()} if num_looks else {}),
        "robot": asdict(ROBOT) if robot else None,
        "halfway": halfway,
        **({"astray": astray} if astray else {}),
        "samples_a_side": SAMPLES,
        **settings,
    }
    check_scene(tasks, **settings)
    scenes: list[tuple[str | None, list[str]]] = [(None, [task]) for task in tasks]
    if halfway:
        scenes = [(scene, [task for task in pair if task in tasks]) for scene, pair in SCENES.items()]
        if not any(those for _, those in scenes):
            opposites = ", ".join(dict.fromkeys(chain(*SCENES.values())))
            raise ValueError(f"only tasks with an opposite can begin half way: {opposites}; got {', '.join(tasks)}")
    folder = output or Path("datasets") / f"metaworld-{round(100 * random_share)}-{seed}"

    def write() -> None:
        names = ("trimtab", "metaworld", "mujoco", "gymnasium", "numpy", "pyarrow", "pillow")
        provenance = {**request, "versions": {name: version(name) for name in names}}
        frame_rate = SIMULATOR_RATE / action_repeat
        with EpisodeWriter(folder, frame_rate=frame_rate, action_dim=4, provenance=provenance) as writer:
            numbers = range(num_episodes)
            own = min(num_looks, num_episodes)
            parts = []
            for which, (scene, played) in enumerate(scenes):
                looks = [Look(first_look + which * own + i) for i in range(own)] or [ROBOT if robot else Look.plain()]
                for task in played:
                    parts += [(task, scene, look, numbers[i :: len(looks)]) for i, look in enumerate(looks)]
            done_of: dict[str, list[bool]] = {task: [] for _, played in scenes for task in played}
            for task, scene, look, those in track(parts, description="recording MetaWorld"):
                before = MOST_OF_THE_WAY + MOST_LED if astray else 0
                whole = settings | {"max_episode_steps": max_episode_steps + linger + before}
                environment = MetaWorld(task, look=look, scene=scene, end_at_success=False, **whole)
                for number in those:
                    is_astray = int((number + 1) * astray) > int(number * astray)
                    episode = _play(environment, seed + number, random_share, random_hold, linger, is_astray)
                    assert episode.successes is not None
                    done = bool(episode.successes[: max_episode_steps + 1].any())
                    writer.add_episode(
                        episode.frames,
                        episode.actions,
                        state=episode.states,
                        success=episode.successes,
                        level=seed + number,
                        task=TEXTS[task],
                        ended=done,
                    )
                    done_of[task].append(done)
                environment.close()
            writer.provenance["share_successful"] = {task: sum(those) / len(those) for task, those in done_of.items()}

    return recorded_once(folder, request, write)


def _play(
    environment: MetaWorld, seed: int, random_share: float, random_hold: int, linger: int, astray: bool
) -> Episode:
    """One episode of one copy, by its expert."""

    def expert(_: dict[str, Any]) -> np.ndarray:
        return environment.expert_actions()

    task = environment.tasks[0]
    return play(
        environment,
        expert,
        task,
        seed,
        random_share=random_share,
        random_hold=random_hold,
        linger=linger,
        astray=astray,
    )
