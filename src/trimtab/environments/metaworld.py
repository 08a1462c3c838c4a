"""MetaWorld's robot arm tasks as a Gymnasium vector environment of frames, and their experts; knows no dataset, no model.

Needs the extra ``trimtab[robots]`` and, without a screen, the Debian packages libegl1 and libgl1-mesa-dri.
McLean et al., "Meta-World+", arXiv 2505.11289 (version 3); Yu et al., "Meta-World", arXiv 1910.10897.
"""

from __future__ import annotations

import atexit
import os
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy as duplicate
from typing import Any

import numpy as np
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

TEXTS = {
    "assembly": "put the ring on the peg",
    "basketball": "put the basketball into the hoop",
    "button-press": "press the button",
    "button-press-topdown": "press the button from above",
    "coffee-button": "press the button of the coffee machine",
    "coffee-pull": "pull the mug away from the coffee machine",
    "coffee-push": "push the mug under the coffee machine",
    "dial-turn": "turn the dial",
    "door-close": "close the door",
    "door-lock": "lock the door",
    "door-open": "open the door",
    "door-unlock": "unlock the door",
    "drawer-close": "close the drawer",
    "drawer-open": "open the drawer",
    "faucet-close": "close the faucet",
    "faucet-open": "open the faucet",
    "hammer": "hammer the nail into the box",
    "handle-press": "press the handle down",
    "handle-pull": "pull the handle up",
    "lever-pull": "pull the lever up",
    "peg-unplug-side": "pull the plug out of the box",
    "pick-place": "pick up the puck and hold it at the mark",
    "plate-slide": "slide the plate into the goal",
    "plate-slide-back": "slide the plate out of the goal",
    "push": "push the puck to the mark",
    "reach": "move the hand to the mark",
    "soccer": "push the ball into the goal",
    "stick-pull": "pull the bottle with the stick",
    "stick-push": "push the bottle with the stick",
    "sweep": "sweep the block off the table",
    "window-close": "close the window",
    "window-open": "open the window",
}
"""What each task is called in words: of MetaWorld's 50, some whose expert never failed in 8 trials (seeds 0 to 3, action
repeats 1 and 2, 200 steps). At action repeat 4 they fail in 2 of 128 trials, at 6 in 10, at 8 in 16."""

CAMERAS = ("close", "corner", "corner2", "corner3", "topview")
"""MetaWorld's fixed cameras, turned upright, and "close", which shows hand and object largest while both stay in view."""
CLOSE = {"cam_pos": (0.75, 0.075, 0.7), "cam_quat": (0.7895, 0.4425, 0.208, 0.3711), "cam_fovy": 42.0}
MIDDLE = np.array([0.0, 0.65, 0.1])  # of where hand and object move, metres
SIZES = (64, 128)
SIMULATOR_RATE = 80.0
"""Actions a second that MetaWorld takes when none is repeated."""

Look = Callable[[Any, int, np.ndarray], None]
"""Changes a MuJoCo model before it is rendered, told the camera's number and `MIDDLE`; `environments/looks.py` has them."""


def check_scene(tasks: Sequence[str], camera: str, size: int, action_repeat: int, max_episode_steps: int) -> None:
    """Raise ValueError for what `MetaWorld` cannot show, without building it."""
    if unknown := sorted(set(tasks) - set(TEXTS)):
        raise ValueError(f"no task {', '.join(map(repr, unknown))}; the tasks are {', '.join(TEXTS)}")
    if camera not in CAMERAS or size not in SIZES:
        raise ValueError(f"cameras are {', '.join(CAMERAS)}, of {SIZES} pixels; got {camera!r} of {size}")
    if min(action_repeat, max_episode_steps) < 1:
        raise ValueError(f"action_repeat and max_episode_steps are >= 1, got {action_repeat} and {max_episode_steps}")


