"""Reads episodes in RLDS form as TensorFlow Datasets writes them, without TensorFlow; knows no robot.

A set is a folder of one version: ``features.json`` says what a step holds, ``dataset_info.json`` how many episodes are in
each shard, and a record of a shard is one episode, in which each feature of a step is one list over all its steps.
Format: https://github.com/google-research/rlds and https://www.tensorflow.org/datasets/external_tfrecord.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Shaped
from PIL import Image

from trimtab.data.tfrecords import DamagedRecord, byte_strings, numbers, parse_example, read_records

FEATURES, INFO = "features.json", "dataset_info.json"
SHARDS = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
Values = TypeVar("Values", list[bytes], np.ndarray)
SPLIT = re.compile(r"([^\[\]]+)(?:\[(?:(-?\d+)(%?))?:(?:(-?\d+)(%?))?\])?")


@dataclass(frozen=True)
class Feature:
    """What a step holds under one name.

    Attributes:
        kind: tensor, image, text; others are not read.
        shape: of a step's value; -1 where it varies.
        dtype: of its numbers, as numpy names it.
        encoding: of a tensor, "none" unless its bytes are kept in another way.
    """

    kind: str
    shape: tuple[int, ...]
    dtype: str
    encoding: str


@dataclass(frozen=True)
class Recorded:
    """One episode as it lies in a record; each feature is decoded when it is asked for.

    Attributes:
        number: among all episodes of its split.
        place: its file and record, for messages.
        features: what its steps hold.
        values: the undecoded lists.
    """

    number: int
    place: str
    features: Mapping[str, Feature]
    values: Mapping[str, memoryview]

    def __len__(self) -> int:
        """How many steps it has."""
        return len(self._decoded("is_first", numbers))

    def numbers(self, name: str) -> Shaped[np.ndarray, "step ..."]:
        """A feature of every step, (step, *its shape), float32, int64 or bool.

        Raises ValueError if steps have no such feature, or it is not made of numbers.
        """
        feature, values = self._feature(name, "tensor"), self._decoded(name, numbers)
        length = len(self)
        if feature.encoding != "none" or len(values) != length * math.prod(feature.shape):
            raise ValueError(
                f"{self.place}: {name} has {len(values)} numbers in {length} steps of shape {feature.shape} and encoding "
                f"{feature.encoding}; only lists of one shape and without encoding are read"
            )
        return values.reshape(length, *feature.shape).astype(bool if feature.dtype == "bool" else values.dtype)

    def texts(self, name: str) -> list[str]:
        """A text of every step. Raises ValueError if steps have no such feature, or it is no text."""
        self._feature(name, "text")
        return [text.decode() for text in self._strings(name)]

    def pictures(self, name: str) -> Iterator[Image.Image]:
        """A colour picture of every step, decoded one at a time.

        Raises ValueError if steps have no such feature, it is not of 8-bit colours, or a picture cannot be decoded.
        """
        feature = self._feature(name, "image")
        if feature.shape[-1:] != (3,) or feature.dtype != "uint8":
            raise ValueError(f"{name} is {feature.dtype} {feature.shape}; only uint8 pictures of 3 colours are read")
        for step, data in enumerate(self._strings(name)):
            try:
                with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
                    yield image.convert("RGB")
            except (OSError, SyntaxError) as error:
                raise ValueError(f"{self.place}: {name} of step {step} is no JPEG or PNG ({error})") from error

    def _strings(self, name: str) -> list[bytes]:
        values = self._decoded(name, byte_strings)
        if len(values) != len(self):
            raise ValueError(f"{self.place}: {name} has {len(values)} values in {len(self)} steps")
        return values

    def _decoded(self, name: str, decode: Callable[[memoryview], Values]) -> Values:
        if (value := self.values.get(f"steps/{name}")) is None:
            raise ValueError(f"{self.place} holds no {name}")
        try:
            return decode(value)
        except ValueError as error:
            raise ValueError(f"{self.place}: {name} cannot be read: {error}") from error

    def _feature(self, name: str, kind: str) -> Feature:
        if name not in self.features:
            raise ValueError(f"steps of this set hold no {name!r}; they hold {', '.join(sorted(self.features))}")
        if (found := self.features[name]).kind != kind:
            raise ValueError(f"{name} is {found.kind}, not {kind}")
        return found


class RLDS:
    """A set of episodes in RLDS form.

    Args:
        folder: of one version of the set, such as fractal20220817_data/0.1.0.

    Attributes:
        name, version: of the set.
        features: what a step holds, by names such as "observation/image".

    Raises:
        FileNotFoundError: there is none here.
        ValueError: its description cannot be read, or its episodes are not in TFRecord files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        described, info = _read(folder / FEATURES), _read(folder / INFO)
        try:
            steps = described["featuresDict"]["features"]["steps"]["sequence"]["feature"]
            self.features = dict(_flat(steps))
            self.name, self.version = str(info["name"]), str(info["version"])
            file_format = info.get("fileFormat", "tfrecord")
            self._shards = {split["name"]: self._files(split, file_format) for split in info["splits"]}
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{folder} describes no episodes with steps that can be read ({error!r})") from error
        if file_format != "tfrecord":
            raise ValueError(f"{folder} keeps its episodes as {file_format}; only tfrecord is read")

    def bounds(self, split: str) -> tuple[int, int]:
        """The first episode of a split such as "train", "train[:95%]" or "train[100:200]", and the one after the last.

        Shares are rounded to whole episodes as TensorFlow Datasets does by default.

        Raises:
            ValueError: there is no such split, or it has no episodes.
        """
        name, *bounds = self._parsed(split)
        total = sum(count for _, count in self._shards[name])
        first, last = (None if bound is None else _absolute(*bound, total) for bound in bounds)
        if any(bound is not None and abs(bound) > total for bound in (first, last)):
            raise ValueError(f"{split} asks for more than the {total} episodes of {name}")
        start, stop, _ = slice(first, last).indices(total)
        if start >= stop:
            raise ValueError(f"{split} has no episodes; {name} has {total}")
        return start, stop

    def episodes(self, split: str, num: int | None = None) -> Iterator[Recorded]:
        """The episodes of a split (see `bounds`) in the order of its files, read one at a time.

        Args:
            split: of the set.
            num: only so many of the first.

        Raises:
            ValueError: as `bounds`; or a shard holds fewer episodes than it should, or a record is no episode.
            FileNotFoundError: shards that are needed are missing.
            DamagedRecord: a file is truncated or altered.
        """
        start, stop = self.bounds(split)
        stop = stop if num is None else min(stop, start + num)
        needed, before = [], 0
        shards = self._shards[self._parsed(split)[0]]
        for path, count in shards:
            first, last = max(start - before, 0), min(stop - before, count)
            if first < last:
                needed.append((path, before, first, last))
            before += count
        if missing := [path.name for path, *_ in needed if not path.is_file()]:
            raise FileNotFoundError(
                f"{len(missing)} of the {len(needed)} files that {split} needs are missing in {self.folder}, the first is "
                f"{missing[0]}; fetch them, or name a split of fewer episodes, such as train[:100]"
            )
        for path, before, first, last in needed:
            number = first
            for record in islice(read_records(path, first), last - first):
                yield self._episode(record, before + number, f"{path.name}, record {number}")
                number += 1
            if number < last:
                raise DamagedRecord(f"{path} holds {number} episodes where {INFO} says {last} or more; fetch it again")

    def _episode(self, record: bytes, number: int, place: str) -> Recorded:
        try:
            episode = Recorded(number, place, self.features, parse_example(record))
        except ValueError as error:
            raise ValueError(f"{place} of {self.folder} is no episode: {error}") from error
        if len(episode) == 0:
            raise ValueError(f"{place} of {self.folder} is an episode without steps")
        return episode

    def _parsed(self, split: str) -> tuple[str, tuple[str, str] | None, tuple[str, str] | None]:
        match = SPLIT.fullmatch(split)
        if match is None or match[1] not in self._shards:
            raise ValueError(
                f"{self.folder} has no split {split!r}; it has {', '.join(self._shards) or 'none'}, whole or in parts, such "
                "as train[:95%] or train[100:200]"
            )
        first, last = ((match[i], match[i + 1]) if match[i] else None for i in (2, 4))
        return match[1], first, last

    def _files(self, split: Mapping[str, Any], file_format: str) -> list[tuple[Path, int]]:
        counts = [int(count) for count in split["shardLengths"]]
        template = split.get("filepathTemplate") or SHARDS
        names = [
            template.format(
                DATASET=self.name, SPLIT=split["name"], FILEFORMAT=file_format, SHARD_INDEX=f"{i:05}",
                NUM_SHARDS=f"{len(counts):05}", SHARD_X_OF_Y=f"{i:05}-of-{len(counts):05}",
            ) for i in range(len(counts))
        ]  # fmt: skip
        return [(self.folder / name, count) for name, count in zip(names, counts, strict=True)]


