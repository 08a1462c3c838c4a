"""A subject is learned from stills and its word; what mixes frames, what the class looks like and the prior stay."""

import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tiny import dreambooth
from trimtab import checkpoints
from trimtab.adapters.dreambooth import DreamBooth, Preserving, Stills, drawn, evenly
from trimtab.core.values import Conditioning, NoiseLevel, Prediction
from trimtab.diffusion import sampling
from trimtab.diffusion.losses import DenoisingLoss
from trimtab.diffusion.noise import gaussian_noise
from trimtab.networks.encoders import MiniLM
from trimtab.priors import gaussian, pixel_unet
from trimtab.priors.gaussian import GaussianPrior
from trimtab.priors.pixel_unet import PixelUNet, PixelUNetSettings
from trimtab.training import Budget, ClipSource, fit

TEXTS = gaussian_noise((4, 6), seed=0, step=0, samples=range(2))
"""Of a subject and its class, four tokens each."""


def video(seed: int, time: int = 3) -> Tensor:
    return gaussian_noise((time, 3, 16, 16), seed=seed, step=0, samples=range(2))


def told(text: Tensor = TEXTS, seed: int = 1) -> Conditioning:
    return Conditioning(context=video(seed, 1), text=text)


def answer(model: Any, given: Conditioning, prior: PixelUNet, time: int = 3) -> Tensor:
    with torch.no_grad():
        belief: Prediction = model.bind(given)(video(2, time), prior.schedule.level(torch.tensor([10, 45])))
    return belief.tensor


def squares(num: int, colour: float, first: int = 0) -> Tensor:
    """Stills of a square of one colour somewhere on black."""
    stills = torch.full((num, 3, 16, 16), -1.0)
    for number, still in enumerate(stills, start=first):
        down, right = number * 5 % 9, number * 7 % 10
        still[:, down : down + 7, right : right + 6] = colour
    return stills


