"""Films of photographs that move before one another, drawn as they are asked for; knows no dataset and no simulator.

A domain other than games, to see whether what holds beside a prior of games holds beside another. The photographs are those
that the package scikit-image carries; it is never imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from itertools import cycle
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps

ACTION_NAMES = ("watch",)
FRAME_RATE = 15.0
EPISODE_FRAMES = 48
FASTEST = 6.0
"""Pixels a frame."""

FILES = (
    *("astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png", "grass.png", "gravel.png"),
    *("hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png", "retina.jpg", "rocket.jpg"),
)
SHORTER_SIDES = 96, 400
"""Of a background, in pixels; the smallest is larger than a frame that shows `ZOOMS[1]` times as much."""
ZOOMS = 0.7, 1.35
"""Pixels of the background that a pixel of the frame shows, at least and at most."""


class Photographs:
    """Several films at a time, one a level; when one ends the next level begins, and after the last one the first.

    A film is a function of its level alone, and nothing that is done changes it.

    Args:
        num_environments: how many films are shown at once.
        first_level, num_levels: levels are first_level .. first_level + num_levels - 1.

    Raises:
        ValueError: an argument is out of range, or the photographs are not installed.
    """

    def __init__(self, num_environments: int = 16, first_level: int = 0, num_levels: int = 500) -> None:
        if num_environments < 1 or first_level < 0 or num_levels < 1:
            given = f"{num_environments}, {first_level} and {num_levels}"
            raise ValueError(f"num_environments >= 1, first_level >= 0 and num_levels >= 1 are needed, not {given}")
        self._photographs, self._to_come = photographs(), cycle(range(first_level, first_level + num_levels))
        self._films = np.empty((num_environments, EPISODE_FRAMES, 64, 64, 3), np.uint8)
        self._time, self._level = np.zeros((2, num_environments), np.int64)
        self._begin(np.ones(num_environments, dtype=bool))

    def observe(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Frames (n, 64, 64, 3) uint8; whether each is the first of an episode, (n,) bool; its level, (n,) int64."""
        return self._films[np.arange(len(self._films)), self._time], self._time == 0, self._level.copy()

    def act(self, actions: np.ndarray, restart: np.ndarray | None = None) -> None:
        """Watch on, (n,) integers that are all 0; where `restart`, (n,) bool, is true, begin the next film instead.

        Raises:
            ValueError: a wrong shape, dtype or range.
        """
        actions, shape = np.asarray(actions), self._time.shape
        if actions.shape != shape or not np.issubdtype(actions.dtype, np.integer) or actions.any():
            raise ValueError(f"actions are {shape} integers, all 0, not {actions.shape} {actions.dtype}")
        if restart is not None and (restart.shape != shape or restart.dtype != bool):
            raise ValueError(f"restart is {shape} bool, not {restart.shape} {restart.dtype}")
        self._time += 1
        self._begin((self._time == EPISODE_FRAMES) | (False if restart is None else restart))

    def _begin(self, where: np.ndarray) -> None:
        for copy in np.flatnonzero(where).tolist():
            self._time[copy], self._level[copy] = 0, next(self._to_come)
            self._films[copy] = scene(self._photographs, int(self._level[copy])).film()


class Watching:
    """The policy that only watches."""

    def reset(self) -> None:
        """There is nothing to begin again."""

    def act(self, observation: np.ndarray) -> np.ndarray:
        """Actions (n,) int64 for frames (n, ...), which it does not look at."""
        return np.zeros(len(observation), dtype=np.int64)


def photographs() -> dict[str, Image.Image]:
    """Every photograph by its name, none larger than it is ever shown. Raises ValueError if they are not installed."""
    try:
        folder = Path(str(metadata.distribution("scikit-image").locate_file("skimage/data")))
        found = {name: Image.open(folder / name).convert("RGB") for name in FILES}
    except (metadata.PackageNotFoundError, FileNotFoundError) as error:
        raise ValueError(f"the photographs of scikit-image are missing ({error}); pip install scikit-image") from error
    return {name: scaled(image, min(SHORTER_SIDES[1], *image.size)) for name, image in found.items()}


@dataclass(frozen=True)
class Layer:
    """An image in a film: which point of it, as (x, y), is seen at which place of the frame."""

    image: Image.Image
    points: Float[np.ndarray, "time 2"]
    places: Float[np.ndarray, "time 2"]


