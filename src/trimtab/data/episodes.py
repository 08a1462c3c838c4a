"""Episodes on disk in the LeRobotDataset v3 layout, with a memory-mapped cache; knows no simulator and no model.

A set is a folder: ``meta/`` (info, stats, tasks, episodes, provenance), ``data/`` (parquet, frames lossless as PNG)
and ``cache/`` (the same frames as raw uint8 for random access; may be deleted at any time). Row t of an episode holds
frame t and the action taken at frame t, which leads to frame t + 1; the last row's action leads out of the episode.
Layout: https://huggingface.co/docs/lerobot/lerobot-dataset-v3. `episode_writer` writes it, this file reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np

from trimtab.data import cache
from trimtab.data.episode_writer import EpisodeWriter
from trimtab.data.layout import (
    INFO_PATH,
    PROVENANCE_PATH,
    STATS_PATH,
    DamagedEpisodes,
    find,
    read_json,
    read_rows,
    verify,
)

__all__ = ["DamagedEpisodes", "EpisodeWriter", "Episodes"]


class Episodes:
    """A finished set, read through memory-mapped frames. Open one with `Episodes.open`.

    Attributes:
        folder: where it lies.
        info, stats, provenance: the contents of those files in ``meta/``.
        frames: (num_frames, height, width, 3) uint8, all episodes one after another.
        actions: (num_frames,) int64 or (num_frames, dim) float32.
        states: (num_frames, dim) float32, what was measured as each frame was seen; None if the set has none.
        successes: (num_frames,) bool, whether each frame shows the task done; None if the set does not say.
        starts, lengths, levels: (num_episodes,) int64.
    """

    def __init__(self, folder: Path, frames: np.ndarray, index: Mapping[str, np.ndarray]) -> None:
        self.folder = folder
        self.info = read_json(folder / INFO_PATH)
        self.stats = read_json(folder / STATS_PATH)
        self.provenance = read_json(folder / PROVENANCE_PATH)
        self.frames = frames
        self.actions, self.lengths, self.levels = index["actions"], index["lengths"], index["levels"]
        self.states, self.successes = index.get("states"), index.get("successes")
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)[:-1]]).astype(np.int64)

    @classmethod
    def open(cls, folder: Path | str, *, in_memory: bool = False) -> Episodes:
        """Open a set; the cache is built if it is missing or stale, and every file is verified when that happens.

        Args:
            folder: the set.
            in_memory: decode the frames into memory and write nothing (small sets, folders that are read-only).

        Raises:
            FileNotFoundError: there is no set. DamagedEpisodes: it is unfinished, truncated or altered.
            PermissionError: the cache must be built and the folder is read-only.
        """
        folder = Path(folder)
        find(folder)
        return cls(folder, *(cache.load(folder) if in_memory else cache.open_cache(folder)))

    def __len__(self) -> int:
        return len(self.lengths)

    def __repr__(self) -> str:
        return f"Episodes({str(self.folder)!r}, {len(self)} episodes, {self.num_frames} frames)"

    @property
    def num_frames(self) -> int:
        return len(self.frames)

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return float(self.info["fps"])

    @property
    def action_names(self) -> tuple[str, ...] | None:
        """The names of discrete actions, None if actions are vectors."""
        names = self.info["features"]["action"].get("info", {}).get("action_names")
        return None if names is None else tuple(names)

    @property
    def num_actions(self) -> int | None:
        """How many discrete actions there are, None if actions are vectors."""
        return None if self.action_names is None else len(self.action_names)

    @property
    def ended(self) -> np.ndarray:
        """Whether the environment ended each episode, (num_episodes,) bool; where false the recording cut it."""
        done = np.concatenate([rows["next.done"].to_numpy() for rows in read_rows(self.folder, ["next.done"])])
        return done[self.starts + self.lengths - 1]

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """What each episode shows, in words, (num_episodes,)."""
        return tuple(episode["tasks"][0] for episode in cache.read_episodes(self.folder))

    def episode(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """One episode's frames, (time, height, width, 3) uint8, and actions, (time, ...)."""
        rows = slice(self.starts[number], self.starts[number] + self.lengths[number])
        return self.frames[rows], self.actions[rows]

    def verify(self) -> None:
        """Read every file and compare it with its checksum. Raises DamagedEpisodes."""
        verify(self.folder)
