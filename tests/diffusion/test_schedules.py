"""Schedules have the published numbers, find the index of a level, and take a video from one to another."""

import diffusers
import pytest
import torch

from trimtab.core.values import NoiseLevel, Prediction
from trimtab.diffusion import schedules
from trimtab.diffusion.noise import gaussian_noise
from trimtab.diffusion.schedules import Schedule

ALL = {
    "linear": schedules.linear(),
    "scaled_linear": schedules.scaled_linear(),
    "cosine": schedules.cosine(),
    "sigmoid": schedules.sigmoid(),
    "zero_snr": schedules.zero_terminal_snr(schedules.scaled_linear()),
    "flow": schedules.flow(),
    "shifted_flow": schedules.flow(50, shift=3.0),
}
every_schedule = pytest.mark.parametrize("schedule", ALL.values(), ids=ALL)


def test_sigmoid_has_the_numbers_of_avid() -> None:
    signal = schedules.sigmoid().alphas ** 2
    expected = torch.tensor([0.99848, 0.84586, 0.49171, 0.14425, 1.518e-3, 1.518e-6], dtype=torch.float64)
    torch.testing.assert_close(signal[[0, 50, 100, 150, 198, 199]], expected, rtol=3e-4, atol=0)
    snr = schedules.sigmoid().log_snr.exp()
    torch.testing.assert_close(snr[[0, 1, 50, 100]], snr.new_tensor([658, 324, 5.49, 0.967]), rtol=1e-3, atol=0)


def test_scaled_linear_has_the_numbers_of_stable_diffusion() -> None:
    signal = schedules.scaled_linear().alphas ** 2
    assert abs(signal[0].item() - 0.99915) < 1e-6
    assert abs(signal[-1].item() ** 0.5 - 0.068) < 1e-3
    rescaled = schedules.zero_terminal_snr(schedules.scaled_linear())
    assert rescaled.alphas[-1].item() == 0.0
    assert rescaled.alphas[0].item() == pytest.approx(signal[0].item() ** 0.5, abs=1e-12)
    assert rescaled.may_be_pure
    in_domain = schedules.linear(1000, 0.00085, 0.012).alphas ** 2  # the in-domain model of Adapt2Act
    expected = torch.tensor([0.99915, 0.1608, 0.0353, 0.01397, 1.58e-3], dtype=torch.float64)
    torch.testing.assert_close(in_domain[[0, 500, 700, 800, 999]], expected, rtol=5e-3, atol=0)


@pytest.mark.parametrize(
    ("ours", "settings"),
    [
        (ALL["linear"], {"beta_schedule": "linear"}),
        (ALL["scaled_linear"], {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}),
        (ALL["cosine"], {"beta_schedule": "squaredcos_cap_v2"}),
        (
            ALL["zero_snr"],
            {
                "beta_schedule": "scaled_linear",
                "beta_start": 0.00085,
                "beta_end": 0.012,
                "rescale_betas_zero_snr": True,
            },
        ),
    ],
)
def test_schedules_agree_with_diffusers(ours: Schedule, settings: dict) -> None:
    theirs = diffusers.DDPMScheduler(**settings).alphas_cumprod.double()
    torch.testing.assert_close(ours.alphas**2, theirs, rtol=2e-4, atol=1e-7)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_agrees_with_diffusers(shift: float) -> None:
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(1000, shift=shift)
    torch.testing.assert_close(schedules.flow(1000, shift).sigmas.flip(0), theirs.sigmas.double(), rtol=1e-6, atol=1e-7)


@every_schedule
def test_index_and_level_round_trip(schedule: Schedule) -> None:
    index = torch.arange(schedule.num_levels)
    assert torch.equal(schedule.index_of(schedule.level(index)), index.float())
    per_frame = index[:20].reshape(4, 5)
    assert schedule.level(per_frame).alpha.shape == (4, 5)
    assert torch.equal(schedule.index_of(schedule.level(per_frame)), per_frame.float())


@every_schedule
def test_index_between_two_levels_lies_between_them(schedule: Schedule) -> None:
    angles = torch.atan2(schedule.sigmas, schedule.alphas)
    middle = (angles[:-1] + angles[1:]) / 2
    index = schedule.index_of(NoiseLevel(middle.cos().float(), middle.sin().float()))
    expected = torch.arange(schedule.num_levels - 1) + 0.5
    torch.testing.assert_close(index, expected, rtol=0, atol=2e-2)
    outside = schedule.index_of(NoiseLevel(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])))
    assert outside.tolist() == [0.0, schedule.num_levels - 1.0]


@every_schedule
def test_levels_are_float32_and_say_if_they_may_be_pure(schedule: Schedule) -> None:
    level = schedule.level(torch.tensor([0, schedule.num_levels - 1]))
    assert level.alpha.dtype == level.sigma.dtype == torch.float32
    assert level.may_be_pure == schedule.may_be_pure == (level.alpha[-1].item() == 0)


