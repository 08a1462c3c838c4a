"""Trains the judge that reads a Procgen game's actions off its frames; knows no world model."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from rich import print
from torch import Tensor, nn
from torch.nn import functional

from trimtab.core.values import Clip
from trimtab.data.clips import Clips
from trimtab.environments.procgen import COINRUN_WEIGHTS, NUM_ACTIONS, Procgen, StickyPolicy
from trimtab.forecast import fit_or_forecast
from trimtab.metrics.actions import ActionJudge, JudgeFile, is_recognised
from trimtab.metrics.intervals import mean_interval
from trimtab.networks.precision import fast_products
from trimtab.recipes.domains.coinrun import COINRUN_TABLES
from trimtab.recipes.reading.degraded import degrade
from trimtab.recipes.record_procgen import procgen_episodes
from trimtab.training import Budget, record_settings


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
    dry_run: bool = False,
    datasets: Path = Path("datasets"),
    output: Path = Path("runs/procgen-judge"),
) -> None:
    """Train the judge of coinrun's actions on levels 20000-29999 and test it on levels 10000-10999.

    Args:
        num_frames: frames to train on.
        num_steps: optimizer steps.
        batch_size: triples of frames a step.
        learning_rate: the highest; it warms up over the first tenth and then falls to zero.
        width: of the network.
        num_test_frames: frames to test on.
        episode_frames: after so many frames of a level the next level begins, for more levels.
        seed: of the weights, the batches and the noise; the episodes have their own.
        dry_run: record what data are missing, and then only say what the training will need in memory, time and disk.
        datasets: the folder of recorded episodes.
        output: run folder; coinrun.safetensors in it, with its card beside it, is the result.
    """
    settings = {name: value for name, value in locals().items() if name != "dry_run"}
    record_settings(output, "procgen-judge", settings, dry_run=dry_run)
    train = coinrun_triples(20_000, 10_000, num_frames, episode_frames, datasets / "coinrun-judge-train")
    test = coinrun_triples(10_000, 1_000, num_test_frames, episode_frames, datasets / "coinrun-judge-test")
    torch.manual_seed(seed)
    judge = ActionJudge(NUM_ACTIONS, width)
    run = fit_or_forecast(
        dry_run, Reading(judge, seed), train, Budget(steps=num_steps), folder=output, title="judge of coinrun",
        batch_size=batch_size, learning_rate=learning_rate, warm_up=num_steps // 10, cool_down=0.9, lengths=(1,),
        seed=seed, log_every=100,
    )  # fmt: skip
    if run is None:
        return
    judge = judge.cpu()
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
    JudgeFile(output / "coinrun.safetensors").save(judge, card)
    print(card["accuracy"])


class Reading(nn.Module):
    """The judge's task, for `fit`: name the action that leads to the last of three frames, drawn as a model may draw them.

    Args:
        judge: to train.
        seed: of what is done to the frames.
    """

    def __init__(self, judge: ActionJudge, seed: int) -> None:
        super().__init__()
        self.judge, self.seed = judge, seed

    def forward(self, clip: Clip, *, step: int, samples: Sequence[int] | Tensor) -> Float[Tensor, " batch"]:
        frames, actions = triples(clip)
        seen = degrade(self.judge.look(frames), self.seed, step, samples)
        with fast_products(frames.device):
            logits = self.judge.score(seen)
        return functional.cross_entropy(logits.float(), actions, reduction="none")


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
