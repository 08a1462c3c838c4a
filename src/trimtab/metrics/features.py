"""Features of many videos, made part by part, and what is made of real videos alone kept in a folder; knows no figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from rich import get_console
from rich.progress import track
from torch import Tensor

from trimtab.core.values import Video
from trimtab.metrics.i3d import I3D
from trimtab.metrics.inception import PROTOCOLS, Inception
from trimtab.metrics.weights import I3D_KINETICS, INCEPTION
from trimtab.networks import storage

_CHUNK = 8
"""Clips looked at together: whatever their number, no more of them are resized at once."""


def in_parts(
    measure: Callable[..., Tensor], *videos: Float[Tensor, "batch _ 3 height width"], of: str
) -> Float[Tensor, "batch ..."]:
    """What `measure` makes of videos, put together from what it makes of a few clips at a time, under a bar.

    Args:
        measure: gives one row a clip, such as a network or a metric of frames.
        videos: its arguments, each with the clips first.
        of: what the bar says is made.
    """
    parts = list(zip(*(video.split(_CHUNK) for video in videos), strict=True))
    return torch.cat([measure(*part) for part in track(parts, of, transient=get_console().is_terminal)])


def real_features(
    network: Inception | I3D, video: Video, cache: Path | None = None
) -> Float[Tensor, "batch ... feature"]:
    """Features of real videos, on the CPU, read from `cache` if they were made before.

    The file is named by what makes features equal: the frames, the network's protocol and its weights. One that is
    damaged, or of something else, is made again. On another device features differ in the last digits; a kept file
    does not tell.

    Args:
        network: whose features.
        video: (batch, time, 3, height, width), float32 in [-1, 1].
        cache: a folder, made if absent; without it nothing is kept.

    Raises:
        ValueError: what the network refuses.
        OSError: the file cannot be written.
    """
    make = partial(in_parts, network, video, of=f"{type(network).__name__} features of real clips")
    return kept(make, cache, {**identity(network), "frames": storage.checksum({"video": video}, {})})


def kept(make: Callable[[], Tensor], cache: Path | None, settings: Mapping[str, str]) -> Tensor:
    """What `make` gives, on the CPU, read from a folder if it was made before.

    Args:
        make: what takes long.
        cache: the folder, made if absent; without it nothing is kept.
        settings: all that makes its answers equal; the file is named by them, and one that is damaged, or of something
            else, is made again.

    Raises:
        OSError: the file cannot be written.
    """
    if cache is None:
        return make().cpu()
    path = cache / f"{storage.checksum({}, settings)}.safetensors"
    try:
        found, found_settings = storage.read(path)
        if found_settings == settings:
            return found["features"]
    except (FileNotFoundError, ValueError):
        pass  # made below
    made = make().cpu()
    storage.write(path, {"features": made}, settings)
    return made


def identity(network: Inception | I3D) -> dict[str, str]:
    """How frames become features, in a line, and the SHA-256 of the weights."""
    if isinstance(network, Inception):
        return {"network": PROTOCOLS[network.resize], "weights": INCEPTION.sha256}
    return {"network": network.protocol, "weights": I3D_KINETICS.sha256}
