"""Curves as one inline SVG in the colours of the page; knows no page beyond its colours, and not what is measured."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from trimtab.report.style import NUM_COLOURS

NEUTRAL = "#808080"  # stands for the colour of the text around the chart
SERIES = tuple(f"#0102{number:02x}" for number in range(NUM_COLOURS))  # stand for --c0, --c1, .. of the page
LINES = ("-", "--", ":", "-.")
MARKERS = "osD^vPX"
HEIGHT = 3.8  # of a chart of few curves, in inches
FEW = 24  # points up to which each is marked


def chart(
    curves: Mapping[str, tuple[Any, Any]], x_label: str, y_label: str, log_x: bool, log_y: bool, prefix: str
) -> str:
    """The SVG element; every id in it begins with the prefix (arguments as in `Report.curves`)."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    points = {name: _points(name, x, y, log_x, log_y) for name, (x, y) in curves.items()}
    if not points:
        raise ValueError("there is nothing to draw: curves is empty")
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix}):
        height = max(HEIGHT, 0.26 * len(points) + 0.9)  # many labels need a taller chart
        figure = Figure(figsize=(8.6, height))
        axes = figure.add_subplot()
        axes.set_xscale("log" if log_x else "linear")
        axes.set_yscale("log" if log_y else "linear")
        for number, (x, y) in enumerate(points.values()):
            few = np.isfinite(y).sum() <= FEW
            axes.plot(
                x,
                y,
                color=SERIES[number % NUM_COLOURS],
                linestyle=LINES[number // NUM_COLOURS % len(LINES)],
                marker=MARKERS[number % len(MARKERS)] if few else None,
                markersize=4.5,
                linewidth=1.8,
                solid_joinstyle="round",
            )
        axes.set_xlabel(x_label, color=NEUTRAL, labelpad=7)
        axes.set_ylabel(y_label, color=NEUTRAL, labelpad=7)
        axes.tick_params(which="both", colors=NEUTRAL, length=0, pad=6)
        axes.grid(axis="y", color=NEUTRAL, alpha=0.22, linewidth=0.7)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(NEUTRAL)
        axes.autoscale_view()  # now, as ticks and the places of the labels depend on the limits
        for axis, is_log in ((axes.xaxis, log_x), (axes.yaxis, log_y)):
            low, high = axis.get_view_interval()
            if is_log:
                axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 300 * low else (1,)))
                axis.set_major_formatter(lambda value, _: f"{value:,g}")
                axis.set_minor_locator(NullLocator())
        ends = [axes.transData.transform((x[-1], y[np.isfinite(y)][-1]))[1] for x, y in points.values()]
        heights = spread(
            np.array([axes.transAxes.inverted().transform((0, end))[1] for end in ends]), 0.075 * HEIGHT / height
        )
        for number, (name, place) in enumerate(zip(points, heights, strict=True)):
            axes.text(1.015, place, name, color=SERIES[number % NUM_COLOURS], va="center", transform=axes.transAxes)
        file = io.StringIO()
        figure.savefig(file, format="svg", bbox_inches="tight", transparent=True, metadata={"Date": None})
    return _inline(file.getvalue(), prefix)


def spread(heights: np.ndarray, gap: float) -> np.ndarray:
    """Move labels apart until they are a gap apart, in their order, each crowd centred where its labels were."""
    order = np.argsort(heights, kind="stable")
    placed: list[list[int]] = []  # crowds of labels that touch, each in order
    for index in order:
        placed.append([int(index)])
        while len(placed) > 1:
            below, above = placed[-2], placed[-1]
            if heights[above].mean() - heights[below].mean() >= gap * (len(above) + len(below)) / 2:
                break
            placed[-2:] = [below + above]
    result = heights.astype(float).copy()
    for crowd in placed:
        result[crowd] = heights[crowd].mean() + gap * (np.arange(len(crowd)) - (len(crowd) - 1) / 2)
    return result


def _points(name: str, x: Any, y: Any, log_x: bool, log_y: bool) -> tuple[np.ndarray, np.ndarray]:
    """One curve as float64 arrays."""
    x, y = (
        np.asarray(values.detach().cpu() if hasattr(values, "detach") else values, dtype=float) for values in (x, y)
    )
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"the curve {name!r} has x and y of one length, not of shapes {x.shape} and {y.shape}")
    if not np.isfinite(x).all() or np.isinf(y).any() or not np.isfinite(y).any():
        raise ValueError(
            f"the curve {name!r} needs a point, and finite x; y may be NaN here and there, but not infinite"
        )
    if (log_x and (x <= 0).any()) or (log_y and (y <= 0).any()):
        raise ValueError(f"the curve {name!r} has values that are not above 0, which a logarithmic axis cannot show")
    return x, y


def _inline(svg: str, prefix: str) -> str:
    """The SVG as an element of a page: its own ids, the page's colours, no height and no outside address."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{prefix}", svg)
    for number, colour in enumerate(SERIES):
        svg = svg.replace(colour, f"var(--c{number})")
    return svg.replace(NEUTRAL, "currentColor").strip()
