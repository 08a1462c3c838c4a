"""What the tabletop prior learns from, and what its loss asks for."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tiny import tabletop
from trimtab.core.values import Conditioning
from trimtab.data.episodes import Episodes, EpisodeWriter
from trimtab.environments.metaworld import TEXTS
from trimtab.priors.pixel_unet import PixelUNet
from trimtab.recipes.domains.tabletop import EARLY, FROM_WORDS, STILLS, UNTOLD, Lessons, Told


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
    decided = dots(tmp_path / "all", [9] * 6, [30, 12, 12, 9, 12, 5], [*both * 3])
    return Lessons((decided, dots(tmp_path / "astray", [8] * 2, [12, 5], [*both])), halfway)


def test_a_quarter_of_a_batch_is_what_words_decide(lessons: Lessons) -> None:
    seen, places = set(), set()
    for step in range(60):
        numbers = lessons.draw(3, step, 16)
        assert np.array_equal(numbers, lessons.draw(3, step, 16))
        episodes, first = lessons.clips.places(numbers)
        sets = lessons.clips.sets_of(numbers)
        assert set(sets[:12].tolist()) <= {0, 1}
        assert (sets[12:] == 2).all()
        seen |= set(episodes.tolist())
        assert first[12:].max() < EARLY
        places |= set(first[12:].tolist())
    assert seen == {0, 1, 2, 3, 4, 6, 8, 9, 10, 11, 14}  # all that are long enough
    assert places == set(range(EARLY))
    assert lessons.clips.sets_of(lessons.draw(3, 0, 3)).max() <= 1  # of so few there is no quarter


def test_films_are_always_told_their_first_frame(lessons: Lessons, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny prior is asked through its own `bind`, which notes what it is told."""
    prior, heard = PixelUNet(tabletop.prior().settings), list[Conditioning]()
    bind = prior.bind

    def noting(given: Conditioning) -> object:
        heard.append(given)
        return bind(given)

    monkeypatch.setattr(prior, "bind", noting)
    task = Told(prior, seed=0)
    shares = {}
    for length in (1, 4):
        heard.clear()
        for step in range(40):
            numbers = lessons.draw(0, step, 16)
            loss = task(lessons.batch(numbers, length), step=step, samples=torch.from_numpy(numbers))
            assert loss.shape == (16,)
        shares[length] = {fact: 1 - told(heard, fact).float().mean().item() for fact in ("context", "text")}
    assert shares[4]["context"] == 0
    assert shares[1]["context"] == pytest.approx(FROM_WORDS, abs=0.07)
    assert shares[4]["text"] == pytest.approx(UNTOLD, abs=0.06)


def told(heard: Sequence[Conditioning], fact: str) -> Tensor:
    """Which clips knew a fact, one after another."""
    return torch.cat([given.is_known(fact) for given in heard])  # type: ignore[arg-type]


def test_stills_count_less(lessons: Lessons) -> None:
    task, numbers = Told(PixelUNet(tabletop.prior().settings), seed=0), lessons.draw(0, 0, 8)
    samples = torch.from_numpy(numbers)
    for length, weight, of in ((1, STILLS, task.stills), (2, 1.0, task.films)):
        clip = lessons.batch(numbers, length)
        alone = of(clip, step=3, samples=samples)
        torch.testing.assert_close(task(clip, step=3, samples=samples), weight * alone)


def test_all_of_a_prior_that_copies_learns(lessons: Lessons) -> None:
    """What is copied is heard by no other part of the loss than that of what a belief departs from."""
    prior = PixelUNet(tabletop.prior().settings)
    prior.load_state_dict(tabletop.prior().state_dict())
    numbers = lessons.draw(0, 0, 8)
    Told(prior, seed=0)(lessons.batch(numbers, 4), step=0, samples=torch.from_numpy(numbers)).mean().backward()
    deaf = [name for name, value in prior.named_parameters() if value.grad is None or not value.grad.any()]
    assert any("copy" in name for name, _ in prior.named_parameters())
    assert not deaf
