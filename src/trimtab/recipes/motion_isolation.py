"""Does a subject's word change looks and leave motion alone? Clips that a customised prior imagines with it and without."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from rich import print
from torch import Tensor

from trimtab.core.checks import counted
from trimtab.core.contracts import Prior
from trimtab.core.files import write_whole
from trimtab.core.values import Clip, Video
from trimtab.environments.metaworld import TEXTS
from trimtab.metrics.actions import Context
from trimtab.metrics.frames import Lpips
from trimtab.metrics.i3d import with_context
from trimtab.metrics.intervals import Interval, mean_interval
from trimtab.metrics.text_match import which_text
from trimtab.recipes._held import Held
from trimtab.recipes._prior import words_of
from trimtab.recipes.domains.metaworld import FIRST_CHECK, VALIDATION
from trimtab.recipes.planning.adaptations import CLASS, CUSTOMIZED, PRIOR, SUBJECT
from trimtab.recipes.planning.bench import Bench
from trimtab.recipes.planning.figures import bars, likeness, table
from trimtab.training import record_settings

WITHOUT, WITH = "customised, without the word", "customised, with the word"
OF_CLASS = f"{PRIOR}, of its class", "customised, of its class"
"""The class is named as the subject is, but without the subject's word: what that alone does is the difference."""


def motion_isolation(
    *,
    num_clips: int = 64,
    scale: Literal["smoke", "tiny", "paper"] = "smoke",
    teraflops: float | None = None,
    seed: int = 0,
    prior: str = "tabletop",
    choices: Path | None = None,
    dry_run: bool = False,
    datasets: Path = Path("datasets"),
    planning: Path | None = None,
    output: Path | None = None,
) -> None:
    """Imagine the same clips by the prior, and by its customised copy, with the subject's word and without.

    Texts say nothing of who acts, name the class ("a robot arm"), or the subject ("a [D] robot arm"). The noise is
    the same for all. Looks are compared by FVD and LPIPS with the experts' continuation; motion by how much changes from
    frame to frame, and by whether it changes where it does in the prior's own clip.

    Args:
        num_clips: recorded clips of the validation tasks; of 20 episodes or more for FVD.
        scale: that the customised prior was trained at, see `trimtab metaworld-planning`.
        teraflops: likewise, where it was not the scale's.
        seed: of its training, and of the noise.
        prior: the name of a prior that ships with the package, the path of one, or ``module:function`` (docs/your_model.md);
            it hears texts, and its weights are within reach (an `OpenPrior`).
        choices: the guidance that `trimtab metaworld-sweep` chose beside this prior, from other start states, for plans that
            are made and sampled as at this scale: choices.json in its output. By default that which comes with the package.
        dry_run: record what data are missing, and then only say what its training will need in memory, time and disk,
            where it is not done yet.
        datasets: where recorded episodes are kept.
        planning: the folder in which `trimtab metaworld-planning` trained, or in which it will find what is trained here; by
            default that of the scale.
        output: run folder, by default runs/motion-isolation-<scale>; motion_isolation.png and motion_isolation.json in
            it are the result.
    """
    output = output or Path(f"runs/motion-isolation-{scale}")
    settings = {**counted(num_clips=num_clips), "scale": scale, "teraflops": teraflops, "seed": seed}
    bench = Bench.opened(scale, prior, None, datasets, planning, teraflops, choices)  # nothing is planned or read
    bench.check([CUSTOMIZED])
    held = None if dry_run else bench.clips("check", VALIDATION, FIRST_CHECK, num_clips)
    record_settings(output, "motion-isolation", {**settings, "prior": prior, "choices": choices}, dry_run=dry_run)
    customised = bench.adaptations[CUSTOMIZED]
    if held is None:
        bench.forecast([customised.training], [seed])
        return
    trained, _ = bench.train(customised.training, seed)
    say = partial(retold, held, bench.prior)
    named, of_class = say(customised.naming), say(customised.naming.replace(SUBJECT, CLASS))
    alone = customised.denoiser(bench.prior, bench.prior)
    denoiser = customised.denoiser(bench.prior, trained)
    videos = {
        PRIOR: bench.continued(alone, held, seed),
        OF_CLASS[0]: bench.continued(alone, of_class, seed),
        WITHOUT: bench.continued(denoiser, held, seed),
        OF_CLASS[1]: bench.continued(denoiser, of_class, seed),
        WITH: bench.continued(denoiser, named, seed),
    }
    found = {name: {**likeness(video, held), **motion(video, videos[PRIOR], held)} for name, video in videos.items()}
    written = {
        "prior": bench.prior.fingerprint,
        **customised.own(),
        "figures": {name: {figure: asdict(value) for figure, value in of.items()} for name, of in found.items()},
    }
    write_whole(output / "motion_isolation.json", json.dumps(written, indent=1) + "\n")
    bars(found, output / "motion_isolation.png")
    print(table(found), f"picture in {output / 'motion_isolation.png'}")


def retold(held: Held, prior: Prior, naming: str) -> Held:
    """The same clips with something added to their texts. Raises ValueError for a text of no task."""
    encode, texts = words_of(prior), list(TEXTS.values())
    which = which_text(held.texts, encode(texts))
    given = replace(held.clip.given, text=encode([text + naming for text in texts])[which])
    return replace(held, clip=Clip(held.clip.video, given))


def motion(video: Video, by_prior: Video, held: Held) -> dict[str, Interval]:
    """How much moves, as such and beside what does in the recording; and how like the prior's clip, in motion and looks."""
    ours, theirs, recording = (changes(some, held.context) for some in (video, by_prior, held.clip.video))
    clusters = held.recordings
    amount = ours.flatten(1).mean(1)
    return {
        "change a frame": mean_interval(amount, clusters),
        "change / experts'": mean_interval(amount, clusters, over=recording.flatten(1).mean(1)),
        "correlation with the prior's change": mean_interval(correlation(ours, theirs), clusters),
        "LPIPS to the prior's clip": mean_interval(Lpips()(video, by_prior).mean(1), clusters),
    }


def changes(video: Video, context: Context) -> Float[Tensor, "batch time height width"]:
    """Maps of the absolute change from frame to frame, 0 to 2, meaned over channels; the first is against the last given."""
    return with_context(video, context[:, -1:]).diff(dim=1).abs().mean(2)


def correlation(
    first: Float[Tensor, "batch *position"], second: Float[Tensor, "batch *position"]
) -> Float[Tensor, " batch"]:
    """Pearson's correlation over all positions of each sample; 0 where one of them is constant."""
    ours, theirs = ((some - some.mean(1, keepdim=True)).double() for some in (first.flatten(1), second.flatten(1)))
    scale = (ours.square().sum(1) * theirs.square().sum(1)).sqrt()
    return (ours * theirs).sum(1) / scale.where(scale > 0, torch.ones_like(scale))
