"""Every copy plays one episode, to success or to its end, and what it begins by itself afterwards does not count."""

from collections.abc import Sequence

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from points import SIZE, Point, Points

from trimtab.control.blame import Expert
from trimtab.control.episodes import Plan, run_episodes


class Waiting(Expert):
    """The expert, but some copies stand still until a step; remembers who was active."""

    def __init__(self, points: Points, until: Sequence[int]) -> None:
        super().__init__(points)
        self.until, self.activity = np.array(until), []

    def act(self, frames: np.ndarray, active: np.ndarray | None = None) -> np.ndarray:
        assert active is not None
        wait = self._step < self.until
        self.activity.append(active.tolist())
        return np.where(wait[:, None], np.float32(0), super().act(frames, active))


@pytest.mark.parametrize("end_at_success", [True, False])
def test_an_episode_ends_at_success_or_when_the_environment_says_so(end_at_success: bool) -> None:
    points = Points(4, end_at_success=end_at_success)
    player = Waiting(points, [0, 5, 12, 3])
    played = run_episodes(points, player, [7, 7, 7, 9], keep_frames=True)
    assert [one.success for one in played] == [True, True, False, True]
    quick, late, failed, _ = played
    assert late.num_steps == quick.num_steps + 5
    assert failed.num_steps == 12
    assert [one.seed for one in played] == [7, 7, 7, 9]
    assert [one.text for one in played] == ["go to mark 0", "go to mark 1"] * 2
    for copy, one in enumerate(played):
        assert one.total_reward == -one.num_steps
        assert one.frames is not None
        assert one.frames.shape == (one.num_steps + 1, SIZE, SIZE, 3)
        assert one.plans == ()
        assert [active[copy] for active in player.activity] == [True] * one.num_steps + [False] * (12 - one.num_steps)
    np.testing.assert_array_equal(late.frames[5:], quick.frames)
    np.testing.assert_array_equal(failed.frames, np.broadcast_to(failed.frames[0], failed.frames.shape))


def test_the_same_seeds_give_the_same_episodes_and_only_those_asked_for_are_played() -> None:
    points = Points(3)
    everyone = run_episodes(points, Expert(points), [1, 2, 3], keep_frames=True)
    player = Waiting(points, [0, 0, 0])
    some = run_episodes(points, player, [1, 2, 3], copies=[2, 0], keep_frames=True)
    for one, again in zip((everyone[2], everyone[0]), some, strict=True):
        assert (one.seed, one.success, one.num_steps) == (again.seed, again.success, again.num_steps)
        np.testing.assert_array_equal(one.frames, again.frames)
    assert not any(active[1] for active in player.activity)


def test_what_a_copy_does_after_its_episode_does_not_count() -> None:
    class Tireless(Expert):
        """Acts in episodes that nobody asked for, too, while the last copy stands still."""

        def act(self, frames: np.ndarray, active: np.ndarray | None = None) -> np.ndarray:
            return super().act(frames) * (np.arange(len(frames)) < 8)[:, None]

    points = Points(9, max_episode_steps=[5] * 8 + [40])
    *together, last = run_episodes(points, Tireless(points), range(9))
    assert last.num_steps == 40
    single = Points(1, max_episode_steps=5)
    alone = [run_episodes(single, Expert(single), [seed])[0] for seed in range(8)]
    assert {one.success for one in alone} == {True, False}
    for one, other in zip(together, alone, strict=True):
        assert (one.success, one.num_steps, one.total_reward) == (other.success, other.num_steps, other.total_reward)


def test_plans_are_kept_once_each_and_nothing_is_kept_unless_asked_for() -> None:
    class Planning(Expert):
        """Says every third step what it intends."""

        def act(self, frames: np.ndarray, active: np.ndarray | None = None) -> np.ndarray:
            if self._step % 3 == 0:
                self.plans = {0: Plan(self._step, frames[:1], np.zeros((1, 2), np.float32))}
            return super().act(frames, active)

    points = Points(2, max_episode_steps=4)
    first, second = run_episodes(points, Planning(points), [1, 2], keep_frames=True)
    assert [plan.step for plan in first.plans] == [0, 3]
    np.testing.assert_array_equal(first.plans[1].frames[0], first.frames[3])
    assert second.plans == ()
    for one in run_episodes(points, Planning(points), [1, 2]):
        assert one.frames is None
        assert one.plans == ()


def test_environments_and_requests_that_do_not_fit_are_refused() -> None:
    points = Points(2)
    for seeds, copies in (([1], None), ([1, 2, 3], None), ([1, 2], [2])):
        with pytest.raises(ValueError, match=r"expected 2 seeds and copies of 0 .. 1"):
            run_episodes(points, Expert(points), seeds, copies=copies)

    other = Points(1, autoreset_mode=AutoresetMode.SAME_STEP)
    with pytest.raises(ValueError, match=r"AutoresetMode.NEXT_STEP in its metadata, got AutoresetMode.SAME_STEP"):
        run_episodes(other, Expert(other), [1])

    class Silent(Point):
        """Does not say what the task is."""

        def reset(self, **options):
            frame, facts = super().reset(**options)
            return frame, {"success": facts["success"]}

    silent = Points(1, kind=Silent)
    with pytest.raises(
        ValueError, match=r"must inform of 'text', one entry a copy; it informs of \['_success', 'success'\]"
    ):
        run_episodes(silent, Expert(silent), [1])


def test_where_no_success_is_known_an_episode_goes_on_to_its_end() -> None:
    class Rewarding(Point):
        """Does not say whether the task is done."""

        def step(self, action):
            *rest, facts = super().step(action)
            return *rest, {"text": facts["text"]}

    points = Points(1, kind=Rewarding, end_at_success=False, max_episode_steps=9)
    (episode,) = run_episodes(points, Expert(points), [1])
    assert not episode.success
    assert episode.num_steps == 9
