"""Tensors and the settings that explain them in one file, whole or not there at all; knows no network.

The format is safetensors; its metadata keep the settings as JSON and a checksum, since safetensors itself has none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load, save
from torch import Tensor

from trimtab.core.files import write_whole


def checksum(tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> str:
    """sha256 over settings, names, dtypes, shapes and bytes, independent of order and device."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def write(path: Path, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> None:
    """Write the file atomically: a reader, or a crash, sees the old file or the new one."""
    whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    metadata = {"settings": json.dumps(settings, sort_keys=True), "sha256": checksum(whole, settings)}
    write_whole(path, save(whole, metadata=metadata))


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors on the CPU, and settings. Raises ValueError if the file is cut short, altered, or something else."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        tensors, settings = load(path.read_bytes()), json.loads(metadata["settings"])
        recorded = metadata["sha256"]
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} is not a file of trimtab's, or is cut short: {error}; restore it, or delete it and have it made again"
        ) from error
    if checksum(tensors, settings) != recorded:
        raise ValueError(
            f"{path} is damaged: its contents do not match its checksum; restore it, or delete it and have it made again"
        )
    return tensors, settings
