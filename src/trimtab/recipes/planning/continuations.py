"""What the robot's experts do next, and what is imagined in its place; knows no method, and plans nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from trimtab.core.contracts import Denoiser, Prior
from trimtab.core.values import Video
from trimtab.data.clips import Clips
from trimtab.diffusion import sampling
from trimtab.diffusion.losses import known_in
from trimtab.metrics.distributions import distance_jackknife, frechet_distance
from trimtab.metrics.features import in_parts, real_features
from trimtab.metrics.i3d import I3D, with_context
from trimtab.metrics.intervals import Interval
from trimtab.recipes._held import Held
from trimtab.recipes._prior import words_of
from trimtab.recipes.domains.metaworld import ACTION_REPEAT, LINGER, MAX_STEPS, SIZE
from trimtab.recipes.record_metaworld import metaworld_episodes

PART = 16
"""Clips that are imagined together."""

LEAST_EPISODES = 20
"""That clips must come from for FVD, whose interval needs as many."""

NUM_EPISODES = 24
"""Of each task that are recorded."""


def expert_clips(
    prior: Prior,
    tasks: Sequence[str],
    num_clips: int,
    num_frames: int,
    *,
    first_start: int,
    folder: Path,
    words: Callable[[Sequence[str]], Tensor] | None = None,
    action_repeat: int = ACTION_REPEAT,
    max_steps: int = MAX_STEPS,
    size: int = SIZE,
) -> Held:
    """Clips of the experts at these tasks, in the robot's look, from start states of their own, with their texts.

    Args:
        prior: that is told them.
        tasks: of which `NUM_EPISODES` each are recorded, if they are not there.
        num_frames: of a clip.
        num_clips: spread over tasks, start states and moments.
        first_start: the seed of the first start state.
        folder: of the recorded set.
        words: the texts as token states; those of the task alone by default.
        action_repeat, max_steps, size: of the environment.
    """
    episodes = metaworld_episodes(
        tasks=tuple(tasks),
        num_episodes=NUM_EPISODES,
        seed=first_start,
        action_repeat=action_repeat,
        max_episode_steps=max_steps,
        size=size,
        linger=LINGER,
        robot=True,
        output=folder,
    )
    clips = Clips(episodes, prior.num_context, num_frames, encode=words or words_of(prior))
    return Held.of(clips, clips.over_episodes(num_clips))


@torch.no_grad()
def continued(denoiser: Denoiser, prior: Prior, sample: Callable[..., Video], held: Held, seed: int) -> Video:
    """What follows the first frames of clips, by ``sample(denoiser, noise, given)``, as frames in [-1, 1]: of latents, and
    where weights do not sum to one, nothing is clamped on the way.
    """
    shape = (held.clip.video.shape[1], *prior.frame_shape)
    noise = sampling.start_noise(shape, seed, held.indices.tolist())
    parts = []
    for first in range(0, len(noise), PART):
        given = known_in(held.part(first, PART).given.without("actions"), prior.codec)
        parts.append(prior.codec.decode(sample(denoiser, noise[first : first + PART], given)))
    return torch.cat(parts).clamp(-1, 1)


def video_distance(imagined: Video, held: Held, cache: Path | None = None) -> Interval:
    """The Frechet video distance of what is imagined from what the experts did, given frames put before both.

    Its interval is over start states, of which it needs twenty. The features of the real clips are kept in `cache`.
    """
    network = I3D()
    real = real_features(network, with_context(held.clip.video, held.context), cache)
    features = in_parts(network, with_context(imagined, held.context), of="I3D features")
    return distance_jackknife(frechet_distance, features, real, held.levels, of="FVD").interval
