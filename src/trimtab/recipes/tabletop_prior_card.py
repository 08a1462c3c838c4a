"""Measure a text-to-video prior of robot arms in looks it never saw, above all whether it follows words; write its card."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich import print
from torch import Tensor

from trimtab.adapters.composition import classifier_free_guidance
from trimtab.core.contracts import Prior
from trimtab.core.files import write_whole
from trimtab.core.markdown import markdown_table
from trimtab.core.values import Conditioning, Video
from trimtab.data.clips import Clips, spread
from trimtab.diffusion import sampling
from trimtab.environments.looks import Look
from trimtab.environments.metaworld import OPPOSITES
from trimtab.forecast import fit_or_forecast
from trimtab.metrics import text_match
from trimtab.metrics.frames import Lpips, sharpness
from trimtab.metrics.intervals import Interval, mean_interval, paired_interval
from trimtab.metrics.text_match import Matching, TextMatch, prefers, which_text
from trimtab.networks import storage
from trimtab.priors.pixel_unet import PixelUNet
from trimtab.recipes._held import Held, held_out_loss
from trimtab.recipes._prior import words_of
from trimtab.recipes._prior_card import of_run
from trimtab.recipes.domains.metaworld import TEMPERATURE, encoder
from trimtab.recipes.domains.tabletop import WORDS, halfway_episodes, lessons, tabletop_episodes
from trimtab.report import film_strip
from trimtab.training import Budget

FIRST_LOOK, FIRST_SEED = 1_000_000, 500
"""Of the held-out episodes: looks and start states that no training saw."""


def tabletop_prior_card(
    *,
    prior: str | None = None,
    run: Path = Path("runs/tabletop-prior"),
    num_clips: int = 96,
    num_steps: int = 4,
    guidance: float = 2.5,
    temperature: float = TEMPERATURE,
    matching_steps: int = 1500,
    seed: int = 0,
    note: str = "",
    dry_run: bool = False,
    datasets: Path = Path("datasets"),
    matcher: Path = Path("runs/text-match/text_match.safetensors"),
    output: Path | None = None,
) -> None:
    """Write tabletop.json (figures and training), tabletop.md (the same to read) and tabletop.png (samples).

    Whether clips follow their texts is judged by a small network that is trained on real clips first, if its file is not
    there. It chooses among all texts; and, where the first frame does not tell which of two opposite tasks follows, between
    these two.

    Args:
        prior: the name of a prior that ships with the package, or the path of one; by default that of the run.
        run: where it was trained, a folder, for settings, steps and hours.
        num_clips: held-out clips.
        num_steps: sampling steps.
        guidance: how far the answer goes beyond the untold one; 1 is the told one.
        temperature: the noise that a video starts from is scaled by it, 0 to 1; by default as in planning.
        matching_steps: optimizer steps of the judge.
        seed: of the samples, and of the judge.
        note: a sentence about the training that its files do not tell.
        dry_run: record what data are missing, and then only say what the judge's training will need in memory, time and
            disk.
        datasets: where recorded episodes are kept.
        matcher: the judge, a file.
        output: folder of the card, by default `card` in that of the run; those that ship are in
            src/trimtab/priors/weights.
    """
    (model, trained_with), output = of_run(prior, run), output or run / "card"
    judge = trained_judge(
        matcher, datasets, matching_steps, seed, num_episodes=trained_with["num_episodes"], dry_run=dry_run
    )
    if dry_run:
        return
    episodes = tabletop_episodes(
        num_episodes=6, first_look=FIRST_LOOK, seed=FIRST_SEED, folder=datasets / "tabletop-heldout"
    )
    clips = Clips(episodes, model.num_context, model.num_frames, encode=encoder())
    held = Held.of(clips, clips.evenly(num_clips, per_level=None))
    tasks = list(WORDS)
    texts = encoder()(list(WORDS.values()))
    asked = which_text(held.texts, texts)
    imagine = partial(imagined, model, num_steps, guidance, temperature, seed)
    video = imagine(held, held.texts)
    real, last = held.clip.video, held.context[:, -1:].expand_as(held.clip.video).contiguous()
    lpips = Lpips()
    ours, theirs = lpips(video, real).mean(1), lpips(last, real).mean(1)

    two = of_two_tasks(model, min(num_clips, NUM_OF_TWO), datasets)
    own = which_text(two.texts, texts)
    other = opposite(own, tasks)
    rows = {
        "real": two.clip.video,
        "asked for its text": imagine(two, two.texts),
        "asked for the opposite": imagine(two, texts[other]),
    }
    taken = dict(
        zip(("real", "own", "other"), (judge(two.context, some, texts) for some in rows.values()), strict=True)
    )
    pairs = {
        "real": prefers(taken["real"], own, other),
        "own": prefers(taken["own"], own, other),
        "other": prefers(taken["other"], other, own),
    }
    untrue, true = (held_out_loss(model, model, some, num_draws=2) for some in (telling(two, texts[other]), two))
    figures: dict[str, Interval] = {
        "loss": mean_interval(held_out_loss(model, model, held, num_draws=2), asked),
        "lpips": mean_interval(ours, asked),
        "lpips_minus_repeat": paired_interval(ours, theirs, asked),
        "sharpness": mean_interval(sharpness(video, real).mean(1), asked),
        **{
            f"text_of_{name}": mean_interval((judge(held.context, some, texts).argmax(1) == asked).double(), asked)
            for name, some in (("real", real), ("imagined", video))
        },
        "loss_of_other_words": paired_interval(untrue, true, own),
        **{f"{name}_of_two": mean_interval(said.double(), own) for name, said in pairs.items()},
    }
    _, counters = storage.read(run / "state.safetensors")
    card = {
        "name": "tabletop",
        "fingerprint": model.fingerprint,
        "parameters": sum(value.numel() for value in model.parameters()),
        "settings": vars(model.settings),
        "training": {
            **trained_with,
            "steps": counters["step"],
            "hours": round(counters["seconds"] / 3600, 2),
            "note": note,
        },
        "evaluation": {
            "date": datetime.now(UTC).date().isoformat(),
            "clips": num_clips,
            "sampler": f"dpm_solver_pp_2m, {num_steps} steps, guidance {guidance}, temperature {temperature}, "
            f"seed {seed}",
            "num_texts": len(texts),
            "figures": {name: asdict(value) for name, value in figures.items()},
        },
    }
    output.mkdir(parents=True, exist_ok=True)
    shown = np.linspace(0, len(own) - 1, 5).astype(int).tolist()
    labels = [f"{WORDS[tasks[own[clip]]]}; {WORDS[tasks[other[clip]]]}" for clip in shown]
    film_strip(rows, given=two.context, clips=shown, labels=labels, scale=1).save(
        output / "tabletop.png", optimize=True
    )
    for name, text in (("tabletop.json", json.dumps(card, indent=1)), ("tabletop.md", card_text(card))):
        write_whole(output / name, text + "\n")
    print(f"{card_text(card)}\n\ncard in {output}")


def trained_judge(
    path: Path, datasets: Path, num_steps: int, seed: int, *, num_episodes: int = 30, dry_run: bool = False
) -> TextMatch:
    """The judge in a file, trained on the prior's own sets first if there is none; in a dry run as it would begin."""
    if dry_run or not path.exists():
        torch.manual_seed(seed)
        judge = TextMatch()
        task = Matching(judge, encoder()(list(WORDS.values())))
        run = fit_or_forecast(
            dry_run, task, lessons(datasets, num_episodes), Budget(steps=num_steps), folder=path.parent,
            title="judge of texts", batch_size=64, lengths=(8,), warm_up=num_steps // 10, cool_down=0.9, seed=seed,
            log_every=100,
        )  # fmt: skip
        if run is None:
            return judge
        judge.save(path, {"steps": num_steps, "seed": seed})
    return text_match.load(path)


