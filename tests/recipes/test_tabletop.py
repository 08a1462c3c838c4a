"""What the tabletop prior learns from: clips that words decide come in pairs that differ by nothing else."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tiny import tabletop
from trimtab.core.values import Clip, Conditioning, Prediction
from trimtab.data.episodes import Episodes, EpisodeWriter
from trimtab.diffusion import schedules
from trimtab.diffusion.losses import Departing, change_loss, velocity_loss
from trimtab.environments.metaworld import TEXTS
from trimtab.priors.pixel_unet import PixelUNet
from trimtab.recipes._tabletop import EARLY, FROM_WORDS, STILLS, UNTOLD, Lessons, Paired, Told


def dots(folder: Path, looks: Sequence[int], lengths: Sequence[int], tasks: Sequence[str]) -> Episodes:
    """Episodes of a dot that goes right or left, from a start that is the look's."""
    with EpisodeWriter(folder, frame_rate=20.0, action_dim=4, provenance={"environment": "dots"}) as writer:
        for look, length, task in zip(looks, lengths, tasks, strict=True):
            frames = np.full((length, 64, 64, 3), look, np.uint8)
            for time, frame in enumerate(frames):
                x = 30 + (1 if task == "door-close" else -1) * time
                frame[20:28, x : x + 8] = 255
            writer.add_episode(frames, np.zeros((length, 4), np.float32), level=look, task=TEXTS[task])
    return Episodes.open(folder)


@pytest.fixture
def lessons(tmp_path: Path) -> Lessons:
    """Three pairs of episodes, one of which is too short, and one episode that has no other; six of other tasks."""
    both = ("door-close", "door-open")
    halfway = dots(tmp_path / "halfway", [1, 1, 2, 2, 3, 3, 4], [12, 10, 9, 20, 8, 8, 15], [*both * 3, both[0]])
    return Lessons(dots(tmp_path / "all", [9] * 6, [30, 12, 12, 9, 12, 5], [*both * 3]), halfway)


def test_a_quarter_of_a_batch_are_pairs_that_begin_alike(lessons: Lessons) -> None:
    seen, places = set(), set()
    for step in range(60):
        numbers = lessons.draw(3, step, 16)
        assert np.array_equal(numbers, lessons.draw(3, step, 16))
        episodes, first = lessons.clips.places(numbers)
        assert (lessons.clips.sets_of(numbers) == [0] * 12 + [1] * 4).all()
        seen |= set(episodes.tolist())
        for pair in (slice(12, 14), slice(14, 16)):
            assert len(set(first[pair].tolist())) == 1
            assert first[pair].max() < EARLY
            places |= set(first[pair].tolist())
            levels = lessons.clips.levels(numbers[pair])
            assert levels[0] == levels[1]
            is_alone = (levels[0] & 0xFF) == 4
            assert is_alone or len(set(episodes[pair].tolist())) == 2
    assert seen == {0, 1, 2, 3, 4, 6, 7, 8, 9, 12}  # all that are long enough
    assert places == set(range(EARLY))


def test_a_pair_shares_its_noise_and_nothing_else_does(lessons: Lessons) -> None:
    every = np.arange(len(lessons.clips))
    shared = lessons.alike(torch.from_numpy(every))
    episodes, first = lessons.clips.places(every)
    begins = np.array(
        [
            lessons.clips.batch(every[number : number + 1]).given.facts()["context"].numpy()
            for number in range(len(every))
        ]
    )
    for number, value in enumerate(shared.tolist()):
        same = np.flatnonzero(shared.numpy() == value)
        assert len(same) <= 2
        assert (first[same] == first[number]).all()
        if len(same) == 2:
            starts = lessons.clips.numbers(episodes[same])
            assert np.array_equal(*begins[starts])


