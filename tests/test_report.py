"""The report: a page that stands alone, says what was put in, and shows the very pixels; and film strips."""

import base64
import io
import os
import re
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from trimtab.report import Report, film_strip
from trimtab.report.chart import spread
from trimtab.report.pictures import HEAT, cells, encode, heat

VOID = {"meta", "link", "img", "input", "br", "hr"}
MARGIN = 2  # around frames up to 127 pixels
ORANGE = (0xE6, 0x9F, 0x00, 0xFF)


@dataclass(frozen=True)
class Interval:
    mean: float
    low: float
    high: float


class Page(HTMLParser):
    """Reads a page, and refuses tags that do not close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def all(self, tag: str, kind: str = "") -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag and kind in (attrs.get("class") or "")]

    def pictures(self, kind: str) -> list[Image.Image]:
        data = [str(attrs["src"]).removeprefix("data:image/webp;base64,") for attrs in self.all("img", kind)]
        return [Image.open(io.BytesIO(base64.b64decode(each))) for each in data]


def videos(clips: int = 3, time: int = 4, size: int = 16, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Videos of random bytes, and their (clip, time, height, width, 3) bytes."""
    random = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (clips, time, size, size, 3), generator=random, dtype=torch.uint8)
    return pixels.movedim(-1, 2).float() / 127.5 - 1, pixels


def frame_of(picture: Image.Image, row: int, column: int, size: int, scale: int) -> np.ndarray:
    """The RGBA pixels of one cell of a grid, scaled down again."""
    pitch = size + 2 * MARGIN
    pixels = np.asarray(picture.convert("RGBA"))[::scale, ::scale]
    top, left = row * pitch + MARGIN, column * pitch + MARGIN
    return pixels[top : top + size, left : left + size]


def full_report() -> Report:
    report = Report("Title <b>&", "under it")
    report.summary(["It works & <i>well</i>."])
    report.section("Videos <1>", "First paragraph.\n\nSecond <script>paragraph</script>.")
    video, _ = videos()
    maps = torch.linspace(0, 1, 3 * 4 * 256).reshape(3, 4, 1, 16, 16)
    report.strips({"one <x>": video, "mask": maps}, "Strips & more", labels=["a<b", "c", "d"], given=video[:, :2])
    report.section("Numbers")
    report.table(["method", "error"], [["<AVID>", Interval(0.1234, 0.118, 0.13)], ["none", 0.5]], "Table <1>", "a note")
    report.section("Curves")
    report.curves({"a < b": ([1, 2, 3], [3.0, 2.0, 1.0])}, "Falling", "step <s>", "loss & more")
    report.curves(
        {"c": (torch.arange(1, 50), np.geomspace(1, 9, 49))}, "Rising", "step", "gain", log_x=True, log_y=True
    )
    report.settings({"steps": 30, "versions": {"torch": "2.<x>"}, "folder": Path("runs/avid")})
    return report


def test_the_page_parses_and_asks_for_nothing_outside_itself() -> None:
    html = full_report().html()
    page = Page(html)
    assert "://" not in html
    assert "<script" not in html
    assert "@import" not in html
    for _, attrs in page.tags:
        for name in ("src", "href", "srcset"):
            assert str(attrs.get(name, "#")).startswith(("data:", "#"))
    assert any("default-src 'none'" in str(attrs.get("content")) for attrs in page.all("meta"))


def test_the_page_says_what_was_put_in_and_escapes_it() -> None:
    page = Page(full_report().html())
    given = "Title <b>&|It works & <i>well</i>.|Second <script>paragraph</script>.|Strips & more|one <x>|a<b|Table <1>"
    more = "<AVID>|a note|a < b|step <s>|loss & more|versions.torch|2.<x>|runs/avid"
    for words in f"{given}|{more}".split("|"):
        assert words in page.text


def test_the_page_is_accessible() -> None:
    page = Page(full_report().html())
    assert page.all("html")[0]["lang"] == "en"
    assert all(attrs["alt"] for attrs in page.all("img"))
    assert all(attrs["role"] == "img" and attrs["aria-label"] for attrs in page.all("svg"))
    assert {attrs.get("scope") for attrs in page.all("th")} == {"col", "row"}
    identities = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(identities) == len(set(identities))
    links = {str(attrs["href"])[1:] for _, attrs in page.tags if str(attrs.get("href", "")).startswith("#")}
    assert {"part1", "part2", "part3"} <= links <= set(identities)


