"""Writing a file whole or not at all, and a folder to oneself; knows nothing of what is in them."""

from __future__ import annotations

import errno
import fcntl
import os
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
