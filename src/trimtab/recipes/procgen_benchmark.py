"""Which way of adapting the Procgen prior is best? Every method on coinrun, at equal compute, in one table."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from trimtab.diffusion import sampling
from trimtab.environments.procgen import ACTION_NAMES, COINRUN_EFFECTS
from trimtab.metrics.actions import COINRUN_JUDGE
from trimtab.priors import pixel_unet
from trimtab.priors.pixel_unet import PixelUNet
from trimtab.recipes.benchmark.bench import Bench, Domain, Scale
from trimtab.recipes.benchmark.methods import METHODS, PAPER_TRAININGS
from trimtab.recipes.benchmark.report import Words
from trimtab.recipes.domains.coinrun import (
    COINRUN_ACTIONS,
    COINRUN_TABLES,
    IDLE,
    TEST_LEVELS,
    VALIDATION_LEVELS,
    Policy,
    held_out,
    num_training_levels,
    training_clips,
    validation,
)
from trimtab.recipes.procgen_choices import CHOICES, chosen
from trimtab.training import record_settings

SCALES = {
    "smoke": Scale(
        ("frozen prior", "from scratch", "product of experts", "AVID", "ControlNet"), 1, teraflops=80.0, num_clips=128,
        num_frames=50_000,
    ),
    "tiny": Scale(tuple(METHODS), 3, teraflops=80.0, num_clips=128, num_frames=50_000),
    "paper": Scale(
        tuple(name for name, method in METHODS.items() if method.training in {None, *PAPER_TRAININGS}), 1,
        teraflops=3e6, num_clips=1024, num_frames=500_000, batch_size=64, lengths=(8,), num_steps=200,
        sample=sampling.ancestral, trainings=PAPER_TRAININGS,
        fitting={"warm_up": 1000, "cool_down": 0.0, "weight_decay": 0.0, "average_decay": 0.999},
    ),
}  # fmt: skip

POLICIES: dict[str, Policy] = {"smoke": "sticky", "tiny": "sticky", "paper": "uniform"}
"""Who played what is trained and measured on."""


def procgen_benchmark(
    *,
    scale: Literal["smoke", "tiny", "paper"] = "smoke",
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    teraflops: float | None = None,
    num_clips: int | None = None,
    num_frames: int | None = None,
    num_steps: int | None = None,
    batch_size: int | None = None,
    prior: str = "procgen",
    choices: Path = CHOICES,
    dry_run: bool = False,
    datasets: Path = Path("datasets"),
    output: Path | None = None,
    cells: Path | None = None,
) -> None:
    """Train every method for the same number of operations, measure all on the same held-out clips, and compare them.

    What is finished is not done again: each method and seed leaves a small file, a cell, and the report is made of all
    cells that are there. An interrupted training goes on. The same command may run several times at once, such as once a
    core: each makes what no other is at work on, and the last to end reports all.

    Args:
        scale: smoke has five methods and one seed, tiny every method and three, all trained and measured like smoke's; paper
            is AVID's own experiment, for GPUs, around a prior of `trimtab procgen-prior --size paper`.
        methods: only these; "repeat last frame" is a row anyway.
        seeds: only these, of weights and batches.
        teraflops: operations of one training, in 10^12, instead of the scale's.
        num_clips: test clips, one a level, instead of the scale's.
        num_frames: recorded frames to train on, instead of the scale's; at paper scale of one level a thousand.
        num_steps: sampling steps a clip, instead of the scale's.
        batch_size: clips in a training step, instead of the scale's.
        prior: the name of a prior that ships with the package, or the path of one.
        choices: what `trimtab procgen-choices` chose, a file.
        dry_run: record what data are missing, and then only say what the trainings will need in memory, time and disk.
        datasets: where recorded play is kept.
        output: run folder, by default runs/procgen-benchmark-<scale>; report.html in it is the result.
        cells: the folder of the cells, by default `cells` in the output.
    """
    own = {
        "teraflops": teraflops, "num_clips": num_clips, "num_frames": num_frames, "num_steps": num_steps,
        "batch_size": batch_size,
    }  # fmt: skip
    output = output or Path(f"runs/procgen-benchmark-{scale}")
    record_settings(output, "procgen-benchmark", {"scale": scale, **own, "prior": prior}, dry_run=dry_run)
    frozen = pixel_unet.load(prior)
    size = SCALES[scale].but(own)
    domain = coinrun(frozen, datasets, POLICIES[scale], size.num_frames or 0)
    bench = Bench(frozen, domain, size, output, partial(chosen, path=choices, prior=frozen))
    bench.run(methods, seeds, cells or output / "cells", dry_run=dry_run)


def coinrun(prior: PixelUNet, datasets: Path, policy: Policy, num_frames: int) -> Domain:
    """What the Procgen prior is adapted to, by so many recorded frames."""
    return Domain(
        training=partial(training_clips, prior, datasets=datasets, policy=policy),
        validation=partial(validation, prior, datasets=datasets, policy=policy),
        test=partial(held_out, prior, datasets=datasets, policy=policy),
        levels={
            "training": f"0-{num_training_levels(num_frames, policy) - 1}",
            "validation": VALIDATION_LEVELS,
            "test": TEST_LEVELS,
        },
        actions=COINRUN_ACTIONS,
        idle=IDLE,
        words=Words("Adapting a prior to coinrun", "level", ACTION_NAMES),
        judge_file=COINRUN_JUDGE,
        effects=COINRUN_EFFECTS,
        tables=COINRUN_TABLES,
    )
