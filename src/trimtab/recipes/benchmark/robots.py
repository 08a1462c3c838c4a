"""What the benchmarks of robots share: action vectors, methods, trainings, and recorded episodes; knows no robot.

The layout is that of AVID's latent models (arXiv 2410.12822): the plain error of velocities, on a schedule that ends in pure
noise, with the first frame given clean, beside every noisy frame, in training as in sampling.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from trimtab.adapters.avid import AVID
from trimtab.adapters.classifier_guidance import REACH, ActionClassifier
from trimtab.adapters.controlnet import ControlNet
from trimtab.adapters.finetune import Finetune
from trimtab.adapters.from_scratch import FromScratch
from trimtab.core.checks import is_open
from trimtab.core.contracts import Prior
from trimtab.data.clips import Clips
from trimtab.data.episodes import Episodes
from trimtab.diffusion.losses import DenoisingLoss, velocity_loss
from trimtab.diffusion.schedules import Schedule
from trimtab.metrics.actions import JudgeFile
from trimtab.networks.optimizers import Kind
from trimtab.recipes._held import Held
from trimtab.recipes._prior import patch_of
from trimtab.recipes.benchmark.bench import Domain
from trimtab.recipes.benchmark.methods import FORGOTTEN, METHODS, Method, Training, reading_task
from trimtab.recipes.benchmark.report import Words

SCHEDULE = "linear, zero terminal SNR"

JUDGED = 2
"""Frames before a clip, off which a judge reads its first action; the model is told as many as it always is."""

ROBOT_METHODS: dict[str, Method] = {
    **{name: method for name, method in METHODS.items() if method.varies is None},
    "finetuning with language": Method("finetune-language", needs_weights=True, told_text=True),
}

SMOKE = ("frozen prior", "from scratch", "product of experts", "AVID", "ControlNet")
"""The few methods of the smallest scale."""

Sizes = tuple[Mapping[str, Any], Mapping[str, Any]]
"""Of two networks of equally many weights, within 3%: an adapter, and the small ControlNet."""

EMBEDDED_SIZES: Sizes = (
    {"widths": (32, 96, 128), "steady": True},
    {"widths": (64, 128, 128), "depths": (1, 1, 2), "steady": True},
)
"""Beside the tabletop prior, of 1.2 million weights."""

RANK = 45
"""Of low-rank changes of the tabletop prior that are as many weights."""

PAPER_SIZES: Sizes = {"widths": (256, 512, 768), "depths": (2, 2, 2)}, {"widths": (256, 512, 960), "depths": (2, 2, 2)}
"""Of about as many weights as the second of AVID's three latent adapters, 34 million."""


def velocity_task(denoiser: Any, schedule: Schedule, seed: int, **options: Any) -> nn.Module:
    """The plain error of velocities."""
    return DenoisingLoss(denoiser, schedule, seed=seed, **options)


def robot_trainings(
    prior: Any,
    *,
    own_belief: bool = True,
    muon_rate: float | None = 4e-3,
    rate: float = 1e-3,
    finetuning: float = 1e-3,
    reach: float = REACH,
    sizes: Sizes = EMBEDDED_SIZES,
) -> dict[str, Training]:
    """What `ROBOT_METHODS` need trained.

    Args:
        prior: what is trained beside it looks at frames in as large patches. The small ControlNet is for one of
            `change_unet` alone.
        own_belief: minimise the error of an adapter's own belief beside that of the mixture, for trainings that are short.
        muon_rate: learning rate of what begins from nothing, adapters and models alone, by Muon; None trains it as the rest.
        rate: learning rate of the rest, by AdamW.
        finetuning: learning rate where all weights of the prior are trained; AVID's is a fifth of its others.
        reach: of the numbers of an action, which a classifier tells apart from minus to plus this.
        sizes: of what learns beside the prior, or alone, and of the small ControlNet.
    """
    learn = partial(velocity_task, own=velocity_loss if own_belief else None, codec=prior.codec)
    look, untold = {"patch": patch_of(prior)}, {"num_actions": None, "action_dim": None}
    alone: Mapping[str, Any] = {**look, **sizes[0]}
    optimizer: Kind = "adamw" if muon_rate is None else "muon"
    anew = partial(Training, rates=(rate if muon_rate is None else muon_rate,), optimizer=optimizer)
    beside, changed = partial(anew, AVID, task=learn), partial(Training, task=learn, rates=(rate,))
    trainings = {
        "scratch": anew(FromScratch, alone, task=learn),
        "forgetful": anew(FromScratch, alone, task=partial(learn, forgotten={"actions": FORGOTTEN})),
        "controlnet": changed(ControlNet),
        "controlnet-small": changed(ControlNet, {**look, **sizes[1]}),
        "finetune": changed(Finetune, rates=(finetuning,)),
        "finetune-language": changed(Finetune, untold, rates=(finetuning,)),
        "lora": changed(Finetune, {"rank": RANK}),
        "classifier": changed(
            ActionClassifier,
            {"widths": (32, 64, 96), "depths": (1, 1, 2), "reach": reach, **look},
            task=partial(reading_task, codec=prior.codec),
        ),
        "avid": beside(alone),
        "avid-no-mask": beside({"learn_mask": False, **alone}),
        "avid-blind": beside({"see_prior": False, **alone}),
        "avid-neither": beside({"learn_mask": False, "see_prior": False, **alone}),
    }
    if is_open(prior) and "patch" not in prior.network.sizes:  # which only `change_unet` has
        del trainings["controlnet-small"]
    return trainings


