"""Which way of adapting the Procgen prior is best? Every method on coinrun, at equal compute, in one table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from trimtab import checkpoints
from trimtab.adapters.avid import AVID
from trimtab.core.contracts import Denoiser
from trimtab.core.files import write_whole
from trimtab.environments.procgen import NUM_ACTIONS
from trimtab.metrics.actions import COINRUN_JUDGE
from trimtab.metrics.evaluation import evaluate
from trimtab.metrics.frames import Lpips
from trimtab.metrics.intervals import mean_interval
from trimtab.metrics.listening import under_every_action
from trimtab.metrics.protocol import Evaluation
from trimtab.networks import storage
from trimtab.priors import pixel_unet
from trimtab.priors.pixel_unet import PixelUNet
from trimtab.recipes._benchmark_report import write_report
from trimtab.recipes._coinrun import (
    TEST_LEVELS,
    TRAINING_LEVELS,
    VALIDATION_LEVELS,
    Held,
    Policy,
    held_out,
    held_out_loss,
    training_clips,
    validation,
)
from trimtab.recipes._inspection import Imaginer, listening_of, masks_of
from trimtab.recipes._methods import METHODS, PAPER_TRAININGS, TRAININGS, Method, Training, slug
from trimtab.recipes.procgen_choices import CHOICES, chosen
from trimtab.recipes.procgen_judge import COINRUN_TABLES
from trimtab.recipes.procgen_prior import LENGTHS
from trimtab.training import record_settings

SHOWN = 6
"""Clips that are shown in the report."""


@dataclass(frozen=True)
class Scale:
    """How much of everything.

    Attributes:
        methods: names, of METHODS.
        num_seeds: trainings of each.
        teraflops: floating-point operations of one training, prior and loss included, in 10^12.
        num_clips: test clips, one a level.
        num_frames: recorded frames to train on.
        policy: that played them.
        batch_size: clips in a training step.
        lengths: predicted frames of a step, in turn.
        num_steps: sampling steps a clip.
        ancestral: whether they are ancestral, as in the paper, or of DPM-Solver++.
        trainings: what the methods need trained.
    """

    methods: Sequence[str]
    num_seeds: int
    teraflops: float
    num_clips: int
    num_frames: int = 50_000
    policy: Policy = "sticky"
    batch_size: int = 8
    lengths: Sequence[int] = LENGTHS
    num_steps: int = 2
    ancestral: bool = False
    trainings: Mapping[str, Training] = field(default_factory=lambda: TRAININGS)


SCALES = {
    "smoke": Scale(
        ("frozen prior", "from scratch", "product of experts", "AVID", "ControlNet"), 1, teraflops=100.0, num_clips=128
    ),
    "tiny": Scale(tuple(METHODS), 3, teraflops=200.0, num_clips=256),
    "paper": Scale(
        tuple(name for name, method in METHODS.items() if method.training in {None, *PAPER_TRAININGS}), 1,
        teraflops=3e6, num_clips=1024, num_frames=500_000, policy="uniform", batch_size=64, lengths=(8,),
        num_steps=200, ancestral=True, trainings=PAPER_TRAININGS,
    ),
}  # fmt: skip


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
    cells that are there. An interrupted training goes on. Several of these commands may work on different methods or seeds
    in one output folder at a time.

    Args:
        scale: smoke has five methods and one seed, tiny every method and three; paper is AVID's own experiment, for GPUs,
            around a prior of `trimtab procgen-prior --size paper`.
        methods: only these; "repeat last frame" is a row anyway.
        seeds: only these, of weights and batches.
        teraflops: operations of one training, in 10^12, instead of the scale's.
        num_clips: test clips, one a level, instead of the scale's.
        num_frames: recorded frames to train on, instead of the scale's.
        num_steps: sampling steps a clip, instead of the scale's.
        batch_size: clips in a training step, instead of the scale's.
        prior: the name of a prior that ships with the package, or the path of one.
        choices: what `trimtab procgen-choices` chose, a file.
        dry_run: only say what the trainings will need in memory, time and disk.
        datasets: where recorded play is kept.
        output: run folder, by default runs/procgen-benchmark-<scale>; report.html in it is the result.
        cells: the folder of the cells, by default `cells` in the output.
    """
    own = {
        "teraflops": teraflops, "num_clips": num_clips, "num_frames": num_frames, "num_steps": num_steps,
        "batch_size": batch_size,
    }  # fmt: skip
    output = output or Path(f"runs/procgen-benchmark-{scale}")
    cells = cells or output / "cells"
    record_settings(
        output,
        "procgen-benchmark",
        {"scale": scale, **own, "prior": prior},
    )
    size = Scale(**{**vars(SCALES[scale]), **{name: value for name, value in own.items() if value is not None}})
    if unknown := [name for name in methods or () if name not in METHODS]:
        raise ValueError(f"no methods {unknown}; there are: {', '.join(METHODS)}")
    bench, console = Bench(pixel_unet.load(prior), size, choices, datasets, output), Console()
    for seed in range(size.num_seeds) if seeds is None else seeds:
        for name in size.methods if methods is None else methods:
            path = cells / f"{slug(name)}-{seed}.json"
            once = METHODS[name].training is None or METHODS[name].varies is not None
            if path.exists() or (seed and once):
                continue
            if dry_run:
                bench.train(name, seed, dry_run=True)
                continue
            console.rule(f"{name}, seed {seed}")
            write_whole(path, bench.cell(name, seed).to_json())
    if not dry_run:
        report = write_report(output / "report.html", cells_in(cells), pictures=output / "pictures")
        console.print(f"open {report.resolve()}")


