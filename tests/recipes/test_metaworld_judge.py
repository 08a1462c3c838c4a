"""The judge of a robot's action vectors from recorded set to judge file at toy size; nothing is rendered."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from trimtab import forecast
from trimtab.data.clips import to_video
from trimtab.data.episodes import Episodes, EpisodeWriter
from trimtab.metrics.actions import ActionJudge, JudgeFile, action_errors, vector_error_ratio
from trimtab.recipes import metaworld_judge as recipe
from trimtab.recipes.domains import metaworld
from trimtab.recipes.metaworld_judge import Reading, answers, triples_of
from trimtab.recipes.reading.pairs import Part, divided

SIDE = 16

PARTS = ("number 1", "number 2", "number 3", "number 4")


def dots(actions: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Frames (time, 16, 16, 3) of a red and a blue dot, each displaced by 1.5 pixels times its half of the action."""
    start = random.uniform(6, 10, (1, 4))
    places = np.concatenate([start, start + 1.5 * np.cumsum(actions[:-1], axis=0)])
    x, y, z, gripper = (np.exp(-np.square((np.arange(SIDE) - places[:, i, None]) / 2)) for i in range(4))
    frames = np.zeros((len(actions), SIDE, SIDE, 3))
    frames[..., 0], frames[..., 2] = (y[:, :, None] * x[:, None, :], gripper[:, :, None] * z[:, None, :])
    return (255 * frames).astype(np.uint8)


def record(folder: Path, lengths: tuple[int, ...]) -> Episodes:
    random = np.random.default_rng(0)
    with EpisodeWriter(folder, frame_rate=20.0, action_dim=4, provenance={"environment": "dots"}) as writer:
        for level, length in enumerate(lengths):
            actions = random.uniform(-1, 1, (length, 4)).astype(np.float32)
            writer.add_episode(dots(actions, random), actions, level=level, task="move dots")
    return Episodes.open(folder)


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> Episodes:
    return record(tmp_path_factory.mktemp("dots") / "set", (6,) * 320)


