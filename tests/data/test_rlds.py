"""A set that TensorFlow Datasets wrote is read as it reads it, and what cannot be read is refused by name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tiny.rlds_files import EXAMPLES, STEPS, encode, nested, picture, rt1_episode, tensor, write_records, write_set
from trimtab.data.rlds import RLDS, Feature, Recorded
from trimtab.data.tfrecords import DamagedRecord, parse_example

FRACTAL = Path(__file__).parent / "fractal"
"""Written by fractal/make.py with TensorFlow Datasets."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six episodes of lengths 1 to 6 in three files."""
    episodes = [rt1_episode(number, number + 1) for number in range(6)]
    return write_set(tmp_path / "set", [episodes[:3], episodes[3:4], episodes[4:]])


def lengths(source: RLDS, split: str = "train", num: int | None = None) -> list[int]:
    return [len(episode) for episode in source.episodes(split, num)]


# What TensorFlow Datasets wrote


def test_episodes_are_those_that_tensorflow_datasets_reads() -> None:
    source, expected = RLDS(FRACTAL), np.load(FRACTAL / "expected.npz")
    assert (source.name, source.version) == ("fractal20220817_data", "0.1.0")
    episodes = list(source.episodes("train"))
    assert len(episodes) == 5
    names = {name.split("/", 1)[1] for name in expected}
    assert len(names) == 11
    for episode in episodes:
        for name in names:
            values = expected[f"{episode.number}/{name}"]
            if name.endswith("instruction"):
                assert episode.texts(name) == values.tolist()
            elif name.endswith("image"):
                found = np.stack([np.asarray(image) for image in episode.pictures(name)])
                assert found.shape == values.shape
                assert np.abs(found.astype(int) - values).max() <= 12  # two decoders of JPEG
                assert np.abs(found.astype(int) - values).mean() < 2
            else:
                found = episode.numbers(name)
                assert np.array_equal(found, values)
                assert (found.dtype == bool) == (values.dtype == bool)
                assert len(found) == len(episode)


# What it takes train[10%:90%] to be, of 5, 7, 100 and 87212 episodes; checked against its ReadInstruction.
BOUNDS: list[tuple[int, str, tuple[int, int]]] = [
    (5, "train", (0, 5)),
    (5, "train[:95%]", (0, 5)),
    (5, "train[:50%]", (0, 2)),
    (5, "train[50%:]", (2, 5)),
    (5, "train[10%:90%]", (0, 4)),
    (5, "train[1:3]", (1, 3)),
    (5, "train[-2:]", (3, 5)),
    (5, "train[:-1]", (0, 4)),
    (5, "train[:]", (0, 5)),
    (7, "train[:50%]", (0, 4)),
    (7, "train[10%:90%]", (1, 6)),
    (7, "train[-10%:]", (6, 7)),
    (100, "train[95%:]", (95, 100)),
    (87_212, "train[:95%]", (0, 82_851)),
    (87_212, "train[95%:]", (82_851, 87_212)),
    (87_212, "train[10%:90%]", (8_721, 78_491)),
    (87_212, "train[-10%:]", (78_491, 87_212)),
]


@pytest.fixture(scope="module")
def of_length(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], RLDS]:
    """A set that says that it has so many episodes, in shards of 60."""

    def make(num: int) -> RLDS:
        shards = [str(min(60, num - start)) for start in range(0, num, 60)]
        splits = [{"name": "train", "shardLengths": shards}]
        return RLDS(write_set(tmp_path_factory.mktemp("set"), [], splits=splits))

    return make


@pytest.mark.parametrize(("num", "split", "bounds"), BOUNDS)
def test_parts_of_a_split_are_those_of_tensorflow_datasets(
    of_length: Callable[[int], RLDS], num: int, split: str, bounds: tuple[int, int]
) -> None:
    assert of_length(num).bounds(split) == bounds


@pytest.mark.parametrize("split", ["train[2:2]", "train[4:2]", "train[:0]", "train[100%:]"])
def test_a_part_without_episodes_is_refused(of_length: Callable[[int], RLDS], split: str) -> None:
    with pytest.raises(ValueError, match=r"has no episodes; train has 5"):
        of_length(5).bounds(split)


@pytest.mark.parametrize("split", ["train[:6]", "train[-6:]", "train[:101%]"])
def test_a_part_beyond_the_split_is_refused(of_length: Callable[[int], RLDS], split: str) -> None:
    total = 5 if "%" not in split else 200
    with pytest.raises(ValueError, match=f"more than the {total} episodes of train"):
        of_length(total).bounds(split)


@pytest.mark.parametrize("split", ["test", "train+test", "train[1]", "train[a:b]", "train[:5", "", "train[:5.5%]"])
def test_what_is_no_split_is_refused(of_length: Callable[[int], RLDS], split: str) -> None:
    with pytest.raises(ValueError, match="it has train, whole or in parts"):
        of_length(5).bounds(split)


# Reading


