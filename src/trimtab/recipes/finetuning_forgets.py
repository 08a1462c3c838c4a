"""What does direct finetuning win and forget, by the number of demonstrations and of their tasks?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Int
from rich import print
from torch import Tensor

from trimtab.core.checks import counted
from trimtab.core.contracts import Denoiser
from trimtab.core.files import write_whole
from trimtab.data.episodes import Episodes
from trimtab.metrics.intervals import Interval, mean_interval, paired_interval
from trimtab.metrics.text_match import TextMatch, prefers, which_text
from trimtab.networks import storage
from trimtab.recipes._held import Held, held_out_loss
from trimtab.recipes._prior import words_of
from trimtab.recipes.domains.metaworld import LINGER, SEEN, SIZE, VALIDATION, encoder, place
from trimtab.recipes.domains.tabletop import WORDS
from trimtab.recipes.planning.adaptations import ADAPTATIONS, FINETUNED
from trimtab.recipes.planning.bench import Bench
from trimtab.recipes.planning.figures import keep, kept, share, table
from trimtab.recipes.record_metaworld import metaworld_episodes
from trimtab.recipes.tabletop_prior_card import of_two_tasks, opposite, trained_judge
from trimtab.training import record_settings

DIVERSITIES = {"one task": tuple(task for task in SEEN if task in VALIDATION), "three tasks": SEEN}
"""Which tasks are demonstrated; the one is that which plans are measured on, too."""

METHOD, BEFORE = FINETUNED, "the prior"


def finetuning_forgets(
    *,
    demonstrations: Sequence[int] = (3, 9, 25),
    num_starts: int = 6,
    num_clips: int = 96,
    matching_steps: int = 1500,
    scale: Literal["smoke", "tiny", "paper"] = "smoke",
    teraflops: float | None = None,
    seed: int = 0,
    prior: str = "tabletop",
    reader: Path | None = None,
    reader_weights: Path | None = None,
    choices: Path | None = None,
    dry_run: bool = False,
    datasets: Path = Path("datasets"),
    matcher: Path = Path("runs/text-match/text_match.safetensors"),
    output: Path | None = None,
) -> None:
    """Finetune the prior on few and many demonstrations of one and of several tasks; measure what it wins and what it loses.

    It wins success on the validation tasks; it may lose denoising, and following texts, in the looks and at the tasks that
    the prior was trained on. All trainings are of one length. What is finished is not done again.

    Args:
        demonstrations: numbers of them, of each task.
        num_starts: start states of each validation task that are planned from.
        num_clips: held-out clips of the prior's own domain, at tasks that have an opposite; there are some 100.
        matching_steps: optimizer steps of the judge of texts, if its file is not there.
        scale: of each training, see `trimtab metaworld-planning`.
        teraflops: likewise, instead of the scale's.
        seed: of the trainings, and of the noise.
        prior: the name of a prior that ships with the package, the path of one, or ``module:function`` (docs/your_model.md);
            it hears texts, and its weights are within reach (an `OpenPrior`).
        reader: inverse dynamics, a file of `trimtab inverse-dynamics`; by default those that come with the package.
        reader_weights: the safetensors file of vc1 or dinov2, for a reader that was trained with one.
        choices: the guidance that `trimtab metaworld-sweep` chose beside this prior, from other start states, for plans that
            are made and sampled as at this scale: choices.json in its output. By default that which comes with the package.
        dry_run: record what data are missing, and then only say what each finetuning will need in memory, time and disk,
            where it is not done yet.
        datasets: where recorded episodes are kept.
        matcher: the judge, a file.
        output: run folder, by default runs/finetuning-forgets-<scale>; finetuning_forgets.png and
            finetuning_forgets.json in it are the result.
    """
    output = output or Path(f"runs/finetuning-forgets-{scale}")
    counts = counted(num_starts=num_starts, num_clips=num_clips) | {"seed": seed}
    settings = {**counts, "scale": scale, "teraflops": teraflops, "prior": prior, "choices": choices}
    bench = Bench.opened(scale, prior, reader, datasets, output, teraflops, choices, reader_weights)
    if bench.side != SIZE:
        raise ValueError(
            f"texts are judged, and the prior's domain recorded, at {SIZE} pixels, this prior's are {bench.side}"
        )
    bench.check([METHOD])
    if not dry_run:
        bench.reading()  # refused before anything is kept, if none fits, and if there are not as many clips
    held = None if dry_run else of_two_tasks(bench.prior, num_clips, datasets)
    # More numbers of demonstrations may be asked for later.
    record_settings(
        output, "finetuning-forgets", {**settings, "reader": reader, "reader_weights": reader_weights}, dry_run=dry_run
    )
    todo = [(BEFORE, 0), *((diversity, number) for diversity in DIVERSITIES for number in demonstrations)]
    if held is None:
        for diversity, number in todo[1:]:
            shown_to(bench, diversity, number, output).forecast([ADAPTATIONS[METHOD].training], [seed])
        return
    judge = trained_judge(matcher, datasets, matching_steps, seed)
    own = OwnDomain.of(bench, judge, held, seed)
    protocol = {
        **bench.protocol,
        **counts,
        **bench.adaptations[METHOD].own(),
        "judge": storage.checksum(judge.state_dict(), {}),
    }
    found: dict[str, dict[str, Interval]] = {}
    for diversity, number in todo:
        name = f"{diversity}, {number}"
        path = output / "cells" / f"{name.replace(', ', '-').replace(' ', '-')}.json"
        if not path.exists():
            denoiser = finetuned(bench, diversity, number, seed, output)
            succeeded = bench.success(guided(bench, denoiser), num_starts, seed)
            keep(path, {"success": succeeded, **own.figures(denoiser)}, protocol)
        found[name] = kept(path, protocol)
    written = {
        "protocol": protocol,
        "tasks": DIVERSITIES,
        "figures": {name: {figure: asdict(value) for figure, value in of.items()} for name, of in found.items()},
    }
    write_whole(output / "finetuning_forgets.json", json.dumps(written, indent=1) + "\n")
    plot(found, demonstrations, output / "finetuning_forgets.png")
    print(table(found), f"picture in {output / 'finetuning_forgets.png'}")


def finetuned(bench: Bench, diversity: str, number: int, seed: int, output: Path) -> Denoiser:
    """The prior after so many demonstrations of each task, or before any."""
    if diversity == BEFORE:
        return bench.prior
    return shown_to(bench, diversity, number, output).train(ADAPTATIONS[METHOD].training, seed)[0]


def shown_to(bench: Bench, diversity: str, number: int, output: Path) -> Bench:
    """That trains on so many demonstrations of each task."""
    tasks = DIVERSITIES[diversity]
    return replace(bench, output=output / f"{len(tasks)}x{number}", episodes=demonstrated(bench, tasks, number))


def guided(bench: Bench, denoiser: Denoiser) -> Denoiser:
    return bench.adaptations[METHOD].denoiser(bench.prior, denoiser)


def demonstrated(bench: Bench, tasks: tuple[str, ...], number: int) -> Episodes:
    """The first so many of the demonstrations of each of these tasks, in the robot's look."""
    return metaworld_episodes(
        tasks=tasks,
        num_episodes=number,
        action_repeat=bench.size.action_repeat,
        max_episode_steps=bench.size.max_steps,
        size=bench.side,
        linger=LINGER,
        robot=True,
        output=place(bench.datasets, f"shown-{len(tasks)}x{number}", **bench.scenery),
    )


