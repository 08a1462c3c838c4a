"""Writes RLDS sets as TensorFlow Datasets does, with protobuf's own encoder and TensorBoard's own records."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from PIL import Image
from tensorboard.summary.writer.record_writer import RecordWriter

PROTO = """
name: "example_%(packed)s.proto" package: "packed_%(packed)s" syntax: "proto3"
message_type { name: "BytesList" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_BYTES } }
message_type { name: "FloatList" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_FLOAT
  options { packed: %(packed)s } } }
message_type { name: "Int64List" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_INT64
  options { packed: %(packed)s } } }
message_type { name: "Feature" oneof_decl { name: "kind" }
  field { name: "bytes_list" number: 1 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: "BytesList" oneof_index: 0 }
  field { name: "float_list" number: 2 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: "FloatList" oneof_index: 0 }
  field { name: "int64_list" number: 3 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: "Int64List" oneof_index: 0 } }
message_type { name: "Features"
  field { name: "feature" number: 1 label: LABEL_REPEATED type: TYPE_MESSAGE type_name: "Features.FeatureEntry" }
  nested_type { name: "FeatureEntry" options { map_entry: true }
    field { name: "key" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
    field { name: "value" number: 2 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: "Feature" } } }
message_type { name: "Example"
  field { name: "features" number: 1 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: "Features" }
  field { name: "unknown" number: 999 label: LABEL_OPTIONAL type: TYPE_DOUBLE } }
"""


def _example_class(packed: str) -> Any:
    pool = descriptor_pool.DescriptorPool()
    pool.Add(text_format.Parse(PROTO % {"packed": packed}, descriptor_pb2.FileDescriptorProto()))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"packed_{packed}.Example"))


EXAMPLES = {packed: _example_class(str(packed).lower()) for packed in (True, False)}


def encode(features: Mapping[str, Sequence[Any]], packed: bool = True, unknown: float | None = None) -> bytes:
    """A tf.train.Example; the kind of a list is that of its first value, and bytes if it is empty."""
    example = EXAMPLES[packed]()
    for name, values in features.items():
        kind = {float: "float_list", int: "int64_list"}.get(type(values[0]) if values else bytes, "bytes_list")
        getattr(example.features.feature[name], kind).value.extend(values)
    if unknown is not None:
        example.unknown = unknown
    return example.SerializeToString()


def write_records(path: Path, records: Sequence[bytes]) -> None:
    with path.open("wb") as file:
        writer = RecordWriter(file)
        for record in records:
            writer.write(record)


def tensor(*shape: int, dtype: str = "float32") -> dict[str, Any]:
    return {"tensor": {"shape": {"dimensions": [str(size) for size in shape]}, "dtype": dtype, "encoding": "none"}}


def picture(*shape: int, dtype: str = "uint8") -> dict[str, Any]:
    return {"image": {"shape": {"dimensions": [str(size) for size in shape]}, "dtype": dtype}}


def nested(features: Mapping[str, Any]) -> dict[str, Any]:
    return {"featuresDict": {"features": dict(features)}}


STEPS = {
    "is_first": tensor(dtype="bool"),
    "is_terminal": tensor(dtype="bool"),
    "action": nested({
        "world_vector": tensor(3),
        "rotation_delta": tensor(3),
        "gripper_closedness_action": tensor(1),
    }),
    "observation": nested({"image": picture(-1, -1, 3), "natural_language_instruction": {"text": {}}}),
}  # fmt: skip


def rt1_episode(number: int, length: int, size: tuple[int, int] = (6, 8)) -> dict[str, list[Any]]:
    """An episode as RT1's, with lossless pictures whose every pixel is (number, step, 7)."""
    random = np.random.default_rng([number, length])

    def encoded(step: int) -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", size[::-1], (number, step, 7)).save(buffer, "PNG")
        return buffer.getvalue()

    return {
        "steps/is_first": [int(step == 0) for step in range(length)],
        "steps/is_terminal": [int(step == length - 1 and number % 2 == 0) for step in range(length)],
        "steps/action/world_vector": random.normal(number, 2, 3 * length).tolist(),
        "steps/action/rotation_delta": random.normal(0, 0.1, 3 * length).tolist(),
        "steps/action/gripper_closedness_action": random.choice([-1.0, 0.0, 0.0, 1.0], length).tolist(),
        "steps/observation/image": [encoded(step) for step in range(length)],
        "steps/observation/natural_language_instruction": [b"pick can %d" % number] * length,
    }


def write_set(
    folder: Path,
    shards: Sequence[Sequence[Mapping[str, Sequence[Any]]]],
    steps: Mapping[str, Any] = STEPS,
    **info: Any,
) -> Path:
    """A set in a folder, one file for each of the shards, which are lists of episodes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "features.json").write_text(json.dumps(nested({"steps": {"sequence": {"feature": nested(steps)}}})))
    split = {"name": "train", "shardLengths": [str(len(shard)) for shard in shards]}
    described = {"name": "rt1", "version": "0.1.0", "fileFormat": "tfrecord", "splits": [split], **info}
    (folder / "dataset_info.json").write_text(json.dumps(described))
    for number, shard in enumerate(shards):
        path = folder / f"rt1-train.tfrecord-{number:05}-of-{len(shards):05}"
        write_records(path, [encode(episode) for episode in shard])
    return folder
