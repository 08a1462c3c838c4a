"""The sections of a report say what was measured, and show it."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from test_report import Interval, Page, frame_of, videos
from trimtab.metrics import intervals, listening, masks
from trimtab.report import Report
from trimtab.report.pictures import heat
from trimtab.report.sections import Listened, Masked, listening_section, mask_section

KINDS = {"swapped": "those of another clip", "reversed": "its own, from last to first", "untold": "nothing"}


@dataclass(frozen=True)
class Result:
    score: Interval = field(default_factory=lambda: Interval(0.125, 0.1, 0.15))
    error: Interval = field(default_factory=lambda: Interval(0.2, 0.18, 0.22))
    response: dict[str, Interval] = field(default_factory=lambda: dict.fromkeys(KINDS, Interval(0.01, 0.008, 0.012)))
    cost: dict[str, Interval] = field(default_factory=lambda: dict.fromkeys(KINDS, Interval(0.02, -0.004, 0.03)))
    left_out: dict[str, str] = field(default_factory=lambda: {"zeroed": "no action <does nothing>"})
    protocol: dict[str, Any] = field(
        default_factory=lambda: {
            "num_clips": 48, "num_levels": 40, "told": KINDS, "score": ["swapped", "reversed"],
        }
    )  # fmt: skip

    def verdict(self) -> str:
        return "It listens & <obeys>."


def show(*arguments: Any, **options: Any) -> Page:
    report = Report("listening")
    listening_section(report, *arguments, **options)
    return Page(report.html())


def test_the_listening_section_says_the_verdict_and_shows_costs_in_percent_of_the_error() -> None:
    page = show(Result(), heading="Does AVID listen?")
    assert "Does AVID listen?It listens & <obeys>." in page.text
    assert "0.200 [0.180, 0.220]" in page.text
    assert all(kind + which in page.text for kind, which in KINDS.items())
    assert page.text.count("5.000 [4.000, 6.000]") == 3  # 0.01 of 0.2
    assert page.text.count("10.00 [−2.00, 15.00]") == 3
    assert "12.50 [10.00, 15.00]" in page.text
    assert "the mean of swapped, reversed" in page.text
    assert "48 clips of 40 levels" in page.text
    assert "Left out: zeroed, as no action <does nothing>." in page.text
    assert page.all("img") == []


def test_the_listening_section_shows_the_same_start_under_every_action() -> None:
    left, pixels = videos(seed=1)
    right, others = videos(seed=2)
    given, _ = videos(time=1, seed=3)
    page = show(Result(), {"left": left, "right": right}, given=given, labels=["a", "b", "c"])
    (still,) = page.pictures("still")
    for row, own in enumerate((pixels, others)):
        for clip in range(3):
            np.testing.assert_array_equal(frame_of(still, row, clip, 16, scale=3)[..., :3], own[clip, -1].numpy())
    assert len(page.pictures("strip")) == 2
    for words in ("left", "right", "The same start and noise", "given to the model"):
        assert words in page.text
    with pytest.raises(ValueError, match="3 clips, 1 labels"):
        show(Result(), {"left": left}, labels=["a"])


def describe(values: dict[float, torch.Tensor], moving: torch.Tensor) -> tuple[masks.MaskStatistics, Page]:
    statistics = masks.mask_statistics(values, moving, torch.arange(len(moving)))
    report = Report("masks")
    mask_section(report, statistics)
    return statistics, Page(report.html())


def some_motion() -> torch.Tensor:
    moving = torch.zeros(4, 3, 1, 16, 16, dtype=torch.bool)
    moving[..., :4, :8] = True
    return moving


def test_the_mask_section_shows_the_statistics_curves_and_maps() -> None:
    moving = some_motion()
    statistics, page = describe({noise: torch.where(moving, 0.4, 0.8 + noise / 10) for noise in (0.2, 0.9)}, moving)
    assert "It tells places apart" in page.text
    assert "it trusts the prior by 0.400, less than where nothing does (0.855; difference 0.455" in page.text
    assert "its correlation with what moves is −1.000" in page.text
    for words in ("0.20", "0.90", f"{statistics.by_noise[0.2].mean:.3f}", "where something moves", "everywhere"):
        assert words in page.text
    assert [svg["aria-label"].split(":")[0] for svg in page.all("svg", "chart") if svg["aria-label"]] == [
        "mask against noise",
        "mask against predicted frame",
    ]
    assert "noise 0.20" in page.text
    first, last = page.pictures("strip")
    for picture, maps in zip((first, last), statistics.maps, strict=True):
        for time in range(3):
            shown = frame_of(picture, 0, time, 16, scale=3)[..., :3]
            np.testing.assert_array_equal(shown, heat(maps[time, 0].numpy()))


def test_the_mask_section_names_failures_and_does_without_motion_and_curves_of_one_point() -> None:
    _, page = describe({0.5: torch.full((2, 1, 1, 16, 16), 0.99)}, torch.zeros(2, 1, 1, 16, 16, dtype=torch.bool))
    assert "The mask is stuck near 1" in page.text
    assert "It tells places apart" not in page.text
    assert "Too little moves" in page.text
    assert page.all("svg") == []
    assert "–" in page.text
    assert len(page.pictures("strip")) == 1


def test_curves_of_places_that_are_nowhere_are_left_out() -> None:
    still = torch.zeros_like(some_motion())
    _, page = describe({noise: torch.rand(4, 3, 1, 16, 16) for noise in (0.1, 0.5)}, still)
    labels = [str(svg["aria-label"]) for svg in page.all("svg", "chart")]
    assert [label.split(": ")[1] for label in labels] == ["everywhere, where nothing moves"] * 2


def test_what_metrics_make_is_what_the_sections_take() -> None:
    """The report knows no metric, so only a test can see that the two fit."""
    moving = some_motion()
    statistics, _ = describe({0.5: torch.where(moving, 0.4, 0.8)}, moving)
    assert isinstance(statistics, Masked)
    real = intervals.Interval(0.1, 0.0, 0.2, num_clips=4, num_clusters=2)
    told = {"swapped": real}
    protocol = {"told": KINDS, "score": ["swapped"], "num_clips": 4, "num_levels": 2}
    result = listening.Listening(real, real, told, told, real, real, {}, protocol)
    assert isinstance(result, Listened)
    assert result.verdict() in show(result).text
