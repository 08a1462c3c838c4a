"""Videos as pictures: grids of frames, moving or still, and labelled film strips; knows no page and no method."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageColor, ImageDraw, ImageFont
from torch import Tensor

from trimtab.report.style import MARK

# fmt: off
HEAT = (
    "#440154", "#48186a", "#472d7b", "#424086", "#3b528b", "#33638d",
    "#2c728e", "#26828e", "#21918c", "#1fa088", "#28ae80", "#3fbc73",
    "#5ec962", "#84d44b", "#addc30", "#d8e219", "#fde725",
)
# fmt: on
"""Even steps of matplotlib's viridis, for 0 to 1."""

LOSSLESS_PIXELS = 16_000_000
"""Pixels in all frames of a picture, before upscaling, up to which it is stored lossless, at about one byte each."""

LAST_FRAME_PAUSE = 800  # milliseconds for which the last frame of an animation stays longer
PAGE_WIDTH = 1040  # pixels of a page that a picture may fill
INK, SOFT = "#1d2128", "#5d6571"


@dataclass(frozen=True)
class Cells:
    """Videos of the same clips, ready to be laid out; the border of a given frame lies around it, never on it.

    Attributes:
        names: one a row.
        is_map: which rows are maps in [0, 1].
        pixels: (row, clip, time, height, width, 4) uint8, transparent where a row has no frame.
        num_given: how many of the first frames are context.
    """

    names: tuple[str, ...]
    is_map: tuple[bool, ...]
    pixels: np.ndarray
    num_given: int

    @property
    def times(self) -> list[str]:
        """The names of the frames: "given", then 1, 2, .."""
        num_frames = self.pixels.shape[2]
        return ["given"] * self.num_given + [str(number + 1) for number in range(num_frames - self.num_given)]

    def across_clips(self, time: int, scale: int) -> Image.Image:
        """One moment: a row for each name, a column for each clip."""
        given = time < self.num_given
        marked = np.array([[given and not is_map] * self.pixels.shape[1] for is_map in self.is_map])
        return self._mosaic(self.pixels[:, :, time], marked, scale)

    def across_time(self, clip: int, scale: int) -> Image.Image:
        """One clip: a row for each name, a column for each frame."""
        times = np.arange(self.pixels.shape[2])
        marked = np.array([(times < self.num_given) & (not is_map) for is_map in self.is_map])
        return self._mosaic(self.pixels[:, clip], marked, scale)

    def scale(self, num_columns: int) -> int:
        """The upscaling, 1 to 3, at which so many columns fill a page (a page shrinks a picture, never enlarges it)."""
        _, pitch = self.pitch
        return min(3, math.ceil(PAGE_WIDTH / (num_columns * pitch)))

    @property
    def margin(self) -> int:
        """Pixels around a frame; its inner half is the border of a given frame."""
        return 2 * max(1, max(self.pixels.shape[3:5]) // 64)

    @property
    def pitch(self) -> tuple[int, int]:
        """Pixels from a frame to the next, down and across."""
        return self.pixels.shape[3] + 2 * self.margin, self.pixels.shape[4] + 2 * self.margin

    def _mosaic(self, cells: np.ndarray, marked: np.ndarray, scale: int) -> Image.Image:
        rows, columns = marked.shape
        (height, width), edge = self.pitch, self.margin
        canvas = np.zeros((rows, columns, height, width, 4), dtype=np.uint8)
        ring = slice(edge // 2, -(edge // 2))
        canvas[:, :, ring, ring][marked] = ImageColor.getcolor(MARK, "RGBA")
        canvas[:, :, edge:-edge, edge:-edge] = cells
        picture = canvas.swapaxes(1, 2).reshape(rows * height, columns * width, 4)
        return Image.fromarray(picture.repeat(scale, axis=0).repeat(scale, axis=1))


def cells(rows: Mapping[str, Tensor], given: Tensor | None) -> Cells:
    """Check and colour videos and maps of the same clips, after their context (arguments as in `film_strip`)."""
    if not rows:
        raise ValueError("there is nothing to show: rows is empty")
    shapes = {name: tuple(video.shape) for name, video in rows.items()}
    if any(len(shape) != 5 or shape[2] not in (1, 3) or 0 in shape for shape in shapes.values()):
        raise ValueError(f"rows are videos (clip, time, 3, height, width) or maps of 1 channel, not {shapes}")
    if len({(*shape[:2], *shape[3:]) for shape in shapes.values()}) > 1:
        raise ValueError(f"rows show the same clips, frames and pixels; resize or cut them to one shape, not {shapes}")
    pixels = {name: _coloured(name, video) for name, video in rows.items()}
    is_map = tuple(shape[2] == 1 for shape in shapes.values())
    num_given = 0
    if given is not None:
        clips, _, _, *size = next(iter(shapes.values()))
        if given.ndim != 5 or given.shape[1] == 0 or [given.shape[0], *given.shape[2:]] != [clips, 3, *size]:
            wanted = f"({clips}, num_context, 3, {size[0]}, {size[1]})"
            raise ValueError(f"given frames of these rows have the shape {wanted}, not {tuple(given.shape)}")
        num_given = given.shape[1]
        context = _coloured("given", given)
        for name, row_is_map in zip(rows, is_map, strict=True):
            before = np.zeros_like(context) if row_is_map else context
            pixels[name] = np.concatenate([before, pixels[name]], axis=1)
    return Cells(tuple(rows), is_map, np.stack(list(pixels.values())), num_given)


def clips_within(clips: Sequence[int], num_clips: int) -> list[int]:
    """The same positions, once they are known to exist."""
    if wrong := [clip for clip in clips if not 0 <= clip < num_clips]:
        raise ValueError(f"there are clips 0 to {num_clips - 1}, and none at {wrong}")
    return list(clips)


def encode(frames: Sequence[Image.Image], frame_rate: float | int, scale: int) -> bytes:
    """Frames of one size as WebP, animated without end if there are several; lossless up to `LOSSLESS_PIXELS`."""
    width, height = frames[0].size
    if max(width, height) > 16383:
        raise ValueError(
            f"a picture has at most 16383 pixels a side, not {width} by {height}; show fewer clips or rows"
        )
    lossless = width * height * len(frames) <= LOSSLESS_PIXELS * scale**2
    quality = 60 if lossless else 90  # in a lossless picture this is the effort of the search
    pause = round(1000 / frame_rate)
    durations = [pause] * (len(frames) - 1) + [pause + LAST_FRAME_PAUSE]
    file = io.BytesIO()
    motion = {"save_all": True, "append_images": frames[1:], "duration": durations, "loop": 0} if frames[1:] else {}
    frames[0].save(file, "WEBP", lossless=lossless, quality=quality, method=1, **motion)
    return file.getvalue()


def film_strip(
    rows: Mapping[str, Tensor],
    *,
    given: Tensor | None = None,
    clips: Sequence[int] = (0,),
    labels: Sequence[str] | None = None,
    scale: int = 2,
) -> Image.Image:
    """A picture on white of videos of the same clips: a labelled row for each name, time from left to right.

    Args:
        rows: for each name, such as a method's, a video (clip, time, 3, height, width) in [-1, 1], where values outside
            are shown as the nearest inside, since samplers may leave the range; or a map
            (clip, time, 1, height, width) in [0, 1], such as a mask, shown in colours with their scale.
        given: context frames (clip, num_context, 3, height, width) in [-1, 1], shown first, with a border.
        clips: which clips, by position, one below the other.
        labels: titles of these clips; none by default.
        scale: by how much to enlarge, without smoothing.

    Raises:
        ValueError: shapes do not fit, values are not finite floats, look like 0 .. 255, or leave a map's [0, 1].
    """
    table = cells(rows, given)
    clips = clips_within(clips, table.pixels.shape[1])
    if scale < 1 or not clips or (labels is not None and len(labels) != len(clips)):
        raise ValueError(f"a film strip needs scale >= 1, a clip, and a label a clip: {scale}, {clips}, {labels}")
    size = max(14, round(table.pixels.shape[3] * scale / 8))
    font, small = _font(size), _font(round(size * 0.8))
    title, heads, edge = (round(1.8 * size) if labels else 0), round(1.5 * size), size
    left = round(max(font.getlength(name) for name in table.names)) + 2 * edge
    pictures = [table.across_time(clip, scale) for clip in clips]
    width, height = pictures[0].size
    block = title + heads + height
    sheet = Image.new("RGB", (left + width + edge, edge + len(clips) * (block + edge)), "white")
    draw = ImageDraw.Draw(sheet)
    across, down = table.pitch[1] * scale, table.pitch[0] * scale
    for number, picture in enumerate(pictures):
        top = edge + number * (block + edge)
        if labels:
            draw.text((left + table.margin * scale, top), labels[number], INK, font)
        top += title
        for column, name in enumerate(table.times):
            draw.text((left + (column + 0.5) * across, top + heads / 2), name, SOFT, small, anchor="mm")
        top += heads
        for row, name in enumerate(table.names):
            middle = top + (row + 0.5) * down
            draw.text((left - edge, middle - (0.5 * size if table.is_map[row] else 0)), name, INK, font, anchor="rm")
            if table.is_map[row]:
                _draw_scale(sheet, draw, left - edge, round(middle + 0.6 * size), small)
        sheet.paste(picture, (left, top), picture)
    return sheet


def _font(size: int) -> ImageFont.FreeTypeFont:
    """The outline font that comes with Pillow. Raises ValueError if this Pillow cannot draw outlines."""
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise ValueError("labels need a Pillow with FreeType; install the wheel from the package index")
    return font


def _draw_scale(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, right: int, middle: int, font: ImageFont.FreeTypeFont
) -> None:
    """A colour bar with 0 and 1 beside it, that ends at `right`."""
    high, wide = round(font.size * 0.6), round(font.size * 4)
    bar = Image.fromarray(heat(np.tile(np.linspace(0, 1, wide), (high, 1))))
    digit = round(font.getlength("0") + 0.4 * font.size)
    draw.text((right, middle), "1", SOFT, font, anchor="rm")
    sheet.paste(bar, (right - digit - wide, middle - high // 2))
    draw.text((right - digit - wide - round(0.4 * font.size), middle), "0", SOFT, font, anchor="rm")


def heat(values: np.ndarray) -> np.ndarray:
    """Values in [0, 1], of any shape, as colours (..., 3) uint8."""
    stops = np.array([ImageColor.getrgb(colour) for colour in HEAT])
    position = np.linspace(0, 1, len(stops))
    channels = [np.interp(values, position, stops[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def _coloured(name: str, video: Tensor) -> np.ndarray:
    """A checked video or map as (clip, time, height, width, 4) uint8, opaque."""
    if not video.is_floating_point():
        raise ValueError(f"{name!r} holds floats, not {video.dtype}; convert bytes with video / 127.5 - 1")
    values = video.detach().cpu().float()
    if not torch.isfinite(values).all():
        raise ValueError(f"{name!r} holds values that are not finite; look at what made it")
    low, high = values.min().item(), values.max().item()
    if video.shape[2] == 1:
        if low < 0 or high > 1:
            raise ValueError(f"the map {name!r} lies in [0, 1], not in [{low:.4g}, {high:.4g}]")
        colours = heat(values[:, :, 0].numpy())
    else:
        if low >= 0 and high > 16:
            raise ValueError(
                f"{name!r} lies in [-1, 1], not in [{low:.4g}, {high:.4g}]; convert with video / 127.5 - 1"
            )
        colours = ((values.clamp(-1, 1) + 1) * 127.5).round().byte().movedim(2, -1).numpy()
    return np.concatenate([colours, np.full_like(colours[..., :1], 255)], axis=-1)
