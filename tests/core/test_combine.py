"""Combinations of beliefs are the published formulas, in every parameterisation, and refuse what has no answer.

Voices are Gaussian priors, whose densities are known: the noise of a combination must be -sigma times the gradient of
the weighted sum of their log densities.
"""

from collections.abc import Callable
from itertools import product
from typing import get_args

import pytest
import torch
from hypothesis import given as hypothesis_given
from hypothesis import settings
from hypothesis import strategies as some

from trimtab.core.values import Conditioning, Kind, NoiseLevel, Prediction, Video, Weights, combine, stack
from trimtab.diffusion import schedules
from trimtab.diffusion.noise import gaussian_noise
from trimtab.diffusion.sampling import ancestral, ddim, pairs, start_noise
from trimtab.diffusion.schedules import Schedule
from trimtab.priors.gaussian import GaussianPrior

KINDS: tuple[Kind, ...] = get_args(Kind)
SHAPE = (2, 1, 4, 4)
ACTIONS = Conditioning(actions=torch.tensor([[0, 1], [1, 1], [1, 0]]))
NOTHING = Conditioning()
PURE = {"flow": schedules.flow(200), "zero_snr": schedules.zero_terminal_snr(schedules.scaled_linear(200))}


def prior_of(number: int, kind: Kind) -> GaussianPrior:
    """Prior number 0, the large model, or 1, the small one told actions."""
    mean, spread, effect = (gaussian_noise(SHAPE, seed=number, step=k, samples=[0])[0] for k in range(3))
    return GaussianPrior(mean, 0.5 + torch.sigmoid(spread), action_effect=effect, kind=kind)


def noisy_at(schedule: Schedule, indices: tuple[int, int, int]) -> tuple[Video, NoiseLevel]:
    level = schedule.level(torch.tensor(indices))
    return 1.2 * gaussian_noise(SHAPE, seed=7, step=0, samples=range(3)), level


def log_density(prior: GaussianPrior, given: Conditioning, noisy: Video, level: NoiseLevel) -> Video:
    alpha, sigma = level.broadcast()
    scale = ((alpha * prior.deviation) ** 2 + sigma**2).sqrt()
    return torch.distributions.Normal(alpha * prior.mean_given(given), scale).log_prob(noisy)


# Every published formula, written as its authors do, on noises; and as weights.
# big and small are the two models, told or untold; w, a (guidance) and g (prior strength) are the authors' numbers.

Voices = list[tuple[int, Conditioning]]
BIG, BIG_TOLD, SMALL, SMALL_TOLD = (0, NOTHING), (0, ACTIONS), (1, NOTHING), (1, ACTIONS)
w, a, g = 0.4, 2.5, 0.5

FORMULAS: dict[str, tuple[Voices, Weights, Callable[..., Video], float]] = {
    "product of experts": (
        [BIG, SMALL_TOLD],
        Weights.remainder(w),
        lambda big, small: (1 - w) * big + w * small,
        1.0,
    ),
    "base CFG": ([BIG, SMALL_TOLD], Weights.remainder(w), lambda big, small: big + w * (small - big), 1.0),
    "classifier-free guidance": (
        [SMALL, SMALL_TOLD],
        Weights.remainder(a),
        lambda untold, told: untold + a * (told - untold),
        1.0,
    ),
    "action CFG": (
        [BIG, SMALL_TOLD, SMALL],
        Weights.of(1.0, w, -w),
        lambda big, told, untold: big + w * (told - untold),
        1.0,
    ),
    "probabilistic adaptation": (
        [SMALL, SMALL_TOLD, BIG_TOLD],
        Weights.of(1 - a, a, a * g),
        lambda untold, told, big: untold + a * (told + g * big - untold),
        1 + a * g,
    ),
    "inverse probabilistic adaptation": (
        [BIG, BIG_TOLD, SMALL_TOLD],
        Weights.of(1 - a, a, a * g),
        lambda untold, told, small: untold + a * (told + g * small - untold),
        1 + a * g,
    ),
}
every_formula = pytest.mark.parametrize("formula", FORMULAS.values(), ids=FORMULAS)


@every_formula
@pytest.mark.parametrize("kind", KINDS)
def test_formulas_hold_in_every_kind(formula, kind: Kind) -> None:
    voices, weights, written_out, total = formula
    check(voices, weights, written_out, total, [kind] * len(voices))


@every_formula
@pytest.mark.parametrize("kinds", list(product(KINDS, KINDS)), ids="-".join)
def test_formulas_hold_in_mixed_kinds(formula, kinds: tuple[Kind, Kind]) -> None:
    voices, weights, written_out, total = formula
    check(voices, weights, written_out, total, [kinds[0], kinds[1], kinds[0]][: len(voices)])


