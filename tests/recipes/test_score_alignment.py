"""Alignment: its distances against closed forms, other texts are other, and once from end to end at toy size."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tiny import tabletop
from trimtab import forecast
from trimtab.core.values import Conditioning, NoiseLevel, Prediction
from trimtab.data.clips import Clips
from trimtab.data.episodes import Episodes
from trimtab.environments.metaworld import TEXTS
from trimtab.priors.pixel_unet import PixelUNet
from trimtab.recipes._held import Held
from trimtab.recipes.domains.metaworld import FIRST_VALIDATION, VALIDATION, encoder
from trimtab.recipes.planning import bench as planning
from trimtab.recipes.planning import continuations
from trimtab.recipes.planning.scales import Scale
from trimtab.recipes.score_alignment import (
    SAID,
    VOICES,
    alignment,
    distances,
    errors_by_task,
    intervals,
    plot,
    score_alignment,
    shuffled,
)


@pytest.fixture
def held(tmp_path: Path) -> Held:
    clips = Clips(tabletop.dots(tmp_path / "dots"), 1, 8, encode=encoder())
    return Held.of(clips, clips.evenly(4, per_level=4))


def prediction(tensor: torch.Tensor, alpha: float) -> Prediction:
    level = NoiseLevel(torch.full((len(tensor),), alpha), torch.full((len(tensor),), (1 - alpha**2) ** 0.5))
    return Prediction(tensor, "velocity", torch.ones_like(tensor), level)


@given(alpha=st.floats(0.1, 0.9), shift=st.floats(-2.0, 2.0))
def test_a_shift_of_the_velocity_is_its_square_times_alphas(alpha: float, shift: float) -> None:
    tensor = torch.randn(3, 2, 3, 4, 4)
    found = distances(prediction(tensor, alpha), prediction(tensor + shift, alpha))
    torch.testing.assert_close(found["mean squared"], torch.full((3,), (alpha * shift) ** 2), atol=1e-5, rtol=1e-4)


def test_opposite_noises_have_cosine_minus_one() -> None:
    level = NoiseLevel(torch.full((2,), 0.6), torch.full((2,), 0.8))
    noise, noisy = torch.randn(2, 1, 3, 4, 4), torch.zeros(2, 1, 3, 4, 4)
    found = distances(Prediction(noise, "noise", noisy, level), Prediction(-noise, "noise", noisy, level))
    torch.testing.assert_close(found["cosine"], -torch.ones(2))
    torch.testing.assert_close(found["mean squared"], 4 * noise.square().mean((1, 2, 3, 4)))


@given(which=st.lists(st.integers(0, 3), min_size=2, max_size=12), seed=st.integers(0, 99))
def test_another_text_is_one_of_the_others(which: list[int], seed: int) -> None:
    text = torch.arange(4.0).reshape(4, 1, 1).expand(4, 2, 3)[which]
    if len(set(which)) < 2:
        with pytest.raises(ValueError, match="two tasks or more"):
            shuffled(text, seed)
        return
    other = shuffled(text, seed)
    assert (other[:, 0, 0] != text[:, 0, 0]).all()
    assert set(other[:, 0, 0].tolist()) <= set(which)


def test_an_episode_has_a_start_state_and_a_text(held: Held) -> None:
    assert held.levels.tolist() == [0, 0, 1, 1]
    assert len(held.recordings.unique()) == 4


def test_a_model_is_aligned_with_itself_where_it_is_told_the_same(held: Held) -> None:
    prior = tabletop.prior()
    found, wrong, _ = alignment(prior, prior, held, [100, 900], seed=0)
    assert all((wrong[voice] == wrong[VOICES[0]]).all() for voice in VOICES)
    own, other, untold = (found[said] for said in SAID)
    assert own["mean squared"].shape == (2, 4)
    assert (own["mean squared"] == 0).all()
    torch.testing.assert_close(own["cosine"], torch.ones(2, 4))
    assert (other["mean squared"] > 0).all()
    assert (untold["mean squared"] > 0).all()
    figures = intervals(found, held.recordings)
    less = figures["shuffled text less own text"]["mean squared"]
    assert less == figures["shuffled text"]["mean squared"]  # as the own text's is zero


class Mirror:
    """Errs as a prior does, the other way."""

    def __init__(self, prior: PixelUNet, video: torch.Tensor) -> None:
        self.prior, self.video, self.uses, self.space = prior, video, prior.uses, prior.space

    def bind(self, given: Conditioning) -> Callable[..., Prediction]:
        ask = self.prior.bind(given.without("actions"))

        def answer(noisy: torch.Tensor, level: NoiseLevel) -> Prediction:
            belief = ask(noisy, level).as_kind("clean").tensor
            return Prediction(2 * self.video - belief, "clean", noisy, level)

        return answer


def test_half_of_each_is_right_where_two_err_in_opposite_ways(held: Held) -> None:
    prior = tabletop.prior()
    _, wrong, still = alignment(prior, Mirror(prior, held.clip.video), held, [500], seed=0)
    torch.testing.assert_close(wrong["in-domain"], wrong["prior"])
    assert (wrong["prior"] > 0.01).all()
    torch.testing.assert_close(wrong["half of each"], torch.zeros(1, 4), atol=1e-6, rtol=0)
    found = errors_by_task(wrong, still, held, prior)
    torch.testing.assert_close(still, (held.told[:, -1:] - held.clip.video).square().mean((1, 2, 3, 4)))
    closing = [
        number for number in range(4) if (held.clip.given.text[number] == encoder()([TEXTS["door-close"]])[0]).all()
    ]
    assert set(found) == {"door-close, novel", "door-open, novel"}
    expected = wrong["prior"][0, closing].mean() / still[closing].mean()
    assert found["door-close, novel"]["prior"][0].mean == pytest.approx(expected.item(), rel=1e-4)


def test_it_is_drawn(tmp_path: Path, held: Held) -> None:
    values = {said: {name: torch.rand(3, 4) for name in ("mean squared", "cosine")} for said in SAID}
    wrong = {voice: torch.rand(3, 4) for voice in VOICES}
    errors = errors_by_task(wrong, torch.rand(4), held, tabletop.prior())
    plot(intervals(values, held.recordings), errors, (0.1, 0.5, 0.9), tmp_path / "a" / "picture.png")
    assert (tmp_path / "a" / "picture.png").stat().st_size > 1000


def test_models_are_compared_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prior, few, asked = tabletop.prior(), tabletop.dots(tmp_path / "dots"), dict[str, Any]()

    def recorded(**settings: Any) -> Episodes:
        asked.update(settings)
        return few

    prior.save(tmp_path / "prior.safetensors")
    monkeypatch.setattr(forecast, "TRIED", 1)
    monkeypatch.setattr(planning, "demonstrations", lambda share, datasets, **pace: few)
    monkeypatch.setattr(continuations, "metaworld_episodes", recorded)
    size = Scale(teraflops=0.02, batch_size=2, action_repeat=2, max_steps=200)
    monkeypatch.setitem(planning.SCALES, "smoke", size)
    score_alignment(
        num_levels=3, num_clips=4, prior=str(tmp_path / "prior.safetensors"), datasets=tmp_path,
        planning=tmp_path / "planning", output=tmp_path / "out",
    )  # fmt: skip
    written = json.loads((tmp_path / "out" / "score_alignment.json").read_text())
    assert written["prior"] == prior.fingerprint
    assert written["sigma"] == sorted(written["sigma"])
    assert set(written["figures"]) == {*SAID, *(f"{said} less own text" for said in SAID[1:])}
    assert set(written["errors"]["door-close, novel"]) == set(VOICES)
    row = written["figures"]["own text"]["mean squared"]
    assert len(row) == 3
    assert all(0 < one["low"] <= one["mean"] <= one["high"] and one["num_clusters"] == 4 for one in row)
    assert (tmp_path / "planning" / "trainings" / "in-domain-0-0").is_dir()
    assert (tmp_path / "out" / "score_alignment.png").stat().st_size > 1000
    assert "shuffled text less own text" in capsys.readouterr().out
    assert (asked["tasks"], asked["seed"]) == (VALIDATION, FIRST_VALIDATION)
    assert (asked["action_repeat"], asked["max_episode_steps"]) == (2, 200)
    assert asked["output"] == tmp_path / "metaworld-validation-2x200"
