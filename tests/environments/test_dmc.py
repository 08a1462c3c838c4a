"""DeepMind Control is seeded bit for bit, the same with and without a camera, and a sound Gymnasium vector environment."""

import hashlib
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from gymnasium.wrappers.vector import DictInfoToList, RecordEpisodeStatistics

from trimtab.environments.dmc import DMC, TEXTS, DMCStates, import_suite
from trimtab.environments.looks import Look

pytestmark = pytest.mark.slow  # and needs libEGL, which not every machine has

DOMAINS = {task.split("-")[0]: task for task in TEXTS}


def first_frame(task: str = "walker-walk", seed: int = 3, **options: Any) -> np.ndarray:
    environment = DMC(task, **options)
    frames, _ = environment.reset(seed=seed)
    environment.close()
    return frames[0]


def test_every_task_is_in_the_suite_and_has_a_text_of_its_own() -> None:
    _, suite = import_suite()
    assert {tuple(task.split("-")) for task in TEXTS} <= set(suite.ALL_TASKS)
    assert len(set(TEXTS.values())) == len(TEXTS) >= 15


@pytest.mark.parametrize("task", DOMAINS.values())
def test_a_seed_gives_the_same_frames_whatever_was_played_before(task: str) -> None:
    def play(environment: DMC) -> list[np.ndarray]:
        random = np.random.default_rng(0)
        first, facts = environment.reset(seed=3)
        film, states = [first], [facts["state"]]
        for _ in range(12):  # into the next episode
            frames, *_, facts = environment.step(random.uniform(-1, 1, environment.action_space.shape))
            film.append(frames)
            states.append(facts["state"])
        return [np.stack(film), np.stack(states)]

    environment = DMC(task, 2, max_episode_steps=8)
    film, states = play(environment)
    assert np.isfinite(states).all()
    assert not np.array_equal(states[0, 0], states[0, 1])
    assert not np.array_equal(states[0], states[9])  # of another episode
    environment.reset(seed=8)
    for _ in range(5):
        environment.step(np.ones(environment.action_space.shape))
    again, same_states = play(environment)
    assert np.array_equal(film, again)
    assert np.array_equal(states, same_states)
    environment.close()


