"""What the tabletop prior and the judge of its words learn from, and the prior's loss; knows no command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from trimtab.core.values import Clip, Prediction, Video
from trimtab.data.clips import Clips
from trimtab.data.episodes import Episodes
from trimtab.diffusion.losses import DenoisingLoss, Departing, Loss, velocity_loss
from trimtab.environments.metaworld import OPPOSITES, TEXTS
from trimtab.priors.pixel_unet import SCHEDULES, PixelUNet
from trimtab.recipes._metaworld import ACTION_REPEAT, LINGER, MAX_STEPS, encoder
from trimtab.recipes.record_metaworld import metaworld_episodes

TASKS = (*chain(*OPPOSITES), "button-press", "button-press-topdown", "coffee-push", "soccer")
"""What the prior knows: few enough for a prior that is trained for hours on one small machine to know them well."""

WORDS = {task: TEXTS[task] for task in TASKS}

UNTOLD, FROM_WORDS = 0.1, 0.3
"""The share of the clips whose text is withheld, as both are asked for when models are composed; and of the stills that are
drawn without a first frame. Films never are: to invent a whole scene is so much harder than to move an arm in one that a few
such clips would drown the others."""

STILLS = 0.1
"""What the loss of stills counts, for the same reason: by the loss of games their gradient was ten times that of films, and
Adam, which divides by the size of all gradients, would take small steps for the films."""

APART = 2.0
"""What the loss of how two films of a pair differ counts beside the loss of each."""

EARLY = 3
"""Frames from the beginning of an episode in which words decide what follows; then the picture shows what is being done."""


class Lessons:
    """Clips to learn words from, as a `ClipSource`: most of a batch are of all tasks, each from anywhere in an episode; some
    are pairs of opposite tasks that begin alike, from near their beginnings, where words tell what follows.

    Args:
        all_tasks: episodes of every task, from its own beginning.
        halfway: episodes of opposite tasks, some of which begin with the same frame.
    """

    def __init__(self, all_tasks: Episodes, halfway: Episodes) -> None:
        self.clips = Clips((all_tasks, halfway), num_context=1, encode=encoder())
        lasting = np.flatnonzero(self.clips.num_windows)
        self.single = lasting[lasting < len(all_tasks)]
        alike: dict[bytes, list[int]] = {}
        for episode in lasting[lasting >= len(all_tasks)].tolist():
            start = halfway.starts[episode - len(all_tasks)]
            alike.setdefault(halfway.frames[start].tobytes(), []).append(episode)
        self.groups = [np.array(episodes) for episodes in alike.values()]
        self.first = np.arange(len(self.clips.num_windows))  # episode of those that begin as each does
        for group in self.groups:
            self.first[group] = group[0]

    def draw(self, seed: int, step: int, num: int) -> np.ndarray:
        """Window numbers (num,), a function of (seed, step) alone; episodes are drawn alike, however long they are."""
        random = np.random.default_rng([seed, step])
        paired: list[np.ndarray] = []
        singles = singles_of(num)
        for number in random.integers(len(self.groups), size=(num - singles) // 2).tolist():
            group = self.groups[number]
            two = random.choice(group, size=2, replace=len(group) < 2)
            most = min(EARLY, *self.clips.num_windows[two].tolist())
            paired.append(self.clips.numbers(two, int(random.integers(most))))
        episodes = self.single[random.integers(len(self.single), size=singles)]
        return np.concatenate(
            [self.clips.numbers(episodes, random.integers(self.clips.num_windows[episodes])), *paired]
        )

    def batch(self, indices: np.ndarray, num_frames: int | None = None) -> Clip:
        return self.clips.batch(indices, num_frames)

    def alike(self, indices: Sequence[int] | Tensor) -> Tensor:
        """A number of each window (batch,) to draw noise by: windows at one place of episodes that begin alike share it."""
        episodes, first = self.clips.places(indices)
        return torch.from_numpy(self.first[episodes] * self.clips.num_windows.max() + first)


def singles_of(num: int) -> int:
    """How many of a batch of so many are no pairs; a batch of fewer than 8 has none."""
    return num - 2 * (num // 8)


class Told(nn.Module):
    """The loss of films that go on from a frame, and of stills, of which some are drawn from words alone.

    Films of a pair are covered by the same noise, so that what they ask of the weights differs by their words. How they
    differ from one another is asked for besides: it is what words decide, and a small part of what there is to see.

    Args:
        prior: that is trained; up to pure noise, so that it can be loaded with a schedule that ends in it.
        lessons: that it is trained on.
        seed: of the draws.
    """

    def __init__(self, prior: PixelUNet, lessons: Lessons, seed: int) -> None:
        super().__init__()
        pure = SCHEDULES["linear, zero terminal SNR"](prior.schedule.num_levels)
        self.films = DenoisingLoss(
            prior, pure, loss=Paired(Departing(velocity_loss)), seed=seed, forgotten={"text": UNTOLD}
        )
        self.stills = DenoisingLoss(
            prior, pure, loss=Departing(velocity_loss), seed=seed, forgotten={"text": UNTOLD, "context": FROM_WORDS}
        )
        self.lessons = lessons

    def forward(self, clip: Clip, *, step: int, samples: Sequence[int] | Tensor) -> Float[Tensor, " batch"]:
        """The loss of each clip, (batch,). Raises ValueError for a batch that does not end in the pairs of `Lessons`."""
        numbers = self.lessons.alike(samples)
        pairs = numbers[singles_of(len(numbers)) :].unflatten(0, (-1, 2))
        if not torch.equal(pairs[:, 0], pairs[:, 1]):
            raise ValueError("a batch ends in pairs that begin alike, side by side; train in one process")
        task, weight = (self.stills, STILLS) if clip.video.shape[1] == 1 else (self.films, 1.0)
        return weight * task(clip, step=step, samples=numbers)


class Paired(nn.Module):
    """A loss, and the same of how the films of each pair differ, which counts `APART` for both of them.

    Pairs stand side by side at the end of a batch, as `Lessons` draws them, at one noise level and under one noise.

    Args:
        loss: of each film.
    """

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, prediction: Prediction, clean: Video, noise: Video) -> Float[Tensor, " batch"]:
        """The loss of each film, (batch,)."""
        singles = singles_of(len(clean))
        one, other = slice(singles, None, 2), slice(singles + 1, None, 2)
        level = replace(prediction.level, alpha=prediction.level.alpha[one], sigma=prediction.level.sigma[one])
        velocity, noisy = (some[one] - some[other] for some in (prediction.velocity, prediction.noisy))
        apart = Prediction(velocity, "velocity", noisy, level)
        differing = self.loss(apart, clean[one] - clean[other], noise[one] - noise[other])
        added = torch.cat([differing.new_zeros(singles), APART * differing.repeat_interleave(2)])
        return self.loss(prediction, clean, noise) + added


def lessons(datasets: Path, num_episodes: int = 30) -> Lessons:
    """So many episodes of each task, recorded first if they are not there."""
    return Lessons(
        tabletop_episodes(num_episodes=num_episodes, folder=datasets / "tabletop"),
        halfway_episodes(num_episodes=num_episodes, folder=datasets / "tabletop-halfway"),
    )


def tabletop_episodes(*, num_episodes: int = 30, first_look: int = 1, seed: int = 0, folder: Path) -> Episodes:
    """MetaWorld's experts at every one of TASKS, each episode in a look of its own.

    Raises:
        ValueError: another set is in the same place; or a setting is out of range.
    """
    return _experts(num_episodes, first_look, seed, folder)


def halfway_episodes(
    *, num_episodes: int = 30, first_look: int = 100_001, seed: int = 100_000, folder: Path
) -> Episodes:
    """The experts of opposite tasks from the same first frames, in which what they move is half way: only words tell what
    follows. So many episodes of each task in each scene that it shares, each in a look of its own, and no longer than words
    decide what follows.

    Raises:
        ValueError: another set is in the same place; or a setting is out of range.
    """
    return _experts(num_episodes, first_look, seed, folder, max_steps=EARLY, halfway=True)


def _experts(
    num_episodes: int, first_look: int, seed: int, folder: Path, *, max_steps: int = MAX_STEPS, halfway: bool = False
) -> Episodes:
    return metaworld_episodes(
        tasks=TASKS,
        num_episodes=num_episodes,
        num_looks=num_episodes,
        first_look=first_look,
        seed=seed,
        action_repeat=ACTION_REPEAT,
        max_episode_steps=max_steps,
        linger=LINGER,
        halfway=halfway,
        output=folder,
    )
