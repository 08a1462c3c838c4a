"""MetaWorld's robot arm tasks as a Gymnasium vector environment of frames, and their experts; knows no dataset, no model.

Needs the extra ``trimtab[robots]`` and, without a screen, the Debian packages libegl1 and libgl1-mesa-dri.
McLean et al., "Meta-World+", arXiv 2505.11289 (version 3); Yu et al., "Meta-World", arXiv 1910.10897.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy as duplicate
from functools import partial
from typing import Any

import numpy as np

from trimtab.environments import _mujoco
from trimtab.environments._mujoco import Look, MuJoCoEnv, View, import_mujoco, one_for_each

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

OPPOSITES = {
    ("door-close", "door-open"): (0.0, -1.57),
    ("drawer-close", "drawer-open"): (0.0, -0.2),
    ("faucet-close", "faucet-open"): (-1.57, 1.57),
    ("window-close", "window-open"): (0.0, 0.2),
    ("door-lock", "door-unlock"): (1.57, 0.0),
    ("handle-press", "handle-pull"): (-0.09, 0.0),
}
"""Tasks that undo each other, and where each leaves the joint of what is moved, in radians or metres."""

SCENES = {scene: pair for pair in OPPOSITES for scene in pair if scene not in ("door-open", "window-close")}
"""Tasks in whose scene the experts of two opposite ones can act, and those two. In the scenes that are left out one of both
experts often misses."""

NEAR = 0.2
"""Of a joint's way, within which of its end a task is done."""

CAMERAS = ("close", "corner", "corner2", "corner3", "topview")
"""MetaWorld's fixed cameras, turned upright, and "close", which shows hand and object largest while both stay in view."""
CLOSE = {"cam_pos": (0.75, 0.075, 0.7), "cam_quat": (0.7895, 0.4425, 0.208, 0.3711), "cam_fovy": 42.0}
MIDDLE = np.array([0.0, 0.65, 0.1])  # of where hand and object move, metres
SIMULATOR_RATE = 80.0
"""Actions a second that MetaWorld takes when none is repeated."""


def check_scene(
    tasks: Sequence[str],
    camera: str,
    size: int,
    action_repeat: int,
    max_episode_steps: int,
    scene: str | None = None,
) -> None:
    """Raise ValueError for what `MetaWorld` cannot show, without building it."""
    if scene is not None and scene not in SCENES:
        raise ValueError(f"no scene {scene!r} is shared by opposite tasks; these are: {', '.join(SCENES)}")
    if scene is not None and not set(tasks) <= set(SCENES[scene]):
        raise ValueError(f"in the scene of {scene} there are {' and '.join(SCENES[scene])}; got {', '.join(tasks)}")
    if camera not in CAMERAS:
        raise ValueError(f"cameras are {', '.join(CAMERAS)}; got {camera!r}")
    _mujoco.check_scene(tasks, TEXTS, size, action_repeat, max_episode_steps)


class MetaWorld(MuJoCoEnv["_Copy"]):
    """Copies of MetaWorld tasks, seen through one camera. Actions are (x, y, z, gripper) in -1 .. 1.

    Seeds, episodes and information are those of every `MuJoCoEnv`. The "state" is the hand's x, y, z in metres, and how
    far the gripper is open, 0 .. 1; "success", bool, is whether the task was done during this step. Rewards are
    MetaWorld's, summed over repeats. An episode begins after one action of zeros, by which MetaWorld puts everything in
    its place.

    Args:
        task: one of `TEXTS` for all copies, or one for each copy.
        scene: one of `SCENES`, in which episodes begin with what is moved somewhere in the middle half of its way, so that
            the first frame does not tell which of two opposite tasks will follow: that is a function of scene and seed. A
            task is then done when the joint is near its end, and rewards are those of the scene's own task. None is each
            task's own scene and beginning.
        num_envs: how many copies; by default one, or as many as tasks.
        camera, size: one of `CAMERAS`, and 64, 128, 256 or 512 pixels.
        action_repeat: for how many of the simulator's 1/80 seconds an action is held.
        max_episode_steps: after which an episode is truncated.
        end_at_success: whether success terminates an episode.
        look: of all copies; None is MetaWorld's own.

    Raises:
        ValueError: an argument is out of range. ModuleNotFoundError: MetaWorld is not installed.
        OSError: nothing can be rendered on this machine.
    """

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
        scene: str | None = None,
    ) -> None:
        tasks = one_for_each(task, num_envs)
        check_scene(tasks, camera, size, action_repeat, max_episode_steps, scene)
        self.action_repeat, self.end_at_success = action_repeat, end_at_success
        make = [partial(_Copy, name, scene, camera, size, look, action_repeat, end_at_success) for name in tasks]
        super().__init__(make, size=size, max_episode_steps=max_episode_steps)

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
        seen = [self._copies[number].expert_continuation(num_steps) for number in asked]
        frames, actions = zip(*seen, strict=True)
        return np.stack(frames), np.stack(actions)

    def _facts(self) -> dict[str, np.ndarray]:
        return {"success": np.array([copy.success for copy in self._copies])}