def test_another_process_sees_the_same_and_complains_of_nothing() -> None:
    code = (
        "import hashlib; from trimtab.environments.dmc import DMC\n"
        "frames, _ = DMC('walker-walk').reset(seed=3); print(hashlib.sha256(frames[0].tobytes()).hexdigest())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == hashlib.sha256(first_frame().tobytes()).hexdigest()
    assert done.stderr == ""  # though it was not closed


@pytest.mark.parametrize("task", ["walker-walk", "humanoid-walk", "reacher-easy"])
def test_states_are_those_of_the_suite_with_a_camera_and_without(task: str) -> None:
    """Repeats are summed; and neither rendering nor a look changes what happens."""
    _, suite = import_suite()
    theirs, ours = suite.load(*task.split("-")), DMCStates(task, action_repeat=3)
    seen = DMC(task, action_repeat=3, look=Look(1))
    state, _ = ours.reset(seed=5)
    frames, facts = seen.reset(seed=5)
    theirs.task.random.seed(int(np.random.default_rng(5).integers(2**32)))
    now, random = theirs.reset(), np.random.default_rng(0)
    for _ in range(20):
        expected = np.concatenate([np.ravel(one) for one in now.observation.values()]).astype(np.float32)
        assert np.array_equal(state, expected)
        assert np.array_equal(facts["state"][0], expected)
        action = random.uniform(-1, 1, ours.action_dim).astype(np.float32)
        state, reward, terminated, truncated, _ = ours.step(action)
        frames, rewards, *_, facts = seen.step(action[None])
        total = 0.0
        for _ in range(3):
            now = theirs.step(action.astype(np.float64))
            total += now.reward
        assert reward == rewards[0] == pytest.approx(total)
        assert not terminated | truncated
    assert frames.shape == (1, 64, 64, 3)
    seen.close()


def test_actions_reach_from_end_to_end_of_what_the_actuators_take() -> None:
    environment = DMCStates("quadruped-walk")
    spec = environment.simulator.action_spec()
    assert spec.minimum.min() == -1
    assert spec.maximum.max() == 1.1
    for action, expected in ((-1.0, spec.minimum), (1.0, spec.maximum), (0.0, (spec.minimum + spec.maximum) / 2)):
        environment.reset(seed=0)
        environment.step(np.full(environment.action_dim, action, np.float32))
        np.testing.assert_allclose(environment.simulator.physics.control(), expected, atol=1e-12)


@pytest.mark.parametrize("task", ["humanoid-walk", "dog-walk", "cheetah-run"])
def test_a_still_start_is_the_same_for_every_seed_and_at_rest(task: str) -> None:
    states = []
    for still in (True, False):
        environment = DMCStates(task, still=still)
        states.append([environment.reset(seed=seed)[0] for seed in (0, 1)])
        if still:
            assert not environment.simulator.physics.velocity().any()
    assert np.array_equal(*states[0])
    assert not np.array_equal(*states[1])
    assert not np.array_equal(states[0][0], states[1][0])


def test_states_are_a_gymnasium_environment() -> None:
    environment = DMCStates("cartpole-swingup", max_episode_steps=3)
    check_env(environment, skip_render_check=True)
    environment.reset(seed=0)
    assert [environment.step(np.zeros(1, np.float32))[3] for _ in range(3)] == [False, False, True]
    with pytest.raises(ResetNeeded):
        environment.step(np.zeros(1, np.float32))


@pytest.mark.parametrize("size", [64, 128])
def test_shapes_and_spaces(size: int) -> None:
    environment = DMC(["walker-walk", "walker-run"], size=size, action_repeat=4, max_episode_steps=3)
    assert environment.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    assert environment.metadata["render_fps"] == environment.frame_rate == 10
    assert environment.observation_space == batch_space(environment.single_observation_space, 2)
    assert environment.action_space == batch_space(environment.single_action_space, 2)
    frames, facts = environment.reset(seed=0)
    environment.action_space.seed(0)
    for step in range(3):
        assert frames.shape == (2, size, size, 3)
        assert environment.observation_space.contains(frames)
        assert np.array_equal(environment.render(), frames)
        assert facts["state"].shape == (2, 24)
        assert facts["state"].dtype == np.float32
        assert "success" not in facts
        assert facts["text"].tolist() == ["a robot walking on two legs", "a robot running on two legs"]
        frames, rewards, terminated, truncated, facts = environment.step(environment.action_space.sample())
        assert [values.shape for values in (rewards, terminated, truncated)] == [(2,)] * 3
        assert ((rewards >= 0) & (rewards <= 4)).all()
        assert (truncated == (step == 2)).all()
        assert not terminated.any()
    environment.close()


def test_an_episode_that_is_over_gives_way_to_the_next() -> None:
    environment = DictInfoToList(RecordEpisodeStatistics(DMC("reacher-easy", 2, max_episode_steps=4)))
    first, facts = environment.reset(seed=0)
    assert [fact["seed"] for fact in facts] == [0, 1]
    for _ in range(4):
        *_, truncated, facts = environment.step(np.ones((2, 2), np.float32))
    assert truncated.all()
    assert [fact["episode"]["l"] for fact in facts] == [4, 4]
    frames, rewards, _, truncated, facts = environment.step(np.ones((2, 2), np.float32))
    assert not truncated.any()
    assert not rewards.any()
    assert [fact["episode_number"] for fact in facts] == [1, 1]
    assert not np.array_equal(frames, first)
    again, _ = environment.reset(seed=0)
    assert np.array_equal(again, first)
    following, _ = environment.reset()
    assert np.array_equal(following, frames)
    environment.close()


@pytest.mark.parametrize("task", ["walker-walk", "cartpole-swingup"])  # whose camera follows the body, and stands still
def test_looks_are_functions_of_their_seed(task: str) -> None:
    own = first_frame(task)
    assert np.array_equal(first_frame(task, look=Look.plain()), own)
    assert np.array_equal(first_frame(task, look=Look(0)), first_frame(task, look=Look(0)))
    nothing = {"turn": 0.0, "tilt": 0.0, "distance": 0.0, "colours": 0.0, "lights": 0.0}
    same = first_frame(task, look=Look(0, **nothing))
    assert np.array_equal(same[48:], own[48:])  # below the sky, whose shades any look makes one colour
    for change in ({"turn": 20.0}, {"tilt": 8.0}, {"distance": 0.2}, {"colours": 0.8}, {"lights": 0.5}):
        assert not np.array_equal(first_frame(task, look=Look(0, **{**nothing, **change})), same)


def test_cameras_show_other_views() -> None:
    side, back = first_frame(camera="side"), first_frame(camera="back")
    assert np.array_equal(side, first_frame())
    assert not np.array_equal(side, back)
    with pytest.raises(ValueError, match="no camera 'top' in this task; the cameras are side, back"):
        DMC("walker-walk", camera="top")


def test_wrong_arguments_are_refused() -> None:
    for arguments, options, message in (
        (("walker-fly",), {}, "no task 'walker-fly'; the tasks are ball_in_cup-catch"),
        ((["worker-walk", "walker-walk"],), {}, "no task 'worker-walk'"),
        (("walker-walk",), {"size": 100}, r"\(64, 128\) pixels a side, got 100"),
        (("walker-walk", 0), {}, "num_envs >= 1"),
        ((["walker-walk"], 2), {}, "one for each of num_envs"),
        ((["walker-walk", "hopper-hop"],), {}, "tasks walker-walk, hopper-hop differ in states"),
        (("walker-walk",), {"action_repeat": 0}, ">= 1, got 0 and 500"),
    ):
        with pytest.raises(ValueError, match=message):
            DMC(*arguments, **options)

    environment = DMC("cartpole-swingup")
    with pytest.raises(ResetNeeded):
        environment.step(np.zeros((1, 1)))
    for seed in (-1, [0, 1]):
        with pytest.raises(ValueError, match=r"seed is one whole number or 1"):
            environment.reset(seed=seed)
    with pytest.raises(ValueError, match=r"takes no options, got \['frames'\]"):
        environment.reset(options={"frames": 0})
    environment.reset(seed=0)
    with pytest.raises(ValueError, match=r"lie in -1 .. 1, got 1.5 .. 1.5; clip them"):
        environment.step(np.array([[1.5]]))
    for actions in (np.zeros((1, 2)), np.zeros(1), np.zeros((1, 1), int), np.full((1, 1), np.nan)):
        with pytest.raises(ValueError, match=r"\(1, 1\) floats|lie in -1"):
            environment.step(actions)
    environment.close()
    with pytest.raises(ClosedEnvironmentError):
        environment.reset(seed=0)


def test_importing_does_not_import_the_simulator_and_without_it_the_error_says_what_to_install() -> None:
    code = (
        "import sys, trimtab.environments.dmc as module; assert 'mujoco' not in sys.modules;"
        "sys.modules['dm_control'] = None; module.DMC('walker-walk')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip().splitlines()[-1].endswith("pip install 'trimtab[robots]'")


@pytest.mark.parametrize("task", ["walker-walk", "dog-walk"])
def test_sixty_frames_a_second_are_rendered(task: str) -> None:
    """In seconds of the processor's time, which others who use the machine take less from."""
    environment = DMC(task)
    environment.reset(seed=0)
    rates = []
    for _ in range(4):
        begun = time.process_time()
        for _ in range(20):
            environment._views[0].frame()
        rates.append(20 / (time.process_time() - begun))
    environment.close()
    assert max(rates) >= 60
