"""Why not just multiply? Products, guidance and a trained AVID, measured where the right answer is known."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from trimtab.adapters.avid import AVID
from trimtab.adapters.composition import action_guidance, product_of_experts
from trimtab.adapters.from_scratch import FromScratch
from trimtab.core.contracts import Denoiser
from trimtab.core.files import write_whole
from trimtab.core.values import Clip, Conditioning, Video
from trimtab.diffusion import sampling
from trimtab.diffusion.losses import DenoisingLoss
from trimtab.diffusion.noise import gaussian_noise
from trimtab.forecast import fit_or_forecast
from trimtab.priors.gaussian import GaussianPrior
from trimtab.training import Budget, record_settings

SHAPE = (3, 1, 8, 8)
"""Frames, channels, height and width of a clip."""
NUM_ACTIONS = 3

PARTS = 10
"""Of the way from noise to clips, after each of which is measured."""

FLOOR = "the target itself, by as many samples"

TRAINED_WEIGHTS = (0.5, 0.8, 1.0)
"""Of the expert that was trained, at which its product with the prior is sampled."""


def why_not_multiply(
    *,
    weights: Sequence[float] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0),
    minutes: float = 3.0,
    num_steps: int = 200,
    num_samples: int = 256,
    seed: int = 0,
    dry_run: bool = False,
    output: Path = Path("runs/why-not-multiply"),
) -> None:
    """Measure how far each way of steering a prior ends from the distribution that it should reach.

    All distributions are Gaussian, so that what each composition samples is known exactly: a video is a mean that the last
    context frame and the actions shift, and independent noise. The prior has other means, twice the spread, and knows no
    actions. The expert is the target itself: nothing is left to learn, and what is wrong is the composition's alone.
    Guidance adds the expert's answer with actions less its answer without them, in which the mean over actions is right and
    how far they spread is not known. AVID sees the prior and clips of the target, never the target's formula; so does an
    expert that is trained as long, alone, and then multiplied with the prior.

    Args:
        weights: of the expert; 0 is the prior alone.
        minutes: of training for AVID, and for the expert that is trained.
        num_steps: sampling steps.
        num_samples: of what is trained, for each of eight contexts and sequences of actions.
        seed: of weights, clips and samples.
        dry_run: only say what the trainings will need in memory, time and disk.
        output: run folder; why_not_multiply.png and why_not_multiply.json in it are the result.
    """
    settings = {"minutes": minutes, "seed": seed}
    record_settings(output, "why-not-multiply", settings, dry_run=dry_run)
    target, prior = worlds()
    clips = TargetClips(target)
    avid, expert = (trained(build, prior, clips, minutes, seed, output, dry_run) for build in (AVID, FromScratch))
    if dry_run:
        return
    given = clips.batch(np.arange(8)).given
    compositions: dict[str, Callable[[float], Denoiser]] = {
        "product of experts": lambda weight: product_of_experts(prior, target, weight),
        "action guidance": lambda weight: action_guidance(prior, target, weight),
    }
    steps = sampling.pairs(target.schedule, num_steps)
    exact = partial(exact_divergence, target=target, given=given, steps=steps)
    sampled = partial(sampled_divergence, target=target, given=given, steps=steps, seed=seed, num=num_samples)
    ends = {name: [exact(compose(weight))[-1] for weight in weights] for name, compose in compositions.items()}
    by_samples = {"AVID, trained": sampled(avid), FLOOR: sampled(target)}
    products = {weight: sampled(product_of_experts(prior, expert, weight)) for weight in TRAINED_WEIGHTS}
    ends |= {name: [on_the_way[-1]] * len(weights) for name, on_the_way in by_samples.items()}
    best = {name: weights[int(np.argmin(ends[name]))] for name in compositions}
    inner = {name: min(inside(weights, ends[name]), default=float("nan")) for name in compositions}
    ways = {"prior alone": exact(prior)}
    ways |= {f"{name}, weight {at:g}": exact(compositions[name](at)) for name in compositions for at in (0.5, 0.8)}
    ways |= {f"product with a trained expert, weight {weight:g}": way for weight, way in products.items()} | by_samples
    noise = [part[-1][1].sigma for part in in_parts(steps)]
    found = {
        "settings": settings | {"weights": list(weights), "num_steps": num_steps, "num_samples": num_samples},
        "divergence": ends, "best weight": best, "noise": noise, "divergence on the way": ways,
    }  # fmt: skip
    write_whole(output / "why_not_multiply.json", json.dumps(found, indent=2) + "\n")
    at_ends = {weight: way[-1] for weight, way in products.items()}
    plot(weights, ends, at_ends, noise, ways, output / "why_not_multiply.png")
    console = Console()
    for what, places, rows in (("at weights", weights, ends), ("on the way, at noise", noise, ways)):
        console.print(
            f"divergence from the target, in nats a pixel, {what}".ljust(70),
            *(f"{place:7.2f}" for place in places),
            soft_wrap=True,
        )
        for name, values in rows.items():
            console.print(f"  {name:68}", *(f"{value:7.4f}" for value in values), soft_wrap=True)
    for name in compositions:
        console.print(f"{name}: least at weight {best[name]:g}; strictly between prior and expert {inner[name]:.4f}")
    console.print(f"picture in {output / 'why_not_multiply.png'}")


def trained(
    build: type[AVID | FromScratch],
    prior: GaussianPrior,
    clips: TargetClips,
    minutes: float,
    seed: int,
    output: Path,
    dry_run: bool,
) -> Denoiser:
    """A small network of this kind, trained for so long, or in a dry run not at all."""
    torch.manual_seed(seed)
    model = build(prior, num_actions=NUM_ACTIONS, widths=(32, 64), depths=(1, 1), patch=1)
    fit_or_forecast(
        dry_run,
        DenoisingLoss(model, prior.schedule, seed=seed),
        clips,
        Budget(seconds=60 * minutes),
        folder=output / build.__name__.lower(),
        title=build.__name__,
        lengths=(SHAPE[0],),
        seed=seed,
    )
    return model.eval()


def worlds() -> tuple[GaussianPrior, GaussianPrior]:
    """The target, which knows actions, and the prior, which has other means and twice the spread."""

    def draw(number: int, *shape: int) -> Tensor:
        return gaussian_noise(shape, seed=0, step=0, samples=[number], purpose="why not multiply")[0]

    mean, deviation = 0.3 * draw(0, *SHAPE), 0.1 + 0.2 * torch.sigmoid(draw(1, *SHAPE))
    shared: dict[str, Any] = {"context_weight": 0.5, "num_context": 1}
    effects = 0.3 * draw(2, NUM_ACTIONS, *SHAPE[1:])
    effects = effects - effects.mean(0)  # so that without actions the mean over them is believed
    target = GaussianPrior(mean, deviation, action_effect=effects, **shared)
    return target, GaussianPrior(mean + 0.3 * draw(3, *SHAPE), 2 * deviation, **shared)


@dataclass(frozen=True)
class TargetClips:
    """Clips drawn from the target, as many as one likes: clip i is the same every time."""

    target: GaussianPrior

    def draw(self, seed: int, step: int, num: int) -> np.ndarray:
        """The numbers of the clips of a training step."""
        return np.arange(step * num, (step + 1) * num) + 10**6 * (1 + seed)

    def batch(self, indices: np.ndarray, num_frames: int | None = None) -> Clip:
        """These clips, with their context and actions; always whole."""
        numbers = [int(number) for number in indices]
        context = 0.5 * gaussian_noise((1, *SHAPE[1:]), seed=1, step=0, samples=numbers)
        chance = gaussian_noise((SHAPE[0],), seed=2, step=0, samples=numbers)
        actions = (chance > 0.43).long() - (chance < -0.43).long() + 1  # a third each
        given = Conditioning(context=context, actions=actions)
        noise = gaussian_noise(SHAPE, seed=3, step=0, samples=numbers)
        return Clip(self.target.mean_given(given) + self.target.deviation * noise, given)


def in_parts(steps: Sequence[sampling.Step]) -> list[list[sampling.Step]]:
    """A sampler's steps in ten parts, after each of which is measured."""
    return [[steps[number] for number in part] for part in np.array_split(np.arange(len(steps)), PARTS)]


