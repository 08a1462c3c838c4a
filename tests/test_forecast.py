"""What a training will need is reckoned from a few of its steps, which leave nothing behind."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trimtab import training
from trimtab.core.values import Clip, Conditioning, NoiseLevel, Prediction
from trimtab.forecast import Needs, fit_or_forecast, forecast, operations_per_step
from trimtab.priors.gaussian import GaussianPrior
from trimtab.priors.remembering import Remembering
from trimtab.training import Budget

LENGTHS = (1, 2, 6)
SECONDS_A_FRAME = 0.01


class Clock:
    """A clock that only tasks move on, in place of the training's."""

    seconds = 0.0

    def perf_counter(self) -> float:
        return self.seconds


CLOCK = Clock()


@pytest.fixture(autouse=True)
def _time_is_what_tasks_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "time", CLOCK)


class Slow(nn.Module):
    """A task whose step takes a time proportional to the length of its clips."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1000))

    def forward(self, clip: Clip, *, step: int, samples: Tensor) -> Tensor:
        CLOCK.seconds += SECONDS_A_FRAME * clip.video.shape[1]
        return (clip.video.mean((1, 2, 3, 4)) - self.weight.mean()) ** 2


class Source:
    """Clips of noise."""

    def draw(self, seed: int, step: int, num: int) -> np.ndarray:
        return np.random.default_rng([seed, step]).integers(100, size=num)

    def batch(self, indices: np.ndarray, num_frames: int | None = None) -> Clip:
        generator = torch.Generator().manual_seed(int(indices[0]))
        return Clip(torch.rand(len(indices), num_frames or 6, 3, 2, 2, generator=generator), Conditioning())


def test_time_and_steps_are_those_of_the_mean_length() -> None:
    needs = forecast(Slow(), Source(), Budget(seconds=30.0), lengths=LENGTHS, batch_size=2)
    assert needs.seconds == pytest.approx(30.0, rel=0.01)
    assert needs.steps == 30 / (SECONDS_A_FRAME * 3)
    by_steps = forecast(Slow(), Source(), Budget(steps=50), lengths=LENGTHS, batch_size=2)
    assert by_steps.steps == 50
    assert by_steps.seconds == pytest.approx(50 * SECONDS_A_FRAME * 3)
    assert needs.memory > 50e6


class Asking(Slow):
    """A step is quick where the batch is not new."""

    last = -1

    def forward(self, clip: Clip, *, step: int, samples: Tensor) -> Tensor:
        new, self.last = step != self.last, step
        return super().forward(Clip(clip.video if new else clip.video[:, :1], clip.given), step=step, samples=samples)


def test_passes_over_what_is_known_are_reckoned_as_quick_as_they_are() -> None:
    needs = forecast(Asking(), Source(), Budget(steps=80), lengths=(6,), passes=4, batch_size=2)
    assert needs.seconds == pytest.approx(SECONDS_A_FRAME * (20 * 6 + 60 * 1))


def test_a_dry_run_leaves_a_forecast_alone_and_the_training_is_as_without(tmp_path: Path) -> None:
    with_trial, without = Slow(), Slow()
    options = {"lengths": LENGTHS, "batch_size": 2, "learning_rate": 0.1}
    told = fit_or_forecast(True, with_trial, Source(), Budget(steps=20), folder=tmp_path / "a", **options)
    assert told is None
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["forecast.json"]
    assert torch.equal(with_trial.weight, torch.ones(1000))
    for task, folder in ((with_trial, "a"), (without, "b")):
        assert fit_or_forecast(False, task, Source(), Budget(steps=20), folder=tmp_path / folder, **options) is not None
    assert not torch.equal(with_trial.weight, torch.ones(1000))
    assert torch.equal(with_trial.weight, without.weight)
    expected, needed = (
        Needs(**json.loads((tmp_path / "a" / name).read_text())) for name in ("forecast.json", "needs.json")
    )
    assert needed.steps == expected.steps == 20
    assert needed.seconds == pytest.approx(expected.seconds, rel=0.25)  # as lengths are drawn
    assert 0.5 < needed.disk / expected.disk < 2


class Linear(nn.Module):
    """One matrix product a frame."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 5, bias=False)

    def forward(self, clip: Clip, *, step: int, samples: Tensor) -> Tensor:
        return self.layer(clip.video.flatten(2)).mean((1, 2))


def test_operations_are_those_of_the_mean_length_there_and_back() -> None:
    task = Linear()
    found = operations_per_step(task, Source(), batch_size=2, lengths=LENGTHS)
    assert found == pytest.approx(2 * 2 * 12 * 5 * 2 * 3)  # forward, and back to the weights: 2 clips of 3 frames
    assert all(value.grad is None for value in task.parameters())


class Answering(GaussianPrior):
    """It takes one matrix product a frame."""

    def bind(self, given: Conditioning) -> Any:
        weight = torch.ones(5, 12)
        return lambda noisy, level: Prediction(noisy * (noisy.flatten(2) @ weight.T).mean(), "clean", noisy, level)


class Beside(Linear):
    """What it learns stands beside what a prior answers."""

    def __init__(self, prior: Any) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, clip: Clip, *, step: int, samples: Tensor) -> Tensor:
        level = NoiseLevel(torch.zeros(len(samples)), torch.ones(len(samples)))
        ask = self.prior.bind(clip.given)
        with torch.no_grad():
            ask(clip.video, level)
        return super().forward(clip, step=step, samples=samples)


def test_what_a_prior_remembers_is_counted_once_for_all_passes() -> None:
    one = 2 * 2 * 12 * 5 * 6  # there, or back, or a prior's answer: 2 clips of 6 frames
    answering = Answering(torch.zeros(6, 3, 2, 2), torch.ones(6, 3, 2, 2))
    for prior, asked in ((answering, 4), (Remembering(answering, 2), 1)):
        found = operations_per_step(Beside(prior), Source(), batch_size=2, lengths=(6,), passes=4)
        assert found == pytest.approx(2 * one + one * asked / 4)


def test_a_finished_run_that_is_asked_again_keeps_what_it_needed(tmp_path: Path) -> None:
    options = {"folder": tmp_path, "lengths": LENGTHS, "batch_size": 2}
    fit_or_forecast(False, Slow(), Source(), Budget(steps=3), **options)
    told = (tmp_path / "needs.json").read_text()
    (tmp_path / "extra").write_bytes(bytes(10_000))
    fit_or_forecast(False, Slow(), Source(), Budget(steps=3), **options)
    assert (tmp_path / "needs.json").read_text() == told
    fit_or_forecast(False, Slow(), Source(), Budget(steps=5), **options)
    assert json.loads((tmp_path / "needs.json").read_text())["steps"] == 5


def test_a_forecast_is_said_beside_what_was_needed_only_if_it_was_of_as_many_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"folder": tmp_path, "lengths": LENGTHS, "batch_size": 2}
    fit_or_forecast(True, Slow(), Source(), Budget(steps=5), **options)
    capsys.readouterr()
    fit_or_forecast(False, Slow(), Source(), Budget(steps=3), **options)
    assert "forecast:" not in capsys.readouterr().out
    fit_or_forecast(False, Slow(), Source(), Budget(steps=5), **options)
    said = capsys.readouterr().out
    assert said.count("forecast:") == said.count("needed:") == 1