def check(voices: Voices, weights: Weights, written_out, total: float, kinds: list[Kind]) -> None:
    priors = [prior_of(number, kind) for (number, _), kind in zip(voices, kinds, strict=True)]
    noisy, level = noisy_at(schedules.sigmoid(), (20, 90, 160))
    alpha, sigma = level.broadcast()
    beliefs = [prior.bind(given)(noisy, level) for prior, (_, given) in zip(priors, voices, strict=True)]
    result = combine(beliefs, weights)

    assert result.kind == kinds[0]
    assert weights.total == pytest.approx(total)
    assert weights.sum_to_one == result.weights_sum_to_one == (total == 1.0)
    exact = {"rtol": 1e-3, "atol": 1e-3}
    torch.testing.assert_close(result.noise, written_out(*(belief.noise for belief in beliefs)), **exact)
    clean = sum(w * belief.clean for w, belief in zip(weights.values, beliefs, strict=True))
    torch.testing.assert_close(result.clean, clean + (1 - total) * noisy / alpha, **exact)

    variable = noisy.clone().requires_grad_()
    log_densities = [
        log_density(prior, given, variable, level) for prior, (_, given) in zip(priors, voices, strict=True)
    ]
    mixture = sum(w * value.sum() for w, value in zip(weights.values, log_densities, strict=True))
    (score,) = torch.autograd.grad(mixture, variable)
    torch.testing.assert_close(result.noise, -sigma * score, **exact)


@pytest.mark.parametrize("kinds", list(product(KINDS, KINDS)), ids="-".join)
def test_a_mask_mixes_frame_by_frame_and_pixel_by_pixel(kinds: tuple[Kind, Kind]) -> None:
    """AVID: the mask weighs the prior and one minus the mask the adapter."""
    noisy, level = noisy_at(schedules.sigmoid(), (20, 90, 160))
    beliefs = [prior_of(k, kind).bind(ACTIONS)(noisy, level) for k, kind in enumerate(kinds)]
    mask = torch.sigmoid(gaussian_noise((2, 1, 4, 4), seed=3, step=0, samples=range(3)))
    mask[:, 0] = 1  # the adapter abstains on the first frame
    result = combine(beliefs, Weights.remainder(1 - mask))
    assert result.weights_sum_to_one
    torch.testing.assert_close(
        result.clean, mask * beliefs[0].clean + (1 - mask) * beliefs[1].clean, rtol=1e-3, atol=1e-3
    )
    torch.testing.assert_close(result.tensor[:, 0], beliefs[0].tensor[:, 0], rtol=1e-3, atol=1e-3)


@settings(max_examples=60, deadline=None)
@hypothesis_given(
    some.lists(some.floats(-3, 3), min_size=3, max_size=3),
    some.lists(some.sampled_from(KINDS), min_size=3, max_size=3),
    some.lists(some.integers(0, 150), min_size=3, max_size=3),
)
def test_any_weights_add_predicted_noises(values: list[float], kinds: list[Kind], indices: list[int]) -> None:
    level = schedules.sigmoid().level(torch.tensor(indices))
    noisy = gaussian_noise(SHAPE, seed=7, step=0, samples=range(3))
    believed = [gaussian_noise(SHAPE, seed=9, step=k, samples=range(3)) for k in range(3)]
    beliefs = [Prediction(e, "noise", noisy, level).as_kind(kind) for e, kind in zip(believed, kinds, strict=True)]
    result = combine(beliefs, Weights.of(*values))
    expected = sum(value * noise for value, noise in zip(values, believed, strict=True))
    torch.testing.assert_close(result.noise, expected, rtol=1e-2, atol=1e-2)


# The normalised form


@every_formula
@pytest.mark.parametrize("kind", KINDS)
def test_the_normalised_form_divides_the_weights_by_their_sum(formula, kind: Kind) -> None:
    voices, weights, written_out, total = formula
    noisy, level = noisy_at(schedules.sigmoid(), (20, 90, 160))
    beliefs = [prior_of(number, kind).bind(given)(noisy, level) for number, given in voices]
    result = combine(beliefs, weights, normalise=True)
    assert result.weights_sum_to_one
    expected = written_out(*(belief.noise for belief in beliefs)) / total
    torch.testing.assert_close(result.noise, expected, rtol=1e-3, atol=1e-3)


@every_formula
@pytest.mark.parametrize("kind", ["clean", "velocity", "flow"])
@pytest.mark.parametrize("schedule", PURE.values(), ids=PURE)
def test_mixtures_are_finite_at_pure_noise_and_others_refused(formula, kind: Kind, schedule: Schedule) -> None:
    voices, weights, _, total = formula
    noisy, level = noisy_at(schedule, (0, 100, 199))
    beliefs = [prior_of(number, kind).bind(given)(noisy, level) for number, given in voices]
    if total == 1.0:
        result = combine(beliefs, weights)
        for name in KINDS:
            assert torch.isfinite(getattr(result, name)).all()
    else:
        with pytest.raises(ValueError, match="ends in pure noise"):
            combine(beliefs, weights)
    normalised = combine(beliefs, weights, normalise=True)
    clean = sum(w / total * belief.clean for w, belief in zip(weights.values, beliefs, strict=True))
    torch.testing.assert_close(normalised.clean, clean, rtol=1e-3, atol=1e-3)


