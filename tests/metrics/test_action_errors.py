"""A judge of action vectors reads how far a dot moved, and its ratio says when a video no longer shows it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from trimtab.metrics.actions import ActionJudge, JudgeFile, action_errors, vector_error_ratio

SIDE = 32
EPISODES = torch.arange(60) // 2  # two clips of each


def dots(num: int, num_steps: int, seed: int) -> tuple[Tensor, Tensor]:
    """Clips (num, num_steps + 1, 3, 32, 32) of a dot that action k (x, y) moves by 2 pixels times itself."""
    random = torch.Generator().manual_seed(seed)
    actions = torch.rand(num, num_steps, 2, generator=random) * 2 - 1
    start = torch.rand(num, 1, 2, generator=random) * 8 + 12
    places = torch.cat([start, start + 2 * actions.cumsum(1)], dim=1)
    x, y = ((torch.arange(SIDE) - places[..., i, None]) / 1.5 for i in range(2))
    dot = torch.exp(-x.square()[:, :, None, :] - y.square()[:, :, :, None])
    return (2 * dot - 1)[:, :, None].expand(-1, -1, 3, -1, -1).contiguous(), actions


@pytest.fixture(scope="module")
def judge() -> ActionJudge:
    torch.manual_seed(0)
    judge = ActionJudge(num_actions=2, width=8, frame_size=SIDE, crop=SIDE)
    optimiser = torch.optim.Adam(judge.parameters(), 3e-3)
    falling = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.05, 250)
    for step in range(250):
        frames, actions = dots(48, 2, seed=step)
        loss = functional.mse_loss(judge.score(judge.look(frames)), actions[:, 1])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        falling.step()
    return judge.eval()


@pytest.fixture(scope="module")
def errors(judge: ActionJudge) -> Callable[..., Tensor]:
    """What the judge errs by, in clips that were not trained on, of which the frames after the context are changed."""
    frames, actions = dots(60, 5, seed=10**6)
    context, video = frames[:, :2], frames[:, 2:]

    def of(change: Callable[[Tensor], Tensor] = lambda video: video, squared: bool = False) -> Tensor:
        return action_errors(judge(context, change(video)), actions[:, 1:], squared=squared)

    return of


def test_a_trained_judge_hardly_errs_on_real_video(errors: Callable[..., Tensor]) -> None:
    assert errors().shape == (60, 4)
    assert errors().mean() < 0.1  # to answer nothing but the mean is wrong by 0.5, and by 1/3 squared
    assert errors(squared=True).mean() < 0.03


def test_the_ratio_is_one_for_real_video_and_grows_as_motion_is_lost(errors: Callable[..., Tensor]) -> None:
    same = vector_error_ratio(errors(), errors(), EPISODES)
    assert (same.mean, same.low, same.high) == (1, 1, 1)
    assert (same.num_clips, same.num_clusters) == (60, 30)
    still = vector_error_ratio(errors(lambda video: video[:, :1].expand_as(video)), errors(), EPISODES)
    shuffled = vector_error_ratio(errors(lambda video: video[:, [2, 0, 3, 1]]), errors(), EPISODES)
    exchanged = vector_error_ratio(errors(lambda video: video.roll(1, dims=0)), errors(), EPISODES)
    for ratio in (still, shuffled, exchanged):
        assert ratio.low > 3
        assert ratio.low < ratio.mean < ratio.high
    slight = errors(lambda video: (video + 0.02 * torch.randn(video.shape)).clamp(-1, 1))
    assert 0.8 < vector_error_ratio(slight, errors(), EPISODES).mean < still.mean / 2


def test_clips_of_one_episode_count_as_one(errors: Callable[..., Tensor]) -> None:
    generated, real = errors(lambda video: video.flip(1))[::2], errors()[::2]
    once = vector_error_ratio(generated, real, EPISODES[::2])
    twice = vector_error_ratio(generated.repeat(2, 1), real.repeat(2, 1), EPISODES[::2].repeat(2))
    assert (twice.mean, twice.low, twice.high) == pytest.approx((once.mean, once.low, once.high))
    assert (once.num_clips, twice.num_clips) == (30, 60)


def test_a_stored_judge_of_vectors_reads_the_same(judge: ActionJudge, tmp_path: Path) -> None:
    JudgeFile(tmp_path / "dots.safetensors").save(judge, {"actions": "vectors"})
    frames, _ = dots(3, 4, seed=5)
    found = JudgeFile(tmp_path / "dots.safetensors").load()(frames[:, :2], frames[:, 2:])
    torch.testing.assert_close(found, judge(frames[:, :2], frames[:, 2:]), atol=5e-3, rtol=0)  # float16 weights


@given(st.lists(st.tuples(st.floats(-2, 2), st.floats(-2, 2)), min_size=1, max_size=6))
def test_errors_are_means_over_the_numbers_of_an_action(pairs: list[tuple[float, float]]) -> None:
    actions = torch.tensor(pairs)[None]
    read = actions + torch.tensor([0.5, -1.5])
    assert action_errors(read, actions).tolist() == [pytest.approx([1.0] * len(pairs), abs=1e-5)]
    assert action_errors(read, actions, squared=True).tolist() == [pytest.approx([1.25] * len(pairs), abs=1e-5)]
    assert (action_errors(actions, actions) == 0).all()


@pytest.mark.usefixtures("without_shape_types")
def test_errors_of_other_shapes_or_kinds_are_refused() -> None:
    read = torch.zeros(2, 3, 4)
    for actions in (torch.zeros(2, 3, 5), torch.zeros(2, 3), torch.zeros(2, 3, 4, dtype=torch.int64)):
        with pytest.raises(ValueError, match=r"actions must be floats \(2, 3, 4\)"):
            action_errors(read, actions)
    with pytest.raises(ValueError, match="errors are of the same clips"):
        vector_error_ratio(torch.ones(4, 3), torch.ones(4, 2), torch.arange(4))
    with pytest.raises(ValueError, match="denominator's mean is zero"):
        vector_error_ratio(torch.ones(4, 3), torch.zeros(4, 3), torch.arange(4))
    with pytest.raises(ValueError, match="two clusters or more"):
        vector_error_ratio(torch.ones(4, 3), torch.ones(4, 3), torch.zeros(4, dtype=torch.int64))
