"""Recorded clips as a prior draws them anew, for who learns, and is measured, to read what models draw; knows no reader."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from rich.progress import track
from torch import Tensor

from trimtab.core.contracts import Prior
from trimtab.core.values import Clip, Video
from trimtab.data.clips import Clips, spread
from trimtab.diffusion import sampling
from trimtab.diffusion.losses import known_in
from trimtab.diffusion.noise import generator
from trimtab.recipes._held import from_bytes, moved, sampler, to_bytes
from trimtab.recipes._prior import frame_size, words_of
from trimtab.recipes.reading.pairs import Pairs, Part

NUM_STEPS, SHARES = 8, (0.25, 0.5, 1.0)
"""Sampling steps from pure noise, and the shares of these that are taken, of what is drawn to measure on."""

NUM_FRAMES = 4
"""Of a film to learn from, if the prior's clips have as many: those of a plan."""

LEVELS = (0.05, 0.6)
"""Of the noise that covers it, as shares of the prior's: of less, nothing is drawn, and of more, what was done is lost."""

CHUNK = 16


@dataclass(frozen=True)
class Films:
    """Clips of which all but the first frame are as a prior believes them.

    Attributes:
        frames: (clip, time, channel, height, width) uint8.
        actions: (clip, time - 1, dim), what was done between.
    """

    frames: UInt8[Tensor, "clip time channel height width"]
    actions: Float[Tensor, "clip step dim"]

    def pairs(self, num: int, random: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """So many random pairs of a frame and the next, in [-1, 1], and what was done between, (num, dim)."""
        clip, step = (torch.from_numpy(random.integers(size, size=num)) for size in self.actions.shape[:2])
        shown = from_bytes(torch.stack([self.frames[clip, step], self.frames[clip, step + 1]], dim=1))
        return shown[:, 0], shown[:, 1], self.actions[clip, step]


def clips_for(prior: Prior, pairs: Pairs, num: int) -> Part:
    """Up to so many clips as the prior knows them, of the pairs' episodes. Raises ValueError if they show too little."""
    sets, encode = pairs.clips.sets, words_of(prior) if "text" in prior.uses else None
    if (shown := sets[0].frames.shape[1:3]) != (drawn := frame_size(prior)):
        raise ValueError(f"the prior imagines frames of {drawn}, the sets hold {shown}")
    clips = Clips(sets, prior.num_context, prior.num_frames, encode)
    of = np.repeat(np.arange(len(clips.num_windows)), clips.num_windows)
    numbers = np.flatnonzero(np.isin(of, pairs.episodes))
    numbers = numbers[spread(len(numbers), min(num, len(numbers)))]
    if len(np.unique(of[numbers])) < 2:
        raise ValueError(
            f"two episodes are needed that have the {clips.window} frames of this prior's clips; record longer ones"
        )
    return Part(clips, numbers, of[numbers])


def done_in(part: Part, done: Float[Tensor, "row dim"], num_frames: int) -> Float[Tensor, "clip time dim"]:
    """What was done before each of the first frames to come, of what was done in every row of the sets."""
    lengths = np.concatenate([some.lengths for some in part.clips.sets])
    episodes, starts = part.clips.places(part.numbers)
    first = (np.cumsum(lengths) - lengths)[episodes] + starts + part.clips.num_context - 1
    return done[torch.from_numpy(first)[:, None] + torch.arange(num_frames)]


@torch.no_grad()
def believed(prior: Prior, part: Part, done: Float[Tensor, "row dim"], seed: int) -> Films:
    """Clips in what a prior believes of them where noise covers what was recorded, each under an amount of its own.

    Sampled videos look so: what a prior believes at the last of few steps. What was done still shows in them.

    Args:
        prior: is told the frames before, and the text if it hears one.
        part: the clips, from `clips_for`.
        done: what was done, of every row of the sets.
        seed: of the noise.
    """
    num_frames, schedule, codec = min(NUM_FRAMES, prior.num_frames), prior.schedule, prior.codec
    low, high = (int(share * schedule.num_levels) for share in LEVELS)
    frames = []
    with moved(prior) as place:
        for numbers in track(np.array_split(part.numbers, -(-len(part.numbers) // CHUNK)), description="drawing clips"):
            clip = part.batch(numbers, num_frames).to(place)
            context, given = clip.given.facts()["context"], known_in(clip.given.without("actions"), codec)
            clean = codec.encode(clip.video)
            drawn = [torch.randint(low, high, (1,), generator=generator(seed, 0, int(n), "level")) for n in numbers]
            level = schedule.level(torch.cat(drawn).to(place))
            noise = sampling.start_noise(tuple(clean.shape[1:]), seed, numbers.tolist()).to(place)
            belief = prior.bind(given)(level.add_noise(clean, noise), level).as_kind("clean").tensor
            frames.append(to_bytes(torch.cat([context[:, -1:], codec.decode(belief)], dim=1)).cpu())
    return Films(torch.cat(frames), done_in(part, done, num_frames))


def drawn_anew(prior: Prior, clip: Clip, numbers: np.ndarray, seed: int) -> dict[str, Video]:
    """Clips that were covered by noise in part and are drawn by a prior from there, and from noise alone."""
    sample, steps, codec = sampler(prior, NUM_STEPS), sampling.pairs(prior.schedule, NUM_STEPS), prior.codec
    given, clean = known_in(clip.given.without("actions"), codec), codec.encode(clip.video)
    noise, found = sampling.start_noise(tuple(clean.shape[1:]), seed, numbers.tolist()), {}
    for share in SHARES:
        taken = steps[-round(share * NUM_STEPS) :]
        level = taken[0][0].of(clean)
        start = level.add_noise(clean if share < 1 else torch.zeros_like(clean), noise)
        name = (
            f"drawn anew by the prior from {taken[0][0].sigma:.2f} of noise" if share < 1 else "imagined by the prior"
        )
        found[name] = codec.decode(sample(prior, start, given, pairs=taken)).clamp(-1, 1)
    return found
