"""A self-contained HTML page of moving strips, tables and curves; knows no model, no metric and no experiment.

The page needs nothing but itself: no script, no request (its own policy forbids them), pictures inside as data. Moving
strips of one figure are one animation, so they stay in step; the page offers the last frame to who wants no motion.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from PIL.Image import Image
from torch import Tensor

from trimtab.core.files import write_whole
from trimtab.report.chart import chart
from trimtab.report.pictures import HEAT, cells, clips_within, encode
from trimtab.report.style import STYLE

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@runtime_checkable
class Measured(Protocol):
    """A mean with its interval, such as metrics make them."""

    @property
    def mean(self) -> float: ...

    @property
    def low(self) -> float: ...

    @property
    def high(self) -> float: ...


Cell = str | int | float | Measured


class Report:
    """A page that is built from top to bottom and written once; text is escaped, so any string may be passed."""

    def __init__(self, title: str, subtitle: str = "") -> None:
        self.title, self.subtitle = title, subtitle
        self._summary: list[str] = []
        self._settings: list[tuple[str, str]] = []
        self._sections: list[tuple[str, list[str]]] = [("", [])]
        self._num_charts = 0

    def summary(self, sentences: Sequence[str]) -> None:
        """Key findings, one sentence each, shown at the top."""
        self._summary += sentences

    def section(self, heading: str, text: str = "") -> None:
        """Start a section; blank lines divide the text into paragraphs."""
        paragraphs = [f"<p>{escape(part)}</p>" for part in text.split("\n\n") if part.strip()]
        self._sections.append((heading, paragraphs))

    def strips(
        self,
        rows: Mapping[str, Tensor],
        caption: str,
        *,
        labels: Sequence[str] | None = None,
        frame_rate: float | int = 5,
        given: Tensor | None = None,
        stills: Sequence[int] | None = None,
    ) -> None:
        """Show several videos of the same clips: moving in step, a column a clip, and as film strips.

        Pictures are lossless WebP up to 16 million pixels, then WebP of quality 90. The last frame stays for a moment.

        Args:
            rows: for each name, such as a method's, a video (clip, time, 3, height, width) in [-1, 1], where values
                outside are shown as the nearest inside, since samplers may leave the range; or a map
                (clip, time, 1, height, width) in [0, 1], such as a mask, shown in colours with a legend.
            caption: what to see.
            labels: one a clip; "clip 1", "clip 2", .. by default.
            frame_rate: frames a second.
            given: context frames (clip, num_context, 3, height, width) in [-1, 1], shown first, with a border.
            stills: the clips to show as film strips too, by position; the first two by default.

        Raises:
            ValueError: shapes do not fit, values are not finite floats, look like 0 .. 255, or leave a map's [0, 1].
        """
        table = cells(rows, given)
        num_clips, num_frames = table.pixels.shape[1:3]
        labels = [f"clip {number + 1}" for number in range(num_clips)] if labels is None else labels
        if len(labels) != num_clips:
            raise ValueError(f"strips need one label a clip: {num_clips} clips, {len(labels)} labels")
        if not frame_rate > 0:
            raise ValueError(f"frame_rate counts frames a second and is above 0, not {frame_rate}")
        stills = range(min(2, num_clips)) if stills is None else clips_within(stills, num_clips)
        names = ", ".join(table.names)
        scale = table.scale(num_clips)
        frames = [table.across_clips(time, scale) for time in range(num_frames)]
        moving = _img(
            "moving", f"Animation of {num_frames} frames: {names}; {num_clips} clips", frames, scale, frame_rate
        )
        last = _img("still", f"Last frame: {names}; {num_clips} clips", frames[-1:], scale)
        parts = [_grid("", labels, table.names, moving + last)]
        parts.append('<label class="hold"><input type="checkbox"> Stop at the last frame</label>')
        scale = table.scale(num_frames)
        for clip in stills:
            alt = f"Film strip of {labels[clip]}, time from left to right: {names}"
            strip = _img("strip", alt, [table.across_time(clip, scale)], scale)
            parts.append(_grid(labels[clip], table.times, table.names, strip))
        legend = ""
        if table.num_given:
            legend += '<span class="legend"><span class="given"></span>given to the model</span>'
        if any(table.is_map):
            which = ", ".join(name for name, is_map in zip(table.names, table.is_map, strict=True) if is_map)
            bar = f'<span class="scale" style="background: linear-gradient(to right, {", ".join(HEAT)})"></span>'
            legend += f'<span class="legend">{escape(which)}: 0{bar}1</span>'
        self._figure(caption, "".join(parts) + (_tag("p", "note", legend) if legend else ""))

    def table(
        self,
        header: Sequence[str],
        rows: Sequence[Sequence[Cell]],
        caption: str,
        note: str = "",
        *,
        best: Mapping[str, Literal["min", "max"]] | None = None,
    ) -> None:
        """Show a table; its first column names the rows.

        Args:
            header: one a column.
            rows: cells are text, numbers, or objects with `mean`, `low` and `high`, shown as 0.123 [0.118, 0.130] above
                a bar on the column's scale. Floats of a column have as many decimals as its largest value asks for.
            caption: what to see.
            note: small print.
            best: columns whose smallest or largest number is marked; text is not compared.

        Raises:
            ValueError: a row has another length than the header, or best names an unknown column or direction.
        """
        best = best or {}
        if any(len(row) != len(header) for row in rows) or not header:
            raise ValueError(f"each row has {len(header)} cells as the header, not {[len(row) for row in rows]}")
        if unknown := {
            column: way for column, way in best.items() if column not in header or way not in ("min", "max")
        }:
            raise ValueError(f'best maps columns of {list(header)} to "min" or "max", not {unknown}')
        columns = [_column([row[index] for row in rows], best.get(name)) for index, name in enumerate(header)]
        head = "".join(
            _tag("th", "number" if any(kind for kind, _ in column) else "", escape(name), scope="col")
            for name, column in zip(header, columns, strict=True)
        )
        lines = "".join(
            f"<tr>{_tag('th', *first, scope='row')}{''.join(_tag('td', *cell) for cell in rest)}</tr>"
            for first, *rest in zip(*columns, strict=True)
        )
        notes = [note]
        if any(kind == "number best" for column in columns for kind, _ in column):
            notes.append("Bold: best in its column.")
        if any('class="bar"' in text for column in columns for _, text in column):
            notes.append("Bars: the intervals, on one scale a column.")
        small = escape(" ".join(part for part in notes if part))
        self._add(
            f'<figure><div class="scroll"><table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>'
            f"<tbody>{lines}</tbody></table></div>{_tag('p', 'note', small) if small else ''}</figure>"
        )

    def curves(
        self,
        curves: Mapping[str, tuple[Any, Any]],
        caption: str,
        x_label: str,
        y_label: str,
        log_x: bool = False,
        log_y: bool = False,
    ) -> None:
        """Show curves in one chart, each labelled where it ends.

        Args:
            curves: for each name its x and y, sequences, arrays or tensors of one length; y that is NaN leaves a gap.

        Raises:
            ValueError: no curve; x and y differ in length, or nothing can be drawn (on a log axis: nothing above 0).
        """
        self._num_charts += 1
        drawing = chart(curves, x_label, y_label, log_x, log_y, prefix=f"chart{self._num_charts}-")
        names = escape(", ".join(curves))
        label = f'<svg class="chart" role="img" aria-label="{escape(y_label)} against {escape(x_label)}: {names}"'
        self._figure(caption, f'<div class="scroll">{drawing.replace("<svg", label, 1)}</div>')

    def settings(self, mapping: Mapping[str, Any]) -> None:
        """Settings and versions, folded away at the end of the page; nested mappings are shown as outer.inner."""
        for name, value in mapping.items():
            if isinstance(value, Mapping):
                self.settings({f"{name}.{inner}": deeper for inner, deeper in value.items()})
            else:
                self._settings.append((str(name), str(value)))

    def html(self) -> str:
        """The page."""
        items = "".join(f"<li>{escape(sentence)}</li>" for sentence in self._summary)
        headings = [heading for heading, _ in self._sections[1:]]
        links = "".join(f'<a href="#part{n}">{escape(text)}</a>' for n, text in enumerate(headings, 1))
        body = [f"<header><h1>{escape(self.title)}</h1>"]
        body += [f'<p class="subtitle">{escape(self.subtitle)}</p>'] if self.subtitle else []
        body += [f'<div class="summary"><ul>{items}</ul></div>'] if items else []
        body += [f"<nav>{links}</nav>"] if len(headings) > 2 else []
        body += ["</header>", *self._sections[0][1]]
        for number, (heading, parts) in enumerate(self._sections[1:], 1):
            body.append(f'<section id="part{number}"><h2>{escape(heading)}</h2>{"".join(parts)}</section>')
        if self._settings:
            lines = (f'<tr><th scope="row">{escape(a)}</th><td>{escape(b)}</td></tr>' for a, b in self._settings)
            table = f"<table><tbody>{''.join(lines)}</tbody></table>"
            body.append(f"<details><summary>Settings and versions</summary>{table}</details>")
        return (
            f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(self.title)}</title>'
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
            '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
            f"<style>{STYLE}</style></head>\n<body><main>{chr(10).join(body)}</main></body></html>\n"
        )

    def write(self, path: Path | str) -> Path:
        """Write the page whole or not at all; makes the folder. Raises OSError if it cannot."""
        write_whole(Path(path), self.html())
        return Path(path)

    def _add(self, part: str) -> None:
        self._sections[-1][1].append(part)

    def _figure(self, caption: str, content: str) -> None:
        self._add(f"<figure><figcaption>{escape(caption)}</figcaption>{content}</figure>")


def _img(kind: str, alt: str, frames: Sequence[Image], scale: int, frame_rate: float | int = 1) -> str:
    width, height = frames[0].size
    data = base64.b64encode(encode(frames, frame_rate, scale)).decode()
    size = f'width="{width}" height="{height}"'
    return f'<img class="{kind}" {size} alt="{escape(alt)}" src="data:image/webp;base64,{data}">'


def _grid(corner: str, heads: Sequence[str], names: Sequence[str], pictures: str) -> str:
    """Pictures of equal cells, with the names of the columns above and of the rows to the left."""
    above, left = ("".join(f"<span>{escape(name)}</span>" for name in some) for some in (heads, names))
    return (
        f'<div class="grid"><div class="which">{escape(corner)}</div><div class="heads">{above}</div>'
        f'<div class="names">{left}</div><div>{pictures}</div></div>'
    )


def _tag(tag: str, kind: str, content: str, *, scope: str = "") -> str:
    attributes = (f' class="{kind}"' if kind else "") + (f' scope="{scope}"' if scope else "")
    return f"<{tag}{attributes}>{content}</{tag}>"


def _column(values: Sequence[Cell], best: Literal["min", "max"] | None) -> list[tuple[str, str]]:
    """The cells of a column: the class, empty for text, and the content."""
    means = [_mean(value) for value in values]
    finite = [mean for mean in means if math.isfinite(mean)]
    target = None if best is None or not finite else min(finite) if best == "min" else max(finite)
    ends = [end for value in values if isinstance(value, Measured) for end in (value.low, value.high)]
    low, high = min(ends, default=0.0), max(ends, default=0.0)
    size = max((abs(number) for number in [*finite, *ends] if math.isfinite(number)), default=0)
    exponent = math.floor(math.log10(size)) if size else 0
    digits = max(0, 3 - exponent if exponent >= 0 else 2 - exponent)  # 0.123, 1.234, 12.34, 123.4, 1,234
    contents = []
    for value, mean in zip(values, means, strict=True):
        if isinstance(value, str):
            contents.append(("", escape(value)))
            continue
        kind = "number best" if mean == target else "number"
        text = _number(mean, 0 if isinstance(value, int) else digits)
        if isinstance(value, Measured):
            text += f' <span class="interval">[{_number(value.low, digits)}, {_number(value.high, digits)}]</span>'
            if high > low and math.isfinite(high - low):
                left, dot, right = (100 * (end - low) / (high - low) for end in (value.low, mean, value.high))
                line = f'<i style="left: {left:.1f}%; width: {right - left:.1f}%"></i><b style="left: {dot:.1f}%"></b>'
                text += f'<span class="bar" aria-hidden="true">{line}</span>'
        contents.append((kind, text))
    return contents


def _mean(value: Cell) -> float:
    """The number of a cell; NaN for text."""
    return math.nan if isinstance(value, str) else float(value.mean if isinstance(value, Measured) else value)


def _number(value: float | int, digits: int) -> str:
    return f"{value:,.{digits}f}".replace("-", "\N{MINUS SIGN}")
