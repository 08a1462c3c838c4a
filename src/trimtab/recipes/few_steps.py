"""How many sampling steps are worth their time? Quality of a trained AVID, sampler by sampler."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rich import print
from rich.progress import track

from trimtab import checkpoints
from trimtab.adapters.avid import AVID
from trimtab.core.files import write_whole
from trimtab.core.values import Video
from trimtab.diffusion import sampling
from trimtab.metrics.actions import COINRUN_JUDGE
from trimtab.metrics.evaluation import REPEAT_LAST_FRAME, evaluate
from trimtab.metrics.protocol import Evaluation
from trimtab.priors import pixel_unet
from trimtab.priors.pixel_unet import PixelUNet
from trimtab.recipes._held import Held, from_bytes, to_bytes
from trimtab.recipes.domains.coinrun import COINRUN_TABLES, validation

SAMPLERS: dict[str, Callable[..., Video]] = {
    "DPM-Solver++ 2M": sampling.dpm_solver_pp_2m,
    "DDIM": sampling.ddim,
    "ancestral": sampling.ancestral,
}
"""Euler steps along the flow are those of DDIM, in other terms."""

METRICS = ("LPIPS", "action accuracy (effects)", "sharpness", "PSNR")


def few_steps(
    *,
    steps: Sequence[int] = (1, 2, 4, 8, 16, 50),
    num_clips: int = 64,
    adapter: Path = Path("runs/demo/avid"),
    prior: str = "procgen",
    seed: int = 0,
    datasets: Path = Path("datasets"),
    output: Path = Path("runs/few-steps"),
) -> None:
    """Sample the same clips, from the same noise, in few and in many steps, and plot how good they are.

    Since the number of steps is chosen by this, they are of validation levels, on which nothing is measured that is told.

    Args:
        steps: numbers of sampling steps; the last is what the others are held against.
        num_clips: validation clips, one a level.
        adapter: the folder of a trained AVID, such as a demo's or a benchmark's.
        prior: that it was trained beside: the name of one that ships with the package, or the path of one.
        seed: of the noise.
        datasets: where recorded play is kept.
        output: few_steps.png and few_steps.json in it are the result.
    """
    beside = pixel_unet.load(prior)
    avid = checkpoints.load(adapter, AVID, beside)
    held = validation(beside, num_clips, datasets)
    videos = {
        f"{name}, {number}": sampled(avid, beside, sample, number, held, seed)
        for number in track(steps, "sampling")
        for name, sample in SAMPLERS.items()
    }
    notes = {
        "adapter": json.loads((adapter / checkpoints.CONFIG).read_text()),
        "prior": beside.fingerprint,
        "seed": seed,
        "steps": list(steps),
    }
    table = evaluate(
        videos,
        held.clip.video,
        context=held.context,
        actions=held.actions,
        levels=held.levels,
        reference=next(reversed(videos)),
        judge_file=COINRUN_JUDGE,
        effects=COINRUN_TABLES,
        notes=notes,
    )
    write_whole(output / "few_steps.json", table.to_json())
    plot(table, steps, output / "few_steps.png")
    for metric in METRICS:
        for name in SAMPLERS:
            means = [table.figure(f"{name}, {number}", metric).overall.mean for number in steps]
            print(f"{metric:26} {name:16}" + " ".join(f"{mean:8.4f}" for mean in means))
    print(f"steps: {', '.join(map(str, steps))}; {num_clips} clips; picture in {output / 'few_steps.png'}")


def sampled(avid: AVID, prior: PixelUNet, sample: Callable[..., Video], num_steps: int, held: Held, seed: int) -> Video:
    """The clips in so many steps."""
    pairs = sampling.pairs(prior.schedule, num_steps)
    parts = []
    for first in range(0, len(held.indices), 16):
        clip, indices = held.part(first, 16), held.indices[first : first + 16].tolist()
        noise = sampling.start_noise(tuple(clip.video.shape[1:]), seed, indices)
        parts.append(to_bytes(sample(avid, noise, clip.given, pairs=pairs, clamp=(-1.0, 1.0), samples=indices)))
    return from_bytes(torch.cat(parts))


def plot(table: Evaluation, steps: Sequence[int], path: Path) -> None:
    """A panel a metric, a line a sampler, with 95% intervals; LPIPS and PSNR of repeating the last frame as a level."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6), layout="constrained")
    for axes, metric in zip(figure.subplots(2, 2).flat, METRICS, strict=True):
        for name in SAMPLERS:
            found = [table.figure(f"{name}, {number}", metric).overall for number in steps]
            (line,) = axes.plot(steps, [one.mean for one in found], marker="o", label=name)
            axes.fill_between(
                steps, [one.low for one in found], [one.high for one in found], alpha=0.12, color=line.get_color()
            )
        if metric in ("LPIPS", "PSNR"):
            level = table.figure(REPEAT_LAST_FRAME, metric).overall.mean
            axes.axhline(level, color="0.5", linestyle=":", label=REPEAT_LAST_FRAME)
        axes.set_xscale("log")
        axes.set_xticks(list(steps), [str(number) for number in steps])
        axes.minorticks_off()
        axes.set_title(metric, loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("sampling steps")
    figure.axes[0].legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