@pytest.fixture(scope="module")
def run(episodes: Episodes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short training, forecast first."""
    output = Path(tmp_path_factory.mktemp("run"))
    settings: dict[str, Any] = {
        "data": episodes.folder, "held_out": 0.2, "num_steps": 200, "batch_size": 48, "learning_rate": 3e-3, "width": 12,
        "frame_size": SIDE, "output": output,
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forecast, "TRIED", 1)
        recipe.metaworld_judge(**settings, dry_run=True)
    assert json.loads((output / "forecast.json").read_text())["steps"] == 200
    assert not (output / "judge.safetensors").exists()
    recipe.metaworld_judge(**settings)
    return output


@pytest.fixture(scope="module")
def held(episodes: Episodes) -> tuple[Part, Part]:
    train, test = divided(episodes, 0.2, 0)
    return triples_of(episodes, train.episodes), triples_of(episodes, test.episodes)


def test_a_short_training_reads_every_part_far_better_than_the_mean(run: Path) -> None:
    found = JudgeFile(run / "judge.safetensors").card["held_out_error"]
    assert list(found) == [*PARTS, "all"]
    for figures in found.values():
        assert figures["squared_error"]["high"] < 0.4 * figures["of_the_mean"]["low"]
        assert figures["of_the_mean"]["mean"] == pytest.approx(1 / 3, rel=0.2)
        assert (figures["squared_error"]["num_clips"], figures["squared_error"]["num_clusters"]) == (64 * 4, 64)


def test_the_card_is_that_of_the_stored_judge(run: Path, held: tuple[Part, Part]) -> None:
    file = JudgeFile(run / "judge.safetensors")
    assert file.reads_vectors
    assert (file.card["num_train_episodes"], file.card["num_test_episodes"]) == (256, 64)
    assert file.card["data"]["environment"] == "dots"
    read, actions = answers(file.load(), held[1])
    for name, error in zip(PARTS, (read - actions).square().mean(0).tolist(), strict=True):
        assert file.card["held_out_error"][name]["squared_error"]["mean"] == pytest.approx(error, rel=1e-4)


def test_it_reads_blurred_and_noisy_frames_too(run: Path, held: tuple[Part, Part]) -> None:
    judge, clip = JudgeFile(run / "judge.safetensors").load(), held[1].batch(held[1].numbers)
    known = clip.given.facts()

    def error(change: Callable[[Tensor], Tensor]) -> float:
        read = judge(*map(change, (known["context"], clip.video)))
        return action_errors(read, known["actions"], squared=True).mean().item()

    def blurred(video: Tensor) -> Tensor:
        return functional.avg_pool2d(video.flatten(0, 1), 3, 1, 1, count_include_pad=False).unflatten(
            0, video.shape[:2]
        )

    assert error(blurred) < 0.1  # of 1/3 for one who sees nothing
    assert error(lambda video: (video + 0.01 * torch.randn(video.shape)).clamp(-1, 1)) < 0.1


def test_video_in_another_order_reads_worse(run: Path, episodes: Episodes) -> None:
    frames = to_video(np.stack([episodes.episode(number)[0] for number in range(40)]))
    actions = torch.from_numpy(np.stack([episodes.episode(number)[1][1:5] for number in range(40)]))
    context, real = frames[:, :2], frames[:, 2:]
    judge = JudgeFile(run / "judge.safetensors").load()
    wrong = [action_errors(judge(context, video), actions, squared=True) for video in (real, real.flip(1))]
    assert vector_error_ratio(wrong[1], wrong[0], torch.arange(40)).low > 3


def test_whole_episodes_are_held_out(tmp_path: Path) -> None:
    lengths = (5, 2, 7, 4, 1, 6, 5)
    episodes = record(tmp_path / "set", lengths)
    parts = [triples_of(episodes, part.episodes) for part in divided(episodes, 0.4, 0)]
    assert not set(parts[0].episodes) & set(parts[1].episodes)
    assert sorted(number for part in parts for number in part.numbers) == list(range(3 + 5 + 2 + 4 + 3))
    for part in parts:
        assert set(part.draw(0, 0, 200)) == set(part.numbers)
        clip = part.batch(part.numbers)
        known, first = clip.given.facts(), episodes.starts[part.episodes]
        for number, episode in enumerate(part.episodes):
            row = first[number] + np.sum(part.episodes[:number] == episode)
            shown = torch.cat([known["context"][number], clip.video[number]])
            np.testing.assert_array_equal(((shown + 1) * 127.5).round().movedim(1, -1), episodes.frames[row : row + 3])
            np.testing.assert_array_equal(known["actions"][number, 0], episodes.actions[row + 1])
    with pytest.raises(ValueError, match="none of the 2 episodes has three frames"):
        triples_of(episodes, np.array([1, 4]))


def test_the_task_is_a_function_of_step_and_samples(held: tuple[Part, Part]) -> None:
    judge = ActionJudge(4, 4, frame_size=SIDE, crop=SIDE)
    task, samples = Reading(judge, 0), held[0].draw(0, 0, 6)
    whole = task(held[0].batch(samples), step=3, samples=samples.tolist())
    assert whole.shape == (6,)
    part = task(held[0].batch(samples[2:4]), step=3, samples=samples[2:4].tolist())
    torch.testing.assert_close(part, whole[2:4], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(task(held[0].batch(samples), step=4, samples=samples.tolist()), whole, rtol=1e-4)


def test_its_episodes_are_the_robot_at_play_but_others(
    monkeypatch: pytest.MonkeyPatch, episodes: Episodes, tmp_path: Path
) -> None:
    asked: list[dict[str, Any]] = []

    def recorded(**settings: Any) -> Episodes:
        asked.append(settings)
        return episodes

    monkeypatch.setattr(metaworld, "metaworld_episodes", recorded)
    metaworld.play(tmp_path, 24)
    metaworld.at_play(tmp_path / "judge", seed=recipe.FIRST_SEED, num_episodes=24)
    _, learned, judged = asked
    assert {name for name in learned if learned[name] != judged[name]} == {"seed", "output"}
    seeds = [set(range(some["seed"], some["seed"] + some["num_episodes"])) for some in (learned, judged)]
    assert not seeds[0] & seeds[1]


@pytest.mark.parametrize("frames", [(10, 24), (40, 16)])
def test_vectors_of_any_width_are_read_off_frames_of_any_size(frames: tuple[int, int], tmp_path: Path) -> None:
    """A bar is as bright as the second number of the action to come makes it; the first two never change."""
    random = np.random.default_rng(0)
    with EpisodeWriter(tmp_path / "set", frame_rate=3.0, action_dim=6, provenance={"environment": "bars"}) as writer:
        for level in range(40):
            actions = random.uniform(-1, 1, (8, 6)).astype(np.float32)
            actions[:, :2] = 1
            video = np.zeros((8, *frames, 3), np.uint8)
            video[1:, :, frames[1] // 2 :] = (127 + 100 * actions[:-1, 3]).astype(np.uint8)[:, None, None, None]
            writer.add_episode(video, actions, level=level)
    recipe.metaworld_judge(
        data=tmp_path / "set", held_out=0.2, num_steps=200, batch_size=32, learning_rate=3e-3, width=8, frame_size=SIDE,
        output=tmp_path / "run",
    )  # fmt: skip
    file = JudgeFile(tmp_path / "run" / "judge.safetensors")
    found = file.card["held_out_error"]
    assert file.card["parts"] == [f"number {number}" for number in range(1, 7)]
    assert list(found) == ["number 3", "number 4", "number 5", "number 6", "all"]
    assert found["number 4"]["r_squared"]["low"] > 0.7
    assert max(found[name]["r_squared"]["mean"] for name in ("number 3", "number 5", "number 6")) < 0.3
    assert file.frames == frames
    judge, shown = file.load(), torch.zeros(2, 3, 3, *frames)
    assert judge(shown[:, :2], shown[:, 2:]).shape == (2, 1, 6)
    assert judge.look(shown).shape == (2, 3, 3, SIDE, SIDE)
    with pytest.raises(ValueError, match=rf"reads frames of {frames[0]} x {frames[1]}, not \({SIDE}, {SIDE}\)"):
        judge(torch.zeros(2, 2, 3, SIDE, SIDE), torch.zeros(2, 1, 3, SIDE, SIDE))


def test_frames_are_scaled_as_a_whole_and_stay_in_range() -> None:
    judge = ActionJudge(4, 4, frame_size=8, crop=8, frames=(16, 32))
    video = torch.rand(2, 3, 3, 16, 32) * 2 - 1
    seen = judge.look(video)
    assert seen.abs().max() <= 1.0001
    torch.testing.assert_close(seen.mean((-2, -1)), video.mean((-2, -1)), atol=0.1, rtol=0)
    torch.testing.assert_close(judge.look(video.flip(-1)), seen.flip(-1))
    left = torch.where(torch.arange(32) < 16, 1.0, -1.0).expand(1, 3, 16, 32)
    edges = judge.look(left)[..., [0, 1, 2, 5, 6, 7]]
    torch.testing.assert_close(edges, torch.tensor([1.0] * 3 + [-1.0] * 3).expand_as(edges))


@pytest.mark.parametrize(
    ("option", "because"),
    [
        ({"held_out": 0.0}, "held_out is between 0 and 1 and learning_rate above 0, got 0.0"),
        ({"batch_size": 0}, "batch_size is at least 1, got 0"),
    ],
)
def test_what_has_no_sense_is_refused_before_it_is_recorded(
    option: dict[str, Any], because: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=because):
        recipe.metaworld_judge(**option, datasets=tmp_path, output=tmp_path / "run")
    assert not any(tmp_path.iterdir())


def test_discrete_actions_are_refused(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "set", frame_rate=15.0, action_names=("a", "b"), provenance={}) as writer:
        writer.add_episode(np.zeros((3, 16, 16, 3), np.uint8), np.zeros(3, np.int64))
    with pytest.raises(ValueError, match="holds discrete actions, and this judge reads vectors"):
        recipe.metaworld_judge(data=tmp_path / "set", output=tmp_path / "run")
