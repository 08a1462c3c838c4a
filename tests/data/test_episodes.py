"""Episodes come back from disk exactly, and nothing that is unfinished, damaged or stale is taken for them."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numbered import numbered_frames

from trimtab.data.episodes import DamagedEpisodes, Episodes, EpisodeWriter
from trimtab.data.samples import coinrun

WriteSet = Callable[..., Path]
DATA = "data/chunk-000/file-000.parquet"


SOURCES = ("cache while recording", "cache rebuilt", "memory")


@pytest.mark.parametrize("source", SOURCES)
def test_round_trip_is_lossless(write_set: WriteSet, source: str) -> None:
    folder = write_set([7, 1, 12], levels=[30, 10, 20])
    if source == "cache rebuilt":
        shutil.rmtree(folder / "cache")
    episodes = Episodes.open(folder, in_memory=source == "memory")
    frames = np.concatenate([numbered_frames(0, 7), numbered_frames(7, 1), numbered_frames(8, 12)])
    assert np.array_equal(episodes.frames, frames)
    assert np.array_equal(episodes.actions, np.arange(20) % 5)
    assert episodes.starts.tolist() == [0, 7, 8]
    assert episodes.lengths.tolist() == [7, 1, 12]
    assert episodes.levels.tolist() == [30, 10, 20]
    assert episodes.ended.tolist() == [True, False, True]
    assert np.array_equal(episodes.episode(2)[0], frames[8:])
    assert (episodes.num_actions, episodes.action_names, episodes.frame_rate) == (5, tuple("abcde"), 10.0)
    assert len(episodes) == 3
    assert episodes.num_frames == 20
    assert (folder / "cache").exists()


def test_many_row_groups_and_files_keep_their_order(write_set: WriteSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimtab.data.episode_writer.ROWS_PER_GROUP", 10)
    monkeypatch.setattr("trimtab.data.episode_writer.FILE_BYTES", 3000)
    monkeypatch.setattr("trimtab.data.episode_writer.FILES_PER_CHUNK", 2)
    folder = write_set([8] * 20)
    files = sorted(path.relative_to(folder).as_posix() for path in folder.glob("data/*/*"))
    assert len(files) > 4
    assert files[2] == "data/chunk-001/file-000.parquet"
    rows = pq.read_table(folder / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    for row in rows:
        part = pq.read_table(
            folder / f"data/chunk-{row['data/chunk_index']:03d}/file-{row['data/file_index']:03d}.parquet"
        )
        inside = np.array(part["episode_index"]) == row["episode_index"]
        assert inside.sum() == row["length"] == 8
    assert np.array_equal(Episodes.open(folder, in_memory=True).frames, Episodes.open(folder).frames)


def test_layout_is_lerobot_v3(write_set: WriteSet) -> None:
    folder = write_set([3, 4])
    info = json.loads((folder / "meta/info.json").read_text())
    rows = pq.read_table(folder / info["data_path"].format(chunk_index=0, file_index=0))
    assert info["codebase_version"] == "v3.0"
    assert (info["total_episodes"], info["total_frames"], info["splits"]) == (2, 7, {"train": "0:2"})
    assert set(rows.column_names) == set(info["features"])
    assert rows["observation.image"][0].as_py()["bytes"].startswith(b"\x89PNG")
    assert rows["index"].to_pylist() == list(range(7))
    assert rows["frame_index"].to_pylist() == [0, 1, 2, 0, 1, 2, 3]
    assert rows["episode_index"].to_pylist() == [0] * 3 + [1] * 4
    assert rows["next.done"].to_pylist() == [False, False, True, *[False] * 4]
    assert np.allclose(rows["timestamp"], [0, 0.1, 0.2, 0, 0.1, 0.2, 0.3])
    tasks = pq.read_table(folder / "meta/tasks.parquet")
    assert tasks.to_pydict() == {"task_index": [0], "task": ["play"]}
    assert tasks.schema.pandas_metadata["index_columns"] == ["task"]


def test_statistics_and_provenance(write_and_open: Callable[..., Episodes]) -> None:
    episodes = write_and_open([40, 3])
    image, action = episodes.stats["observation.image"], episodes.stats["action"]
    pixels = episodes.frames.reshape(-1, 3) / 255
    for name in ("mean", "std", "min", "max"):
        assert np.allclose(np.array(image[name])[:, 0, 0], getattr(pixels, name)(axis=0))
    assert action["histogram"] == np.bincount(episodes.actions).tolist()
    assert action["mean"] == [pytest.approx(episodes.actions.mean())]
    assert episodes.provenance["who"] == "a test"
    assert episodes.provenance["num_frames"] == 43
    assert DATA in episodes.provenance["checksums"]


def test_action_vectors(tmp_path: Path) -> None:
    actions = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    with EpisodeWriter(tmp_path / "set", frame_rate=10.0, action_dim=3, provenance={}) as writer:
        writer.add_episode(numbered_frames(0, 6), actions)
    shutil.rmtree(tmp_path / "set/cache")
    episodes = Episodes.open(tmp_path / "set")
    assert np.array_equal(episodes.actions, actions)
    assert episodes.num_actions is None


@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    dim=st.integers(1, 4),
    has=st.tuples(*[st.booleans()] * 2),
)
@settings(deadline=None, max_examples=15)
def test_states_and_successes_come_back_wherever_they_are_read_from(
    lengths: list[int], dim: int, has: tuple[bool, bool]
) -> None:
    random = np.random.default_rng(sum(lengths))
    states = [random.normal(size=(length, dim)).astype(np.float32) for length in lengths]
    successes = [random.random(length) < 0.5 for length in lengths]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "set"
        with EpisodeWriter(folder, frame_rate=10.0, action_dim=2, provenance={}) as writer:
            for state, success in zip(states, successes, strict=True):
                facts = {"state": state if has[0] else None, "success": success if has[1] else None}
                writer.add_episode(numbered_frames(0, len(state)), np.zeros((len(state), 2), np.float32), **facts)
        for source in SOURCES:
            if source == "cache rebuilt":
                shutil.rmtree(folder / "cache")
            episodes = Episodes.open(folder, in_memory=source == "memory")
            expected = (np.concatenate(states) if has[0] else None, np.concatenate(successes) if has[1] else None)
            for found, one in zip((episodes.states, episodes.successes), expected, strict=True):
                assert (found is None) == (one is None)
                if found is not None:
                    assert found.dtype == one.dtype
                    assert np.array_equal(found, one)
                    assert isinstance(found, np.memmap) == (source != "memory")
        assert episodes.actions.shape == (sum(lengths), 2)


def test_states_and_successes_lie_as_lerobot_has_them(tmp_path: Path) -> None:
    state, success = np.arange(12, dtype=np.float32).reshape(4, 3), np.array([False, False, True, True])
    with EpisodeWriter(tmp_path / "set", frame_rate=10.0, action_names="ab", provenance={}) as writer:
        writer.add_episode(numbered_frames(0, 4), np.zeros(4, np.int64), state=state, success=success)
    features = json.loads((tmp_path / "set/meta/info.json").read_text())["features"]
    rows = pq.read_table(tmp_path / "set" / DATA)
    assert set(rows.column_names) == set(features)
    assert features["observation.state"] == {"dtype": "float32", "shape": [3], "names": None}
    assert features["next.success"]["dtype"] == "bool"
    assert rows["observation.state"].to_pylist() == state.tolist()
    assert rows["next.success"].to_pylist() == success.tolist()
    stats = Episodes.open(tmp_path / "set").stats
    expected = {name: getattr(state, name)(axis=0).tolist() for name in ("mean", "std", "min", "max")}
    assert stats["observation.state"] == {**expected, "count": [4]}
    assert stats["action"]["histogram"] == [4, 0]


def test_a_column_is_of_all_episodes_or_of_none(tmp_path: Path) -> None:
    frames, actions, state, success = numbered_frames(0, 4), np.zeros(4, np.int64), np.zeros((4, 3)), np.zeros(4, bool)
    for first, second in (({}, {"state": state}), ({"state": state, "success": success}, {"state": state})):
        writer = EpisodeWriter(tmp_path / "set", frame_rate=10.0, action_names="abc", provenance={})
        writer.add_episode(frames, actions, **first)
        with pytest.raises(ValueError, match=r"all have a state or none"):
            writer.add_episode(frames, actions, **second)
    for wrong, match in (
        ({"state": np.zeros((4, 2)), "success": success}, r"states are \(4, 3\) floats, not \(4, 2\)"),
        ({"state": np.zeros((3, 3)), "success": success}, r"states are \(4, 3\)"),
        ({"state": np.zeros((4, 3), int), "success": success}, "floats, not .* int64"),
        ({"state": np.zeros(4), "success": success}, r"states are \(4, 3\)"),
        ({"state": state, "success": np.zeros(4)}, r"success is \(4,\) bool, not \(4,\) float64"),
        ({"state": state, "success": success[:3]}, r"success is \(4,\) bool, not \(3,\)"),
    ):
        with pytest.raises(ValueError, match=match):
            writer.add_episode(frames, actions, **wrong)
    writer.add_episode(frames, actions, state=state, success=success)
    writer.finish()
    assert Episodes.open(tmp_path / "set").num_frames == 8  # nothing of what was refused is in it


def test_wrong_episodes_are_refused(tmp_path: Path) -> None:
    writer = EpisodeWriter(tmp_path / "set", frame_rate=10.0, action_names="abc", provenance={})
    frames, actions = numbered_frames(0, 4), np.zeros(4, np.int64)
    for wrong, match in (
        ((frames.astype(np.float32), actions), "uint8"),
        ((frames, actions[:3]), "integers"),
        ((frames, actions.astype(np.float32)), "integers"),
        ((frames, actions + 3), r"0\.\.2, got 3"),
        ((frames, actions - 1), "got -1"),
    ):
        with pytest.raises(ValueError, match=match):
            writer.add_episode(*wrong)
    writer.add_episode(frames, actions)
    with pytest.raises(ValueError, match=r"holds frames of \(4, 4, 3\)"):
        writer.add_episode(numbered_frames(0, 4, size=5), actions)
    with pytest.raises(ValueError, match="one of the two"):
        EpisodeWriter(tmp_path / "other", frame_rate=10.0, provenance={})


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)


@pytest.mark.parametrize("damage", [flip_a_bit, truncate, Path.unlink])
@pytest.mark.parametrize("name", [DATA, "meta/episodes/chunk-000/file-000.parquet", "meta/stats.json"])
@pytest.mark.parametrize("in_memory", [False, True])
def test_damage_is_detected(write_set: WriteSet, damage: Callable[[Path], None], name: str, in_memory: bool) -> None:
    folder = write_set([30])
    damage(folder / name)
    with pytest.raises(DamagedEpisodes, match=rf"{name}.*(record it again|restore it)"):
        Episodes.open(folder, in_memory=in_memory)


def test_page_checksums_catch_a_flip_in_the_frames(write_set: WriteSet) -> None:
    folder = write_set([30])
    flip_a_bit(folder / DATA)
    with pytest.raises(OSError, match="CRC checksum"):
        pq.ParquetFile(folder / DATA, page_checksum_verification=True).read()


def test_damage_that_keeps_the_time_is_found_by_verify(write_set: WriteSet) -> None:
    folder = write_set([30])
    before = (folder / DATA).stat()
    flip_a_bit(folder / DATA)
    os.utime(folder / DATA, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(DamagedEpisodes, match="SHA-256"):
        Episodes.open(folder).verify()


def test_stale_cache_is_rebuilt(write_set: WriteSet) -> None:
    folder, other = write_set([5, 6]), write_set([11], name="other")
    shutil.rmtree(other / "cache")
    shutil.move(folder / "cache", other / "cache")
    assert Episodes.open(other).lengths.tolist() == [11]
    assert (
        json.loads((other / "cache/key.json").read_text())["contents"] == Episodes.open(other).provenance["checksums"]
    )


@pytest.mark.parametrize("name", ["frames.uint8", "actions.npy", "states.npy", "index.npz", "key.json"])
def test_truncated_cache_is_rebuilt(tmp_path: Path, name: str) -> None:
    folder, expected = tmp_path / "set", numbered_frames(0, 11)
    with EpisodeWriter(folder, frame_rate=10.0, action_names="a", provenance={}) as writer:
        writer.add_episode(expected, np.zeros(11, np.int64), state=np.ones((11, 3)))
    truncate(folder / "cache" / name)
    episodes = Episodes.open(folder)
    assert np.array_equal(episodes.frames, expected)
    assert episodes.states is not None
    assert np.array_equal(episodes.states, np.ones((11, 3)))
    assert sorted(path.name for path in folder.iterdir()) == ["cache", "data", "meta"]


def test_copied_set_keeps_its_cache(write_set: WriteSet, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(write_set([5, 6]), tmp_path / "copy", copy_function=shutil.copyfile))
    built = (copy / "cache/frames.uint8").stat().st_mtime_ns
    assert Episodes.open(copy).num_frames == 11
    assert (copy / "cache/frames.uint8").stat().st_mtime_ns == built


def test_interrupted_recording_leaves_no_set(tmp_path: Path) -> None:
    folder = tmp_path / "set"

    def write(fail: bool) -> None:
        with EpisodeWriter(folder, frame_rate=10.0, action_names="abcde", provenance={}) as writer:
            writer.add_episode(numbered_frames(0, 4), np.zeros(4, np.int64))
            if fail:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(fail=True)
    assert not folder.exists()
    with pytest.raises(DamagedEpisodes, match=r"unfinished.*Record it again"):
        Episodes.open(folder)
    write(fail=False)
    assert Episodes.open(folder).num_frames == 4
    assert list(tmp_path.iterdir()) == [folder]


def test_missing_existing_and_unwritable_folders(write_set: WriteSet, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no episodes at .*record-procgen.*-metaworld.*-dmc.*import-rlds"):
        Episodes.open(tmp_path / "nowhere")
    with pytest.raises(DamagedEpisodes, match=r"provenance\.json is missing"):
        Episodes.open(tmp_path)
    with pytest.raises(FileExistsError, match="delete it"):
        EpisodeWriter(write_set([3]), frame_rate=10.0, action_names="ab", provenance={})
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write episodes to .*choose another folder"):
        EpisodeWriter(tmp_path / "file/set", frame_rate=10.0, action_names="ab", provenance={})
    with pytest.raises(ValueError, match="at least one episode"):
        EpisodeWriter(tmp_path / "empty", frame_rate=10.0, action_names="ab", provenance={}).finish()


def test_read_only_folder_says_the_way_out(write_set: WriteSet, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_set([5])
    shutil.rmtree(folder / "cache")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(PermissionError, match="in_memory=True"):
        Episodes.open(folder)
    assert Episodes.open(folder, in_memory=True).num_frames == 5


def test_shipped_sample_is_small_whole_and_needs_no_simulator() -> None:
    episodes = coinrun()
    files = [path for path in episodes.folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 2_000_000
    assert not (episodes.folder / "cache").exists()
    assert episodes.frames.shape == (320, 64, 64, 3)
    assert episodes.num_actions == 15
    assert episodes.levels.max() < 500
    assert len(set(episodes.levels)) == len(episodes) == 8
    assert (episodes.frames[1:] != episodes.frames[:-1]).mean() > 0.1