@dataclass(frozen=True)
class Scene:
    """A film before it is drawn: its layers from back to front, `zoom` of their pixels to a pixel of the frame.

    The first layer is the background; what the camera follows, if anything, is the last.
    """

    layers: list[Layer]
    zoom: Float[np.ndarray, " time"]
    follows: bool

    def film(self) -> UInt8[np.ndarray, "time 64 64 3"]:
        return np.stack([np.asarray(self.frame(time)) for time in range(EPISODE_FRAMES)])

    def frame(self, time: int) -> Image.Image:
        frame, zoom = Image.new("RGB", (64, 64)), self.zoom[time]
        for layer in self.layers:
            x, y = layer.points[time] - zoom * layer.places[time]
            matrix = (zoom, 0, x, 0, zoom, y)
            piece = layer.image.transform(frame.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
            frame.paste(piece, mask=piece if piece.mode == "RGBA" else None)
        return frame


def scene(photographs: Mapping[str, Image.Image], level: int) -> Scene:
    """A background under a camera that stands, moves, zooms, or follows one of up to three cut-outs before it."""
    random = np.random.default_rng(level)
    names, follows = random.permutation(list(photographs)), random.random() < 1 / 3
    background = photographs[names[0]]
    background = recoloured(scaled(background, between(random, SHORTER_SIDES[0], min(background.size))), random)
    if random.random() < 0.5:
        background = ImageOps.mirror(background)
    zoom = np.ones(EPISODE_FRAMES)
    if not follows and random.random() < 0.25:
        low, high = np.log(ZOOMS)
        rate = random.uniform(-0.02, 0.02)
        zoom = np.exp(folded(random.uniform(low, high) + rate * np.arange(EPISODE_FRAMES), low, high))
    half = 32 * zoom.max()
    start, end = np.full(2, half), np.array(background.size) - half
    gone = moved(random, rests=0.0, hops=0.3) if follows else moved(random, rests=0.5, hops=0.0)
    camera = folded(random.uniform(start, end) + gone, start, end)
    layers = [Layer(background, camera, np.full_like(camera, 32))]
    num_cutouts = random.integers(1 if follows or not gone.any() else 0, 4)
    for number, name in enumerate(names[1 : 1 + num_cutouts]):
        image = cutout(photographs[name], random)
        middle = np.array(image.size) / 2
        places = random.uniform(-28, 28, 2) + moved(random, rests=0.3, hops=0.3)
        if follows and number == num_cutouts - 1:
            places = np.full_like(camera, random.uniform(-8, 8, 2))
        elif random.random() < 0.6:  # stands or moves on the background; who leaves comes back from the other side
            reach = half + middle
            places = ((places - camera + camera[0] + reach) % (2 * reach) - reach) / zoom[:, None]
        else:  # moves in the frame and bounces off its borders
            places = folded(places, middle - 32, 32 - middle)
        layers.append(Layer(image, np.broadcast_to(middle, camera.shape), 32 + places))
    return Scene(layers, zoom, follows)


def moved(random: np.random.Generator, *, rests: float, hops: float) -> Float[np.ndarray, "time 2"]:
    """How far something has gone by each frame, in pixels: at one velocity, or at another one now and then.

    Velocities are more often slow than fast, along an axis as often as not, and zero at a rate of `rests`. At a rate of
    `hops` it falls and bounces off a ground, with or without a rest there, instead of going up or down.
    """
    turns = np.cumsum(random.random(EPISODE_FRAMES) < random.choice([0, 0, 1 / 24, 1 / 12]))
    speeds, angles, turned = random.random((3, turns[-1] + 1))
    speeds = FASTEST * speeds**1.5 * (random.random(len(speeds)) >= rests)
    angles = 2 * np.pi * np.where(turned < 0.5, angles, np.floor(4 * angles) / 4)
    gone = np.cumsum((speeds * [np.cos(angles), np.sin(angles)]).T[turns], axis=0)
    if random.random() < hops:
        flight, rest = random.uniform(10, 24), random.choice([0, 0, 4, 12])
        since = np.minimum((np.arange(EPISODE_FRAMES) + random.uniform(0, flight)) % (flight + rest), flight)
        gone[:, 1] = -random.uniform(1.5, FASTEST) * since * (1 - since / flight)
    return gone


def folded(path: np.ndarray, low: np.ndarray | float, high: np.ndarray | float) -> np.ndarray:
    """The path as it goes if it bounces off both bounds."""
    span = high - low
    return high - np.abs((path - low) % (2 * span) - span)


def between(random: np.random.Generator, low: int, high: int) -> float:
    """A random size, as likely in each doubling."""
    return float(np.exp(random.uniform(np.log(low), np.log(high))))


def scaled(image: Image.Image, shorter_side: int | float) -> Image.Image:
    """The image with a shorter side of so many pixels."""
    width, height = (round(side * shorter_side / min(image.size)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR)


def recoloured(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """The image with its colours a little mixed, a little brighter or darker, and of more or less contrast."""
    contrast, brightness = random.uniform((0.75, -25), (1.2, 25))
    mixed = contrast * (np.eye(3) + random.normal(0, 0.08, (3, 3)))
    return image.convert("RGB", tuple(np.column_stack([mixed, np.full(3, 128 * (1 - contrast) + brightness)]).ravel()))


def cutout(photograph: Image.Image, random: np.random.Generator) -> Image.Image:
    """A smooth random shape of 8 to 28 pixels, cut from the photograph where of several places it shows most."""
    size = np.maximum(8, random.uniform(8, 28) * random.uniform(0.7, 1, 2)).round().astype(int)
    taken = size * between(random, 64, min(photograph.size)) / 64
    corners = random.uniform(0, photograph.size - taken, (6, 2))
    pieces = [photograph.resize(tuple(size), Image.Resampling.BILINEAR, (*at, *(at + taken))) for at in corners]
    piece = recoloured(max(pieces, key=lambda some: np.asarray(some).std()), random)
    x, y = np.meshgrid(*((np.arange(side) + 0.5) * 2 / side - 1 for side in size))
    waves = np.arange(2, 5)
    bends = np.cos(np.arctan2(y, x)[..., None] * waves + random.uniform(0, 2 * np.pi, 3))
    edge = 1 + bends @ random.normal(0, 0.3 / waves)
    inside = (edge / edge.max() - np.hypot(x, y)) * min(size) / 2
    piece.putalpha(Image.fromarray((255 * inside.clip(0, 1)).astype(np.uint8)))
    return piece
