"""Colours, lights, background and camera of a MuJoCo scene, drawn from a seed; knows no task."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Look:
    """How a scene looks: a function of the seed alone, of the same ranges for every scene.

    Args:
        seed: of what is drawn; None draws nothing, whatever the ranges.
        turn, tilt: by at most how many degrees the camera goes around what it looks at, sideways and up or down.
        distance: by at most which share of its distance the camera comes closer or goes further away.
        colours: the share of each surface's colour that is drawn; every second texture goes, too.
        hue: by how many degrees all colours are turned about grey, alike in every scene; before anything is drawn.
        lights: by at most which share each light is dimmed or brightened; half of it is how far its direction may move.

    Raises:
        ValueError: a value is out of range.
    """

    seed: int | None
    turn: float = 8.0
    tilt: float = 4.0
    distance: float = 0.06
    colours: float = 0.2
    lights: float = 0.3
    hue: float = 0.0

    def __post_init__(self) -> None:
        shares = (self.distance, self.colours, self.lights)
        if (self.seed is not None and self.seed < 0) or min(self.turn, self.tilt, *shares) < 0 or max(shares) > 1:
            raise ValueError(f"a look has a seed >= 0, angles >= 0 and shares in 0 .. 1, got {self}")

    @classmethod
    def ranges(cls) -> dict[str, float]:
        """How far looks vary unless told otherwise, in degrees and shares, by the names of the arguments."""
        return {name: value for name, value in asdict(cls.plain()).items() if name not in ("seed", "hue")}

    @classmethod
    def plain(cls) -> Look:
        """The scene's own."""
        return cls(seed=None)

    def __call__(self, model: Any, camera: int, middle: np.ndarray) -> None:
        """Change a `mujoco.MjModel` that was not rendered yet.

        Args:
            model: is changed in place.
            camera: the number of the camera to move, which is fixed in the world.
            middle: (3,), in metres, about which the camera goes.
        """
        if self.hue:
            self._turn_hue(model)
        if self.seed is None:
            return
        random = np.random.default_rng(self.seed)
        self._move(model, camera, middle, random)
        self._relight(model, random)
        self._recolour(model, random)

    def _move(self, model: Any, camera: int, middle: np.ndarray, random: np.random.Generator) -> None:
        import mujoco

        turn, tilt = np.deg2rad(random.uniform(-1, 1, 2) * (self.turn, self.tilt))
        offset, orientation = model.cam_pos[camera] - middle, model.cam_quat[camera].copy()
        up = np.array([0.0, 0.0, 1.0])
        for axis, angle in ((np.cross(up, offset), tilt), (up, turn)):
            rotation, before = np.zeros(4), orientation.copy()
            mujoco.mju_axisAngle2Quat(rotation, axis / max(np.linalg.norm(axis), 1e-9), angle)
            mujoco.mju_rotVecQuat(offset, offset.copy(), rotation)
            mujoco.mju_mulQuat(orientation, rotation, before)
        model.cam_quat[camera] = orientation
        model.cam_pos[camera] = middle + offset * (1 + random.uniform(-self.distance, self.distance))

    def _relight(self, model: Any, random: np.random.Generator) -> None:
        model.light_diffuse *= 1 + self.lights * random.uniform(-1, 1, model.light_diffuse.shape)
        model.light_dir += self.lights * random.uniform(-0.5, 0.5, model.light_dir.shape)
        model.light_dir /= np.linalg.norm(model.light_dir, axis=1, keepdims=True)
        model.vis.headlight.ambient *= 1 + self.lights * random.uniform(-1, 1)

    def _turn_hue(self, model: Any) -> None:
        """A rotation of red, green and blue about the line of greys, which stay as they are."""
        turn = np.deg2rad(self.hue)
        about = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
        rotation = np.cos(turn) * np.eye(3) + np.sin(turn) * about + (1 - np.cos(turn)) / 3

        def turned(colours: np.ndarray) -> np.ndarray:
            return (colours @ rotation.T).clip(0, 1)

        for colours in (model.mat_rgba, model.geom_rgba):
            colours[:, :3] = turned(colours[:, :3])
        for texture in np.flatnonzero(model.tex_nchannel == 3):
            first, size = model.tex_adr[texture], 3 * model.tex_height[texture] * model.tex_width[texture]
            part = model.tex_data[first : first + size].reshape(-1, 3)
            part[:] = (255 * turned(part / 255)).round()

    def _recolour(self, model: Any, random: np.random.Generator) -> None:
        """The background, the materials, and the bodies that have none: those that share a colour still do."""
        import mujoco

        def mixed(colours: np.ndarray) -> np.ndarray:
            return (1 - self.colours) * colours + self.colours * random.random(colours.shape)

        for texture in np.flatnonzero(model.tex_type == mujoco.mjtTexture.mjTEXTURE_SKYBOX):
            channels, first = model.tex_nchannel[texture], model.tex_adr[texture]
            size = model.tex_height[texture] * model.tex_width[texture] * channels
            model.tex_data[first : first + size].reshape(-1, channels)[:] = 255 * mixed(
                model.tex_data[first : first + channels] / 255
            )
        model.mat_texid[(random.random(model.nmat) < 0.5) & (self.colours > 0)] = -1
        model.mat_rgba[:, :3] = mixed(model.mat_rgba[:, :3])
        bare = model.geom_matid < 0
        colours, which = np.unique(model.geom_rgba[bare, :3], axis=0, return_inverse=True)
        model.geom_rgba[bare, :3] = mixed(colours)[which.ravel()]
