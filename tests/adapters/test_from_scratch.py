"""A model from scratch uses the facts that it was built for, and composes with a prior that hears the same texts."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from trimtab import checkpoints
from trimtab.adapters.avid import AVID
from trimtab.adapters.composition import inverse_probabilistic_adaptation
from trimtab.adapters.from_scratch import FromScratch
from trimtab.core.values import Conditioning, stack
from trimtab.priors.pixel_unet import PixelUNet, PixelUNetSettings

TINY = {"widths": (32,), "depths": (1,), "patch": 1}
TEXT = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))
GIVEN = Conditioning(context=torch.zeros(2, 2, 3, 16, 16), text=TEXT)


@pytest.fixture(scope="module")
def prior() -> PixelUNet:
    settings = PixelUNetSettings(sizes={**TINY, "text_dim": 6}, num_frames=3, frame_shape=(3, 16, 16), num_levels=50)
    return randomised(PixelUNet(settings)).frozen()


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    return model.eval()


def test_it_uses_what_it_was_built_for(prior: PixelUNet) -> None:
    assert FromScratch(prior, **TINY).uses == {"context"}
    assert FromScratch(prior, num_actions=3, **TINY).uses == {"context", "actions"}
    assert FromScratch(prior, text_dim=6, **TINY).uses == {"context", "text"}
    assert FromScratch(prior, text_dim=6, action_dim=4, **TINY).uses == {"context", "actions", "text"}
    assert prior.uses == {"context", "text"}
    assert AVID(prior, text_dim=6, **TINY).uses == {"context", "text"}
    assert AVID(prior, action_dim=4, **TINY).uses == {"context", "actions", "text"}


def test_an_adapter_told_words_alone_ignores_actions(prior: PixelUNet) -> None:
    model = randomised(AVID(prior, text_dim=6, **TINY))
    noisy, level = torch.randn(2, 3, 3, 16, 16), prior.schedule.level(torch.full((2,), 20))
    told = replace(GIVEN, actions=torch.ones(2, 3, 4))
    assert torch.equal(model.bind(told)(noisy, level).clean, model.bind(GIVEN)(noisy, level).clean)


def test_told_and_untold_in_one_batch_are_those_asked_apart(prior: PixelUNet) -> None:
    noisy = torch.randn(2, 3, 3, 16, 16)
    level = prior.schedule.level(torch.full((2,), 20))
    twice = prior.schedule.level(torch.full((4,), 20))
    for model in (
        prior,
        randomised(FromScratch(prior, text_dim=6, **TINY)),
        randomised(AVID(prior, text_dim=6, **TINY)),
    ):
        together = model.bind(stack([GIVEN.without("text"), GIVEN]))(torch.cat([noisy, noisy]), twice).clean
        untold, told = (model.bind(given)(noisy, level).clean for given in (GIVEN.without("text"), GIVEN))
        torch.testing.assert_close(together, torch.cat([untold, told]), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(untold, told)


def test_it_answers_without_context_if_it_is_built_to(prior: PixelUNet, tmp_path: Path) -> None:
    model = randomised(FromScratch(prior, text_dim=6, context_optional=True, **TINY))
    checkpoints.save(tmp_path, model, prior)
    noisy, level = torch.randn(2, 3, 3, 16, 16), prior.schedule.level(torch.full((2,), 20))
    question, grey = Conditioning(text=TEXT), Conditioning(context=torch.zeros(2, 2, 3, 16, 16), text=TEXT)
    found = checkpoints.load(tmp_path, FromScratch, prior).bind(question)(noisy, level).clean
    assert torch.equal(found, model.bind(grey)(noisy, level).clean)
    with pytest.raises(ValueError, match="context_optional=True"):
        FromScratch(prior, text_dim=6, **TINY).bind(question)


def test_it_is_composed_with_a_prior_after_a_round_trip(prior: PixelUNet, tmp_path: Path) -> None:
    in_domain = randomised(FromScratch(prior, text_dim=6, **TINY))
    checkpoints.save(tmp_path, in_domain, prior)
    again = checkpoints.load(tmp_path, FromScratch, prior)
    noisy, level = torch.randn(2, 3, 3, 16, 16), prior.schedule.level(torch.full((2,), 20))
    beliefs = [
        inverse_probabilistic_adaptation(model, prior, guidance=2.5, in_domain_strength=0.5, normalise=True)
        for model in (in_domain, again)
    ]
    assert beliefs[0].uses == {"context", "text"}
    first, second = (belief.bind(GIVEN)(noisy, level).clean for belief in beliefs)
    torch.testing.assert_close(first, second)
