"""A prior of one's own is tried in seconds, and what is wired wrongly is told from what is not."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tiny import mine
from trimtab.core.contracts import BoundDenoiser
from trimtab.core.values import Conditioning, Kind, NoiseLevel, Prediction, Video
from trimtab.data import samples
from trimtab.priors import pixel_unet
from trimtab.recipes.check_prior import MOST, check_prior, clips_of, errors, returned, verdict

LEVELS = [30, 125, 300, 600, 900, 950]

Wiring = Callable[[BoundDenoiser, Video, NoiseLevel], Prediction]


@dataclass
class Wired:
    """The prior of games, asked in another way; and what a Prior owes besides is that prior's."""

    inner: Any
    ask: Wiring

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def bind(self, given: Conditioning) -> BoundDenoiser:
        inner = self.inner.bind(given)
        return lambda noisy, level: self.ask(inner, noisy, level)


def rightly(inner: BoundDenoiser, noisy: Video, level: NoiseLevel) -> Prediction:
    return inner(noisy, level)


def as_noise(inner: BoundDenoiser, noisy: Video, level: NoiseLevel) -> Prediction:
    return replace(inner(noisy, level), kind="noise")


def as_flow(inner: BoundDenoiser, noisy: Video, level: NoiseLevel) -> Prediction:
    return replace(inner(noisy, level), kind="flow")


def negative(inner: BoundDenoiser, noisy: Video, level: NoiseLevel) -> Prediction:
    answer = inner(noisy, level)
    return answer.like(-answer.tensor)


def at_the_other_end(inner: BoundDenoiser, noisy: Video, level: NoiseLevel) -> Prediction:
    there = replace(level, alpha=level.sigma, sigma=level.alpha)
    return replace(inner(noisy, there), level=level)


def scaled(inner: BoundDenoiser, noisy: Video, level: NoiseLevel) -> Prediction:
    return replace(inner(5 * noisy, level), noisy=noisy)


def transposed(inner: BoundDenoiser, noisy: Video, level: NoiseLevel) -> Prediction:
    return replace(inner(noisy.transpose(3, 4), level), noisy=noisy)


def backwards(inner: BoundDenoiser, noisy: Video, level: NoiseLevel) -> Prediction:
    return replace(inner(noisy.flip(1), level), noisy=noisy)


def in_noises(inner: BoundDenoiser, noisy: Video, level: NoiseLevel) -> Prediction:
    """Rightly wired, and as far from the noise that it means as a good large model is, by 1/30."""
    answer = inner(noisy, level)
    mistake = torch.randn(noisy.shape, generator=torch.Generator().manual_seed(0)) / 30
    return replace(answer, tensor=answer.noise + mistake, kind="noise")


def shares_of(wiring: Wiring) -> tuple[torch.Tensor, NoiseLevel, Kind]:
    prior = pixel_unet.load("procgen")
    held = clips_of(prior, samples.coinrun(), 4)
    kind, believed, guessed = errors(Wired(prior, wiring), held, LEVELS, seed=0)
    return believed / guessed, prior.schedule.level(torch.tensor(LEVELS)), kind


def test_a_prior_that_is_wired_rightly_is_better_than_a_guess_on_a_game_that_it_never_saw() -> None:
    shares, levels, kind = shares_of(rightly)
    assert kind == "velocity"
    assert (shares[:5] < 0.7).all()
    assert shares[5] < 0.9  # of almost pure noise
    assert "wiring. It is better than a guess at every noise level" in verdict(shares, levels, kind)


def test_an_answer_in_noises_is_not_accused_of_what_almost_pure_noise_makes_of_its_least_mistake() -> None:
    shares, levels, kind = shares_of(in_noises)
    assert kind == "noise"
    assert (shares[:4] < 0.7).all()
    assert shares[-1] > MOST
    assert "at most 3 times as strong as the clip" in verdict(shares, levels, kind)
    with pytest.raises(ValueError, match="the kind of its answer"):
        verdict(4 * shares, levels, kind)


@pytest.mark.parametrize(
    "wiring",
    [as_noise, as_flow, negative, at_the_other_end, scaled, transposed, backwards],
    ids=lambda one: one.__name__,
)
def test_what_is_wired_wrongly_is_found(wiring: Wiring) -> None:
    with pytest.raises(ValueError, match="the kind of its answer"):
        verdict(*shares_of(wiring))


def test_a_prior_may_know_little_of_these_videos() -> None:
    levels = pixel_unet.load("procgen").schedule.level(torch.tensor([125, 600]))
    assert "Where noise is most" in verdict(torch.tensor([0.5, 1.2]), levels, "clean")
    with pytest.raises(ValueError, match="2 times as wrong elsewhere"):
        verdict(torch.tensor([0.5, 2.2]), levels, "clean")


def test_the_guess_is_the_best_mean_of_two_that_are_independent() -> None:
    prior = pixel_unet.load("procgen")
    held = clips_of(prior, samples.coinrun(), 12)
    _, _, guessed = errors(prior, held, LEVELS, seed=0)
    still = (held.told[:, -1:] - held.clip.video).square().mean()
    level = prior.schedule.level(torch.tensor(LEVELS))
    ratio = (level.sigma / level.alpha) ** 2  # the error of the noisy clip
    torch.testing.assert_close(guessed, still * ratio / (still + ratio), rtol=0.02, atol=0)


def test_the_command_says_what_a_prior_is(capsys: pytest.CaptureFixture[str]) -> None:
    check_prior("tiny.mine:closed")
    said = " ".join(capsys.readouterr().out.split())
    for fact in (
        "1 given, 8 predicted",
        "64 x 64; (12, 32, 32)",
        "context, text; texts are (7, 5)",
        "out of reach",
        "--data",
    ):
        assert fact in said


def test_the_command_measures_on_recorded_episodes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # A copy, as opening decodes the frames beside them.
    data = shutil.copytree(Path(samples.__file__).parent / "coinrun", tmp_path / "coinrun")
    check_prior("procgen", data=data, num_clips=4, num_levels=3)
    said = capsys.readouterr().out
    assert said.count("\n| 0.") == 3
    assert "better than a guess at every noise level" in " ".join(said.split())
    with pytest.raises(ValueError, match="num_levels is at least 1, got 0"):
        check_prior("procgen", num_levels=0)


def test_frames_come_back_from_a_codec() -> None:
    latent = mine.of_latents(64, 64, {"text_dim": None}, num_context=2)
    held = clips_of(latent, samples.coinrun(), 2)
    assert returned(latent, held) > 80
    with pytest.raises(ValueError, match=r"frames are \(32, 32\), and those recorded are \(64, 64\)"):
        clips_of(mine.of_latents(32, 32, {"text_dim": None}), samples.coinrun(), 2)
