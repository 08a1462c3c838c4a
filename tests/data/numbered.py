"""Frames that say which frame of a set they are."""

import numpy as np

NUM_ACTIONS = 5


def numbered_frames(first: int, length: int, size: int = 4) -> np.ndarray:
    """Frames whose first pixel holds the frame's number in the set, the rest noise."""
    frames = np.random.default_rng(first).integers(0, 256, (length, size, size, 3), dtype=np.uint8)
    numbers = first + np.arange(length)
    frames[:, 0, 0] = np.stack([numbers // 65536, numbers // 256 % 256, numbers % 256], axis=1)
    return frames


def numbers_of(frames: np.ndarray) -> np.ndarray:
    """The numbers that `numbered_frames` wrote, from uint8 frames (..., height, width, 3)."""
    return frames[..., 0, 0, :].astype(np.int64) @ np.array([65536, 256, 1])
