"""DeepMind Control is seeded bit for bit, the same with and without a camera, and a sound Gymnasium vector environment."""

from typing import Any

import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env

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
    suite = import_suite()
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


@pytest.mark.parametrize("task", ["walker-walk", "humanoid-walk", "reacher-easy"])
def test_states_are_those_of_the_suite_with_a_camera_and_without(task: str) -> None:
    """Repeats are summed; and neither rendering nor a look changes what happens."""
    suite = import_suite()
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


@pytest.mark.parametrize("bad", [np.full(1, 1.01), np.full(1, np.nan), np.zeros(2), np.zeros((1, 1)), np.array(0.0)])
def test_actions_that_do_not_fit_are_refused_and_play_nothing(bad: np.ndarray) -> None:
    environment = DMCStates("cartpole-swingup", max_episode_steps=1)
    environment.reset(seed=0)
    with pytest.raises(
        ValueError, match=r"actions lie in -1 \.\. 1, got 1.01|no finite numbers|an action is \(1,\) numbers, got"
    ):
        environment.step(bad)
    assert environment.step(np.ones(1))[3]  # the episode's only step was still to come


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


def test_tasks_of_several_bodies_are_refused() -> None:
    with pytest.raises(ValueError, match="tasks walker-walk, hopper-hop differ in states"):
        DMC(["walker-walk", "hopper-hop"])


def test_there_is_no_success_to_know_of() -> None:
    environment = DMC("walker-walk")
    _, facts = environment.reset(seed=0)
    environment.close()
    assert "success" not in facts
