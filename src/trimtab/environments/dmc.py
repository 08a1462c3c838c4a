"""The DeepMind Control Suite as Gymnasium environments, of frames or of states; knows no dataset, no model.

Needs the extra ``trimtab[robots]`` and, without a screen, the Debian packages libegl1 and libgl1-mesa-dri.
Tunyasuvunakool et al., "dm_control: Software and Tasks for Continuous Control", arXiv 2006.12983.
"""

from __future__ import annotations

import atexit
import copy
import os
import sys
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium import Env
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

TEXTS = {
    "ball_in_cup-catch": "catch the ball in the cup",
    "cartpole-balance": "balance the pole on the cart",
    "cartpole-swingup": "swing up the pole on the cart",
    "cheetah-run": "a cheetah running",
    "dog-stand": "a dog standing",
    "dog-walk": "a dog walking",
    "dog-trot": "a dog trotting",
    "dog-run": "a dog running",
    "finger-spin": "spin the bar with the finger",
    "fish-swim": "a fish swimming to the mark",
    "hopper-stand": "a robot standing on one leg",
    "hopper-hop": "a robot hopping on one leg",
    "humanoid-stand": "a person standing",
    "humanoid-walk": "a person walking",
    "humanoid-run": "a person running",
    "pendulum-swingup": "swing up the pendulum",
    "point_mass-easy": "push the ball to the mark",
    "quadruped-walk": "a robot walking on four legs",
    "quadruped-run": "a robot running on four legs",
    "reacher-easy": "reach the large mark with the arm",
    "reacher-hard": "reach the small mark with the arm",
    "swimmer-swimmer6": "a short snake swimming to the mark",
    "walker-stand": "a robot standing on two legs",
    "walker-walk": "a robot walking on two legs",
    "walker-run": "a robot running on two legs",
}
"""What each task, <domain>-<task>, is called in words; "a person walking" and "a dog walking" are Video-TADPoLe's."""

SIZES = (64, 128)
Look = Callable[[Any, int, np.ndarray], None]
"""Changes a MuJoCo model before it is rendered, told the camera's number and, in the frame of what the camera hangs on,
about which point it goes; `environments/looks.py` has them."""


def check_scene(tasks: Sequence[str], size: int, action_repeat: int, max_episode_steps: int) -> None:
    """Raise ValueError for what `DMC` cannot show, without building it; which cameras there are is known only then."""
    if unknown := sorted(set(tasks) - set(TEXTS)):
        raise ValueError(f"no task {', '.join(map(repr, unknown))}; the tasks are {', '.join(TEXTS)}")
    if size not in SIZES:
        raise ValueError(f"frames have {SIZES} pixels a side, got {size}")
    if min(action_repeat, max_episode_steps) < 1:
        raise ValueError(f"action_repeat and max_episode_steps are >= 1, got {action_repeat} and {max_episode_steps}")


class DMCStates(Env[np.ndarray, np.ndarray]):
    """One copy of a task that is not rendered: the observation is the state, (dim,) float32, all that the suite measures.

    What happens is a function of the seed, of how many episodes began since it was given, and of the actions, bit for bit.
    Rewards are the suite's, 0 to 1 a control step, summed over repeats. Hardly any task ends an episode of itself.

    Args:
        task: one of `TEXTS`.
        action_repeat: for how many control steps of the suite an action is held.
        max_episode_steps: after which an episode is truncated; the suite's own episodes have 1000 control steps.
        still: begin every episode at rest in the model's own pose, its actuators halfway, and not in a random one, as
            Video-TADPoLe's humanoid and dog do.

    Raises:
        ValueError: an argument is out of range. ModuleNotFoundError: dm_control is not installed.
        OSError: nothing can be rendered on this machine, which dm_control asks for on import.
    """

    def __init__(self, task: str, *, action_repeat: int = 2, max_episode_steps: int = 500, still: bool = False) -> None:
        check_scene([task], SIZES[0], action_repeat, max_episode_steps)
        self.task, self.still = task, still
        self.action_repeat, self.max_episode_steps = action_repeat, max_episode_steps
        domain, name = task.split("-")
        self.simulator = import_suite()[1].load(domain, name, task_kwargs={"time_limit": float("inf")})
        self.frame_rate = 1 / (self.simulator.control_timestep() * action_repeat)
        actions, measured = self.simulator.action_spec(), self.simulator.observation_spec().values()
        self._low, self._reach = actions.minimum, actions.maximum - actions.minimum
        self.state_dim, self.action_dim = sum(int(np.prod(one.shape)) for one in measured), int(np.prod(actions.shape))
        self.observation_space = Box(-np.inf, np.inf, (self.state_dim,), np.float32)
        self.action_space = Box(-1, 1, (self.action_dim,), np.float32)
        self._steps: int | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Begin an episode: the first of a seed, or without one the next. It takes no options."""
        super().reset(seed=seed)
        self.simulator.task.random.seed(int(self.np_random.integers(2**32)))
        self.simulator.reset()
        if self.still:
            physics = self.simulator.physics
            with physics.reset_context():
                driven = physics.model.actuator_actadr >= 0
                physics.data.act[:] = physics.model.actuator_ctrlrange[driven].mean(axis=1)
        self._steps = 0
        return self._flat(self.simulator.task.get_observation(self.simulator.physics)), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Play one action, numbers in -1 .. 1: state, reward, termination, truncation, and nothing more to know.

        Raises ResetNeeded before `reset`, and when the episode is over.
        """
        if self._steps is None:
            raise ResetNeeded("no episode has begun; call reset() first")
        rewards = 0.0
        for _ in range(self.action_repeat):
            now = self.simulator.step(self._low + (np.asarray(action, np.float64) + 1) / 2 * self._reach)
            rewards += float(now.reward)
            if now.last():
                break
        terminated, truncated = now.last(), self._steps + 1 == self.max_episode_steps
        self._steps = None if terminated or truncated else self._steps + 1
        return self._flat(now.observation), rewards, terminated, truncated, {}

    @staticmethod
    def _flat(measured: Any) -> np.ndarray:
        return np.concatenate([np.ravel(one) for one in measured.values()]).astype(np.float32)


