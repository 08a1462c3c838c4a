"""Does a prior of your own keep the contract, and is it wired rightly? Asked in seconds, before hours rest on it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import tyro
from jaxtyping import Float
from rich import print
from torch import Tensor

from trimtab.core.checks import counted, is_open
from trimtab.core.contracts import Prior
from trimtab.core.markdown import markdown_table
from trimtab.core.values import Clip, Kind, NoiseLevel, Video
from trimtab.data.clips import Clips, spread
from trimtab.data.episodes import Episodes
from trimtab.diffusion import sampling
from trimtab.diffusion.losses import encoded, per_sample
from trimtab.metrics.frames import psnr
from trimtab.priors.pixel_unet import PixelFrames
from trimtab.recipes._held import Held, moved
from trimtab.recipes._prior import TRIED, frame_size, prior_of, words_of

PART = 4
"""Clips that are asked about at once."""

MOST = 2.0
"""Times a guess's error, which a prior may have where there is more noise than clip and these are no videos as it knows."""

STEEP = 3.0
"""Noise over clip, up to which an answer in noises is judged. The clip that it means is read off through a division by
alpha, which makes any model's least mistake as large as that of wrong wiring where almost all is noise."""

Errors = Float[Tensor, " level"]


def check_prior(
    prior: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PRIOR")],
    *,
    data: Path | None = None,
    num_clips: int = 16,
    num_levels: int = 8,
    seed: int = 0,
) -> None:
    """Try a prior as every command does that takes ``--prior``, and say what it is.

    With recorded episodes also whether it is wired rightly: noise is added to clips, and the error of the clips that it
    believes in is told beside that of a guess that knows nothing but the noise level, the best weighted mean of the noisy
    clip and the last given frame. Where little noise is added, any video model is ahead of that, unless the kind of its
    answer, its schedule, the scale of its latents or the order of time is not what it says. What is wired wrongly in ways
    that cost little, such as red and blue exchanged, is not found; nor what spoils answers in noises only where almost all
    is noise, since there their least mistake spoils the clip as much.

    Args:
        prior: ``module:function``, which makes yours (docs/your_model.md), or the name or path of an embedded one.
        data: a set of recorded episodes, of frames as large as the prior's.
        num_clips: of the set, spread over its episodes.
        num_levels: noise levels, spread evenly over the prior's schedule.
        seed: of the noise.
    """
    counted(num_clips=num_clips, num_levels=num_levels)
    made = prior_of(prior)
    for name, fact in facts(made).items():
        print(f"{name:9} {fact}")
    if data is None:
        print("It keeps the contract. Pass recorded episodes as --data to see whether it is wired rightly.")
        return
    held = clips_of(made, Episodes.open(data), num_clips)
    indices = spread(made.schedule.num_levels, num_levels)
    began = time.monotonic()
    kind, believed, guessed = errors(made, held, indices.tolist(), seed)
    seconds = (time.monotonic() - began) / (num_levels * len(held.indices))
    levels = made.schedule.level(torch.from_numpy(indices))
    rows = [
        (f"{level:.3f}", f"{ours:.4g}", f"{theirs:.4g}", f"{ours / theirs:.3f}")
        for level, ours, theirs in zip(levels.sigma.tolist(), believed.tolist(), guessed.tolist(), strict=True)
    ]
    print(f"\n{markdown_table(('sigma', 'its error', 'of a guess', 'share'), rows)}")
    print(f"Mean squared, of {len(held.indices)} clips, in its own space; {seconds:.2g} s an answer and clip.")
    print(f"It answers in kind {kind!r}.")
    if made.codec.space != PixelFrames.space:
        print(f"Frames come back from its codec with a PSNR of {returned(made, held):.1f} dB.")
    print(verdict(believed / guessed, levels, kind))


