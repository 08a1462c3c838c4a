"""Which way of adapting a text-to-video prior plans best? Every method, on seen and on novel tasks of a robot arm."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console

from trimtab import checkpoints
from trimtab.control import inverse_dynamics
from trimtab.control.blame import Continuation, Expert
from trimtab.control.episodes import Episode, Player, run_episodes
from trimtab.control.video_planner import Imagination, VideoPlanner
from trimtab.core.files import write_whole
from trimtab.data.episodes import Episodes
from trimtab.diffusion import sampling
from trimtab.environments.metaworld import MetaWorld
from trimtab.forecast import fit_or_forecast, operations_per_step
from trimtab.networks import storage
from trimtab.priors import pixel_unet
from trimtab.priors.pixel_unet import PixelUNet
from trimtab.recipes._adaptations import ADAPTATIONS, TRAININGS
from trimtab.recipes._continuations import continued, expert_clips, video_distance
from trimtab.recipes._metaworld import ACTION_REPEAT, MAX_STEPS, NOVEL, SEEN, demonstrations
from trimtab.recipes._planning_report import EXPERT, TRUE_VIDEO, TRUTHS, write_report
from trimtab.training import Budget, record_settings

FIRST_START = 100_000
"""The seed of the first start state; demonstrations begin at 0, and play at 1000."""

FIRST_CLIP = 300_000
"""The seed of the first start state of the clips that videos are compared with."""

SHOWN = 2
"""Episodes of each cell that are kept to be shown."""


@dataclass(frozen=True)
class Scale:
    """How much of everything.

    Attributes:
        tasks: that are planned.
        methods: names, of ADAPTATIONS and TRUTHS.
        num_seeds: trainings of each.
        num_starts: start states of a task, the same for all.
        num_clips: of the experts at the novel tasks, that videos are compared with.
        teraflops: floating-point operations of one training, in 10^12.
        num_steps: sampling steps of a plan.
        replan_every: actions that are played of a plan.
        horizon: frames that are imagined of it.
        batch_size: clips in a training step.
    """

    tasks: Sequence[str] = (*SEEN, *NOVEL)
    methods: Sequence[str] = (*TRUTHS, *ADAPTATIONS)
    num_seeds: int = 3
    num_starts: int = 10
    num_clips: int = 64
    teraflops: float = 200.0
    num_steps: int = 4
    replan_every: int = 4
    horizon: int = 4
    batch_size: int = 16


SCALES = {
    "smoke": Scale(num_seeds=1, num_starts=4, teraflops=40.0),
    "tiny": Scale(),
    "paper": Scale(num_starts=30, teraflops=1e6, num_steps=25, replan_every=1, horizon=8),
}


def metaworld_planning(
    *,
    scale: Literal["smoke", "tiny", "paper"] = "smoke",
    methods: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    random_share: float = 0.0,
    teraflops: float | None = None,
    num_starts: int | None = None,
    num_clips: int | None = None,
    num_steps: int | None = None,
    replan_every: int | None = None,
    prior: str = "tabletop",
    reader: Path = Path("runs/inverse-dynamics/inverse_dynamics.safetensors"),
    dry_run: bool = False,
    datasets: Path = Path("datasets"),
    output: Path | None = None,
    cells: Path | None = None,
) -> None:
    """Train every method on demonstrations of the seen tasks, plan seen and novel tasks by it, and compare success.

    What is finished is not done again: each task, method and seed leaves a small file, a cell, and the report is made of
    all cells that are there. An interrupted training goes on.

    Args:
        scale: smoke has one seed and four start states, tiny three and ten; paper has the sampling and replanning of
            arXiv 2504.15369, for GPUs and a prior of its size; tasks and step limit stay those of the miniature.
        methods: only these.
        tasks: only these.
        seeds: only these, of weights and batches.
        random_share: of the demonstrations' actions, 0 to 1, that are random instead of the expert's.
        teraflops: operations of one training, in 10^12, instead of the scale's.
        num_starts: start states of each task, instead of the scale's.
        num_clips: clips of the experts that videos are compared with, instead of the scale's.
        num_steps: sampling steps of a plan, instead of the scale's.
        replan_every: actions that are played of a plan, instead of the scale's.
        prior: the name of a prior that ships with the package, or the path of one, that hears texts.
        reader: inverse dynamics, from `trimtab inverse-dynamics`.
        dry_run: only say what the trainings will need in memory, time and disk.
        datasets: where recorded episodes are kept.
        output: run folder, by default runs/metaworld-planning-<scale>; report.html in it is the result.
        cells: the folder of the cells, by default `cells` in the output.
    """
    own = {
        "teraflops": teraflops, "num_starts": num_starts, "num_clips": num_clips, "num_steps": num_steps,
        "replan_every": replan_every,
    }  # fmt: skip
    size = Scale(**{**vars(SCALES[scale]), **{name: value for name, value in own.items() if value is not None}})
    output = output or Path(f"runs/metaworld-planning-{scale}")
    cells = cells or output / "cells"
    record_settings(output, "metaworld-planning", {"scale": scale, **own, "prior": prior, "reader": reader})
    for kind, names, known in (("methods", methods, (*TRUTHS, *ADAPTATIONS)), ("tasks", tasks, size.tasks)):
        if unknown := [name for name in names or () if name not in known]:
            raise ValueError(f"no {kind} {unknown}; there are: {', '.join(known)}")
    bench, console = Bench(pixel_unet.load(prior), size, reader, random_share, datasets, output), Console()
    chosen = size.methods if methods is None else methods
    if dry_run:
        for name in dict.fromkeys(ADAPTATIONS[method].training for method in chosen if method in ADAPTATIONS):
            bench.train(name, 0, dry_run=True)
        return
    todo = [
        (task, method, seed, path)
        for task in (size.tasks if tasks is None else tasks)
        for method in chosen
        for seed in (range(size.num_seeds) if seeds is None else seeds)
        if not (path := cells / cell_name(task, method, seed, random_share)).exists()
        if not seed or (method in ADAPTATIONS and ADAPTATIONS[method].training is not None)
    ]
    for number, (task, method, seed, path) in enumerate(todo):
        console.rule(f"{number + 1} of {len(todo)}: {task}, {method}, seed {seed}")
        cell = bench.cell(task, method, seed)
        write_whole(path, json.dumps(cell, indent=1) + "\n")
        console.print(f"{sum(cell['success'])} of {len(cell['success'])} succeeded")
    for method in (name for name in chosen if name in ADAPTATIONS):
        trained = ADAPTATIONS[method].training is not None
        for seed in (range(size.num_seeds) if seeds is None else seeds) if trained else (0,):
            path = cells / "videos" / cell_name("novel", method, seed, random_share)
            if not path.exists():
                console.rule(f"videos of {method}, seed {seed}")
                write_whole(path, json.dumps(bench.likeness(method, seed), indent=1) + "\n")
    report = write_report(
        output / "report.html", cells_in(cells), cells_in(cells / "videos"), pictures=output / "pictures"
    )
    console.print(f"open {report.resolve()}")


def cell_name(task: str, method: str, seed: int, random_share: float) -> str:
    return f"{task}--{slug(method)}--{seed}--{round(100 * random_share)}.json"


def slug(name: str) -> str:
    """The name of a method as a file's."""
    return name.lower().replace("'", "").replace(" ", "-")


