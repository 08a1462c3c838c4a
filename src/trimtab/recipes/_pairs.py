"""Pairs of consecutive frames of recorded robot episodes, divided by episode; knows no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.core.values import Clip
from trimtab.data.clips import Clips
from trimtab.data.episodes import Episodes

ACTION = ("x", "y", "z", "gripper")
"""What the numbers of a MetaWorld action move."""


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


@dataclass(frozen=True)
class Pairs(Part):
    """Some of the pairs of consecutive frames of recorded sets: windows of one frame known and one to come."""

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """Where in the sets, one after another, each pair begins: an episode has one pair fewer than frames."""
        return indices + self.episodes[np.searchsorted(self.numbers, indices)]

    def mean_action(self) -> Float[Tensor, " dim"]:
        """The best answer of one who sees nothing."""
        actions = np.concatenate([some.actions for some in self.clips.sets])
        return torch.from_numpy(actions[self.rows(self.numbers)].mean(0))


def divided(episodes: Episodes | Sequence[Episodes], held_out: float, seed: int) -> tuple[Pairs, Pairs]:
    """The pairs of frames to train on, and those of whole episodes to measure on.

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


def pair(clip: Clip) -> tuple[Tensor, Tensor, Tensor]:
    """A frame and the next, (batch, 3, height, width) each, and the action (batch, dim) between them."""
    known = clip.given.facts()
    return known["context"][:, 0], clip.video[:, 0], known["actions"][:, 0]
