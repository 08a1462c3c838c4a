"""Every method at equal compute, measured on the same clips, cell by cell; knows neither what the clips show nor whence."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich import print
from rich.console import Console
from torch import Tensor

from trimtab import checkpoints
from trimtab.adapters.avid import AVID
from trimtab.core.checks import counted, is_open
from trimtab.core.contracts import Denoiser, Prior
from trimtab.core.files import alone_in, write_whole
from trimtab.core.values import Video
from trimtab.data.clips import Clips
from trimtab.diffusion import sampling
from trimtab.forecast import Needs, taken, together, told
from trimtab.metrics.actions import JudgeFile
from trimtab.metrics.evaluation import evaluate
from trimtab.metrics.frames import Lpips
from trimtab.metrics.intervals import mean_interval
from trimtab.metrics.protocol import Evaluation
from trimtab.networks import storage
from trimtab.recipes._held import Held, held_out_loss
from trimtab.recipes.benchmark.inspection import Imaginer, listening_of, masks_of, under_every
from trimtab.recipes.benchmark.methods import METHODS, TRAININGS, Method, Training, slug
from trimtab.recipes.benchmark.report import Words, write_report
from trimtab.recipes.benchmark.results import check_alike, check_planned
from trimtab.recipes.compare import read_result
from trimtab.recipes.procgen_prior import LENGTHS

SHOWN = 6
"""Clips that are shown in the report."""


@dataclass(frozen=True)
class Scale:
    """How much of everything.

    Attributes:
        methods: names.
        num_seeds: trainings of each.
        teraflops: floating-point operations of one training, prior and loss included, in 10^12; None for what
            `avid_steps` take.
        num_clips: test clips.
        avid_steps: of the training of AVID, whose operations all others have too.
        num_frames: recorded frames to train on; None for all that there are.
        batch_size: clips in a training step.
        lengths: predicted frames of a step, in turn.
        num_steps: sampling steps a clip.
        sample: of `diffusion/sampling.py`.
        trainings: what the methods need trained.
        fitting: further options of `fit`.

    Raises:
        ValueError: a number is out of range.
    """

    methods: Sequence[str]
    num_seeds: int
    teraflops: float | None
    num_clips: int
    avid_steps: int = 0
    num_frames: int | None = None
    batch_size: int = 8
    lengths: Sequence[int] = LENGTHS
    num_steps: int = 2
    sample: Callable[..., Video] = sampling.dpm_solver_pp_2m
    trainings: Mapping[str, Training] = field(default_factory=lambda: TRAININGS)
    fitting: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = ("num_seeds", "num_clips", "num_frames", "batch_size", "num_steps")
        counted(**{name: getattr(self, name) for name in names})
        if self.teraflops is not None and not 0 < self.teraflops < math.inf:
            raise ValueError(
                f"teraflops are above 0 and finite, got {self.teraflops}; leave them out for the scale's own"
            )

    @property
    def num_choosing(self) -> int:
        """Validation clips."""
        return min(64, self.num_clips)

    def but(self, own: Mapping[str, Any]) -> Scale:
        """With these in place of its own, where they are given."""
        return replace(self, **{name: value for name, value in own.items() if value is not None})


@dataclass(frozen=True)
class Domain:
    """What a prior is adapted to.

    Attributes:
        training: called as ``training(num_frames)``, gives the clips of so many recorded frames, or of all (None).
        validation, test: called as ``test(num_clips)``, give as many held-out clips to choose on, and to measure on.
        levels: where each of the three comes from, for the record.
        actions: the options `num_actions` or `action_dim` of adapters.
        idle: the action that does nothing.
        words: of the report.
        judge_file: reads the actions off videos; without it no figure of actions is made.
        effects: of each discrete action, for listening, as tables merge them for the judge.
        tables: by name, effects of discrete actions for further figures.
        in_words: the same, but the clips have texts; None if they have none, or the prior hears none.
    """

    training: Callable[[int | None], Clips]
    validation: Callable[[int], Held]
    test: Callable[[int], Held]
    levels: Mapping[str, str]
    actions: Mapping[str, int]
    idle: int | Tensor
    words: Words
    judge_file: JudgeFile | None = None
    effects: Sequence[int] | None = None
    tables: Mapping[str, Sequence[int]] | None = None
    in_words: Domain | None = None


@dataclass(frozen=True)
class Bench:
    """What all cells share.

    Attributes:
        prior: that is adapted.
        domain: what it is adapted to.
        size: how much of everything.
        output: run folder.
        rate: called as ``rate(name, training)``, gives a training's learning rate.
        methods: that there are.
    """

    prior: Prior
    domain: Domain
    size: Scale
    output: Path
    rate: Callable[[str, Training], float]
    methods: Mapping[str, Method] = field(default_factory=lambda: METHODS)

    def run(self, methods: Sequence[str] | None, seeds: Iterable[int] | None, cells: Path, *, dry_run: bool) -> None:
        """Make the cells that are missing, of all the scale's methods and seeds or of these, and the report of all.

        What another process is at work on in the same output folder is left to it.

        Of the scale's methods those are left out that this prior does not allow.

        Raises ValueError for a method that there is not, that this prior does not allow, or that no learning rate was chosen
        for, and for cells of another prior, sampler, division of levels, budget or number of clips in the same folder, or
        files in it that are no cells.
        """
        names, console = allowed(methods, self.size, self.methods, self.prior), Console()
        if finished := cells_in(cells, self.methods):
            check_alike(finished, self.facts)
            check_planned(finished, self.teraflops, self.size.num_clips)
        for training in filter(None, (self.methods[name].training for name in names)):
            self.rate(training, self.size.trainings[training])  # refused now, and not when hours have passed
        missing = [
            (name, seed, path)
            for seed in (range(self.size.num_seeds) if seeds is None else seeds)
            for name in names
            if not (path := cells / f"{slug(name)}-{seed}.json").exists()
            and not (seed and self.methods[name].is_made_once)
        ]
        if dry_run:
            self.forecast([(name, seed) for name, seed, _ in missing])
            return
        for wait in (False, True):  # last what other processes had claimed, in case they did not finish it
            for name, seed, path in missing:
                with self.claim(name, seed, wait) as claimed:
                    if claimed and not path.exists():
                        console.rule(f"{name}, seed {seed}")
                        write_whole(path, self.cell(name, seed).to_json())
        report = write_report(
            self.output / "report.html", cells_in(cells, self.methods), pictures=self.output / "pictures",
            rollouts=cells / "rollouts", methods=self.methods, words=self.domain.words,
        )  # fmt: skip
        console.print(f"open {report.resolve()}")

    @contextmanager
    def claim(self, name: str, seed: int, wait: bool) -> Iterator[bool]:
        """Whether no other process is at work on what this method and seed needs trained; none is until the context ends.

        With `wait` for those that are, so that it always is true then.
        """
        folder = self.output / "claims" / f"{self.methods[name].training or slug(name)}-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            claimed = True
            try:
                stack.enter_context(alone_in(folder, wait=wait))
            except ValueError:
                claimed = False
            yield claimed

    def forecast(self, missing: Sequence[tuple[str, int]]) -> None:
        """Say what the trainings of these methods and seeds need, each tried with one seed, and what all need together."""
        trainings: dict[str, dict[int, str]] = {}
        for name, seed in missing:
            training = self.methods[name].training
            if training is not None and checkpoints.facts_of(self.folder(training, seed)) is None:
                trainings.setdefault(training, {})[seed] = name
        needs: list[Needs] = []
        for training, seeds in trainings.items():
            seed, name = next(iter(seeds.items()))
            self.train(name, seed, dry_run=True)
            needs += [told(self.folder(training, seed))] * len(seeds)
        print(
            f"{len(needs)} trainings, one after another, will need: {together(needs)}; sampling and measuring "
            f"{len(missing)} cells comes on top"
        )

    @property
    def facts(self) -> dict[str, Any]:
        """What all cells of a folder agree in."""
        return {
            "levels": dict(self.domain.levels),
            "prior": self.prior.fingerprint,
            "sampler": f"{self.size.sample.__name__}, {self.size.num_steps} steps",
        }

    def cell(self, name: str, seed: int) -> Evaluation:
        """One method with one seed, trained, chosen for and measured."""
        method, domain = self.methods[name], self.told(name)
        held = domain.test(self.size.num_clips)
        trained, facts = self.train(name, seed)
        strength, tried = self.best_strength(name, trained)
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
            **self.facts,
            "date": datetime.now(UTC).date().isoformat(),
            "versions": {package: version(package) for package in ("trimtab", "torch", "numpy")},
        }
        pictures = {"real": held.clip.video[:SHOWN], "given": held.told[:SHOWN], name: video[:SHOWN]}
        if "actions" in denoiser.uses:
            heard = listening_of(imagine, domain.idle, domain.effects, domain.judge_file)
            notes["listening"] = heard.to_dict()
            for number, shown in enumerate(under_every(imagine, domain.idle, len(domain.words.actions))):
                pictures[f"under {number}"] = shown
        if isinstance(trained, AVID) and trained.settings["learn_mask"]:
            statistics = masks_of(trained, self.prior, held)
            notes["mask"] = statistics.to_dict()
            pictures["mask"] = statistics.maps
        storage.write(self.output / "pictures" / f"{slug(name)}-{seed}.safetensors", pictures, {"method": name})
        began = time.monotonic()
        found = evaluate(
            {name: video}, held.clip.video, context=held.context, actions=held.actions,
            levels=held.levels, judge_file=domain.judge_file, effects=domain.tables, notes=notes, distributions=True,
            cache=self.output / "features",
        )  # fmt: skip
        print(f"measured {len(video)} clips by all metrics in {(time.monotonic() - began) / 60:.1f} minutes")
        return found

    def train(self, name: str, seed: int, *, dry_run: bool = False) -> tuple[Any, dict[str, Any]]:
        """What a method needs trained, and the facts of its training; both are kept in the run folder."""
        training = self.methods[name].training
        if training is None:
            return None, {}
        recipe = self.size.trainings[training]
        rate, folder = self.rate(training, recipe), self.folder(training, seed)
        how = {"optimizer": recipe.optimizer, "learning_rate": rate}
        if (facts := checkpoints.facts_of(folder, **how)) is not None:
            return checkpoints.load(folder, recipe.build, self.prior), facts
        model, task = recipe.assembled(self.prior, seed, self.domain.actions)
        clips = self.told(name).training(recipe.num_frames or self.size.num_frames)
        run, step = recipe.fitted(
            task, clips, self.teraflops, batch_size=self.size.batch_size, lengths=self.size.lengths, dry_run=dry_run,
            folder=folder, title=f"{training}, seed {seed}", learning_rate=rate, seed=seed, **self.size.fitting,
        )  # fmt: skip
        if run is None:
            return model, {}
        facts = {
            **taken(model, run, step),
            "frames": recipe.num_frames or self.size.num_frames or sum(some.num_frames for some in clips.sets),
            "passes": recipe.passes,
            **how,
        }
        checkpoints.save(folder, model, self.prior, facts=facts)
        return model.eval(), facts

    def folder(self, training: str, seed: int) -> Path:
        """Where a training is kept."""
        return self.output / "trainings" / f"{training}-{seed}"

    @cached_property
    def teraflops(self) -> float:
        """Operations of one training, in 10^12."""
        if self.size.teraflops is not None:
            return self.size.teraflops
        recipe, size = self.size.trainings["avid"], self.size
        _, task = recipe.assembled(self.prior, 0, self.domain.actions)
        clips = self.domain.training(size.num_frames)
        return size.avid_steps * recipe.teraflops_a_step(task, clips, size.batch_size, size.lengths)

    def best_strength(self, name: str, trained: Any) -> tuple[float | None, dict[str, float]]:
        """The strength whose clips are nearest to real ones by LPIPS, on validation clips; and what each gave."""
        method = self.methods[name]
        if not method.strengths:
            return None, {}
        held, lpips = self.told(name).validation(self.size.num_choosing), Lpips()
        tried = {}
        for strength in method.strengths:
            video = self.imaginer(method.compose(self.prior, trained, strength), held).all()
            tried[str(strength)] = lpips(video, held.clip.video).mean().item()
        return min(method.strengths, key=lambda strength: tried[str(strength)]), tried

    def told(self, name: str) -> Domain:
        """The domain, its clips with texts if the method is told any."""
        return (self.methods[name].told_text and self.domain.in_words) or self.domain

    def imaginer(self, denoiser: Denoiser, held: Held) -> Imaginer:
        """Of the benchmark's sampling steps, always from the same noise."""
        return Imaginer(denoiser, self.prior, held, self.size.num_steps, self.size.sample)