def facts(prior: Prior) -> dict[str, str]:
    """What a prior is, by name, in words."""
    height, width = frame_size(prior)
    schedule, pure = prior.schedule, "pure noise" if prior.schedule.may_be_pure else "not quite pure noise"
    clean, noisy = schedule.sigmas.min().item(), schedule.sigmas.max().item()
    hears = ", ".join(sorted(prior.uses))
    if "text" in prior.uses:
        hears += f"; texts are {tuple(words_of(prior)([TRIED[0]]).shape[1:])}, token and feature"
    weights = "within reach" if is_open(prior) else "out of reach, for methods that need none"
    return {
        "clips": f"{prior.num_context} given, {prior.num_frames} predicted at the most, {prior.frame_rate:g} a second",
        "frames": f"{height} x {width}; {tuple(prior.frame_shape)} in space {prior.space!r}",
        "hears": hears,
        "schedule": f"{schedule.name}, {schedule.num_levels} levels, sigma {clean:.3g} to {noisy:.3g}, {pure}",
        "weights": f"{weights}; fingerprint {prior.fingerprint}",
    }


def clips_of(prior: Prior, episodes: Episodes, num_clips: int) -> Held:
    """Recorded clips to ask a prior about. Raises ValueError if their frames are not as large as its own."""
    size = tuple(episodes.frames.shape[1:3])
    if size != frame_size(prior):
        raise ValueError(
            f"the prior's frames are {frame_size(prior)}, and those recorded are {size}; record them as large"
        )
    say = words_of(prior) if "text" in prior.uses else None
    clips = Clips(episodes, prior.num_context, prior.num_frames, say)
    return Held.of(clips, clips.over_episodes(num_clips))


@torch.no_grad()
def errors(prior: Prior, held: Held, levels: Sequence[int], seed: int) -> tuple[Kind, Errors, Errors]:
    """The kind of a prior's answers; mean squared errors of the clips that it believes in, and of a guess, at each level.

    The guess is the mean of the noisy clip and the last given frame, each weighted by how exact it is.
    """
    noise = sampling.start_noise((prior.num_frames, *prior.frame_shape), seed, held.indices.tolist())
    believed, guessed = torch.zeros(2, len(levels))
    with moved(prior) as place:
        parts = [encoded(held.part(first, PART).to(place), prior.codec) for first in range(0, len(noise), PART)]
        still = torch.cat([per_sample((last_of(part) - part.video) ** 2) for part in parts]).mean()
        for part, starts in zip(parts, noise.to(place).split(PART), strict=True):
            ask = prior.bind(part.given.without("actions"))
            for row, index in enumerate(levels):
                level = prior.schedule.level(torch.full((len(starts),), index, device=place))
                noisy, (alpha, sigma) = level.add_noise(part.video, starts), level.broadcast()
                guess = (sigma**2 * last_of(part) + still * alpha * noisy) / (sigma**2 + still * alpha**2)
                belief = ask(noisy, level)
                believed[row] += per_sample((belief.clean - part.video) ** 2).sum().cpu()
                guessed[row] += per_sample((guess - part.video) ** 2).sum().cpu()
    return belief.kind, believed / len(noise), guessed / len(noise)


def last_of(clip: Clip) -> Video:
    """The last given frame, (clip, 1, ..)."""
    return clip.given.facts()["context"][:, -1:]


@torch.no_grad()
def returned(prior: Prior, held: Held) -> float:
    """PSNR of frames that were encoded and decoded, in dB."""
    frames = held.part(0, PART).video
    return psnr(prior.codec.decode(prior.codec.encode(frames)).clamp(-1, 1), frames).mean().item()


def verdict(shares: Errors, levels: NoiseLevel, kind: Kind) -> str:
    """What errors as shares of a guess's say. Raises ValueError if they are what only wrong wiring makes of them.

    Args:
        shares: of each noise level.
        levels: these levels.
        kind: of the answers; those in noises are judged up to `STEEP`.
    """
    judged = levels.sigma <= STEEP * levels.alpha if kind == "noise" else torch.ones_like(shares, dtype=torch.bool)
    clean = levels.sigma < levels.alpha
    if (shares[clean] >= 1).any() or (shares[judged] >= MOST).any():
        raise ValueError(
            f"it is no better than a guess where there is more clip than noise, or {MOST:g} times as wrong elsewhere, as no "
            "video model is that is wired rightly; look at the kind of its answer, its schedule and timestep, the scale of "
            "its latents and given frames, and the order of time, height and width"
        )
    passed = "Nothing speaks against its wiring"
    if not judged.all():
        passed += f", as far as noise is at most {STEEP:g} times as strong as the clip; beyond, noises tell little"
    if (shares[judged] >= 1).any():
        return f"{passed}. Where noise is most it is no better than a guess about these videos."
    return f"{passed}. It is better than a guess at every noise level that is judged."
