"""Writes sets of episodes in the layout that `episodes` describes; knows no simulator and no model."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
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
    STATE,
    STATS_PATH,
    SUCCESS,
    TASKS_PATH,
    checksum,
    encode_png,
    tasks_table,
    unfinished,
    write_json,
    write_parquet,
)

FILES_PER_CHUNK = 1000
FILE_BYTES = 100_000_000
ROWS_PER_GROUP = 1000
INTEGERS = ("frame_index", "episode_index", "index", "task_index")


class EpisodeWriter:
    """Writes a set of episodes; the folder appears under its name only when `finish` has written everything.

    Until then the files lie in ``<folder>.unfinished``, which a later writer for the same folder replaces. As a context
    manager it finishes when the block ends well, and leaves the unfinished folder behind when it does not. All its
    episodes have a state, or none has; so, too, with success.

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
        self._columns: dict[str, list[np.ndarray]] = {}
        self._colours = np.zeros((3, 256), dtype=np.int64)

    def add_episode(
        self,
        frames: np.ndarray,
        actions: np.ndarray,
        *,
        state: np.ndarray | None = None,
        success: np.ndarray | None = None,
        level: int = 0,
        task: str = "play",
        ended: bool = True,
    ) -> None:
        """Append one episode.

        Args:
            frames: (time, height, width, 3) uint8.
            actions: (time,) integers below the number of actions, or (time, action_dim) floats.
            state: (time, dim) floats, what was measured as frame t was seen, such as joints' angles.
            success: (time,) bool, whether frame t shows the task done. As `next.done` it stands in the row of the frame
                that is reached, not in the row of the action that leads there.
            level: which level or scene it was played in.
            task: what it shows, in words.
            ended: whether the environment ended here (or the recording cut it): `next.done` of the last row.

        Raises:
            ValueError: a shape, dtype or action range differs from what the set holds, or a column is one too many or is
                missing.
        """
        self._check_frames(frames)
        told = {"action": self._checked_actions(actions, len(frames))}
        if state is not None:
            told[STATE] = self._checked_state(state, len(frames))
        if success is not None:
            told[SUCCESS] = _checked_success(success, len(frames))
        if self.episodes and told.keys() != self._columns.keys():
            raise ValueError(
                f"the episodes of this set have {', '.join(self._columns)}, this one has {', '.join(told)}; all have a "
                "state or none, and all have success or none"
            )
        for name, values in told.items():
            self._columns.setdefault(name, []).append(values)
        length = len(frames)
        if self._parquet is None or (self._num_rows == 0 and self._parquet_bytes() > FILE_BYTES):
            self._next_file()
        task_index = self.tasks.setdefault(task, len(self.tasks))
        steps = np.arange(length)
        images = [Image.fromarray(frame) for frame in frames]
        self._colours += sum(np.array(image.histogram()).reshape(3, 256) for image in images)
        columns = {
            IMAGE: pa.array([{"bytes": encode_png(image), "path": None} for image in images], type=IMAGE_TYPE),
            **{name: _array(values) for name, values in told.items()},
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
        columns = {name: np.concatenate(values) for name, values in self._columns.items()}
        cache.write_index(self.partial, self.partial / "cache", columns, self.episodes)
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

    def _check_frames(self, frames: np.ndarray) -> None:
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) == 0:
            raise ValueError(f"frames are (time, height, width, 3) uint8, not {frames.shape} {frames.dtype}")
        if self.frame_shape is None:
            self.frame_shape = frames.shape[1:]
        if frames.shape[1:] != self.frame_shape:
            raise ValueError(f"this set holds frames of {self.frame_shape}, not {frames.shape[1:]}")

    def _checked_actions(self, actions: np.ndarray, length: int) -> np.ndarray:
        if self.action_names is None:
            assert self.action_dim is not None
            return _checked_vectors("actions", actions, (length, self.action_dim))
        num = len(self.action_names)
        if actions.shape != (length,) or not np.issubdtype(actions.dtype, np.integer):
            raise ValueError(f"actions are ({length},) integers, not {actions.shape} {actions.dtype}")
        if actions.min() < 0 or actions.max() >= num:
            raise ValueError(f"actions lie in 0..{num - 1}, got {actions.min()}..{actions.max()}")
        return actions.astype(np.int64)

    def _checked_state(self, state: np.ndarray, length: int) -> np.ndarray:
        held = self._columns.get(STATE)
        dim = held[0].shape[1] if held else state.shape[-1] if state.ndim == 2 else "dim"
        return _checked_vectors("states", state, (length, dim))

    def _schema(self) -> pa.Schema:
        told = {name: _array(values[0][:1]).type for name, values in self._columns.items()}
        types = {IMAGE: IMAGE_TYPE, **told, "next.done": pa.bool_(), "timestamp": pa.float32()}
        order = (IMAGE, STATE, "action", "next.done", SUCCESS, "level", "timestamp", *INTEGERS)
        absent = {STATE, SUCCESS} - told.keys()
        return pa.schema([(name, types.get(name, pa.int64())) for name in order if name not in absent])

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
        told = {"action": action}
        if STATE in self._columns:
            told[STATE] = {"dtype": "float32", "shape": [self._columns[STATE][0].shape[1]], "names": None}
        scalars = {"next.done": "bool", "level": "int64", "timestamp": "float32", **dict.fromkeys(INTEGERS, "int64")}
        scalars |= {SUCCESS: "bool"} if SUCCESS in self._columns else {}
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
                **told,
                **{name: {"dtype": dtype, "shape": [1], "names": None} for name, dtype in scalars.items()},
            },
        }

    def _stats(self) -> dict[str, Any]:
        """Per channel in [0, 1] for the frames, per dimension for actions and states, as LeRobot shapes them."""
        shares = self._colours / self._colours.sum(axis=1, keepdims=True)
        values = np.arange(256) / 255
        mean = shares @ values
        seen = [values[np.flatnonzero(row)] for row in shares]
        colours = {"mean": mean, "std": np.sqrt(shares @ values**2 - mean**2)}
        colours |= {"min": np.array([row[0] for row in seen]), "max": np.array([row[-1] for row in seen])}
        image = {name: value.reshape(3, 1, 1).tolist() for name, value in colours.items()}
        stats: dict[str, Any] = {IMAGE: {**image, "count": [self.num_frames]}}
        for column in [name for name in self._columns if name != SUCCESS]:
            values = np.concatenate(self._columns[column]).reshape(self.num_frames, -1)
            told = {name: getattr(values, name)(axis=0).tolist() for name in ("mean", "std", "min", "max")}
            stats[column] = {**told, "count": [self.num_frames]}
        if self.action_names is not None:
            actions = np.concatenate(self._columns["action"])
            stats["action"]["histogram"] = np.bincount(actions, minlength=len(self.action_names)).tolist()
        return stats


def _checked_vectors(name: str, vectors: np.ndarray, shape: tuple[int | str, ...]) -> np.ndarray:
    if vectors.shape != shape or not np.issubdtype(vectors.dtype, np.floating):
        raise ValueError(f"{name} are ({shape[0]}, {shape[1]}) floats, not {vectors.shape} {vectors.dtype}")
    return vectors.astype(np.float32)


def _checked_success(success: np.ndarray, length: int) -> np.ndarray:
    if success.shape != (length,) or success.dtype != bool:
        raise ValueError(f"success is ({length},) bool, not {success.shape} {success.dtype}")
    return success.copy()


def _array(values: np.ndarray) -> pa.Array:
    """A column of numbers, or of vectors of one length."""
    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