def test_strips_are_one_animation_whose_pixels_are_those_of_the_videos() -> None:
    first, pixels = videos(seed=1)
    second, others = videos(seed=2)
    given, context = videos(time=2, seed=3)
    report = Report("strips")
    report.strips({"first": first, "second": second}, "two methods", frame_rate=4, given=given)
    page = Page(report.html())
    (moving,) = page.pictures("moving")
    (still,) = page.pictures("still")
    assert moving.n_frames == 6
    assert moving.size == still.size == (3 * 20 * 3, 2 * 20 * 3)
    assert page.all("img", "moving")[0]["width"] == str(moving.width)
    durations = []
    for time in range(6):
        moving.seek(time)
        moving.load()
        durations.append(moving.info["duration"])
        for row, own in enumerate((pixels, others)):
            for clip in range(3):
                expected = context[clip, time] if time < 2 else own[clip, time - 2]
                shown = frame_of(moving, row, clip, 16, scale=3)
                np.testing.assert_array_equal(shown[..., :3], expected.numpy())
        border = moving.convert("RGBA").getpixel((3 + 1, 3 + 1))
        assert border == ORANGE if time < 2 else border[3] == 0
    assert durations[:5] == [250] * 5
    assert durations[5] > 250
    np.testing.assert_array_equal(frame_of(still, 1, 2, 16, scale=3)[..., :3], others[2, -1].numpy())


def test_film_strips_of_the_page_run_from_left_to_right() -> None:
    video, pixels = videos(clips=3, time=4)
    report = Report("strips")
    report.strips({"only": video}, "one", labels=["a", "b", "c"], stills=[2])
    page = Page(report.html())
    (strip,) = page.pictures("strip")
    for time in range(4):
        np.testing.assert_array_equal(frame_of(strip, 0, time, 16, scale=3)[..., :3], pixels[2, time].numpy())
    assert "1234" in page.text.replace(" ", "")
    assert "given" not in page.text


def test_a_map_is_shown_in_colours_with_a_legend_and_nothing_where_it_has_no_frame() -> None:
    video, _ = videos(clips=1, time=2)
    maps = torch.rand(1, 2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    report = Report("maps")
    report.strips({"video": video, "mask": maps}, "a mask", given=video[:, :1])
    page = Page(report.html())
    (strip,) = page.pictures("strip")
    assert frame_of(strip, 1, 0, 16, scale=3)[..., 3].max() == 0
    np.testing.assert_array_equal(frame_of(strip, 1, 1, 16, scale=3)[..., :3], heat(maps[0, 0, 0].numpy()))
    assert "mask: 0" in page.text
    assert HEAT[0] in str(page.all("span", "scale")[0]["style"])


def test_heat_agrees_with_viridis() -> None:
    from matplotlib import colormaps

    values = np.linspace(0, 1, 101)
    reference = colormaps["viridis"](values)[:, :3] * 255
    assert np.abs(heat(values) - reference).max() < 8


def test_values_outside_the_range_are_shown_as_the_nearest_inside() -> None:
    video = torch.tensor([-3.0, -1.0, 0.0, 1.0, 2.5]).reshape(1, 1, 1, 1, 5).expand(1, 1, 3, 4, 5)
    assert cells({"wild": video}, None).pixels[0, 0, 0, 0, :, 0].tolist() == [0, 0, 128, 255, 255]


def test_eight_clips_of_five_methods_stay_small() -> None:
    random = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.rand(80, 3, 8, 8, generator=random), size=64, mode="bicubic")
    video = (2 * smooth - 1).unflatten(0, (8, 10))
    report = Report("size")
    report.strips({f"method {number}": video.roll(number, dims=-1) for number in range(5)}, "five methods")
    assert len(report.html()) < 6_000_000


def test_pictures_are_lossless_up_to_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [Image.effect_noise((40, 40), 80).convert("RGBA") for _ in range(2)]
    monkeypatch.setattr("trimtab.report.pictures.LOSSLESS_PIXELS", 2 * 20 * 20)
    small, large = encode(frames, 5, 2), encode(frames, 5, 1)
    assert b"VP8L" in small
    assert b"VP8L" not in large
    assert Image.open(io.BytesIO(large)).n_frames == 2


