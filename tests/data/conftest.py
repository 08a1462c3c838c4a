"""Writes sets of numbered frames for the tests of this folder."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from numbered import NUM_ACTIONS, numbered_frames, numbers_of

from trimtab.data.episodes import Episodes, EpisodeWriter


@pytest.fixture
def write_set(tmp_path: Path) -> Callable[..., Path]:
    def write(lengths: Sequence[int], levels: Sequence[int] | None = None, name: str = "set") -> Path:
        folder = tmp_path / name
        with EpisodeWriter(folder, frame_rate=10.0, action_names="abcde", provenance={"who": "a test"}) as writer:
            for number, length in enumerate(lengths):
                frames = numbered_frames(writer.num_frames, length)
                actions = numbers_of(frames) % NUM_ACTIONS
                level = number if levels is None else levels[number]
                writer.add_episode(frames, actions, level=level, ended=number % 2 == 0)
        return folder

    return write


@pytest.fixture
def write_and_open(write_set: Callable[..., Path]) -> Callable[..., Episodes]:
    return lambda *arguments, **options: Episodes.open(write_set(*arguments, **options))