def _absolute(bound: str, percent: str, total: int) -> int:
    return round(int(bound) * total / 100) if percent else int(bound)


def _flat(described: Mapping[str, Any], name: str = "") -> Iterator[tuple[str, Feature]]:
    """The features below one in features.json, by their paths."""
    if "featuresDict" in described:
        for key, inner in described["featuresDict"]["features"].items():
            yield from _flat(inner, f"{name}/{key}" if name else key)
        return
    kind = next(
        (kind for kind in ("tensor", "image", "text") if kind in described), str(described.get("pythonClassName"))
    )
    content = described.get(kind, {})
    shape = tuple(int(size) for size in content.get("shape", {}).get("dimensions", ()))
    dtype = content.get("dtype", "uint8" if kind == "image" else "string")
    if kind == "tensor" and dtype in ("string", "object"):
        kind = "text"
    yield name, Feature(kind, shape, dtype, content.get("encoding", "none"))


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        inner = sorted(found.parent.name for found in path.parent.glob(f"*/{path.name}"))
        hint = (
            f"name one of its versions: {', '.join(inner)}"
            if inner
            else "TensorFlow Datasets writes one beside the data"
        )
        raise FileNotFoundError(f"{path} is missing; {hint}") from error
    except ValueError as error:
        raise ValueError(f"{path} is truncated or altered ({error}); fetch it again") from error