def test_one_frame_is_a_still_picture() -> None:
    video, pixels = videos(clips=1, time=1)
    report = Report("still")
    report.strips({"one": video}, "one frame")
    for picture in Page(report.html()).pictures(""):
        assert picture.n_frames == 1
        np.testing.assert_array_equal(frame_of(picture, 0, 0, 16, scale=3)[..., :3], pixels[0, 0].numpy())


def test_tables_show_intervals_numbers_and_the_best_of_a_column() -> None:
    report = Report("table")
    rows = [
        ["AVID", Interval(0.123, 0.118, 0.13), 27.314, 11_200_000, "ours"],
        ["prior", Interval(0.876, 0.8, 0.95), -3.5, 0, "frozen"],
        ["nothing", "unknown", float("nan"), 5, ""],
    ]
    report.table(
        ["method", "error", "PSNR", "parameters", "note"],
        rows,
        "c",
        best={"error": "min", "PSNR": "max", "note": "max"},
    )
    html = report.html()
    page = Page(html)
    assert "0.123 [0.118, 0.130]" in page.text
    assert "0.876 [0.800, 0.950]" in page.text
    assert "27.31" in page.text
    assert "−3.50" in page.text
    assert "11,200,000" in page.text
    best = re.findall(r'<td class="number best">(.*?)</td>', html)
    assert [text[:5] for text in best] == ["0.123", "27.31"]
    assert [attrs.get("class") for attrs in page.all("th")][:5] == [None, "number", "number", "number", None]
    lines = [str(attrs["style"]) for attrs in page.all("i")]
    assert lines == ["left: 0.0%; width: 1.4%", "left: 82.0%; width: 18.0%"]


def test_two_that_tie_are_both_best_and_an_unmarked_table_says_nothing_of_it() -> None:
    report = Report("ties")
    report.table(["name", "score"], [["a", 1.0], ["b", 1.0], ["c", 2.0]], "c", best={"score": "min"})
    assert report.html().count('class="number best"') == 2
    plain = Report("plain")
    plain.table(["name", "score"], [["a", 1.0]], "c")
    assert "best in" not in Page(plain.html()).text


def test_curves_are_drawn_in_the_colours_of_the_page() -> None:
    report = Report("curves")
    report.curves(
        {f"curve {number}": ([1, 10, 100], [number + 1, 2, 3]) for number in range(9)}, "c", "x", "y", log_x=True
    )
    html = report.html()
    page = Page(html)
    assert all(f"curve {number}" in page.text for number in range(9))
    drawing = html[html.index("<svg") : html.index("</svg>")]
    assert {f"var(--c{number})" for number in range(7)} == set(re.findall(r"var\(--c\d\)", drawing))
    assert set(re.findall(r"#[0-9a-f]{6}\b", drawing)) <= {"#ffffff"}
    assert "10" in page.text
    assert "100" in page.text


def test_labels_of_curves_never_overlap_and_keep_their_order() -> None:
    heights = np.array([0.5, 0.51, 0.9, 0.5, 0.0])
    placed = spread(heights, 0.1)
    order = np.argsort(placed)
    assert np.diff(placed[order]).min() >= 0.1 - 1e-9
    assert order.tolist() == [4, 0, 3, 1, 2]
    assert placed[2] == 0.9
    assert placed[4] == 0.0
    assert placed[[0, 1, 3]].mean() == pytest.approx(heights[[0, 1, 3]].mean())


