"""The part of a planner that was broken is the one that is blamed."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from points import LeastSquares, Oracle, Points
from torch import Tensor

from trimtab.control.blame import Blame, Cause, Continuation, Expert, find_causes, summary
from trimtab.control.episodes import Episode, run_episodes
from trimtab.control.video_planner import Present, Read, VideoPlanner, Videos, as_video
from trimtab.environments.metaworld import MetaWorld

SEEDS = [1, 2, 3]
READ = LeastSquares()


def still(video: Videos, now: Videos) -> Videos:
    """Nothing ever moves."""
    return now[:, :, -1:].expand_as(video)


def misread(before: Tensor, after: Tensor) -> Tensor:
    """Every action is read as its opposite."""
    return -READ(before, after)


def true(video: Videos, now: Videos) -> Videos:
    return video


CASES: list[tuple[Callable[[Videos, Videos], Videos], Read, bool, Cause]] = [
    (still, READ, False, "the video"),
    (true, misread, False, "the inverse dynamics"),
    (still, misread, False, "the inverse dynamics"),
    (still, READ, True, "the expert"),
]


@pytest.mark.parametrize("replan_every", [1, 3])
@pytest.mark.parametrize(("imagine", "read", "astray", "cause"), CASES)
def test_what_was_broken_is_blamed(
    imagine: Callable[[Videos, Videos], Videos], read: Read, astray: bool, cause: Cause, replan_every: int
) -> None:
    points = Points(astray=astray)
    planner = VideoPlanner(Oracle(points, change=imagine), read, replan_every=replan_every)
    played = run_episodes(points, planner, SEEDS)
    assert not any(one.success for one in played)
    blames = find_causes(points, planner, played, keep_frames=True)
    assert [blame.cause for blame in blames] == [cause] * 3
    for blame, failed in zip(blames, played, strict=True):
        assert blame.failed is failed
        for one in (blame.true_actions, blame.true_video):
            assert (one.seed, one.text) == (failed.seed, failed.text)
            assert one.num_steps == 12 or one.success
        np.testing.assert_array_equal(blame.true_actions.frames[0], blame.true_video.frames[0])
        if not astray:
            assert blame.true_actions.success
            assert blame.true_actions.num_steps <= 9
        assert [plan.step % replan_every for plan in blame.true_video.plans] == [0] * len(blame.true_video.plans)


def test_too_few_steps_are_not_the_planners_fault() -> None:
    points = Points(max_episode_steps=2)
    planner = VideoPlanner(Oracle(points), READ)
    blames = find_causes(points, planner, run_episodes(points, planner, SEEDS))
    assert [blame.cause for blame in blames] == ["the expert"] * 3


def test_only_failed_episodes_are_played_again() -> None:
    points = Points()
    asked: list[tuple[int, ...]] = []

    class Lame(Oracle):
        """Sees nothing move in the second copy."""

        def __call__(self, present: Present) -> Videos:
            asked.append(present.copies)
            first = torch.tensor(present.copies)[:, None, None, None, None, None] != 1
            video, now = super().__call__(present), as_video(present.frames[:, None])
            return torch.where(first, video, still(video, now))

    planner = VideoPlanner(Lame(points), READ)
    played = run_episodes(points, planner, SEEDS)
    assert [one.success for one in played] == [True, False, True]
    num_asked = len(asked)
    (blame,) = find_causes(points, planner, played)
    assert len(asked) == num_asked
    assert blame.failed is played[1]
    assert blame.true_video.seed == 2
    assert blame.cause == "the video"
    assert find_causes(points, planner, [replace(one, success=True) for one in played]) == []
    with pytest.raises(ValueError, match="expected the episodes of all 3 copies, got 1"):
        find_causes(points, planner, played[1:2])


def test_the_expert_plays_blindly_as_long_as_a_plan_is_followed() -> None:
    points = Points(drift=(0.4, -0.4), max_episode_steps=8)
    often, rarely = (run_episodes(points, Expert(points, every), SEEDS, keep_frames=True) for every in (1, 4))
    for one, other in zip(often, rarely, strict=True):  # what it foresees is what happens, drift and all
        np.testing.assert_array_equal(one.frames, other.frames)
    frames, _ = points.reset(seed=SEEDS)
    present = Present(frames[[2, 0]][:, None], (2, 0), None, (3, 1), 0)
    videos = Continuation(points, 5)(present)
    assert videos.shape == (2, 1, 5, 3, 24, 24)
    seen = often[2].frames
    assert seen is not None
    np.testing.assert_allclose((videos[0, 0, 3].permute(1, 2, 0) + 1) * 127.5, seen[4], atol=1e-3)


def test_the_expert_leaves_alone_who_stopped_amid_a_plan() -> None:
    points = Points(drift=(0.4, -0.4))
    frames, _ = points.reset(seed=SEEDS)
    expert = Expert(points, 3)
    assert (np.abs(expert.act(frames, np.array([True, True, True]))).sum(1) > 0).all()
    later = expert.act(frames, np.array([True, False, True]))
    assert not later[1].any()
    assert later[0].any()
    assert later[2].any()


def test_a_summary_counts_the_causes_of_each_task() -> None:
    def blame(text: str, video: bool, expert: bool) -> Blame:
        failed = Episode(0, text, False, 0.0, 5)
        return Blame(failed, replace(failed, success=video), replace(failed, success=expert))

    blames = [blame("b", True, True), blame("b", False, True), blame("a", False, False), blame("b", True, False)]
    assert [line.split()[-3:] for line in summary(blames).splitlines()[1:]] == [
        ["0", "0", "1"],
        ["2", "1", "0"],  # the first swap that succeeds is the cause, whatever the next would have done
        ["2", "1", "1"],
    ]
    header, first, *_, last = summary(blames).splitlines()
    assert header.split("  ")[0] == "failed episodes"
    assert [name.strip() for name in header.split("  ") if name][1:] == [
        "the video",
        "the inverse dynamics",
        "the expert",
    ]
    assert (first[0], last[:3]) == ("a", "all")
    assert len({len(line) for line in summary(blames).splitlines()}) == 1
    assert summary([]).splitlines()[1].split() == ["all", "0", "0", "0"]


@pytest.mark.slow
def test_in_metaworld_the_swaps_start_where_the_failed_episode_did() -> None:
    environment = MetaWorld(["door-close", "reach"], action_repeat=4, max_episode_steps=30)

    def pause(before: Tensor, after: Tensor) -> Tensor:
        return torch.zeros(len(before), 4)

    planner = VideoPlanner(Continuation(environment, 2), pause, replan_every=2)
    played = run_episodes(environment, planner, [4, 5], keep_frames=True)
    blames = find_causes(environment, planner, played, keep_frames=True)
    environment.close()
    assert [blame.cause for blame in blames] == ["the inverse dynamics"] * 2
    for blame in blames:
        for one in (blame.true_actions, blame.true_video):
            np.testing.assert_array_equal(one.frames[0], blame.failed.frames[0])
