"""Windows of episodes as batches of clips; knows no file format, no simulator and no model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from trimtab.core.values import Clip, Conditioning
from trimtab.data.cache import expect
from trimtab.data.episodes import Episodes

GOLDEN = (5**0.5 - 1) / 2
"""Whose multiples fall evenly between whole numbers, however many are taken."""


class Clips:
    """Every window of `num_context + num_frames` consecutive frames that lies within one episode.

    Windows are numbered 0 .. len - 1, by set, then episode, then first frame.

    Args:
        episodes: one set, or several whose frames have one shape and whose actions have one kind.
        num_context: observed frames at the start of a window.
        num_frames: frames to predict.
        encode: what the episodes show, in words, to token states (text, token, feature), asked once for every distinct text;
            without it clips have no text.

    Attributes:
        num_windows: (episode,) of each episode of all sets, one after another.

    Raises:
        ValueError: no episode is long enough, or the sets do not fit together.
    """

    def __init__(
        self,
        episodes: Episodes | Sequence[Episodes],
        num_context: int = 2,
        num_frames: int = 8,
        encode: Callable[[Sequence[str]], Tensor] | None = None,
    ):
        self.sets = (episodes,) if isinstance(episodes, Episodes) else tuple(episodes)
        if not self.sets or num_context < 1 or num_frames < 1:
            raise ValueError(
                f"clips need at least one set, num_context >= 1 and num_frames >= 1, got {len(self.sets)} sets, "
                f"{num_context} and {num_frames}"
            )
        kinds = {(some.frames.shape[1:], some.actions.shape[1:], some.action_names) for some in self.sets}
        if len(kinds) > 1:
            raise ValueError(f"the sets differ in frame shape or actions: {sorted(map(str, kinds))}")
        self.num_context, self.num_frames = num_context, num_frames
        self.action_names, self.num_actions = self.sets[0].action_names, self.sets[0].num_actions
        self.frame_rate = self.sets[0].frame_rate
        self._set = np.concatenate([np.full(len(some), number) for number, some in enumerate(self.sets)])
        self._start = np.concatenate([some.starts for some in self.sets])
        self._level = np.concatenate([some.levels for some in self.sets])
        lengths = np.concatenate([some.lengths for some in self.sets])
        self.num_windows = np.maximum(lengths - self.window + 1, 0)
        self._before = np.concatenate([[0], np.cumsum(self.num_windows)])  # windows before each episode
        self._texts: Tensor | None = None
        if encode is not None:
            texts, self._text = np.unique([task for some in self.sets for task in some.tasks], return_inverse=True)
            self._texts = encode(texts.tolist())
        if len(self) == 0:
            raise ValueError(
                f"no episode has the {self.window} frames of a window; their lengths are "
                f"{lengths.min()} to {lengths.max()} frames in {len(lengths)} episodes"
            )

    @property
    def window(self) -> int:
        """Frames in a window."""
        return self.num_context + self.num_frames

    def __len__(self) -> int:
        return int(self._before[-1])

    def batch(self, indices: Sequence[int] | np.ndarray | Tensor, num_frames: int | None = None) -> Clip:
        """The windows with these numbers.

        Args:
            indices: (batch,) window numbers.
            num_frames: predict only the first so many frames of each window; all by default.

        Returns:
            Video (batch, num_frames, 3, height, width) float32 in [-1, 1]; its context, the frames before, alike; its
            actions (batch, num_frames, ...), of which the k-th leads to the k-th predicted frame; and its text, if texts are
            encoded, (batch, token, feature).

        Raises:
            ValueError: an index or num_frames is out of range.
        """
        num_frames = self.num_frames if num_frames is None else num_frames
        if not 1 <= num_frames <= self.num_frames:
            raise ValueError(f"num_frames is 1..{self.num_frames} for these windows, got {num_frames}")
        episodes, first = self.places(indices)
        first = first + self._start[episodes]
        length = self.num_context + num_frames
        height, width, channels = self.sets[0].frames.shape[1:]
        frames = np.empty((len(first), length, height, width, channels), dtype=np.uint8)
        actions = np.empty((len(first), num_frames, *self.sets[0].actions.shape[1:]), dtype=self.sets[0].actions.dtype)
        for number in np.unique(self._set[episodes]).tolist():
            expect(self.sets[number].frames, first[self._set[episodes] == number].tolist(), length)
        for row, (number, start) in enumerate(zip(self._set[episodes], first, strict=True)):
            some = self.sets[number]
            frames[row] = some.frames[start : start + length]
            last_context = start + self.num_context - 1
            actions[row] = some.actions[last_context : last_context + num_frames]
        given = Conditioning(
            context=to_video(frames[:, : self.num_context]),
            actions=torch.from_numpy(actions),
            text=None if self._texts is None else self._texts[self._text[episodes]],
        )
        return Clip(to_video(frames[:, self.num_context :]), given)

    def draw(self, seed: int, step: int, num: int) -> np.ndarray:
        """Random window numbers (num,), uniform, a function of (seed, step) alone, so that a run resumes exactly."""
        return np.random.default_rng([seed, step]).integers(len(self), size=num)

    def places(self, indices: Sequence[int] | np.ndarray | Tensor) -> tuple[np.ndarray, np.ndarray]:
        """The episode of each window (batch,), numbered over all sets, and its first frame in that (batch,).

        Raises ValueError for what is no row of window numbers.
        """
        numbers = np.asarray(indices)
        if numbers.ndim != 1 or not np.issubdtype(numbers.dtype, np.integer):
            raise ValueError(f"window numbers are (batch,) integers, not {numbers.shape} {numbers.dtype}")
        if len(numbers) and (numbers.min() < 0 or numbers.max() >= len(self)):
            raise ValueError(f"window numbers lie in 0..{len(self) - 1}, got {numbers.min()}..{numbers.max()}")
        episodes = np.searchsorted(self._before, numbers, side="right") - 1
        return episodes, numbers - self._before[episodes]

    def numbers(self, episodes: np.ndarray, first: np.ndarray | int = 0) -> np.ndarray:
        """The numbers of windows (batch,), of episodes numbered over all sets (batch,) and their first frames in these.

        Raises ValueError where an episode has no such window.
        """
        if ((first < 0) | (first >= self.num_windows[episodes])).any():
            raise ValueError(
                f"windows of {self.window} frames begin at 0, 1 and so on, in these episodes as often as "
                f"{self.num_windows[episodes].tolist()}; got {np.broadcast_to(first, episodes.shape).tolist()}"
            )
        return self._before[episodes] + first

    def levels(self, indices: Sequence[int] | np.ndarray | Tensor) -> np.ndarray:
        """The level of each window (batch,) int64, the unit of independence; two sets share no number."""
        return self._level_ids()[self.places(indices)[0]]

    def sets_of(self, indices: Sequence[int] | np.ndarray | Tensor) -> np.ndarray:
        """The set that each window is in (batch,), by its number among `sets`."""
        return self._set[self.places(indices)[0]]

    def evenly(self, num: int, per_level: int | None = 1) -> np.ndarray:
        """Window numbers (num,) for evaluation: spread over the levels, the same every time, not overlapping.

        Each level gives at most `per_level` windows, or, if it is None, as few as are needed, taken at even distances from
        its episodes.

        Raises:
            ValueError: there are not that many.
        """
        if num < 1 or (per_level is not None and per_level < 1):
            raise ValueError(f"evenly needs num >= 1 and per_level >= 1, got {num} and {per_level}")
        counts = self._apart()
        episodes = np.repeat(np.arange(len(counts)), counts)
        tiles = np.arange(len(episodes)) - np.repeat(np.cumsum(counts) - counts, counts)
        windows = self._before[episodes] + tiles * self.window
        levels = self._level_ids()[episodes]
        order = np.argsort(levels, kind="stable")
        available = np.split(windows[order], np.flatnonzero(np.diff(levels[order])) + 1)
        if per_level is None:
            most = max(map(len, available))
            enough = (some for some in range(1, most) if sum(min(len(level), some) for level in available) >= num)
            per_level = next(enough, most)
        shares = [some[spread(len(some), min(per_level, len(some)))] for some in available]
        total = sum(map(len, shares))
        if total < num:
            raise ValueError(
                f"asked for {num} windows, at most {per_level} a level, but {len(shares)} levels give only {total}; "
                "record more levels, or raise per_level"
            )
        # First windows of all levels, then second ones: the levels are used as equally as the number allows.
        rounds = [np.array([some[turn] for some in shares if len(some) > turn], np.int64) for turn in range(per_level)]
        chosen: list[np.ndarray] = []
        for some in rounds:
            left = num - sum(map(len, chosen))
            chosen.append(some[spread(len(some), min(left, len(some)))])
        return np.sort(np.concatenate(chosen))

    def over_episodes(self, num: int) -> np.ndarray:
        """Window numbers (num,) for evaluation: spread over all episodes, the same every time, not overlapping.

        For levels that tasks share, of which `evenly` would take what lies at one place: one task, at one moment. Here
        levels go by turns, and in them tasks, and moments from the beginning of an episode to its end.

        Raises:
            ValueError: there are not that many.
        """
        counts = self._apart()
        if not 1 <= num <= counts.sum():
            raise ValueError(
                f"asked for {num} clips, and of these {len(counts)} episodes 1 to {counts.sum()} can be cut that do not "
                "overlap; ask for as many, or bring more or longer episodes"
            )
        levels = [np.flatnonzero(self._level_ids() == level) for level in np.unique(self._level_ids())]
        order = np.concatenate([np.roll(episodes, place) for place, episodes in enumerate(levels)])
        chosen, first = list[np.ndarray](), np.zeros(len(counts), np.int64)
        while left := num - sum(map(len, chosen)):
            longer = order[counts[order] > len(chosen)]
            some = longer[spread(len(longer), min(left, len(longer)))]
            if not chosen:  # moments that keep no step with the tasks
                first[some] = np.arange(len(some)) * GOLDEN % 1 * counts[some]
            chosen.append(self.numbers(some, (first[some] + len(chosen)) % counts[some] * self.window))
        return np.sort(np.concatenate(chosen))

    @property
    def num_apart(self) -> int:
        """How many windows there are that do not overlap."""
        return int(self._apart().sum())

    def _apart(self) -> np.ndarray:
        """How many windows of each episode do not overlap."""
        return -(-self.num_windows // self.window)

    def _level_ids(self) -> np.ndarray:
        return self._level + (self._set << 32)


def spread(available: int, num: int) -> np.ndarray:
    """`num` positions in 0 .. available - 1 at even distances, away from the ends."""
    return ((np.arange(num) + 0.5) * available / num).astype(np.int64) if num else np.zeros(0, np.int64)


def to_video(frames: np.ndarray) -> Tensor:
    """Frames (..., height, width, 3) uint8 as contiguous (..., 3, height, width) float32 in [-1, 1]: x / 127.5 - 1."""
    moved = torch.from_numpy(frames).movedim(-1, -3)
    return torch.empty(moved.shape).copy_(moved).div_(127.5).sub_(1)
