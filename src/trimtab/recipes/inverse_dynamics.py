"""Trains the reader of a robot's actions from a frame and the next, and measures it on held-out episodes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from rich import print
from torch import Tensor, nn
from torch.nn import functional

from trimtab.control.inverse_dynamics import Frames, InverseDynamics
from trimtab.core.files import write_whole
from trimtab.core.values import Clip
from trimtab.data.episodes import Episodes
from trimtab.forecast import fit_or_forecast
from trimtab.metrics.intervals import Interval, mean_interval
from trimtab.networks.precision import fast_products
from trimtab.recipes._metaworld import play
from trimtab.recipes._pairs import ACTION, Pairs, commanded, divided, moved, pair
from trimtab.training import Budget, record_settings

CHUNK = 128

WITHHELD = 0.5
"""The share of the pairs from which what the encoder sees is withheld, so that the stem learns to do without: the encoder's
maps soon know the scenes of training by heart."""


def inverse_dynamics(
    *,
    data: tuple[Path, ...] = (),
    learn: Literal["motion", "commands"] = "motion",
    num_episodes: int = 24,
    held_out: float = 0.1,
    num_steps: int = 4000,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    width: int = 32,
    encoder: str | None = None,
    shift: int = 4,
    seed: int = 0,
    dry_run: bool = False,
    output: Path = Path("runs/inverse-dynamics"),
) -> None:
    """Train inverse dynamics on MetaWorld episodes, and measure the error of each part of the action on others.

    Args:
        data: sets of `trimtab record-metaworld`; by default datasets/metaworld-play and datasets/metaworld-roam, the robot
            at play. At the tasks that no plan is measured on, half of the choices are random and held for a while, since
            the expert's own can be guessed from where the arm is; in the scenes of the others all are: of these it may see
            what they look like, and not what is to be done.
        learn: to answer the action that would keep up the hand's motion, which is all seen in the two frames; or the
            command that was given, of which, as the arm lags behind, they show a part.
        num_episodes: to record of each task.
        held_out: the share of the episodes that it is measured on.
        num_steps: optimizer steps.
        batch_size: pairs of frames a step.
        learning_rate: the highest; it warms up over the first tenth and then falls to zero.
        width: of the trained stem.
        encoder: what frozen features it reads beside the stem's, such as efficientnet-lite0; none by default, as scenes of
            which it saw little are read better by the stem alone.
        shift: by up to so many pixels both frames of a pair are displaced alike in training, for the stem.
        seed: of the choice of episodes, the weights and the batches.
        dry_run: only say what the training will need in memory, time and disk.
        output: run folder; inverse_dynamics.safetensors in it is the result, and results.json says how good it is.
    """
    settings = {name: value for name, value in locals().items() if name != "dry_run"}
    record_settings(output, "inverse-dynamics", settings)
    episodes = [Episodes.open(path) for path in data] or play(Path("datasets"), num_episodes)
    train, test = divided(episodes, held_out, seed)
    done = (moved if learn == "motion" else commanded)(episodes)
    torch.manual_seed(seed)
    model = InverseDynamics(len(ACTION), episodes[0].frames.shape[1], width, encoder)
    run = fit_or_forecast(
        dry_run, Reading(model, train, done, shift, WITHHELD, seed), train, Budget(steps=num_steps), folder=output,
        title="inverse dynamics",
        batch_size=batch_size, learning_rate=learning_rate, warm_up=num_steps // 10, cool_down=0.9, lengths=(1,),
        seed=seed, log_every=100,
    )  # fmt: skip
    if run is None:
        return
    model = model.cpu()
    model.save(output / "inverse_dynamics.safetensors")
    read, actions = answers(model, test, done)
    found = errors(read, actions, train.mean_action(done), torch.from_numpy(test.episodes))
    results = {
        "num_train_episodes": len(np.unique(train.episodes)),
        "num_test_episodes": len(np.unique(test.episodes)),
        "data": [{name: value for name, value in some.provenance.items() if name != "checksums"} for some in episodes],
        "held_out_error": found,
    }
    write_whole(output / "results.json", json.dumps(results, indent=2) + "\n")
    print(table(found))


class Reading(nn.Module):
    """The task for `fit`. What the frozen encoder sees in a frame is remembered, in half precision, once it was asked.

    Args:
        model: to train.
        pairs: that it is trained on.
        done: the action to answer, of every row of the sets.
        shift: by up to so many pixels the frames of a pair are displaced alike, so that none is known by heart.
        withheld: the share of the pairs from which what the encoder sees is withheld.
        seed: of both.
    """

    def __init__(
        self, model: InverseDynamics, pairs: Pairs, done: Tensor, shift: int = 0, withheld: float = 0.0, seed: int = 0
    ) -> None:
        super().__init__()
        self.model, self.pairs, self.shift, self.withheld, self.seed = model, pairs, shift, withheld, seed
        self.done = done
        size, num = model.settings["frame_size"], sum(some.num_frames for some in pairs.clips.sets)
        shape = model.see(torch.zeros(1, 3, size, size)).shape[1:]
        self.memory = torch.from_numpy(np.zeros((num, *shape), np.float16))  # takes no room until it is written to
        self.is_known = np.zeros(num, dtype=bool)

    def forward(self, clip: Clip, *, step: int, samples: Sequence[int] | Tensor) -> Float[Tensor, " batch"]:
        before, after = pair(clip)
        rows = self.pairs.rows(np.asarray(samples))
        actions = self.done[torch.from_numpy(rows)].to(before)
        random = np.random.default_rng([self.seed, step, 2])
        told = torch.from_numpy(random.random((len(rows), 1, 1, 1)) >= self.withheld).to(before)
        seen = self.see(before, rows) * told, self.see(after, rows + 1) * told
        before, after = displaced_alike(before, after, self.shift, random)
        with fast_products(before.device):
            return self.model.loss(before, after, actions, seen)

    def see(self, frames: Frames, rows: np.ndarray) -> Tensor:
        """The features of frames that lie in these rows of the sets."""
        if len(new := np.flatnonzero(~self.is_known[rows])):
            self.memory[rows[new]] = self.model.see(frames[new]).to(self.memory)
            self.is_known[rows] = True
        return self.memory[rows].to(frames)


def displaced_alike(before: Frames, after: Frames, most: int, random: np.random.Generator) -> tuple[Frames, Frames]:
    """Both frames of each pair, displaced by the same random whole numbers of pixels; what comes in repeats the border."""
    if not most:
        return before, after
    height, width = before.shape[-2:]
    wide = functional.pad(torch.cat([before, after], dim=1), (most,) * 4, mode="replicate")
    corners = random.integers(2 * most + 1, size=(len(wide), 2)).tolist()
    cut = [pair[:, top : top + height, left : left + width] for pair, (top, left) in zip(wide, corners, strict=True)]
    first, second = torch.stack(cut).chunk(2, dim=1)
    return first, second


def answers(model: InverseDynamics, pairs: Pairs, done: Tensor) -> tuple[Tensor, Tensor]:
    """What the model reads off recorded frames, and what was done: (pair, dim) each."""
    parts = np.array_split(pairs.numbers, -(-len(pairs.numbers) // CHUNK))
    read = [model.act(*pair(pairs.batch(part))) for part in parts]
    return torch.cat(read), done[torch.from_numpy(pairs.rows(pairs.numbers))]


def errors(
    read: Float[Tensor, "pair dim"],
    actions: Float[Tensor, "pair dim"],
    mean_action: Float[Tensor, " dim"],
    episodes: Int[Tensor, " pair"],
) -> dict[str, dict[str, Any]]:
    """How far what was read off frames, real or generated, is from what was done; intervals are over episodes.

    Returns:
        For each part of the action, and for `all` their mean: `squared_error`; `of_the_mean`, the squared error of always
        answering the mean action of training; and `r_squared`, the share of the latter that reading takes away.
    """
    wrong, blind = (read - actions).square().double(), (mean_action - actions).square().double()
    columns = {name: (wrong[:, i], blind[:, i]) for i, name in enumerate(ACTION)}
    result = {}
    for name, (error, of_the_mean) in {**columns, "all": (wrong.mean(1), blind.mean(1))}.items():
        left = mean_interval(error, episodes, over=of_the_mean)
        explained = Interval(1 - left.mean, 1 - left.high, 1 - left.low, left.num_clips, left.num_clusters)
        result[name] = {
            "squared_error": asdict(mean_interval(error, episodes)),
            "of_the_mean": asdict(mean_interval(of_the_mean, episodes)),
            "r_squared": asdict(explained),
        }
    return result


def table(found: dict[str, dict[str, Any]]) -> str:
    """The errors as text, a line for each part of the action, beside that of always answering the mean."""
    lines = [f"{'held-out error':16}{'read off frames':28}{'the mean':10}R^2"]
    for name, figures in found.items():
        error, explained = (str(Interval(**figures[key])) for key in ("squared_error", "r_squared"))
        lines.append(f"{name:16}{error:28}{figures['of_the_mean']['mean']:<10.4g}{explained}")
    return "\n".join(lines)
