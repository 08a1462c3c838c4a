"""Trains a small policy on the states of a DeepMind Control task, for demonstrations, and measures its return."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich import print
from rich.progress import track

from trimtab.core.files import write_whole
from trimtab.environments.dmc import DMCStates
from trimtab.metrics.intervals import Interval, mean_interval
from trimtab.recipes.experts.soft_actor_critic import forecast, train
from trimtab.training import record_settings

EVALUATION_SEED = 2**20
"""Of the first episode that a policy is measured on."""


def dmc_policy(
    *,
    task: str = "walker-walk",
    num_steps: int = 100_000,
    action_repeat: int = 2,
    max_episode_steps: int = 500,
    still: bool = False,
    width: int = 256,
    batch_size: int = 256,
    learning_rate: float = 3e-4,
    num_random_steps: int = 1000,
    seed: int = 0,
    num_evaluations: int = 20,
    dry_run: bool = False,
    output: Path | None = None,
) -> None:
    """Train (or go on training) a policy by soft actor-critic, and play it beside random actions.

    Args:
        task: such as walker-walk or cartpole-swingup.
        num_steps: in all, earlier pieces included; an action each, and after the first, random ones an update.
        action_repeat: for how many control steps of the suite an action is held.
        max_episode_steps: after which an episode is cut; the suite's own have 1000 control steps.
        still: begin episodes at rest in the model's own pose, not in a random one.
        width: of the two hidden layers of policy and critics.
        batch_size: remembered steps in an update.
        learning_rate: of Adam.
        num_random_steps: uniformly random actions before the first update.
        seed: of weights, actions and episodes.
        num_evaluations: episodes that each of the two is measured on, none of training; at least 2.
        dry_run: only say what the training will need in memory, time and disk.
        output: run folder; by default runs/dmc-<task>. policy.safetensors in it is the result, for `trimtab record-dmc`,
            and results.json says how good it is.
    """
    if num_steps < 1 or num_evaluations < 2:
        raise ValueError(f"num_steps is >= 1 and num_evaluations >= 2, got {num_steps} and {num_evaluations}")
    scene: dict[str, Any] = {"action_repeat": action_repeat, "max_episode_steps": max_episode_steps, "still": still}
    options: dict[str, Any] = {
        "width": width,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "num_random_steps": num_random_steps,
        "seed": seed,
    }
    environment, output = DMCStates(task, **scene), output or Path("runs") / f"dmc-{task}"
    if dry_run:
        print(f"{task} will need: {forecast(environment, num_steps, **options)}")
        return
    record_settings(output, "dmc-policy", {"task": task, **scene, **options})
    actor = train(environment, num_steps, folder=output, title=task, **options)
    random = np.random.default_rng(seed)
    players: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "trained": actor.act,
        "random": lambda states: random.uniform(-1, 1, (len(states), environment.action_dim)),
    }
    found = {name: mean_return(environment, player, num_evaluations, name) for name, player in players.items()}
    names = ("trimtab", "stable-baselines3", "torch", "dm-control", "mujoco")
    facts = {
        "task": task,
        **scene,
        "frame_rate": environment.frame_rate,
        "num_steps": num_steps,
        "seed": seed,
        "mean_return": {name: asdict(interval) for name, interval in found.items()},
        "versions": {name: version(name) for name in names},
    }
    actor.save(output / "policy.safetensors", facts)
    write_whole(output / "results.json", json.dumps(facts, indent=2) + "\n")
    for name, interval in found.items():
        print(f"  {name:10}mean return {interval}")
    print(f"the policy is {output / 'policy.safetensors'}; `trimtab record-dmc` records it")


def mean_return(
    environment: DMCStates, act: Callable[[np.ndarray], np.ndarray], num_episodes: int, title: str = "playing"
) -> Interval:
    """The sum of rewards of an episode, over episodes that no training saw.

    Args:
        environment: to play in.
        act: states (1, dim) to actions (1, dim).
        num_episodes: at least 2.
        title: for the progress bar.
    """
    returns = torch.zeros(num_episodes, dtype=torch.float64)
    for number in track(range(num_episodes), f"measuring {title}"):
        state, _ = environment.reset(seed=EVALUATION_SEED + number)
        over = False
        while not over:
            state, reward, terminated, truncated, _ = environment.step(act(state[None])[0])
            returns[number] += reward
            over = terminated or truncated
    return mean_interval(returns, torch.arange(num_episodes))