@given(st.integers(0, 5), st.integers(1, 6), st.none() | st.integers(1, 7))
def test_any_part_gives_its_episodes_with_their_numbers(
    tmp_path_factory: pytest.TempPathFactory, first: int, last: int, num: int | None
) -> None:
    folder = tmp_path_factory.getbasetemp() / "lengths"
    if not folder.exists():
        episodes = [rt1_episode(number, number + 1) for number in range(6)]
        write_set(folder, [episodes[:3], [], episodes[3:4], episodes[4:]])
    assume(first < last)
    found = list(RLDS(folder).episodes(f"train[{first}:{last}]", num))
    expected = list(range(first, last))[:num]
    assert [episode.number for episode in found] == expected
    assert [len(episode) for episode in found] == [number + 1 for number in expected]
    assert [episode.texts("observation/natural_language_instruction")[0] for episode in found] == [
        f"pick can {number}" for number in expected
    ]


def test_a_lossless_picture_is_read_exactly(folder: Path) -> None:
    for episode in RLDS(folder).episodes("train"):
        pictures = [np.asarray(image) for image in episode.pictures("observation/image")]
        assert [picture.shape for picture in pictures] == [(6, 8, 3)] * len(episode)
        assert [picture[2, 3].tolist() for picture in pictures] == [
            [episode.number, step, 7] for step in range(len(episode))
        ]


def test_only_the_files_that_are_needed_must_be_there(folder: Path) -> None:
    for number in (0, 2):
        (folder / f"rt1-train.tfrecord-{number:05}-of-00003").unlink()
    source = RLDS(folder)
    assert lengths(source, "train[3:4]") == [4]
    for split, missing, needed in (("train", 2, 3), ("train[2:4]", 1, 2), ("train[4:]", 1, 1)):
        with pytest.raises(FileNotFoundError, match=f"{missing} of the {needed} files that .* needs are missing"):
            next(source.episodes(split))


def test_episodes_are_read_one_at_a_time(folder: Path) -> None:
    path = folder / "rt1-train.tfrecord-00000-of-00003"
    whole = bytearray(path.read_bytes())
    whole[-10] ^= 1  # in the third episode
    path.write_bytes(whole)
    reader = RLDS(folder).episodes("train")
    assert [len(next(reader)), len(next(reader))] == [1, 2]
    with pytest.raises(DamagedRecord, match=f"record 2 of {path} .*checksum"):
        next(reader)


def test_a_file_with_fewer_episodes_than_described_is_refused(folder: Path) -> None:
    path = folder / "rt1-train.tfrecord-00002-of-00003"
    write_records(path, [encode(rt1_episode(4, 5))])
    assert lengths(RLDS(folder), "train[:5]") == [1, 2, 3, 4, 5]
    with pytest.raises(DamagedRecord, match=r"holds 1 episodes where dataset_info\.json says 2"):
        lengths(RLDS(folder))


# Features


def recorded(steps: dict[str, Any], features: dict[str, list[Any]], tmp_path: Path) -> Recorded:
    """An episode of two steps that were written with these features."""
    described = {"is_first": tensor(dtype="bool"), **steps}
    written = {"steps/is_first": [1, 0], **{f"steps/{name}": values for name, values in features.items()}}
    return next(RLDS(write_set(tmp_path, [[written]], described)).episodes("train"))


SHAPES = st.lists(st.integers(1, 3), max_size=2).map(tuple)


VALUES: dict[type, st.SearchStrategy[Any]] = {
    np.float32: st.floats(width=32, allow_nan=False),
    np.int64: st.integers(-(2**63), 2**63 - 1),
    np.bool_: st.booleans(),
}


@given(st.data(), st.integers(1, 5), SHAPES, st.sampled_from(list(VALUES)))
def test_numbers_of_any_shape_survive(data: st.DataObject, length: int, shape: tuple[int, ...], dtype: type) -> None:
    size = length * int(np.prod(shape))
    values = np.array(data.draw(st.lists(VALUES[dtype], min_size=size, max_size=size)), dtype).reshape(length, *shape)
    plain = [value if dtype is np.float32 else int(value) for value in values.ravel().tolist()]  # no bool in an Example
    written = encode({"steps/is_first": [1] * length, "steps/some/thing": plain})
    features = {"some/thing": Feature("tensor", shape, np.dtype(dtype).name, "none")}
    found = Recorded(0, "here", features, parse_example(written)).numbers("some/thing")
    assert found.dtype == dtype
    assert np.array_equal(found, values)


def test_an_unknown_feature_is_refused_with_the_names_of_those_there_are(folder: Path) -> None:
    episode = next(RLDS(folder).episodes("train"))
    for read in (episode.numbers, episode.texts, lambda name: list(episode.pictures(name))):
        with pytest.raises(ValueError, match=r"no 'action/arm'; they hold action/gripper.*observation/image"):
            read("action/arm")
    with pytest.raises(ValueError, match="observation/image is image, not tensor"):
        episode.numbers("observation/image")
    with pytest.raises(ValueError, match="action/world_vector is tensor, not text"):
        episode.texts("action/world_vector")