def cells_in(folder: Path) -> list[Evaluation]:
    """All cells, in the order of the methods."""
    found = [Evaluation.from_json(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return sorted(found, key=lambda cell: list(METHODS).index(cell.protocol["notes"]["method"]))


@dataclass(frozen=True)
class Bench:
    """What all cells share.

    Attributes:
        prior: that is adapted.
        size: how much of everything.
        choices: learning rates, a file.
        datasets: where recorded play is kept.
        output: run folder.
    """

    prior: PixelUNet
    size: Scale
    choices: Path
    datasets: Path
    output: Path

    def cell(self, name: str, seed: int) -> Evaluation:
        """One method with one seed, trained, chosen for and measured."""
        method, held = METHODS[name], held_out(self.prior, self.size.num_clips, self.datasets)
        trained, facts = self.train(name, seed)
        strength, tried = self.best_strength(method, trained)
        denoiser = method.compose(self.prior, trained, strength)
        imagine = self.imaginer(denoiser, held)
        video = imagine.all()
        losses = held_out_loss(denoiser, self.prior, held, num_draws=4)
        notes: dict[str, Any] = {
            "method": name,
            "needs weights": method.needs_weights,
            "seed": seed,
            "training": facts,
            "strength": strength,
            "strengths tried (LPIPS on validation levels)": tried,
            "denoising loss": asdict(mean_interval(losses, held.levels)),
            "levels": {"training": TRAINING_LEVELS, "validation": VALIDATION_LEVELS, "test": TEST_LEVELS},
            "prior": self.prior.fingerprint,
            "sampler": f"{'ancestral' if self.size.ancestral else 'dpm_solver_pp_2m'}, {self.size.num_steps} steps",
            "date": datetime.now(UTC).date().isoformat(),
            "versions": {package: version(package) for package in ("trimtab", "torch", "numpy")},
        }
        pictures = {"real": held.clip.video[:SHOWN], "given": held.context[:SHOWN], name: video[:SHOWN]}
        if "actions" in denoiser.uses:
            notes["listening"] = listening_of(imagine).to_dict()
            num_frames = held.clip.video.shape[1]
            for action, shown in under_every_action(imagine, held.context[:1], NUM_ACTIONS, num_frames).items():
                pictures[f"under {action}"] = shown
        if isinstance(trained, AVID) and trained.settings["learn_mask"]:
            statistics = masks_of(trained, self.prior, held)
            notes["mask"] = statistics.to_dict()
            pictures["mask"] = statistics.maps
        storage.write(self.output / "pictures" / f"{slug(name)}-{seed}.safetensors", pictures, {"method": name})
        return evaluate(
            {name: video}, held.clip.video, context=held.context, actions=held.actions,
            levels=held.levels, judge_file=COINRUN_JUDGE, effects=COINRUN_TABLES, notes=notes, distributions=True,
            cache=self.output / "features",
        )  # fmt: skip

    def train(self, name: str, seed: int, *, dry_run: bool = False) -> tuple[Any, dict[str, Any]]:
        """What a method needs trained, and the facts of its training; both are kept in the run folder."""
        training = METHODS[name].training
        if training is None:
            return None, {}
        recipe = self.size.trainings[training]
        rate, folder = chosen(training, recipe, self.choices), self.output / "trainings" / f"{training}-{seed}"
        if (folder / checkpoints.CONFIG).exists():
            facts = json.loads((folder / checkpoints.CONFIG).read_text())["facts"]
            return checkpoints.load(folder, recipe.build, self.prior), facts
        model, task = recipe.assembled(self.prior, seed)
        frames = recipe.num_frames or self.size.num_frames
        clips = training_clips(self.prior, frames, self.datasets, self.size.policy)
        run, step = recipe.fitted(
            task, clips, self.size.teraflops, batch_size=self.size.batch_size, lengths=self.size.lengths, dry_run=dry_run,
            folder=folder, title=f"{training}, seed {seed}", learning_rate=rate, seed=seed,
        )  # fmt: skip
        if run is None:
            return model, {}
        facts = {
            "parameters": sum(value.numel() for value in model.parameters() if value.requires_grad),
            "steps": run.step,
            "teraflops a step": step,
            "seconds": run.seconds,
            "frames": frames,
            "passes": recipe.passes,
            "learning_rate": rate,
        }
        checkpoints.save(folder, model, self.prior, facts=facts)
        return model.eval(), facts

    def best_strength(self, method: Method, trained: Any) -> tuple[float | None, dict[str, float]]:
        """The strength whose clips are nearest to real ones by LPIPS, on validation levels; and what each gave."""
        if not method.strengths:
            return None, {}
        held, lpips = validation(self.prior, min(64, self.size.num_clips), self.datasets), Lpips()
        tried = {}
        for strength in method.strengths:
            video = self.imaginer(method.compose(self.prior, trained, strength), held).all()
            tried[str(strength)] = lpips(video, held.clip.video).mean().item()
        return min(method.strengths, key=lambda strength: tried[str(strength)]), tried

    def imaginer(self, denoiser: Denoiser, held: Held) -> Imaginer:
        """Of the benchmark's sampling steps, always from the same noise."""
        return Imaginer(denoiser, self.prior, held, self.size.num_steps, self.size.ancestral)
