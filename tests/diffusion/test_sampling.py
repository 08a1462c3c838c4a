"""Samplers agree with diffusers step for step, and keep their promises on seeds, clamps and pure noise."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import diffusers
import pytest
import torch
from torch import Tensor

from trimtab.core.values import Conditioning, Kind, NoiseLevel, Prediction, Video
from trimtab.diffusion import sampling, schedules
from trimtab.diffusion.noise import gaussian_noise
from trimtab.diffusion.sampling import Level, Step, ancestral, ddim, dpm_solver_pp_2m, euler_flow, pairs, start_noise
from trimtab.diffusion.schedules import Schedule
from trimtab.priors import gaussian

SHAPE = (4, 3, 8, 8)
EVERY = [ancestral, ddim, dpm_solver_pp_2m, euler_flow]
THEIR_KINDS: dict[Kind, str] = {"noise": "epsilon", "clean": "sample", "velocity": "v_prediction"}
STABLE_DIFFUSION = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 0}
BETAS = {
    "linear": (schedules.linear(), {"beta_schedule": "linear"}),
    "scaled_linear": (schedules.scaled_linear(), STABLE_DIFFUSION),
}
ZERO_SNR = (
    schedules.zero_terminal_snr(schedules.scaled_linear()),
    {**STABLE_DIFFUSION, "rescale_betas_zero_snr": True},
)
NOTHING = Conditioning()


def network(noisy: Video, sigma: float | Tensor) -> Tensor:
    """A fixed nonlinear network that mixes pixels, frames and the noise level."""
    return torch.tanh(noisy.roll(1, -1) - 0.5 * noisy.roll(1, 1)) * (0.4 + 0.5 * sigma) + 0.1 * noisy


class Nonlinear:
    """The network as a denoiser; counts how often it is bound."""

    uses = frozenset()
    space = "frames"

    def __init__(self, kind: Kind, weights_sum_to_one: bool = True) -> None:
        self.kind, self.weights_sum_to_one, self.num_bound = kind, weights_sum_to_one, 0

    def bind(self, given: Conditioning) -> Callable[[Video, NoiseLevel], Prediction]:
        self.num_bound += 1

        def denoise(noisy: Video, level: NoiseLevel) -> Prediction:
            assert level.alpha.shape == level.sigma.shape == (len(noisy),)
            tensor = network(noisy, level.broadcast()[1])
            return Prediction(tensor, self.kind, noisy, level, self.weights_sum_to_one)

        return denoise


def begin(batch: int = 2) -> Video:
    return start_noise(SHAPE, 3, range(batch))


def theirs(scheduler, start: Video, steps: list[Step], step: Callable[..., Tensor]) -> Video:
    """The loop of a diffusers pipeline; also checks that both visit the same time steps."""
    assert scheduler.timesteps.tolist() == [here.index for here, _ in steps]
    video = start
    for number, (here, _) in enumerate(steps):
        video = step(network(video, here.sigma), scheduler.timesteps[number], video, number).prev_sample
    return video


def assert_agree(ours: Video, reference: Video) -> None:
    assert torch.isfinite(reference).all()
    assert (ours - reference).abs().max() <= 1e-4 * reference.abs().max()


# Agreement with diffusers


@pytest.mark.parametrize("clamp", [None, (-1.0, 1.0)])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("kind", THEIR_KINDS)
@pytest.mark.parametrize("name", BETAS)
def test_ancestral_agrees_with_diffusers(name: str, kind: Kind, spacing: str, clamp, monkeypatch) -> None:
    schedule, settings = BETAS[name]
    check_ancestral(schedule, settings, kind, spacing, clamp, monkeypatch)


@pytest.mark.parametrize("kind", ["clean", "velocity"])
def test_ancestral_agrees_with_diffusers_from_pure_noise(kind: Kind, monkeypatch) -> None:
    check_ancestral(*ZERO_SNR, kind, "trailing", None, monkeypatch)


def check_ancestral(schedule: Schedule, settings: dict, kind: Kind, spacing: str, clamp, monkeypatch) -> None:
    scheduler = diffusers.DDPMScheduler(
        **settings, prediction_type=THEIR_KINDS[kind], timestep_spacing=spacing, clip_sample=clamp is not None
    )
    scheduler.set_timesteps(20)
    steps = pairs(schedule, 20, spacing=spacing)
    if spacing == "linspace":  # only custom time steps make diffusers look up the level that truly comes next
        scheduler.set_timesteps(timesteps=[here.index for here, _ in steps])

    def step(output: Tensor, time: Tensor, video: Video, number: int):
        noise = sampling.step_noise(video, 11, number, None)
        monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, **__: noise)
        return scheduler.step(output, time, video)

    reference = theirs(scheduler, begin(), steps, step)
    assert_agree(ancestral(Nonlinear(kind), begin(), NOTHING, pairs=steps, clamp=clamp, seed=11), reference)


@pytest.mark.parametrize("clamp", [None, (-1.0, 1.0)])
@pytest.mark.parametrize("to_clean", [True, False])
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("kind", THEIR_KINDS)
def test_ddim_agrees_with_diffusers(kind: Kind, spacing: str, eta: float, to_clean: bool, clamp) -> None:
    for schedule, settings in BETAS.values():
        check_ddim(schedule, settings, kind, spacing, eta, to_clean, clamp)


@pytest.mark.parametrize("eta", [0.0, 0.6])  # at 1 diffusers takes the root of a negative rounding error
def test_ddim_agrees_with_diffusers_from_pure_noise(eta: float) -> None:
    check_ddim(*ZERO_SNR, "velocity", "trailing", eta, True, None)


def check_ddim(schedule: Schedule, settings: dict, kind: Kind, spacing: str, eta: float, to_clean: bool, clamp) -> None:
    scheduler = diffusers.DDIMScheduler(
        **settings,
        prediction_type=THEIR_KINDS[kind],
        timestep_spacing=spacing,
        clip_sample=clamp is not None,
        set_alpha_to_one=to_clean,
    )
    scheduler.set_timesteps(20)
    steps = pairs(schedule, 20, spacing=spacing, to_clean=to_clean)

    def step(output: Tensor, time: Tensor, video: Video, number: int):
        noise = sampling.step_noise(video, 11, number, None)
        return scheduler.step(
            output, time, video, eta=eta, use_clipped_model_output=True, variance_noise=noise if eta else None
        )

    reference = theirs(scheduler, begin(), steps, step)
    ours = ddim(Nonlinear(kind), begin(), NOTHING, pairs=steps, eta=eta, clamp=clamp, seed=11)
    assert_agree(ours, reference)


@pytest.mark.parametrize("clamp", [None, (-1.0, 1.0)])
@pytest.mark.parametrize(("num_steps", "to_clean"), [(10, True), (20, True), (20, False)])
@pytest.mark.parametrize("kind", THEIR_KINDS)
@pytest.mark.parametrize("name", BETAS)
def test_dpm_solver_agrees_with_diffusers(name: str, kind: Kind, num_steps: int, to_clean: bool, clamp) -> None:
    schedule, settings = BETAS[name]
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **settings,
        prediction_type=THEIR_KINDS[kind],
        timestep_spacing="trailing",
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        final_sigmas_type="zero" if to_clean else "sigma_min",
    )
    if (
        clamp is not None
    ):  # diffusers has no plain clamp here: put ours where it turns a model's output into a clean video
        unclamped = scheduler.convert_model_output
        scheduler.convert_model_output = lambda *args, **keywords: unclamped(*args, **keywords).clamp(*clamp)
    scheduler.set_timesteps(num_steps)
    steps = pairs(schedule, num_steps, to_clean=to_clean)
    reference = theirs(scheduler, begin(), steps, lambda output, time, video, _: scheduler.step(output, time, video))
    assert_agree(dpm_solver_pp_2m(Nonlinear(kind), begin(), NOTHING, pairs=steps, clamp=clamp), reference)


def test_dpm_solver_agrees_with_diffusers_on_a_flow() -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, algorithm_type="dpmsolver++"
    )
    scheduler.set_timesteps(20)
    visited = [
        Level(1 - s, s, int(t), True) for s, t in zip(scheduler.sigmas.tolist(), scheduler.timesteps, strict=False)
    ]
    steps = list(zip(visited, [*visited[1:], Level(1.0, 0.0, None, True)], strict=True))
    reference = theirs(scheduler, begin(), steps, lambda output, time, video, _: scheduler.step(output, time, video))
    assert_agree(dpm_solver_pp_2m(Nonlinear("flow"), begin(), NOTHING, pairs=steps), reference)


@pytest.mark.parametrize("sampler", [euler_flow, ddim])
@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("num_steps", [8, 25])
def test_euler_agrees_with_diffusers(sampler, shift: float, num_steps: int) -> None:
    schedule = schedules.flow(1000, shift)
    steps = pairs(schedule, num_steps)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(1000, shift=shift)
    scheduler.set_timesteps(sigmas=[(here.index + 1) / 1000 for here, _ in steps])
    video = begin()
    for time, (here, _) in zip(scheduler.timesteps, steps, strict=True):
        video = scheduler.step(network(video, here.sigma), time, video).prev_sample
    assert_agree(sampler(Nonlinear("flow"), begin(), NOTHING, pairs=steps), video)


@pytest.mark.parametrize("kind", ["clean", "velocity", "flow", "noise"])
@pytest.mark.parametrize("schedule", [schedules.linear(), schedules.cosine(), ZERO_SNR[0], schedules.flow()])
def test_an_euler_step_along_the_flow_is_a_ddim_step(kind: Kind, schedule: Schedule) -> None:
    if kind == "noise" and schedule.may_be_pure:
        with pytest.raises(ValueError, match="noise prediction says nothing"):
            euler_flow(Nonlinear(kind), begin(), NOTHING, pairs=pairs(schedule, 10))
        return
    steps = pairs(schedule, 10)
    reference = ddim(Nonlinear(kind), begin(), NOTHING, pairs=steps)
    assert_agree(euler_flow(Nonlinear(kind), begin(), NOTHING, pairs=steps), reference)


def test_ddim_at_eta_one_is_ancestral() -> None:
    steps = pairs(schedules.linear(), 15)
    reference = ancestral(Nonlinear("velocity"), begin(), NOTHING, pairs=steps, seed=4)
    assert_agree(ddim(Nonlinear("velocity"), begin(), NOTHING, pairs=steps, eta=1.0, seed=4), reference)


# The steps


def test_pairs_walk_from_noisy_to_clean() -> None:
    schedule = schedules.linear()
    steps = pairs(schedule, 50)
    assert [here.index for here, _ in steps] == list(range(999, 0, -20))  # 999, 979, ..., 19, as AVID's
    assert steps[-1][1] == Level(1.0, 0.0, None, False)
    assert pairs(schedule, 50, to_clean=False)[-1][1] == Level(
        schedule.alphas[0].item(), schedule.sigmas[0].item(), 0, False
    )
    for spacing in ("leading", "trailing", "linspace"):
        for num_steps in (1, 3, 7, 999, 1000):
            steps = pairs(schedule, num_steps, spacing=spacing)
            assert len(steps) == num_steps
            assert all(here.sigma / here.alpha > there.sigma / there.alpha for here, there in steps)
            assert all(before[1] == after[0] for before, after in pairwise(steps))
    assert [here.index for here, _ in pairs(schedule, 3, spacing="linspace")] == [999, 500, 0]
    assert [here.index for here, _ in pairs(schedule, 3, spacing="leading")] == [666, 333, 0]
    assert [here.index for here, _ in pairs(schedule, 1, spacing="linspace")] == [999]
    assert all(here.may_be_pure for here, _ in pairs(schedules.flow(), 5))


@pytest.mark.parametrize("num_steps", [0, -1, 1001])
def test_a_number_of_steps_that_the_schedule_lacks_is_refused(num_steps: int) -> None:
    with pytest.raises(ValueError, match=r"num_steps must be 1 \.\. 1000"):
        pairs(schedules.linear(), num_steps)


def test_start_noise_has_the_deviation_of_the_first_level() -> None:
    first = pairs(schedules.scaled_linear(), 5)[0][0]
    unit = start_noise(SHAPE, 3, [5, 6])
    assert unit.shape == (2, *SHAPE)
    torch.testing.assert_close(start_noise(SHAPE, 3, [5, 6], first=first), unit * first.sigma)
    assert not torch.equal(unit, gaussian_noise(SHAPE, seed=3, step=0, samples=[5, 6], purpose="sampling"))


def test_the_temperature_scales_how_far_samples_deviate() -> None:
    """Exactly, as every step is linear in the video and its noise: x(t) - x(0) = t (x(1) - x(0))."""
    prior, samples = gaussian.tiny("noise", schedules.linear()), range(64)
    steps, given = pairs(prior.schedule, 40), Conditioning(actions=torch.tensor([[0, 1, 2, 2]] * 64))

    def sample(temperature: float, seed: int = 1, sampler=ancestral) -> Video:
        start = start_noise(SHAPE, seed, samples, temperature=temperature)
        return sampler(prior, start, given, pairs=steps, seed=seed, temperature=temperature)

    start = start_noise(SHAPE, 1, samples)
    for sampler in (ancestral, lambda *a, **k: ddim(*a, eta=1.0, **k)):
        still, half, full = (sample(temperature, sampler=sampler) for temperature in (0.0, 0.5, 1.0))
        assert torch.equal(full, sampler(prior, start, given, pairs=steps, seed=1))
        assert torch.equal(still, sample(0.0, seed=2, sampler=sampler))
        torch.testing.assert_close(half - still, (full - still) / 2, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(still[0], prior.mean_given(given)[0], rtol=0, atol=0.02)
        assert full.var(0).mean() > 0.05
    assert torch.equal(start_noise(SHAPE, 1, samples, temperature=1.0), start)
    for wrong in (-0.1, 1.1, float("nan")):
        for call in (
            lambda: start_noise(SHAPE, 1, [0], temperature=wrong),  # noqa: B023
            lambda: ancestral(prior, start, given, pairs=steps, temperature=wrong),  # noqa: B023
            lambda: ddim(prior, start, given, pairs=steps, temperature=wrong),  # noqa: B023
        ):
            with pytest.raises(ValueError, match=r"a temperature is 0 \(one sample\) to 1"):
                call()


# Promises


@pytest.mark.parametrize("sampler", EVERY)
def test_samplers_bind_once_and_mutate_nothing(sampler) -> None:
    denoiser, start = Nonlinear("velocity"), begin()
    before = start.clone()
    seen = []

    def progress(steps):
        for step in steps:
            seen.append(step)
            yield step

    steps = pairs(schedules.linear(), 6)
    video = sampler(denoiser, start, NOTHING, pairs=steps, progress=progress)
    assert denoiser.num_bound == 1
    assert torch.equal(start, before)
    assert seen == steps
    assert video.dtype == torch.float32
    assert video.shape == start.shape


@pytest.mark.parametrize("sampler", [ancestral, lambda *a, **k: ddim(*a, eta=1.0, **k)])
def test_a_sample_is_the_same_in_any_batch(sampler) -> None:
    steps = pairs(schedules.linear(), 6)

    def sample(samples: list[int], seed: int = 0) -> Video:
        start = start_noise(SHAPE, 3, samples)
        return sampler(Nonlinear("velocity"), start, NOTHING, pairs=steps, seed=seed, samples=samples)

    together = sample([4, 0, 9])
    for place, index in enumerate([4, 0, 9]):
        torch.testing.assert_close(sample([index])[0], together[place])
    assert not torch.allclose(sample([4, 0, 9], seed=1), together)
    with pytest.raises(ValueError, match="one sample index a video"):
        sampler(Nonlinear("velocity"), begin(), NOTHING, pairs=steps, samples=[0])


@pytest.mark.parametrize("sampler", EVERY)
@pytest.mark.parametrize("kind", ["clean", "velocity", "flow"])
@pytest.mark.parametrize("schedule", [ZERO_SNR[0], schedules.flow()], ids=["zero_snr", "flow"])
def test_samplers_are_finite_from_pure_noise(sampler, kind: Kind, schedule: Schedule) -> None:
    for to_clean in (True, False):
        steps = pairs(schedule, 10, to_clean=to_clean)
        assert torch.isfinite(sampler(Nonlinear(kind), begin(), NOTHING, pairs=steps)).all()


@pytest.mark.parametrize("sampler", EVERY)
@pytest.mark.parametrize("schedule", [ZERO_SNR[0], schedules.flow()], ids=["zero_snr", "flow"])
def test_a_noise_prediction_at_pure_noise_is_refused(sampler, schedule: Schedule) -> None:
    with pytest.raises(ValueError, match="noise prediction says nothing"):
        sampler(Nonlinear("noise"), begin(), NOTHING, pairs=pairs(schedule, 10))


@pytest.mark.parametrize("sampler", EVERY)
def test_a_clamp_of_a_combination_that_is_no_mixture_is_refused(sampler) -> None:
    steps = pairs(schedules.linear(), 5)
    product = Nonlinear("velocity", weights_sum_to_one=False)
    with pytest.raises(ValueError, match="clamp would destroy"):
        sampler(product, begin(), NOTHING, pairs=steps, clamp=(-1.0, 1.0))
    assert torch.isfinite(sampler(product, begin(), NOTHING, pairs=steps)).all()


@pytest.mark.parametrize("sampler", EVERY)
def test_a_clamp_limits_the_clean_video(sampler) -> None:
    steps = pairs(schedules.linear(), 10)
    free = sampler(Nonlinear("noise"), begin(), NOTHING, pairs=steps)
    assert free.abs().max() > 1
    assert sampler(Nonlinear("noise"), begin(), NOTHING, pairs=steps, clamp=(-1.0, 1.0)).abs().max() <= 1 + 1e-6


@pytest.mark.parametrize("sampler", EVERY)
def test_samplers_are_called_alike_and_the_seed_moves_those_that_draw(sampler) -> None:
    steps = pairs(schedules.linear(), 4)
    one, other = (
        sampler(Nonlinear("clean"), begin(), NOTHING, pairs=steps, seed=seed, samples=[7, 9]) for seed in (0, 1)
    )
    assert torch.equal(one, other) == (sampler is not ancestral)


@pytest.mark.parametrize("sampler", EVERY)
def test_a_start_that_is_not_float32_is_refused(sampler) -> None:
    with pytest.raises(ValueError, match="float32"):
        sampler(Nonlinear("noise"), begin().half(), NOTHING, pairs=pairs(schedules.linear(), 2))


@pytest.mark.parametrize("sampler", EVERY)
@pytest.mark.parametrize("schedule", [ZERO_SNR[0], schedules.flow()], ids=["zero_snr", "flow"])
def test_no_step_looks_at_a_tensor(sampler, schedule: Schedule) -> None:
    """A tensor of the meta device has no values, so a look at them, which would stall an accelerator, is an error."""

    class OfAnotherSchedule(Nonlinear):
        def bind(self, given: Conditioning) -> Callable[[Video, NoiseLevel], Prediction]:
            inner, native = super().bind(given), schedules.sigmoid().native
            return lambda noisy, level: inner(*native(noisy, level)[:2]).seen_at(noisy, level)

    start = begin().to("meta")
    video = sampler(OfAnotherSchedule("velocity"), start, NOTHING, pairs=pairs(schedule, 5), clamp=(-1.0, 1.0))
    assert video.device.type == "meta"
    assert video.shape == start.shape


@pytest.mark.parametrize("sampler", EVERY)
def test_sampling_keeps_no_gradient(sampler) -> None:
    prior = gaussian.tiny()
    prior.mean.requires_grad_()
    assert not sampler(prior, begin(), NOTHING, pairs=pairs(schedules.linear(), 2)).requires_grad


def test_levels_are_told_apart_by_their_fields() -> None:
    here = pairs(schedules.flow(), 4)[0][0]
    level = here.of(begin())
    assert level.may_be_pure
    assert level.alpha.tolist() == [0.0, 0.0]
    assert replace(here, index=3) != here
