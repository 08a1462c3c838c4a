"""Which way of adapting the tabletop prior is best? Every method on a robot's action vectors, at equal compute."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from trimtab.data.episodes import Episodes
from trimtab.metrics.actions import METAWORLD_JUDGE
from trimtab.recipes._prior import clip_length, prior_of, words_of
from trimtab.recipes.benchmark.bench import Bench, Scale, allowed
from trimtab.recipes.benchmark.robots import (
    ROBOT_METHODS,
    SCHEDULE,
    SMOKE,
    check_fits,
    checked_judge,
    only,
    robot,
    robot_trainings,
)
from trimtab.recipes.domains.metaworld import PLAYED, SIZE, at_play
from trimtab.recipes.reading.pairs import ACTION
from trimtab.training import record_settings

SCALES = {
    "smoke": Scale((*SMOKE, "finetuning with language"), 1, teraflops=100.0, num_clips=128, num_steps=4),
    "tiny": Scale(tuple(ROBOT_METHODS), 3, teraflops=200.0, num_clips=256, num_steps=4),
}

TRAINING_SEED, VALIDATION_SEED, TEST_SEED = 1000, 3000, 4000
"""Of the first episode of each task; the judge learned from others, those from 2000 on."""

NUM_EPISODES = 24
"""Of each task, to train on."""


def metaworld_benchmark(
    *,
    scale: Literal["smoke", "tiny"] = "smoke",
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    teraflops: float | None = None,
    num_clips: int | None = None,
    num_steps: int | None = None,
    batch_size: int | None = None,
    learning_rate: float = 1e-3,
    muon_rate: float = 4e-3,
    finetuning_rate: float = 1e-3,
    prior: str = "tabletop",
    judge: Path | None = None,
    dry_run: bool = False,
    datasets: Path = Path("datasets"),
    output: Path | None = None,
    cells: Path | None = None,
) -> None:
    """Train every method for the same number of operations on a robot at play, measure all on other episodes, and compare.

    The half of AVID's paper that is about a real robot, in miniature: continuous actions, and the layout of its latent
    models around the tabletop prior, which is given one frame, and told no text but for "finetuning with language". All is
    trained by the plain error of velocities, as in AVID; that of an adapter's own belief comes beside it, and what begins
    from nothing is trained by Muon, what begins as the prior by AdamW.

    What is finished is not done again: each method and seed leaves a small file, a cell, and the report is made of all
    cells that are there. An interrupted training goes on.

    Args:
        scale: smoke has six methods and one seed, tiny every method and three.
        methods: only these; "repeat last frame" is a row anyway.
        seeds: only these, of weights and batches.
        teraflops: operations of one training, in 10^12, instead of the scale's.
        num_clips: test clips, instead of the scale's.
        num_steps: sampling steps a clip, instead of the scale's.
        batch_size: clips in a training step, instead of the scale's.
        learning_rate: of ControlNet, low-rank changes and the classifier, by AdamW. This one and the next two are given, not
            chosen on validation episodes for each training, as those of the Procgen benchmark are.
        muon_rate: of adapters and of models that are trained alone, by Muon.
        finetuning_rate: of finetuning on actions or on language, by AdamW; for a large prior take less (AVID: 0.00002).
        prior: the name of a prior that ships with the package, the path of one, or ``module:function``, which makes yours
            (docs/your_model.md), that is given one frame of 64 x 64 and predicts eight or more.
        judge: reads the actions off videos; what `trimtab metaworld-judge` made, by default that which comes with the
            package.
        dry_run: record what data are missing, and then only say what the trainings will need in memory, time and disk.
        datasets: where recorded episodes are kept.
        output: run folder, by default runs/metaworld-benchmark-<scale>; report.html in it is the result.
        cells: the folder of the cells, by default `cells` in the output.
    """
    own = {"teraflops": teraflops, "num_clips": num_clips, "num_steps": num_steps, "batch_size": batch_size}
    output = output or Path(f"runs/metaworld-benchmark-{scale}")
    settings = {
        "scale": scale,
        **own,
        "learning_rate": learning_rate,
        "muon_rate": muon_rate,
        "finetuning_rate": finetuning_rate,
        "prior": prior,
        "judge": judge,
    }
    frozen = prior_of(prior, SCHEDULE)
    check_fits(frozen, (SIZE, SIZE), frozen.num_frames)
    num_frames = clip_length(frozen, SCALES[scale].lengths)
    judge, remedy = judge or METAWORLD_JUDGE.path, "train one by `trimtab metaworld-judge` and pass it as --judge"
    judge_file = checked_judge(judge, (SIZE, SIZE), len(ACTION), remedy)
    trainings = robot_trainings(frozen, muon_rate=muon_rate, rate=learning_rate, finetuning=finetuning_rate, reach=1.0)
    size = SCALES[scale].but({**own, "trainings": trainings})
    methods = allowed(methods, size, ROBOT_METHODS, frozen)
    record_settings(output, "metaworld-benchmark", settings, dry_run=dry_run)
    training = at_play(datasets / "metaworld-play", seed=TRAINING_SEED, num_episodes=NUM_EPISODES)
    validation = held_out(VALIDATION_SEED, size.num_choosing, datasets)
    test = held_out(TEST_SEED, size.num_clips, datasets)
    domain = robot(
        frozen, training, validation, test, num_frames=num_frames, title="Adapting a video prior to a robot's actions",
        levels=seeds_of(training=training, validation=validation, test=test), names=ACTION, idle=torch.zeros(len(ACTION)),
        encode=words_of(frozen), judge_file=judge_file,
    )  # fmt: skip
    bench = Bench(frozen, domain, size, output, only, ROBOT_METHODS)
    bench.run(methods, seeds, cells or output / "cells", dry_run=dry_run)


def held_out(first_seed: int, num_clips: int, datasets: Path) -> Episodes:
    """About one episode a clip."""
    num_episodes = -(-num_clips // len(PLAYED))
    folder = datasets / f"metaworld-play-{first_seed}-{num_episodes}"
    return at_play(folder, seed=first_seed, num_episodes=num_episodes)


def seeds_of(**sets: Episodes) -> dict[str, str]:
    """The seeds of the episodes of each set, for the record. Raises ValueError if two sets share one."""
    seeds = {name: set(episodes.levels.tolist()) for name, episodes in sets.items()}
    ranges = {name: f"seeds {min(some)}-{max(some)}" for name, some in seeds.items()}
    if sum(map(len, seeds.values())) > len(set.union(*seeds.values())):
        raise ValueError(f"what is trained on, chosen on and measured on must not share a seed, these do: {ranges}")
    return ranges
