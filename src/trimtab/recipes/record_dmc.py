"""Records demonstrations of a trained policy on a DeepMind Control task to disk, with any share of random actions."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich import print
from rich.progress import track

from trimtab.data.episodes import Episodes, EpisodeWriter
from trimtab.data.recording import recorded_once
from trimtab.environments._mujoco import SAMPLES
from trimtab.environments.dmc import DMC, TEXTS, check_scene
from trimtab.environments.looks import Look
from trimtab.metrics.intervals import Interval
from trimtab.recipes.experts.actor import load
from trimtab.recipes.experts.demonstrations import Episode, play


def record_dmc(
    *,
    policy: Path = Path("runs/dmc-walker-walk/policy.safetensors"),
    num_episodes: int = 25,
    random_share: float = 0.0,
    random_hold: int = 1,
    seed: int = 0,
    camera: str | None = None,
    size: int = 64,
    max_episode_steps: int | None = None,
    first_look: int = 0,
    num_looks: int = 0,
    output: Path | None = None,
) -> None:
    """Record a policy of `trimtab dmc-policy` on the task that it was trained on, for training and evaluation.

    A finished set in the same place is kept if it was recorded with the same settings; one with others is refused.

    Args:
        policy: the file; it holds the task, too, and for how long it holds an action.
        num_episodes: to record.
        random_share: of the actions, 0 to 1, that are uniformly random instead of the policy's.
        random_hold: for how many steps each is chosen, random or the policy's.
        seed: of the first episode; the next have the next seeds.
        camera: its name in the task; by default the first, which follows the body where it moves about.
        size: of a frame, 64, 128, 256 or 512 pixels.
        max_episode_steps: after which an episode is cut; by default as in training.
        first_look: the seed of the first look.
        num_looks: how many colours, lights and places of the camera the episodes take in turn; 0 is the suite's own look.
        output: the folder of the set; by default datasets/dmc-<task>-<percent random>-<seed>.
    """
    episodes = dmc_episodes(
        policy,
        num_episodes=num_episodes,
        random_share=random_share,
        random_hold=random_hold,
        seed=seed,
        camera=camera,
        size=size,
        max_episode_steps=max_episode_steps,
        first_look=first_look,
        num_looks=num_looks,
        output=output,
    )
    facts = episodes.provenance
    print(episodes)
    print(f"  mean return {np.mean(facts['returns']):.4g}, of {facts['num_steps_an_episode']} steps an episode")
    for name in ("trained", "random"):
        measured, steps = facts["policy"]["mean_return"][name], facts["policy"]["max_episode_steps"]
        print(f"  when it was trained, in {steps} steps: {name:9}{Interval(**measured)}")


def dmc_episodes(
    policy: Path,
    *,
    num_episodes: int = 25,
    random_share: float = 0.0,
    random_hold: int = 1,
    seed: int = 0,
    camera: str | None = None,
    size: int = 64,
    max_episode_steps: int | None = None,
    first_look: int = 0,
    num_looks: int = 0,
    output: Path | None = None,
) -> Episodes:
    """The set that `record_dmc` makes with these settings: opened if it is there, else recorded first.

    The level of an episode is its seed, its task is the text, and as the suite hardly ends an episode of itself, all are
    cut. The provenance holds the return of each episode; of the policy its facts, its checksum, and its mean return
    beside that of random actions, with intervals.

    Raises:
        ValueError: the file holds no policy; another set is in the same place; or a setting is out of range.
    """
    if min(num_episodes, random_hold) < 1 or not 0 <= random_share <= 1 or min(seed, first_look, num_looks) < 0:
        raise ValueError(
            "recording needs num_episodes and random_hold >= 1, random_share in 0 .. 1 and seed, first_look and num_looks "
            f">= 0, got {num_episodes}, {random_hold}, {random_share}, {seed}, {first_look} and {num_looks}"
        )
    actor, facts, checksum = load(policy)
    task, num_steps = facts["task"], facts["max_episode_steps"] if max_episode_steps is None else max_episode_steps
    scene: dict[str, Any] = {"size": size, "action_repeat": facts["action_repeat"], "max_episode_steps": num_steps}
    check_scene([task], **scene)
    request = {
        "environment": "dmc",
        "task": task,
        "policy_checksum": checksum,
        "num_episodes_asked": num_episodes,
        "num_steps_an_episode": num_steps,
        "random_share": random_share,
        "random_hold": random_hold,
        "seed": seed,
        "camera": camera,
        "size": size,
        "samples_a_side": SAMPLES,
        "first_look": first_look,
        "num_looks": num_looks,
        **({"looks": Look.ranges()} if num_looks else {}),
    }
    folder = output or Path("datasets") / f"dmc-{task}-{round(100 * random_share)}-{seed}"

    def write() -> None:
        names = ("trimtab", "dm-control", "mujoco", "gymnasium", "torch", "numpy", "pyarrow", "pillow")
        provenance = {**request, "policy": facts, "versions": {name: version(name) for name in names}}
        dim, numbers = actor.sizes["action_dim"], range(num_episodes)
        looks = [Look(first_look + i) for i in range(min(num_looks, num_episodes))] or [Look.plain()]
        scenes = [(look, numbers[i :: len(looks)]) for i, look in enumerate(looks)]

        def played() -> Iterator[tuple[int, Episode]]:
            for look, those in scenes:
                environment = DMC(task, look=look, camera=camera, still=facts["still"], **scene)
                for number in those:
                    yield (
                        number,
                        play(
                            environment,
                            lambda told: actor.act(told["state"]),
                            task,
                            seed + number,
                            random_share=random_share,
                            random_hold=random_hold,
                        ),
                    )
                environment.close()

        with EpisodeWriter(folder, frame_rate=facts["frame_rate"], action_dim=dim, provenance=provenance) as writer:
            writer.provenance["returns"] = []
            for number, episode in track(played(), f"recording {task}", num_episodes):
                writer.add_episode(
                    episode.frames,
                    episode.actions,
                    state=episode.states,
                    level=seed + number,
                    task=TEXTS[task],
                    ended=episode.ended,
                )
                writer.provenance["returns"].append(float(episode.rewards.sum()))

    return recorded_once(folder, request, write)
