"""Soft actor-critic of Stable-Baselines3 on the states of an environment, in pieces of any length; knows no simulator.

Haarnoja et al., "Soft Actor-Critic Algorithms and Applications", arXiv 1812.05905; Raffin et al., "Stable-Baselines3",
JMLR 22 (268). The package's own files hold pickles: here weights and memory go through `networks.storage` alone.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import gymnasium
import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from trimtab.core.files import alone_in
from trimtab.forecast import Needs, own_memory
from trimtab.networks import storage
from trimtab.recipes.experts.actor import Actor

MEMORY = 1_000_000
"""Steps that are remembered at most."""
REMEMBERED = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
TRIED = 60
"""Steps that a forecast tries."""


def train(
    environment: gymnasium.Env[Any, Any],
    num_steps: int,
    *,
    folder: Path,
    title: str = "training",
    save_every_seconds: float = 60.0,
    **options: Any,
) -> Actor:
    """Train on, to so many steps of the environment in all, earlier pieces included.

    A piece goes on with the weights, the optimizers, and what is remembered, but not amid an episode, nor with the same
    random numbers: a run in pieces is not bit for bit a run in one.

    Args:
        environment: with actions in -1 .. 1.
        num_steps: in all, one update each but for the first, random ones.
        folder: keeps state.safetensors to go on from, and log.jsonl with the return of each episode.
        title: for the progress bar.
        save_every_seconds: between two saves of the state.
        options: of `learner`.

    Raises:
        ValueError: another process trains there; or the state there is damaged, or of other sizes.
    """
    model, path, log = learner(environment, **options), folder / "state.safetensors", list[dict[str, Any]]()
    folder.mkdir(parents=True, exist_ok=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("left"))
    progress = Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
    with alone_in(folder), progress:
        before = 0.0
        if path.exists():
            before, log = restore(model, path)
            model.set_random_seed(options.get("seed", 0) + model.num_timesteps)
        shown = progress.add_task(title, total=num_steps, completed=model.num_timesteps, note="")
        began = saved = time.perf_counter()

        def save() -> None:
            keep(model, path, before + time.perf_counter() - began, log)
            (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))

        def after_step(names: dict[str, Any], _: dict[str, Any]) -> bool:
            nonlocal saved
            now = time.perf_counter()
            for facts in names["infos"]:
                if episode := facts.get("episode"):
                    seconds = round(before + now - began, 2)
                    log.append({"step": model.num_timesteps, "seconds": seconds, "return": float(episode["r"])})
            told = f", return {log[-1]['return']:.1f}" if log else ""
            progress.update(shown, completed=model.num_timesteps, note=f"step {model.num_timesteps}{told}")
            if now - saved > save_every_seconds:
                save()
                saved = time.perf_counter()
            return True

        progress.console.print(f"{title}: state and log in {folder}, from step {model.num_timesteps}")
        if model.num_timesteps < num_steps:
            try:
                model.learn(num_steps - model.num_timesteps, callback=after_step, reset_num_timesteps=False)
            finally:  # Ctrl-C, too, keeps what was done
                save()
    return actor_of(model)


def learner(
    environment: gymnasium.Env[Any, Any],
    *,
    width: int = 256,
    batch_size: int = 256,
    learning_rate: float = 3e-4,
    num_random_steps: int = 1000,
    seed: int = 0,
) -> Any:
    """An untrained `stable_baselines3.SAC` with networks of two hidden layers.

    Args:
        environment: to act in.
        width: of the hidden layers of policy and critics.
        batch_size: remembered steps in an update.
        learning_rate: of Adam.
        num_random_steps: uniformly random actions before the first update.
        seed: of weights, actions and episodes.

    Raises:
        ValueError: a number is out of range. ModuleNotFoundError: Stable-Baselines3 is not installed.
    """
    if min(width, batch_size, num_random_steps) < 1 or learning_rate <= 0 or seed < 0:
        raise ValueError(
            "training needs width, batch_size and num_random_steps >= 1, learning_rate > 0 and seed >= 0, got "
            f"{width}, {batch_size}, {num_random_steps}, {learning_rate} and {seed}"
        )
    with suppress(ModuleNotFoundError):  # it imports gym where there is one, which prints a notice about its age
        import gym_notices.notices  # type: ignore[import-untyped]

        gym_notices.notices.notices.clear()
    try:
        from stable_baselines3 import SAC
        from stable_baselines3.common.logger import Logger
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"Stable-Baselines3 is not installed ({error}); pip install 'trimtab[robots]'"
        ) from error
    model = SAC(
        "MlpPolicy", environment, learning_rate, buffer_size=MEMORY, learning_starts=num_random_steps,
        batch_size=batch_size, policy_kwargs={"net_arch": [width, width]}, seed=seed, device="cpu",
    )  # fmt: skip
    model.set_logger(Logger(folder=None, output_formats=[]))  # its own leaves a folder among the temporary ones
    return model


def actor_of(model: Any) -> Actor:
    """What a learner would do if it did not explore."""
    first, second, last = model.actor.latent_pi[0], model.actor.latent_pi[2], model.actor.mu
    actor = Actor(first.in_features, last.out_features, first.out_features)
    for place, layer in zip((0, 2, 4), (first, second, last), strict=True):
        actor.network[place].load_state_dict(layer.state_dict())
    return actor.eval()


def forecast(environment: gymnasium.Env[Any, Any], num_steps: int, **options: Any) -> Needs:
    """What `train` from the first step to the last will need, reckoned from a few steps."""
    model = learner(environment, **options | {"num_random_steps": TRIED})
    model.learn(TRIED)
    began = time.perf_counter()
    model.learn(TRIED, reset_num_timesteps=False)
    pace = (time.perf_counter() - began) / TRIED
    sizes = {name: value.nbytes for name, value in tensors_of(model).items()}
    row = sum(size for name, size in sizes.items() if name.startswith("memory/")) // model.replay_buffer.size()
    remembered = row * min(num_steps, MEMORY)
    weights = sum(size for name, size in sizes.items() if not name.startswith("memory/"))
    return Needs(own_memory() + remembered, pace * num_steps, num_steps, weights + remembered)


def keep(model: Any, path: Path, seconds: float, log: list[dict[str, Any]]) -> None:
    """Write all that `restore` needs to go on, atomically."""
    counters = {"step": model.num_timesteps, "place": model.replay_buffer.pos, "seconds": seconds, "log": log}
    storage.write(path, tensors_of(model), counters)


def restore(model: Any, path: Path) -> tuple[float, list[dict[str, Any]]]:
    """Take up what `keep` wrote: the seconds and the log so far. Raises ValueError if it is of a model of other sizes."""
    tensors, counters = storage.read(path)
    if {name: value.shape[1:] for name, value in tensors_of(model).items() if name.startswith("memory/")} != {
        name: value.shape[1:] for name, value in tensors.items() if name.startswith("memory/")
    }:
        raise ValueError(f"{path} is of an environment with other states or actions; choose another folder")
    parameters = model.get_parameters()
    for part in parameters:
        inside = {
            name.removeprefix(f"{part}/"): value for name, value in tensors.items() if name.startswith(f"{part}/")
        }
        if part == "policy":
            parameters[part] = inside
            continue
        states: dict[int, dict[str, Tensor]] = {}
        for name, value in inside.items():
            number, key = name.split("/")
            states.setdefault(int(number), {})[key] = value
        parameters[part]["state"] = states
    model.set_parameters(parameters, device="cpu")
    with torch.no_grad():
        model.log_ent_coef.copy_(tensors["log_ent_coef"])
    memory = model.replay_buffer
    for name in REMEMBERED:
        values = tensors[f"memory/{name}"].numpy()
        getattr(memory, name)[: len(values)] = values
    memory.pos, memory.full = counters["place"], len(values) == memory.buffer_size
    model.num_timesteps = counters["step"]
    return counters["seconds"], counters["log"]


def tensors_of(model: Any) -> dict[str, Tensor]:
    """Weights, states of the optimizers, and what is remembered, each under a name of its own."""
    parameters, memory = model.get_parameters(), model.replay_buffer
    found = {f"policy/{name}": value for name, value in parameters.pop("policy").items()}
    for part, optimizer in parameters.items():
        for number, values in optimizer["state"].items():
            found |= {f"{part}/{number}/{key}": value for key, value in values.items()}
    found |= {f"memory/{name}": torch.from_numpy(getattr(memory, name)[: memory.size()]) for name in REMEMBERED}
    return {**found, "log_ent_coef": model.log_ent_coef.detach()}
