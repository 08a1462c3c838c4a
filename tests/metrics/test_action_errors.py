"""A judge of action vectors reads how far a dot moved, and its ratio says when a video no longer shows it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from trimtab.metrics.actions import ActionJudge, JudgeFile, action_errors, vector_error_ratio
from trimtab.metrics.evaluation import REAL, REPEAT_LAST_FRAME, evaluate
from trimtab.metrics.intervals import mean_interval, paired_interval
from trimtab.metrics.protocol import Evaluation, compared
from trimtab.recipes.compare import compare

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


@pytest.fixture(scope="module")
def judge_file(judge: ActionJudge, tmp_path_factory: pytest.TempPathFactory) -> JudgeFile:
    file = JudgeFile(Path(tmp_path_factory.mktemp("judge")) / "dots.safetensors")
    file.save(judge, {"actions": "vectors"})
    return file


@pytest.fixture(scope="module")
def clips() -> Mapping[str, Tensor]:
    frames, actions = dots(60, 5, seed=10**6)
    video = frames[:, 2:]
    return {"context": frames[:, :2], "real": video, "shuffled": video[:, [2, 0, 3, 1]], "actions": actions[:, 1:]}


def measure(clips: Mapping[str, Tensor], *methods: str, num: int = 60, **options: Any) -> Evaluation:
    some = {name: value[:num] for name, value in clips.items()}
    known: dict[str, Any] = {"context": some["context"], "actions": some["actions"], "levels": EPISODES[:num]}
    named = {"as is" if name == "real" else name: some[name] for name in methods}
    return evaluate(named, some["real"], **{**known, **options})


@pytest.fixture(scope="module")
def table(clips: Mapping[str, Tensor], judge_file: JudgeFile) -> Evaluation:
    return measure(clips, "real", "shuffled", judge_file=judge_file, reference="as is", seed=2)


def test_an_evaluation_reports_the_errors_of_the_vectors_read(
    table: Evaluation, clips: Mapping[str, Tensor], judge_file: JudgeFile
) -> None:
    judge = judge_file.load()
    wrong = {
        method: action_errors(judge(clips["context"], clips[key]), clips["actions"])
        for method, key in ((REAL, "real"), ("as is", "real"), ("shuffled", "shuffled"))
    }
    for method, values in wrong.items():
        figure = table.figure(method, "action error")
        assert figure.overall == mean_interval(values.mean(1), EPISODES, seed=2)
        assert figure.per_step == pytest.approx(values.mean(0).tolist())
        assert figure.values == pytest.approx(values.mean(1).tolist(), rel=1e-4)
    lost = table.figure("shuffled", "action error").difference
    assert lost == paired_interval(wrong["shuffled"].mean(1), wrong[REAL].mean(1), EPISODES, seed=2)
    ratio = table.figure("shuffled", "action error ratio")
    assert ratio.overall == mean_interval(wrong["shuffled"].mean(1), EPISODES, over=wrong[REAL].mean(1), seed=2)
    assert "mean absolute error" in table.protocol["metrics"]["action error"]
    assert not any("accuracy" in metric for metric in table.protocol["metrics"])


def test_real_video_reads_like_real_and_shuffled_or_still_video_does_not(table: Evaluation) -> None:
    same = table.figure("as is", "action error ratio")
    assert (same.overall.mean, same.overall.low, same.overall.high) == (1, 1, 1)
    assert same.per_step == (1, 1, 1, 1)
    for method in ("shuffled", REPEAT_LAST_FRAME):
        assert table.figure(method, "action error ratio").overall.low > 3
    with pytest.raises(KeyError):
        table.figure(REAL, "action error ratio")


def test_an_evaluation_of_vectors_survives_its_file_and_is_compared(
    table: Evaluation,
    clips: Mapping[str, Tensor],
    judge_file: JudgeFile,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert Evaluation.from_json(table.to_json()) == table
    other = measure(clips, "shuffled", judge_file=judge_file, seed=2)
    differences = compared(other, table, "shuffled", "as is")
    found, expected = differences["action error"], table.figure("shuffled", "action error").difference
    assert expected is not None
    assert (found.mean, found.low, found.high) == pytest.approx((expected.mean, expected.low, expected.high), rel=1e-3)
    for name, result in (("one", table), ("two", other)):
        (tmp_path / f"{name}.json").write_text(result.to_json())
    compare(tmp_path / "one.json", tmp_path / "two.json", method="as is")
    assert "action error" in " ".join(capsys.readouterr().out.split())
    told = measure(clips, "shuffled", judge_file=judge_file, seed=2, actions=clips["actions"] + 0.01)
    with pytest.raises(ValueError, match="measured alike"):
        compared(told, table, "shuffled", "as is")


def test_a_ratio_of_few_episodes_is_left_out_and_said_so(clips: Mapping[str, Tensor], judge_file: JudgeFile) -> None:
    few = measure(clips, "shuffled", judge_file=judge_file, num=8)
    assert few.figure("shuffled", "action error").overall.num_clusters == 4
    assert "fewer than 30 levels" in few.protocol["left_out"]["action error ratio"]


@pytest.mark.usefixtures("without_shape_types")
def test_a_judge_of_other_actions_is_refused(
    clips: Mapping[str, Tensor], judge: ActionJudge, judge_file: JudgeFile, tmp_path: Path
) -> None:
    steps = torch.zeros(4, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"dots\.safetensors reads action vectors, and these are discrete actions"):
        measure(clips, judge_file=judge_file, num=4, actions=steps)
    silent = JudgeFile(tmp_path / "silent.safetensors")
    silent.save(judge, {})  # as the judge that ships with the library
    with pytest.raises(ValueError, match=r"silent\.safetensors reads discrete actions, and these are action vectors"):
        measure(clips, judge_file=silent, num=4)
    assert measure(clips, judge_file=silent, num=4, actions=steps).figure(REAL, "action accuracy (15 actions)")
    silent.save(judge, {"actions": "words"})
    with pytest.raises(ValueError, match="'discrete' or 'vectors', not 'words'"):
        measure(clips, judge_file=silent, num=4)
    with pytest.raises(ValueError, match=r"actions must be floats \(4, 4, 2\), as the judge's answers"):
        measure(clips, judge_file=judge_file, num=4, actions=torch.zeros(4, 4, 7))
    with pytest.raises(ValueError, match=r"action vectors are \(4, 4, dim\), one for each frame"):
        measure(clips, num=4, actions=torch.zeros(4, 3, 2))
    with pytest.raises(ValueError, match="effects merge discrete actions"):
        measure(clips, num=4, effects={"all": (0, 0)})