def test_pure_noise_is_refused_from_the_schedule_not_from_the_tensors() -> None:
    noisy, level = noisy_at(PURE["flow"], (0, 50, 100))  # none of these is pure
    beliefs = [prior_of(k, "flow").bind(NOTHING)(noisy, level) for k in range(2)]
    with pytest.raises(ValueError, match="normalise=True"):
        combine(beliefs, Weights.of(1.0, 0.5))


@every_formula
@pytest.mark.parametrize("kind", KINDS)
def test_no_combination_looks_at_a_tensor(formula, kind: Kind) -> None:
    """A tensor of the meta device has no values, so a look at them, which would stall an accelerator, is an error."""
    voices, weights, _, _ = formula
    noisy, level = noisy_at(schedules.sigmoid(), (20, 90, 160))
    there = NoiseLevel(level.alpha.to("meta"), level.sigma.to("meta"))
    beliefs = [Prediction(noisy.to("meta"), kind, noisy.to("meta"), there) for _ in voices]
    for normalise in (False, True):
        assert combine(beliefs, weights, normalise=normalise).clean.device.type == "meta"


# Weights


def test_weights_know_their_sum() -> None:
    mask = torch.rand(3, 2, 1, 4, 4)
    assert Weights.remainder(mask, 2.5).sum_to_one
    assert Weights.of(1, 0.3, -0.3).sum_to_one
    assert Weights.of(0.1, 0.2, 0.7).sum_to_one
    assert not Weights.of(1, 1).sum_to_one
    assert not Weights.of(mask, 1 - mask).sum_to_one  # not known from the formula: use remainder
    assert Weights.of(1, 1).normalised().values == (0.5, 0.5)
    assert Weights.of(1, 1).normalised().sum_to_one
    with pytest.raises(ZeroDivisionError):
        Weights.of(1.0, -1.0).normalised()


def test_counts_that_differ_are_refused() -> None:
    noisy, level = noisy_at(schedules.sigmoid(), (20, 90, 160))
    belief = prior_of(0, "clean").bind(NOTHING)(noisy, level)
    with pytest.raises(ValueError, match="one weight a voice"):
        combine([belief], Weights.of(0.5, 0.5))
    with pytest.raises(ValueError, match="one weight a voice"):
        combine([], Weights(values=(), total=1.0))


def test_a_product_inside_a_mixture_is_still_a_product() -> None:
    noisy, level = noisy_at(schedules.sigmoid(), (20, 90, 160))
    beliefs = [prior_of(k, "clean").bind(NOTHING)(noisy, level) for k in range(2)]
    product_of_both = combine(beliefs, Weights.of(1.0, 1.0))
    nested = combine([beliefs[0], product_of_both], Weights.remainder(0.5))
    flat = combine(beliefs, Weights.of(1.0, 0.5))
    torch.testing.assert_close(nested.clean, flat.clean, rtol=1e-3, atol=1e-3)
    assert not nested.weights_sum_to_one


# Through a sampler


class Guided:
    """Two passes of one prior, told and untold, run as one batch and combined."""

    space = "frames"

    def __init__(self, prior: GaussianPrior, weights: Weights) -> None:
        self.prior, self.weights, self.uses = prior, weights, prior.uses

    def bind(self, given: Conditioning) -> Callable[[Video, NoiseLevel], Prediction]:
        denoise = self.prior.bind(stack([given.without("actions"), given]))

        def combined(noisy: Video, level: NoiseLevel) -> Prediction:
            twice = NoiseLevel(level.alpha.repeat(2), level.sigma.repeat(2), level.may_be_pure)
            both = denoise(noisy.repeat(2, 1, 1, 1, 1), twice).tensor.chunk(2)
            return combine([Prediction(tensor, self.prior.kind, noisy, level) for tensor in both], self.weights)

        return combined


@pytest.mark.parametrize("kind", KINDS)
def test_guidance_moves_the_sample_by_the_guided_mean(kind: Kind) -> None:
    """Told and untold have one variance, so guidance by w is the Gaussian whose mean is moved w times as far."""
    prior = prior_of(0, kind)
    steps = pairs(schedules.scaled_linear(), 100)
    start = start_noise(SHAPE, 0, range(3), first=steps[0][0])
    guided = ddim(Guided(prior, Weights.remainder(a)), start, ACTIONS, pairs=steps)
    moved = GaussianPrior(prior.mean, prior.deviation, action_effect=a * prior.action_effect, kind=kind)
    torch.testing.assert_close(guided, ddim(moved, start, ACTIONS, pairs=steps), rtol=1e-3, atol=1e-3)


def test_a_clamp_after_weights_that_do_not_sum_to_one_is_refused() -> None:
    steps = pairs(schedules.scaled_linear(), 5)
    start = start_noise(SHAPE, 0, range(3), first=steps[0][0])
    product_of_both = Guided(prior_of(0, "velocity"), Weights.of(1.0, 1.0))
    with pytest.raises(ValueError, match="clamp would destroy"):
        ancestral(product_of_both, start, ACTIONS, pairs=steps, clamp=(-1.0, 1.0))
    mixture = Guided(prior_of(0, "velocity"), Weights.remainder(0.5))
    assert ancestral(mixture, start, ACTIONS, pairs=steps, clamp=(-1.0, 1.0)).abs().max() <= 1
