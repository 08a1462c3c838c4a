"""The Gaussian prior's belief is exact, and every sampler lands on the answer that is known for it."""

from typing import get_args

import pytest
import torch

from trimtab.core.contracts import Codec, Prior
from trimtab.core.values import Conditioning, Kind, Video, stack
from trimtab.diffusion import schedules
from trimtab.diffusion.noise import gaussian_noise
from trimtab.diffusion.sampling import (
    ancestral,
    ddim,
    dpm_solver_pp_2m,
    euler_flow,
    pairs,
    posterior_variance,
    start_noise,
)
from trimtab.diffusion.schedules import Schedule
from trimtab.priors.gaussian import GaussianPrior, tiny

KINDS = get_args(Kind)
SCHEDULES = {
    "linear": schedules.linear(),
    "scaled_linear": schedules.scaled_linear(),
    "cosine": schedules.cosine(),
    "sigmoid": schedules.sigmoid(),
    "zero_snr": schedules.zero_terminal_snr(schedules.scaled_linear()),
    "flow": schedules.flow(),
}
SHAPE = (4, 3, 8, 8)


def facts(batch: int = 3) -> Conditioning:
    context = gaussian_noise((2, 3, 8, 8), seed=8, step=0, samples=range(batch))
    return Conditioning(context=context, actions=torch.arange(batch * 4).reshape(batch, 4) % 3)


def noisy_at(schedule: Schedule, indices: list[int]) -> tuple[Video, object]:
    level = schedule.level(torch.tensor(indices))
    clean, noise = (gaussian_noise(SHAPE, seed=2, step=k, samples=indices) for k in range(2))
    return level.add_noise(clean, noise), level


