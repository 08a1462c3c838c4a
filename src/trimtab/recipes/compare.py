"""Compare two results, of demo, benchmark, few-steps or score, that were measured alike, clip by clip."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro
from rich import print
from rich.table import Column, Table

from trimtab.metrics.evaluation import REAL, REPEAT_LAST_FRAME
from trimtab.metrics.protocol import Evaluation, compared, made_otherwise


def compare(
    first: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FIRST")],
    second: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SECOND")],
    *,
    method: str | None = None,
    other: str | None = None,
) -> None:
    """Subtract a method of the second result from one of the first, clip by clip, with 95% intervals.

    The results are JSON files (results.json of a demo, what `trimtab score --output` wrote) measured alike on the same
    clips; if they were not, nothing is compared, and what differs is named. Both may be one file.

    Args:
        first: a result.
        second: the result to subtract.
        method: of the first result; may be left out if it has only one.
        other: of the second result; may be left out if it has only one.
    """
    ours, theirs = read_result(first), read_result(second)
    method, other = only(ours, method, first, "--method"), only(theirs, other, second, "--other")
    differences = compared(ours, theirs, method, other)
    table = Table("metric", f"{method}, first", f"{other}, second", Column("difference", no_wrap=True))
    for metric, difference in differences.items():
        means = ours.figure(method, metric).overall.mean, theirs.figure(other, metric).overall.mean
        table.add_row(metric, *(f"{mean:.4g}" for mean in means), str(difference))
    interval = next(iter(differences.values()))
    print(table)
    print(f"{interval.num_clips} clips of {interval.num_clusters} levels, each compared with itself; 95% intervals")
    if otherwise := made_otherwise(ours, theirs):
        print(f"measured alike, and made otherwise: {'; '.join(otherwise)}")
    unpaired = [metric for metric in ours.protocol["metrics"] if metric not in differences]
    if unpaired:
        print(f"not here, since a single clip has none: {', '.join(unpaired)}")


def read_result(path: Path) -> Evaluation:
    """The result in a file. Raises ValueError if it is none, OSError if it cannot be read."""
    try:
        return Evaluation.from_json(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def only(result: Evaluation, name: str | None, path: Path, flag: str) -> str:
    """The method asked for, or the only one there is to ask for."""
    methods = [method for method in result.methods if method not in (REAL, REPEAT_LAST_FRAME)]
    if name is None and len(methods) != 1:
        raise ValueError(f"{path} has {', '.join(methods) or 'no method'}; name one with {flag}")
    return methods[0] if name is None else name
