"""A policy is trained on a task of DeepMind Control, measured, and recorded as it plays."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trimtab.data.clips import Clips
from trimtab.data.episodes import Episodes
from trimtab.environments.dmc import DMC, DMCStates
from trimtab.environments.looks import Look
from trimtab.metrics.intervals import Interval
from trimtab.recipes.dmc_policy import EVALUATION_SEED, dmc_policy
from trimtab.recipes.experts.actor import load
from trimtab.recipes.record_dmc import dmc_episodes, record_dmc

pytestmark = pytest.mark.slow  # and needs libEGL, which not every machine has

TINY: dict[str, Any] = {"task": "cartpole-swingup", "action_repeat": 8, "max_episode_steps": 10}
TINY |= {"width": 8, "batch_size": 8, "num_random_steps": 10, "num_evaluations": 2}


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    dmc_policy(**TINY, num_steps=20, output=tmp_path / "run")
    return tmp_path / "run" / "policy.safetensors"


def test_a_policy_comes_with_its_return_beside_that_of_random_actions(
    policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = json.loads((policy.parent / "results.json").read_text())
    actor, facts, checksum = load(policy)
    assert facts == results
    environment, returns = DMCStates("cartpole-swingup", action_repeat=8, max_episode_steps=10), []
    for number in range(2):
        state, _ = environment.reset(seed=EVALUATION_SEED + number)
        total, over = 0.0, False
        while not over:
            state, reward, _, over, _ = environment.step(actor.act(state[None])[0])
            total += reward
        returns.append(total)
    assert results["mean_return"]["trained"]["mean"] == pytest.approx(np.mean(returns))
    assert Interval(**results["mean_return"]["random"]).num_clips == 2

    dmc_policy(**TINY, num_steps=30, output=policy.parent)  # goes on
    assert load(policy)[1]["num_steps"] == 30
    assert load(policy)[2] != checksum
    with pytest.raises(ValueError, match="holds a run with other settings"):
        dmc_policy(**{**TINY, "width": 16}, num_steps=30, output=policy.parent)
    dmc_policy(**TINY, num_steps=1000, dry_run=True, output=policy.parent / "none")
    assert "cartpole-swingup will need: memory" in capsys.readouterr().out
    assert not (policy.parent / "none").exists()
    with pytest.raises(ValueError, match="num_evaluations >= 2"):
        dmc_policy(num_evaluations=1)


def test_a_recorded_set_holds_what_was_played(policy: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"num_episodes": 3, "random_share": 0.3, "seed": 5, "num_looks": 2, "first_look": 1}
    episodes = dmc_episodes(policy, **settings, output=tmp_path / "set")
    actor, facts, checksum = load(policy)
    assert episodes.frame_rate == pytest.approx(12.5)
    assert episodes.levels.tolist() == [5, 7, 6]
    assert set(episodes.tasks) == {"swing up the pole on the cart"}
    assert not episodes.ended.any()
    assert episodes.successes is None
    assert episodes.states is not None
    of_policy = []
    for number, look in ((0, Look(1)), (1, Look(1)), (2, Look(2))):
        frames, actions = episodes.episode(number)
        states = episodes.states[episodes.starts[number] :][: len(frames)]
        environment = DMC("cartpole-swingup", look=look, action_repeat=8, max_episode_steps=10)
        seen, told = environment.reset(seed=int(episodes.levels[number]))
        total = 0.0
        for step, (frame, action, state) in enumerate(zip(frames, actions, states, strict=True)):
            assert np.array_equal(seen[0], frame)
            assert np.array_equal(told["state"][0], state)
            of_policy.append(np.array_equal(actor.act(told["state"])[0], action))
            if step < len(frames) - 1:
                seen, rewards, *_, told = environment.step(action[None])
                total += rewards[0]
        assert total == pytest.approx(episodes.provenance["returns"][number])
        environment.close()
    assert len(of_policy) == 33
    assert np.mean(of_policy) == pytest.approx(0.7, abs=0.2)
    assert episodes.provenance["policy_checksum"] == checksum
    assert episodes.provenance["policy"] == facts
    assert Clips(episodes, 2, 4).batch([0]).given.actions is not None

    again = dmc_episodes(policy, **settings, output=tmp_path / "again")
    assert np.array_equal(again.frames, episodes.frames)
    assert np.array_equal(again.actions, episodes.actions)


def test_a_set_is_reused_when_asked_again_and_never_mixed(
    policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings: dict[str, Any] = {"policy": policy, "num_episodes": 1, "max_episode_steps": 3, "output": tmp_path / "set"}
    record_dmc(**settings)
    record_dmc(**settings)
    said = capsys.readouterr().out
    assert said.count("reusing") == 1
    assert said.count("of 3 steps an episode") == 2
    assert Episodes.open(tmp_path / "set").lengths.tolist() == [4]
    with pytest.raises(ValueError, match=r"random_share 0.0, not 0.7"):
        record_dmc(**{**settings, "random_share": 0.7})
    for wrong in ({"num_episodes": 0}, {"random_share": 1.2}, {"random_hold": 0}, {"size": 100}, {"camera": "top"}):
        with pytest.raises(ValueError, match=r"recording needs|pixels a side|no camera 'top'"):
            record_dmc(**{**settings, **wrong, "output": tmp_path / "wrong"})
    assert not (tmp_path / "wrong").exists()