def opposite(asked: Tensor, tasks: list[str]) -> Tensor:
    """For each task's number that of its opposite. Raises ValueError for a task that has none."""
    others = {task: other for pair in OPPOSITES for task, other in (pair, pair[::-1])}
    if lonely := sorted({tasks[number] for number in asked.tolist()} - set(others)):
        raise ValueError(f"no task is the opposite of {', '.join(lonely)}; those that have one are {', '.join(others)}")
    return torch.tensor([tasks.index(others[tasks[number]]) for number in asked.tolist()])


NUM_OF_TWO = 100
"""Clips of two tasks that there are: one of each episode."""


def of_two_tasks(prior: Prior, num_clips: int, datasets: Path) -> Held:
    """Clips in looks that no training saw, of which the first frame does not tell which of two opposite tasks follows: the
    beginnings of episodes. Raises ValueError if more are asked for than there are.
    """
    episodes = halfway_episodes(
        num_episodes=5, first_look=FIRST_LOOK, seed=FIRST_SEED, folder=datasets / "tabletop-halfway-beginnings"
    )
    clips = Clips(episodes, prior.num_context, prior.num_frames, encode=words_of(prior))
    whole = np.flatnonzero(clips.num_windows)
    if not 1 <= num_clips <= len(whole):
        raise ValueError(
            f"there are {len(whole)} clips that begin so, got num_clips {num_clips}; ask for as many or fewer"
        )
    return Held.of(clips, clips.numbers(whole[spread(len(whole), num_clips)]))


