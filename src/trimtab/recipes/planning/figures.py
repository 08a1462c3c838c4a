"""The figures of a check, each with an interval: made of clips, kept in a cell, put in a table, drawn; knows no model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from rich.table import Table
from torch import Tensor

from trimtab.core.files import write_whole
from trimtab.core.values import Video
from trimtab.metrics.distributions import distance_jackknife, frechet_distance
from trimtab.metrics.frames import Lpips
from trimtab.metrics.i3d import I3D
from trimtab.metrics.intervals import Interval, mean_interval
from trimtab.recipes._held import Held
from trimtab.recipes.planning.continuations import LEAST_EPISODES
from trimtab.recipes.planning.results import check_alike


def share(said: Bool[Tensor, " clip"], clusters: Int[Tensor, " clip"] | None = None) -> Interval:
    """The share that is true, each on its own unless clusters are given."""
    return mean_interval(said.double(), torch.arange(len(said)) if clusters is None else clusters)


def likeness(
    video: Video, held: Held, features: Callable[[], Callable[[Video, Video], Float[Tensor, "clip feature"]]] = I3D
) -> dict[str, Interval]:
    """How near imagined continuations are to the recorded ones: each, and as a set where there are enough episodes.

    Args:
        video: imagined, in the order of the clips.
        held: the clips.
        features: makes the network whose features FVD compares; only made if there are enough.
    """
    clusters = held.recordings
    figures = {"LPIPS": mean_interval(Lpips()(video, held.clip.video).mean(1), clusters)}
    if len(clusters.unique()) >= LEAST_EPISODES:
        network = features()
        sets = network(video, held.context), network(held.clip.video, held.context)
        figures["FVD with given frames"] = distance_jackknife(frechet_distance, *sets, clusters).interval
    return figures


def keep(path: Path, figures: Mapping[str, Interval], protocol: Mapping[str, Any]) -> None:
    """Write figures of one cell, and how they were made."""
    cell = {"figures": {name: asdict(value) for name, value in figures.items()}, "protocol": protocol}
    write_whole(path, json.dumps(cell, indent=1) + "\n")


def kept(path: Path, protocol: Mapping[str, Any]) -> dict[str, Interval]:
    """The figures that `keep` wrote. Raises ValueError, which names what differs, if they were made otherwise."""
    cell = json.loads(path.read_text())
    check_alike(str(path), cell["protocol"], "what is asked for", protocol)
    return {name: Interval(**value) for name, value in cell["figures"].items()}


def table(found: Mapping[str, Mapping[str, Interval]]) -> Table:
    """A row for each of what is compared, a column a figure."""
    names = list(dict.fromkeys(name for of in found.values() for name in of))
    made = Table("", *names)
    for row, of in found.items():
        made.add_row(row, *(str(of.get(name, "")) for name in names))
    return made


def bars(found: Mapping[str, Mapping[str, Interval]], path: Path) -> None:
    """A panel a figure, a bar for each of what is compared, with 95% intervals."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for of in found.values() for name in of))
    figure = Figure(figsize=(3 + 2.6 * len(names), 1.2 + 0.35 * len(found)), layout="constrained")
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        of_all = {row: of[name] for row, of in found.items() if name in of}
        values = list(of_all.values())
        axes.barh(list(of_all), [one.mean for one in values], height=0.6, color="C0", alpha=0.6)
        axes.hlines(list(of_all), [one.low for one in values], [one.high for one in values], color="0.2", linewidth=2)
        axes.set_title(name, loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].invert_yaxis()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