def test_films_are_always_told_their_first_frame(lessons: Lessons, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny prior is asked through its own `bind`, which notes what it is told."""
    prior, heard = PixelUNet(tabletop.prior().settings), list[Conditioning]()
    bind = prior.bind

    def noting(given: Conditioning) -> object:
        heard.append(given)
        return bind(given)

    monkeypatch.setattr(prior, "bind", noting)
    task = Told(prior, lessons, seed=0)
    shares = {}
    for length in (1, 4):
        heard.clear()
        for step in range(40):
            numbers = lessons.draw(0, step, 16)
            loss = task(lessons.batch(numbers, length), step=step, samples=torch.from_numpy(numbers))
            assert loss.shape == (16,)
        shares[length] = {fact: 1 - told(heard, fact).float().mean().item() for fact in ("context", "text")}
        pairs = told(heard, "text").unflatten(0, (40, 16))[:, 12:].unflatten(1, (2, 2))
        assert torch.equal(pairs[..., 0], pairs[..., 1])  # who shares the noise shares whether it is told
    assert shares[4]["context"] == 0
    assert shares[1]["context"] == pytest.approx(FROM_WORDS, abs=0.07)
    assert shares[4]["text"] == pytest.approx(UNTOLD, abs=0.06)


def told(heard: Sequence[Conditioning], fact: str) -> Tensor:
    """Which clips knew a fact, one after another."""
    return torch.cat([given.is_known(fact) for given in heard])  # type: ignore[arg-type]


def test_the_noise_of_a_pair_is_the_same(lessons: Lessons) -> None:
    """Asked for nothing but the noise: two equal clips with the numbers of a pair have one loss."""
    prior = PixelUNet(tabletop.prior().settings)
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    numbers = lessons.draw(0, 0, 8)[6:]
    clip = lessons.batch(numbers[:1].repeat(2), 4)
    losses = Told(prior, lessons, seed=0)(Clip(clip.video, clip.given), step=0, samples=torch.from_numpy(numbers))
    torch.testing.assert_close(losses[0], losses[1])


def test_stills_count_less(lessons: Lessons) -> None:
    task, numbers = Told(PixelUNet(tabletop.prior().settings), lessons, seed=0), lessons.draw(0, 0, 8)
    samples = torch.from_numpy(numbers)
    for length, weight, of in ((1, STILLS, task.stills), (2, 1.0, task.films)):
        clip = lessons.batch(numbers, length)
        alone = of(clip, step=3, samples=lessons.alike(samples))
        torch.testing.assert_close(task(clip, step=3, samples=samples), weight * alone)


def test_a_batch_without_pairs_is_refused(lessons: Lessons) -> None:
    numbers = lessons.draw(0, 0, 8)[::-1].copy()
    task = Told(PixelUNet(tabletop.prior().settings), lessons, seed=0)
    with pytest.raises(ValueError, match="a batch ends in pairs"):
        task(lessons.batch(numbers, 2), step=0, samples=torch.from_numpy(numbers))


def test_a_pair_is_asked_for_its_difference_too() -> None:
    """An error that both films of a pair share costs as if they were alone; one that they do not costs more."""
    random = torch.Generator().manual_seed(0)
    clean, shared = torch.rand(2, 9, 4, 3, 16, 16, generator=random) - 0.5
    noise = torch.randn(9, 4, 3, 16, 16, generator=random)
    shared[8] = shared[7]  # of nine clips the last two are a pair
    level = schedules.cosine(10).level(torch.tensor([1, 2, 3, 4, 5, 7, 8, 9, 9]))

    def losses(error: Tensor) -> Tensor:
        velocity = level.broadcast()[0] * noise - level.broadcast()[1] * clean
        prediction = Prediction(velocity + error, "velocity", level.add_noise(clean, noise), level)
        return Paired(change_loss)(prediction, clean, noise) - change_loss(prediction, clean, noise)

    torch.testing.assert_close(losses(shared), torch.zeros(9))
    error = shared.clone()
    error[8] = 0
    added = losses(error)
    torch.testing.assert_close(added[:7], torch.zeros(7))
    assert added[7] == added[8] > 0


def test_what_a_film_departs_from_is_asked_of_it_alone() -> None:
    random = torch.Generator().manual_seed(0)
    clean, noise, error = torch.randn(3, 8, 2, 3, 4, 4, generator=random)
    level = schedules.cosine(10).level(torch.tensor([1, 2, 3, 4, 5, 5, 9, 9]))
    told = Prediction(noise, "velocity", level.add_noise(clean, noise), level, departs_from=clean + error)
    paired = Paired(Departing(velocity_loss))
    added = paired(told, clean, noise) - paired(replace(told, departs_from=None), clean, noise)
    torch.testing.assert_close(added, error.square().mean((1, 2, 3, 4)), rtol=1e-3, atol=1e-4)