@torch.no_grad()
def check_fits(prior: Prior, frame: tuple[int, int], num_frames: int) -> None:
    """Raises ValueError for a prior of other clips: one frame given, so many predicted, of this height and width."""
    shape = tuple(prior.codec.encode(torch.zeros(1, 1, 3, *frame)).shape[2:])
    if (prior.num_context, prior.num_frames, prior.frame_shape) != (1, num_frames, shape):
        raise ValueError(
            f"this scale needs a prior that is given 1 frame and predicts {num_frames} of {shape}, which its codec makes of "
            f"frames of {frame}; this one is given "
            f"{prior.num_context} and predicts {prior.num_frames} of {prior.frame_shape}; pass another as --prior"
        )


def only(name: str, training: Training) -> float:
    """The learning rate of a training that leaves no choice."""
    (rate,) = training.rates
    return rate


def checked_judge(path: Path, frame: tuple[int, ...], action_dim: int, remedy: str) -> JudgeFile:
    """A judge that can read vectors of so many numbers off frames of this height and width.

    Raises ValueError for any other, or none, with what to do about that.
    """
    file = JudgeFile(path)
    if not path.exists():
        raise ValueError(f"no judge of actions at {path}; {remedy}")
    num = file.card["settings"]["num_actions"]
    if not file.reads_vectors or num != action_dim or file.frames != frame:
        read = f"vectors of {num} numbers" if file.reads_vectors else f"{num} discrete actions"
        raise ValueError(
            f"the judge {path} reads {read} off frames of {file.frames}, not vectors of {action_dim} numbers off frames of "
            f"{frame}; {remedy}"
        )
    return file


def robot(
    prior: Prior,
    training: Episodes,
    validation: Episodes,
    test: Episodes,
    *,
    num_frames: int,
    levels: Mapping[str, str],
    title: str,
    names: Sequence[str],
    idle: Float[Tensor, " dim"],
    encode: Callable[[Sequence[str]], Tensor],
    judge_file: JudgeFile | None,
) -> Domain:
    """Recorded episodes as what a prior is adapted to, all that there are; each is resampled as a whole.

    Where validation has fewer clips than are asked for, what is chosen is chosen on those.

    Args:
        prior: whose clips to cut out of them.
        num_frames: of a clip.
        training, validation, test: recorded apart.
        levels, judge_file: as of `Domain`.
        title: of the report.
        names: of the numbers of an action.
        idle: the action that does nothing.
        encode: what episodes show, in words, to token states, for a prior that hears any.
    """
    words = Words(title, "episode", tuple(f"{name}, {way}" for name in names for way in ("low", "high")))

    num_context = prior.num_context if judge_file is None else max(prior.num_context, JUDGED)

    def domain(say: Callable[[Sequence[str]], Tensor] | None, in_words: Domain | None) -> Domain:
        def choosing(num: int) -> Held:
            clips = Clips(validation, num_context, num_frames, say)
            return held_of(clips, min(num, clips.num_apart), prior)

        return Domain(
            training=lambda _: Clips(training, prior.num_context, num_frames, say),
            validation=choosing,
            test=lambda num: held_of(Clips(test, num_context, num_frames, say), num, prior),
            levels=levels,
            actions={"action_dim": len(names)},
            idle=idle,
            words=words,
            judge_file=judge_file,
            in_words=in_words,
        )

    return domain(None, domain(encode, None) if "text" in prior.uses else None)


def held_of(clips: Clips, num_clips: int, prior: Prior) -> Held:
    """So many clips of one set, spread over its episodes, with the episode of each."""
    (episodes,) = clips.sets
    indices = clips.over_episodes(num_clips)
    of = np.repeat(np.arange(len(episodes)), np.maximum(episodes.lengths - clips.window + 1, 0))
    held = Held.of(clips, indices, num_told=prior.num_context)
    return replace(held, levels=torch.from_numpy(of[indices]))
