"""Writing a file whole or not at all, room for it, and a folder to oneself; knows nothing of what is in them."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file, and the folders above it, so that a reader or a crash sees the old content or the new.

    Text is written as UTF-8. Raises OSError if the file cannot be written; then nothing has changed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def check_room(num_bytes: int, place: Path, remedy: str) -> None:
    """Raise ValueError, with what to do about it, if a disk has no room for so many bytes at a place."""
    there = next(folder for folder in (place.resolve(), *place.resolve().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if num_bytes > free:
        raise ValueError(
            f"{place} will take about {num_bytes / 1e9:.3g} GB, and {free / 1e9:.3g} GB are free; {remedy}"
        )


@contextmanager
def alone_in(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a folder to oneself, until the end of the context or of the process, however that ends.

    Args:
        folder: that exists.
        wait: for another process that holds it to end.

    Raises:
        ValueError: another process holds it, and is not waited for.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            os.close(handle)
            raise ValueError(
                f"another process is at work in {folder}; wait until it ends, stop it, or name another folder"
            ) from None
        # a file system without locks: then nobody can tell
    try:
        yield
    finally:
        os.close(handle)
