"""How a set of episodes lies on disk: paths, checksums, PNG, JSON and parquet; knows no recording and no training."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from hashlib import file_digest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from trimtab.core.files import write_whole

IMAGE, STATE, SUCCESS = "observation.image", "observation.state", "next.success"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
EPISODES_PATH = "meta/episodes/chunk-000/file-000.parquet"
TASKS_PATH = "meta/tasks.parquet"
INFO_PATH = "meta/info.json"
STATS_PATH = "meta/stats.json"
PROVENANCE_PATH = "meta/provenance.json"
IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


class DamagedEpisodes(ValueError):
    """A set on disk is unfinished, truncated or altered; the message names the file and the way out."""


def unfinished(folder: Path) -> Path:
    """Where a set lies while it is being written."""
    return folder.with_name(folder.name + ".unfinished")


def encode_png(image: Image.Image) -> bytes:
    """One frame, lossless; level 1 is twice as fast as the default and 10 % larger."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def decode_png(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        return np.asarray(image)


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def write_json(value: Any, path: Path) -> None:
    """Write atomically: readers see the old file or the new one."""
    write_whole(path, json.dumps(value, indent=1) + "\n")


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise damaged(path, str(error)) from error


def write_parquet(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path, write_page_checksum=True)


def damaged(path: Path, reason: str) -> DamagedEpisodes:
    return DamagedEpisodes(
        f"{path} is truncated or altered ({reason}); restore it from a copy, or delete the set and record it again"
    )


def find(folder: Path) -> None:
    """Raises FileNotFoundError or DamagedEpisodes if there is no finished set here."""
    if (folder / PROVENANCE_PATH).is_file():
        return
    if unfinished(folder).is_dir():
        raise DamagedEpisodes(
            f"{folder} is unfinished: a recording was interrupted, or still runs; its files are in "
            f"{unfinished(folder)}. Record it again, which starts afresh"
        )
    if folder.is_dir():
        raise DamagedEpisodes(
            f"{folder} is no finished set: {PROVENANCE_PATH} is missing; record it again or restore it"
        )
    raise FileNotFoundError(
        f"no episodes at {folder}; write them there first, by `trimtab record-procgen`, `record-metaworld`, `record-dmc` or "
        "`import-rlds`"
    )


def verify(folder: Path) -> None:
    """Compare every file with the checksum taken when the set was written. Raises DamagedEpisodes."""
    checksums: Mapping[str, str] = read_json(folder / PROVENANCE_PATH)["checksums"]
    for name, expected in checksums.items():
        path = folder / name
        if not path.is_file():
            raise damaged(path, "it is missing")
        if checksum(path) != expected:
            raise damaged(path, f"its SHA-256 is not the one in {PROVENANCE_PATH}")


def read_rows(folder: Path, columns: Iterable[str]) -> Iterable[pa.Table]:
    """The rows of all data files in order, a row group at a time; page checksums are verified."""
    for path in sorted((folder / "data").rglob("*.parquet")):
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                for group in range(file.num_row_groups):
                    yield file.read_row_group(group, columns=list(columns))
        except (pa.ArrowException, OSError) as error:
            raise damaged(path, str(error)) from error


def tasks_table(tasks: Mapping[str, int]) -> pa.Table:
    """The table that pandas would write for a frame indexed by the task's text, as LeRobot reads it."""
    table = pa.table({"task_index": pa.array(list(tasks.values()), pa.int64()), "task": list(tasks)})
    columns = [
        {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64"},
        {"name": "task", "field_name": "task", "pandas_type": "unicode", "numpy_type": "object"},
    ]
    described = {
        "index_columns": ["task"],
        "column_indexes": [{"name": None, "field_name": None, "pandas_type": "unicode", "numpy_type": "object"}],
        "columns": [{**column, "metadata": None} for column in columns],
        "pandas_version": "2.2.0",
    }
    return table.replace_schema_metadata({"pandas": json.dumps(described)})
