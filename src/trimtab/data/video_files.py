"""Reads folders of videos as any system writes them: video files, gifs, folders of pictures, arrays; knows no metric.

Pictures and arrays are read exactly; what a codec lost is lost.
"""

from __future__ import annotations

import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def read_videos(folder: Path) -> dict[str, np.ndarray]:
    """Every video in a folder, by name (without its ending), in the order of their names.

    A video is a file (.mp4, .webm, .mkv, .avi, .mov, .gif), a folder of pictures in the order of their names, 2.png before
    10.png, or an array in an .npz or .npy file: (time, height, width, 3) uint8, or (video, time, height, width, 3) for many,
    which are named by their number.

    Returns:
        (time, height, width, 3) uint8 each.

    Raises:
        ValueError: no video there, two of one name, or one that cannot be read as said.
        ModuleNotFoundError: a video file, and PyAV is not installed.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; give one that holds videos (mp4, gif, folders of pictures, npz)")
    videos: dict[str, np.ndarray] = {}
    for path in sorted(folder.iterdir()):
        for name, frames in _read(path):
            if name in videos:
                raise ValueError(f"{folder} holds two videos named {name!r}; rename one")
            if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
                raise ValueError(
                    f"{path}: a video is (time, height, width, 3) uint8, got {frames.dtype} {frames.shape}; "
                    f"{_way_out(frames)}"
                )
            videos[name] = frames
    if not videos:
        raise ValueError(f"{folder} holds no video (mp4, webm, mkv, avi, mov, gif, folders of pictures, npz, npy)")
    return videos


def _way_out(frames: np.ndarray) -> str:
    """How an array that is no video becomes one."""
    ways = []
    if frames.ndim == 4 and frames.shape[3] == 4:
        ways.append("RGBA becomes RGB by frames[..., :3]")
    elif frames.ndim == 4 and frames.shape[3] == 1:
        ways.append("grey becomes RGB by frames.repeat(3, axis=-1)")
    elif frames.ndim == 3 and frames.shape[2] != 3:
        ways.append("grey becomes RGB by np.stack([frames] * 3, axis=-1)")
    if np.issubdtype(frames.dtype, np.floating):
        ways.append("floats in [0, 1] become bytes by (255 * frames).round().astype(np.uint8)")
    elif frames.dtype != np.uint8:
        ways.append("whole numbers from 0 to 255 become bytes by frames.astype(np.uint8)")
    return "; ".join(ways) or "save it so, with at least one frame"


def _naturally(path: Path) -> tuple[list[str | int], str]:
    """The key that sorts files as people count: numbers within their names are compared as numbers."""
    parts = re.split(r"(\d+)", path.stem)  # text, digits, text, and so on
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], path.name


def _read(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """The videos of one entry of a folder; none for what is no video."""
    if path.is_dir():
        pictures = [file for file in sorted(path.iterdir(), key=_naturally) if file.suffix.lower() in PICTURES]
        if pictures:
            yield path.name, _same_size(path, [_pictures(file)[0] for file in pictures])
        return
    if path.suffix.lower() in (".npz", ".npy"):
        yield from _arrays(path)
    elif (reader := READERS.get(path.suffix.lower())) is not None:
        yield path.stem, _same_size(path, reader(path))


def _arrays(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    try:
        loaded = np.load(path, allow_pickle=False)
        parts = {path.stem: loaded} if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} holds no arrays of numbers that can be read: {error}") from error
    for name, array in parts.items():
        if array.ndim == 5:
            prefix = "" if len(parts) == 1 else f"{name}-"
            yield from ((f"{prefix}{number:06}", frames) for number, frames in enumerate(array))
        else:
            yield name, array


def _pictures(path: Path) -> list[np.ndarray]:
    """The frames of a picture file; one, unless it moves."""
    from PIL import Image, ImageSequence

    try:
        with Image.open(path) as image:
            return [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]
    except (
        OSError,
        ValueError,
        IndexError,
        EOFError,
        SyntaxError,
        struct.error,
        Image.DecompressionBombError,
    ) as error:
        raise ValueError(f"{path} cannot be read as a picture: {error}") from error


def _video_file(path: Path) -> list[np.ndarray]:
    try:
        import av
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"reading {path.name} needs PyAV; pip install 'trimtab[metrics]'") from error
    try:
        with av.open(str(path)) as container:
            return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    except (av.error.FFmpegError, IndexError) as error:
        raise ValueError(f"{path} cannot be read as a video: {error}") from error


READERS: dict[str, Callable[[Path], list[np.ndarray]]] = {
    **dict.fromkeys((".mp4", ".webm", ".mkv", ".avi", ".mov"), _video_file),
    ".gif": _pictures,
}


def _same_size(path: Path, frames: list[np.ndarray]) -> np.ndarray:
    sizes = {frame.shape for frame in frames}
    if len(sizes) != 1:
        raise ValueError(f"{path}: the frames of a video have one size, these have {sorted(sizes) or 'none'}")
    return np.stack(frames)