def telling(held: Held, text: Tensor) -> Held:
    """The same clips under other texts (clip, token, feature)."""
    return replace(held, clip=replace(held.clip, given=replace(held.clip.given, text=text)))


@torch.no_grad()
def imagined(
    model: PixelUNet, num_steps: int, guidance: float, temperature: float, seed: int, held: Held, text: Tensor
) -> Video:
    """What follows the clips' first frames by these texts, always from the same noise."""
    guided = classifier_free_guidance(model, guidance, untold=("text",))
    pairs = sampling.pairs(model.schedule, num_steps)
    sample: Callable[..., Video] = partial(sampling.dpm_solver_pp_2m, pairs=pairs, clamp=(-1.0, 1.0))
    shape, numbers = tuple(held.clip.video.shape[1:]), held.indices.tolist()
    noise = sampling.start_noise(shape, seed, numbers, temperature=temperature)
    parts = zip(noise.split(16), held.context.split(16), text.split(16), strict=True)
    return torch.cat(
        [sample(guided, start, Conditioning(context=context, text=some)) for start, context, some in parts]
    )


def card_text(card: dict[str, Any]) -> str:
    """The card as Markdown."""
    training, evaluation = card["training"], card["evaluation"]
    figures = {name: Interval(**value) for name, value in evaluation["figures"].items()}
    chance = 1 / evaluation["num_texts"]
    return "\n".join(
        [
            f"# The `{card['name']}` prior, {card['fingerprint']}",
            "",
            f"A text-to-video diffusion model of {card['parameters']:,} weights in pixel space: 1 to 8 frames of 64 x 64 "
            "from one and a sentence, or one from a sentence alone, velocity prediction.",
            "",
            f"Data: {training['num_episodes']} episodes of each of {len(WORDS)} MetaWorld tasks by their scripted experts, "
            "as many that begin where random actions led from the experts' way, and as many short ones of each of two "
            "opposite tasks in each scene that they share, begun half way, which are a quarter of each batch; all in looks "
            f"that never are the simulator's own: {looks_in_words()}. "
            f"Tasks: {', '.join(WORDS)}. Training: "
            f"from {'the weights of ' + str(training['initial']) if training['initial'] else 'random weights'}, "
            f"{training['steps']} steps of {training['batch_size']} clips, {training['hours']} hours; "
            f"`trimtab tabletop-prior`, seed {training['seed']}. {training['note']}".strip(),
            "",
            f"Measured {evaluation['date']} on {evaluation['clips']} clips in other looks, from other start states, with "
            f"{evaluation['sampler']}; means with 95% intervals, tasks resampled. `trimtab tabletop-prior-card`",
            "",
            markdown_table(
                ["figure", "mean"],
                [
                    ["denoising loss", figures["loss"]],
                    ["LPIPS (AlexNet)", figures["lpips"]],
                    ["LPIPS less that of the last frame", figures["lpips_minus_repeat"]],
                    ["gradient energy / real", figures["sharpness"]],
                    [f"real clips whose text is found among all (chance {chance:.2f})", figures["text_of_real"]],
                    ["imagined clips whose text is found among all", figures["text_of_imagined"]],
                    [
                        "denoising loss that the opposite text adds, where the first frame does not tell which of two "
                        "follows",
                        figures["loss_of_other_words"],
                    ],
                    ["there, real clips whose text is preferred to its opposite (chance 0.5)", figures["real_of_two"]],
                    ["imagined clips, likewise", figures["own_of_two"]],
                    ["clips imagined for the opposite text that are taken for it", figures["other_of_two"]],
                ],
            ),
            "![samples](tabletop.png)",
        ]
    )


def looks_in_words() -> str:
    """How far the looks vary that the prior learned from."""
    by = Look.ranges()
    return (
        f"the camera, always the close one, goes round by up to {by['turn']:g} degrees sideways and {by['tilt']:g} up or "
        f"down and nearer or farther by up to {by['distance']:.0%}, {by['colours']:.0%} of each colour and of the "
        f"background is drawn, half of the textures go, and lights vary by up to {by['lights']:.0%}"
    )
