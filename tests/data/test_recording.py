"""Recording keeps every frame with the action taken at it, cuts where it should, and is the same twice."""

from pathlib import Path

import numpy as np
import pytest

from trimtab.data.episodes import Episodes, EpisodeWriter
from trimtab.data.recording import describe_play, record


class Counting:
    """Copies of a game whose frames show (copy, episode, step); an episode of copy c lasts 4 + 7 c frames."""

    def __init__(self, num: int = 3) -> None:
        self.num, self.episode, self.step = num, np.zeros(num, np.int64), np.zeros(num, np.int64)
        self.lengths = 4 + 7 * np.arange(num)

    def observe(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        facts = np.stack([np.arange(self.num), self.episode, self.step], axis=1).astype(np.uint8)
        frames = np.broadcast_to(facts[:, None, None], (self.num, 4, 4, 3))
        return frames, self.step == 0, 100 * np.arange(self.num) + self.episode

    def act(self, actions: np.ndarray, restart: np.ndarray) -> None:
        self.step += 1
        over = (self.step == self.lengths) | restart
        self.episode[over] += 1
        self.step[over] = 0


class Shown:
    """Acts as a function of what it sees: copy + step, modulo 5."""

    def reset(self) -> None: ...

    def act(self, observation: np.ndarray) -> np.ndarray:
        facts = observation[:, 0, 0].astype(np.int64)
        return (facts[:, 0] + facts[:, 2]) % 5


def play(folder: Path, num_frames: int, **options: int) -> Episodes:
    with EpisodeWriter(folder, frame_rate=10.0, action_names="abcde", provenance={}) as writer:
        record(Counting(), Shown(), writer, num_frames, show_progress=False, **options)
    return Episodes.open(folder)


def test_rows_pair_a_frame_with_the_action_taken_at_it(tmp_path: Path) -> None:
    episodes = play(tmp_path / "set", 200, max_episode_frames=13)
    for number in range(len(episodes)):
        frames, actions = episodes.episode(number)
        copy, episode, step = frames[:, 0, 0].astype(int).T
        assert len(set(copy)) == len(set(episode)) == 1
        assert step.tolist() == list(range(len(frames)))
        assert np.array_equal(actions, (copy + step) % 5)
        assert episodes.levels[number] == 100 * copy[0] + episode[0]
        assert len(frames) <= min((4, 11, 13)[copy[0]], 13)
        assert episodes.ended[number] == (len(frames) == (4, 11, 18)[copy[0]])
    assert episodes.num_frames >= 200
    whole = episodes.lengths[(episodes.levels // 100 == 2)][:-1]
    assert set(whole) == {13}


def test_short_episodes_are_dropped_and_no_frame_is_recorded_twice(tmp_path: Path) -> None:
    episodes = play(tmp_path / "set", 150, min_episode_frames=5)
    assert episodes.lengths.min() >= 5
    assert 0 not in episodes.levels // 100
    seen = {tuple(frame) for frame in episodes.frames[:, 0, 0]}
    assert len(seen) == episodes.num_frames


def test_impossible_requests_are_refused(tmp_path: Path) -> None:
    for options in ({"num_frames": 0}, {"num_frames": 9, "max_episode_frames": 3, "min_episode_frames": 4}):
        with pytest.raises(ValueError, match="recording needs"):
            play(tmp_path / "set", **options)


def test_describe_play(tmp_path: Path) -> None:
    play_facts = describe_play(play(tmp_path / "set", 220, max_episode_frames=13), effects=(0, 0, 1, 1, 1))
    assert play_facts["share_pixels_changed"] == 1.0  # every pixel shows the step
    assert play_facts["share_frames_still"] == 0.0
    assert play_facts["mean_hold"] == 1.0
    assert play_facts["action_entropy_bits"] == pytest.approx(np.log2(5), abs=0.05)
    assert sum(play_facts["share_of_effects"]) == pytest.approx(1, abs=1e-3)
    assert play_facts["share_of_effects"][0] == pytest.approx(0.4, abs=0.1)
