"""Classifier guidance against known likelihoods, and the classifier against what it is told."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from trimtab.adapters.classifier_guidance import ActionClassifier, ClassifierGuidance, ReadingLoss
from trimtab.core.values import Clip, Conditioning, Kind, NoiseLevel, Video
from trimtab.diffusion import schedules
from trimtab.diffusion.noise import gaussian_noise
from trimtab.diffusion.schedules import Schedule
from trimtab.priors import gaussian, pixel_unet
from trimtab.priors.gaussian import GaussianPrior

TINY: dict[str, Any] = {"widths": (32,), "depths": (1,), "patch": 1}


class Measured:
    """A classifier that is known: the clip was seen through Gaussian noise, its clean mean is the first action.

    Given noisy = alpha * clean + sigma * noise, with clean standard normal, clean is Gaussian of mean
    alpha * noisy / (alpha^2 + sigma^2); `log_likelihood` is that of one measurement of it with standard deviation one.
    """

    def log_likelihood(self, noisy: Video, level: NoiseLevel, given: Conditioning) -> Tensor:
        assert given.actions is not None
        alpha, sigma = level.broadcast()
        mean, spread = alpha * noisy / (alpha**2 + sigma**2), sigma**2 / (alpha**2 + sigma**2)
        error = given.actions[..., None, None] - mean
        return -(error**2 / (2 * (1 + spread))).flatten(1).sum(1)


SCHEDULES = (schedules.linear(), schedules.zero_terminal_snr(schedules.linear()), schedules.flow())


@pytest.mark.parametrize("index", [10, 500, 900])
@pytest.mark.parametrize("kind", ["noise", "clean", "velocity", "flow"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_it_is_bayes_rule_on_known_gaussians(index: int, kind: Kind, schedule: Schedule) -> None:
    """A standard normal prior and one measurement y of variance one: the clean mean given both is known at every level."""
    prior = GaussianPrior(torch.zeros(3, 2, 4, 4), torch.ones(3, 2, 4, 4), schedule=schedule, kind=kind)
    level = schedule.level(torch.full((2,), index))
    noisy = gaussian_noise((3, 2, 4, 4), seed=1, step=0, samples=[0, 1])
    actions = torch.tensor([[[0.5], [1.0], [-1.0]], [[2.0], [0.0], [0.3]]]).expand(-1, -1, 2)
    given = Conditioning(actions=actions, context=torch.zeros(2, 1, 2, 4, 4))
    found = ClassifierGuidance(prior, Measured(), 1.0, least_alpha=0.0).bind(given)(noisy, level).clean
    alpha, sigma = level.broadcast()
    wanted = actions[..., None, None].expand_as(noisy)
    # Precisions: 1 of the prior, (alpha / sigma)^2 of the noisy clip, 1 of the measurement.
    expected = (alpha / sigma**2 * noisy + wanted) / (1 + (alpha / sigma) ** 2 + 1)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("schedule", SCHEDULES[1:])
def test_in_pure_noise_the_prior_is_alone(schedule: Schedule) -> None:
    prior = gaussian.tiny(schedule=schedule)
    shape, last = prior.mean.shape, schedule.num_levels - 1
    noisy = gaussian_noise(tuple(shape), seed=1, step=0, samples=[0, 1])
    given = Conditioning(actions=torch.ones(2, len(prior.mean), 1), context=torch.zeros(2, 2, *shape[1:]))
    level = schedule.level(torch.tensor([last, last // 2]))
    alone = prior.bind(given.without("actions"))(noisy, level).tensor
    guided = ClassifierGuidance(prior, Measured(), 1.0, least_alpha=0.0).bind(given)(noisy, level).tensor
    assert torch.equal(guided[0], alone[0])
    assert torch.isfinite(guided[1]).all()
    assert not torch.allclose(guided[1], alone[1], atol=1e-3)


@pytest.mark.parametrize("schedule", [*SCHEDULES, schedules.cosine()])
def test_no_clean_video_is_moved_without_bound(schedule: Schedule) -> None:
    """By at most ten gradients at any level; where alpha is less, by none."""
    prior = GaussianPrior(torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4), schedule=schedule, kind="velocity")
    count = schedule.num_levels
    level = schedule.level(torch.arange(0, count, max(1, count // 50)))
    noisy = gaussian_noise((1, 1, 4, 4), seed=1, step=0, samples=range(len(level.alpha)))
    given = Conditioning(actions=torch.ones(len(noisy), 1, 1), context=torch.zeros(len(noisy), 1, 1, 4, 4))
    point = noisy.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(Measured().log_likelihood(point, level, given).sum(), point)
    alone, guided = (
        some.bind(given)(noisy, level).clean for some in (prior, ClassifierGuidance(prior, Measured(), 1.0))
    )
    alpha, sigma = level.broadcast()
    moved, is_clear = guided - alone, (alpha / torch.hypot(alpha, sigma) >= 0.1).expand_as(noisy)
    torch.testing.assert_close(moved[is_clear], (sigma**2 / alpha * gradient)[is_clear], rtol=1e-3, atol=1e-4)
    assert not moved[~is_clear].any()
    assert not is_clear.all()


def test_where_nobody_knows_the_actions_and_below_its_levels_the_prior_is_alone() -> None:
    prior = pixel_unet.tiny()
    classifier = ActionClassifier(prior, num_actions=3, **TINY)
    given = Conditioning(
        context=gaussian_noise((2, 3, 16, 16), seed=5, step=0, samples=range(3)),
        actions=torch.tensor([[0, 1, 2], [2, 2, 0], [1, 1, 1]]),
    )
    noisy = gaussian_noise((3, 3, 16, 16), seed=6, step=0, samples=range(3))
    level = prior.schedule.level(torch.tensor([10, 30, 45]))
    with torch.no_grad():
        alone = prior.bind(given)(noisy, level).tensor
        guided = ClassifierGuidance(prior, classifier, 5.0, off_below=20).bind(given)(noisy, level).tensor
        forgot = given.forget("actions", torch.tensor([False, True, False]))
        half = ClassifierGuidance(prior, classifier, 5.0, off_below=20).bind(forgot)(noisy, level).tensor
        none = ClassifierGuidance(prior, classifier, 5.0).bind(given.without("actions"))(noisy, level).tensor
    torch.testing.assert_close(guided[0], alone[0], rtol=1e-3, atol=1e-4)
    assert ((guided - alone).abs().amax((1, 2, 3, 4))[1:] > 1e-3).all()
    torch.testing.assert_close(half[1], alone[1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(half[2], guided[2], rtol=1e-3, atol=1e-3)
    assert torch.equal(none, alone)


def test_a_level_that_is_none_is_refused() -> None:
    for wrong in (-1, 1000):
        with pytest.raises(ValueError, match=f"off_below is a level, 0 .. 999, got {wrong}"):
            ClassifierGuidance(gaussian.tiny(), Measured(), 1.0, off_below=wrong)


def test_continuous_actions_are_told_apart_by_equal_bins() -> None:
    classifier = ActionClassifier(pixel_unet.tiny(), action_dim=2, num_bins=8, **TINY)
    actions = torch.tensor([[[-9.0, -4.0], [-3.01, -2.99], [0.0, 3.99], [4.0, 9.0]]])
    assert classifier.classes(Conditioning(actions=actions), 4).tolist() == [[[0, 0], [0, 1], [4, 7], [7, 7]]]
    near = ActionClassifier(pixel_unet.tiny(), action_dim=2, num_bins=8, reach=1.0, **TINY)
    assert near.classes(Conditioning(actions=actions / 4), 4).tolist() == [[[0, 0], [0, 1], [4, 7], [7, 7]]]
    with pytest.raises(ValueError, match="a number above 0, got 0"):
        ActionClassifier(pixel_unet.tiny(), action_dim=2, reach=0.0, **TINY)


@pytest.mark.parametrize("continuous", [False, True])
def test_the_log_likelihood_is_that_of_every_action_together(continuous: bool) -> None:
    prior = pixel_unet.tiny()
    options: dict[str, Any] = {"action_dim": 2, "num_bins": 8} if continuous else {"num_actions": 3}
    classifier = ActionClassifier(prior, **options, **TINY)
    actions = torch.tensor([[0, 1, 2], [2, 2, 0]])
    given = Conditioning(
        context=gaussian_noise((2, 3, 16, 16), seed=5, step=0, samples=range(2)),
        actions=torch.stack([actions, -actions], -1).float() if continuous else actions,
    )
    noisy, level = (
        gaussian_noise((3, 3, 16, 16), seed=6, step=0, samples=range(2)),
        prior.schedule.level(torch.tensor([9, 40])),
    )
    with torch.no_grad():
        shares = classifier.logits(noisy, level, given).softmax(-1)
        found = classifier.log_likelihood(noisy, level, given)
    assert shares.shape == ((2, 3, 2, 8) if continuous else (2, 3, 1, 3))
    for sample in range(2):
        total = 0.0
        for frame in range(3):
            for what, chosen in enumerate(classifier.classes(given, 3)[sample, frame].tolist()):
                total += math.log(shares[sample, frame, what, chosen])
        assert found[sample].item() == pytest.approx(total, rel=1e-4)


def test_a_classifier_learns_to_read_what_is_there_to_read() -> None:
    """The action is the sign of the frame's change; through the noise of all levels it is read better than by chance."""
    torch.manual_seed(0)
    prior = pixel_unet.tiny()
    classifier = ActionClassifier(prior, num_actions=2, **TINY)
    task, optimizer = (
        ReadingLoss(classifier, prior.schedule, seed=3),
        torch.optim.AdamW(classifier.parameters(), lr=3e-3),
    )
    losses = []
    for step in range(60):
        samples = torch.arange(8 * step, 8 * step + 8)
        actions = torch.randint(2, (8, 3))
        video = (actions * 2.0 - 1)[..., None, None, None].expand(8, 3, 3, 16, 16) * 0.8
        loss = task(
            Clip(video, Conditioning(context=torch.zeros(8, 2, 3, 16, 16), actions=actions)), step=step, samples=samples
        )
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
        losses.append(loss.mean().item())
    assert losses[0] == pytest.approx(math.log(2), abs=0.3)
    assert sum(losses[-10:]) / 10 < 0.35