@dataclass(frozen=True)
class OwnDomain:
    """Held-out clips of the prior's own domain, and what is asked about them.

    Attributes:
        bench: whose prior and sampler are used.
        held: the clips.
        judge: of which text a clip shows.
        texts: of all tasks, as the judge is told them.
        asked: the number of each clip's text.
        other: the number of another text of the same scene, its own where there is none.
        loss: of the prior, (clip,).
        seed: of the noise.
    """

    bench: Bench
    held: Held
    judge: TextMatch
    texts: Tensor
    asked: Int[Tensor, " clip"]
    other: Int[Tensor, " clip"]
    loss: Tensor
    seed: int

    @classmethod
    def of(cls, bench: Bench, judge: TextMatch, held: Held, seed: int) -> OwnDomain:
        """From clips of `of_two_tasks`, the set that the prior's card measures words on."""
        asked = which_text(held.texts, words_of(bench.prior)(list(WORDS.values())))
        other, texts = opposite(asked, list(WORDS)), encoder()(list(WORDS.values()))
        loss = held_out_loss(bench.prior, bench.prior, held, num_draws=2)
        return cls(bench, held, judge, texts, asked, other, loss, seed)

    def figures(self, denoiser: Denoiser) -> dict[str, Interval]:
        """The denoising loss, what of it was not there before, and whether imagined clips show what they were asked for."""
        clusters = self.held.recordings
        loss = held_out_loss(denoiser, self.bench.prior, self.held, num_draws=2)
        with torch.no_grad():
            video = self.bench.continued(guided(self.bench, denoiser), self.held, self.seed)
            logits = self.judge(self.held.context, video, self.texts)
        return {
            "loss": mean_interval(loss, clusters),
            "loss less the prior's": paired_interval(loss, self.loss, clusters),
            "text found among all": share(logits.argmax(1) == self.asked, clusters),
            "text found of two": share(prefers(logits, self.asked, self.other), clusters),
        }


def plot(found: Mapping[str, Mapping[str, Interval]], demonstrations: Sequence[int], path: Path) -> None:
    """A panel a figure against demonstrations in all, a line a diversity, with 95% intervals; the prior as a level."""
    from matplotlib.figure import Figure

    before = found[f"{BEFORE}, 0"]
    figure = Figure(figsize=(3.4 * len(before), 3.6), layout="constrained")
    for axes, (name, level) in zip(figure.subplots(1, len(before)), before.items(), strict=True):
        for diversity, tasks in DIVERSITIES.items():
            row = [found[f"{diversity}, {number}"][name] for number in demonstrations]
            numbers = [len(tasks) * number for number in demonstrations]
            (line,) = axes.plot(numbers, [one.mean for one in row], marker="o", label=diversity)
            axes.fill_between(
                numbers, [one.low for one in row], [one.high for one in row], alpha=0.15, color=line.get_color()
            )
        axes.axhline(level.mean, color="0.5", linestyle=":", label=BEFORE)
        axes.set_xscale("log")
        axes.set_xticks([demonstrations[0], *numbers], map(str, [demonstrations[0], *numbers]))
        axes.minorticks_off()
        axes.set_xlabel("demonstrations in all")
        axes.set_title(name, loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
