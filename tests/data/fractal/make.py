"""Writes the files beside it, five made-up episodes with features of RT1's, and what TensorFlow Datasets reads of them.

Needs tensorflow and tensorflow-datasets (4.9.10 wrote these), which nothing else here does: `python make.py`.
"""

import shutil
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets import features

HERE = Path(__file__).parent
READ = (
    "action/gripper_closedness_action", "action/rotation_delta", "action/terminate_episode", "action/world_vector",
    "is_first", "is_last", "is_terminal", "observation/image", "observation/natural_language_instruction",
    "observation/workspace_bounds", "reward",
)  # fmt: skip


def vector(size: int, dtype: type = np.float32, **options: str) -> features.Tensor:
    return features.Tensor(shape=(size,), dtype=dtype, **options)


STEP = {
    "action": {
        "base_displacement_vector": vector(2),
        "gripper_closedness_action": vector(1),
        "rotation_delta": vector(3),
        "terminate_episode": vector(3, np.int32),
        "world_vector": vector(3),
    },
    "is_first": np.bool_,
    "is_last": np.bool_,
    "is_terminal": np.bool_,
    "observation": {
        "compressed": vector(2, encoding="zlib"),
        "image": features.Image(shape=(24, 32, 3), dtype=np.uint8, encoding_format="jpeg"),
        "natural_language_instruction": np.str_,
        "workspace_bounds": features.Tensor(shape=(3, 3), dtype=np.float32),
    },
    "reward": features.Scalar(dtype=np.float32),
}


def step(random: np.random.Generator, episode: int, time: int, length: int) -> dict:
    rows, columns = np.mgrid[:24, :32]
    image = np.stack([8 * columns, 10 * rows, np.full_like(rows, 40 * episode + 5 * time)], axis=-1)
    normal = {
        name: random.normal(size=size).astype(np.float32)
        for name, size in {"world": 3, "rotation": 3, "base": 2, "bounds": (3, 3)}.items()
    }
    return {
        "action": {
            "base_displacement_vector": normal["base"],
            "gripper_closedness_action": random.choice([-1, 0, 1], 1).astype(np.float32),
            "rotation_delta": normal["rotation"],
            "terminate_episode": np.array([0, 1, -1], np.int32),
            "world_vector": normal["world"],
        },
        "is_first": time == 0,
        "is_last": time == length - 1,
        "is_terminal": time == length - 1 and episode % 2 == 0,
        "observation": {
            "compressed": np.array([1, 2], np.float32),
            "image": image.astype(np.uint8),
            "natural_language_instruction": f"pick can {episode}",
            "workspace_bounds": normal["bounds"],
        },
        "reward": np.float32(time == length - 1),
    }


def main() -> None:
    random = np.random.default_rng(0)
    episodes = [
        {
            "aspects": {"success": bool(number % 2)},
            "steps": [step(random, number, time, length) for time in range(length)],
        }
        for number, length in enumerate((4, 1, 3, 6, 2))
    ]
    builder = tfds.dataset_builders.AdhocBuilder(
        name="fractal20220817_data",
        version="0.1.0",
        features=features.FeaturesDict({"aspects": {"success": np.bool_}, "steps": features.Dataset(STEP)}),
        split_datasets={"train": list(enumerate(episodes))},
        data_dir=HERE / "written",
    )
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=2))
    in_order = tfds.ReadConfig(interleave_cycle_length=1)
    expected = {}
    for number, episode in enumerate(builder.as_dataset(split="train", read_config=in_order)):
        steps = list(tfds.as_numpy(episode["steps"]))
        for name in READ:
            values = steps
            for key in name.split("/"):
                values = [value[key] for value in values]
            expected[f"{number}/{name}"] = np.stack([v.decode() if isinstance(v, bytes) else v for v in values])
    np.savez_compressed(HERE / "expected.npz", **expected)
    for path in Path(builder.data_dir).iterdir():
        shutil.copy(path, HERE / path.name)
    shutil.rmtree(HERE / "written")


if __name__ == "__main__":
    main()
