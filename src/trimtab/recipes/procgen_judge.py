"""Trains the judge that reads a Procgen game's actions off its frames; knows no world model."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich import print
from torch import Tensor
from torch.nn import functional

from trimtab.core.values import Clip
from trimtab.data.clips import Clips
from trimtab.environments.procgen import COINRUN_EFFECTS, COINRUN_WEIGHTS, NUM_ACTIONS, Procgen, StickyPolicy
from trimtab.metrics.actions import ActionJudge, JudgeFile, is_recognised
from trimtab.metrics.intervals import mean_interval
from trimtab.recipes.record_procgen import procgen_episodes

COINRUN_TABLES: dict[str, tuple[int, ...]] = {
    "effects": COINRUN_EFFECTS,
    # "down" does something only on a crate, so frames elsewhere cannot tell it from "stay".
    "effects without down": (0, 0, 1, 2, 2, 3, 4, 4, 5, *(2,) * 6),
    "horizontal": (0, 0, 0, 1, 1, 1, 2, 2, 2, *(1,) * 6),
}
"""Tables that merge coinrun's actions, from the exact classes to those that almost every frame shows."""


def procgen_judge(
    *,
    num_frames: int = 150_000,
    num_steps: int = 4000,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    width: int = 32,
    num_test_frames: int = 40_000,
    episode_frames: int = 100,
    seed: int = 0,
    num_threads: int = 1,
    datasets: Path = Path("datasets"),
    output: Path = Path("runs/procgen_judge/coinrun.safetensors"),
) -> None:
    """Train the judge of coinrun's actions on levels 20000-29999 and test it on levels 10000-10999.

    The judge that ships with the library is made with ``--output src/trimtab/metrics/judges/coinrun.safetensors``.

    Args:
        num_frames: frames to train on.
        num_steps: optimiser steps.
        batch_size: triples of frames a step.
        learning_rate: the highest; it warms up over the first tenth and then falls to zero.
        width: of the network.
        num_test_frames: frames to test on.
        episode_frames: after so many frames of a level the next level begins, for more levels.
        seed: of the weights, the batches and the noise; the episodes have their own.
        num_threads: processor threads.
        datasets: the folder of recorded episodes.
        output: where the weights go; the card goes beside them as .json.
    """
    torch.set_num_threads(num_threads)
    torch.manual_seed(seed)
    train = coinrun_triples(20_000, 10_000, num_frames, episode_frames, datasets / "coinrun-judge-train")
    test = coinrun_triples(10_000, 1_000, num_test_frames, episode_frames, datasets / "coinrun-judge-test")
    judge = ActionJudge(NUM_ACTIONS, width)
    optimiser = torch.optim.AdamW(judge.parameters(), learning_rate, weight_decay=0.01)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, num_steps, pct_start=0.1)
    use_bfloat16 = bool(torch.cpu.get_capabilities().get("amx_bf16", False))
    running = 0.0
    for step in range(num_steps):
        clip = train.batch(train.draw(seed, step, batch_size))
        frames, actions = triples(clip)
        seen = degrade(judge.look(frames))
        with torch.autocast("cpu", torch.bfloat16, enabled=use_bfloat16):
            logits = judge.score(seen)
        loss = functional.cross_entropy(logits.float(), actions)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rate.step()
        running += loss.item()
        if (step + 1) % 100 == 0:
            print(f"step {step + 1} of {num_steps}, loss {running / 100:.3f}")
            running = 0.0
    card = {
        "game": "coinrun",
        "train_levels": "20000-29999",
        "num_train_levels": num_levels(train),
        "num_train_frames": num_frames,
        "num_steps": num_steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "seed": seed,
        "test_levels": "10000-10999",
        "accuracy": accuracy(judge.half().float().eval(), test),  # with the float16 weights that are stored
        "memoryless_ceiling": ceiling(seed),
        "tables": COINRUN_TABLES,
        "policy": train.sets[0].provenance["policy"],
        "versions": {name: version(name) for name in ("trimtab", "torch", "numpy", "procgen-mirror")},
    }
    JudgeFile(output).save(judge, card)
    print(card["accuracy"])


