"""Compositions against the formulas they are named after, by priors whose every answer is known."""

import pytest
import torch
from torch import Tensor

from trimtab.adapters.composition import (
    Composition,
    Voice,
    action_guidance,
    classifier_free_guidance,
    product_of_experts,
)
from trimtab.core.values import Conditioning, NoiseLevel, Prediction, Video, Weights
from trimtab.diffusion import sampling
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


def test_told_and_untold_are_asked_at_once() -> None:
    class Counted:
        uses, space, calls = EXPERT.uses, EXPERT.space, 0

        def bind(self, given: Conditioning):  # type: ignore[no-untyped-def]
            ask = EXPERT.bind(given)

            def denoise(noisy: Video, level: NoiseLevel) -> Prediction:
                self.calls += 1
                return ask(noisy, level)

            return denoise

    expert = Counted()
    action_guidance(PRIOR, expert, 1.0).bind(GIVEN)(NOISY, at(10))
    assert expert.calls == 1


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
