from copy import deepcopy

import pytest
import torch

from trimtab.core.contracts import Prior
from trimtab.core.values import Conditioning
from trimtab.priors import gaussian
from trimtab.priors.remembering import Remembering


class Counting(gaussian.GaussianPrior):
    """Counts how often it is asked."""

    asked = 0

    def bind(self, given):
        ask = super().bind(given)

        def count(noisy, level):
            self.asked += 1
            return ask(noisy, level)

        return count


@pytest.fixture
def prior() -> Counting:
    torch.manual_seed(0)
    mean, deviation = torch.randn(3, 1, 4, 4), torch.rand(3, 1, 4, 4) + 0.5
    return Counting(mean, deviation, context_weight=0.5, num_context=1)


def question(prior: Prior, seed: int):
    generator = torch.Generator().manual_seed(seed)
    context = torch.rand(2, 1, 1, 4, 4, generator=generator)
    noisy = torch.randn(2, 3, 1, 4, 4, generator=generator)
    return Conditioning(context=context), noisy, prior.schedule.level(torch.tensor([5, 50]))


def test_the_same_question_is_asked_once_and_answered_the_same(prior: Counting) -> None:
    remembering = Remembering(prior, 2)
    given, noisy, level = question(prior, 0)
    first, again = remembering.bind(given)(noisy, level), remembering.bind(given)(noisy.clone(), level)
    assert prior.asked == 1
    assert torch.equal(first.tensor, prior.bind(given)(noisy, level).tensor)
    assert torch.equal(again.tensor, first.tensor)
    assert again.kind == first.kind


def test_every_part_of_the_question_counts(prior: Counting) -> None:
    remembering = Remembering(prior, 9)
    given, noisy, level = question(prior, 0)
    others = [
        (Conditioning(context=given.context + 1), noisy, level),
        (given.forget("context", torch.tensor([True, False])), noisy, level),
        (given, noisy + 1, level),
        (given, noisy, prior.schedule.level(torch.tensor([5, 51]))),
    ]
    for asked in [(given, noisy, level), *others]:
        belief = remembering.bind(asked[0])(*asked[1:])
        assert torch.equal(belief.tensor, prior.bind(asked[0])(*asked[1:]).tensor)
    assert len(remembering.answers) == 5


def test_what_the_prior_does_not_use_does_not_count(prior: Counting) -> None:
    remembering = Remembering(prior, 2)
    given, noisy, level = question(prior, 0)
    remembering.bind(given)(noisy, level)
    remembering.bind(Conditioning(context=given.context, state=torch.ones(2, 4)))(noisy, level)
    assert prior.asked == 1


def test_the_oldest_answer_goes_first(prior: Counting) -> None:
    remembering = Remembering(prior, 2)
    for seed in (0, 1, 2, 1, 2, 0):
        given, noisy, level = question(prior, seed)
        remembering.bind(given)(noisy, level)
    assert prior.asked == 4


def test_nothing_is_kept_of_sampling(prior: Counting) -> None:
    remembering = Remembering(prior, 2)
    given, noisy, level = question(prior, 0)
    with torch.no_grad():
        remembering.bind(given)(noisy, level)
    assert not remembering.answers


def test_it_is_the_other_prior_in_all_else(prior: Counting) -> None:
    remembering = Remembering(prior, 2)
    assert isinstance(remembering, Prior)
    assert remembering.fingerprint == prior.fingerprint
    assert remembering.uses == prior.uses
    assert deepcopy(remembering).fingerprint == prior.fingerprint
