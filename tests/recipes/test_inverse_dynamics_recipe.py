"""Inverse dynamics from recorded set to results at toy size; nothing is rendered."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trimtab import forecast
from trimtab.control.inverse_dynamics import InverseDynamics, load
from trimtab.data.clips import Clips
from trimtab.data.episodes import Episodes, EpisodeWriter
from trimtab.diffusion.noise import gaussian_noise, generator
from trimtab.diffusion.sampling import start_noise
from trimtab.priors import pixel_unet
from trimtab.recipes import inverse_dynamics as recipe
from trimtab.recipes._held import from_bytes
from trimtab.recipes.inverse_dynamics import (
    Reading,
    answers,
    displaced_alike,
    errors_on_generated,
    facts_of,
    inverse_dynamics,
)
from trimtab.recipes.reading.drawn import Films, believed, clips_for, drawn_anew
from trimtab.recipes.reading.pairs import REACH, commanded, divided, errors, moved, pair

LENGTHS = (5, 7, 4, 6, 5, 1)


@pytest.fixture
def episodes(tmp_path: Path) -> Episodes:
    return record(tmp_path / "set", seed=0)


def record(folder: Path, seed: int, action_repeat: int | None = 4, **provenance: Any) -> Episodes:
    """Frames of one grey each, which the first number of the action changes."""
    random = np.random.default_rng(seed)
    with EpisodeWriter(
        folder,
        frame_rate=40.0,
        action_dim=4,
        provenance={"environment": "grey", "action_repeat": action_repeat, **provenance},
    ) as writer:
        for level, length in enumerate(LENGTHS):
            actions = random.uniform(-1, 1, (length, 4)).astype(np.float32)
            grey = 128 + 16 * np.concatenate([[0], np.cumsum(actions[:-1, 0])])
            frames = np.broadcast_to(grey[:, None, None, None], (length, 16, 16, 3)).astype(np.uint8)
            place = (
                np.concatenate([[[0, 0, 0]], np.cumsum(actions[:-1, :3], 0)]) * 4 * REACH / 2
            )  # half of what was told
            state = np.concatenate([place, np.zeros((length, 1))], axis=1).astype(np.float32)
            writer.add_episode(frames, actions, state=state, level=level, task="turn grey")
    return Episodes.open(folder)


def test_whole_episodes_are_held_out(episodes: Episodes) -> None:
    train, test = divided(episodes, 0.4, 0)
    assert len(np.unique(test.episodes)) == 2
    assert not set(train.episodes) & set(test.episodes)
    assert sorted([*train.numbers, *test.numbers]) == list(range(sum(LENGTHS) - len(LENGTHS)))
    assert set(train.draw(0, 0, 200)) == set(train.numbers)
    before, after = pair(test.batch(test.numbers))
    rows = test.rows(test.numbers)
    for row, frames in ((rows, before), (rows + 1, after)):
        found = ((frames + 1) * 127.5).round().to(torch.uint8).movedim(1, -1)
        np.testing.assert_array_equal(found, episodes.frames[row])
    np.testing.assert_array_equal(test.batch(test.numbers).given.facts()["actions"][:, 0], episodes.actions[rows])
    for held_out in (0.2, 1.0):
        with pytest.raises(ValueError, match="two are needed at least"):
            divided(episodes, held_out, 0)


def test_several_sets_are_one(episodes: Episodes, tmp_path: Path) -> None:
    sets = [episodes, record(tmp_path / "other", seed=1)]
    train, test = divided(sets, 0.5, 0)
    frames, actions = (np.concatenate([getattr(some, name) for some in sets]) for name in ("frames", "actions"))
    for part in (train, test):
        before, after = pair(part.batch(part.numbers))
        done, rows = part.batch(part.numbers).given.facts()["actions"][:, 0], part.rows(part.numbers)
        for row, shown in ((rows, before), (rows + 1, after)):
            np.testing.assert_array_equal(((shown + 1) * 127.5).round().to(torch.uint8).movedim(1, -1), frames[row])
        np.testing.assert_array_equal(done, actions[rows])
        np.testing.assert_array_equal(done, commanded(sets)[rows])
        torch.testing.assert_close(part.mean_action(), done.mean(0))
    assert {0, 1} == set(train.clips.sets_of(train.numbers))


@pytest.mark.usefixtures("exact_products")
@pytest.mark.parametrize("num_sets", [1, 2])
def test_what_is_remembered_is_what_is_seen(episodes: Episodes, tmp_path: Path, num_sets: int) -> None:
    sets = [episodes, record(tmp_path / "other", seed=1)][:num_sets]
    train, _ = divided(sets, 0.4, 0)
    model, done = InverseDynamics(4, 16, 4), moved(sets)
    task, samples = Reading(model, train, done), train.draw(0, 0, 8)
    before, after = pair(train.batch(samples))
    actions = done[train.rows(samples)]
    expected = model.loss(before, after, actions)
    for _ in range(2):
        found = task(train.batch(samples), step=0, samples=torch.from_numpy(samples))
        torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3)  # float16
    assert 0 < task.is_known.sum() < len(task.is_known)
    blind = Reading(model, train, done, withheld=1.0)(train.batch(samples), step=0, samples=torch.from_numpy(samples))
    nothing = torch.zeros_like(model.see(before))
    torch.testing.assert_close(blind, model.loss(before, after, actions, (nothing, nothing)))


def test_motion_is_read_in_units_of_the_actions_that_hold_it_up(episodes: Episodes, tmp_path: Path) -> None:
    found, told = moved([episodes]), commanded([episodes])
    last = torch.from_numpy(episodes.starts + episodes.lengths - 1)
    inside = torch.ones(len(told), dtype=torch.bool)
    inside[last] = False
    torch.testing.assert_close(found[inside, :3], told[inside, :3] / 2, rtol=1e-4, atol=1e-4)
    assert not found[last, :3].any()
    assert torch.equal(found[:, 3], told[:, 3])
    with EpisodeWriter(tmp_path / "silent", frame_rate=20.0, action_dim=4, provenance={"action_repeat": 4}) as writer:
        writer.add_episode(np.zeros((3, 16, 16, 3), np.uint8), np.zeros((3, 4), np.float32))
    with pytest.raises(ValueError, match="does not tell where the hand was"):
        moved([Episodes.open(tmp_path / "silent")])


def test_both_frames_of_a_pair_are_displaced_alike() -> None:
    place = torch.arange(2 * 3 * 8 * 8).float().reshape(2, 3, 8, 8)
    before, after = displaced_alike(place, place + 1000, 2, np.random.default_rng(1))
    torch.testing.assert_close(after - before, torch.full_like(place, 1000.0))
    for row, shown in enumerate(before):
        middle = shown[:, 2:6, 2:6] - place[row, :, 2:6, 2:6]
        assert middle.unique().numel() == 1  # one displacement of a whole number of pixels
        down, right = divmod(int(middle[0, 0, 0]) + 2 * 8 + 2, 8)
        assert 0 <= down <= 4
        assert 0 <= right <= 4
    assert len({(shown - place[row])[0, 3, 3].item() for row, shown in enumerate(before)}) == 2
    assert displaced_alike(place, place, 0, np.random.default_rng(0))[0] is place


def test_the_stem_sees_frames_as_a_model_may_draw_them(episodes: Episodes, monkeypatch: pytest.MonkeyPatch) -> None:
    train, _ = divided([episodes], 0.4, 0)
    model, done = InverseDynamics(4, 16, 4, None), moved([episodes])
    asked: list[tuple[torch.Tensor, torch.Tensor]] = []

    def loss(before: torch.Tensor, after: torch.Tensor, *_: object) -> torch.Tensor:
        asked.append((before, after))
        return torch.zeros(len(before))

    monkeypatch.setattr(model, "loss", loss)
    samples = train.draw(0, 0, 64)
    before, after = pair(train.batch(samples))
    for degraded in (False, True, True):
        Reading(model, train, done, seed=3, degraded=degraded)(
            train.batch(samples), step=5, samples=torch.from_numpy(samples)
        )
    (clean_before, clean_after), (first, second), again = asked
    assert torch.equal(clean_before, before)
    assert torch.equal(clean_after, after)
    assert torch.equal(again[0], first)
    is_real = (first == before).flatten(1).all(1)
    assert 0.1 < is_real.float().mean() < 0.4
    assert not (second == after).flatten(1).all(1).any()
    noise = gaussian_noise((2, 3, 16, 16), seed=3, step=5, samples=samples.tolist())[:, 1]
    change = second - after  # of grey frames blur leaves all as it is
    spread = (change * noise).flatten(1).sum(1) / noise.square().flatten(1).sum(1)
    assert spread.min() >= -1e-6
    assert 0.005 < spread.mean() < 0.015
    assert max(first.abs().max(), second.abs().max()) <= 1


def test_errors_on_generated_frames_are_of_the_rows_that_were_drawn(
    episodes: Episodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recorded frames by hand; and a prior that draws what was recorded gets their very errors."""
    sets = [episodes, record(tmp_path / "other", seed=1)]
    train, test = divided(sets, 0.4, 0)
    model, done, prior = InverseDynamics(4, 16, 4, None).eval(), moved(sets), pixel_unet.tiny()
    assert (prior.num_context, prior.num_frames) == (2, 3)
    held = clips_for(prior, test, 64)
    frames = torch.from_numpy(np.concatenate([some.frames for some in sets])).movedim(3, 1) / 127.5 - 1
    starts = np.cumsum([0, *LENGTHS * 2])
    rows = [
        starts[episode] + window + 1 + step
        for episode in np.unique(test.episodes)
        for window in range((LENGTHS * 2)[episode] - 4)
        for step in range(3)
    ]
    of = [np.searchsorted(starts, row, side="right") - 1 for row in rows]
    mean = train.mean_action(done)
    expected = errors(model.act(frames[rows], frames[np.array(rows) + 1]), done[rows], mean, torch.tensor(of))
    found = errors_on_generated(model, prior, held, done, mean, 0)
    assert list(found) == ["recorded", *list(found)[1:3], "imagined by the prior"]
    assert len(found) == 4
    assert found["recorded"]["all"]["squared_error"]["num_clips"] == len(rows)
    for name, figures in expected.items():
        for kind, interval in figures.items():
            for part, value in interval.items():
                assert found["recorded"][name][kind][part] == pytest.approx(value, rel=1e-3, abs=1e-6)
    assert found["imagined by the prior"]["x"] != found["recorded"]["x"]
    monkeypatch.setattr(recipe, "drawn_anew", lambda prior, clip, numbers, seed: {"true": clip.video})
    same = errors_on_generated(model, prior, held, done, mean, 0)
    assert same["true"] == same["recorded"]


