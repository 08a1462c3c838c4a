"""Inverse dynamics as plans read actions by them: from their file, checked against the robot's pace and frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path

import torch

from trimtab.control import inverse_dynamics
from trimtab.networks import storage
from trimtab.recipes.domains.metaworld import SIZE
from trimtab.recipes.record_metaworld import ROBOT


@cache
def reading(
    path: Path, action_repeat: int, side: int = SIZE, weights: Path | None = None
) -> tuple[Callable[..., torch.Tensor], str]:
    """Inverse dynamics from their file, and a fingerprint of it.

    Args:
        path: of the file.
        action_repeat: for how many of the simulator's steps an action is held between two frames.
        side: of the frames, in pixels.
        weights: of the encoder, a file, if they were trained with one whose weights no package carries.

    Raises:
        ValueError: there are none; they learned another pace, several, another look, or frames of another size; or weights
            are missing, or not asked for.
        FileNotFoundError: there is no file of weights.
    """
    if not path.is_file():
        raise ValueError(f"no inverse dynamics in {path}; train them first: trimtab inverse-dynamics")
    trained, config = storage.read(path)
    known, seen = config.get("facts", {}).get("action_repeat", action_repeat), config.get("frame_size", side)
    again = f"trimtab inverse-dynamics --action-repeat {action_repeat} --max-steps STEPS --size {side} --output FOLDER"
    if known is None:
        raise ValueError(
            f"{path} was trained on sets of different paces, so that nobody knows what an action of it is worth; train it "
            f"on sets of one pace: {again}"
        )
    if known != action_repeat:
        raise ValueError(
            f"{path} reads what was done in {known} steps of the simulator, and here an action is held for {action_repeat}; "
            f"pass one of that pace: {again}"
        )
    if seen != side:
        raise ValueError(
            f"{path} reads frames of {seen} x {seen}, and the prior's are {side} x {side}; pass one of that size: {again}"
        )
    looks = config.get("facts", {}).get("looks", [asdict(ROBOT)])
    if asdict(ROBOT) not in looks:
        raise ValueError(
            f"{path} never saw the robot as plans show it, but in other colours; train it on sets of that look, as by "
            "default, or as trimtab record-metaworld --robot records them"
        )
    encoder = config.get("encoder")
    if encoder in inverse_dynamics.ABSENT and weights is None:
        raise ValueError(
            f"{path} sees by {encoder}, whose weights no package carries; pass their file as --reader-weights"
        )
    if encoder not in inverse_dynamics.ABSENT and weights is not None:
        raise ValueError(
            f"{path} names no encoder that needs weights; leave out --reader-weights, or train a reader with such an encoder"
        )
    return inverse_dynamics.load(path, weights=weights).act, storage.checksum(trained, config)[:16]
