"""Which voice of a composition earns what? Compositions with voices left out, planned with and held against recordings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from rich import print
from torch import Tensor

from trimtab.adapters.composition import Composition, Voice
from trimtab.core.checks import counted
from trimtab.core.contracts import Denoiser
from trimtab.core.files import write_whole
from trimtab.core.values import Weights
from trimtab.metrics.intervals import Interval
from trimtab.recipes.domains.metaworld import FIRST_CHECK, VALIDATION
from trimtab.recipes.planning.adaptations import ADAPTATIONS, INVERSE, PROBABILISTIC, Adaptation
from trimtab.recipes.planning.bench import Bench
from trimtab.recipes.planning.cells import slug
from trimtab.recipes.planning.figures import bars, keep, kept, likeness, table
from trimtab.training import record_settings

PARTS = ("prior, untold", "prior, told", "in-domain, untold", "in-domain, told")
"""The voices, in the order of the weights below."""


def weights_of_voices(adaptations: Mapping[str, Adaptation] = ADAPTATIONS) -> dict[str, tuple[float, ...]]:
    """What is compared: the weights of `PARTS`, before they are divided by their sum; the last two are the full forms."""
    inverse, standard = adaptations[INVERSE], adaptations[PROBABILISTIC]
    a, g = inverse.guidance, inverse.strength or 0.0
    b, h = standard.guidance, standard.strength or 0.0
    return {
        "prior, untold": (1.0, 0.0, 0.0, 0.0),
        "prior, told": (0.0, 1.0, 0.0, 0.0),
        "prior, guided": (1 - a, a, 0.0, 0.0),
        "in-domain, untold": (0.0, 0.0, 1.0, 0.0),
        "in-domain, told": (0.0, 0.0, 0.0, 1.0),
        "in-domain, guided": (0.0, 0.0, 1 - b, b),
        "both told, no guidance": (0.0, 1.0, 0.0, g),
        INVERSE: (1 - a, a, 0.0, a * g),
        PROBABILISTIC: (0.0, b * h, 1 - b, b),
    }


def score_voices(
    *,
    num_starts: int = 6,
    num_clips: int = 64,
    scale: Literal["smoke", "tiny", "paper"] = "smoke",
    teraflops: float | None = None,
    seed: int = 0,
    prior: str = "tabletop",
    reader: Path | None = None,
    reader_weights: Path | None = None,
    choices: Path | None = None,
    dry_run: bool = False,
    datasets: Path = Path("datasets"),
    planning: Path | None = None,
    output: Path | None = None,
) -> None:
    """Plan validation tasks with every voice alone, guided, and together, and compare what they imagine with recordings.

    All are divided by the sum of their weights, also at the scale of the paper, which does not do so. Start states are
    others than those on which guidance and strength were chosen. What is finished is not done again. An interval has no
    width where every start state ends alike.

    Args:
        num_starts: start states of each task that are planned from.
        num_clips: recorded clips whose continuation is imagined; of 20 episodes or more for FVD.
        scale: that the in-domain model was trained at, see `trimtab metaworld-planning`.
        teraflops: likewise, where it was not the scale's.
        seed: of its training, and of the noise.
        prior: the name of a prior that ships with the package, the path of one, or ``module:function`` (docs/your_model.md);
            it hears texts.
        reader: inverse dynamics, a file of `trimtab inverse-dynamics`; by default those that come with the package.
        reader_weights: the safetensors file of vc1 or dinov2, for a reader that was trained with one.
        choices: guidance and strength that `trimtab metaworld-sweep` chose beside this prior, for plans that are made and
            sampled as at this scale: choices.json in its output. By default those that come with the package.
        dry_run: record what data are missing, and then only say what the in-domain model's training will need in memory,
            time and disk, where it is not done yet.
        datasets: where recorded episodes are kept.
        planning: the folder in which `trimtab metaworld-planning` trained, or in which it will find what is trained here; by
            default that of the scale.
        output: run folder, by default runs/score-voices-<scale>; score_voices.png and score_voices.json in it are the
            result.
    """
    output = output or Path(f"runs/score-voices-{scale}")
    counts = counted(num_starts=num_starts, num_clips=num_clips) | {"seed": seed}
    settings = {**counts, "scale": scale, "teraflops": teraflops, "prior": prior, "choices": choices}
    bench = Bench.opened(scale, prior, reader, datasets, planning, teraflops, choices, reader_weights)
    if not dry_run:
        bench.reading()  # refused before anything is kept, if none fits, and if there are not as many clips
    held = None if dry_run else bench.clips("check", VALIDATION, FIRST_CHECK, num_clips)
    record_settings(
        output, "score-voices", {**settings, "reader": reader, "reader_weights": reader_weights}, dry_run=dry_run
    )
    if held is None:
        bench.forecast(["in-domain"], [seed])
        return
    trained, _ = bench.train("in-domain", seed)
    found: dict[str, dict[str, Interval]] = {}
    compared = weights_of_voices(bench.adaptations)
    for name, weights in compared.items():
        path = output / "cells" / f"{slug(name)}.json"
        protocol = {
            **bench.protocol,
            **counts,
            "weights": list(weights),
            "negative": bench.adaptations[INVERSE].negative,
        }
        if not path.exists():
            denoiser = composed(bench.prior, trained, weights, bench.adaptations[INVERSE].untold(bench.prior))
            cell = {
                "success": bench.success(denoiser, num_starts, seed),
                **likeness(bench.continued(denoiser, held, seed), held),
            }
            keep(path, cell, protocol)
        found[name] = kept(path, protocol)
    written = {
        "protocol": {**bench.protocol, **counts},
        "voices": PARTS,
        "weights": compared,
        "figures": {name: {figure: asdict(value) for figure, value in of.items()} for name, of in found.items()},
    }
    write_whole(output / "score_voices.json", json.dumps(written, indent=1) + "\n")
    bars(found, output / "score_voices.png")
    print(table(found), f"picture in {output / 'score_voices.png'}")


def composed(
    prior: Denoiser, in_domain: Denoiser, weights: Sequence[float], negative: Tensor | None = None
) -> Composition:
    """The voices that have a weight, normalised; the untold prior may be told a negative text (token, feature).

    Raises ValueError if a weight is missing.
    """
    voices = (Voice(prior, ("text",), negative), Voice(prior), Voice(in_domain, ("text",)), Voice(in_domain))
    heard = [(voice, weight) for voice, weight in zip(voices, weights, strict=True) if weight]
    of_heard = Weights.of(*(weight for _, weight in heard))
    return Composition([voice for voice, _ in heard], lambda level: of_heard, normalise=True)