def test_a_classifier_of_latents_is_taught_on_latents() -> None:
    class Halved:
        space, frames_per_latent = "halves", 1

        def encode(self, frames: Video) -> Video:
            return frames / 2

        def decode(self, latents: Video) -> Video:
            return latents * 2

    prior = pixel_unet.tiny()
    classifier = ActionClassifier(prior, num_actions=3, **TINY)
    video = gaussian_noise((3, 3, 16, 16), seed=7, step=0, samples=range(2)).clamp(-1, 1)
    context, actions = video[:, :2].flip(1), torch.tensor([[0, 1, 2], [2, 2, 0]])
    clip, half = (Clip(scale * video, Conditioning(scale * context, actions)) for scale in (1.0, 0.5))
    found, expected = (
        ReadingLoss(classifier, prior.schedule, codec=codec)(some, step=0, samples=torch.arange(2))
        for codec, some in ((Halved(), clip), (None, half))
    )
    torch.testing.assert_close(found, expected)


def test_mistakes_are_answered() -> None:
    prior = pixel_unet.tiny()
    with pytest.raises(ValueError, match="either num_actions or action_dim"):
        ActionClassifier(prior, **TINY)
    classifier = ActionClassifier(prior, num_actions=3, **TINY)
    with pytest.raises(ValueError, match="an action for each of 3 frames, got none"):
        classifier.classes(Conditioning(), 3)
    with pytest.raises(ValueError, match="float32"):
        classifier.classes(Conditioning(actions=torch.zeros(1, 3, 2)), 3)
