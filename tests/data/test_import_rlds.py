"""`trimtab import-rlds` from RLDS files to episodes: frames, actions, texts, and statistics of training alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiny.rlds_files import rt1_episode, write_set
from trimtab.data.clips import Clips
from trimtab.data.tfrecords import DamagedRecord
from trimtab.recipes.import_rlds import import_rlds, opened, rlds_episodes, scaled

FRACTAL = Path(__file__).parent / "fractal"
SMALL: dict[str, Any] = {"height": 6, "width": 8}
"""The size of the frames that `rt1_episode` writes."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight episodes of lengths 3 to 10 in two files."""
    episodes = [rt1_episode(number, number + 3) for number in range(8)]
    return write_set(tmp_path / "source", [episodes[:5], episodes[5:]])


def recorded(name: str, numbers: range) -> list[np.ndarray]:
    """What `rt1_episode` put into the episodes with these numbers, (step, dim) each."""
    return [np.array(rt1_episode(n, n + 3)[f"steps/action/{name}"], np.float32).reshape(n + 3, -1) for n in numbers]


def test_episodes_have_the_frames_actions_texts_and_numbers_of_the_source(folder: Path, tmp_path: Path) -> None:
    episodes = rlds_episodes(folder, split="train[2:7]", output=tmp_path / "set", **SMALL)
    assert episodes.frame_rate == 3
    assert episodes.lengths.tolist() == [5, 6, 7, 8, 9]
    assert episodes.levels.tolist() == [2, 3, 4, 5, 6]
    assert episodes.tasks == tuple(f"pick can {number}" for number in range(2, 7))
    assert episodes.ended.tolist() == [True, False, True, False, True]
    motion = [np.concatenate(parts, axis=1) for parts in zip(
        recorded("world_vector", range(2, 7)), recorded("rotation_delta", range(2, 7)), strict=True
    )]  # fmt: skip
    everything = np.concatenate(motion)
    closing = recorded("gripper_closedness_action", range(2, 7))
    for number in range(5):
        frames, actions = episodes.episode(number)
        assert (frames == frames[:, :1, :1]).all()
        assert frames[:, 0, 0].tolist() == [[number + 2, step, 7] for step in range(number + 5)]
        expected = (motion[number] - everything.mean(0)) / everything.std(0)
        np.testing.assert_allclose(actions[:, :6], expected, atol=2e-5)
        assert np.array_equal(actions[:, 6:], opened(closing[number]))
    np.testing.assert_allclose(episodes.actions[:, :6].mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(episodes.actions[:, :6].std(0), 1, atol=1e-5)
    clips = Clips(episodes, num_context=1, num_frames=3)
    assert clips.batch([0]).video.shape == (1, 3, 3, 6, 8)


def test_what_tensorflow_datasets_wrote_is_imported(tmp_path: Path) -> None:
    expected = np.load(FRACTAL / "expected.npz")
    episodes = rlds_episodes(FRACTAL, split="train", output=tmp_path / "set", height=24, width=32)
    assert len(episodes) == 5
    used = episodes.provenance["statistics"]
    for number in range(5):
        frames, actions = episodes.episode(number)
        assert np.abs(frames.astype(int) - expected[f"{number}/observation/image"]).mean() < 2
        back = actions[:, :6] * np.array(used["deviation"]) + np.array(used["mean"])
        motion = [expected[f"{number}/action/{name}"] for name in ("world_vector", "rotation_delta")]
        np.testing.assert_allclose(back, np.concatenate(motion, axis=1), atol=1e-5)
        assert episodes.tasks[number] == expected[f"{number}/observation/natural_language_instruction"][0]


def test_validation_is_scaled_by_the_statistics_of_training(folder: Path, tmp_path: Path) -> None:
    train = rlds_episodes(folder, split="train[:75%]", output=tmp_path / "train", **SMALL)
    used = train.provenance["statistics"]
    assert used["of"] == "rt1 0.1.0 train[0:6]"
    assert used["num_steps"] == train.num_frames
    test = rlds_episodes(folder, split="train[75%:]", output=tmp_path / "test", statistics=tmp_path / "train", **SMALL)
    assert test.provenance["statistics"] == used
    assert test.levels.tolist() == [6, 7]
    motion = np.concatenate(recorded("world_vector", range(6, 8)))
    expected = (motion - np.array(used["mean"][:3])) / np.array(used["deviation"][:3])
    np.testing.assert_allclose(test.actions[:, :3], expected, atol=2e-5)
    assert np.abs(test.actions[:, :3].mean(0)).min() > 0.5  # the numbers of the later episodes are larger
    alone = rlds_episodes(folder, split="train[75%:]", output=tmp_path / "alone", **SMALL)
    assert np.abs(alone.actions[:, :3].mean(0)).max() < 1e-5


def test_statistics_of_something_else_are_refused(folder: Path, tmp_path: Path) -> None:
    one = rlds_episodes(folder, output=tmp_path / "one", motion=("action/world_vector",), **SMALL)
    assert one.actions.shape[1:] == (4,)
    with pytest.raises(ValueError, match="was not imported with the motion action/world_vector action/rotation_delta"):
        rlds_episodes(folder, output=tmp_path / "two", statistics=tmp_path / "one", **SMALL)
    with pytest.raises(FileNotFoundError, match="no episodes at"):
        rlds_episodes(folder, output=tmp_path / "two", statistics=tmp_path / "none", **SMALL)


def test_a_frame_keeps_its_proportions(folder: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"split": "train[3:4]", "height": 12, "width": 32}
    padded = rlds_episodes(folder, output=tmp_path / "pad", **options).frames
    assert padded.shape == (6, 12, 32, 3)
    assert (padded[:, :, 8:24] == padded[:, :1, 8:9]).all()  # 6 x 8 becomes 12 x 16
    assert padded[2, 0, 8].tolist() == [3, 2, 7]
    assert padded[:, :, :8].max() == padded[:, :, 24:].max() == 0
    cropped = rlds_episodes(folder, output=tmp_path / "crop", fit="crop", **options).frames
    assert (cropped == padded[:, :1, 8:9]).all()


def test_only_so_many_episodes_are_imported(folder: Path, tmp_path: Path) -> None:
    (folder / "rt1-train.tfrecord-00001-of-00002").unlink()
    episodes = rlds_episodes(folder, split="train", max_episodes=2, output=tmp_path / "set", **SMALL)
    assert episodes.lengths.tolist() == [3, 4]
    assert episodes.provenance["statistics"]["num_steps"] == 7
    assert episodes.provenance["rlds"] == "rt1 0.1.0 train[0:2]"


def test_without_a_gripper_the_action_is_the_motion(folder: Path, tmp_path: Path) -> None:
    episodes = rlds_episodes(folder, gripper="", max_episodes=2, output=tmp_path / "set", **SMALL)
    assert episodes.actions.shape[1:] == (6,)


def test_a_gripper_of_several_numbers_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a gripper is told one number a step, and action/world_vector has 3"):
        rlds_episodes(folder, gripper="action/world_vector", output=tmp_path / "set", **SMALL)


def test_the_command_says_what_it_did_and_does_it_once(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    import_rlds(folder, split="train[:3]", **SMALL)
    text = " ".join(capsys.readouterr().out.split())
    assert "3 episodes, 12 frames" in text
    assert "mean and deviation of rt1 0.1.0 train[0:3]: 12 steps" in text
    import_rlds(folder, split="train", max_episodes=3, **SMALL)  # the same episodes by another name
    assert "reusing datasets/rt1-0-2-6x8" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(ValueError, match=r"holds another set .*fit 'pad', not 'crop'"):
        import_rlds(folder, split="train[:3]", fit="crop", **SMALL)


@pytest.mark.parametrize(
    "wrong", [{"image": "eye"}, {"text": "word"}, {"motion": ("action/world_vector", "arm")}, {"gripper": "hand"}]
)
def test_an_unknown_feature_is_found_before_anything_is_written(
    folder: Path, tmp_path: Path, wrong: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=r"hold no '(eye|word|arm|hand)'; they hold action/gripper"):
        rlds_episodes(folder, output=tmp_path / "new/set", **SMALL, **wrong)
    assert list((tmp_path / "new").glob("set*")) == []


def test_a_damaged_file_leaves_no_set(folder: Path, tmp_path: Path) -> None:
    rlds_episodes(folder, split="train[:2]", output=tmp_path / "train", **SMALL)
    path = folder / "rt1-train.tfrecord-00001-of-00002"
    path.write_bytes(path.read_bytes()[:-1])
    for statistics in (None, tmp_path / "train"):  # while actions are read, and while episodes are written
        with pytest.raises(DamagedRecord, match=r"record 2 of .*00001-of-00002 is truncated"):
            rlds_episodes(folder, split="train", output=tmp_path / "set", statistics=statistics, **SMALL)
        assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    "wrong", [{"height": 0}, {"width": -1}, {"frame_rate": 0.0}, {"max_episodes": 0}, {"motion": ()}]
)
def test_settings_out_of_range_are_refused(folder: Path, tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="importing needs height, width, frame_rate and max_episodes above 0"):
        rlds_episodes(folder, output=tmp_path / "set", **wrong)


# Actions


@pytest.mark.parametrize(
    ("closing", "expected"),
    [
        ([0, 0, 0], [1, 1, 1]),  # never told: open
        ([0, 1, 0, 0], [1, 0, 0, 0]),  # closes, so it was open
        ([0, -1, 0], [0, 1, 1]),  # opens, so it was closed
        ([1, 0, -1, 0, 1], [0, 0, 1, 1, 0]),
        ([0.1, -0.1, 0.05, 0.2, -0.05, -0.2], [1, 1, 1, 0, 0, 1]),  # a tenth is no command
        ([0.0], [1]),
    ],
)
def test_the_gripper_stays_as_it_was_told_last(closing: list[float], expected: list[float]) -> None:
    found = opened(np.array(closing, np.float32)[:, None])
    assert found.dtype == np.float32
    assert found[:, 0].tolist() == expected


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=20))
def test_a_command_to_the_gripper_is_obeyed_at_once_and_nothing_else_moves_it(closing: list[float]) -> None:
    values = np.array(closing, np.float32)
    is_open = opened(values[:, None])[:, 0]
    assert set(is_open.tolist()) <= {0.0, 1.0}
    assert (is_open[values > 0.1] == 0).all()
    assert (is_open[values < -0.1] == 1).all()
    silent = np.abs(values[1:]) <= 0.1
    assert (is_open[1:][silent] == is_open[:-1][silent]).all()


def test_a_number_that_never_changes_is_scaled_to_nought() -> None:
    found = scaled(np.ones((3, 2), np.float32), {"mean": [1.0], "deviation": [0.0]})
    assert found.tolist() == [[0, 1]] * 3
    found = scaled(np.full((3, 2), 1.5, np.float32), {"mean": [1.0], "deviation": [0.0]})
    assert found.tolist() == [[0.5, 1.5]] * 3  # elsewhere it did


def test_a_set_that_the_disk_has_no_room_for_is_refused_before_hours_are_spent(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda place: type("Usage", (), {"free": 2000}))
    frames = 3 * 6 * 8 * 3  # of the first episode, in bytes; there are eight
    with pytest.raises(ValueError, match=f"about {8 * frames / 1e9:.3g} GB, and 2e-06 GB are free; import fewer"):
        rlds_episodes(folder, output=tmp_path / "set", split="train", **SMALL)
    assert len(rlds_episodes(folder, output=tmp_path / "set", split="train", max_episodes=2, **SMALL)) == 2
