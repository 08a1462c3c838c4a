"""Losses equal their formulas in every parameterisation, and a training step depends on (seed, step, sample) alone."""

from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch import nn

from trimtab.core.contracts import BoundDenoiser, Mixing
from trimtab.core.values import Clip, Conditioning, Fact, Kind, Mixed, NoiseLevel, Prediction, Video
from trimtab.diffusion import losses, schedules
from trimtab.diffusion.losses import DenoisingLoss, clean_loss
from trimtab.diffusion.noise import gaussian_noise, uniform_integers
from trimtab.diffusion.schedules import Schedule
from trimtab.priors import gaussian

KINDS = get_args(Kind)
SHAPE = (4, 2, 3, 4, 4)


def situation(schedule: Schedule, kind: Kind) -> tuple[Prediction, Video, Video, Video]:
    """A wrong prediction, the clean video and noise it should have found, and the error of its clean video."""
    clean, noise, error = (gaussian_noise(SHAPE[1:], seed=0, step=k, samples=range(4)) for k in range(3))
    level = schedule.level(torch.tensor([1, 30, 90, 140]) * schedule.num_levels // 200)
    noisy = level.add_noise(clean, noise)
    believed = clean + error
    belief = Prediction(believed, "clean", noisy, level).as_kind(kind)
    return belief, clean, noise, error


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("schedule", [schedules.sigmoid(), schedules.flow(200)], ids=["sigmoid", "flow"])
def test_losses_are_weighted_errors_of_the_clean_video(kind: Kind, schedule: Schedule) -> None:
    """The error e of the clean video is an error -alpha/sigma e of the noise: every loss is a weight on e squared."""
    belief, clean, noise, error = situation(schedule, kind)
    alpha, sigma = belief.level.alpha, belief.level.sigma
    snr, size = (alpha / sigma) ** 2, (error**2).mean((1, 2, 3, 4))
    expected = {
        losses.noise_loss: snr * size,
        losses.clean_loss: snr * size,
        losses.velocity_loss: ((alpha**2 + sigma**2) / sigma) ** 2 * size,
        losses.flow_loss: ((alpha + sigma) / sigma) ** 2 * size,
        losses.min_snr_loss: snr.clamp(max=5) * size,
    }
    for loss, value in expected.items():
        torch.testing.assert_close(loss(belief, clean, noise), value, rtol=1e-3, atol=0)
    clipped = losses.min_snr_loss(belief, clean, noise, gamma=0.1)
    torch.testing.assert_close(clipped, snr.clamp(max=0.1) * size, rtol=1e-3, atol=0)


def test_what_a_belief_departs_from_is_charged_where_it_tells_it() -> None:
    class Departs:
        """Says that it departs from frames that are 2 too bright, if it says anything."""

        space, uses, tells = "pixels", frozenset[Fact](), True

        def bind(self, given: Conditioning) -> BoundDenoiser:
            start = torch.zeros(SHAPE) + 2 if self.tells else None
            return lambda noisy, level: Prediction(0.5 * noisy, "velocity", noisy, level, departs_from=start)

    denoiser, clip = Departs(), Clip(torch.zeros(SHAPE), Conditioning())
    task, measure = (DenoisingLoss(denoiser, schedules.flow(200), departing=it) for it in (True, False))
    with_it, without = (some(clip, step=0, samples=range(4)) for some in (task, measure))
    torch.testing.assert_close(with_it, without + 4)
    denoiser.tells = False
    assert torch.equal(task(clip, step=0, samples=range(4)), without)


def test_what_a_belief_departs_from_stays_with_it_alone() -> None:
    belief, clean, _, _ = situation(schedules.flow(200), "velocity")
    told = replace(belief, departs_from=clean)
    assert told.as_kind("noise").departs_from is told.departs_from
    assert told.like(told.tensor).departs_from is None  # another's belief departs from something else


@pytest.mark.parametrize("kind", ["clean", "velocity", "flow"])
def test_losses_and_gradients_are_finite_at_pure_noise(kind: Kind) -> None:
    clean, noise, tensor = (gaussian_noise(SHAPE[1:], seed=0, step=k, samples=range(4)) for k in range(3))
    level = schedules.flow().level(torch.full((4,), 999))
    tensor.requires_grad_()
    belief = Prediction(tensor, kind, level.add_noise(clean, noise), level)
    for loss in (losses.noise_loss, losses.clean_loss, losses.velocity_loss, losses.flow_loss, losses.min_snr_loss):
        value = loss(belief, clean, noise)
        (gradient,) = torch.autograd.grad(value.sum(), tensor)
        assert torch.isfinite(value).all()
        assert torch.isfinite(gradient).all()


def test_a_noise_prediction_has_a_finite_noise_and_min_snr_loss_at_pure_noise() -> None:
    clean, noise, tensor = (gaussian_noise(SHAPE[1:], seed=0, step=k, samples=range(4)) for k in range(3))
    level = schedules.flow().level(torch.full((4,), 999))
    belief = Prediction(tensor, "noise", level.add_noise(clean, noise), level)
    assert torch.isfinite(losses.noise_loss(belief, clean, noise)).all()
    torch.testing.assert_close(losses.min_snr_loss(belief, clean, noise), losses.noise_loss(belief, clean, noise))


class Scaled(nn.Module):
    """Predicts its one parameter times the noisy video, and remembers what it was asked."""

    uses = frozenset()
    space = "frames"

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.seen: list[tuple[Conditioning, Video, NoiseLevel]] = []

    def bind(self, given: Conditioning):
        def denoise(noisy: Video, level: NoiseLevel) -> Prediction:
            self.seen.append((given, noisy, level))
            return Prediction(self.scale * noisy, "velocity", noisy, level)

        return denoise


def clip_of(samples: list[int]) -> Clip:
    video = gaussian_noise(SHAPE[1:], seed=9, step=0, samples=samples)
    return Clip(video, Conditioning(context=video[:, :1]))


def test_a_sample_has_the_same_loss_in_any_batch() -> None:
    step = DenoisingLoss(Scaled(), schedules.sigmoid(), seed=5)
    together = step(clip_of([3, 8, 1]), step=7, samples=[3, 8, 1])
    assert together.shape == (3,)
    for place, sample in enumerate([3, 8, 1]):
        torch.testing.assert_close(step(clip_of([sample]), step=7, samples=torch.tensor([sample]))[0], together[place])
    assert not torch.equal(step(clip_of([3, 8, 1]), step=8, samples=[3, 8, 1]), together)
    assert not torch.equal(
        DenoisingLoss(Scaled(), schedules.sigmoid(), seed=6)(clip_of([3]), step=7, samples=[3])[0], together[0]
    )


def test_parameters_are_found_and_trained() -> None:
    denoiser = Scaled()
    step = DenoisingLoss(denoiser, schedules.sigmoid())
    assert [name for name, _ in step.named_parameters()] == ["denoiser.scale"]
    step(clip_of([0, 1]), step=0, samples=[0, 1]).mean().backward()
    assert denoiser.scale.grad is not None
    assert denoiser.scale.grad.abs() > 0


def test_levels_are_uniform_and_the_video_is_noised_in_float32() -> None:
    denoiser = Scaled()
    schedule = schedules.sigmoid()
    step = DenoisingLoss(denoiser, schedule)
    video = torch.zeros(400, 1, 1, 1, 1, dtype=torch.bfloat16)
    step(Clip(video, Conditioning()), step=0, samples=range(400))
    _, noisy, level = denoiser.seen[0]
    assert noisy.dtype == torch.float32
    index = schedule.index_of(level)
    assert torch.equal(index, index.round())
    same_stream = uniform_integers(200, seed=0, step=0, samples=range(400), purpose="noise")
    assert not torch.equal(index.long(), same_stream)  # the level must not come out of the draws that make the noise
    assert abs(index.mean().item() - 99.5) < 4 * 57.7 / 20
    torch.testing.assert_close((noisy.flatten() / level.sigma).std(), torch.ones(()), rtol=0, atol=0.15)


def test_more_draws_choose_noisier_levels_and_the_first_draw_stays() -> None:
    """The largest of three uniform draws is 3/4 of the way up on average, with a deviation of 0.194."""
    few, many = Scaled(), Scaled()
    schedule, clip = schedules.sigmoid(), Clip(torch.zeros(400, 1, 1, 1, 1), Conditioning())
    for denoiser, draws in ((few, 1), (many, 3)):
        DenoisingLoss(denoiser, schedule, draws=draws)(clip, step=0, samples=range(400))
    one, three = (schedule.index_of(denoiser.seen[0][2]) for denoiser in (few, many))
    assert (three >= one).all()
    assert abs(three.mean().item() / 200 - 0.75) < 4 * 0.194 / 20


def test_the_codec_encodes_frames_and_context() -> None:
    class Halved:
        space = "frames"
        frames_per_latent = 1

        def encode(self, frames: Video) -> Video:
            return frames / 2

        def decode(self, latents: Video) -> Video:
            return latents * 2

    clip = clip_of([0, 1])
    halves = Clip(clip.video / 2, Conditioning(context=clip.given.context / 2))
    plain, coded = Scaled(), Scaled()
    first = DenoisingLoss(plain, schedules.sigmoid())(halves, step=0, samples=[0, 1])
    second = DenoisingLoss(coded, schedules.sigmoid(), codec=Halved())(clip, step=0, samples=[0, 1])
    assert torch.equal(first, second)
    assert torch.equal(plain.seen[0][0].context, coded.seen[0][0].context)


def test_the_exact_posterior_has_the_least_loss() -> None:
    """On Gaussian data no other mean or deviation does better than the true ones, under any of the losses."""
    true = gaussian.tiny(schedule=schedules.sigmoid())
    samples = range(256)
    noise = gaussian_noise(tuple(true.mean.shape), seed=1, step=0, samples=samples)
    clip = Clip(true.mean + true.deviation * noise, Conditioning())
    moved = gaussian.GaussianPrior(true.mean + 0.05, true.deviation, schedule=true.schedule)
    wider = gaussian.GaussianPrior(true.mean, true.deviation * 1.2, schedule=true.schedule)
    for loss in (losses.noise_loss, losses.velocity_loss, losses.flow_loss, losses.min_snr_loss):
        best, other, another = (
            DenoisingLoss(prior, true.schedule, loss=loss)(clip, step=0, samples=samples).mean()
            for prior in (true, moved, wider)
        )
        assert best < other
        assert best < another


def test_a_wrong_number_of_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="one sample index a video"):
        DenoisingLoss(Scaled(), schedules.sigmoid())(clip_of([0, 1]), step=0, samples=[0])


