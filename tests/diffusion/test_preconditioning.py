"""The change since the last frame: an answer of zero is the exact posterior mean, on every schedule."""

import math

import pytest
import torch
from torch import Tensor

from trimtab.core.values import Conditioning, NoiseLevel, Video
from trimtab.diffusion import schedules
from trimtab.diffusion.losses import change_loss
from trimtab.diffusion.noise import gaussian_noise
from trimtab.diffusion.preconditioning import FrameChange
from trimtab.diffusion.schedules import Schedule
from trimtab.priors.gaussian import GaussianPrior

SCHEDULES = {
    "linear": schedules.linear(),
    "cosine": schedules.cosine(),
    "sigmoid": schedules.sigmoid(),
    "zero_snr": schedules.zero_terminal_snr(schedules.scaled_linear()),
    "flow": schedules.flow(),
    "shifted_flow": schedules.flow(100, 3.0),
    "growing": Schedule("growing", torch.ones(50).double(), torch.linspace(0.01, 20, 50).double()),
}
SHAPE = (4, 3, 4, 4)


def drawn(schedule: Schedule, deviation: float = 0.2, batch: int = 5) -> tuple[Video, NoiseLevel, Tensor, Video, Video]:
    """Noisy clips from the first level to the last, their context of two frames, clean clips and noise."""
    level = schedule.level(torch.linspace(0, schedule.num_levels - 1, batch).long())
    context = gaussian_noise((2, *SHAPE[1:]), seed=1, step=0, samples=range(batch))
    change, noise = (gaussian_noise(SHAPE, seed=1, step=k, samples=range(batch)) for k in (1, 2))
    clean = context[:, -1:] + deviation * change
    return level.add_noise(clean, noise), level, context, clean, noise


def told(answer: Tensor, log_scale: float = 0.0) -> Tensor:
    """An answer, with the log of its scale stacked on."""
    return torch.cat([answer, torch.full_like(answer[:, :, :1], log_scale)], dim=2)


@pytest.mark.parametrize("deviation", [0.05, 0.2, 1.0, 2.0])
@pytest.mark.parametrize("name", SCHEDULES)
def test_an_answer_of_zero_is_the_posterior_mean_of_a_gaussian_change(name: str, deviation: float) -> None:
    schedule = SCHEDULES[name]
    noisy, level, context, _, _ = drawn(schedule, deviation)
    exact = GaussianPrior(
        torch.zeros(SHAPE), torch.full(SHAPE, deviation), context_weight=1.0, num_context=2, schedule=schedule
    )
    expected = exact.bind(Conditioning(context=context))(noisy, level)
    belief = FrameChange(noisy, level, context, deviation).belief(told(torch.zeros_like(noisy)))
    assert belief.kind == "velocity"
    assert belief.noisy is noisy
    assert belief.level is level
    assert belief.weights_sum_to_one
    scale = torch.hypot(level.alpha, level.sigma).max().item()
    torch.testing.assert_close(belief.tensor, expected.velocity, rtol=1e-4, atol=1e-5 * scale)
    torch.testing.assert_close(belief.clean, expected.clean, rtol=1e-4, atol=1e-4)


def test_the_posterior_mean_by_hand_at_one_pixel() -> None:
    """Last frame 0.5, deviation 0.2, alpha 0.6, sigma 0.8, noisy 1.1: precision weighting of 0.5 and 1.1 / 0.6."""
    level = NoiseLevel(torch.tensor([0.6]), torch.tensor([0.8]))
    noisy, context = torch.full((1, 1, 1, 1, 1), 1.1), torch.full((1, 1, 1, 1, 1), 0.5)
    belief = FrameChange(noisy, level, context, 0.2).belief(torch.zeros(1, 1, 2, 1, 1))
    of_last, of_noisy = 1 / 0.2**2, 0.6**2 / 0.8**2
    expected = (of_last * 0.5 + of_noisy * 1.1 / 0.6) / (of_last + of_noisy)
    assert math.isclose(belief.clean.item(), expected, rel_tol=1e-5)


@pytest.mark.parametrize("name", SCHEDULES)
def test_what_the_network_must_answer_has_unit_variance_whatever_the_level(name: str) -> None:
    """The belief is linear in the answer, so that two probes tell which answer is the truth."""
    noisy, level, context, clean, noise = drawn(SCHEDULES[name], batch=64)
    change = FrameChange(noisy, level, context, 0.2)
    alpha, sigma = level.broadcast()
    zero, one = (change.belief(told(torch.full_like(noisy, value))).tensor for value in (0.0, 1.0))
    answer = (alpha * noise - sigma * clean - zero) / (one - zero)
    assert 0.95 < answer.std() < 1.05
    assert ((answer.flatten(1).std(1) - 1).abs() < 0.35).all()  # 192 numbers each


