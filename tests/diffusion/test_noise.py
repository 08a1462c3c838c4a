"""Noise depends on (seed, step, sample, purpose) and on nothing else."""

import time

import pytest
import torch

from trimtab.diffusion.noise import gaussian_noise, uniform_integers

SHAPE = (4, 3, 8, 8)


def test_a_sample_is_the_same_in_any_batch_and_order() -> None:
    together = gaussian_noise(SHAPE, seed=1, step=2, samples=[7, 3, 900_000_000_000])
    assert together.shape == (3, *SHAPE)
    for place, sample in ((0, 7), (1, 3), (2, 900_000_000_000)):
        alone = gaussian_noise(SHAPE, seed=1, step=2, samples=torch.tensor([sample]))
        assert torch.equal(alone[0], together[place])


def test_seed_step_sample_and_purpose_all_matter() -> None:
    settings = [(0, 0, 0, "noise"), (1, 0, 0, "noise"), (0, 1, 0, "noise"), (0, 0, 1, "noise"), (0, 0, 0, "start")]
    draws = torch.stack(
        [gaussian_noise((10_000,), seed=a, step=b, samples=[c], purpose=d)[0] for a, b, c, d in settings]
    )
    correlation = torch.corrcoef(draws) - torch.eye(len(draws))
    assert correlation.abs().max() < 0.05


def test_noise_is_standard_normal() -> None:
    noise = gaussian_noise((100, 100), seed=3, step=0, samples=range(20)).flatten()
    assert abs(noise.mean().item()) < 5 / len(noise) ** 0.5
    assert abs(noise.std().item() - 1) < 0.01
    assert abs((noise**4).mean().item() - 3) < 0.1


def test_dtype_is_a_rounding_of_the_same_draw() -> None:
    exact = gaussian_noise(SHAPE, seed=0, step=0, samples=[1])
    assert torch.equal(gaussian_noise(SHAPE, seed=0, step=0, samples=[1], dtype=torch.bfloat16), exact.bfloat16())


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(())
    torch.manual_seed(0)
    gaussian_noise(SHAPE, seed=0, step=0, samples=[0])
    uniform_integers(5, seed=0, step=0, samples=[0])
    assert torch.equal(torch.rand(()), expected)


def test_integers_are_uniform_and_belong_to_their_sample() -> None:
    draws = uniform_integers(10, seed=0, step=4, samples=range(5000))
    assert draws.dtype == torch.int64
    counts = torch.bincount(draws, minlength=10)
    assert len(counts) == 10
    assert ((counts - 500).abs() < 5 * 450**0.5).all()
    assert torch.equal(uniform_integers(10, seed=0, step=4, samples=[17, 4]), draws[[17, 4]])
    assert uniform_integers(10, seed=0, step=4, samples=[]).shape == (0,)


@pytest.mark.parametrize("samples", [torch.tensor([0.0]), torch.tensor([[1]])])
def test_samples_must_be_a_row_of_integers(samples: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="row of integers"):
        gaussian_noise(SHAPE, seed=0, step=0, samples=samples)


def test_a_training_batch_is_drawn_in_milliseconds() -> None:
    start = time.perf_counter()
    for step in range(3):
        gaussian_noise((8, 3, 64, 64), seed=0, step=step, samples=range(64))
    assert (time.perf_counter() - start) / 3 < 0.6  # 0.05 s on an idle core; the machine may be shared
