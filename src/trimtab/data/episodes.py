"""Episodes on disk in the LeRobotDataset v3 layout, with a memory-mapped cache; knows no simulator and no model.

A set is a folder: ``meta/`` (info, stats, tasks, episodes, provenance), ``data/`` (parquet, frames lossless as PNG)
and ``cache/`` (the same frames as raw uint8 for random access; may be deleted at any time). Row t of an episode holds
frame t and the action taken at frame t, which leads to frame t + 1; the last row's action leads out of the episode.
Layout: https://huggingface.co/docs/lerobot/lerobot-dataset-v3.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from trimtab.data import cache
from trimtab.data.layout import (
    DATA_PATH,
    EPISODES_PATH,
    IMAGE,
    IMAGE_TYPE,
    INFO_PATH,
    PROVENANCE_PATH,
    STATS_PATH,
    TASKS_PATH,
    DamagedEpisodes,
    checksum,
    encode_png,
    find,
    read_json,
    read_rows,
    tasks_table,
    unfinished,
    verify,
    write_json,
    write_parquet,
)

__all__ = ["DamagedEpisodes", "EpisodeWriter", "Episodes"]

FILES_PER_CHUNK = 1000
FILE_BYTES = 100_000_000
ROWS_PER_GROUP = 1000


class EpisodeWriter:
    """Writes a set of episodes; the folder appears under its name only when `finish` has written everything.

    Until then the files lie in ``<folder>.unfinished``, which a later writer for the same folder replaces. As a context
    manager it finishes when the block ends well, and leaves the unfinished folder behind when it does not.

    Args:
        folder: where the set will be; must not exist yet.
        frame_rate: frames a second.
        action_names: the names of discrete actions (then actions are integers below their number); None for vectors.
        action_dim: the size of float action vectors; None for discrete actions.
        provenance: who recorded this and how; any JSON values. The writer adds the date, versions and checksums.

    Raises:
        ValueError: both or neither of action_names and action_dim are given.
        FileExistsError: the folder exists. OSError: it cannot be written.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        frame_rate: float,
        provenance: Mapping[str, Any],
        action_names: Sequence[str] | None = None,
        action_dim: int | None = None,
    ) -> None:
        if (action_names is None) == (action_dim is None):
            raise ValueError("give action_names for discrete actions or action_dim for vectors, one of the two")
        self.folder = Path(folder)
        if self.folder.exists():
            raise FileExistsError(f"{self.folder} exists; delete it to record it again, or choose another folder")
        self.provenance = dict(provenance)
        self.frame_rate, self.action_dim = frame_rate, action_dim
        self.action_names = None if action_names is None else tuple(action_names)
        self.partial = unfinished(self.folder)
        if self.partial.exists():
            shutil.rmtree(self.partial)
        try:
            for name in ("meta/episodes/chunk-000", "data", "cache"):
                (self.partial / name).mkdir(parents=True)
        except OSError as error:
            raise OSError(f"cannot write episodes to {self.folder} ({error}); choose another folder") from error
        self.frame_shape: tuple[int, ...] | None = None
        self.episodes: list[dict[str, Any]] = []
        self.tasks: dict[str, int] = {}
        self.num_frames = 0
        self._rows: list[pa.Table] = []
        self._num_rows = 0
        self._file_index = -1
        self._parquet: pq.ParquetWriter | None = None
        self._raw = (self.partial / "cache" / cache.FRAMES).open("wb")
        self._actions: list[np.ndarray] = []
        self._colours = np.zeros((3, 256), dtype=np.int64)

    def add_episode(
        self, frames: np.ndarray, actions: np.ndarray, *, level: int = 0, task: str = "play", ended: bool = True
    ) -> None:
        """Append one episode.

        Args:
            frames: (time, height, width, 3) uint8.
            actions: (time,) integers below the number of actions, or (time, action_dim) floats.
            level: which level or scene it was played in.
            task: what it shows, in words.
            ended: whether the environment ended here (or the recording cut it): `next.done` of the last row.

        Raises:
            ValueError: a shape, dtype or action range differs from what the set holds.
        """
        actions = self._checked(frames, actions)
        length = len(frames)
        if self._parquet is None or (self._num_rows == 0 and self._parquet_bytes() > FILE_BYTES):
            self._next_file()
        task_index = self.tasks.setdefault(task, len(self.tasks))
        steps = np.arange(length)
        images = [Image.fromarray(frame) for frame in frames]
        self._colours += sum(np.array(image.histogram()).reshape(3, 256) for image in images)
        columns = {
            IMAGE: pa.array([{"bytes": encode_png(image), "path": None} for image in images], type=IMAGE_TYPE),
            "action": self._action_array(actions),
            "next.done": pa.array((steps == length - 1) & ended),
            "level": pa.array(np.full(length, level, dtype=np.int64)),
            "timestamp": pa.array((steps / self.frame_rate).astype(np.float32)),
            "frame_index": pa.array(steps),
            "episode_index": pa.array(np.full(length, len(self.episodes), dtype=np.int64)),
            "index": pa.array(self.num_frames + steps),
            "task_index": pa.array(np.full(length, task_index, dtype=np.int64)),
        }
        self._rows.append(pa.table(columns, schema=self._schema()))
        self._num_rows += length
        self.episodes.append(
            {
                "episode_index": len(self.episodes),
                "tasks": [task],
                "length": length,
                "level": level,
                "data/chunk_index": self._file_index // FILES_PER_CHUNK,
                "data/file_index": self._file_index % FILES_PER_CHUNK,
                "dataset_from_index": self.num_frames,
                "dataset_to_index": self.num_frames + length,
                "meta/episodes/chunk_index": 0,
                "meta/episodes/file_index": 0,
            }
        )
        self._raw.write(np.ascontiguousarray(frames).data)
        self._actions.append(actions)
        self.num_frames += length
        if self._num_rows >= ROWS_PER_GROUP:
            self._flush()

    def finish(self) -> None:
        """Write the metadata and give the folder its name. Raises ValueError if no episode was added."""
        if not self.episodes:
            raise ValueError(f"nothing was recorded for {self.folder}: a set needs at least one episode")
        self._flush()
        assert self._parquet is not None
        self._parquet.close()
        self._raw.close()
        write_parquet(pa.Table.from_pylist(self.episodes), self.partial / EPISODES_PATH)
        write_parquet(tasks_table(self.tasks), self.partial / TASKS_PATH)
        write_json(self._info(), self.partial / INFO_PATH)
        write_json(self._stats(), self.partial / STATS_PATH)
        paths = sorted(path for part in ("data", "meta") for path in (self.partial / part).rglob("*") if path.is_file())
        write_json(
            {
                **self.provenance,
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
                "num_episodes": len(self.episodes),
                "num_frames": self.num_frames,
                "num_levels_seen": len({episode["level"] for episode in self.episodes}),
                "checksums": {path.relative_to(self.partial).as_posix(): checksum(path) for path in paths},
            },
            self.partial / PROVENANCE_PATH,
        )
        cache.write_index(self.partial, self.partial / "cache", np.concatenate(self._actions), self.episodes)
        os.rename(self.partial, self.folder)

    def __enter__(self) -> EpisodeWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()
        else:
            self._raw.close()

    def _checked(self, frames: np.ndarray, actions: np.ndarray) -> np.ndarray:
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) == 0:
            raise ValueError(f"frames are (time, height, width, 3) uint8, not {frames.shape} {frames.dtype}")
        if self.frame_shape is None:
            self.frame_shape = frames.shape[1:]
        if frames.shape[1:] != self.frame_shape:
            raise ValueError(f"this set holds frames of {self.frame_shape}, not {frames.shape[1:]}")
        if self.action_names is not None:
            num = len(self.action_names)
            if actions.shape != (len(frames),) or not np.issubdtype(actions.dtype, np.integer):
                raise ValueError(f"actions are ({len(frames)},) integers, not {actions.shape} {actions.dtype}")
            if actions.min() < 0 or actions.max() >= num:
                raise ValueError(f"actions lie in 0..{num - 1}, got {actions.min()}..{actions.max()}")
            return actions.astype(np.int64)
        if actions.shape != (len(frames), self.action_dim) or not np.issubdtype(actions.dtype, np.floating):
            raise ValueError(
                f"actions are ({len(frames)}, {self.action_dim}) floats, not {actions.shape} {actions.dtype}"
            )
        return actions.astype(np.float32)

    def _action_array(self, actions: np.ndarray) -> pa.Array:
        if self.action_dim is None:
            return pa.array(actions)
        return pa.FixedSizeListArray.from_arrays(pa.array(actions.ravel()), self.action_dim)

    def _schema(self) -> pa.Schema:
        integers = ("level", "frame_index", "episode_index", "index", "task_index")
        action = pa.int64() if self.action_dim is None else pa.list_(pa.float32(), self.action_dim)
        fields = {IMAGE: IMAGE_TYPE, "action": action, "next.done": pa.bool_(), "timestamp": pa.float32()}
        order = (IMAGE, "action", "next.done", "level", "timestamp", *integers[1:])
        return pa.schema([(name, fields.get(name, pa.int64())) for name in order])

    def _next_file(self) -> None:
        if self._parquet is not None:
            self._parquet.close()
        self._file_index += 1
        self._path = self.partial / DATA_PATH.format(
            chunk_index=self._file_index // FILES_PER_CHUNK, file_index=self._file_index % FILES_PER_CHUNK
        )
        self._path.parent.mkdir(parents=True, exist_ok=True)
        small = [name for name in self._schema().names if name != IMAGE]
        self._parquet = pq.ParquetWriter(
            self._path, self._schema(), use_dictionary=small, write_statistics=small, write_page_checksum=True
        )

    def _parquet_bytes(self) -> int:
        return self._path.stat().st_size

    def _flush(self) -> None:
        if self._rows:
            assert self._parquet is not None
            self._parquet.write_table(pa.concat_tables(self._rows), row_group_size=self._num_rows)
            self._rows, self._num_rows = [], 0

    def _info(self) -> dict[str, Any]:
        assert self.frame_shape is not None
        if self.action_names is not None:
            names = list(self.action_names)
            action: dict[str, Any] = {
                "dtype": "int64",
                "shape": [1],
                "names": ["action"],
                "info": {"action_names": names},
            }
        else:
            action = {"dtype": "float32", "shape": [self.action_dim], "names": None}
        scalars = {"next.done": "bool", "level": "int64", "timestamp": "float32"}
        scalars |= dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), "int64")
        image = {"dtype": "image", "shape": list(self.frame_shape), "names": ["height", "width", "channels"]}
        return {
            "codebase_version": "v3.0",
            "robot_type": None,
            "total_episodes": len(self.episodes),
            "total_frames": self.num_frames,
            "total_tasks": len(self.tasks),
            "chunks_size": FILES_PER_CHUNK,
            "data_files_size_in_mb": FILE_BYTES // 1_000_000,
            "video_files_size_in_mb": 0,
            "fps": int(self.frame_rate) if float(self.frame_rate).is_integer() else self.frame_rate,
            "splits": {"train": f"0:{len(self.episodes)}"},
            "data_path": DATA_PATH,
            "video_path": None,
            "features": {
                IMAGE: image,
                "action": action,
                **{name: {"dtype": dtype, "shape": [1], "names": None} for name, dtype in scalars.items()},
            },
        }

    def _stats(self) -> dict[str, Any]:
        """Per channel in [0, 1] for the frames, per dimension for the actions, as LeRobot shapes them."""
        shares = self._colours / self._colours.sum(axis=1, keepdims=True)
        values = np.arange(256) / 255
        mean = shares @ values
        seen = [values[np.flatnonzero(row)] for row in shares]
        colours = {"mean": mean, "std": np.sqrt(shares @ values**2 - mean**2)}
        colours |= {"min": np.array([row[0] for row in seen]), "max": np.array([row[-1] for row in seen])}
        actions = np.concatenate(self._actions).reshape(self.num_frames, -1)
        action = {name: getattr(actions, name)(axis=0).tolist() for name in ("mean", "std", "min", "max")}
        action["count"] = [self.num_frames]
        if self.action_names is not None:
            action["histogram"] = np.bincount(actions[:, 0], minlength=len(self.action_names)).tolist()
        image = {name: value.reshape(3, 1, 1).tolist() for name, value in colours.items()}
        return {IMAGE: {**image, "count": [self.num_frames]}, "action": action}


class Episodes:
    """A finished set, read through memory-mapped frames. Open one with `Episodes.open`.

    Attributes:
        folder: where it lies.
        info, stats, provenance: the contents of those files in ``meta/``.
        frames: (num_frames, height, width, 3) uint8, all episodes one after another.
        actions: (num_frames,) int64 or (num_frames, dim) float32.
        starts, lengths, levels: (num_episodes,) int64.
    """

    def __init__(self, folder: Path, frames: np.ndarray, index: Mapping[str, np.ndarray]) -> None:
        self.folder = folder
        self.info = read_json(folder / INFO_PATH)
        self.stats = read_json(folder / STATS_PATH)
        self.provenance = read_json(folder / PROVENANCE_PATH)
        self.frames = frames
        self.actions, self.lengths, self.levels = index["actions"], index["lengths"], index["levels"]
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