def test_the_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = full_report().write(tmp_path / "new" / "report.html")
    assert path == tmp_path / "new" / "report.html"
    first = path.read_text(encoding="utf-8")
    assert first == full_report().html()

    def broken(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        Report("other").write(path)
    assert path.read_text(encoding="utf-8") == first
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_a_film_strip_shows_the_frames_enlarged_below_each_other() -> None:
    video, pixels = videos(clips=2, time=3, size=32)
    maps = torch.zeros(2, 3, 1, 32, 32)
    picture = film_strip(
        {"video": video, "mask": maps}, given=video[:, :1], clips=(1, 0), labels=["second", "first"], scale=2
    )
    assert picture.mode == "RGB"
    assert picture.getpixel((0, 0)) == (255, 255, 255)
    sheet = np.asarray(picture)
    places = {}
    for clip in range(2):
        for time in range(3):
            frame = pixels[clip, time].numpy().repeat(2, axis=0).repeat(2, axis=1)
            corners = np.argwhere((sheet[:-64, :-64] == frame[0, 0]).all(-1))
            found = [(y, x) for y, x in corners if (sheet[y : y + 64, x : x + 64] == frame).all()]
            assert len(found) == (2 if time == 0 else 1)  # the first frame is the given one too
            places[clip, time] = found[-1]
    assert places[1, 2][1] - places[1, 1][1] == 2 * (32 + 2 * MARGIN)
    assert places[1, 1][0] < places[0, 1][0]
    dark = (sheet.max(-1) < 100) & (np.arange(sheet.shape[1]) < places[1, 0][1] - 72)
    assert dark.any()  # the names of the rows


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({}, "empty"),
        ({"a": torch.zeros(2, 3, 8, 8)}, "clip, time"),
        ({"a": torch.zeros(1, 2, 2, 8, 8)}, "1 channel"),
        ({"a": torch.zeros(1, 0, 3, 8, 8)}, "videos"),
        ({"a": torch.zeros(1, 2, 3, 8, 8), "b": torch.zeros(1, 3, 3, 8, 8)}, "one shape"),
        ({"a": torch.zeros(1, 2, 3, 8, 8), "m": torch.zeros(1, 2, 1, 4, 4)}, "one shape"),
        ({"a": torch.zeros(1, 2, 3, 8, 8, dtype=torch.uint8)}, r"127\.5"),
        ({"a": torch.full((1, 2, 3, 8, 8), 200.0)}, r"127\.5"),
        ({"a": torch.full((1, 2, 3, 8, 8), float("nan"))}, "not finite"),
        ({"m": torch.full((1, 2, 1, 8, 8), 1.2)}, r"\[0, 1\]"),
        ({"m": torch.full((1, 2, 1, 8, 8), -0.1)}, r"\[0, 1\]"),
    ],
)
def test_wrong_videos_are_refused(rows: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        film_strip(rows)
    with pytest.raises(ValueError, match=message):
        Report("wrong").strips(rows, "c")


def test_wrong_given_frames_labels_clips_rates_and_scales_are_refused() -> None:
    video, _ = videos()
    report = Report("wrong")
    for given in (video[:2], video[:, :0], video[:, :, :1], video[..., :8], video[:, 0]):
        with pytest.raises(ValueError, match="given frames"):
            report.strips({"a": video}, "c", given=given)
    with pytest.raises(ValueError, match="3 clips, 2 labels"):
        report.strips({"a": video}, "c", labels=["x", "y"])
    with pytest.raises(ValueError, match="clips 0 to 2"):
        report.strips({"a": video}, "c", stills=[3])
    with pytest.raises(ValueError, match="frame_rate"):
        report.strips({"a": video}, "c", frame_rate=0)
    with pytest.raises(ValueError, match="clips 0 to 2"):
        film_strip({"a": video}, clips=(-1,))
    with pytest.raises(ValueError, match="scale"):
        film_strip({"a": video}, scale=0)
    with pytest.raises(ValueError, match="label"):
        film_strip({"a": video}, labels=["x", "y"])
    with pytest.raises(ValueError, match="16383"):
        encode([Image.new("RGBA", (16384, 1))], 5, 1)
    assert Page(report.html()).all("figure") == []


def test_wrong_tables_and_curves_are_refused() -> None:
    report = Report("wrong")
    with pytest.raises(ValueError, match="2 cells"):
        report.table(["a", "b"], [["x"]], "c")
    with pytest.raises(ValueError, match="best"):
        report.table(["a", "b"], [["x", 1.0]], "c", best={"z": "min"})
    for curves, message in (
        ({}, "empty"),
        ({"a": ([1, 2], [1.0])}, "one length"),
        ({"a": ([], [])}, "needs a point"),
        ({"a": ([1, 2], [1.0, float("inf")])}, "infinite"),
        ({"a": ([1, 2], [1.0, 0.0])}, "above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            report.curves(curves, "c", "x", "y", log_y=True)
    assert Page(report.html()).all("figure") == []


def test_a_gap_in_a_curve_is_drawn_as_a_gap() -> None:
    report = Report("gap")
    report.curves({"a": ([1, 2, 3, 4], [1.0, float("nan"), 3.0, float("nan")])}, "c", "x", "y")
    assert len(Page(report.html()).all("svg")) == 1