def changes(model: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def randomised(model: DreamBooth) -> DreamBooth:
    for number, change in enumerate(changes(model).values()):
        change.data = 0.2 * gaussian_noise(tuple(change.shape), seed=number, step=0, samples=[0])[0]
    return model


# The model


@pytest.mark.parametrize(
    "given",
    [told(), told().without("context"), told().without("text"), Conditioning(), Conditioning(actions=torch.ones(2, 3))],
    ids=["told", "no context", "no text", "told nothing", "actions that no prior hears"],
)
def test_it_begins_exactly_as_the_prior(given: Conditioning) -> None:
    prior = dreambooth.prior()
    assert torch.equal(answer(DreamBooth(prior), given, prior), answer(prior, given, prior))


def test_all_but_what_mixes_frames_learns_and_nothing_else_changes() -> None:
    prior = dreambooth.prior()
    model, before = DreamBooth(prior, rank=2), copy.deepcopy(prior.network.state_dict())
    stills = Stills(squares(5, 1.0), squares(5, 0.0), TEXTS)
    task = DenoisingLoss(model, prior.schedule)
    optimizer = torch.optim.SGD(changes(model).values(), lr=0.1)
    still = set(changes(model))
    assert {name.rpartition(".parametrizations.weight.0.")[2] for name in still} == {"up", "down"}
    layers = {name for name, layer in prior.network.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}
    changed = {name.removeprefix("network.").partition(".parametrizations")[0] for name in still}
    assert changed == {name for name in layers if ".time." not in name}
    assert {"reads.0.query", "reads.0.key_value", "reads.0.out", "stem", "middle.0.space"} <= changed
    for step in range(2):
        numbers = stills.draw(0, step, 4)
        optimizer.zero_grad()
        task(stills.batch(numbers, 1), step=step, samples=torch.from_numpy(numbers)).mean().backward()
        still -= {name for name, value in changes(model).items() if value.grad is not None and value.grad.any()}
        optimizer.step()
    assert not still
    assert all(torch.equal(value, before[name]) for name, value in prior.network.state_dict().items())
    own = {name.replace("parametrizations.weight.original", "weight"): value for name, value in frozen(model).items()}
    assert set(own) == {name for name, _ in prior.network.named_parameters()}
    assert all(torch.equal(value, before[name].float()) for name, value in own.items())


def frozen(model: DreamBooth) -> dict[str, Tensor]:
    return {name: value for name, value in model.network.named_parameters() if not value.requires_grad}


def test_videos_still_follow_the_context_and_their_frames_each_other() -> None:
    prior = dreambooth.prior()
    model = randomised(DreamBooth(prior, rank=2))
    plain = answer(model, told(), prior)
    assert not torch.allclose(plain, answer(prior, told(), prior), atol=1e-3)
    for other in (told(seed=7), told(TEXTS.flip(0)), told().without("context")):
        assert all(
            (some - own).abs().max() > 1e-3 for some, own in zip(answer(model, other, prior), plain, strict=True)
        )
    alone = answer(model, told(), prior, time=1)
    assert not torch.allclose(alone, plain[:, :1], atol=1e-3)  # the same first noisy frame, without those after it
    for parameter in (model.network.get_submodule(name).conv.weight for name in prior.temporal):
        parameter.data[:, :, [0, 2]] = 0
    torch.testing.assert_close(
        answer(model, told(), prior, time=1), answer(model, told(), prior)[:, :1], rtol=1e-3, atol=1e-3
    )


def test_it_comes_back_from_disk_without_the_priors_weights(tmp_path: Path) -> None:
    prior = dreambooth.prior()
    model = randomised(DreamBooth(prior, rank=3))
    checkpoints.save(tmp_path, model, prior)
    num = sum(value.numel() for value in changes(model).values())
    assert (tmp_path / checkpoints.WEIGHTS).stat().st_size < 4 * num + 20_000
    assert set(model.state_dict()) == set(changes(model))
    again = checkpoints.load(tmp_path, DreamBooth, prior)
    assert torch.equal(answer(again, told(), prior), answer(model, told(), prior))


def test_a_training_on_stills_teaches_the_subject_and_preservation_keeps_the_class(tmp_path: Path) -> None:
    prior = dreambooth.prior()
    steps = sampling.pairs(prior.schedule, 4)
    others = drawn(prior, TEXTS[1], 20, partial(sampling.dpm_solver_pp_2m, pairs=steps, clamp=(-1.0, 1.0)))
    stills = Stills(squares(20, 1.0), others, TEXTS)
    unseen = Stills(squares(8, 1.0, first=20), others, TEXTS)

    def losses(model: Any) -> tuple[float, float]:
        """On stills of the subject that no training saw, and on those of the class."""
        task = DenoisingLoss(model, prior.schedule, seed=99)
        numbers = torch.arange(28)
        with torch.no_grad():
            loss = task(unseen.batch(numbers), step=0, samples=numbers)
        return loss[:8].mean().item(), loss[8:].mean().item()

    found = {}
    for preservation in (0.0, 1.0):
        model = DreamBooth(prior, rank=4)
        task = Preserving(DenoisingLoss(model, prior.schedule), stills, preservation)
        options: dict[str, Any] = {"batch_size": 16, "learning_rate": 1e-2, "warm_up": 5, "average_decay": 0.9}
        fit(task, stills, Budget(steps=30), folder=tmp_path / f"{preservation}", lengths=(1,), **options)
        found[preservation] = losses(model)
    before = losses(prior)
    assert all(subject < 0.5 * before[0] for subject, _ in found.values())
    assert found[1.0][1] < 0.6 * found[0.0][1]


# Stills


@settings(max_examples=20, deadline=None)
@for_all(st.integers(1, 30), st.integers(1, 30))
def test_stills_are_picked_at_even_distances(num: int, more: int) -> None:
    frames = np.arange(num + more - 1, dtype=np.uint8)[:, None, None, None].repeat(3, axis=3)
    picked = evenly(frames, num)
    assert picked.shape == (num, 3, 1, 1)
    places = ((picked[:, 0, 0, 0] + 1) * 127.5).round()  # a frame's colour is its number
    steps = places.diff()
    assert num == 1 or (steps.min() >= 1 and steps.max() - steps.min() <= 1)
    assert places[0] <= len(frames) / num / 2
    assert len(frames) - 1 - places[-1] <= len(frames) / num / 2


def test_draws_of_one_see_the_subject_and_its_class_in_turn() -> None:
    stills = Stills(squares(3, 1.0), squares(4, 0.0), TEXTS)
    kinds = [bool(stills.of_class(torch.from_numpy(stills.draw(0, step, 1)))) for step in range(6)]
    assert kinds == [False, True] * 3


@settings(max_examples=20, deadline=None)
@for_all(st.integers(1, 6), st.integers(1, 6), st.integers(1, 9), st.integers(0, 5))
def test_every_other_still_shows_the_subject_and_is_told_its_text(
    num_subject: int, num_others: int, num: int, step: int
) -> None:
    stills = Stills(squares(num_subject, 1.0), squares(num_others, 0.0), TEXTS)
    assert isinstance(stills, ClipSource)
    numbers = stills.draw(3, step, num)
    assert np.array_equal(numbers, stills.draw(3, step, num))
    first = num % 2 and step % 2  # of an odd number every other draw begins with the class
    subject, others = numbers[first::2], numbers[1 - first :: 2]
    assert (subject < num_subject).all()
    assert ((others >= num_subject) & (others < len(stills))).all()
    for kind, available in ((subject, num_subject), (others, num_others)):
        assert len(set(kind)) == min(len(kind), available)
    clip = stills.batch(numbers, 1)
    assert clip.video.shape == (num, 1, 3, 16, 16)
    assert clip.given.context is None
    assert clip.given.text is not None
    for place, (frames, text) in enumerate(zip(clip.video, clip.given.text, strict=True)):
        of_class = (place + first) % 2
        assert frames.max() == (0.0 if of_class else 1.0)
        assert torch.equal(text, TEXTS[of_class])


def test_all_stills_are_drawn_sooner_or_later() -> None:
    stills = Stills(squares(3, 1.0), squares(4, 0.0), TEXTS)
    assert set(np.concatenate([stills.draw(0, step, 4) for step in range(30)])) == set(range(7))


def test_the_loss_of_the_class_is_weighted() -> None:
    prior = dreambooth.prior()
    stills, task = Stills(squares(2, 1.0), squares(3, 0.0), TEXTS), DenoisingLoss(prior, prior.schedule)
    numbers = torch.tensor([0, 2, 4, 1, 3])
    clip = stills.batch(numbers)
    plain = task(clip, step=1, samples=numbers)
    found = Preserving(task, stills, 0.3)(clip, step=1, samples=numbers)
    torch.testing.assert_close(found, plain * torch.tensor([1, 0.3, 0.3, 1, 0.3]))
    assert torch.equal(Preserving(task, stills)(clip, step=1, samples=numbers), plain)


# What the prior draws


def test_stills_of_the_class_are_those_of_its_text() -> None:
    """By a prior of which it is known where sampling ends."""
    mean, effect = video(3, 2)[0], 0.5 * video(4, 2)
    prior = GaussianPrior(mean, 0.1 + mean.abs(), text_effect=effect[0, :1].expand(6, -1, -1, -1))
    steps = sampling.pairs(prior.schedule, 200)
    stills = drawn(prior, TEXTS[1], 5, partial(sampling.ddim, pairs=steps), seed=8, batch_size=2)
    noise = sampling.start_noise((1, 3, 16, 16), 8, range(5))
    first = NoiseLevel(*(torch.full((5,), part) for part in (steps[0][0].alpha, steps[0][0].sigma)))
    expected = prior.destination(noise, first, Conditioning(text=TEXTS[1].expand(5, -1, -1)))[:, 0]
    torch.testing.assert_close(stills, expected, rtol=0.03, atol=0.03)
    together = drawn(prior, TEXTS[1], 3, partial(sampling.ddim, pairs=steps), seed=8)
    torch.testing.assert_close(together, stills[:3], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(drawn(prior, TEXTS[0], 5, partial(sampling.ddim, pairs=steps), seed=8), stills, atol=0.1)


def test_a_word_that_nobody_ever_read_calls_the_subject() -> None:
    texts = MiniLM()(["a [D] robot arm", "a robot arm"])
    stills = Stills(squares(2, 1.0), squares(2, 0.0), texts)
    sizes = {**dreambooth.SIZES, "text_dim": MiniLM.dim}
    prior = PixelUNet(PixelUNetSettings(sizes=sizes, num_context=1, num_frames=3, frame_shape=(3, 16, 16)))
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.normal_(std=0.05)
    model, clip = DreamBooth(prior.frozen()), stills.batch([0, 2])
    level = prior.schedule.level(torch.full((2,), 500))
    with torch.no_grad():
        called, class_called = model.bind(clip.given)(clip.video[:1].expand(2, -1, -1, -1, -1), level).tensor
    assert (called - class_called).abs().max() > 1e-4


# What is refused


def test_a_prior_that_hears_no_text_or_is_closed_is_refused() -> None:
    with pytest.raises(ValueError, match="hears no texts; take one built with text_dim"):
        DreamBooth(pixel_unet.tiny())
    with pytest.raises(ValueError, match="hears no texts; take one built with text_dim"):
        drawn(pixel_unet.tiny(), TEXTS[0], 2, partial(sampling.ddim, pairs=[]))
    with pytest.raises(ValueError, match="rank 1 or more, not 0"):
        DreamBooth(dreambooth.prior(), rank=0)


@pytest.mark.usefixtures("without_shape_types")
def test_a_closed_prior_is_refused() -> None:
    with pytest.raises(TypeError, match="DreamBooth needs a prior whose weights are within reach"):
        DreamBooth(gaussian.tiny())


def test_a_prior_that_needs_context_draws_no_stills() -> None:
    sizes = {**dreambooth.SIZES, "context_optional": False}
    prior = PixelUNet(PixelUNetSettings(sizes=sizes, num_context=1, num_frames=3, frame_shape=(3, 16, 16))).frozen()
    with pytest.raises(ValueError, match="got none; only one that is built, and trained, with context_optional=True"):
        drawn(prior, TEXTS[0], 2, partial(sampling.ddim, pairs=sampling.pairs(prior.schedule, 2)))


def test_wrong_stills_texts_and_numbers_are_refused() -> None:
    some, none = squares(2, 1.0), squares(0, 1.0)
    for subject, others in ((none, some), (some, none)):
        with pytest.raises(ValueError, match="stills of the subject and of its class are needed"):
            Stills(subject, others, TEXTS)
    with pytest.raises(ValueError, match="a word that the class's has not; got the same twice"):
        Stills(some, some, TEXTS[:1].expand(2, -1, -1))
    with pytest.raises(ValueError, match=r"one frame, not 8; pass lengths=\(1,\)"):
        Stills(some, some, TEXTS).batch([0], 8)
    with pytest.raises(ValueError, match="a weight of at least 0, not -1"):
        Preserving(nn.Identity(), Stills(some, some, TEXTS), -1.0)
    with pytest.raises(ValueError, match="at least one still is drawn, not 0"):
        drawn(dreambooth.prior(), TEXTS[0], 0, partial(sampling.ddim, pairs=[]))
    frames = np.zeros((3, 4, 4, 3), np.uint8)
    for num in (0, 4):
        with pytest.raises(ValueError, match=f"of 3 frames 1 to 3 can be picked, not {num}"):
            evenly(frames, num)
    with pytest.raises(ValueError, match="of 0 frames"):
        evenly(frames[:0], 1)
    with pytest.raises(ValueError, match="a text has a word at least, and that of number 0 is empty"):
        MiniLM()(["", "a robot arm"])


@pytest.mark.usefixtures("without_shape_types")
def test_one_text_and_stills_of_two_shapes_are_refused() -> None:
    some = squares(2, 1.0)
    with pytest.raises(ValueError, match=r"two texts are needed.*got 1"):
        Stills(some, some, TEXTS[:1])
    with pytest.raises(ValueError, match=r"of one frame shape, got \(2, 3, 16, 16\) and \(2, 3, 16, 8\)"):
        Stills(some, some[..., :8], TEXTS)
