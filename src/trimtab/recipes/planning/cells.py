"""The files of planning's results, one each, what they are called, and what is shown beside them; knows no page."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from trimtab.control.episodes import Episode
from trimtab.recipes.planning.adaptations import ADAPTATIONS
from trimtab.recipes.planning.results import TRUTHS

VIDEOS, LOSSES = "videos", "losses"
"""Folders among the cells, of what is no single task's."""


def cell_name(task: str, method: str, seed: int, random_share: float) -> str:
    return f"{task}--{slug(method)}--{seed}--{round(100 * random_share)}.json"


def slug(name: str) -> str:
    """The name of a method as a file's."""
    return name.lower().replace("'", "").replace(",", "").replace(" ", "-")


def cells_in(folder: Path) -> list[dict[str, Any]]:
    """All cells, in the order of methods and tasks. Raises ValueError for a file that is none."""
    found, order = [], [*TRUTHS, *ADAPTATIONS]
    for path in sorted(folder.glob("*.json")):
        try:
            cell = json.loads(path.read_text())
            place = order.index(cell["method"]), cell.get("task", ""), cell["seed"], cell["random_share"]
            found.append((place, cell))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is no cell of planning ({error!r}); move it away, or name another --cells"
            ) from error
    return [cell for _, cell in sorted(found, key=lambda one: one[0])]


def seen(played: Iterable[Episode], replan_every: int) -> dict[str, torch.Tensor]:
    """What was seen in each episode, uint8 frames, and what was imagined for the same moments, to be shown."""
    pictures: dict[str, torch.Tensor] = {}
    for number, episode in enumerate(played):
        assert episode.frames is not None  # they were asked for
        executed = torch.from_numpy(episode.frames)
        imagined = executed.clone()
        for plan in episode.plans:
            part = imagined[plan.step + 1 : plan.step + 1 + replan_every]
            part.copy_(torch.from_numpy(plan.frames[: len(part)]))
        pictures |= {f"executed {number}": executed, f"imagined {number}": imagined}
    return pictures