@pytest.mark.parametrize("name", SCHEDULES)
def test_what_the_network_sees_has_unit_variance_whatever_the_level(name: str) -> None:
    noisy, level, context, _, _ = drawn(SCHEDULES[name], batch=64)
    seen = FrameChange(noisy, level, context, 0.2).stacked()
    assert seen.shape == (64, 4, 3 + 2 * 3, 4, 4)
    assert 0.95 < seen[:, :, :3].std() < 1.05
    for frame in range(4):
        assert torch.equal(seen[:, frame, 3:], context.flatten(1, 2))


@pytest.mark.parametrize("name", ["flow", "growing"])
def test_the_network_sees_the_same_whatever_the_scale_of_the_schedule(name: str) -> None:
    """A noisy clip and its level, both multiplied by a number, are the same knowledge."""
    noisy, level, context, _, _ = drawn(SCHEDULES[name])
    factor = torch.tensor([0.5, 1.0, 2.0, 3.0, 0.1])
    scaled = NoiseLevel(level.alpha * factor, level.sigma * factor, level.may_be_pure)
    first = FrameChange(noisy, level, context, 0.2)
    second = FrameChange(noisy * factor[:, None, None, None, None], scaled, context, 0.2)
    torch.testing.assert_close(first.stacked(), second.stacked(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(first.angle, second.angle)
    torch.testing.assert_close(first.angle, level.angle)
    answer = told(torch.randn_like(noisy), 0.5)
    torch.testing.assert_close(first.belief(answer).clean, second.belief(answer).clean, rtol=1e-3, atol=1e-3)


def test_a_level_per_frame_is_each_frames_own() -> None:
    schedule = SCHEDULES["cosine"]
    noisy, _, context, _, _ = drawn(schedule)
    index = torch.arange(20).reshape(5, 4) * 50
    together = FrameChange(noisy, schedule.level(index), context, 0.2)
    answer = told(torch.randn_like(noisy), -0.5)
    for frame in range(4):
        alone = FrameChange(noisy[:, frame : frame + 1], schedule.level(index[:, frame]), context, 0.2)
        torch.testing.assert_close(together.stacked()[:, frame], alone.stacked()[:, 0])
        part = alone.belief(answer[:, frame : frame + 1])
        torch.testing.assert_close(together.belief(answer).tensor[:, frame], part.tensor[:, 0])


def test_the_loss_of_the_change_charges_a_wrong_answer_by_its_share_in_the_velocity() -> None:
    noisy, level, context, _, _ = drawn(SCHEDULES["cosine"])
    change, answer = FrameChange(noisy, level, context, 0.2), torch.randn_like(noisy)
    right, wrong = change.belief(told(answer)), change.belief(told(answer + 1))
    alpha, sigma = level.broadcast()
    clean = right.clean
    charged = change_loss(wrong, clean, (noisy - alpha * clean) / sigma)
    share = (wrong.velocity - right.velocity).flatten(1)[:, 0]
    torch.testing.assert_close(charged, share, rtol=2e-3, atol=1e-3)
    assert share[0] > 0.99
    assert math.isclose(share[-1].item(), 0.2, rel_tol=1e-3)


def test_extra_channels_come_last() -> None:
    noisy, level, context, _, _ = drawn(SCHEDULES["cosine"])
    change, extra = FrameChange(noisy, level, context, 0.2), torch.randn(5, 4, 7, 4, 4)
    seen = change.stacked(extra)
    assert torch.equal(seen[:, :, :9], change.stacked())
    assert torch.equal(seen[:, :, 9:], extra)


@pytest.mark.usefixtures("without_shape_types")
@pytest.mark.parametrize("shape", [(4, 2, 3, 4, 4), (5, 2, 1, 4, 4), (5, 2, 3, 8, 4)])
def test_a_context_of_another_batch_or_frame_is_refused(shape: tuple[int, ...]) -> None:
    noisy, level, _, _, _ = drawn(SCHEDULES["cosine"])
    with pytest.raises(ValueError, match="must agree in batch, channels and size"):
        FrameChange(noisy, level, torch.zeros(shape), 0.2)


@pytest.mark.parametrize("log_scale", [-2.0, 0.0, 1.0])
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_network_can_say_how_much_changes(name: str, log_scale: float) -> None:
    """Saying so is the same as having been built for that deviation."""
    noisy, level, context, _, _ = drawn(SCHEDULES[name])
    answer = torch.randn_like(noisy)
    said = FrameChange(noisy, level, context, 0.2).belief(told(answer, log_scale))
    built = FrameChange(noisy, level, context, 0.2 * math.exp(log_scale)).belief(told(answer))
    torch.testing.assert_close(said.tensor, built.tensor, rtol=1e-4, atol=1e-4)


def test_where_nothing_changes_the_last_frame_stays_without_noise() -> None:
    noisy, level, context, _, _ = drawn(SCHEDULES["cosine"])
    belief = FrameChange(noisy, level, context, 0.2).belief(told(torch.zeros_like(noisy), -6.0))
    early = level.sigma > 0.1
    assert early.any()
    last = context[:, -1:].expand_as(noisy)
    torch.testing.assert_close(belief.clean[early], last[early], rtol=0, atol=0.02)
