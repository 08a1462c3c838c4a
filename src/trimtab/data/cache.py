"""The raw copy of a set's frames that makes random access fast: built, recognised as stale, mapped; knows no clips.

``cache/`` holds frames.uint8 (all frames one after another), actions.npy and what else of `COLUMNS` the set has (alike),
index.npz (lengths and levels of the episodes) and key.json, written last. All but the index are mapped, so that memory
does not grow with the set. The key names every file of the set with its size and time of change: while these stay the
same the cache is trusted; when they differ the files' checksums are verified, and the cache is rebuilt unless the
contents are the same.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from trimtab.data.layout import (
    EPISODES_PATH,
    IMAGE,
    INFO_PATH,
    PROVENANCE_PATH,
    STATE,
    SUCCESS,
    DamagedEpisodes,
    decode_png,
    read_json,
    read_rows,
    verify,
    write_json,
)

Index = dict[str, np.ndarray]
FRAMES, INDEX, KEY = "frames.uint8", "index.npz", "key.json"
COLUMNS = {"action": "actions", STATE: "states", SUCCESS: "successes"}
"""What rows say beside their frame: the parquet column, and what it is called here. The first is in every set."""


def open_cache(folder: Path) -> tuple[np.ndarray, Index]:
    """The frames and the index, memory-mapped but for what is of episodes; builds or rebuilds the cache if it has to.

    Raises:
        DamagedEpisodes: a file of the set is truncated or altered.
        PermissionError: the cache must be built and the folder is read-only.
    """
    cache = folder / "cache"
    key = key_of(folder)
    found = read_key(folder, cache)
    if found != key:
        verify(folder)
        if found is None or found.get("contents") != key["contents"]:
            build(folder, cache)
        else:  # the same files with other times: copied, or restored
            with contextlib.suppress(OSError):  # read-only: the files are verified again next time, nothing is lost
                write_json(key, cache / KEY)
    frames = np.memmap(cache / FRAMES, dtype=np.uint8, mode="r").reshape(-1, *frame_shape(folder))
    return frames, {**mapped_columns(folder, cache), **np.load(cache / INDEX, allow_pickle=False)}


def columns_of(folder: Path) -> list[str]:
    """Which of `COLUMNS` a set has."""
    features = read_json(folder / INFO_PATH)["features"]
    return [column for column in COLUMNS if column in features]


def mapped_columns(folder: Path, cache: Path) -> Index:
    names = [COLUMNS[column] for column in columns_of(folder)]
    return {name: np.load(cache / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in names}


def expect(frames: np.ndarray, starts: Iterable[int], length: int) -> None:
    """Tell the system which runs of frames will be read next, so that the disk fetches them all at once.

    Frames that are not mapped from a file are there already.
    """
    mapped: Any = frames
    while isinstance(mapped, np.ndarray):
        mapped = mapped.base
    if not isinstance(mapped, mmap.mmap) or not hasattr(mmap, "MADV_WILLNEED"):
        return
    size = frames[0].nbytes
    for start in starts:
        first = start * size // mmap.PAGESIZE * mmap.PAGESIZE
        mapped.madvise(mmap.MADV_WILLNEED, first, (start + length) * size - first)


def frame_shape(folder: Path) -> tuple[int, ...]:
    return tuple(read_json(folder / INFO_PATH)["features"][IMAGE]["shape"])


def key_of(folder: Path) -> dict[str, Any]:
    checksums = read_json(folder / PROVENANCE_PATH)["checksums"]
    files = {}
    for name in (*checksums, PROVENANCE_PATH):
        path = folder / name
        if not path.is_file():
            raise DamagedEpisodes(f"{path} is missing; restore it from a copy, or delete the set and record it again")
        files[name] = [path.stat().st_size, path.stat().st_mtime_ns]
    return {"files": files, "contents": checksums, "num_bytes": num_bytes(folder)}


def num_bytes(folder: Path) -> int:
    return read_json(folder / INFO_PATH)["total_frames"] * int(np.prod(frame_shape(folder)))


def read_key(folder: Path, cache: Path) -> dict[str, Any] | None:
    """The key of a complete cache, None if there is none that can be used."""
    try:
        key = read_json(cache / KEY)
        mapped_columns(folder, cache)
        complete = (cache / FRAMES).stat().st_size == key["num_bytes"] and zipfile.is_zipfile(cache / INDEX)
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None
    return key if complete else None


def write_index(
    folder: Path, cache: Path, columns: Mapping[str, np.ndarray], episodes: Sequence[dict[str, Any]]
) -> None:
    """Complete a cache whose frames are written: columns and index, then the key of the set at `folder`."""
    for column, values in columns.items():
        np.save(cache / f"{COLUMNS[column]}.npy", values)
    np.savez(cache / INDEX, **index_of(episodes))
    write_json(key_of(folder), cache / KEY)


def build(folder: Path, cache: Path) -> None:
    """Decode every frame beside the old cache, then put the new one in its place."""
    temporary = cache.with_name(f"cache.{os.getpid()}")
    try:
        temporary.mkdir()
    except OSError as error:
        raise PermissionError(
            f"{folder} needs a cache of {num_bytes(folder) / 1e6:.0f} MB and cannot be written ({error.strerror}); "
            "make it writable, copy the set elsewhere, or open it with in_memory=True"
        ) from error
    try:
        parts = []
        with (temporary / FRAMES).open("wb") as raw:
            for frames, part in decode(folder):
                raw.write(frames.data)
                parts.append(part)
        write_index(folder, temporary, joined(parts), read_episodes(folder))
        shutil.rmtree(cache, ignore_errors=True)
        try:
            os.rename(temporary, cache)
        except OSError:
            if read_key(folder, cache) != key_of(folder):  # unless another process has just built the same
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load(folder: Path) -> tuple[np.ndarray, Index]:
    """The frames and the index in memory; verifies every file and writes nothing."""
    verify(folder)
    frames, parts = zip(*decode(folder), strict=True)
    columns = {COLUMNS[column]: values for column, values in joined(parts).items()}
    return np.concatenate(frames), {**columns, **index_of(read_episodes(folder))}


def joined(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {column: np.concatenate([part[column] for part in parts]) for column in parts[0]}


def index_of(episodes: Sequence[dict[str, Any]]) -> Index:
    return {f"{name}s": np.array([episode[name] for episode in episodes], np.int64) for name in ("length", "level")}


def read_episodes(folder: Path) -> list[dict[str, Any]]:
    return pq.read_table(folder / EPISODES_PATH, page_checksum_verification=True).to_pylist()


def decode(folder: Path) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Frames and columns of all rows, a row group at a time."""
    columns = columns_of(folder)
    for rows in read_rows(folder, [IMAGE, *columns]):
        images = rows[IMAGE].combine_chunks().field("bytes")
        frames = np.stack([decode_png(image.as_py()) for image in images])
        yield frames, {column: np.stack(rows[column].to_numpy()) for column in columns}
