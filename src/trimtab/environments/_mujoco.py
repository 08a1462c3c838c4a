"""What environments of MuJoCo simulators share: copies, seeds and episodes, and a camera that needs no screen.

Another suite is a file with a `Copy` and a subclass of `MuJoCoEnv`; knows no suite, no dataset, no model.
"""

from __future__ import annotations

import atexit
import os
import sys
import weakref
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

SIZES = (64, 128, 256, 512)
SAMPLES = 3
"""Drawn along the side of each pixel, which is their mean: so motion below a pixel shows, and edges do not flicker."""

Look = Callable[[Any, int, np.ndarray], None]
"""Changes a MuJoCo model before it is rendered, told the camera's number and, in the frame of what the camera hangs on,
about which point it goes; `environments/looks.py` has them."""


class Copy(Protocol):
    """One copy of a task.

    Attributes:
        task, text: its name, and what it is in words.
        view: its camera.
        action_dim: numbers in an action.
        frame_rate: actions a second.
    """

    task: str
    text: str
    view: View
    action_dim: int
    frame_rate: float

    @property
    def state(self) -> np.ndarray:
        """What is measured now, (dim,) float32."""

    def begin(self, seed: int, episode: int) -> None:
        """Start the seed's episode of this number; numbers are counted up from 0."""

    def play(self, action: np.ndarray) -> tuple[float, bool]:
        """The reward of an action in -1 .. 1, and whether it ended the episode."""

    def frame(self) -> np.ndarray:
        """What is seen now, (size, size, 3) uint8."""


AnyCopy = TypeVar("AnyCopy", bound=Copy)


def check_scene(
    tasks: Iterable[str], known: Collection[str], size: int, action_repeat: int, max_episode_steps: int
) -> None:
    """Raise ValueError for unknown tasks and for numbers out of range, before anything is built."""
    if unknown := sorted(set(tasks) - set(known)):
        raise ValueError(f"no task {', '.join(map(repr, unknown))}; the tasks are {', '.join(known)}")
    if size not in SIZES:
        raise ValueError(f"frames have {SIZES} pixels a side, got {size}")
    if min(action_repeat, max_episode_steps) < 1:
        raise ValueError(f"action_repeat and max_episode_steps are >= 1, got {action_repeat} and {max_episode_steps}")


def check_actions(actions: np.ndarray) -> None:
    """Raise ValueError unless all are numbers in -1 .. 1."""
    if not np.isfinite(actions).all():
        raise ValueError("actions lie in -1 .. 1, got some that are no finite numbers; look at what made them")
    if not (np.abs(actions) <= 1).all():
        reach = f"{actions.min()} .. {actions.max()}"
        raise ValueError(f"actions lie in -1 .. 1, got {reach}; clip them with numpy.clip(actions, -1, 1)")


def one_for_each(task: str | Sequence[str], num_envs: int | None) -> list[str]:
    """The task of every copy. Raises ValueError for no task, or several that are not as many as copies."""
    tasks = [task] * (1 if num_envs is None else num_envs) if isinstance(task, str) else list(task)
    if not tasks or num_envs not in (None, len(tasks)):
        raise ValueError(f"give one task, or one for each of num_envs >= 1; got {len(tasks)} for {num_envs}")
    return tasks


class MuJoCoEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray], Generic[AnyCopy]):
    """Copies of tasks, seen through one camera. Actions are numbers in -1 .. 1.

    What a copy shows is a function of its seed, the number of its episode and its actions, bit for bit on one machine.
    When an episode is over, the next `step` ignores that copy's action and begins its next episode
    (`AutoresetMode.NEXT_STEP`).

    Both `reset` and `step` inform, with one entry a copy, of "state", (num_envs, dim) float32; "text": the task in words;
    "seed" and "episode_number"; and of what a subclass adds in `_facts`.

    Args:
        make: by what each copy is made, in order. Those already made are freed if one fails.
        size: of a frame, one of `SIZES` in pixels.
        max_episode_steps: after which an episode is truncated.

    Raises:
        ValueError: the copies differ in states, actions or rate.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP, "render_modes": ["rgb_array"]}  # noqa: RUF012
    render_mode = "rgb_array"

    def __init__(self, make: Iterable[Callable[[], AnyCopy]], *, size: int, max_episode_steps: int) -> None:
        self._copies: list[AnyCopy] = []
        for copy in make:
            self._copies.append(copy())
        # Renderers still open when Python ends complain on stderr; this is registered late, so it comes before MuJoCo's end.
        atexit.register(_close, weakref.ref(self))
        self.tasks = [one.task for one in self._copies]
        if len({(one.state.shape, one.action_dim, one.frame_rate) for one in self._copies}) > 1:
            names = ", ".join(dict.fromkeys(self.tasks))
            raise ValueError(f"the tasks {names} differ in states, actions or rate; build one environment for each")
        self.num_envs, self.max_episode_steps = len(self._copies), max_episode_steps
        self.frame_rate = self._copies[0].frame_rate
        self.metadata = {**self.metadata, "render_fps": self.frame_rate}
        self.single_observation_space = Box(0, 255, (size, size, 3), np.uint8)
        self.single_action_space = Box(-1, 1, (self._copies[0].action_dim,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._seeds = np.random.default_rng().integers(2**31, size=self.num_envs).tolist()
        self._episodes, self._steps = np.full(self.num_envs, -1), np.zeros(self.num_envs, int)
        self._frames = np.zeros((self.num_envs, size, size, 3), np.uint8)
        self._over = np.zeros(self.num_envs, bool)

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode in every copy; copy i gets seed + i, or the i-th of a list; None goes on to the next episode.

        Returns:
            Frames (num_envs, size, size, 3) uint8, and information. Raises ValueError for unfit seeds and any option.
        """
        self._check_open()
        if options:
            raise ValueError(f"reset takes no options, got {sorted(options)}; give them when building the environment")
        if seed is not None:
            seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int | np.integer) else list(seed)
            whole = all(isinstance(one, int | np.integer) and 0 <= one < 2**63 for one in seeds)
            if len(seeds) != self.num_envs or not whole:
                raise ValueError(f"seed is one whole number or {self.num_envs}, in 0 .. 2**63 - 1, got {seed}")
            self._seeds, self._episodes[:] = [int(one) for one in seeds], -1
        for number in range(self.num_envs):
            self._begin(number)
        return self._frames.copy(), self._information()

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Play one action, (num_envs, dim) floats in -1 .. 1, in every copy.

        Returns:
            Frames (num_envs, size, size, 3) uint8, rewards, terminations, truncations (num_envs,), and information.

        Raises:
            ValueError, ResetNeeded, ClosedEnvironmentError: unfit actions; before `reset`; after `close`.
        """
        self._check_begun()
        actions, shape = np.asarray(actions), self.action_space.shape
        if actions.shape != shape or actions.dtype.kind != "f":
            raise ValueError(f"actions are {shape} floats, got {actions.shape} {actions.dtype}")
        check_actions(actions)
        rewards, terminated = np.zeros(self.num_envs), np.zeros(self.num_envs, bool)
        for number, copy in enumerate(self._copies):
            if self._over[number]:
                self._begin(number)
            else:
                rewards[number], terminated[number] = copy.play(actions[number])
                self._frames[number] = copy.frame()
                self._steps[number] += 1
        truncated = self._steps == self.max_episode_steps
        self._over = terminated | truncated
        return self._frames.copy(), rewards, terminated, truncated, self._information()

    def render(self) -> tuple[np.ndarray, ...]:
        """The last frame of each copy, (size, size, 3) uint8."""
        self._check_begun()
        return tuple(self._frames.copy())

    def close_extras(self, **kwargs: Any) -> None:
        """Free the renderers; `close` calls this."""
        for copy in self._copies:
            copy.view.renderer.close()

    def _facts(self) -> dict[str, np.ndarray]:
        """What the suite knows beyond rewards, one entry a copy."""
        return {}

    def _begin(self, number: int) -> None:
        self._episodes[number] += 1
        self._steps[number], self._over[number] = 0, False
        self._copies[number].begin(self._seeds[number], int(self._episodes[number]))
        self._frames[number] = self._copies[number].frame()

    def _information(self) -> dict[str, Any]:
        facts = {
            "state": np.stack([copy.state for copy in self._copies]),
            **self._facts(),
            "text": np.array([copy.text for copy in self._copies], dtype=object),
            "seed": np.array(self._seeds),
            "episode_number": self._episodes.copy(),
        }
        return facts | {f"_{name}": np.ones(self.num_envs, bool) for name in facts}

    def _check_open(self) -> None:
        if self.closed:
            raise ClosedEnvironmentError("this environment is closed; build another one")

    def _check_begun(self) -> None:
        self._check_open()
        if (self._episodes < 0).any():
            raise ResetNeeded("no episode has begun; call reset() first")


class View:
    """A camera on one copy's simulator, without shadows and reflections, which makes it fast.

    Surfaces are drawn from behind, too: the meshes of arms have triangles that face inwards, which else are holes.

    Args:
        model, data: MuJoCo's own; the model is changed.
        camera: its number.
        size: of a frame, in pixels.

    Raises:
        OSError: nothing can be rendered on this machine.
    """

    def __init__(self, model: Any, data: Any, camera: int, size: int) -> None:
        mujoco = import_mujoco()
        self.data, self.camera = data, camera
        model.vis.quality.shadowsize = model.vis.quality.offsamples = 0
        model.vis.global_.offwidth = model.vis.global_.offheight = size * SAMPLES
        try:
            self.renderer = mujoco.Renderer(model, size * SAMPLES, size * SAMPLES)
        except (ImportError, AttributeError, RuntimeError) as error:
            raise OSError(no_rendering(error)) from error
        for without in (mujoco.mjtRndFlag.mjRND_REFLECTION, mujoco.mjtRndFlag.mjRND_CULL_FACE):
            self.renderer.scene.flags[without] = 0

    def frame(self) -> np.ndarray:
        """(size, size, 3) uint8."""
        self.renderer.update_scene(self.data, self.camera)
        return pixels(self.renderer.render())


def pixels(drawn: np.ndarray) -> np.ndarray:
    """The rounded means of squares of `SAMPLES` times as many, (height, width, 3) uint8."""
    height, width, _ = drawn.shape
    squares = drawn.reshape(height // SAMPLES, SAMPLES, width // SAMPLES, SAMPLES, 3)
    total = squares.sum((1, 3), dtype=np.uint16)
    return ((total + SAMPLES**2 // 2) // SAMPLES**2).astype(np.uint8)


def import_mujoco() -> Any:
    """The module mujoco, told to render without a screen."""
    if "mujoco" not in sys.modules:  # it looks but once
        os.environ.setdefault("MUJOCO_GL", "egl")
    import mujoco

    return mujoco


def no_rendering(error: Exception) -> str:
    """What to do about it."""
    backend = os.environ.get("MUJOCO_GL", "unset")
    how = "install libegl1 and libgl1-mesa-dri, and set MUJOCO_GL=egl before anything imports mujoco"
    return f"MuJoCo cannot render, MUJOCO_GL is {backend} ({error}); {how}"


def _close(environment: weakref.ref[MuJoCoEnv]) -> None:
    alive = environment()
    if alive is not None and not alive.closed:
        alive.close()
