"""Clips are windows of one episode, with the actions that lead to their frames, drawn repeatably."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numbered import numbered_frames, numbers_of

from trimtab.data.cache import expect
from trimtab.data.clips import Clips
from trimtab.data.episodes import Episodes, EpisodeWriter
from trimtab.data.samples import coinrun

WriteAndOpen = Callable[..., Episodes]


def pixels(video: torch.Tensor) -> np.ndarray:
    """Video in [-1, 1] back to uint8 frames."""
    return ((video + 1) * 127.5).round().to(torch.uint8).movedim(-3, -1).numpy()


class Played(Episodes):
    """Episodes that lie nowhere, for tests that need many different sets."""

    def __init__(self, lengths: list[int], levels: list[int] | None = None) -> None:
        self.info = {"fps": 10, "features": {"action": {"info": {"action_names": list("abcde")}}}}
        self.lengths = np.array(lengths)
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.levels = np.arange(len(lengths)) if levels is None else np.array(levels)
        self.frames = numbered_frames(0, int(self.lengths.sum()), size=2)
        self.actions = numbers_of(self.frames) % 5


@given(
    sets=st.lists(st.lists(st.integers(1, 15), min_size=1, max_size=8), min_size=1, max_size=3),
    num_context=st.integers(1, 3),
    num_frames=st.integers(1, 5),
)
@settings(deadline=None)
def test_windows_are_all_that_fit_and_never_cross_an_end(
    sets: list[list[int]], num_context: int, num_frames: int
) -> None:
    length = num_context + num_frames
    played = [Played(lengths) for lengths in sets]
    expected = [
        (number, list(range(start + first, start + first + length)))
        for number, some in enumerate(played)
        for start, frames in zip(some.starts, some.lengths, strict=True)
        for first in range(frames - length + 1)
    ]
    if not expected:
        with pytest.raises(ValueError, match=f"no episode has the {length} frames"):
            Clips(played, num_context, num_frames)
        return
    clips = Clips(played, num_context, num_frames)
    assert len(clips) == len(expected)
    clip = clips.batch(np.arange(len(clips)))
    seen = numbers_of(pixels(torch.cat([clip.given.context, clip.video], dim=1)))
    assert seen.tolist() == [window for _, window in expected]
    assert clips.sets_of(np.arange(len(clips))).tolist() == [number for number, _ in expected]


def test_action_k_leads_to_frame_k(write_and_open: WriteAndOpen) -> None:
    clips = Clips(write_and_open([9, 30]), num_context=2, num_frames=6)
    for num_frames in (None, 1, 4):
        clip = clips.batch(np.arange(len(clips)), num_frames)
        length = num_frames or 6
        assert clip.video.shape == (len(clips), length, 3, 4, 4)
        assert clip.given.actions is not None
        # The writer gave frame n the action n % 5, so the action that leads to frame n is (n - 1) % 5.
        leading = (numbers_of(pixels(clip.video)) - 1) % 5
        assert np.array_equal(clip.given.actions.numpy(), leading)


def test_every_clip_is_told_the_text_of_its_episode(tmp_path: Path) -> None:
    sets = []
    for number, tasks in enumerate((["open", "close"], ["close", "push it", "open"])):
        with EpisodeWriter(tmp_path / str(number), frame_rate=10.0, action_names=["a", "b"], provenance={}) as writer:
            for task in tasks:
                writer.add_episode(np.zeros((4, 4, 4, 3), np.uint8), np.zeros(4, np.int64), task=task)
        sets.append(Episodes.open(tmp_path / str(number)))
    asked = []

    def encode(texts: Sequence[str]) -> torch.Tensor:
        asked.append(list(texts))
        return torch.tensor([[[float(len(text))]] * 2 for text in texts])

    clips = Clips(sets, num_context=1, num_frames=2, encode=encode)
    assert asked == [["close", "open", "push it"]]
    text = clips.batch(np.arange(len(clips))).given.text  # two windows an episode
    assert text is not None
    assert text.shape == (10, 2, 1)
    assert text[:, 0, 0].tolist() == [4, 4, 5, 5, 5, 5, 7, 7, 4, 4]
    assert Clips(sets, num_context=1, num_frames=2).batch([0]).given.text is None


def test_values_are_scaled_exactly() -> None:
    episodes = coinrun()
    clip = Clips(episodes).batch([0])
    expected = torch.from_numpy(episodes.frames[:10]).permute(0, 3, 1, 2).float() / 127.5 - 1
    assert clip.given.context is not None
    assert torch.equal(torch.cat([clip.given.context, clip.video], dim=1)[0], expected)
    assert clip.video.dtype == torch.float32
    assert clip.video.is_contiguous()
    assert clip.given.actions is not None
    assert clip.given.actions.dtype == torch.int64
    assert clip.video.min() >= -1
    assert clip.video.max() <= 1


def test_windows_are_found_by_episode_and_first_frame_and_back() -> None:
    clips = Clips([Played([12, 3, 10]), Played([11])], num_context=1, num_frames=8)
    assert clips.num_windows.tolist() == [4, 0, 2, 3]
    numbers = clips.numbers(np.array([0, 2, 3, 3]), np.array([3, 0, 0, 2]))
    assert numbers.tolist() == [3, 4, 6, 8]
    episodes, first = clips.places(numbers)
    assert (episodes.tolist(), first.tolist()) == ([0, 2, 3, 3], [3, 0, 0, 2])
    for episode, start in ((1, 0), (0, 4), (0, -1)):
        with pytest.raises(ValueError, match="begin at"):
            clips.numbers(np.array([episode]), start)


def test_more_windows_a_level_than_any_has_can_be_allowed() -> None:
    clips = Clips(Played([12, 12], [0, 1]), num_context=2, num_frames=8)
    assert clips.evenly(2, per_level=5).dtype == np.int64
    assert clips.batch(clips.evenly(2, per_level=5)).video.shape[0] == 2


def test_draw_is_a_function_of_seed_and_step() -> None:
    clips = Clips(coinrun())
    assert np.array_equal(clips.draw(3, 7, 50), clips.draw(3, 7, 50))
    assert not np.array_equal(clips.draw(3, 7, 50), clips.draw(3, 8, 50))
    assert not np.array_equal(clips.draw(3, 7, 50), clips.draw(4, 7, 50))
    counts = np.bincount(clips.draw(0, 0, 200 * len(clips)), minlength=len(clips))
    assert counts.min() > 130
    assert counts.max() < 270


@given(
    episodes=st.lists(st.tuples(st.integers(1, 60), st.integers(0, 5)), min_size=1, max_size=12),
    num=st.integers(1, 20),
    per_level=st.integers(1, 3),
)
@settings(deadline=None)
def test_evenly_takes_few_windows_a_level_that_do_not_overlap(
    episodes: list[tuple[int, int]], num: int, per_level: int
) -> None:
    lengths, levels = zip(*episodes, strict=True)
    played = Played(list(lengths), list(levels))
    fitting = {level: sum(-(-max(n - 4, 0) // 5) for n, other in episodes if other == level) for level in levels}
    available = sum(min(count, per_level) for count in fitting.values())
    if max(lengths) < 5:
        return
    clips = Clips(played, num_context=2, num_frames=3)
    if num > available:
        with pytest.raises(ValueError, match=f"give only {available}"):
            clips.evenly(num, per_level)
        return
    chosen = clips.evenly(num, per_level)
    used = np.bincount(clips.levels(chosen))
    assert len(set(chosen)) == num
    assert used.max() <= per_level
    assert np.array_equal(chosen, clips.evenly(num, per_level))
    frames = numbers_of(pixels(clips.batch(chosen).video)).ravel()
    assert len(set(frames)) == frames.size
    if num <= sum(count > 0 for count in fitting.values()):
        assert used.max() == 1
    few = np.bincount(clips.levels(clips.evenly(num, per_level=None)))
    assert few.sum() == num
    assert few.max() <= used.max()


def test_the_windows_of_few_levels_are_of_all_their_episodes() -> None:
    clips = Clips(Played([30] * 8, [0, 1] * 4), num_context=2, num_frames=3)
    with pytest.raises(ValueError, match="give only 48"):
        clips.evenly(49, per_level=None)
    episodes, _ = clips.places(clips.evenly(8, per_level=None))
    assert sorted(episodes) == list(range(8))


@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=12), num=st.integers(1, 40))
@settings(deadline=None)
def test_windows_over_episodes_are_as_many_of_each_as_can_be(lengths: list[int], num: int) -> None:
    available = np.array([-(-max(n - 4, 0) // 5) for n in lengths])
    if max(lengths) < 5:
        return
    clips = Clips(Played(lengths, [0] * len(lengths)), num_context=2, num_frames=3)
    if num > available.sum():
        with pytest.raises(ValueError, match=f"1 to {available.sum()} can be cut"):
            clips.over_episodes(num)
        return
    chosen = clips.over_episodes(num)
    assert np.array_equal(chosen, clips.over_episodes(num))
    assert len(set(chosen)) == num
    frames = numbers_of(pixels(clips.batch(chosen).video)).ravel()
    assert len(set(frames)) == frames.size
    used = np.bincount(clips.places(chosen)[0], minlength=len(lengths))
    assert all(used[e] >= min(used.max() - 1, available[e]) for e in range(len(lengths)))


def test_tasks_that_share_levels_are_all_seen_at_all_moments() -> None:
    clips = Clips(Played([35] * 72, [*range(24)] * 3), num_context=1, num_frames=8)  # three tasks of 24 levels
    for num in (24, 64):
        episodes, first = clips.places(clips.over_episodes(num))
        assert len(set(clips.levels(clips.over_episodes(num)))) == 24
        seen = np.zeros((3, 3), int)
        np.add.at(seen, (episodes // 24, first // 9), 1)
        assert seen.sum(1).min() >= num / 4
        assert seen.min() >= num / 36  # of num / 9 in the mean
    with pytest.raises(ValueError, match="1 to 216 can be cut"):
        clips.over_episodes(0)


def test_wrong_requests_are_refused() -> None:
    clips = Clips(coinrun())
    for indices in ([len(clips)], [-1], [0.5], 3):
        with pytest.raises(ValueError, match="window numbers"):
            clips.batch(np.array(indices))
    for num_frames in (0, 9):
        with pytest.raises(ValueError, match=r"num_frames is 1\.\.8"):
            clips.batch([0], num_frames)
    with pytest.raises(ValueError, match="lengths are 3 to 9 frames in 2 episodes"):
        Clips(Played([3, 9]))
    with pytest.raises(ValueError, match="differ in frame shape or actions"):
        Clips([Played([20]), coinrun()])
    with pytest.raises(ValueError, match="at least one set"):
        Clips([])


def test_clips_are_fast() -> None:
    """Far below what one core does (about 5,000 clips/s), far above what decoding PNG would allow (about 600)."""
    clips = Clips(coinrun())
    batches = [clips.draw(0, step, 64) for step in range(10)]
    started = time.process_time()
    for batch in batches:
        clips.batch(batch)
    assert 640 / (time.process_time() - started) > 1000


@pytest.mark.parametrize("mapped", [True, False])
def test_what_will_be_read_can_be_announced(tmp_path: Path, mapped: bool) -> None:
    """Up to the file's last byte, from any start, whether a page begins there or not, and without effect on what is read."""
    frames = np.random.default_rng(0).integers(0, 256, (50, 9, 7, 3), dtype=np.uint8)
    frames.tofile(tmp_path / "frames")
    seen = np.memmap(tmp_path / "frames", np.uint8, "r").reshape(frames.shape) if mapped else frames
    expect(seen, [0, 13, 40], 10)
    assert np.array_equal(seen, frames)
    if mapped:
        with pytest.raises(ValueError, match="madvise"):
            expect(seen, [5000], 10)  # it was the file that was asked