def exact_divergence(
    denoiser: Denoiser, target: GaussianPrior, given: Conditioning, steps: Sequence[sampling.Step]
) -> list[float]:
    """KL(target, samples) in nats a pixel after each part of the way, for a belief that is affine and sees pixels alone.

    Then so is the way of the deterministic sampler, and two starts tell which Gaussian it is at; it is compared with the
    target under as much noise.
    """
    batch, found = len(given.facts()["actions"]), []
    middle, beside = (torch.full((batch, *SHAPE), start) for start in (0.0, 1.0))
    for part in in_parts(steps):
        middle, beside = (sampling.dpm_solver_pp_2m(denoiser, some, given, pairs=part) for some in (middle, beside))
        found.append(gaussian_divergence(target, given, middle, (beside - middle).abs(), part[-1][1]))
    return found


def sampled_divergence(
    denoiser: Denoiser,
    target: GaussianPrior,
    given: Conditioning,
    steps: Sequence[sampling.Step],
    seed: int,
    num: int,
) -> list[float]:
    """The same for any denoiser, by the mean and the deviation of so many samples of each condition."""
    conditions = range(len(given.facts()["actions"]))
    each = [
        given.map(lambda value, number=number: value[number : number + 1].expand(num, *value.shape[1:]))  # type: ignore[misc]
        for number in conditions
    ]
    clips = [sampling.start_noise(SHAPE, seed, range(number * num, (number + 1) * num)) for number in conditions]
    found = []
    for part in in_parts(steps):
        clips = [
            sampling.dpm_solver_pp_2m(denoiser, some, one, pairs=part) for some, one in zip(clips, each, strict=True)
        ]
        mean, deviation = (torch.stack([getattr(some, moment)(0) for some in clips]) for moment in ("mean", "std"))
        found.append(gaussian_divergence(target, given, mean, deviation, part[-1][1]))
    return found


