"""Soft actor-critic learns, goes on where it stopped, and leaves a policy that is what it learned; nothing is rendered."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from trimtab.networks import storage
from trimtab.recipes.experts.actor import Actor, load
from trimtab.recipes.experts.soft_actor_critic import forecast, learner, restore, tensors_of, train

SMALL: dict[str, Any] = {"width": 16, "batch_size": 32, "learning_rate": 1e-2, "num_random_steps": 20}


class Mirror(gymnasium.Env[np.ndarray, np.ndarray]):
    """Ten steps: a number is shown, and its opposite is the best action, worth 1."""

    def __init__(self, dim: int = 2) -> None:
        self.observation_space, self.action_space = (
            Box(-np.inf, np.inf, (dim,), np.float32),
            Box(-1, 1, (dim,), np.float32),
        )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.steps = 0
        return self.show(), {}

    def show(self) -> np.ndarray:
        self.shown = self.np_random.uniform(-0.8, 0.8, self.observation_space.shape).astype(np.float32)
        return self.shown

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        reward = 1 - float(np.abs(action + self.shown).mean())
        self.steps += 1
        return self.show(), reward, False, self.steps == 10, {}


def test_it_learns_and_the_policy_is_what_was_learned(tmp_path: Path) -> None:
    actor = train(Mirror(), 300, folder=tmp_path, seed=1, **SMALL)
    states = np.random.default_rng(0).uniform(-0.8, 0.8, (200, 2)).astype(np.float32)
    assert np.abs(actor.act(states) + states).mean() < 0.15  # random actions are 0.6 away
    model = learner(Mirror(), seed=1, **SMALL)
    restore(model, tmp_path / "state.safetensors")
    np.testing.assert_allclose(actor.act(states), model.predict(states, deterministic=True)[0], atol=1e-6)
    returns = [line.split('"return": ')[1] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert len(returns) == 30
    actor.save(tmp_path / "policy.safetensors", {"task": "mirror"})
    again, facts, checksum = load(tmp_path / "policy.safetensors")
    assert np.array_equal(again.act(states), actor.act(states))
    assert facts == {"task": "mirror"}
    assert len(checksum) == 64


def test_a_second_piece_begins_where_the_first_ended(tmp_path: Path) -> None:
    train(Mirror(), 40, folder=tmp_path, **SMALL)
    tensors, counters = storage.read(tmp_path / "state.safetensors")
    model = learner(Mirror(), **SMALL)
    restore(model, tmp_path / "state.safetensors")
    found = tensors_of(model)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert found["memory/actions"].shape == (40, 1, 2)
    assert found["actor.optimizer/0/step"] == 40 - SMALL["num_random_steps"]
    assert (model.num_timesteps, model.replay_buffer.pos) == (counters["step"], counters["place"]) == (40, 40)

    train(Mirror(), 70, folder=tmp_path, **SMALL)
    after, counters = storage.read(tmp_path / "state.safetensors")
    assert counters["step"] == 70
    assert [line["step"] for line in counters["log"]] == [10, 20, 30, 40, 50, 60, 70]
    assert torch.equal(after["memory/actions"][:40], tensors["memory/actions"])
    assert after["actor.optimizer/0/step"] == 70 - SMALL["num_random_steps"]
    before = (tmp_path / "state.safetensors").stat().st_mtime_ns
    train(Mirror(), 70, folder=tmp_path, **SMALL)  # nothing is left to do
    assert (tmp_path / "state.safetensors").stat().st_mtime_ns == before


def test_an_interrupted_piece_keeps_what_was_done(tmp_path: Path) -> None:
    class Stopped(Mirror):
        def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
            if self.np_random.random() < 0.02:
                raise KeyboardInterrupt
            return super().step(action)

    with pytest.raises(KeyboardInterrupt):
        train(Stopped(), 10_000, folder=tmp_path, **SMALL)
    _, counters = storage.read(tmp_path / "state.safetensors")
    assert 0 < counters["step"] < 1000
    train(Mirror(), counters["step"] + 5, folder=tmp_path, **SMALL)
    assert storage.read(tmp_path / "state.safetensors")[1]["step"] == counters["step"] + 5


def test_what_is_remembered_wraps_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimtab.recipes.experts.soft_actor_critic.MEMORY", 25)
    train(Mirror(), 40, folder=tmp_path, **SMALL)
    model = learner(Mirror(), **SMALL)
    restore(model, tmp_path / "state.safetensors")
    assert model.replay_buffer.full
    assert model.replay_buffer.pos == 15


def test_a_forecast_counts_what_is_remembered(tmp_path: Path) -> None:
    train(Mirror(), 90, folder=tmp_path, **SMALL)
    tensors, _ = storage.read(tmp_path / "state.safetensors")
    needs = forecast(Mirror(), 90, **SMALL)
    assert needs.disk == sum(value.nbytes for value in tensors.values())
    assert needs.steps == 90
    assert needs.seconds > 0


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    for wrong in ({"width": 0}, {"batch_size": 0}, {"learning_rate": 0.0}, {"num_random_steps": 0}, {"seed": -1}):
        with pytest.raises(ValueError, match="training needs width"):
            learner(Mirror(), **{**SMALL, **wrong})
    train(Mirror(), 25, folder=tmp_path, **SMALL)
    with pytest.raises(ValueError, match="other states or actions"):
        train(Mirror(3), 50, folder=tmp_path, **SMALL)
    with pytest.raises(ValueError, match="holds no policy"):
        load(tmp_path / "state.safetensors")
    with pytest.raises(ValueError, match=r"states are \(n, 4\), got \(2, 3\)"):
        Actor(4, 2, 8).act(np.zeros((2, 3), np.float32))
    data = bytearray((tmp_path / "state.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "state.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match="damaged"):
        train(Mirror(), 50, folder=tmp_path, **SMALL)
