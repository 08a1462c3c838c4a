"""What every environment of a MuJoCo suite keeps: seeds, episodes and spaces, clear refusals, and its speed."""

import hashlib
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from gymnasium.wrappers.vector import DictInfoToList, RecordEpisodeStatistics

from trimtab.environments._mujoco import MuJoCoEnv
from trimtab.environments.dmc import DMC
from trimtab.environments.metaworld import MetaWorld

pytestmark = pytest.mark.slow  # and needs libEGL, which not every machine has


@dataclass(frozen=True)
class Suite:
    """An environment, a task whose first frames differ from seed to seed, and what is known of it.

    Attributes:
        kind: its class.
        task: a task of it.
        others: tasks that it can be copied with.
        texts: of these.
        state_dim, action_dim: numbers of both.
        frame_rate: at an action repeat of 4.
        package: without which there is none.
    """

    kind: type[MuJoCoEnv]
    task: str
    others: list[str]
    texts: list[str]
    state_dim: int
    action_dim: int
    frame_rate: float
    package: str

    def __call__(self, *arguments: Any, **options: Any) -> MuJoCoEnv:
        return self.kind(*(arguments or (self.task,)), **options)


METAWORLD = Suite(
    MetaWorld, "reach", ["door-close", "reach"], ["close the door", "move the hand to the mark"], 4, 4, 20,
    "metaworld.env_dict",
)  # fmt: skip
CONTROL = Suite(
    DMC, "reacher-easy", ["walker-walk", "walker-run"], ["a robot walking on two legs", "a robot running on two legs"],
    24, 6, 10, "dm_control",
)  # fmt: skip

each = pytest.mark.parametrize("suite", [METAWORLD, CONTROL], ids=["metaworld", "dmc"])


@each
@pytest.mark.parametrize("size", [64, 128, 512])
def test_shapes_and_spaces(suite: Suite, size: int) -> None:
    environment = suite(suite.others, size=size, action_repeat=4, max_episode_steps=3)
    assert environment.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    assert environment.metadata["render_fps"] == environment.frame_rate == suite.frame_rate
    assert environment.observation_space == batch_space(environment.single_observation_space, 2)
    assert environment.action_space == batch_space(environment.single_action_space, 2)
    assert environment.action_space.shape == (2, suite.action_dim)
    frames, facts = environment.reset(seed=0)
    environment.action_space.seed(0)
    for step in range(3):
        assert frames.shape == (2, size, size, 3)
        assert environment.observation_space.contains(frames)
        assert np.array_equal(environment.render(), frames)
        assert facts["state"].shape == (2, suite.state_dim)
        assert facts["state"].dtype == np.float32
        assert facts["text"].tolist() == suite.texts
        frames, rewards, terminated, truncated, facts = environment.step(environment.action_space.sample())
        assert [values.shape for values in (rewards, terminated, truncated)] == [(2,)] * 3
        assert (rewards >= 0).all()
        assert (truncated == (step == 2)).all()
        assert not terminated.any()
    environment.close()


@each
def test_an_episode_that_is_over_gives_way_to_the_next(suite: Suite) -> None:
    environment = DictInfoToList(RecordEpisodeStatistics(suite(suite.task, 2, max_episode_steps=4)))
    ones = np.ones(environment.action_space.shape, np.float32)
    first, facts = environment.reset(seed=0)
    assert [fact["seed"] for fact in facts] == [0, 1]
    for _ in range(4):
        *_, truncated, facts = environment.step(ones)
    assert truncated.all()
    assert [fact["episode"]["l"] for fact in facts] == [4, 4]
    frames, rewards, _, truncated, facts = environment.step(ones)
    assert not truncated.any()
    assert not rewards.any()
    assert [fact["episode_number"] for fact in facts] == [1, 1]
    assert not np.array_equal(frames, first)
    again, _ = environment.reset(seed=0)
    assert np.array_equal(again, first)
    following, _ = environment.reset()
    assert np.array_equal(following, frames)
    environment.close()


@each
def test_another_process_sees_the_same_and_complains_of_nothing(suite: Suite) -> None:
    environment, name = suite(), suite.kind.__name__
    first, _ = environment.reset(seed=3)
    environment.close()
    code = (
        f"import hashlib; from {suite.kind.__module__} import {name}\n"
        f"frames, _ = {name}({suite.task!r}).reset(seed=3); print(hashlib.sha256(frames.tobytes()).hexdigest())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == hashlib.sha256(first.tobytes()).hexdigest()
    assert done.stderr == ""  # though it was not closed


@each
def test_wrong_arguments_are_refused(suite: Suite) -> None:
    for arguments, options, message in (
        (("walker-fly",), {}, "no task 'walker-fly'; the tasks are "),
        (([suite.task, "door-close-v3"],), {}, "no task 'door-close-v3'"),
        ((suite.task,), {"size": 100}, r"have \(64, 128, 256, 512\) pixels a side, got 100"),
        ((suite.task, 0), {}, "num_envs >= 1"),
        (([],), {}, "give one task"),
        (([suite.task], 2), {}, "one for each of num_envs"),
        ((suite.task,), {"action_repeat": 0, "max_episode_steps": 9}, ">= 1, got 0 and 9"),
        ((suite.task,), {"action_repeat": 1, "max_episode_steps": 0}, ">= 1, got 1 and 0"),
    ):
        with pytest.raises(ValueError, match=message):
            suite(*arguments, **options)


@each
def test_what_cannot_be_played_is_refused(suite: Suite) -> None:
    environment = suite()
    zeros = np.zeros(environment.action_space.shape)
    with pytest.raises(ResetNeeded):
        environment.step(zeros)
    for seed in (-1, [0, 1]):
        with pytest.raises(ValueError, match=r"seed is one whole number or 1"):
            environment.reset(seed=seed)
    with pytest.raises(ValueError, match=r"takes no options, got \['frames'\]"):
        environment.reset(options={"frames": 0})
    environment.reset(seed=0)
    with pytest.raises(ValueError, match=r"lie in -1 .. 1, got 1.5 .. 1.5; clip them"):
        environment.step(zeros + 1.5)
    for actions in (zeros[:, 1:], zeros[0], zeros.astype(int), zeros + np.nan):
        with pytest.raises(ValueError, match=r"\(1, \d\) floats|lie in -1"):
            environment.step(actions)
    environment.close()
    with pytest.raises(ClosedEnvironmentError):
        environment.reset(seed=0)


@each
def test_importing_does_not_import_the_simulator_and_without_it_the_error_says_what_to_install(suite: Suite) -> None:
    code = (
        f"import sys, {suite.kind.__module__} as module; assert 'mujoco' not in sys.modules;"
        f"sys.modules[{suite.package!r}] = None; module.{suite.kind.__name__}({suite.task!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip().splitlines()[-1].endswith("pip install 'trimtab[robots]'")


@pytest.mark.parametrize(
    ("suite", "task"), [(METAWORLD, "coffee-push"), (CONTROL, "walker-walk"), (CONTROL, "dog-walk")]
)
def test_sixty_frames_a_second_are_rendered(suite: Suite, task: str) -> None:
    """In seconds of the processor's time, which others who use the machine take less from."""
    environment = suite(task)
    environment.reset(seed=0)
    rates = []
    for _ in range(4):
        begun = time.process_time()
        for _ in range(20):
            environment._copies[0].frame()
        rates.append(20 / (time.process_time() - begun))
    environment.close()
    assert max(rates) >= 60