def cells_in(folder: Path) -> list[dict[str, Any]]:
    """All cells, in the order of methods and tasks."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    order = [*TRUTHS, *ADAPTATIONS]
    return sorted(found, key=lambda cell: (order.index(cell["method"]), cell.get("task", ""), cell["seed"]))


@dataclass(frozen=True)
class Bench:
    """What all cells share.

    Attributes:
        prior: that is adapted.
        size: how much of everything.
        reader: inverse dynamics, a file.
        random_share: of the demonstrations' actions.
        datasets: where recorded episodes are kept.
        output: run folder.
        episodes: demonstrations to train on, in place of the usual ones.
    """

    prior: PixelUNet
    size: Scale
    reader: Path
    random_share: float
    datasets: Path
    output: Path
    episodes: Episodes | None = None

    def cell(self, task: str, method: str, seed: int) -> dict[str, Any]:
        """One method with one seed, trained if need be, planning one task from every start state."""
        environment = scene(task, self.size.num_starts)
        starts = [FIRST_START + number for number in range(self.size.num_starts)]
        player, facts = self.player(environment, method, seed)
        played = run_episodes(environment, player, starts, keep_frames=True)
        self.keep(task, method, seed, played[:SHOWN])
        return {
            "task": task,
            "method": method,
            "seed": seed,
            "random_share": self.random_share,
            "novel": task in NOVEL,
            "starts": starts,
            "success": [episode.success for episode in played],
            "steps": [episode.num_steps for episode in played],
            "returns": [round(episode.total_reward, 2) for episode in played],
            "training": facts,
            **self.record(method),
        }

    def likeness(self, method: str, seed: int) -> dict[str, Any]:
        """How far from the experts' videos is what one method, trained if need be, imagines of the novel tasks."""
        adaptation = ADAPTATIONS[method]
        trained, _ = self.train(adaptation.training, seed)
        held = expert_clips(
            self.prior, NOVEL, self.size.num_clips, first_start=FIRST_CLIP, folder=self.datasets / "metaworld-novel",
            words=adaptation.words(),
        )  # fmt: skip
        denoiser = adaptation.compose(self.prior, trained, adaptation.guidance, adaptation.strength)
        imagined = continued(denoiser, self.sampler(), held, seed)
        return {
            "method": method,
            "seed": seed,
            "random_share": self.random_share,
            "FVD with given frames": asdict(video_distance(imagined, held, self.output / "features")),
            **self.record(method),
        }

    def record(self, method: str) -> dict[str, Any]:
        """Under what, when and with what a cell was made."""
        names = ("trimtab", "torch", "numpy", "metaworld", "mujoco")
        return {
            "protocol": self.protocol(method),
            "date": datetime.now(UTC).date().isoformat(),
            "versions": {package: version(package) for package in names},
        }

    def protocol(self, method: str) -> dict[str, Any]:
        """What two cells must share to be compared, but for what is the method's own."""
        own = vars(ADAPTATIONS[method]) if method in ADAPTATIONS else {}
        return {
            "prior": self.prior.fingerprint,
            "sampler": f"dpm_solver_pp_2m, {self.size.num_steps} steps",
            "replan_every": self.size.replan_every,
            "horizon": self.size.horizon,
            "action_repeat": ACTION_REPEAT,
            "max_steps": MAX_STEPS,
            "teraflops": self.size.teraflops,
            "own": {name: own[name] for name in ("guidance", "strength", "naming") if name in own},
        }

    def player(self, environment: MetaWorld, method: str, seed: int) -> tuple[Player, dict[str, Any]]:
        """What plays, and the facts of its training."""
        if method == EXPERT:
            return Expert(environment, self.size.replan_every), {}
        read = reading(self.reader)
        if method == TRUE_VIDEO:
            truth = Continuation(environment, self.size.horizon)
            return VideoPlanner(truth, read, replan_every=self.size.replan_every), {}
        adaptation = ADAPTATIONS[method]
        trained, facts = self.train(adaptation.training, seed)
        imagine = Imagination(
            adaptation.compose(self.prior, trained, adaptation.guidance, adaptation.strength),
            self.prior,
            self.sampler(),
            encode=adaptation.words(),
            horizon=self.size.horizon,
            seed=seed,
        )
        return VideoPlanner(imagine, read, replan_every=self.size.replan_every), facts

    def sampler(self) -> Callable[..., torch.Tensor]:
        steps = sampling.pairs(self.prior.schedule, self.size.num_steps)
        return partial(sampling.dpm_solver_pp_2m, pairs=steps, clamp=(-1.0, 1.0))

    def train(self, name: str | None, seed: int, *, dry_run: bool = False) -> tuple[Any, dict[str, Any]]:
        """What a method needs trained, and the facts of its training; both are kept in the run folder."""
        if name is None:
            return None, {}
        training = TRAININGS[name]
        folder = self.output / "trainings" / f"{name}-{seed}-{round(100 * self.random_share)}"
        if (folder / checkpoints.CONFIG).exists():
            facts = json.loads((folder / checkpoints.CONFIG).read_text())["facts"]
            return checkpoints.load(folder, training.build, self.prior), facts
        torch.manual_seed(seed)
        model = training.build(self.prior, **training.options)
        episodes = demonstrations(self.random_share, self.datasets) if self.episodes is None else self.episodes
        task, clips = training.lesson(model, self.prior, episodes, seed)
        batches: dict[str, Any] = {"batch_size": self.size.batch_size, "lengths": training.lengths}
        step = operations_per_step(task, clips, passes=1, **batches) / 1e12
        run = fit_or_forecast(
            dry_run, task, clips, Budget(steps=max(1, round(self.size.teraflops / step))), folder=folder,
            title=f"{name}, seed {seed}", learning_rate=training.learning_rate, average_decay=0.995, seed=seed, **batches,
        )  # fmt: skip
        if run is None:
            return model, {}
        facts = {
            "parameters": sum(value.numel() for value in model.parameters() if value.requires_grad),
            "steps": run.step,
            "teraflops a step": step,
            "seconds": run.seconds,
            "learning_rate": training.learning_rate,
            "demonstrations": len(episodes),
        }
        checkpoints.save(folder, model, self.prior, facts=facts)
        return model.eval(), facts

    def keep(self, task: str, method: str, seed: int, played: Iterable[Episode]) -> None:
        """Keep what was seen, and what was imagined for the same frames, to be shown."""
        pictures: dict[str, torch.Tensor] = {}
        for number, episode in enumerate(played):
            assert episode.frames is not None  # they were asked for
            executed = torch.from_numpy(episode.frames)
            imagined = executed.clone()
            for plan in episode.plans:
                part = imagined[plan.step + 1 : plan.step + 1 + self.size.replan_every]
                part.copy_(torch.from_numpy(plan.frames[: len(part)]))
            pictures |= {f"executed {number}": executed, f"imagined {number}": imagined}
        name = cell_name(task, method, seed, self.random_share).removesuffix(".json")
        facts = {"task": task, "method": method, "seed": seed, "random_share": self.random_share}
        storage.write(self.output / "pictures" / f"{name}.safetensors", pictures, facts)


@cache
def scene(task: str, num_envs: int) -> MetaWorld:
    """The robot at a task; built once, as that takes a second a copy."""
    return MetaWorld(task, num_envs, action_repeat=ACTION_REPEAT, max_episode_steps=MAX_STEPS)


@cache
def reading(path: Path) -> Callable[..., torch.Tensor]:
    """Inverse dynamics from their file. Raises ValueError if there is none."""
    if not path.is_file():
        raise ValueError(f"no inverse dynamics in {path}; train them first: trimtab inverse-dynamics")
    return inverse_dynamics.load(path).act
