"""What the tabletop prior and the judge of its words learn from, and the prior's loss; knows no command."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from trimtab.core.values import Clip
from trimtab.data.clips import Clips
from trimtab.data.episodes import Episodes
from trimtab.diffusion.losses import DenoisingLoss
from trimtab.environments.metaworld import OPPOSITES, TEXTS
from trimtab.priors.pixel_unet import SCHEDULES, PixelUNet
from trimtab.recipes.domains.metaworld import ACTION_REPEAT, LINGER, MAX_STEPS, encoder
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

OPEN = 0.25
"""The share of a batch that opposite tasks half way are."""

EARLY = 3
"""Frames from the beginning of an episode in which words decide what follows; then the picture shows what is being done."""


class Lessons:
    """Clips to learn words from, as a `ClipSource`: most of a batch are of all tasks, each from anywhere in an episode; the
    rest are of opposite tasks half way, from near their beginnings, where words tell what follows.

    Args:
        all_tasks: sets of episodes of every task.
        halfway: episodes of opposite tasks, some of which begin with the same frame.
    """

    def __init__(self, all_tasks: Sequence[Episodes], halfway: Episodes) -> None:
        self.clips = Clips((*all_tasks, halfway), num_context=1, encode=encoder())
        lasting, num_decided = np.flatnonzero(self.clips.num_windows), sum(map(len, all_tasks))
        self.decided, self.open = lasting[lasting < num_decided], lasting[lasting >= num_decided]

    def draw(self, seed: int, step: int, num: int) -> np.ndarray:
        """Window numbers (num,), a function of (seed, step) alone; episodes are drawn alike, however long they are."""
        random = np.random.default_rng([seed, step])
        num_open = int(num * OPEN)
        episodes = np.concatenate(
            [random.choice(some, n) for some, n in ((self.decided, num - num_open), (self.open, num_open))]
        )
        most = self.clips.num_windows[episodes]
        most[num - num_open :] = most[num - num_open :].clip(max=EARLY)
        return self.clips.numbers(episodes, random.integers(most))

    def batch(self, indices: np.ndarray, num_frames: int | None = None) -> Clip:
        return self.clips.batch(indices, num_frames)


class Told(nn.Module):
    """The loss of films that go on from a frame, and of stills, of which some are drawn from words alone.

    Args:
        prior: that is trained; up to pure noise, so that it can be loaded with a schedule that ends in it.
        seed: of the draws.
    """

    def __init__(self, prior: PixelUNet, seed: int) -> None:
        super().__init__()
        pure = SCHEDULES["linear, zero terminal SNR"](prior.schedule.num_levels)
        of = partial(DenoisingLoss, prior, pure, seed=seed)
        self.films = of(forgotten={"text": UNTOLD})
        self.stills = of(forgotten={"text": UNTOLD, "context": FROM_WORDS})

    def forward(self, clip: Clip, *, step: int, samples: Sequence[int] | Tensor) -> Float[Tensor, " batch"]:
        """The loss of each clip, (batch,)."""
        task, weight = (self.stills, STILLS) if clip.video.shape[1] == 1 else (self.films, 1.0)
        return weight * task(clip, step=step, samples=samples)


def lessons(datasets: Path, num_episodes: int = 30) -> Lessons:
    """So many episodes of each task, and as many that begin astray, recorded first if they are not there."""
    return Lessons(
        (
            tabletop_episodes(num_episodes=num_episodes, folder=datasets / "tabletop"),
            astray_episodes(num_episodes=num_episodes, folder=datasets / "tabletop-astray"),
        ),
        halfway_episodes(num_episodes=num_episodes, folder=datasets / "tabletop-halfway"),
    )


def tabletop_episodes(*, num_episodes: int = 30, first_look: int = 1, seed: int = 0, folder: Path) -> Episodes:
    """MetaWorld's experts at every one of TASKS, each episode in a look of its own.

    Raises:
        ValueError: another set is in the same place; or a setting is out of range.
    """
    return _experts(num_episodes, first_look, seed, folder)


def astray_episodes(*, num_episodes: int = 30, first_look: int = 50_001, seed: int = 50_000, folder: Path) -> Episodes:
    """The same, begun where random actions led from somewhere on the expert's way: whoever acts by what it imagines gets
    there, too.

    Raises:
        ValueError: another set is in the same place; or a setting is out of range.
    """
    return _experts(num_episodes, first_look, seed, folder, astray=1.0)


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
    num_episodes: int, first_look: int, seed: int, folder: Path, *, max_steps: int = MAX_STEPS, **beginnings: Any
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
        output=folder,
        **beginnings,
    )
