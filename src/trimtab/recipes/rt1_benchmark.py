"""AVID's methods on RT1, or a set in RLDS form with its fields, at equal compute: a toy, or with AVID's own settings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro
from jaxtyping import Float
from torch import Tensor

from trimtab.core.checks import counted
from trimtab.core.contracts import Prior
from trimtab.data.episodes import Episodes
from trimtab.diffusion import sampling
from trimtab.metrics.actions import JudgeFile
from trimtab.recipes._prior import prior_of, words_of
from trimtab.recipes.benchmark.bench import Bench, Scale, allowed
from trimtab.recipes.benchmark.methods import Training
from trimtab.recipes.benchmark.robots import (
    PAPER_SIZES,
    ROBOT_METHODS,
    SCHEDULE,
    SMOKE,
    check_fits,
    checked_judge,
    only,
    robot,
    robot_trainings,
)
from trimtab.recipes.import_rlds import rlds_episodes, scaled
from trimtab.training import record_settings

ACTION = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
"""What the numbers of an RT1 action move."""

SPLITS = {"training": "train[:94%]", "validation": "train[94%:95%]", "test": "train[95%:]"}
"""AVID trains on the first 95% and measures on the rest; the last of the first are to choose on."""

SCALES = {
    "smoke": Scale((*SMOKE, "finetuning with language"), 1, teraflops=100.0, num_clips=128, num_steps=4),
    "paper": Scale(
        tuple(ROBOT_METHODS), 1, teraflops=None, avid_steps=500_000, num_clips=1024, batch_size=64, lengths=(15,),
        num_steps=50, sample=sampling.ddim, fitting={"warm_up": 250, "cool_down": 0.0, "average_decay": 0.9995},
    ),
}  # fmt: skip

SCHEDULES = {"smoke": SCHEDULE, "paper": "scaled linear, zero terminal SNR"}

FRAMES = {"smoke": (64, 64), "paper": (320, 512)}
"""Height and width."""

EPISODES = {"smoke": 500, "paper": None}
"""To train on; None for all."""

SAID = "Robot arm performs the task: "
"""What AVID puts before what an episode shows."""

NUM_TOKENS = 48
"""Of a text: instructions of RT1 are longer than MetaWorld's."""


def rt1_benchmark(
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")],
    *,
    scale: Literal["smoke", "paper"] = "smoke",
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    teraflops: float | None = None,
    num_clips: int | None = None,
    num_episodes: int | None = None,
    num_steps: int | None = None,
    batch_size: int | None = None,
    prior: str = "tabletop",
    judge: Path | None = None,
    dry_run: bool = False,
    datasets: Path = Path("datasets"),
    output: Path | None = None,
    cells: Path | None = None,
) -> None:
    """Train every method for the same number of operations on a set in RLDS form, measure all on its last 5%, and compare.

    All is trained by AVID's plain error of velocities. At the smoke scale that of the adapter's own belief comes beside it,
    and what begins from nothing is trained by Muon.

    What is finished is not done again: each method and seed leaves a small file, a cell, and the report is made of all
    cells that are there. An interrupted training goes on.

    Args:
        folder: of one version of the set, such as fractal20220817_data/0.1.0.
        scale: smoke has six methods and frames of 64 x 64; paper has the settings of AVID's own experiment, for GPUs and a
            prior that you bring: every method, adapters of 37 million weights, which is about its middle size, frames of
            320 x 512, one given and 15 predicted, batches of 64, the operations of 500 thousand steps of AVID, and DDIM of
            50 steps.
        methods: only these; "repeat last frame" is a row anyway.
        seeds: only these, of weights and batches.
        teraflops: operations of one training, in 10^12, instead of the scale's.
        num_clips: test clips, instead of the scale's.
        num_episodes: to train on, one or more, instead of the scale's.
        num_steps: sampling steps a clip, instead of the scale's.
        batch_size: clips in a training step, instead of the scale's.
        prior: the name of a prior that ships with the package, the path of one that `PixelUNet.save` wrote, or
            ``module:function``, which makes yours: docs/your_model.md wraps a public video model in 40 lines. None that
            ships is of the paper's clips, and AVID's own, DynamiCrafter, is not among trimtab's priors. At the paper's scale
            yours is given 1 frame, predicts 15, and has a codec that takes frames of 320 x 512 to its frame_shape; its
            schedule is its own, AVID's "scaled linear, zero terminal SNR" (there latents are scaled down besides, by up to
            0.7 with the noise level, which is for yours to do). Methods that need its weights ask for an `OpenPrior`,
            "finetuning with language" for one that hears texts, too; without --methods those that cannot be had are left
            out.
        judge: reads the actions off videos; what `trimtab metaworld-judge --data` made of the set to train on that this
            command leaves in `datasets`, already with --dry-run. Without it no figure of actions is made.
        dry_run: import what data are missing, and then only say what the trainings will need in memory, time and disk.
        datasets: where imported episodes are kept.
        output: run folder, by default runs/rt1-benchmark-<scale>; report.html in it is the result.
        cells: the folder of the cells, by default `cells` in the output.
    """
    own = {"teraflops": teraflops, "num_clips": num_clips, "num_steps": num_steps, "batch_size": batch_size}
    counted(num_episodes=num_episodes)
    output = output or Path(f"runs/rt1-benchmark-{scale}")
    settings = {"folder": folder, "scale": scale, **own, "num_episodes": num_episodes, "prior": prior, "judge": judge}
    frozen = prior_of(prior, SCHEDULES[scale])
    check_fits(frozen, FRAMES[scale], max(SCALES[scale].lengths))
    remedy = "pass another as --judge, or none"
    judge_file = None if judge is None else checked_judge(judge, FRAMES[scale], len(ACTION), remedy)
    size = SCALES[scale].but({**own, "trainings": trainings_beside(frozen, scale)})
    methods = allowed(methods, size, ROBOT_METHODS, frozen)
    record_settings(output, "rt1-benchmark", settings, dry_run=True)  # refused before data are imported
    num_episodes = EPISODES[scale] if num_episodes is None else num_episodes
    sets = imported(folder, num_episodes, size, FRAMES[scale], datasets)
    if judge_file is not None:
        check_units(judge_file, sets[0])
    domain = robot(
        frozen, *sets, num_frames=frozen.num_frames, levels=SPLITS, title="Adapting a video prior to RT1",
        names=ACTION, idle=idle(sets[0]), encode=partial(said, frozen), judge_file=judge_file,
    )  # fmt: skip
    domain.test(size.num_clips)  # refused before anything is kept, if there are not as many
    record_settings(output, "rt1-benchmark", settings, dry_run=dry_run)
    bench = Bench(frozen, domain, size, output, only, ROBOT_METHODS)
    bench.run(methods, seeds, cells or output / "cells", dry_run=dry_run)


