"""Reads TFRecord files and the tf.train.Example in a record, without TensorFlow; knows no data set.

Formats: https://www.tensorflow.org/tutorials/load_data/tfrecord and https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import Num, UInt32

BYTES, FLOATS, INTEGERS = 1, 2, 3
"""The field of a feature that holds its values, by their kind."""

KINDS = {BYTES: "bytes", FLOATS: "floats", INTEGERS: "integers"}

POLYNOMIAL = 0x82F63B78
START = (0x641F6454).to_bytes(4, "little")
"""Four bytes that take the checksum's state from 0 to its initial value of 32 ones, so that all else is linear."""


class DamagedRecord(ValueError):
    """A file of records is truncated or altered; the message names the file, the record and the way out."""


def read_records(path: Path, first: int = 0) -> Iterator[bytes]:
    """The records of a file in order, one in memory at a time, each compared with its checksums.

    Args:
        path: of the file.
        first: how many records to pass over; of these only the lengths are compared.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedRecord: it is truncated, or a checksum differs.
    """
    with path.open("rb") as file:
        size, number = path.stat().st_size, 0
        while (place := file.tell()) < size:
            if place + 12 > size:
                raise damaged(path, number, "the file ends within its length")
            length, checksum = struct.unpack("<QI", header := file.read(12))
            if masked_crc32c(header[:8]) != checksum:
                raise damaged(path, number, "the checksum of its length differs")
            if place + 16 + length > size:
                raise damaged(path, number, f"the file ends {place + 16 + length - size} bytes too early")
            if number < first:
                file.seek(length + 4, 1)
            else:
                record = file.read(length)
                if masked_crc32c(record) != struct.unpack("<I", file.read(4))[0]:
                    raise damaged(path, number, "its checksum differs")
                yield record
            number += 1


def damaged(path: Path, number: int, reason: str) -> DamagedRecord:
    return DamagedRecord(f"record {number} of {path} is truncated or altered ({reason}); fetch that file again")


def masked_crc32c(data: bytes) -> int:
    """The checksum of a TFRecord: CRC-32C (Castagnoli), rotated by 15 bits, plus a constant."""
    checksum = crc32c(data)
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """CRC-32C of the bytes, all words at once.

    From state 0 the checksum is linear: that of two neighbours is the left one's, moved on by as many zero bytes as the
    right one is long, plus the right one's. So neighbours are joined, and then these with theirs, up to one; zeros before
    the first byte change nothing.
    """
    data = bytes(-len(data) % 4) + START + data
    states = np.frombuffer(data, dtype="<u4").astype(np.uint32)
    level = 0
    while len(states) > 1:
        if len(states) % 2:
            states = np.concatenate([np.zeros(1, np.uint32), states])
        states = moved_on(states[::2], level) ^ states[1::2]
        level += 1
    return int(moved_on(states, 0)[0]) ^ 0xFFFFFFFF


def moved_on(states: UInt32[np.ndarray, " state"], level: int) -> UInt32[np.ndarray, " state"]:
    """Each state after 4 * 2**level zero bytes, looked up byte by byte."""
    first, second, third, fourth = _tables(level)
    return first[states & 255] ^ second[states >> 8 & 255] ^ third[states >> 16 & 255] ^ fourth[states >> 24]


@cache
def _tables(level: int) -> UInt32[np.ndarray, "4 256"]:
    if level:
        once = _tables(level - 1)
        return moved_on(once.ravel(), level - 1).reshape(4, 256)
    states = np.arange(256, dtype=np.uint32) << np.arange(0, 32, 8, dtype=np.uint32)[:, None]
    for _ in range(32):
        states = states >> 1 ^ (states & 1) * np.uint32(POLYNOMIAL)
    return states


def parse_example(record: bytes) -> dict[str, memoryview]:
    """The features of a tf.train.Example by name, to be read by `numbers` or `byte_strings`.

    Raises ValueError if the record is none.
    """
    features = {}
    for part in _inside(memoryview(record), 1):
        for entry in _inside(part, 1):
            (name,), (feature,) = _inside(entry, 1), _inside(entry, 2)
            features[bytes(name).decode()] = feature
    return features


def byte_strings(feature: memoryview) -> list[bytes]:
    """The values of a feature of bytes. Raises ValueError if it holds others."""
    return [bytes(value) for value in _values(feature, BYTES)]


def numbers(feature: memoryview) -> Num[np.ndarray, " value"]:
    """The values of a feature, float32 or int64. Raises ValueError if it holds bytes."""
    kind = FLOATS if _kind(feature) == FLOATS else INTEGERS
    data = b"".join(_values(feature, kind))  # a list, or its values one by one: their bytes are the same
    if kind == FLOATS:
        return np.frombuffer(data, dtype="<f4").astype(np.float32)
    return _varints(data)


def _kind(feature: memoryview) -> int:
    """Which kind of values a feature holds; bytes if it says nothing, as an empty one may."""
    return next((field for field, _ in _fields(feature)), BYTES)


def _values(feature: memoryview, kind: int) -> list[memoryview]:
    found = _kind(feature)
    if len(feature) and found != kind:
        raise ValueError(f"it holds {KINDS.get(found, f'values of an unknown kind, {found}')}, not {KINDS[kind]}")
    return [value for part in _inside(feature, kind) for value in _inside(part, 1)]


def _inside(message: memoryview, field: int) -> list[memoryview]:
    """What a message holds in one of its fields."""
    return [value for number, value in _fields(message) if number == field]


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The fields of a protobuf message: their numbers, and the bytes of their values."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        wire = key & 7
        if wire == 0:
            length = _varint(message, place)[1] - place
        elif wire == 2:
            length, place = _varint(message, place)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"its protobuf has a field of the unknown wire type {wire}")
        if place + length > len(message):
            raise ValueError("its protobuf ends within a field")
        yield key >> 3, message[place : place + length]
        place += length


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """The integer at a place, seven bits a byte, the lowest first; and the place after it."""
    value = 0
    for shift, byte in enumerate(message[place : place + 10]):
        value |= (byte & 127) << 7 * shift
        if byte < 128:
            return value, place + shift + 1
    raise ValueError("its protobuf ends within a number")


def _varints(data: bytes) -> Num[np.ndarray, " value"]:
    """Integers one after another, two's complement of 64 bits."""
    parts = np.frombuffer(data, dtype=np.uint8)
    ends = np.flatnonzero(parts < 128) + 1
    if not len(parts):
        return np.zeros(0, np.int64)
    lengths = np.diff(ends, prepend=0)
    if not len(ends) or ends[-1] != len(parts) or lengths.max() > 10:
        raise ValueError("its protobuf ends within a number")
    starts = ends - lengths
    shifts = 7 * (np.arange(len(parts)) - np.repeat(starts, lengths))
    return np.add.reduceat((parts & 127).astype(np.uint64) << shifts.astype(np.uint64), starts).view(np.int64)