class Deaf(nn.Module):
    """Notes which samples know their actions, or another fact."""

    space, uses = "none", frozenset({"actions"})

    def __init__(self, fact: Fact = "actions") -> None:
        super().__init__()
        self.known: list[torch.Tensor] = []
        self.fact = fact

    def bind(self, given: Conditioning):  # type: ignore[no-untyped-def]
        self.known.append(given.is_known(self.fact))
        return lambda noisy, level: Prediction(noisy, "clean", noisy, level)


def test_the_forgotten_share_of_clips_is_untold_by_seed_step_and_sample() -> None:
    clip = Clip(torch.zeros(200, 1, 1, 1, 1), Conditioning(actions=torch.zeros(200, 1, dtype=torch.int64)))
    deaf = Deaf()
    for forgotten, samples in ((0.2, range(200)), (0.2, range(200)), (0.2, range(100, 300)), (0.0, range(200))):
        DenoisingLoss(deaf, schedules.cosine(100), forgotten={"actions": forgotten})(
            clip, step=3, samples=list(samples)
        )
    first, again, later, told = deaf.known
    assert 0.1 < 1 - first.float().mean() < 0.3
    assert torch.equal(first, again)
    assert torch.equal(first[100:], later[:100])
    assert told.all()
    with pytest.raises(ValueError, match="from 0 to 1"):
        DenoisingLoss(deaf, schedules.cosine(100), forgotten={"actions": 20.0})