def allowed(methods: Sequence[str] | None, size: Scale, there: Mapping[str, Method], prior: Prior) -> Sequence[str]:
    """These methods, or those of a scale that a prior allows. Raises ValueError for one that it does not allow, or none."""
    names = size.methods if methods is None else methods
    if unknown := [name for name in names if name not in there]:
        raise ValueError(f"no methods {unknown}; there are: {', '.join(map(repr, there))}")
    deaf = [name for name in names if there[name].told_text and "text" not in prior.uses]
    shut = [name for name in names if there[name].needs_weights and not is_open(prior)]
    alien = [name for name in names if there[name].training not in (None, *size.trainings)]
    if methods is not None and deaf:
        raise ValueError(f"{deaf} are told texts, and this prior hears none; leave them out")
    if methods is not None and shut:
        raise ValueError(f"{shut} need a prior whose weights are within reach, an OpenPrior; leave them out")
    if methods is not None and alien:
        raise ValueError(f"{alien} need a prior of change_unet; leave them out")
    if barred := dict.fromkeys([*deaf, *shut, *alien]):
        print(f"left out, as this prior does not allow them: {', '.join(barred)}")
    return [name for name in names if name not in barred]


def cells_in(folder: Path, methods: Mapping[str, Method] = METHODS) -> list[Evaluation]:
    """All cells, in the order of the methods. Raises ValueError for a file that is none, or is of another method."""
    found: dict[str, list[Evaluation]] = {name: [] for name in methods}
    for path in sorted(folder.glob("*.json")):
        cell = read_result(path)
        name = cell.protocol.get("notes", {}).get("method")
        if name not in found:
            raise ValueError(
                f"{path} notes the method {name!r}, which is none of those here: {', '.join(methods)}; move it away, or use "
                "the version of trimtab that made it"
            )
        found[name].append(cell)
    return [cell for cells in found.values() for cell in cells]
