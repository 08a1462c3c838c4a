"""Trains the judge that reads a robot's action vectors off three of its frames; knows no world model and no planner."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from rich import print
from torch import Tensor, nn
from torch.nn import functional

from trimtab.core.checks import counted
from trimtab.core.values import Clip
from trimtab.data.clips import Clips
from trimtab.data.episodes import Episodes
from trimtab.forecast import fit_or_forecast
from trimtab.metrics.actions import VECTORS, ActionJudge, JudgeFile
from trimtab.networks.precision import fast_products
from trimtab.recipes.domains.metaworld import at_play
from trimtab.recipes.inverse_dynamics import table
from trimtab.recipes.reading.degraded import degrade
from trimtab.recipes.reading.pairs import ACTION, Part, errors, parted
from trimtab.training import Budget, record_settings

CHUNK = 256

FIRST_SEED = 2000
"""Of the first episode of each task; inverse dynamics learn from those from 1000 on."""


def metaworld_judge(
    *,
    data: Path | None = None,
    num_episodes: int = 24,
    held_out: float = 0.1,
    num_steps: int = 4000,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    width: int = 32,
    frame_size: int = 64,
    seed: int = 0,
    dry_run: bool = False,
    datasets: Path = Path("datasets"),
    output: Path = Path("runs/metaworld-judge"),
) -> None:
    """Train the judge of MetaWorld's actions, or of others, and measure the error of each part on held-out episodes.

    A judge must not be the reader that a planner acts by, or it would find right whatever that reader finds right. So this
    network is another than that of inverse dynamics: it sees three frames, as a model may draw them, and no frozen
    features. And it learns from other episodes of the robot at play, with other random actions.

    Args:
        data: a set whose actions are vectors, of any width, with frames of any size, such as one of
            `trimtab record-metaworld`, not that which inverse dynamics learned from, or of `trimtab import-rlds`; by
            default datasets/metaworld-judge, recorded as the robot's play is, from other seeds.
        num_episodes: to record of each task.
        held_out: the share of the episodes that it is measured on.
        num_steps: optimizer steps.
        batch_size: triples of frames a step.
        learning_rate: the highest; it warms up over the first tenth and then falls to zero.
        width: of the network.
        frame_size: side of the square that frames are scaled to before it looks, a multiple of 8.
        seed: of the choice of episodes, the weights, the batches and what is done to the frames.
        dry_run: record what data are missing, and then only say what the training will need in memory, time and disk.
        datasets: the folder of recorded episodes.
        output: run folder; judge.safetensors in it, with its card beside it, is the result.
    """
    settings = {name: value for name, value in locals().items() if name != "dry_run"}
    if not 0 < held_out < 1 or not 0 < learning_rate < math.inf:
        raise ValueError(f"held_out is between 0 and 1 and learning_rate above 0, got {held_out} and {learning_rate}")
    counted(num_episodes=num_episodes, num_steps=num_steps, batch_size=batch_size)
    given = Episodes.open(data) if data else None
    if given is not None and given.num_actions is not None:
        raise ValueError(
            f"{given.folder} holds discrete actions, and this judge reads vectors; record a robot, or train the judge of "
            "coinrun by `trimtab procgen-judge`"
        )
    record_settings(output, "metaworld-judge", settings, dry_run=dry_run)
    episodes = given or at_play(datasets / "metaworld-judge", seed=FIRST_SEED, num_episodes=num_episodes)
    pairs, held = parted(Clips(episodes, num_context=1, num_frames=1), held_out, seed)
    train, test = (triples_of(episodes, part.episodes) for part in (pairs, held))
    torch.manual_seed(seed)
    judge = ActionJudge(
        episodes.actions.shape[1], width, frame_size=frame_size, crop=frame_size, frames=episodes.frames.shape[1:3]
    )
    run = fit_or_forecast(
        dry_run, Reading(judge, seed), train, Budget(steps=num_steps), folder=output, title="judge of actions",
        batch_size=batch_size, learning_rate=learning_rate, warm_up=num_steps // 10, cool_down=0.9, lengths=(1,),
        seed=seed, log_every=100,
    )  # fmt: skip
    if run is None:
        return
    judge = judge.cpu().half().float().eval()  # with the float16 weights that are stored
    read, actions = answers(judge, test)
    names = parts_of(episodes)
    found = errors(read, actions, pairs.mean_action(), torch.from_numpy(test.episodes), names)
    card = {
        "actions": VECTORS,
        "parts": names,
        "num_train_episodes": len(np.unique(train.episodes)),
        "num_test_episodes": len(np.unique(test.episodes)),
        "num_steps": num_steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "seed": seed,
        "held_out_error": found,
        "data": {name: value for name, value in episodes.provenance.items() if name != "checksums"},
        "versions": {name: version(name) for name in ("trimtab", "torch", "numpy")},
    }
    JudgeFile(output / "judge.safetensors").save(judge, card)
    print(table(found))


def parts_of(episodes: Episodes) -> tuple[str, ...]:
    """What the numbers of an action move, where that is known."""
    if episodes.provenance.get("environment") == "metaworld":
        return ACTION
    return tuple(f"number {number}" for number in range(1, 1 + episodes.actions.shape[1]))


class Reading(nn.Module):
    """The judge's task, for `fit`: the action that leads to the last of three frames, drawn as a model may draw them.

    Args:
        judge: to train.
        seed: of what is done to the frames.
    """

    def __init__(self, judge: ActionJudge, seed: int) -> None:
        super().__init__()
        self.judge, self.seed = judge, seed

    def forward(self, clip: Clip, *, step: int, samples: Sequence[int] | Tensor) -> Float[Tensor, " batch"]:
        known = clip.given.facts()
        frames = torch.cat([known["context"], clip.video], dim=1)
        seen = degrade(self.judge.look(frames), self.seed, step, samples)
        with fast_products(frames.device):
            read = self.judge.score(seen)
        return functional.mse_loss(read.float(), known["actions"][:, 0], reduction="none").mean(1)


def triples_of(episodes: Episodes, chosen: np.ndarray) -> Part:
    """Every triple of the episodes with these numbers: two frames known, one to come.

    Raises ValueError if none has three frames.
    """
    clips = Clips(episodes, num_context=2, num_frames=1)
    of = np.repeat(np.arange(len(episodes)), np.maximum(episodes.lengths - 2, 0))
    numbers = np.flatnonzero(np.isin(of, chosen))
    if not len(numbers):
        raise ValueError(f"none of the {len(np.unique(chosen))} episodes has three frames; record longer ones, or more")
    return Part(clips, numbers, of[numbers])


def answers(judge: ActionJudge, triples: Part) -> tuple[Float[Tensor, "triple dim"], Float[Tensor, "triple dim"]]:
    """What the judge reads off recorded frames, and what was done."""
    parts = np.array_split(triples.numbers, -(-len(triples.numbers) // CHUNK))
    read, actions = [], []
    for clip in map(triples.batch, parts):
        known = clip.given.facts()
        read.append(judge(known["context"], clip.video)[:, 0])
        actions.append(known["actions"][:, 0])
    return torch.cat(read), torch.cat(actions)
