"""Pairs of consecutive frames of recorded robot episodes, divided by episode, and the error of who reads them; knows no
model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from trimtab.core.values import Clip
from trimtab.data.clips import Clips
from trimtab.data.episodes import Episodes
from trimtab.metrics.intervals import Interval, mean_interval

ACTION = ("x", "y", "z", "gripper")
"""What the numbers of a MetaWorld action move."""

REACH = 0.01
"""Metres that the hand moves in one of the simulator's steps under an action of 1, once it has caught up."""


@dataclass(frozen=True)
class Part:
    """Some of the windows of recorded sets, such as those of some episodes.

    Attributes:
        clips: all their windows.
        numbers: (window,) of those that belong to this part.
        episodes: (window,) the episode of each.
    """

    clips: Clips
    numbers: np.ndarray
    episodes: np.ndarray

    def draw(self, seed: int, step: int, num: int) -> np.ndarray:
        """Random window numbers (num,) of this part, a function of (seed, step) alone."""
        return self.numbers[np.random.default_rng([seed, step]).integers(len(self.numbers), size=num)]

    def batch(self, indices: np.ndarray, num_frames: int | None = None) -> Clip:
        return self.clips.batch(indices, num_frames)


def commanded(sets: Sequence[Episodes]) -> Float[Tensor, "row dim"]:
    """The action of every row of the sets, one after another."""
    return torch.from_numpy(np.concatenate([some.actions for some in sets]))


def moved(sets: Sequence[Episodes]) -> Float[Tensor, "row 4"]:
    """For every row of the sets, one after another, the action that would keep up the motion to the next frame.

    The arm lags behind its command, so a command is half seen in the frame that it leads to, half in the next; how far
    the hand has moved is all seen. The gripper's number is as commanded: what it holds stops its motion.

    Numbers lie in -1 .. 1; a motion is in units of what a full action moves in a frame, `REACH` times the action repeat.

    Raises:
        ValueError: a set does not tell where the hand was.
    """
    found = []
    for some in sets:
        repeat = some.provenance.get("action_repeat")
        if some.states is None or some.states.shape[1:] != (4,) or repeat is None:
            raise ValueError(
                f"{some.folder} does not tell where the hand was; record it with `trimtab record-metaworld`, or learn from "
                "commands instead of motion"
            )
        actions, last = np.array(some.actions), some.starts + some.lengths - 1
        place = np.array(some.states[:, :3])
        actions[:-1, :3] = np.clip(np.diff(place, axis=0) / (REACH * repeat), -1, 1)
        actions[last, :3] = 0  # no frame follows
        found.append(actions)
    return torch.from_numpy(np.concatenate(found))


@dataclass(frozen=True)
class Pairs(Part):
    """Some of the pairs of consecutive frames of recorded sets: windows of one frame known and one to come."""

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """Where in the sets, one after another, each pair begins: an episode has one pair fewer than frames."""
        return indices + self.episodes[np.searchsorted(self.numbers, indices)]

    def mean_action(self, done: Float[Tensor, "row dim"] | None = None) -> Float[Tensor, " dim"]:
        """The best answer of one who sees nothing, to what was done in each row; by default what was commanded."""
        done = commanded(self.clips.sets) if done is None else done
        return done[torch.from_numpy(self.rows(self.numbers))].mean(0)


def divided(episodes: Episodes | Sequence[Episodes], held_out: float, seed: int) -> tuple[Pairs, Pairs]:
    """As `parted`, of a robot in MetaWorld.

    Raises:
        ValueError: frames are not square, actions are not MetaWorld's, or there are too few episodes.
    """
    clips = Clips(episodes, num_context=1, num_frames=1)
    for some in clips.sets:
        height, width, _ = some.frames.shape[1:]
        if some.actions.shape[1:] != (len(ACTION),) or height != width:
            raise ValueError(
                f"{some.folder} holds frames of {height} x {width} and actions {some.actions.shape[1:]}; readers of "
                f"actions need square frames and vectors of {len(ACTION)} numbers, as of `trimtab record-metaworld`"
            )
    return parted(clips, held_out, seed)


def parted(clips: Clips, held_out: float, seed: int) -> tuple[Pairs, Pairs]:
    """The pairs of frames to train on, and those of whole episodes to measure on.

    Args:
        clips: of one frame known and one to come.
        held_out: the share of the episodes to measure on.
        seed: of the choice of these.

    Raises:
        ValueError: there are too few episodes.
    """
    lengths = np.concatenate([some.lengths for some in clips.sets])
    num = round(held_out * len(lengths))
    if num < 2 or num >= len(lengths):
        raise ValueError(
            f"{held_out} of {len(lengths)} episodes are {num} to measure on; two are needed at least, and others to train "
            "on; record more, or change held_out"
        )
    chosen = np.random.default_rng(seed).permutation(len(lengths))[:num]
    of = np.repeat(np.arange(len(lengths)), lengths - 1)
    is_test = np.isin(of, chosen)
    train, test = (Pairs(clips, np.flatnonzero(part), of[part]) for part in (~is_test, is_test))
    return train, test


def pair(clip: Clip) -> tuple[Tensor, Tensor]:
    """A frame and the next, (batch, 3, height, width) each."""
    return clip.given.facts()["context"][:, 0], clip.video[:, 0]


def errors(
    read: Float[Tensor, "pair dim"],
    actions: Float[Tensor, "pair dim"],
    mean_action: Float[Tensor, " dim"],
    episodes: Int[Tensor, " pair"],
    names: Sequence[str] = ACTION,
) -> dict[str, dict[str, Any]]:
    """How far what was read off frames, real or generated, is from what was done; intervals are over episodes.

    Returns:
        For each part of the action that ever changes, by name, and for `all` parts their mean: `squared_error`;
        `of_the_mean`, the squared error of always answering the mean action of training; and `r_squared`, the share of the
        latter that reading takes away.
    """
    wrong, blind = (read - actions).square().double(), (mean_action - actions).square().double()
    columns = {name: (wrong[:, i], blind[:, i]) for i, name in enumerate(names) if len(actions[:, i].unique()) > 1}
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