def test_the_less_noise_a_clip_is_drawn_from_the_nearer_it_stays(episodes: Episodes) -> None:
    prior = pixel_unet.tiny()
    clips = Clips(episodes, prior.num_context, prior.num_frames)
    clip, numbers = clips.batch([0, 3]), np.array([0, 3])
    drawn = drawn_anew(prior, clip, numbers, 0)
    away = [(video - clip.video).square().mean().item() for video in drawn.values()]
    assert 0 < away[0] < away[1] < away[2]
    other = drawn_anew(prior, clips.batch([3, 0]), numbers, 0)["imagined by the prior"]
    same_context = replace(clip, video=torch.zeros_like(clip.video))
    free = drawn_anew(prior, same_context, numbers, 0)["imagined by the prior"]
    assert torch.equal(free, drawn["imagined by the prior"])  # nothing of what was recorded is left
    assert not torch.equal(other, free)


def test_films_are_what_the_prior_believes_and_what_was_done_in_them(episodes: Episodes, tmp_path: Path) -> None:
    """Frame by frame against the prior, asked one clip at a time; actions by hand."""
    sets = [episodes, record(tmp_path / "other", seed=1)]
    train, _ = divided(sets, 0.4, 0)
    prior, done = pixel_unet.tiny(), moved(sets)
    part = clips_for(prior, train, 7)
    films = believed(prior, part, done, seed=3)
    frames = np.concatenate([some.frames for some in sets])
    starts = np.cumsum([0, *LENGTHS * 2])
    windows = np.cumsum([0, *(max(0, length - 4) for length in LENGTHS * 2)])
    assert films.frames.shape == (7, 4, 3, 16, 16)
    levels = set()
    for number, of, film, actions in zip(part.numbers, part.episodes, films.frames, films.actions, strict=True):
        row = starts[of] + number - windows[of] + 1
        np.testing.assert_array_equal(film[0].movedim(0, -1), frames[row])
        torch.testing.assert_close(actions, done[row : row + 3])
        clip = part.batch(np.array([number]))
        index = torch.randint(2, 30, (1,), generator=generator(3, 0, int(number), "level"))
        level = prior.schedule.level(index)
        noise = start_noise((3, 3, 16, 16), 3, [int(number)])
        given = clip.given.without("actions")
        expected = prior.bind(given)(level.add_noise(clip.video, noise), level).as_kind("clean").tensor
        assert (film[1:].float() - (expected[0].clamp(-1, 1) + 1) * 127.5).abs().max() <= 1
        levels.add(int(index))
    assert len(levels) > 3
    before, after, did = films.pairs(50, np.random.default_rng(0))
    for one, two, action in zip(before, after, did, strict=True):
        found = (films.actions == action).all(-1).nonzero()
        assert any(
            torch.equal(from_bytes(films.frames[clip : clip + 1, step : step + 2])[0], torch.stack([one, two]))
            for clip, step in found.tolist()
        )