@pytest.mark.parametrize("theirs", ALL.values(), ids=ALL)
@pytest.mark.parametrize("ours", ALL.values(), ids=ALL)
def test_native_keeps_the_belief(ours: Schedule, theirs: Schedule) -> None:
    """A voice of another schedule sees an equally noisy video of its own, and its belief is about the same video."""
    samples = range(6)
    clean = gaussian_noise((2, 3, 4, 4), seed=0, step=0, samples=samples)
    noise = gaussian_noise((2, 3, 4, 4), seed=0, step=1, samples=samples)
    level = theirs.level(torch.linspace(0, theirs.num_levels - 1, len(samples)).long())
    noisy = level.add_noise(clean, noise)
    video, native, index = ours.native(noisy, level)
    alpha, sigma = native.broadcast()
    torch.testing.assert_close(video, alpha * clean + sigma * noise)
    torch.testing.assert_close(native.angle, level.angle)
    assert torch.equal(index, ours.index_of(level))
    inside = (index > 0) & (index < ours.num_levels - 1)
    low = index.long().clamp(max=ours.num_levels - 2)
    for length, exponent in ((native.alpha + native.sigma, 1), (torch.hypot(native.alpha, native.sigma), 2)):
        if (ours.alphas**exponent + ours.sigmas**exponent - 1).abs().max() < 1e-9:  # on the path of our own schedule
            torch.testing.assert_close(length[inside], torch.ones_like(length[inside]), rtol=0, atol=2e-3)
    assert (native.angle[inside] >= ours.level(low).angle[inside] - 1e-5).all()
    truth = alpha * noise - sigma * clean
    back = Prediction(truth, "velocity", video, native).seen_at(noisy, level)
    if not level.may_be_pure:
        torch.testing.assert_close(back.clean, clean, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(back.noise, noise, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("ours", ["linear", "cosine", "zero_snr"])
@pytest.mark.parametrize("theirs", ["scaled_linear", "sigmoid", "zero_snr"])
def test_native_changes_nothing_between_variance_preserving_schedules(ours: str, theirs: str) -> None:
    level = ALL[theirs].level(torch.arange(0, ALL[theirs].num_levels, 7))
    noisy = torch.ones(len(level.alpha), 1, 1, 1, 1)
    video, native, _ = ALL[ours].native(noisy, level)
    assert torch.equal(video, noisy)
    assert torch.equal(native.alpha, level.alpha)
    assert torch.equal(native.sigma, level.sigma)


def test_native_takes_a_level_a_frame_and_keeps_the_dtype() -> None:
    level = ALL["flow"].level(torch.tensor([[10, 999], [400, 3]]))
    noisy = torch.ones(2, 2, 1, 1, 1, dtype=torch.bfloat16)
    video, native, index = ALL["linear"].native(noisy, level)
    assert video.dtype == torch.bfloat16
    assert native.alpha.shape == index.shape == (2, 2)
    torch.testing.assert_close(native.alpha**2 + native.sigma**2, torch.ones(2, 2))


def test_to_dict_holds_plain_values_that_rebuild_the_schedule() -> None:
    for schedule in ALL.values():
        record = schedule.to_dict()
        again = Schedule(record["name"], *(torch.tensor(record[k], dtype=torch.float64) for k in ("alphas", "sigmas")))
        index = torch.arange(schedule.num_levels)
        torch.testing.assert_close(again.level(index).alpha, schedule.level(index).alpha, rtol=1e-6, atol=0)
        assert again.to_dict() == record


@pytest.mark.parametrize(
    ("alphas", "sigmas", "message"),
    [
        ([0.5, 0.9], [0.8, 0.4], "noisier from level to level"),
        ([0.9, 0.9], [0.4, 0.4], "noisier from level to level"),
        ([1.0, 0.5], [0.0, 0.5], "start with some noise"),
        ([0.9, 0.0, 0.0], [0.1, 1.0, 1.0], "noisier from level to level"),
        ([0.9, -0.1], [0.1, 1.0], "not negative"),
        ([0.9, float("nan")], [0.1, 1.0], "finite"),
        ([0.9], [0.1], "two or more"),
        ([0.9, 0.5, 0.1], [0.1, 0.5], "give pairs"),
    ],
)
def test_bad_tables_are_refused(alphas: list[float], sigmas: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Schedule("bad", torch.tensor(alphas, dtype=torch.float64), torch.tensor(sigmas, dtype=torch.float64))


def test_other_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="float64"):
        Schedule("single precision", torch.tensor([0.9, 0.5]), torch.tensor([0.1, 0.5]))
    with pytest.raises(ValueError, match="between 0 and 1"):
        schedules.linear(10, 0.1, 1.5)
    with pytest.raises(ValueError, match="variance-preserving"):
        schedules.zero_terminal_snr(schedules.flow())
    with pytest.raises(ValueError, match=r"0 \.\. 999"):
        schedules.linear().level(torch.tensor([1000]))
    with pytest.raises(ValueError, match=r"0 \.\. 999"):
        schedules.linear().level(torch.tensor([-1]))
