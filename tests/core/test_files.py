"""A file is written whole or not at all; a folder is one process's at a time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trimtab.core.files import alone_in, write_whole


@pytest.mark.parametrize(("content", "stored"), [("é\n", b"\xc3\xa9\n"), (b"\x00\xff", b"\x00\xff"), ("", b"")])
def test_the_content_is_there_and_nothing_else(tmp_path: Path, content: bytes | str, stored: bytes) -> None:
    path = tmp_path / "new" / "folder" / "file.txt"
    write_whole(path, "what was there before")
    write_whole(path, content)
    assert path.read_bytes() == stored
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.txt"
    write_whole(path, "old")

    def full(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_one_process_s_at_a_time(tmp_path: Path) -> None:
    names = "from pathlib import Path; from trimtab.core.files import alone_in"
    other = f"{names}\nwith alone_in(Path({str(tmp_path)!r})): pass"
    with alone_in(tmp_path):
        refused = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True, check=False)
        with pytest.raises(ValueError, match="another process is at work in"), alone_in(tmp_path):
            pass
    assert refused.returncode == 1
    assert f"ValueError: another process is at work in {tmp_path}" in refused.stderr
    assert subprocess.run([sys.executable, "-c", other], check=True).returncode == 0
    assert list(tmp_path.iterdir()) == []
