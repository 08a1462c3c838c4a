"""What all cells of planning share: trains each method once, plays it, and judges its videos; knows no page and no table."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich import print

from trimtab import checkpoints
from trimtab.control import inverse_dynamics
from trimtab.control.blame import Continuation, Expert
from trimtab.control.episodes import Episode, Player, run_episodes
from trimtab.control.video_planner import Imagination, VideoPlanner
from trimtab.core.checks import is_open
from trimtab.core.contracts import Denoiser, Prior
from trimtab.core.values import Video
from trimtab.diffusion import sampling
from trimtab.environments.metaworld import MetaWorld, check_scene
from trimtab.forecast import Needs, fit_or_forecast, operations_per_step, taken, together, told
from trimtab.metrics.intervals import Interval, mean_interval
from trimtab.networks import storage
from trimtab.recipes._held import Held, clamp_of, device, held_out_loss, modules_of, sampled
from trimtab.recipes._prior import clip_length, frame_size, prior_of
from trimtab.recipes.domains.metaworld import (
    FIRST_CHECK,
    FIRST_CLIP,
    FIRST_LOSS,
    PLAYED,
    SEEN,
    VALIDATION,
    demonstrations,
    place,
    scene,
)
from trimtab.recipes.planning.adaptations import ADAPTATIONS, IN_DOMAIN, Adaptation, Demonstrations, Training
from trimtab.recipes.planning.cells import LOSSES, VIDEOS, cell_name, seen
from trimtab.recipes.planning.continuations import continued, expert_clips, video_distance
from trimtab.recipes.planning.figures import share
from trimtab.recipes.planning.reader import reading
from trimtab.recipes.planning.results import EXPERT, TRUE_VIDEO
from trimtab.recipes.planning.scales import SCALES, Scale, chosen
from trimtab.recipes.record_metaworld import ROBOT
from trimtab.training import Budget

SHOWN = 2
"""Episodes of each cell that are kept to be shown."""


@dataclass(frozen=True)
class Bench:
    """What all cells share.

    Attributes:
        prior: that is adapted.
        size: how much of everything.
        reader: inverse dynamics, a file; None for those that come with the package.
        random_share: of the demonstrations' actions, 0 to 1, that are random.
        datasets: where recorded episodes are kept.
        output: run folder.
        reader_weights: of the reader's encoder, a file, if it was trained with one that needs it.
        episodes: demonstrations to train on, in place of the usual ones.
        adaptations: by name, with the guidance and strength that they are used with.
        planning: the run folder whose trainings are used, and which new ones go to; by default the output.

    Raises:
        ValueError: the prior hears no text, imagines fewer frames than are asked for, or such as MetaWorld does not show;
            or the share is out of range.
    """

    prior: Prior
    size: Scale
    reader: Path | None
    random_share: float
    datasets: Path
    output: Path
    reader_weights: Path | None = None
    episodes: Demonstrations | None = None
    adaptations: Mapping[str, Adaptation] = field(default_factory=ADAPTATIONS.copy)
    planning: Path | None = None

    def __post_init__(self) -> None:
        if "text" not in self.prior.uses:
            raise ValueError(
                "what is planned is told in words, and this prior hears no text; pass one that does, such as tabletop"
            )
        if not 0 <= self.random_share <= 1:
            raise ValueError(f"random_share is 0 (only the expert's actions) to 1 (none), got {self.random_share}")
        if abs(100 * self.random_share - round(100 * self.random_share)) > 1e-9:
            raise ValueError(f"random_share is a whole percentage, as files are named by it, got {self.random_share}")
        clip_length(self.prior, self.size.lengths)
        if self.size.horizon > (most := self.prior.num_frames):
            raise ValueError(
                f"this prior imagines up to {most} frames, got a horizon of {self.size.horizon}; ask for fewer, or pass "
                "a prior of longer clips"
            )
        check_scene(self.size.tasks, "close", self.side, self.size.action_repeat, self.size.max_steps)

    @classmethod
    def opened(
        cls,
        scale: str,
        prior: str,
        reader: Path | None,
        datasets: Path,
        planning: Path | None,
        teraflops: float | None,
        choices: Path | None = None,
        reader_weights: Path | None = None,
        random_share: float = 0.0,
    ) -> Bench:
        """That of `trimtab metaworld-planning` with these options, whose trainings are shared."""
        frozen, size = prior_of(prior), SCALES[scale].but({"teraflops": teraflops})
        folder = planning or Path(f"runs/metaworld-planning-{scale}")
        made = chosen(choices, frozen, size, random_share)
        return cls(frozen, size, reader, random_share, datasets, folder, reader_weights, adaptations=made)

    @cached_property
    def side(self) -> int:
        """Of the frames that the prior imagines, in pixels. Raises ValueError if they are not square."""
        height, width = frame_size(self.prior)
        if height != width:
            raise ValueError(f"MetaWorld shows square frames, and this prior's are {height} x {width}; pass another")
        return height

    @property
    def scenery(self) -> dict[str, int]:
        """How the robot acts, and how large it is seen, wherever it plays or is recorded."""
        return {**self.size.pace, "size": self.side}

    @property
    def starts(self) -> list[int]:
        """The seeds of the start states that every task is played from."""
        return [self.size.first_start + number for number in range(self.size.num_starts)]

    def barred(self, methods: Iterable[str]) -> list[str]:
        """Of these methods those that need weights, where this prior's are out of reach."""
        trained = {name: self.adaptations[name].training for name in methods if name in self.adaptations}
        needy = [name for name, training in trained.items() if training and self.size.trainings[training].needs_weights]
        return [] if is_open(self.prior) else needy

    def usual(self, methods: Sequence[str]) -> list[str]:
        """Of these methods those that this prior allows; the others are named."""
        if barred := self.barred(methods):
            print(f"left out, as this prior's weights are out of reach: {', '.join(barred)}")
        return [name for name in methods if name not in barred]

    def check(self, methods: Sequence[str]) -> None:
        """Raises ValueError, before anything is trained, for a method that cannot be had around this prior."""
        if barred := self.barred(methods):
            raise ValueError(f"{barred} need a prior whose weights are within reach, an OpenPrior")
        for name in (one for one in methods if one in self.adaptations):
            try:
                self.adaptations[name].denoiser(self.prior, self.prior)
            except ValueError as error:
                raise ValueError(f"{name}, beside this prior: {error}; or name other --methods") from error

    def cell(self, task: str, method: str, seed: int) -> dict[str, Any]:
        """One method with one seed, trained if need be, planning one task from every start state."""
        environment = self.scene(task, self.size.num_starts)
        player, facts = self.player(environment, method, seed)
        played = run_episodes(environment, player, self.starts, keep_frames=True)
        self.keep(task, method, seed, played[:SHOWN])
        return {
            "task": task,
            "method": method,
            "seed": seed,
            "random_share": self.random_share,
            "novel": task not in PLAYED,
            "starts": self.starts,
            "success": [episode.success for episode in played],
            "steps": [episode.num_steps for episode in played],
            "returns": [round(episode.total_reward, 2) for episode in played],
            "training": facts,
            **self.record(method),
        }

    def likeness(self, method: str, seed: int) -> dict[str, Any]:
        """How far from the experts' videos is what one method, trained if need be, imagines of the novel tasks."""
        how = self.adaptations[method]
        trained, _ = self.train(how.training, seed)
        held = self.novel_clips(how)
        imagined = self.continued(how.denoiser(self.prior, trained), held, seed, how)
        return {
            "method": method,
            "seed": seed,
            "random_share": self.random_share,
            "FVD with given frames": asdict(video_distance(imagined, held, self.output / "features")),
            **self.record(method),
        }

    def losses(self, seed: int) -> dict[str, Any]:
        """The denoising loss of the bare prior and of the in-domain model on held-out clips of the seen tasks.

        If they are alike, there is nothing to adapt.
        """
        trained, _ = self.train(ADAPTATIONS[IN_DOMAIN].training, seed)
        held = self.seen_clips()
        before, after = (held_out_loss(model, self.prior, held, num_draws=2) for model in (self.prior, trained))
        return {
            "method": IN_DOMAIN,
            "seed": seed,
            "random_share": self.random_share,
            "the prior": asdict(mean_interval(before, held.levels)),
            "in-domain": asdict(mean_interval(after, held.levels)),
            "the prior / in-domain": asdict(mean_interval(before, held.levels, over=after)),
            **self.record(IN_DOMAIN),
        }

    def record(self, method: str) -> dict[str, Any]:
        """Under what, when and with what a cell was made."""
        names = ("trimtab", "torch", "numpy", "metaworld", "mujoco")
        own = self.adaptations[method].own() if method in self.adaptations else {}
        return {
            "protocol": {**self.protocol, "own": own},
            "date": datetime.now(UTC).date().isoformat(),
            "versions": {package: version(package) for package in names},
        }

    @property
    def protocol(self) -> dict[str, Any]:
        """What two cells must share to be compared. Raises ValueError if there are no inverse dynamics that fit."""
        return {
            "prior": self.prior.fingerprint,
            "look": asdict(ROBOT),
            "reader": self.reading()[1],
            **self.size.sampled,
            "num_plans": self.size.num_plans,
            "replan_every": self.size.replan_every,
            "horizon": self.size.horizon,
            **self.size.pace,
            "teraflops": self.size.teraflops,
            "num_clips": self.size.num_clips,
        }

    def player(self, environment: MetaWorld, method: str, seed: int) -> tuple[Player, dict[str, Any]]:
        """What plays, and the facts of its training."""
        if method == EXPERT:
            return Expert(environment, self.size.replan_every), {}
        if method == TRUE_VIDEO:
            truth = Continuation(environment, self.size.horizon)
            return VideoPlanner(truth, self.reading()[0], replan_every=self.size.replan_every), {}
        how = self.adaptations[method]
        trained, facts = self.train(how.training, seed)
        return self.planner(how.denoiser(self.prior, trained), seed, how), facts

    def planner(self, denoiser: Denoiser, seed: int, how: Adaptation = ADAPTATIONS[IN_DOMAIN]) -> VideoPlanner:
        """Plans by what a denoiser imagines, which is told and sampled from as that adaptation is.

        What imagines stays on `device()`, as thousands of plans are asked of it.
        """
        for module in modules_of(denoiser):
            module.to(device())
        imagine = Imagination(
            denoiser, self.prior, self.sampler(how), encode=how.words(self.prior), horizon=self.size.horizon,
            num_plans=self.size.num_plans, seed=seed,
        )  # fmt: skip
        return VideoPlanner(imagine, self.reading()[0], replan_every=self.size.replan_every)

    def reading(self) -> tuple[Callable[..., torch.Tensor], str]:
        """Two frames to the action between them, and a fingerprint. Raises ValueError if no inverse dynamics fit."""
        return reading(
            self.reader or inverse_dynamics.METAWORLD, self.size.action_repeat, self.side, self.reader_weights
        )

    def successes(self, planner: VideoPlanner, first_start: int, num_starts: int) -> list[bool]:
        """From which start states of the validation tasks plans succeed, task by task."""
        starts = [first_start + number for number in range(num_starts)]
        return [
            one.success for task in VALIDATION for one in run_episodes(self.scene(task, num_starts), planner, starts)
        ]

    def success(self, denoiser: Denoiser, num_starts: int, seed: int) -> Interval:
        """The share of start states of the validation tasks from which plans succeed, start states resampled."""
        return share(torch.tensor(self.successes(self.planner(denoiser, seed), FIRST_CHECK, num_starts)))

    def sampler(self, how: Adaptation = ADAPTATIONS[IN_DOMAIN]) -> Callable[..., Video]:
        """From noise of variance one to a video; what is believed is clamped, but for latents, and where weights do not sum
        to one.
        """
        steps, temperature = sampling.pairs(self.prior.schedule, self.size.num_steps), self.size.temperature
        sample = partial(self.size.sample, pairs=steps, clamp=clamp_of(self.prior) if how.normalise else None)
        return lambda denoiser, noise, given: sampled(sample, denoiser, temperature * noise, given)

    def continued(self, denoiser: Denoiser, held: Held, seed: int, how: Adaptation = ADAPTATIONS[IN_DOMAIN]) -> Video:
        """What a denoiser imagines to follow the first frames of clips, sampled from as that adaptation is."""
        return continued(denoiser, self.prior, self.sampler(how), held, seed)

    def scene(self, task: str, num_envs: int) -> MetaWorld:
        return scene(task, num_envs, **self.scenery)

    def clips(
        self,
        name: str,
        tasks: Sequence[str],
        first_start: int,
        num_clips: int,
        how: Adaptation = ADAPTATIONS[IN_DOMAIN],
    ) -> Held:
        """Clips of the experts at these tasks, in the words of an adaptation."""
        return expert_clips(
            self.prior, tasks, num_clips, clip_length(self.prior, self.size.lengths), first_start=first_start,
            folder=place(self.datasets, name, **self.scenery), words=how.words(self.prior), **self.scenery,
        )  # fmt: skip

    def novel_clips(self, how: Adaptation = ADAPTATIONS[IN_DOMAIN]) -> Held:
        """The experts at the novel tasks, that videos are compared with."""
        return self.clips("novel", self.size.novel, FIRST_CLIP, self.size.num_clips, how)

    def seen_clips(self) -> Held:
        """The experts at the seen tasks, on which denoising is measured."""
        return self.clips("seen-held", SEEN, FIRST_LOSS, self.size.num_clips)

    def check_clips(self, kinds: Collection[str]) -> None:
        """Raises ValueError if there are fewer clips than results of these kinds, `VIDEOS` or `LOSSES`, need."""
        for kind, clips in ((VIDEOS, self.novel_clips), (LOSSES, self.seen_clips)):
            if kind in kinds:
                clips()

    def demonstrations(self) -> Demonstrations:
        return demonstrations(self.random_share, self.datasets, **self.scenery)

    def train(self, name: str | None, seed: int, *, dry_run: bool = False) -> tuple[Any, dict[str, Any]]:
        """What a method needs trained, and the facts of its training; both are kept in the run folder.

        Raises ValueError if what is kept was trained for another number of operations, or by another optimizer or rate.
        """
        if name is None:
            return None, {}
        training = self.size.trainings[name]
        folder = self.folder(name, seed)
        if (facts := checkpoints.facts_of(folder, **training.how(self.prior))) is not None:
            steps, step = facts["steps"], facts["teraflops a step"]
            if steps != self.steps(training, step):
                raise ValueError(
                    f"{folder} was trained for {steps * step:.3g} teraflops, not {self.size.teraflops:.3g}; ask for as many "
                    "by --scale or --teraflops, or name another run folder (--output, --planning), where it is trained anew"
                )
            return checkpoints.load(folder, training.build, self.prior), facts
        for module in modules_of(self.prior):  # where what is built, and what it draws to learn from, are
            module.cpu()  # plans may have left it elsewhere
        torch.manual_seed(seed)
        model = training.made(self.prior)
        episodes = self.demonstrations() if self.episodes is None else self.episodes
        task, clips = training.lesson(model, self.prior, episodes, seed)
        batches: dict[str, Any] = {"batch_size": self.size.batch_size, "lengths": training.lengths or self.size.lengths}
        step = operations_per_step(task, clips, passes=1, **batches) / 1e12
        run = fit_or_forecast(
            dry_run, task, clips, Budget(steps=self.steps(training, step)), folder=folder,
            title=f"{name}, seed {seed}", optimizer=training.optimizer, learning_rate=training.learning_rate,
            average_decay=0.995, seed=seed, **batches,
        )  # fmt: skip
        if run is None:
            return model, {}
        facts = {**taken(model, run, step), **training.how(self.prior), **training.shown(episodes)}
        checkpoints.save(folder, model, self.prior, facts=facts)
        return model.eval(), facts

    def folder(self, name: str, seed: int) -> Path:
        """Of a training."""
        return (self.planning or self.output) / "trainings" / f"{name}-{seed}-{round(100 * self.random_share)}"

    def forecast(self, names: Iterable[str | None], seeds: Iterable[int]) -> None:
        """Say what the trainings of these names and seeds will need that are not done, each tried with one seed."""
        needs: list[Needs] = []
        for name in filter(None, dict.fromkeys(names)):
            missing = [seed for seed in seeds if checkpoints.facts_of(self.folder(name, seed)) is None]
            if missing:
                self.train(name, missing[0], dry_run=True)
                needs += [told(self.folder(name, missing[0]))] * len(missing)
        if needs:
            print(f"{len(needs)} trainings, one after another, will need: {together(needs)}; all else comes on top")
        else:
            print("all trainings are done")

    def steps(self, training: Training, teraflops: float) -> int:
        """Of a training whose steps take so many operations, in 10^12."""
        paid = max(1, round(self.size.teraflops / teraflops))
        return paid if training.most is None else min(paid, training.most)

    def keep(self, task: str, method: str, seed: int, played: Iterable[Episode]) -> None:
        """Keep what was seen, and what was imagined for the same frames, to be shown."""
        name = cell_name(task, method, seed, self.random_share).removesuffix(".json")
        facts = {"task": task, "method": method, "seed": seed, "random_share": self.random_share}
        storage.write(self.output / "pictures" / f"{name}.safetensors", seen(played, self.size.replan_every), facts)