@pytest.mark.parametrize(
    ("described", "values", "message"),
    [
        (tensor(3), [1.0, 2.0, 3.0], r"has 3 numbers in 2 steps of shape \(3,\)"),
        (tensor(-1), [1.0, 2.0, 3.0, 4.0], r"of shape \(-1,\)"),
        ({"tensor": {"shape": {}, "dtype": "float32", "encoding": "zlib"}}, [b"a", b"b"], "holds bytes"),
        ({"tensor": {"shape": {}, "dtype": "float32", "encoding": "bytes"}}, [1.0, 2.0], "encoding bytes"),
        ({"pythonClassName": "features.Audio", "audio": {}}, [1.0, 2.0], "thing is features.Audio, not tensor"),
    ],
)
def test_numbers_of_another_form_are_refused(
    tmp_path: Path, described: dict[str, Any], values: list[Any], message: str
) -> None:
    episode = recorded({"thing": described}, {"thing": values}, tmp_path)
    with pytest.raises(ValueError, match=message):
        episode.numbers("thing")


def test_texts_and_pictures_of_another_form_are_refused(tmp_path: Path) -> None:
    steps = {"text": {"text": {}}, "image": picture(4, 4, 3), "depth": picture(4, 4, 1, dtype="uint16")}
    values = {"text": [b"one"], "image": [b"no", b"picture"], "depth": [b"", b""]}
    episode = recorded(steps, values, tmp_path)
    with pytest.raises(ValueError, match="text has 1 values in 2 steps"):
        episode.texts("text")
    with pytest.raises(ValueError, match="image of step 0 is no JPEG or PNG"):
        next(episode.pictures("image"))
    with pytest.raises(ValueError, match=r"depth is uint16 \(4, 4, 1\)"):
        next(episode.pictures("depth"))


def test_a_feature_that_a_record_lacks_is_refused(tmp_path: Path) -> None:
    episode = recorded({"thing": tensor(3)}, {}, tmp_path)
    with pytest.raises(ValueError, match="record 0 holds no thing"):
        episode.numbers("thing")


# Folders


def test_a_folder_that_holds_no_set_is_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"features\.json is missing; TensorFlow Datasets writes one"):
        RLDS(tmp_path / "nowhere")
    versions = tmp_path / "versions"
    shutil.copytree(folder, versions / "0.1.0")
    with pytest.raises(FileNotFoundError, match=r"name one of its versions: 0\.1\.0"):
        RLDS(versions)
    (folder / "dataset_info.json").write_text("{")
    with pytest.raises(ValueError, match=r"dataset_info\.json is truncated or altered"):
        RLDS(folder)


@pytest.mark.parametrize(
    "features", [[], {}, {"type": "FeaturesDict", "content": {}}, nested({"image": picture(4, 4, 3)})]
)
def test_a_description_without_steps_is_refused(folder: Path, features: Any) -> None:
    (folder / "features.json").write_text(json.dumps(features))
    with pytest.raises(ValueError, match="describes no episodes with steps"):
        RLDS(folder)


def test_other_files_than_records_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keeps its episodes as array_record; only tfrecord is read"):
        RLDS(write_set(tmp_path, [], fileFormat="array_record"))


def test_a_template_for_the_names_of_files_is_followed(tmp_path: Path) -> None:
    splits = [{"name": "train", "shardLengths": ["1"], "filepathTemplate": "{SPLIT}_{SHARD_INDEX}.{FILEFORMAT}"}]
    write_set(tmp_path, [], splits=splits)
    write_records(tmp_path / "train_00000.tfrecord", [encode(rt1_episode(0, 3))])
    assert lengths(RLDS(tmp_path)) == [3]


def test_a_record_that_is_no_episode_is_refused(tmp_path: Path) -> None:
    source = RLDS(write_set(tmp_path / "set", [[{}]]))
    with pytest.raises(ValueError, match="00000-of-00001, record 0 holds no is_first"):
        lengths(source)
    write_records(tmp_path / "set/rt1-train.tfrecord-00000-of-00001", [b"no example"])
    with pytest.raises(ValueError, match=r"record 0 of .* is no episode"):
        lengths(source)
    empty = EXAMPLES[True]()
    empty.features.feature["steps/is_first"].int64_list.SetInParent()
    write_records(tmp_path / "set/rt1-train.tfrecord-00000-of-00001", [empty.SerializeToString()])
    with pytest.raises(ValueError, match="episode without steps"):
        lengths(source)


def test_a_set_without_episodes_has_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="train has no episodes"):
        next(RLDS(write_set(tmp_path, [[]])).episodes("train"))


def test_features_have_the_names_shapes_and_kinds_that_are_described(folder: Path) -> None:
    features = RLDS(folder).features
    assert set(features) == {
        *(f"action/{name}" for name in STEPS["action"]["featuresDict"]["features"]),
        *("is_first", "is_terminal", "observation/image", "observation/natural_language_instruction"),
    }
    assert features["action/world_vector"] == Feature("tensor", (3,), "float32", "none")
    assert features["observation/image"].kind == "image"
    assert RLDS(FRACTAL).features["observation/natural_language_instruction"].kind == "text"  # a tensor of strings