def test_a_share_of_the_pairs_is_of_films(episodes: Episodes, monkeypatch: pytest.MonkeyPatch) -> None:
    train, _ = divided([episodes], 0.4, 0)
    model, done = InverseDynamics(4, 16, 4, None), moved([episodes])
    asked: list[tuple[torch.Tensor, ...]] = []
    monkeypatch.setattr(model, "loss", lambda *these: asked.append(these) or torch.zeros(len(these[0])))
    black = Films(torch.zeros(2, 4, 3, 16, 16, dtype=torch.uint8), torch.full((2, 3, 4), 0.5))
    samples = train.draw(0, 0, 64)
    task = Reading(model, train, done, shift=2, seed=3, degraded=True, films=black, drawn=0.5)
    task(train.batch(samples), step=5, samples=torch.from_numpy(samples))
    before, after, actions, _ = asked[0]
    is_black = (before == -1).flatten(1).all(1)
    assert 0.35 < is_black.float().mean() < 0.65
    assert (after[is_black] == -1).all()
    assert (actions[is_black] == 0.5).all()
    torch.testing.assert_close(actions[~is_black], done[train.rows(samples)][~is_black])


def test_errors_are_those_of_the_formula() -> None:
    actions, episodes = torch.randn(40, 4), torch.arange(40) // 10
    mean = actions.mean(0)
    blind = errors(mean.expand(40, 4), actions, mean, episodes)
    assert list(blind) == ["x", "y", "z", "gripper", "all"]
    for i, figures in enumerate(blind.values()):
        assert figures["r_squared"]["mean"] == pytest.approx(0, abs=1e-6)
        assert figures["squared_error"] == figures["of_the_mean"]
        if i < 4:
            assert figures["squared_error"]["mean"] == pytest.approx(float(actions[:, i].var(correction=0)))
    half = errors((actions + mean) / 2, actions, mean, episodes)["all"]["r_squared"]
    assert half["mean"] == pytest.approx(0.75)
    assert half["low"] <= half["mean"] <= half["high"]
    assert (half["num_clips"], half["num_clusters"]) == (40, 4)