def test_two_facts_are_forgotten_apart() -> None:
    known = Conditioning(actions=torch.zeros(200, 1, dtype=torch.int64), text=torch.zeros(200, 2, 3))
    clip, both = Clip(torch.zeros(200, 1, 1, 1, 1), known), {"actions": 0.5, "text": 0.5}
    of_actions, of_text = Deaf(), Deaf("text")
    for deaf in (of_actions, of_text):
        DenoisingLoss(deaf, schedules.cosine(100), forgotten=both)(clip, step=3, samples=range(200))  # type: ignore[arg-type]
    pairs = torch.stack([of_actions.known[0], of_text.known[0]]).int()
    assert all((pairs == torch.tensor(some)[:, None]).all(0).sum() > 25 for some in ((0, 0), (0, 1), (1, 0), (1, 1)))


class Halves:
    """A mixture of what is noisy and of a half of it; with and without a mask."""

    uses, space = frozenset[str](), "any"

    def __init__(self, masked: bool) -> None:
        self.masked = masked

    def believe(self, given: Conditioning):  # type: ignore[no-untyped-def]
        def answer(noisy, level):  # type: ignore[no-untyped-def]
            belief, own = (Prediction(part, "clean", noisy, level) for part in (noisy, noisy / 2))
            return Mixed(belief, own if self.masked else belief, torch.ones(()) if self.masked else None)

        return answer

    def bind(self, given: Conditioning):  # type: ignore[no-untyped-def]
        return lambda noisy, level: self.believe(given)(noisy, level).belief


