"""Compositions against the formulas they are named after, by priors whose every answer is known."""

import pytest
import torch
from torch import Tensor

from trimtab.adapters.composition import (
    Composition,
    Voice,
    action_guidance,
    classifier_free_guidance,
    inverse_probabilistic_adaptation,
    probabilistic_adaptation,
    product_of_experts,
)
from trimtab.core.values import Conditioning, NoiseLevel, Prediction, Video, Weights
from trimtab.diffusion import sampling
from trimtab.diffusion.schedules import cosine, linear
from trimtab.priors import gaussian
from trimtab.priors.gaussian import GaussianPrior

PRIOR = gaussian.tiny()
EXPERT = GaussianPrior(
    mean=PRIOR.mean + 0.5,
    deviation=0.8 * PRIOR.deviation,
    action_effect=0.7 * torch.ones(3, 3, 8, 8) * torch.tensor([-1.0, 0.0, 1.0])[:, None, None, None],
    kind="noise",
)
GIVEN = Conditioning(context=torch.zeros(2, 2, 3, 8, 8), actions=torch.tensor([[0, 1, 2, 2], [2, 2, 0, 1]]))
NOISY = torch.randn(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def at(index: int) -> NoiseLevel:
    return PRIOR.schedule.level(torch.full((2,), index))


def noises(index: int) -> tuple[Tensor, Tensor, Tensor]:
    """The prior's, the told and the untold expert's."""
    untold = GIVEN.without("actions")
    asked = ((PRIOR, untold), (EXPERT, GIVEN), (EXPERT, untold))
    first, told, blind = (denoiser.bind(given)(NOISY, at(index)).noise for denoiser, given in asked)
    return first, told, blind


@pytest.mark.parametrize("index", [0, 400, 999])
def test_a_product_of_experts_is_the_weighted_sum_of_noises(index: int) -> None:
    prior, told, _ = noises(index)
    found = product_of_experts(PRIOR, EXPERT, 0.3).bind(GIVEN)(NOISY, at(index))
    assert found.kind == PRIOR.kind
    torch.testing.assert_close(found.noise, 0.7 * prior + 0.3 * told, rtol=1e-3, atol=1e-4)


def test_an_expert_may_be_off_below_a_level_and_fade() -> None:
    cut = product_of_experts(PRIOR, EXPERT, 0.3, off_below=500).bind(GIVEN)
    for index, weight in ((499, 0.0), (500, 0.3)):
        prior, told, _ = noises(index)
        expected = (1 - weight) * prior + weight * told
        torch.testing.assert_close(cut(NOISY, at(index)).noise, expected, rtol=1e-3, atol=1e-4)
    prior, told, _ = noises(333)
    fading = product_of_experts(PRIOR, EXPERT, 0.3, fades=True).bind(GIVEN)
    torch.testing.assert_close(fading(NOISY, at(333)).noise, prior + 0.1 * (told - prior), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("index", [0, 400, 999])
def test_guidance_adds_what_knowing_the_actions_changes(index: int) -> None:
    prior, told, untold = noises(index)
    guided = action_guidance(PRIOR, EXPERT, 1.5).bind(GIVEN)(NOISY, at(index)).noise
    torch.testing.assert_close(guided, prior + 1.5 * (told - untold), rtol=1e-3, atol=2e-4)
    free = classifier_free_guidance(EXPERT, 2.0).bind(GIVEN)(NOISY, at(index)).noise
    torch.testing.assert_close(free, untold + 2.0 * (told - untold), rtol=1e-3, atol=2e-4)


def test_guidance_by_weight_one_and_zero_is_one_voice_alone() -> None:
    prior, told, untold = noises(400)
    for weight, expected in ((0.0, untold), (1.0, told)):
        found = classifier_free_guidance(EXPERT, weight).bind(GIVEN)(NOISY, at(400)).noise
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    found = product_of_experts(PRIOR, EXPERT, 0.0).bind(GIVEN)(NOISY, at(400)).noise
    torch.testing.assert_close(found, prior, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wrong", [-1, 1000, 10**6])
def test_a_level_that_is_none_is_refused(wrong: int) -> None:
    with pytest.raises(ValueError, match=f"off_below is a level, 0 .. 999, got {wrong}"):
        product_of_experts(PRIOR, EXPERT, 0.3, off_below=wrong)
    with pytest.raises(ValueError, match=f"off_below is a level, 0 .. 999, got {wrong}"):
        action_guidance(PRIOR, EXPERT, 0.3, off_below=wrong)


def test_guidance_outside_sense_is_refused() -> None:
    for weight in (-1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="guidance is from 0, untold, over 1, told, on, and finite"):
            classifier_free_guidance(EXPERT, weight)
    with pytest.raises(ValueError, match="differ by text, which this model does not use"):
        classifier_free_guidance(EXPERT, 2.0, untold=("text",))


class Counted:
    """The expert; how many clips it was asked about in each call."""

    uses, space = EXPERT.uses, EXPERT.space

    def __init__(self) -> None:
        self.calls: list[int] = []

    def bind(self, given: Conditioning):  # type: ignore[no-untyped-def]
        ask = EXPERT.bind(given)

        def denoise(noisy: Video, level: NoiseLevel) -> Prediction:
            self.calls.append(len(noisy))
            return ask(noisy, level)

        return denoise


def test_told_and_untold_are_asked_at_once() -> None:
    expert = Counted()
    action_guidance(PRIOR, expert, 1.0).bind(GIVEN)(NOISY, at(10))
    assert expert.calls == [4]


def test_who_has_no_weight_at_a_level_is_not_asked() -> None:
    expert = Counted()
    for weight, calls in ((0.0, [2]), (1.0, [2]), (2.0, [4])):
        expert.calls.clear()
        classifier_free_guidance(expert, weight).bind(GIVEN)(NOISY, at(400))
        assert expert.calls == calls
    nobody = Composition([Voice(expert), Voice(expert)], lambda level: Weights((0.0, 0.0), 1.0))
    assert nobody.bind(GIVEN)(NOISY, at(0)).noise.isfinite().all()


def test_a_product_is_sampled_into_what_both_expect() -> None:
    """Two Gaussians of one deviation: at every level the product's mean lies between theirs, by the weight."""
    shifted = GaussianPrior(mean=PRIOR.mean + 1.0, deviation=PRIOR.deviation, context_weight=0.5, num_context=2)
    start = torch.randn(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    product = product_of_experts(PRIOR, shifted, 0.25)
    pairs = sampling.pairs(PRIOR.schedule, 200)
    untold = GIVEN.without("actions")
    alone, mixed = (sampling.ddim(denoiser, start, untold, pairs=pairs) for denoiser in (PRIOR, product))
    torch.testing.assert_close(mixed - alone, torch.full_like(alone, 0.25), rtol=0, atol=0.01)


def test_voices_of_two_spaces_are_refused() -> None:
    class Elsewhere:
        uses, space = PRIOR.uses, "latents"
        bind = PRIOR.bind

    with pytest.raises(
        ValueError, match=r"voices of one space can be combined, these live in 2: \['frames', 'latents'\]"
    ):
        Composition([Voice(PRIOR), Voice(Elsewhere())], lambda level: Weights.of(0.5, 0.5))


SHARED = linear(first=0.00085, last=0.012)  # the paper's


def speaking(seed: int) -> GaussianPrior:
    """A prior that hears texts of two features."""
    effect = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return GaussianPrior(PRIOR.mean + seed, PRIOR.deviation, text_effect=effect, schedule=SHARED)


BIG, SMALL = speaking(0), speaking(1)
TOLD = Conditioning(text=torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(2)))
NEGATIVE = torch.randn(5, 2, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("index", [0, 400, 999])
def test_probabilistic_adaptation_and_its_inverse_are_the_paper_s_equations(index: int) -> None:
    level = SHARED.level(torch.full((2,), index))
    untold, instead = TOLD.without("text"), Conditioning(text=NEGATIVE.expand(2, 5, 2))
    big, small, big_untold, small_untold, big_negative = (
        model.bind(given)(NOISY, level).noise
        for model, given in ((BIG, TOLD), (SMALL, TOLD), (BIG, untold), (SMALL, untold), (BIG, instead))
    )
    near = {"rtol": 1e-3, "atol": 1e-3}
    found = probabilistic_adaptation(SMALL, BIG, guidance=2.5, prior_strength=0.1).bind(TOLD)(NOISY, level)
    torch.testing.assert_close(found.noise, small_untold + 2.5 * (small + 0.1 * big - small_untold), **near)
    assert not found.weights_sum_to_one
    inverse = {"guidance": 2.5, "in_domain_strength": 0.5}
    for negative, silent in ((None, big_untold), (NEGATIVE, big_negative)):
        expected = silent + 2.5 * (big + 0.5 * small - silent)
        composed = inverse_probabilistic_adaptation(SMALL, BIG, negative=negative, **inverse)
        torch.testing.assert_close(composed.bind(TOLD)(NOISY, level).noise, expected, **near)
        guided = classifier_free_guidance(BIG, 7.5, ("text",), negative).bind(TOLD)(NOISY, level).noise
        torch.testing.assert_close(guided, silent + 7.5 * (big - silent), **near)
    normalised = inverse_probabilistic_adaptation(SMALL, BIG, normalise=True, **inverse).bind(TOLD)(NOISY, level)
    expected = (big_untold + 2.5 * (big + 0.5 * small - big_untold)) / 2.25
    torch.testing.assert_close(normalised.noise, expected, **near)
    assert normalised.weights_sum_to_one


def test_the_in_domain_voice_may_be_silent_above_a_level() -> None:
    options = {"guidance": 2.5, "in_domain_strength": 0.5}
    alone = classifier_free_guidance(BIG, 2.5, ("text",))
    for normalise in (False, True):
        late = inverse_probabilistic_adaptation(SMALL, BIG, normalise=normalise, off_above=400, **options)
        whole = inverse_probabilistic_adaptation(SMALL, BIG, normalise=normalise, **options)
        for indices, expected in (
            ((401, 999), (alone, alone)),
            ((0, 400), (whole, whole)),
            ((401, 400), (alone, whole)),
        ):
            level = SHARED.level(torch.tensor(indices))
            found = late.bind(TOLD)(NOISY, level)
            one, other = (form.bind(TOLD)(NOISY, level).noise for form in expected)
            torch.testing.assert_close(found.noise, torch.stack([one[0], other[1]]), rtol=1e-3, atol=1e-3)
    for wrong in (-1, 1000):
        with pytest.raises(ValueError, match=f"off_above is a level, 0 .. 999, got {wrong}"):
            inverse_probabilistic_adaptation(SMALL, BIG, off_above=wrong, **options)
    silent = inverse_probabilistic_adaptation(SMALL, BIG, guidance=2.5, in_domain_strength=0.0, off_above=400)
    found = silent.bind(TOLD)(NOISY, level)
    assert found.weights_sum_to_one  # so that what is believed may be clamped
    torch.testing.assert_close(found.noise, alone.bind(TOLD)(NOISY, level).noise, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("index", [0, 400, 999])
def test_the_conditioning_frame_is_the_prior_s_alone(index: int) -> None:
    """Frame 0 is drawn by the prior's own guidance in both forms, as in the paper's code, the others by the equations."""
    level, untold = SHARED.level(torch.full((2,), index)), TOLD.without("text")
    big, small, big_untold, small_untold = (
        model.bind(given)(NOISY, level).noise
        for model, given in ((BIG, TOLD), (SMALL, TOLD), (BIG, untold), (SMALL, untold))
    )
    strength = torch.tensor([0.0, 0.5, 0.25, 0.5])
    each = strength[:, None, None, None]
    first = (big_untold + 2.5 * (big - big_untold))[:, :1]
    inverse = big_untold + 2.5 * (big + each * small - big_untold)
    standard = torch.cat([first, (small_untold + 2.5 * (small + each * big - small_untold))[:, 1:]], dim=1)
    torch.testing.assert_close(inverse[:, :1], first)
    for normalise in (False, True):
        options = {"guidance": 2.5, "normalise": normalise}
        by = 1 + 2.5 * each if normalise else 1.0
        found = inverse_probabilistic_adaptation(SMALL, BIG, in_domain_strength=strength, **options)
        torch.testing.assert_close(found.bind(TOLD)(NOISY, level).noise, inverse / by, rtol=1e-3, atol=1e-3)
        found = probabilistic_adaptation(SMALL, BIG, prior_strength=strength, conditioning_frames=1, **options)
        torch.testing.assert_close(found.bind(TOLD)(NOISY, level).noise, standard / by, rtol=1e-3, atol=1e-3)
    instead = BIG.bind(Conditioning(text=NEGATIVE.expand(2, 5, 2)))(NOISY, level).noise
    found = probabilistic_adaptation(
        SMALL, BIG, guidance=2.5, prior_strength=0.1, conditioning_frames=1, negative=NEGATIVE
    )
    first = (instead + 2.5 * (big - instead))[:, :1]
    torch.testing.assert_close(found.bind(TOLD)(NOISY, level).noise[:, :1], first, rtol=1e-3, atol=1e-3)
    alone = probabilistic_adaptation(SMALL, BIG, guidance=2.5, prior_strength=0.0, conditioning_frames=1)
    assert alone.bind(TOLD)(NOISY, level).weights_sum_to_one
    short = inverse_probabilistic_adaptation(SMALL, BIG, guidance=2.5, in_domain_strength=strength).bind(TOLD)
    with pytest.raises(ValueError, match="weights of 4 frames do not fit a video of 3"):
        short(NOISY[:, :3], level)
    with pytest.raises(ValueError, match=r"conditioning_frames is 0 \.\. 3, got 4"):
        probabilistic_adaptation(SMALL, BIG, guidance=2.5, prior_strength=0.1, conditioning_frames=4)
    with pytest.raises(ValueError, match="beside conditioning_frames strengths are 4, one a frame, got 3"):
        probabilistic_adaptation(SMALL, BIG, guidance=2.5, prior_strength=torch.ones(3), conditioning_frames=1)
    with pytest.raises(
        ValueError, match="a negative text is for the prior's conditioning_frames, of which there are 0"
    ):
        probabilistic_adaptation(SMALL, BIG, guidance=2.5, prior_strength=0.1, negative=NEGATIVE)


def test_weights_that_are_no_finite_numbers_are_refused() -> None:
    for wrong in (float("nan"), float("inf")):
        for guidance, strength in ((wrong, 0.1), (2.5, wrong), (2.5, torch.tensor([0.1, wrong, 0.1, 0.1]))):
            named = f"guidance is 1, .* got {wrong}" if guidance is wrong else f"a strength is 0, .* got .*{wrong}"
            with pytest.raises(ValueError, match=named):
                probabilistic_adaptation(SMALL, BIG, guidance=guidance, prior_strength=strength)
            with pytest.raises(ValueError, match=named):
                inverse_probabilistic_adaptation(SMALL, BIG, guidance=guidance, in_domain_strength=strength)
        for models, compose in (
            ((PRIOR, EXPERT), product_of_experts),
            ((PRIOR, EXPERT), action_guidance),
        ):
            with pytest.raises(ValueError, match=f"a weight is a finite number, got {wrong}"):
                compose(*models, wrong)


def test_adaptation_without_sense_is_refused() -> None:
    for numbers in (
        {"guidance": 0.5, "prior_strength": 0.1},
        {"guidance": 1e30, "prior_strength": 0.1},
        {"guidance": 2.5, "prior_strength": 1e30},
        {"guidance": 2.5, "prior_strength": -0.1},
        {"guidance": 2.5, "prior_strength": torch.tensor([0.1, -0.1, 0.1, 0.1])},
    ):
        with pytest.raises(
            ValueError, match=r"guidance is 1, which is the told model alone, to 1000|a strength is 0, .* to 1000"
        ):
            probabilistic_adaptation(SMALL, BIG, **numbers)
    with pytest.raises(ValueError, match="a strength is one for all frames or one for each, got none"):
        probabilistic_adaptation(SMALL, BIG, guidance=2.5, prior_strength=torch.tensor([]))
    with pytest.raises(ValueError, match="which the other model, GaussianPrior, does not hear"):
        probabilistic_adaptation(SMALL, PRIOR, guidance=2.5, prior_strength=0.1)
    nearly_pure = GaussianPrior(BIG.mean, BIG.deviation, text_effect=BIG.text_effect, schedule=cosine())
    with pytest.raises(ValueError, match=r"weights that sum to 1\.25 need a schedule that ends at alpha >= 0.03"):
        probabilistic_adaptation(SMALL, nearly_pure, guidance=2.5, prior_strength=0.1)
    probabilistic_adaptation(SMALL, nearly_pure, guidance=2.5, prior_strength=0.1, normalise=True)
    composed = inverse_probabilistic_adaptation(SMALL, BIG, guidance=2.5, in_domain_strength=0.5, negative=NEGATIVE[:3])
    with pytest.raises(ValueError, match="encode both to the same length"):
        composed.bind(TOLD)