def coinrun_triples(first_level: int, num_levels: int, num_frames: int, episode_frames: int, folder: Path) -> Clips:
    """Every three consecutive frames of recorded coinrun, two as context and one to read the action from."""
    episodes = procgen_episodes(
        game="coinrun",
        first_level=first_level,
        num_levels=num_levels,
        num_frames=num_frames,
        max_episode_frames=episode_frames,
        seed=first_level,
        output=folder,
    )
    return Clips(episodes, num_context=2, num_frames=1)


def triples(clip: Clip) -> tuple[Tensor, Tensor]:
    """The three frames (batch, 3, 3, 64, 64) and the action (batch,) between the last two."""
    known = clip.given.facts()
    return torch.cat([known["context"], clip.video], dim=1), known["actions"][:, 0].long()


def degrade(frames: Tensor) -> Tensor:
    """Frames as a world model may draw them: half of the triples blurred, each frame by its own amount, all with noise.

    A judge trained on clean frames alone fails on a slight blur, and then measures sharpness instead of actions.
    """
    num = len(frames)
    blurred = functional.avg_pool2d(frames.flatten(0, 1), 3, 1, 1, count_include_pad=False).unflatten(0, (num, 3))
    amount = torch.rand(num, 3, 1, 1, 1) * (torch.rand(num, 1, 1, 1, 1) < 0.5)
    return frames.lerp(blurred, amount) + 0.02 * torch.rand(num, 1, 1, 1, 1) * torch.randn_like(frames)


def num_levels(clips: Clips) -> int:
    return len(np.unique(clips.levels(range(len(clips)))))


def accuracy(judge: ActionJudge, test: Clips) -> dict[str, Any]:
    """Accuracy on real frames under each table, beside that of always naming the commonest class."""
    numbers = np.arange(len(test))
    clips = [test.batch(part) for part in np.array_split(numbers, max(1, len(numbers) // 256))]
    logits = torch.cat([judge(clip.given.facts()["context"], clip.video) for clip in clips])
    actions = torch.cat([clip.given.facts()["actions"] for clip in clips]).long()
    levels = torch.from_numpy(test.levels(numbers))
    result: dict[str, Any] = {}
    for name, table in {"15 actions": None, **COINRUN_TABLES}.items():
        classes = actions if table is None else torch.tensor(table)[actions]
        interval = mean_interval(is_recognised(logits, actions, table)[:, 0].double(), levels, num_resamples=1000)
        result[name] = {
            "accuracy": round(interval.mean, 4),
            "interval": [round(interval.low, 4), round(interval.high, 4)],
            "commonest_class": round(classes.flatten().bincount().max().item() / classes.numel(), 4),
            "num_frames": interval.num_clips,
            "num_levels": interval.num_clusters,
        }
    return result


def ceiling(seed: int, num_environments: int = 16, num_steps: int = 100) -> dict[str, float]:
    """What a perfect reader of one transition could reach under each table: every action is tried in every state.

    Actions that give the very same next frame cannot be told apart, so it names the likeliest class among them. Held
    actions let a reader of three frames do better: what the agent did before tells what it probably still does.
    """
    environment = Procgen("coinrun", num_environments, 10_000, 1_000, seed)
    policy = StickyPolicy(seed, COINRUN_WEIGHTS)
    tables = {"15 actions": tuple(range(NUM_ACTIONS)), **COINRUN_TABLES}
    shares: dict[str, list[float]] = {name: [] for name in tables}
    for _ in range(num_steps):
        taken = policy.act(environment.observe()[0])
        state, outcomes = environment.save(), []
        for action in range(NUM_ACTIONS):
            environment.act(np.full(num_environments, action))
            outcomes.append(environment.observe()[0])
            environment.restore(state)
        for copy, action in enumerate(taken):
            alike = [(outcome[copy] == outcomes[action][copy]).all() for outcome in outcomes]
            for name, table in tables.items():
                weights = np.bincount(table, weights=policy.weights * alike)
                shares[name].append(weights.max() / weights.sum())
        environment.act(taken)
    return {name: round(float(np.mean(several)), 4) for name, several in shares.items()}
