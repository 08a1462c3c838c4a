"""The DeepMind Control Suite as Gymnasium environments, of frames or of states; knows no dataset, no model.

Needs the extra ``trimtab[robots]`` and, without a screen, the Debian packages libegl1 and libgl1-mesa-dri.
Tunyasuvunakool et al., "dm_control: Software and Tasks for Continuous Control", arXiv 2006.12983.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from gymnasium import Env
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Box

from trimtab.environments import _mujoco
from trimtab.environments._mujoco import Look, MuJoCoEnv, View, check_actions, import_mujoco, no_rendering, one_for_each

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


def check_scene(tasks: Sequence[str], size: int, action_repeat: int, max_episode_steps: int) -> None:
    """Raise ValueError for what `DMC` cannot show, without building it; which cameras there are is known only then."""
    _mujoco.check_scene(tasks, TEXTS, size, action_repeat, max_episode_steps)


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
        check_scene([task], _mujoco.SIZES[0], action_repeat, max_episode_steps)
        self.task, self.still = task, still
        self.action_repeat, self.max_episode_steps = action_repeat, max_episode_steps
        domain, name = task.split("-")
        self.simulator = import_suite().load(domain, name, task_kwargs={"time_limit": float("inf")})
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

        Raises ResetNeeded before `reset`, and when the episode is over; ValueError for actions of another shape or range.
        """
        if self._steps is None:
            raise ResetNeeded("no episode has begun; call reset() first")
        action = np.asarray(action, np.float64)
        if action.shape != (self.action_dim,):
            raise ValueError(f"an action is ({self.action_dim},) numbers, got {action.shape}")
        check_actions(action)
        rewards = 0.0
        for _ in range(self.action_repeat):
            now = self.simulator.step(self._low + (action + 1) / 2 * self._reach)
            rewards += float(now.reward)
            if now.last():
                break
        terminated, truncated = now.last(), self._steps + 1 == self.max_episode_steps
        self._steps = None if terminated or truncated else self._steps + 1
        return self._flat(now.observation), rewards, terminated, truncated, {}

    @staticmethod
    def _flat(measured: Any) -> np.ndarray:
        return np.concatenate([np.ravel(one) for one in measured.values()]).astype(np.float32)


class DMC(MuJoCoEnv["_Copy"]):
    """Copies of a task, or of tasks of one body, seen through one camera. Actions are numbers in -1 .. 1.

    Seeds, episodes and information are those of every `MuJoCoEnv`; the "state" is all that the suite measures. It knows no
    success, only rewards, so that an episode is judged by its return.

    Args:
        task: one of `TEXTS` for all copies, or one for each copy.
        num_envs: how many copies; by default one, or as many as tasks.
        camera: its name in the task; by default the first, which follows the body where it moves about.
        size: of a frame, 64, 128, 256 or 512 pixels.
        action_repeat, max_episode_steps, still: see `DMCStates`.
        look: of all copies; None is the suite's own.

    Raises:
        ValueError: an argument is out of range, or the tasks differ in states, actions or rate.
        ModuleNotFoundError: dm_control is not installed. OSError: nothing can be rendered on this machine.
    """

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
        tasks = one_for_each(task, num_envs)
        check_scene(tasks, size, action_repeat, max_episode_steps)
        self.action_repeat = action_repeat
        states = partial(DMCStates, action_repeat=action_repeat, max_episode_steps=max_episode_steps, still=still)
        make = [partial(_Copy, states(name), camera, size, look) for name in tasks]
        super().__init__(make, size=size, max_episode_steps=max_episode_steps)


class _Copy:
    """One copy of a task, with a camera."""

    def __init__(self, states: DMCStates, camera: str | None, size: int, look: Look | None) -> None:
        physics = states.simulator.physics
        model, data = physics.model.ptr, physics.data.ptr
        names = [model.camera(number).name for number in range(model.ncam)]
        if camera is not None and camera not in names:
            raise ValueError(f"no camera {camera!r} in this task; the cameras are {', '.join(names)}")
        number = 0 if camera is None else names.index(camera)
        if look is not None:
            in_world = model.cam_bodyid[number] == 0
            look(model, number, model.stat.center.copy() if in_world else np.zeros(3))
            # Where cameras and lights that follow a body stand to it is kept apart, and must be reckoned again.
            mujoco, settled = import_mujoco(), copy.copy(model)
            mujoco.mj_setConst(settled, mujoco.MjData(settled))
            for field in ("cam_pos0", "cam_poscom0", "cam_mat0", "light_pos0", "light_poscom0", "light_dir0"):
                getattr(model, field)[:] = getattr(settled, field)
        self.states, self.view = states, View(model, data, number, size)
        self.task, self.text = states.task, TEXTS[states.task]
        self.state, self.action_dim = np.zeros(states.state_dim, np.float32), states.action_dim
        self.frame_rate = states.frame_rate

    def begin(self, seed: int, episode: int) -> None:
        self.state, _ = self.states.reset(seed=seed if episode == 0 else None)

    def play(self, action: np.ndarray) -> tuple[float, bool]:
        self.state, reward, terminated, _, _ = self.states.step(action)
        return reward, terminated

    def frame(self) -> np.ndarray:
        return self.view.frame()


def import_suite() -> Any:
    """The module dm_control.suite."""
    try:
        import_mujoco()
        from dm_control import suite
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"dm_control is not installed ({error}); pip install 'trimtab[robots]'") from error
    except (ImportError, AttributeError, RuntimeError) as error:
        raise OSError(no_rendering(error)) from error
    return suite