class DMC(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """Copies of a task, or of tasks of one body, seen through one camera. Actions are numbers in -1 .. 1.

    What a copy shows is a function of its seed, the number of its episode and its actions, bit for bit on one machine.
    Shadows, reflections and smoothed edges are left out, which makes rendering fast. When an episode is over, the next
    `step` ignores that copy's action and begins its next episode (`AutoresetMode.NEXT_STEP`).

    Both `reset` and `step` inform, with one entry a copy, of "state", (num_envs, dim) float32: all that the suite measures;
    "text": the task in words; "seed" and "episode_number". The suite knows no success, only rewards.

    Args:
        task: one of `TEXTS` for all copies, or one for each copy.
        num_envs: how many copies; by default one, or as many as tasks.
        camera: its name in the task; by default the first, which follows the body where it moves about.
        size: of a frame, one of `SIZES` in pixels.
        action_repeat, max_episode_steps, still: see `DMCStates`.
        look: of all copies; None is the suite's own.

    Raises:
        ValueError: an argument is out of range, or the tasks differ in states, actions or rate.
        ModuleNotFoundError: dm_control is not installed. OSError: nothing can be rendered on this machine.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP, "render_modes": ["rgb_array"]}  # noqa: RUF012
    render_mode = "rgb_array"

    def __init__(
        self,
        task: str | Sequence[str],
        num_envs: int | None = None,
        *,
        camera: str | None = None,
        size: int = 64,
        action_repeat: int = 2,
        max_episode_steps: int = 500,
        still: bool = False,
        look: Look | None = None,
    ) -> None:
        self._views: list[_View] = []
        self.tasks = [task] * (1 if num_envs is None else num_envs) if isinstance(task, str) else list(task)
        if not self.tasks or num_envs not in (None, len(self.tasks)):
            raise ValueError(f"give one task, or one for each of num_envs >= 1; got {len(self.tasks)} for {num_envs}")
        check_scene(self.tasks, size, action_repeat, max_episode_steps)
        settings: dict[str, Any] = {
            "action_repeat": action_repeat,
            "max_episode_steps": max_episode_steps,
            "still": still,
        }
        self._copies = [DMCStates(name, **settings) for name in self.tasks]
        kinds = {(one.state_dim, one.action_dim, one.frame_rate) for one in self._copies}
        if len(kinds) > 1:
            raise ValueError(
                f"the tasks {', '.join(dict.fromkeys(self.tasks))} differ in states, actions or rate; build one environment "
                "for each"
            )
        self.num_envs = len(self.tasks)
        self.action_repeat, self.max_episode_steps = action_repeat, max_episode_steps
        self.frame_rate = self._copies[0].frame_rate
        self.metadata = {**self.metadata, "render_fps": self.frame_rate}
        self.single_observation_space = Box(0, 255, (size, size, 3), np.uint8)
        self.single_action_space = self._copies[0].action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        # Renderers that are still open when Python ends complain on stderr.
        atexit.register(_close, weakref.ref(self))
        for one in self._copies:
            self._views.append(_View(one.simulator.physics, camera, size, look))
        self._seeds = np.random.default_rng().integers(2**31, size=self.num_envs).tolist()
        self._episodes, self._over = np.full(self.num_envs, -1), np.zeros(self.num_envs, bool)
        self._frames = np.zeros((self.num_envs, size, size, 3), np.uint8)
        self._states = np.zeros((self.num_envs, self._copies[0].state_dim), np.float32)

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
        if not (np.abs(actions) <= 1).all():
            reach = f"{actions.min():.4g} .. {actions.max():.4g}"
            raise ValueError(f"actions lie in -1 .. 1, got {reach}; clip them with numpy.clip(actions, -1, 1)")
        rewards, (terminated, truncated) = np.zeros(self.num_envs), np.zeros((2, self.num_envs), bool)
        for i, one in enumerate(self._copies):
            if self._over[i]:
                self._begin(i)
            else:
                self._states[i], rewards[i], terminated[i], truncated[i], _ = one.step(actions[i])
                self._frames[i] = self._views[i].frame()
        self._over = terminated | truncated
        return self._frames.copy(), rewards, terminated, truncated, self._information()

    def render(self) -> tuple[np.ndarray, ...]:
        """The last frame of each copy, (size, size, 3) uint8."""
        self._check_begun()
        return tuple(self._frames.copy())

    def close_extras(self, **kwargs: Any) -> None:
        """Free the renderers; `close` calls this."""
        for view in self._views:
            view.renderer.close()

    def _begin(self, number: int) -> None:
        self._episodes[number] += 1
        seed = self._seeds[number] if self._episodes[number] == 0 else None
        self._over[number], (self._states[number], _) = False, self._copies[number].reset(seed=seed)
        self._frames[number] = self._views[number].frame()

    def _information(self) -> dict[str, Any]:
        facts = {
            "state": self._states.copy(),
            "text": np.array([TEXTS[task] for task in self.tasks], dtype=object),
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


class _View:
    """A camera on one copy's simulator."""

    def __init__(self, physics: Any, camera: str | None, size: int, look: Look | None) -> None:
        mujoco, _ = import_suite()
        self.model, self.data = model, _ = physics.model.ptr, physics.data.ptr
        names = [model.camera(number).name for number in range(model.ncam)]
        if camera is not None and camera not in names:
            raise ValueError(f"no camera {camera!r} in this task; the cameras are {', '.join(names)}")
        self.camera = 0 if camera is None else names.index(camera)
        if look is not None:
            in_world = model.cam_bodyid[self.camera] == 0
            look(model, self.camera, model.stat.center.copy() if in_world else np.zeros(3))
            # Where cameras and lights that follow a body stand to it is kept apart, and must be reckoned again.
            settled = copy.copy(model)
            mujoco.mj_setConst(settled, mujoco.MjData(settled))
            for field in ("cam_pos0", "cam_poscom0", "cam_mat0", "light_pos0", "light_poscom0", "light_dir0"):
                getattr(model, field)[:] = getattr(settled, field)
        model.vis.quality.shadowsize = model.vis.quality.offsamples = 0
        model.vis.global_.offwidth = model.vis.global_.offheight = size
        try:
            self.renderer = mujoco.Renderer(model, size, size)
        except (ImportError, AttributeError, RuntimeError) as error:
            raise OSError(_no_rendering(error)) from error
        self.renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0

    def frame(self) -> np.ndarray:
        """(size, size, 3) uint8."""
        self.renderer.update_scene(self.data, self.camera)
        return self.renderer.render()


def import_suite() -> tuple[Any, Any]:
    """The modules mujoco, told to render without a screen, and dm_control.suite."""
    if "mujoco" not in sys.modules:  # it looks but once
        os.environ.setdefault("MUJOCO_GL", "egl")
    try:
        import mujoco
        from dm_control import suite
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"dm_control is not installed ({error}); pip install 'trimtab[robots]'") from error
    except (ImportError, AttributeError, RuntimeError) as error:
        raise OSError(_no_rendering(error)) from error
    return mujoco, suite


def _no_rendering(error: Exception) -> str:
    backend = os.environ.get("MUJOCO_GL", "unset")
    how = "install libegl1 and libgl1-mesa-dri, and set MUJOCO_GL=egl before anything imports mujoco"
    return f"MuJoCo cannot render, MUJOCO_GL is {backend} ({error}); {how}"


def _close(environment: weakref.ref[DMC]) -> None:
    alive = environment()
    if alive is not None and not alive.closed:
        alive.close()
