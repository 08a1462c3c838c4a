"""The weights file: exact round trips, every damage found, and never half a file."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from trimtab.networks import storage

SETTINGS: dict[str, Any] = {"widths": [32, 64], "name": "ü", "rate": 0.1, "none": None, "inner": {"yes": True}}


def tensors() -> dict[str, Tensor]:
    return {
        "half": torch.randn(3, 2).to(torch.float16),
        "brain": torch.randn(2, 2, 2).to(torch.bfloat16),
        "single": torch.tensor([float("nan"), float("inf"), -0.0, 1e-45]),
        "double": torch.randn(2, dtype=torch.float64),
        "whole": torch.tensor([[-(2**62), 7]]),
        "byte": torch.arange(5, dtype=torch.uint8),
        "flag": torch.tensor([True, False]),
        "number": torch.tensor(3.0),
        "empty": torch.zeros(0, 4),
    }


def bits(value: Tensor) -> bytes:
    return value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.safetensors"
    storage.write(path, {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3], dtype=torch.int16)}, {"depth": 2})
    return path


def test_every_dtype_comes_back_bit_for_bit(tmp_path: Path) -> None:
    before = tensors()
    storage.write(tmp_path / "w", before, SETTINGS)
    after, settings = storage.read(tmp_path / "w")
    assert settings == SETTINGS
    assert after.keys() == before.keys()
    for name, value in before.items():
        assert (after[name].dtype, after[name].shape) == (value.dtype, value.shape)
        assert bits(after[name]) == bits(value), name


def test_views_that_share_memory_or_are_not_contiguous_come_back_too(tmp_path: Path) -> None:
    whole = torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last).requires_grad_(True)
    storage.write(tmp_path / "w", {"whole": whole, "part": whole[0], "turned": whole.transpose(0, 1)}, {})
    after, _ = storage.read(tmp_path / "w")
    assert torch.equal(after["whole"], whole)
    assert torch.equal(after["part"], whole[0])
    assert torch.equal(after["turned"], whole.transpose(0, 1))


def test_the_checksum_sees_everything_but_the_order() -> None:
    plain = {"a": torch.tensor([1.0, 2.0]), "b": torch.zeros(2, 3)}
    number = storage.checksum(plain, {"x": 1, "y": 2})
    assert storage.checksum(dict(reversed(plain.items())), {"y": 2, "x": 1}) == number
    others = [
        storage.checksum(plain, {"x": 1, "y": 3}),
        storage.checksum({**plain, "b": torch.zeros(3, 2)}, {"x": 1, "y": 2}),
        storage.checksum({**plain, "b": torch.zeros(2, 3, dtype=torch.int32)}, {"x": 1, "y": 2}),
        storage.checksum({"c": plain["a"], "b": plain["b"]}, {"x": 1, "y": 2}),
        storage.checksum({**plain, "a": torch.tensor([1.0, 2.0000002])}, {"x": 1, "y": 2}),
    ]
    assert len({number, *others}) == 6


def harmless_or_found(path: Path, data: bytes, original: tuple[dict[str, Tensor], dict[str, Any]]) -> bool:
    """Whether altered bytes are refused with a ValueError that names the file, or read as the very same contents."""
    path.write_bytes(data)
    try:
        after, settings = storage.read(path)
    except ValueError as error:
        return str(path) in str(error)
    before, expected = original
    return settings == expected and {n: bits(v) for n, v in after.items()} == {n: bits(v) for n, v in before.items()}


@given(data=st.data())
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flipped_byte_is_found(small: Path, data: st.DataObject) -> None:
    whole = small.with_name("kept")
    if not whole.exists():
        whole.write_bytes(small.read_bytes())
    good = bytearray(whole.read_bytes())
    original = storage.read(whole)
    position = data.draw(st.integers(0, len(good) - 1), label="position")
    good[position] ^= data.draw(st.integers(1, 255), label="bits")
    assert harmless_or_found(small, bytes(good), original)


def test_the_lowest_bit_of_every_byte_is_guarded(small: Path) -> None:
    good, original = small.read_bytes(), storage.read(small)
    for position in range(len(good)):
        altered = bytearray(good)
        altered[position] ^= 1
        assert harmless_or_found(small, bytes(altered), original), position


def test_every_flip_in_the_numbers_themselves_is_refused(small: Path) -> None:
    good = small.read_bytes()
    for position in range(len(good) - 10, len(good)):  # two float32 and one int16
        altered = bytearray(good)
        altered[position] ^= 16
        small.write_bytes(altered)
        with pytest.raises(ValueError, match="damaged: its contents do not match its checksum"):
            storage.read(small)


def test_every_truncation_is_refused(small: Path) -> None:
    good = small.read_bytes()
    for length in range(len(good)):
        small.write_bytes(good[:length])
        with pytest.raises(ValueError, match="not a file of trimtab's, or is cut short"):
            storage.read(small)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x04\x95", b"PK\x03\x04" + bytes(100), bytes(64)])
def test_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other").write_bytes(content)
    with pytest.raises(ValueError, match="other is not a file of trimtab's"):
        storage.read(tmp_path / "other")


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"settings": "{", "sha256": ""}])
def test_a_foreign_safetensors_file_is_refused(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "foreign", metadata=metadata)
    with pytest.raises(ValueError, match="foreign is not a file of trimtab's"):
        storage.read(tmp_path / "foreign")


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        storage.read(tmp_path / "nowhere")


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file(small: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    before = small.read_bytes()

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, broken, full)
    with pytest.raises(OSError, match="No space left"):
        storage.write(small, {"a": torch.zeros(1000)}, {"depth": 3})
    assert small.read_bytes() == before
    monkeypatch.undo()
    storage.write(small, {"a": torch.zeros(1000)}, {"depth": 3})
    assert storage.read(small)[1] == {"depth": 3}
    assert [file.name for file in small.parent.iterdir()] == [small.name]


def test_the_new_file_is_whole_before_it_has_the_name(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []
    replace = os.replace

    def watched(source: Path, target: Path) -> None:
        assert Path(source).parent == Path(target).parent, "a rename across folders may not be atomic"
        seen.append(storage.read(Path(source))[1])
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    storage.write(small, {"a": torch.zeros(3)}, {"depth": 4})
    assert seen == [{"depth": 4}]
