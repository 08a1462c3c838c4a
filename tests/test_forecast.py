"""What a training will need is reckoned from a few of its steps, which leave nothing behind."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trimtab.core.values import Clip, Conditioning
from trimtab.forecast import Needs, fit_or_forecast, forecast, operations_per_step
from trimtab.training import Budget

LENGTHS = (1, 2, 6)
SECONDS_A_FRAME = 0.01


class Slow(nn.Module):
    """A task whose step takes a time proportional to the length of its clips."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1000))

    def forward(self, clip: Clip, *, step: int, samples: Tensor) -> Tensor:
        time.sleep(SECONDS_A_FRAME * clip.video.shape[1])
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
    assert 0.6 < needs.steps / (30.0 / (SECONDS_A_FRAME * 3)) < 1.01
    by_steps = forecast(Slow(), Source(), Budget(steps=50), lengths=LENGTHS, batch_size=2)
    assert by_steps.steps == 50
    assert 0.99 < by_steps.seconds / (50 * SECONDS_A_FRAME * 3) < 1.6
    assert needs.memory > 50e6


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
    assert 0.5 < needed.seconds / expected.seconds < 2
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


def test_a_finished_run_that_is_asked_again_keeps_what_it_needed(tmp_path: Path) -> None:
    options = {"folder": tmp_path, "lengths": LENGTHS, "batch_size": 2}
    fit_or_forecast(False, Slow(), Source(), Budget(steps=3), **options)
    told = (tmp_path / "needs.json").read_text()
    (tmp_path / "extra").write_bytes(bytes(10_000))
    fit_or_forecast(False, Slow(), Source(), Budget(steps=3), **options)
    assert (tmp_path / "needs.json").read_text() == told
    fit_or_forecast(False, Slow(), Source(), Budget(steps=5), **options)
    assert json.loads((tmp_path / "needs.json").read_text())["steps"] == 5
