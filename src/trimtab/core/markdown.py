"""Tables in Markdown, for cards, results and docs; knows nothing of what is in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_table(header: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A header and rows of as many cells, each as its str, one a line and a newline after each."""
    lines = (header, ["---"] * len(header), *rows)
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines)
