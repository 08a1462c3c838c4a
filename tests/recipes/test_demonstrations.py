"""An episode is what was played, row by row, and random actions take the expert's place as often as they shall."""

from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box
from gymnasium.vector import VectorEnv

from trimtab.recipes.experts.demonstrations import play


class Line(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """A point that moves by its action; frames show the number of the step; done beyond 3 if that is known."""

    num_envs = 1
    single_action_space = Box(-1, 1, (2,), np.float32)
    action_space = Box(-1, 1, (1, 2), np.float32)

    def __init__(self, num_steps: int, knows_success: bool) -> None:
        self.num_steps, self.knows_success = num_steps, knows_success

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        self.place, self.step_number = np.full((1, 2), float(seed), np.float32), 0
        return self.seen()

    def seen(self) -> tuple[np.ndarray, dict[str, Any]]:
        facts = {"state": self.place.copy()} | ({"success": self.place[:, 0] > 3} if self.knows_success else {})
        return np.full((1, 4, 4, 3), self.step_number, np.uint8), facts

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        self.place, self.step_number = self.place + actions, self.step_number + 1
        frames, facts = self.seen()
        ended = facts.get("success", np.zeros(1, bool))
        return frames, actions.sum(1), ended, np.array([self.step_number == self.num_steps]), facts


def expert(facts: dict[str, Any]) -> np.ndarray:
    """One to the right, and as far up as it is below 0.5."""
    return np.stack([np.ones(1), np.clip(0.5 - facts["state"][:, 1], -1, 1)], axis=1).astype(np.float32)


def test_rows_are_what_was_seen_and_done_there() -> None:
    episode = play(Line(10, knows_success=True), expert, "line", 1)
    assert episode.frames[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert episode.states[:, 0].tolist() == [1, 2, 3, 4]
    assert episode.successes is not None
    assert episode.successes.tolist() == [False, False, False, True]
    assert np.array_equal(np.diff(episode.states, axis=0), episode.actions[:-1])
    assert np.array_equal(episode.rewards, episode.actions[:-1].sum(1))
    assert np.array_equal(episode.actions[-1], expert({"state": episode.states[-1:]})[0])  # chosen, but not played
    assert episode.ended
    cut = play(Line(2, knows_success=False), expert, "line", 1)
    assert cut.successes is None
    assert len(cut.frames) == 3
    assert not cut.ended


@pytest.mark.parametrize("hold", [1, 5])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_random_actions_take_their_share_and_are_held(share: float, hold: int) -> None:
    def played(task: str = "line", seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        episode = play(Line(999, knows_success=False), expert, task, seed, random_share=share, random_hold=hold)
        told = np.array([expert({"state": state[None]})[0] for state in episode.states])
        return episode.actions, (episode.actions == told).all(1)

    actions, by_expert = played()
    choices = by_expert.reshape(-1, hold)
    assert (choices.all(1) | ~choices.any(1)).all()  # a choice stands for so many steps
    assert 1 - choices[:, 0].mean() == pytest.approx(share, abs=0.1)
    held = actions.reshape(-1, hold, 2)[~choices[:, 0]]
    assert (held == held[:, :1]).all()
    assert np.array_equal(actions, played()[0])
    if share:
        assert np.abs(held.mean((0, 1))).max() < 0.2
        assert not np.array_equal(actions, played(seed=1)[0])
        assert not np.array_equal(actions, played(task="other")[0])


def test_an_episode_led_astray_begins_where_random_actions_led_and_is_the_experts_from_there() -> None:
    begins = []
    for seed in range(12):
        episode = play(Line(99, knows_success=False), expert, "line", seed, astray=True)
        again = play(Line(99, knows_success=False), expert, "line", seed, astray=True)
        assert np.array_equal(episode.states, again.states)
        told = np.array([expert({"state": state[None]})[0] for state in episode.states])
        assert np.array_equal(episode.actions, told)
        begins.append(episode.states[0] - seed)
    x, y = np.array(begins).T
    assert x.max() > 3  # some of the way was the expert's
    assert np.abs(y).max() > 0.6  # beyond where the expert leads
    assert len(set(x.tolist())) == 12


def test_an_episode_led_astray_does_not_begin_done() -> None:
    """It is done beyond 3, and twelve steps of the expert's lead to 12."""
    for task in "abcdefgh":
        episode = play(Line(99, knows_success=True), expert, task, 0, astray=True)
        assert episode.successes is not None
        assert not episode.successes[0]
