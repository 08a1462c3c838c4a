"""Procgen is seeded, takes only valid actions, and its actions do in coinrun what `COINRUN_EFFECTS` says."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trimtab.data.recording import describe_play
from trimtab.environments.procgen import (
    ACTION_NAMES,
    COINRUN_EFFECTS,
    COINRUN_WEIGHTS,
    GAMES,
    NUM_ACTIONS,
    Procgen,
    StickyPolicy,
    UniformPolicy,
)
from trimtab.recipes.record_procgen import procgen_episodes


def test_the_names() -> None:
    assert len(GAMES) == len(set(GAMES)) == 16
    assert len(ACTION_NAMES) == len(COINRUN_EFFECTS) == NUM_ACTIONS == 15


def test_same_seed_same_play() -> None:
    def play(seed: int) -> tuple[np.ndarray, np.ndarray]:
        environment, policy = Procgen("coinrun", 3, 10, 20, seed), StickyPolicy(seed)
        seen = []
        for _ in range(40):
            seen.append(environment.observe())
            environment.act(policy.act(seen[-1][0]))
        frames, first, levels = (np.stack(part) for part in zip(*seen, strict=True))
        assert frames.shape == (40, 3, 64, 64, 3)
        assert frames.dtype == np.uint8
        assert first[0].all()
        assert levels.min() >= 10
        assert levels.max() < 30
        return frames, levels

    frames, levels = play(1)
    assert np.array_equal(frames, play(1)[0])
    other_frames, other_levels = play(2)
    assert not np.array_equal(levels, other_levels)
    assert not np.array_equal(frames, other_frames)


def test_restart_begins_another_episode() -> None:
    environment = Procgen("coinrun", 8, 0, 500, 0)
    environment.observe()
    stay = np.full(8, ACTION_NAMES.index("stay"))
    restart = np.arange(8) % 2 == 0
    for _ in range(3):
        environment.act(stay)
        assert not environment.observe()[1].any()
    environment.act(stay, restart)
    assert np.array_equal(environment.observe()[1], restart)


def test_wrong_arguments_are_refused() -> None:
    environment = Procgen("coinrun", 2)
    for actions in ([0, 15], [-1, 0], [0.0, 1.0], [0], [[0, 1]], [True, False]):
        with pytest.raises(ValueError, match=r"0\.\.14"):
            environment.act(np.array(actions))
    with pytest.raises(ValueError, match="restart is"):
        environment.act(np.array([0, 1]), np.array([0, 1]))
    with pytest.raises(ValueError, match="the games are bigfish"):
        Procgen("pong")
    with pytest.raises(ValueError, match="num_levels >= 1"):
        Procgen("coinrun", num_levels=0)
    with pytest.raises(ValueError, match="15 numbers"):
        StickyPolicy(weights=(1.0, 2.0))
    with pytest.raises(ValueError, match="at least one frame"):
        StickyPolicy(mean_hold=0.5)


def test_opening_is_silent_and_importing_does_not_import_the_simulator() -> None:
    code = (
        "import sys, trimtab.environments.procgen as procgen; assert 'procgen' not in sys.modules;"
        "procgen.Procgen('coinrun', 1).observe()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_coinrun_effects_hold_in_the_simulator() -> None:
    """From many states, each action held for five frames: one class shows one film, two classes differ somewhere."""
    num, held = 64, 5
    environment, policy = Procgen("coinrun", num, 0, 500, 0), StickyPolicy(0, COINRUN_WEIGHTS)
    same = np.ones((NUM_ACTIONS, NUM_ACTIONS), dtype=bool)
    for _ in range(4):
        for _ in range(25):
            environment.act(policy.act(environment.observe()[0]))
        states = environment.save()
        films = []
        for action in range(NUM_ACTIONS):
            environment.restore(states)
            film = []
            for _ in range(held):
                environment.act(np.full(num, action))
                film.append(environment.observe()[0])
            films.append(np.stack(film))
        environment.restore(states)
        same &= np.array([[np.array_equal(one, other) for other in films] for one in films])
    effects = np.array(COINRUN_EFFECTS)
    assert np.array_equal(same, effects[:, None] == effects[None, :])


def test_sticky_policy_does_what_it_says() -> None:
    policy = StickyPolicy(0, COINRUN_WEIGHTS, mean_hold=4.0)
    seen = np.zeros((200, 1))
    played = np.stack([policy.act(seen) for _ in range(500)])
    assert np.bincount(played.ravel(), minlength=NUM_ACTIONS) / played.size == pytest.approx(policy.weights, abs=0.01)
    change = (played[1:] != played[:-1]).mean()
    assert change == pytest.approx((1 - (policy.weights**2).sum()) / 4, rel=0.03)
    policy.reset()
    assert np.array_equal(policy.act(seen), played[0])
    uniform = UniformPolicy(0)
    played = np.stack([uniform.act(seen) for _ in range(200)])
    assert (played[1:] != played[:-1]).mean() == pytest.approx(14 / 15, abs=0.01)


def test_sticky_play_gets_further_than_uniform_play(tmp_path: Path) -> None:
    facts = {}
    for policy in ("uniform", "sticky"):
        episodes = procgen_episodes(num_frames=4800, num_environments=32, policy=policy, output=tmp_path / policy)
        facts[policy] = describe_play(episodes, COINRUN_EFFECTS)
        assert np.count_nonzero(episodes.stats["action"]["histogram"]) == NUM_ACTIONS
    assert facts["sticky"]["share_ended"] > 2 * facts["uniform"]["share_ended"]
    assert facts["sticky"]["num_levels"] > facts["uniform"]["num_levels"]
    assert min(facts["sticky"]["share_of_effects"]) > 0.04
    assert facts["uniform"]["share_of_effects"][4] > 0.4
    assert facts["sticky"]["share_of_effects"][4] < 0.16


def test_recording_is_the_same_twice_reused_when_asked_again_and_never_mixed(tmp_path: Path) -> None:
    def ask(name: str, seed: int = 0) -> tuple[Path, dict[str, str]]:
        episodes = procgen_episodes(num_frames=300, num_environments=4, seed=seed, output=tmp_path / name)
        checksums = episodes.provenance["checksums"]
        return episodes.folder, {file: checksums[file] for file in checksums if file.startswith("data/")}

    folder, first = ask("one")
    written = (folder / "meta/provenance.json").stat().st_mtime_ns
    assert ask("two")[1] == first
    assert ask("one") == (folder, first)
    assert (folder / "meta/provenance.json").stat().st_mtime_ns == written
    with pytest.raises(ValueError, match="seed 0, not 1"):
        ask("one", seed=1)
    assert ask("three", seed=1)[1] != first


def test_of_two_that_ask_at_once_one_records_and_the_other_waits(tmp_path: Path) -> None:
    ask = (
        "from pathlib import Path; from trimtab.recipes.record_procgen import procgen_episodes\n"
        f"procgen_episodes(num_frames=2000, num_environments=4, output=Path({str(tmp_path / 'set')!r}))"
    )
    both = [subprocess.Popen([sys.executable, "-c", ask], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum("reusing" in text for text in said) == 1
