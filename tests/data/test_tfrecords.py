"""Records and examples that TensorBoard and protobuf wrote are read back, and nothing else is."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.compat.tensorflow_stub import pywrap_tensorflow

from tiny.rlds_files import encode, write_records
from trimtab.data.tfrecords import (
    DamagedRecord,
    byte_strings,
    crc32c,
    masked_crc32c,
    numbers,
    parse_example,
    read_records,
)

RECORDS = [b"first record", b"", b"the third, and the last"]


# Records


@given(st.binary(max_size=300))
def test_checksums_are_tensorboards(data: bytes) -> None:
    assert crc32c(data) == pywrap_tensorflow.crc32c(data)
    assert masked_crc32c(data) == pywrap_tensorflow.masked_crc32c(data)


@pytest.mark.parametrize("length", [4095, 4096, 4097, 100_003])
def test_checksums_of_long_data_are_tensorboards(length: int) -> None:
    data = np.random.default_rng(length).bytes(length)
    assert crc32c(data) == pywrap_tensorflow.crc32c(data)


def test_checksum_of_the_published_example() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # RFC 3720 and every catalogue of checksums
    assert crc32c(bytes(32)) == 0x8A9136AA


def test_records_are_read_in_order_and_some_passed_over(tmp_path: Path) -> None:
    write_records(path := tmp_path / "records", RECORDS)
    assert list(read_records(path)) == RECORDS
    for first in range(5):
        assert list(read_records(path, first)) == RECORDS[first:]
    write_records(path, [])
    assert list(read_records(path)) == []
    with pytest.raises(FileNotFoundError):
        next(read_records(tmp_path / "none"))


def test_a_file_cut_anywhere_but_between_records_is_refused(tmp_path: Path) -> None:
    write_records(path := tmp_path / "records", RECORDS)
    whole = path.read_bytes()
    ends = np.cumsum([len(record) + 16 for record in RECORDS]).tolist()
    for cut in range(1, len(whole)):
        path.write_bytes(whole[:cut])
        if cut in ends:
            assert list(read_records(path)) == RECORDS[: ends.index(cut) + 1]
            continue
        number = sum(end <= cut for end in ends)
        with pytest.raises(DamagedRecord, match=f"record {number} of {path} is truncated") as caught:
            list(read_records(path))
        assert "fetch that file again" in str(caught.value)


def test_no_altered_byte_goes_unnoticed(tmp_path: Path) -> None:
    write_records(path := tmp_path / "records", RECORDS)
    whole = path.read_bytes()
    ends = np.cumsum([len(record) + 16 for record in RECORDS]).tolist()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        reader, number = read_records(path), sum(end <= place for end in ends)
        assert [next(reader) for _ in range(number)] == RECORDS[:number]  # those before it are still good
        with pytest.raises(DamagedRecord, match=f"record {number} .*checksum"):
            next(reader)


# Examples

FLOATS = st.lists(st.floats(width=32, allow_nan=False), min_size=1)
INTEGERS = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1)
STRINGS = st.lists(st.binary(max_size=40), min_size=1)
FEATURES = st.dictionaries(st.text(max_size=10), FLOATS | INTEGERS | STRINGS, max_size=6)


@given(FEATURES, st.booleans(), st.none() | st.floats())
def test_what_protobuf_wrote_survives(features: dict[str, list[Any]], packed: bool, unknown: float | None) -> None:
    found = parse_example(encode(features, packed, unknown))
    assert found.keys() == features.keys()
    for name, values in features.items():
        if isinstance(values[0], bytes):
            assert byte_strings(found[name]) == values
            with pytest.raises(ValueError, match="holds bytes"):
                numbers(found[name])
        else:
            read = numbers(found[name])
            assert read.dtype == (np.float32 if isinstance(values[0], float) else np.int64)
            assert read.tolist() == values
            with pytest.raises(ValueError, match="not bytes"):
                byte_strings(found[name])


def test_numbers_that_are_none_are_kept_and_empty_lists_are_empty() -> None:
    found = parse_example(encode({"odd": [float("nan"), float("inf"), -0.0], "empty": []}))
    assert np.array_equal(numbers(found["odd"]), np.float32([np.nan, np.inf, -0.0]), equal_nan=True)
    assert byte_strings(found["empty"]) == []
    for kind in (b"\x12\x00", b"\x1a\x00", b""):  # a list of floats, of integers, and no list at all, each empty
        assert numbers(memoryview(kind)).size == 0


@given(st.binary(max_size=60))
def test_what_is_no_example_gives_no_error_but_a_value_error(data: bytes) -> None:
    for read in (parse_example, lambda data: numbers(memoryview(data)), lambda data: byte_strings(memoryview(data))):
        with suppress(ValueError):
            read(data)


@given(FEATURES.filter(bool), st.data())
def test_an_example_cut_short_never_gives_other_values(features: dict[str, list[Any]], data: st.DataObject) -> None:
    whole = encode(features)
    cut = data.draw(st.integers(1, len(whole) - 1))
    with pytest.raises(ValueError, match="ends within"):
        parse_example(whole[:cut])