class _Copy:
    """One copy of a task: MetaWorld's simulator and expert, and a camera."""

    action_dim = 4

    def __init__(
        self,
        task: str,
        scene: str | None,
        camera: str,
        size: int,
        look: Look | None,
        action_repeat: int,
        end_at_success: bool,
    ) -> None:
        environments, experts = import_metaworld()
        self.task, self.scene, self.text = task, scene, TEXTS[task]
        self.action_repeat, self.end_at_success = action_repeat, end_at_success
        self.frame_rate = SIMULATOR_RATE / action_repeat
        self.simulator = simulator = environments[f"{scene or task}-v3"]()
        simulator._partially_observable = False  # the expert sees the goal
        del simulator.sawyer_observation_space  # which is cached without it
        simulator._set_task_called, simulator._freeze_rand_vec, simulator.seeded_rand_vec = True, False, True
        simulator.max_path_length = 2**31  # how long episodes are is not its business
        self.expert = experts[f"{task}-v3"]()
        self.observation, self.success = np.zeros(39), False

        model = simulator.model
        self.camera = model.camera("corner2" if camera == "close" else camera).id
        if camera == "close":
            for field, value in CLOSE.items():
                getattr(model, field)[self.camera] = value
        if look is not None:
            look(model, self.camera, MIDDLE)
        self.view = View(model, simulator.data, self.camera, size)

    @property
    def state(self) -> np.ndarray:
        return self.observation[:4].astype(np.float32)

    def begin(self, seed: int, episode: int) -> None:
        own, halfway = np.random.SeedSequence([seed, episode]).generate_state(2)
        self.simulator.seed(int(own))
        self.simulator.reset()
        if self.scene is not None:
            first, second = OPPOSITES[SCENES[self.scene]]
            place = self.simulator.data.qpos.copy()  # after the arm's joints, of what is moved
            place[-1] = first + (second - first) * np.random.default_rng(halfway).uniform(0.25, 0.75)
            self.simulator.set_state(place, np.zeros_like(self.simulator.data.qvel))
        self.observation, *_ = self.simulator.step(np.zeros(4, np.float32))
        self.success = False

    def play(self, action: np.ndarray) -> tuple[float, bool]:
        """The sum of rewards, and whether the task was done at any time, if that ends the episode."""
        rewards, self.success = 0.0, False
        for _ in range(self.action_repeat):
            self.observation, reward, _, _, facts = self.simulator.step(action.astype(np.float32))
            rewards, self.success = rewards + float(reward), self.success or self._is_done(bool(facts["success"]))
        return rewards, self.success and self.end_at_success

    def _is_done(self, as_told: bool) -> bool:
        """Whether the task is done, by what the simulator says of its own."""
        if self.scene is None:
            return as_told
        pair, place = SCENES[self.scene], float(self.simulator.data.qpos[-1])
        ends, own = OPPOSITES[pair], pair.index(self.task)
        return (place - ends[1 - own]) / (ends[own] - ends[1 - own]) >= 1 - NEAR

    def expert_action(self) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # each action beyond the bounds is warned of
            action = self.expert.get_action(self.observation.copy())
        return np.clip(action, -1, 1).astype(np.float32)

    def expert_continuation(self, num_steps: int) -> tuple[np.ndarray, np.ndarray]:
        """Frames (num_steps, size, size, 3) and actions (num_steps, 4) of the expert, from a present that is kept."""
        frames, actions = [], []
        with self._kept():
            for _ in range(num_steps):
                actions.append(self.expert_action())
                self.play(actions[-1])
                frames.append(self.frame())
        return np.stack(frames), np.stack(actions)

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """Afterwards everything is as before."""
        mujoco, simulator = sys.modules["mujoco"], self.simulator
        data, fields, seen = duplicate(simulator.data), dict(vars(simulator)), (self.observation, self.success)
        try:
            yield
        finally:
            # In place: the renderer, and some tasks' goals, look into this very data.
            mujoco.mj_copyData(simulator.data, simulator.model, data)
            simulator.__dict__, (self.observation, self.success) = fields, seen

    def frame(self) -> np.ndarray:
        """(size, size, 3) uint8, the right way up."""
        upright = self.simulator.data.cam_xmat[self.camera].reshape(3, 3)[2, 1] >= 0
        return self.view.frame()[:: 1 if upright else -1, :: 1 if upright else -1]


def import_metaworld() -> tuple[Any, Any]:
    """The classes of MetaWorld's tasks, and those of their experts."""
    try:
        import_mujoco()
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS
        from metaworld.policies import ENV_POLICY_MAP
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"MetaWorld is not installed ({error}); pip install 'trimtab[robots]'") from error
    return ALL_V3_ENVIRONMENTS, ENV_POLICY_MAP