# The belief


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_holds_the_same_belief(kind: Kind) -> None:
    noisy, level = noisy_at(schedules.sigmoid(), [3, 90, 170])
    reference = tiny("clean").bind(facts())(noisy, level)
    belief = tiny(kind).bind(facts())(noisy, level)
    assert belief.kind == kind
    torch.testing.assert_close(belief.clean, reference.clean, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(belief.noise, reference.noise, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_belief_is_the_score_of_the_noisy_density(name: str) -> None:
    """noise = -sigma * gradient of log p(noisy), a Gaussian of mean alpha m and variance (alpha s)^2 + sigma^2."""
    prior, given = tiny("noise", SCHEDULES[name]), facts()
    count = prior.schedule.num_levels
    noisy, level = noisy_at(prior.schedule, [count // 20, count // 2, count - 1])
    alpha, sigma = level.broadcast()
    noisy.requires_grad_()
    scale = ((alpha * prior.deviation) ** 2 + sigma**2).sqrt()
    density = torch.distributions.Normal(alpha * prior.mean_given(given), scale).log_prob(noisy).sum()
    (score,) = torch.autograd.grad(density, noisy)
    torch.testing.assert_close(prior.bind(given)(noisy.detach(), level).noise, -sigma * score, rtol=1e-4, atol=1e-4)


def test_the_clean_video_is_the_mean_of_what_made_the_noisy_one() -> None:
    """A posterior mean leaves an error of mean zero that has nothing to do with the noisy video."""
    prior = tiny("clean")
    samples = range(2000)
    clean = prior.mean + prior.deviation * gaussian_noise(SHAPE, seed=0, step=0, samples=samples)
    level = schedules.sigmoid().level(torch.full((2000,), 100))
    noisy = level.add_noise(clean, gaussian_noise(SHAPE, seed=0, step=1, samples=samples))
    error = prior.bind(Conditioning())(noisy, level).clean - clean
    assert error.mean().abs() < 5 * error.std() / error.numel() ** 0.5
    assert (error * noisy).mean().abs() < 5 * (error * noisy).std() / error.numel() ** 0.5


def test_facts_shift_the_mean_and_unknown_facts_do_not() -> None:
    prior, given = tiny(), facts()
    told = prior.mean_given(given)
    effect = prior.action_effect[given.actions]
    torch.testing.assert_close(told, prior.mean + 0.5 * given.context[:, -1:] + effect)
    torch.testing.assert_close(prior.mean_given(given.without("actions")), told - effect)
    assert torch.equal(prior.mean_given(Conditioning())[0], prior.mean)
    one_hot = torch.nn.functional.one_hot(given.actions, 3).float()
    floats = Conditioning(context=given.context, actions=one_hot)
    torch.testing.assert_close(prior.mean_given(floats), told)


def test_told_and_untold_passes_are_one_batch() -> None:
    prior, given = tiny(), facts()
    noisy, level = noisy_at(schedules.sigmoid(), [50, 100, 150])
    both = stack([given, given.without("actions")])
    _, level2 = noisy_at(schedules.sigmoid(), [50, 100, 150, 50, 100, 150])
    together = prior.bind(both)(noisy.repeat(2, 1, 1, 1, 1), level2).tensor
    torch.testing.assert_close(together[:3], prior.bind(given)(noisy, level).tensor)
    torch.testing.assert_close(together[3:], prior.bind(given.without("actions"))(noisy, level).tensor)
    forgetful = given.forget("actions", torch.tensor([False, True, False]))
    mixed = prior.bind(forgetful)(noisy, level).tensor
    torch.testing.assert_close(mixed[[0, 2]], together[[0, 2]])
    torch.testing.assert_close(mixed[1], together[4])


def test_fewer_frames_are_the_first_ones() -> None:
    prior, given = tiny(), facts()
    noisy, level = noisy_at(schedules.sigmoid(), [50, 100, 150])
    whole = prior.bind(given)(noisy, level).tensor
    short = Conditioning(context=given.context, actions=given.actions[:, :2])
    torch.testing.assert_close(prior.bind(short)(noisy[:, :2], level).tensor, whole[:, :2])
    with pytest.raises(ValueError, match="got a video of 4 frames"):
        prior.bind(short)(noisy, level)


# The contract


def test_it_is_a_prior() -> None:
    prior = tiny()
    assert isinstance(prior, Prior)
    assert isinstance(prior.codec, Codec)
    assert prior.space == prior.codec.space
    assert (prior.num_frames, prior.frame_shape, prior.num_context) == (4, (3, 8, 8), 2)
    frames = torch.rand(1, 2, 3, 8, 8)
    assert torch.equal(prior.codec.decode(prior.codec.encode(frames)), frames)
    assert not list(prior.parameters())


def test_uses_names_the_facts_that_matter() -> None:
    plain = GaussianPrior(torch.zeros(SHAPE), torch.ones(SHAPE))
    assert plain.uses == frozenset()
    assert torch.equal(plain.mean_given(facts())[0], plain.mean)
    assert tiny().uses == {"actions", "context"}


def test_the_fingerprint_changes_with_whatever_changes_the_answer() -> None:
    mean, deviation = torch.zeros(SHAPE), torch.ones(SHAPE)
    priors = [
        GaussianPrior(mean, deviation),
        GaussianPrior(mean + 1e-3, deviation),
        GaussianPrior(mean, deviation * 2),
        GaussianPrior(mean, deviation, action_effect=torch.zeros(2, 3, 8, 8)),
        GaussianPrior(mean, deviation, num_context=2),
        GaussianPrior(mean, deviation, num_context=2, context_weight=0.5),
        GaussianPrior(mean, deviation, kind="clean"),
        GaussianPrior(mean, deviation, schedule=schedules.flow()),
    ]
    assert len({prior.fingerprint for prior in priors}) == len(priors)
    assert tiny().fingerprint == tiny().fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"context": torch.zeros(3, 1, 3, 8, 8)}, "context must be"),
        ({"actions": torch.zeros(3, 4, 2)}, "actions must be"),
        ({"actions": torch.zeros(3, 4, 3, dtype=torch.int64)}, "actions must be"),
        ({"actions": torch.full((3, 4), 3)}, r"0 \.\. 2"),
        ({"actions": torch.full((3, 4), -1)}, r"0 \.\. 2"),
    ],
)
def test_facts_of_the_wrong_form_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny().bind(Conditioning(**change))


def test_arguments_that_disagree_are_refused() -> None:
    with pytest.raises(ValueError, match="deviation positive"):
        GaussianPrior(torch.zeros(SHAPE), torch.zeros(SHAPE))
    with pytest.raises(ValueError, match="deviation positive"):
        GaussianPrior(torch.zeros(SHAPE), torch.ones(SHAPE)[:2])
    with pytest.raises(ValueError, match="action's effect"):
        GaussianPrior(torch.zeros(SHAPE), torch.ones(SHAPE), action_effect=torch.zeros(2, 3, 4, 4))
    with pytest.raises(ValueError, match="num_context"):
        GaussianPrior(torch.zeros(SHAPE), torch.ones(SHAPE), context_weight=1.0)


# Samplers land on the known answer