def check_units(judge_file: JudgeFile, training: Episodes) -> None:
    """Raises ValueError for a judge that learned to answer in other units than those of this set."""
    own, others = (some.get("statistics") for some in (training.provenance, judge_file.card.get("data", {})))
    if own != others:
        raise ValueError(
            f"the judge {judge_file.path} did not learn from actions scaled by the mean and deviation of {own['of']}; train "
            f"one by `trimtab metaworld-judge --data {training.folder}`, or pass none"
        )


def trainings_beside(prior: Prior, scale: Literal["smoke", "paper"]) -> dict[str, Training]:
    """As the embedded models are trained, or as AVID's latent models are (arXiv 2410.12822)."""
    if scale == "smoke":
        return robot_trainings(prior)
    return robot_trainings(prior, own_belief=False, muon_rate=None, rate=1e-4, finetuning=2e-5, sizes=PAPER_SIZES)


def imported(
    folder: Path, num_episodes: int | None, size: Scale, frame: tuple[int, int], datasets: Path
) -> list[Episodes]:
    """The sets to train on, to choose on and to measure on, with the statistics of the first.

    Of the last two there are some episodes more than clips, since some may be too short for one.
    """
    source, (height, width) = folder.resolve(), frame
    counts = {"training": num_episodes, "validation": 2 * size.num_choosing, "test": 2 * size.num_clips}
    sets: list[Episodes] = []
    for part, split in SPLITS.items():
        name = f"{source.parent.name}-{source.name}-{part}-{counts[part] or 'all'}-{height}x{width}"
        statistics = sets[0].folder if sets else None
        if statistics:  # of as many episodes, which others may differ in
            name += f"-scaled-by-{num_episodes or 'all'}"
        sets.append(
            rlds_episodes(
                folder, output=datasets / name, split=split, max_episodes=counts[part], height=height, width=width,
                statistics=statistics,
            )
        )  # fmt: skip
    return sets


def idle(episodes: Episodes) -> Float[Tensor, " dim"]:
    """The action that moves nothing, the gripper open, in the units of a set."""
    still = np.array([[0.0] * (len(ACTION) - 1) + [1.0]], np.float32)
    return torch.from_numpy(scaled(still, episodes.provenance["statistics"])[0])


def said(prior: Prior, texts: Sequence[str]) -> Tensor:
    """What episodes show, in AVID's words, to the token states that a prior is told."""
    return words_of(prior, NUM_TOKENS)([SAID + text for text in texts])