@pytest.mark.parametrize("masked", [True, False])
def test_a_mixtures_own_belief_is_trained_beside_it(masked: bool) -> None:
    clip, step = Clip(torch.rand(3, 2, 1, 2, 2), Conditioning()), {"step": 3, "samples": [4, 5, 6]}
    halves = Halves(masked)
    assert isinstance(halves, Mixing)
    alone, both = (DenoisingLoss(halves, schedules.cosine(100), own=own)(clip, **step) for own in (None, clean_loss))

    class Own:
        uses, space = Halves.uses, Halves.space

        def bind(self, given: Conditioning):  # type: ignore[no-untyped-def]
            return lambda noisy, level: halves.believe(given)(noisy, level).own

    own = DenoisingLoss(Own(), schedules.cosine(100), loss=clean_loss)(clip, **step)
    torch.testing.assert_close(both, alone + own if masked else alone)
    assert not torch.allclose(own, alone) or not masked


def test_what_a_mixtures_own_belief_departs_from_is_charged_once() -> None:
    clip, step = Clip(torch.zeros(3, 2, 1, 2, 2), Conditioning()), {"step": 3, "samples": [4, 5, 6]}

    class Departing(Halves):
        def believe(self, given: Conditioning):  # type: ignore[no-untyped-def]
            ask = super().believe(given)

            def answer(noisy, level):  # type: ignore[no-untyped-def]
                mixed = ask(noisy, level)
                own = replace(mixed.own, departs_from=torch.full_like(noisy, 2.0))
                return Mixed(mixed.belief, own, mixed.mask)

            return answer

    for own in (None, clean_loss):
        plain, departing = (DenoisingLoss(it(True), schedules.cosine(100), own=own) for it in (Halves, Departing))
        torch.testing.assert_close(departing(clip, **step), plain(clip, **step) + 4)


class Seeing(Deaf):
    """Notes the context that it is shown."""

    def bind(self, given: Conditioning):  # type: ignore[no-untyped-def]
        assert given.context is not None
        self.known.append(given.context)
        return lambda noisy, level: Prediction(noisy, "clean", noisy, level)


def test_the_context_is_noised_by_up_to_a_deviation_and_the_clip_is_not() -> None:
    clip = Clip(torch.zeros(64, 1, 3, 8, 8), Conditioning(context=torch.ones(64, 2, 3, 8, 8)))
    seeing = Seeing()
    for noise in (0.5, 0.5, 0.0):
        DenoisingLoss(seeing, schedules.cosine(100), context_noise=noise)(clip, step=3, samples=list(range(64)))
    first, again, clean = seeing.known
    deviations = (first - 1).flatten(1).std(1)
    assert 0 < deviations.min() < 0.1 < 0.4 < deviations.max() < 0.55
    assert torch.equal(first, again)
    assert torch.equal(clean, torch.ones_like(clean))
    with pytest.raises(ValueError, match="context_noise"):
        DenoisingLoss(seeing, schedules.cosine(100), context_noise=-1.0)
