"""Speed and memory of reading clips, by the size of the set; run with `make bench-data`.

Sets of the sizes that are asked for are laid out in a folder of their own, as the cache of recorded play lies on disk: the
smaller ones written byte by byte, so that the disk takes part, the largest as a sparse file, which shows indexing alone.
They are deleted at the end.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from trimtab.data import samples
from trimtab.data.clips import Clips
from trimtab.data.episodes import Episodes
from trimtab.forecast import own_memory

EPISODE, BATCH, BATCHES = 100, 64, 60
"""Frames in an episode, clips in a batch, batches that are timed."""


class Laid(Episodes):
    """Episodes whose frames are in one large file, which is all that reading clips touches."""

    def __init__(self, folder: Path, num_frames: int, sparse: bool) -> None:
        few = samples.coinrun()
        path = folder / f"{num_frames}.uint8"
        lay(path, few.frames[:EPISODE], num_frames, sparse)
        np.save(folder / "actions.npy", np.resize(few.actions, num_frames))
        frames = np.memmap(path, np.uint8, "r").reshape(num_frames, *few.frames.shape[1:])
        lengths = np.full(num_frames // EPISODE, EPISODE)
        index = {"actions": np.load(folder / "actions.npy", mmap_mode="r"), "lengths": lengths, "levels": lengths * 0}
        super().__init__(few.folder, frames, index)


def lay(path: Path, frames: np.ndarray, num_frames: int, sparse: bool) -> None:
    """A file of so many frames: holes if it is sparse, else these frames again and again."""
    with path.open("wb") as file:
        if sparse:
            file.truncate(num_frames * frames[0].size)
        else:
            for _ in track(range(num_frames // len(frames)), f"writing {num_frames:,} frames"):
                file.write(np.ascontiguousarray(frames).data)
            os.fsync(file.fileno())


def measure(num_frames: int, sparse: bool, folder: Path) -> None:
    episodes = Laid(folder, num_frames, sparse)
    before = own_memory()
    clips = Clips(episodes)
    draws = [clips.draw(0, step, BATCH) for step in range(BATCHES)]
    clips.batch(draws[0])
    took, busy = time.perf_counter(), time.process_time()
    for draw in draws:
        clips.batch(draw)
    took, busy = time.perf_counter() - took, time.process_time() - busy
    num = BATCH * BATCHES
    print(
        f"{num_frames:>12,}{'sparse' if sparse else 'written':>10}{num / took:>10.0f}{num / busy:>16.0f}"
        f"{(own_memory() - before) / 2**20:>12.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--written", type=int, nargs="*", default=[20_000, 200_000], help="sizes that are written")
    parser.add_argument("--sparse", type=int, nargs="*", default=[2_000_000, 10_000_000], help="sizes as sparse files")
    parser.add_argument("--folder", type=Path, help="where to lay them out; the system's temporary folder by default")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    print("random clips of 2 + 8 frames of 64 x 64, one thread")
    print(f"{'frames':>12}{'':>10}{'clips/s':>10}{'clips/s of cpu':>16}{'MiB held':>12}")
    sizes = [(size, False) for size in chosen.written] + [(size, True) for size in chosen.sparse]
    for size, sparse in sizes:
        with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
            measure(size, sparse, Path(folder))


if __name__ == "__main__":
    main()
