"""The files of planning's results, one each, and what they are called; knows no page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