def gaussian_divergence(
    target: GaussianPrior, given: Conditioning, mean: Video, deviation: Video, level: sampling.Level
) -> float:
    """KL(target under noise, N(mean, deviation^2)) in nats a pixel, averaged over conditions."""
    noisy = ((level.alpha * target.deviation) ** 2 + level.sigma**2).sqrt()
    of_target = noisy / deviation
    distance = (level.alpha * target.mean_given(given) - mean) / deviation
    return (0.5 * (of_target**2 + distance**2 - 1) - of_target.log()).mean().item()


def inside(weights: Sequence[float], values: Sequence[float]) -> list[float]:
    """The values at weights that leave both the prior and the expert a say."""
    return [value for weight, value in zip(weights, values, strict=True) if 0 < weight < 1]


def plot(
    weights: Sequence[float],
    ends: Mapping[str, Sequence[float]],
    products: Mapping[float, float],
    noise: Sequence[float],
    ways: Mapping[str, Sequence[float]],
    path: Path,
) -> None:
    """Divergence of the samples against weight, as points with a trained expert; and on the way, against noise."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.scatter(
        list(products), list(products.values()), label="product with a trained expert", color="black", zorder=3
    )
    for axes, places, curves in ((left, weights, ends), (right, noise, ways)):
        for name, values in curves.items():
            style = {"color": "0.5", "linestyle": ":"} if name == FLOOR else {"marker": "o", "markersize": 3}
            axes.plot(places, values, label=name, **style)
        axes.set_yscale("log")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    left.set_xlabel("weight of the expert")
    left.set_title("divergence of the samples from the target, nats a pixel", loc="left", fontsize=10)
    right.set_xlabel("noise left (deviation; sampling goes to the right)")
    right.invert_xaxis()
    right.set_title("the same on the way, the target under as much noise", loc="left", fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