def miss(sampler, prior: GaussianPrior, num_steps: int) -> float:
    """The largest distance of a deterministic sampler from where the probability flow ends."""
    steps, given = pairs(prior.schedule, num_steps), facts(2)
    start = start_noise(SHAPE, 0, range(2), first=steps[0][0])
    answer = prior.destination(start, steps[0][0].of(start), given)
    return (sampler(prior, start, given, pairs=steps) - answer).abs().max().item()


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampler", [ddim, euler_flow, dpm_solver_pp_2m])
def test_deterministic_samplers_land_on_the_flow(sampler, kind: Kind, name: str) -> None:
    prior = tiny(kind, SCHEDULES[name])
    if kind == "noise" and prior.schedule.may_be_pure:
        with pytest.raises(ValueError, match="noise prediction says nothing"):
            miss(sampler, prior, 10)
        return
    num_steps = min(prior.schedule.num_levels, 200)
    coarse, fine = miss(sampler, prior, num_steps // 8), miss(sampler, prior, num_steps)
    assert fine < 0.05
    assert fine < coarse / 4


def test_all_levels_come_nearer_still() -> None:
    assert miss(ddim, tiny("velocity", schedules.flow()), 1000) < 0.005


def test_the_second_order_sampler_has_a_second_order_error() -> None:
    """Down to the first level, that is: the last step to a clean video is of first order."""
    prior = tiny("velocity", schedules.linear())

    def miss_of_first_level(sampler, num_steps: int) -> float:
        steps, given = pairs(prior.schedule, num_steps, to_clean=False), facts(2)
        start, last = start_noise(SHAPE, 0, range(2), first=steps[0][0]), steps[-1][1]
        mean = prior.mean_given(given)
        standard = (prior.destination(start, steps[0][0].of(start), given) - mean) / prior.deviation
        answer = last.alpha * mean + ((last.alpha * prior.deviation) ** 2 + last.sigma**2).sqrt() * standard
        return (sampler(prior, start, given, pairs=steps) - answer).abs().max().item()

    coarse, fine = (miss_of_first_level(dpm_solver_pp_2m, num_steps) for num_steps in (50, 200))
    assert fine < coarse / 8
    assert fine < miss_of_first_level(ddim, 200) / 3


@pytest.mark.parametrize("name", ["linear", "sigmoid", "zero_snr", "flow"])
@pytest.mark.parametrize("sampler", [ancestral, lambda *a, **k: ddim(*a, eta=1.0, **k)], ids=["ancestral", "ddim"])
def test_stochastic_samplers_draw_from_the_data(sampler, name: str) -> None:
    """Mean and deviation of many pixels are those that the steps' own recursion gives, and near those of the data."""
    mean, deviation, shape = 0.4, 0.3, (1, 1, 200, 200)
    schedule = SCHEDULES[name]
    prior = GaussianPrior(torch.full(shape, mean), torch.full(shape, deviation), schedule=schedule)
    steps = pairs(schedule, 150)
    start = start_noise(shape, 0, range(2), first=steps[0][0])
    pixels = sampler(prior, start, Conditioning(), pairs=steps).flatten()

    expected_mean, expected_variance = 0.0, steps[0][0].sigma ** 2
    for here, there in steps:
        ratio, added = here.alpha / there.alpha, here.sigma**2 - (here.alpha / there.alpha * there.sigma) ** 2
        gain = here.alpha * deviation**2 / (here.alpha**2 * deviation**2 + here.sigma**2)
        slope = (ratio * there.sigma**2 + there.alpha * added * gain) / here.sigma**2
        offset = there.alpha * added * (1 - gain * here.alpha) * mean / here.sigma**2
        expected_mean = slope * expected_mean + offset
        expected_variance = slope**2 * expected_variance + posterior_variance(here, there)

    count = len(pixels)
    assert abs(pixels.mean().item() - expected_mean) < 4 * expected_variance**0.5 / count**0.5
    assert abs(pixels.var().item() / expected_variance - 1) < 4 * (2 / count) ** 0.5
    assert abs(expected_mean - mean) < 0.01
    assert abs(expected_variance**0.5 - deviation) < 0.1 * deviation


def test_all_ancestral_steps_draw_from_the_data() -> None:
    mean, deviation, shape = 0.4, 0.3, (1, 1, 100, 100)
    prior = GaussianPrior(torch.full(shape, mean), torch.full(shape, deviation))
    steps = pairs(prior.schedule, 1000)
    pixels = ancestral(prior, start_noise(shape, 0, range(2), first=steps[0][0]), Conditioning(), pairs=steps)
    assert abs(pixels.mean().item() - mean) < 0.01
    assert abs(pixels.std().item() - deviation) < 0.03 * deviation