class MetaWorld(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """Copies of MetaWorld tasks, seen through one camera. Actions are (x, y, z, gripper) in -1 .. 1.

    What a copy shows is a function of its seed, the number of its episode and its actions, bit for bit on one machine.
    Rewards are MetaWorld's, summed over repeats. Shadows, reflections and smoothed edges are left out, which makes
    rendering twenty times as fast. When an episode is over, the next `step` ignores that copy's action and begins its next
    episode (`AutoresetMode.NEXT_STEP`), after one action of zeros, by which MetaWorld puts everything in its place.

    Both `reset` and `step` inform, with one entry a copy, of "state", (num_envs, 4) float32: the hand's x, y, z in
    metres, and how far the gripper is open, 0 .. 1; "success", bool: whether the task was done during this step;
    "text": the task in words; "seed" and "episode_number".

    Args:
        task: one of `TEXTS` for all copies, or one for each copy.
        num_envs: how many copies; by default one, or as many as tasks.
        camera, size: one of `CAMERAS`, and of `SIZES` in pixels.
        action_repeat: for how many of the simulator's 1/80 seconds an action is held.
        max_episode_steps: after which an episode is truncated.
        end_at_success: whether success terminates an episode.
        look: of all copies; None is MetaWorld's own.

    Raises:
        ValueError: an argument is out of range. ModuleNotFoundError: MetaWorld is not installed.
        OSError: nothing can be rendered on this machine.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP, "render_modes": ["rgb_array"]}  # noqa: RUF012
    render_mode = "rgb_array"

    def __init__(
        self,
        task: str | Sequence[str],
        num_envs: int | None = None,
        *,
        camera: str = "close",
        size: int = 64,
        action_repeat: int = 2,
        max_episode_steps: int = 200,
        end_at_success: bool = True,
        look: Look | None = None,
    ) -> None:
        self._copies: list[_Copy] = []
        self.tasks = [task] * (1 if num_envs is None else num_envs) if isinstance(task, str) else list(task)
        if not self.tasks or num_envs not in (None, len(self.tasks)):
            raise ValueError(f"give one task, or one for each of num_envs >= 1; got {len(self.tasks)} for {num_envs}")
        check_scene(self.tasks, camera, size, action_repeat, max_episode_steps)
        self.num_envs = len(self.tasks)
        self.action_repeat, self.max_episode_steps = action_repeat, max_episode_steps
        self.end_at_success = end_at_success
        self.frame_rate = SIMULATOR_RATE / action_repeat
        self.metadata = {**self.metadata, "render_fps": self.frame_rate}
        self.single_observation_space = Box(0, 255, (size, size, 3), np.uint8)
        self.single_action_space = Box(-1, 1, (4,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        for name in self.tasks:
            self._copies.append(_Copy(name, camera, size, look))
        # Renderers still open when Python ends complain on stderr; this is registered late, so it comes before MuJoCo's end.
        atexit.register(_close, weakref.ref(self))
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
        return self._frames.copy(), self._information(np.zeros(self.num_envs, bool))

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Play one action, (num_envs, 4) floats in -1 .. 1, in every copy.

        Returns:
            Frames (num_envs, size, size, 3) uint8, rewards, terminations, truncations (num_envs,), and information.

        Raises:
            ValueError, ResetNeeded, ClosedEnvironmentError: unfit actions; before `reset`; after `close`.
        """
        self._check_begun()
        actions = np.asarray(actions)
        if actions.shape != (self.num_envs, 4) or actions.dtype.kind != "f":
            raise ValueError(f"actions are ({self.num_envs}, 4) floats, got {actions.shape} {actions.dtype}")
        if not (np.abs(actions) <= 1).all():
            reach = f"{actions.min():.4g} .. {actions.max():.4g}"
            raise ValueError(f"actions lie in -1 .. 1, got {reach}; clip them with numpy.clip(actions, -1, 1)")
        rewards, success = np.zeros(self.num_envs), np.zeros(self.num_envs, bool)
        for number, copy in enumerate(self._copies):
            if self._over[number]:
                self._begin(number)
            else:
                rewards[number], success[number] = copy.play(actions[number], self.action_repeat)
                self._frames[number] = copy.frame()
                self._steps[number] += 1
        terminated, truncated = success & self.end_at_success, self._steps == self.max_episode_steps
        self._over = terminated | truncated
        return self._frames.copy(), rewards, terminated, truncated, self._information(success)

    def expert_actions(self) -> np.ndarray:
        """What MetaWorld's scripted experts do now, (num_envs, 4) float32 in -1 .. 1; they see objects and goals."""
        self._check_begun()
        return np.stack([copy.expert_action() for copy in self._copies])

    def expert_continuation(self, num_steps: int, copies: Sequence[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """What would be seen if the experts acted from now on; afterwards everything is as before, bit for bit.

        It goes on beyond success and `max_episode_steps`, and begins no next episode.

        Args:
            num_steps: how many actions, at least 1.
            copies: the numbers of the copies to ask; by default all.

        Returns:
            The frame after each action, (copy, num_steps, size, size, 3) uint8, and the actions, (copy, num_steps, 4)
            float32 in -1 .. 1. Raises ValueError for another num_steps, or no such copy.
        """
        self._check_begun()
        asked = range(self.num_envs) if copies is None else copies
        if num_steps < 1 or not len(asked) or not set(asked) <= set(range(self.num_envs)):
            least = f"num_steps >= 1 and copies of 0 .. {self.num_envs - 1}"
            raise ValueError(f"a continuation needs {least}, got {num_steps} and {list(asked)}")
        seen = [self._copies[number].expert_continuation(num_steps, self.action_repeat) for number in asked]
        frames, actions = zip(*seen, strict=True)
        return np.stack(frames), np.stack(actions)

    def render(self) -> tuple[np.ndarray, ...]:
        """The last frame of each copy, (size, size, 3) uint8."""
        self._check_begun()
        return tuple(self._frames.copy())

    def close_extras(self, **kwargs: Any) -> None:
        """Free the renderers; `close` calls this."""
        for copy in self._copies:
            copy.renderer.close()

    def _begin(self, number: int) -> None:
        self._episodes[number] += 1
        self._steps[number], self._over[number] = 0, False
        self._copies[number].begin(self._seeds[number], int(self._episodes[number]))
        self._frames[number] = self._copies[number].frame()

    def _information(self, success: np.ndarray) -> dict[str, Any]:
        facts = {
            "state": np.stack([copy.observation[:4] for copy in self._copies]).astype(np.float32),
            "success": success.copy(),
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


class _Copy:
    """One copy of a task: MetaWorld's simulator and expert, and a camera."""

    def __init__(self, task: str, camera: str, size: int, look: Look | None) -> None:
        mujoco, environments, experts = import_metaworld()
        self.simulator = simulator = environments[f"{task}-v3"]()
        simulator._partially_observable = False  # the expert sees the goal
        del simulator.sawyer_observation_space  # which is cached without it
        simulator._set_task_called, simulator._freeze_rand_vec, simulator.seeded_rand_vec = True, False, True
        simulator.max_path_length = 2**31  # how long episodes are is not its business
        self.expert = experts[f"{task}-v3"]()
        self.observation = np.zeros(39)

        model = simulator.model
        self.camera = model.camera("corner2" if camera == "close" else camera).id
        if camera == "close":
            for field, value in CLOSE.items():
                getattr(model, field)[self.camera] = value
        if look is not None:
            look(model, self.camera, MIDDLE)
        model.vis.quality.shadowsize = model.vis.quality.offsamples = 0
        model.vis.global_.offwidth = model.vis.global_.offheight = size
        try:
            self.renderer = mujoco.Renderer(model, size, size)
        except (ImportError, AttributeError, RuntimeError) as error:
            backend = os.environ.get("MUJOCO_GL", "unset")
            how = "install libegl1 and libgl1-mesa-dri, and set MUJOCO_GL=egl before anything imports mujoco"
            raise OSError(f"MuJoCo cannot render, MUJOCO_GL is {backend} ({error}); {how}") from error
        self.renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0

    def begin(self, seed: int, episode: int) -> None:
        self.simulator.seed(int(np.random.SeedSequence([seed, episode]).generate_state(1)[0]))
        self.simulator.reset()
        self.observation, *_ = self.simulator.step(np.zeros(4, np.float32))

    def play(self, action: np.ndarray, repeat: int) -> tuple[float, bool]:
        """The sum of rewards, and whether the task was done at any time."""
        rewards, success = 0.0, False
        for _ in range(repeat):
            self.observation, reward, _, _, facts = self.simulator.step(action.astype(np.float32))
            rewards, success = rewards + float(reward), success or bool(facts["success"])
        return rewards, success

    def expert_action(self) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # each action beyond the bounds is warned of
            action = self.expert.get_action(self.observation.copy())
        return np.clip(action, -1, 1).astype(np.float32)

    def expert_continuation(self, num_steps: int, repeat: int) -> tuple[np.ndarray, np.ndarray]:
        """Frames (num_steps, size, size, 3) and actions (num_steps, 4) of the expert, from a present that is kept."""
        frames, actions = [], []
        with self._kept():
            for _ in range(num_steps):
                actions.append(self.expert_action())
                self.play(actions[-1], repeat)
                frames.append(self.frame())
        return np.stack(frames), np.stack(actions)

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """Afterwards everything is as before."""
        mujoco, simulator = sys.modules["mujoco"], self.simulator
        data, fields, observation = duplicate(simulator.data), dict(vars(simulator)), self.observation
        try:
            yield
        finally:
            # In place: the renderer, and some tasks' goals, look into this very data.
            mujoco.mj_copyData(simulator.data, simulator.model, data)
            simulator.__dict__, self.observation = fields, observation

    def frame(self) -> np.ndarray:
        """(size, size, 3) uint8, the right way up."""
        self.renderer.update_scene(self.simulator.data, self.camera)
        upright = self.simulator.data.cam_xmat[self.camera].reshape(3, 3)[2, 1] >= 0
        return self.renderer.render()[:: 1 if upright else -1, :: 1 if upright else -1]


def import_metaworld() -> tuple[Any, Any, Any]:
    """The module mujoco, told to render without a screen; the classes of MetaWorld's tasks; those of their experts."""
    if "mujoco" not in sys.modules:  # it looks but once
        os.environ.setdefault("MUJOCO_GL", "egl")
    try:
        import mujoco
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS
        from metaworld.policies import ENV_POLICY_MAP
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"MetaWorld is not installed ({error}); pip install 'trimtab[robots]'") from error
    return mujoco, ALL_V3_ENVIRONMENTS, ENV_POLICY_MAP


def _close(environment: weakref.ref[MetaWorld]) -> None:
    alive = environment()
    if alive is not None and not alive.closed:
        alive.close()