def test_recipe_leaves_a_model_with_its_errors(
    episodes: Episodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(forecast, "TRIED", 1)
    output = tmp_path / "run"
    pixel_unet.tiny().save(tmp_path / "prior.safetensors")
    sizes = {"held_out": 0.4, "num_steps": 3, "batch_size": 4, "width": 4}
    run = partial(inverse_dynamics, data=(episodes.folder,), **sizes, output=output)
    for share, named in ((0.5, None), (1.5, "tabletop")):
        with pytest.raises(ValueError, match="drawn is a share, 0 to 1, of the pairs that a prior draws"):
            run(drawn=share, imagined=named)
    with pytest.raises(ValueError, match="two episodes are needed that have the 5 frames"):
        run(imagined=str(tmp_path / "prior.safetensors"), output=tmp_path / "other")
    run(dry_run=True)
    assert json.loads((output / "forecast.json").read_text())["steps"] == 3
    assert not (output / "results.json").exists()
    run()
    printed = capsys.readouterr().out
    assert "held-out error  read off frames             the mean  R^2" in printed
    results = json.loads((output / "results.json").read_text())
    assert (results["num_train_episodes"], results["num_test_episodes"]) == (3, 2)
    assert [data["environment"] for data in results["data"]] == ["grey"]
    _, test = divided(episodes, 0.4, 0)
    read, actions = answers(load(output / "inverse_dynamics.safetensors"), test, moved([episodes]))
    expected = (read - actions).square().mean(0)
    for name, error in zip(("x", "y", "z", "gripper"), expected.tolist(), strict=True):
        assert results["held_out_error"][name]["squared_error"]["mean"] == pytest.approx(error, rel=1e-4)


def test_a_pace_is_kept_if_it_is_one_and_none_if_there_are_several(episodes: Episodes, tmp_path: Path) -> None:
    sets = [record(tmp_path / f"set-{number}", 0, repeat) for number, repeat in enumerate((4, 2, None, None))]
    assert facts_of([episodes, sets[0]]) == {"action_repeat": 4}
    assert facts_of(sets[:2]) == facts_of(sets[1:3]) == {"action_repeat": None}
    assert facts_of(sets[2:]) == {}


def test_every_look_of_the_robot_is_kept_once(tmp_path: Path) -> None:
    looks = ({"hue": 30.0}, None, {"hue": 30.0})
    sets = [record(tmp_path / f"set-{number}", 0, robot=look) for number, look in enumerate(looks)]
    assert facts_of(sets) == {"action_repeat": 4, "looks": [{"hue": 30.0}, None]}


def test_what_is_recorded_has_the_size_and_pace_that_is_asked_for(
    episodes: Episodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, int] = {}

    def play(datasets: Path, num_episodes: int, **settings: int) -> tuple[Episodes]:
        asked.update(settings)
        return (episodes,)

    monkeypatch.setattr(recipe, "play", play)
    monkeypatch.setattr(recipe, "fit_or_forecast", lambda *_, **__: None)
    inverse_dynamics(size=128, action_repeat=2, held_out=0.4, width=4, dry_run=True, output=tmp_path / "run")
    assert asked == {"size": 128, "action_repeat": 2, "max_steps": 50}


@pytest.mark.parametrize(
    ("option", "because"),
    [
        ({"held_out": 1.0}, "held_out is between 0 and 1, .* got 1.0"),
        ({"shift": -3}, "shift from 0 on .* got 0.4, -3"),
        ({"learning_rate": 0.0}, "learning_rate above 0"),
        ({"batch_size": 0}, "batch_size is at least 1, got 0"),
        ({"num_steps": 0}, "num_steps is at least 1, got 0"),
        ({"action_repeat": 2}, "are of what is recorded, and sets are given"),
    ],
)
def test_what_has_no_sense_is_refused_before_it_is_recorded(
    option: dict[str, Any], because: str, episodes: Episodes, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=because):
        inverse_dynamics(**{"data": (episodes.folder,), "held_out": 0.4, **option}, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_prior_of_other_frames_is_refused(episodes: Episodes, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the prior imagines frames of \(64, 64\), the sets hold \(16, 16\)"):
        inverse_dynamics(data=(episodes.folder,), held_out=0.4, imagined="procgen", output=tmp_path / "run")


def test_recipe_measures_on_generated_frames(
    episodes: Episodes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixel_unet.tiny().save(tmp_path / "prior.safetensors")
    sets = (episodes.folder, record(tmp_path / "other", seed=1).folder)
    inverse_dynamics(
        data=sets, held_out=0.4, num_steps=1, batch_size=4, width=4, imagined=str(tmp_path / "prior.safetensors"),
        output=tmp_path / "run",
    )  # fmt: skip
    assert "imagined by the prior\nheld-out error" in capsys.readouterr().out
    found = json.loads((tmp_path / "run" / "results.json").read_text())["error_on_generated"]
    assert len(found) == 4
    assert all(figures["all"]["squared_error"]["mean"] > 0 for figures in found.values())


def test_sets_of_other_actions_are_refused(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "set", frame_rate=15.0, action_names=("a", "b"), provenance={}) as writer:
        writer.add_episode(np.zeros((3, 16, 16, 3), np.uint8), np.zeros(3, np.int64))
    with pytest.raises(ValueError, match="need square frames and vectors of 4 numbers"):
        inverse_dynamics(data=(tmp_path / "set",), output=tmp_path / "run")
