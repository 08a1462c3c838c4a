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
from rich import print
from torch import Tensor

from trimtab.adapters.avid import AVID
from trimtab.adapters.composition import action_guidance, product_of_experts
from trimtab.core.contracts import Denoiser
from trimtab.core.files import write_whole
from trimtab.core.values import Clip, Conditioning, Video
from trimtab.diffusion import sampling
from trimtab.diffusion.losses import DenoisingLoss
from trimtab.diffusion.noise import gaussian_noise
from trimtab.priors.gaussian import GaussianPrior
from trimtab.training import Budget, fit, record_settings

SHAPE = (3, 1, 8, 8)
"""Frames, channels, height and width of a clip."""
NUM_ACTIONS = 3


def why_not_multiply(
    *,
    weights: Sequence[float] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0),
    levels: Sequence[int] = (0, 50, 100, 200, 300, 400, 500, 600, 700, 800, 900, 999),
    minutes: float = 3.0,
    num_steps: int = 200,
    num_samples: int = 256,
    seed: int = 0,
    output: Path = Path("runs/why-not-multiply"),
) -> None:
    """Measure how far each way of steering a prior ends from the distribution that it should reach.

    All distributions are Gaussian, so that what each composition samples is known exactly: a video is a mean that the last
    context frame and the actions shift, and independent noise. The prior has other means, twice the spread, and knows no
    actions. The expert is the target itself: nothing is left to learn, and what is wrong is the composition's alone. AVID
    sees the prior and clips of the target, never the target's formula.

    Args:
        weights: of the expert; 0 is the prior alone.
        levels: of noise, of 0 to 999, at which beliefs are compared.
        minutes: of training for AVID.
        num_steps: sampling steps.
        num_samples: of AVID for each of eight contexts and sequences of actions.
        seed: of AVID's weights, clips and samples.
        output: run folder; why_not_multiply.png and why_not_multiply.json in it are the result.
    """
    settings = {"minutes": minutes, "seed": seed}
    record_settings(output, "why-not-multiply", settings)
    target, prior = worlds()
    clips = TargetClips(target)
    torch.manual_seed(seed)
    avid = AVID(prior, num_actions=NUM_ACTIONS, widths=(32, 64), depths=(1, 1), patch=1)
    fit(
        DenoisingLoss(avid, prior.schedule, seed=seed),
        clips,
        Budget(seconds=60 * minutes),
        folder=output / "avid",
        title="AVID",
        lengths=(SHAPE[0],),
        seed=seed,
    )
    avid.eval()
    given = clips.batch(np.arange(8)).given
    compositions: dict[str, Callable[[float], Denoiser]] = {
        "product of experts": lambda weight: product_of_experts(prior, target, weight),
        "action guidance": lambda weight: action_guidance(prior, target, weight),
    }
    ends = {
        name: [exact_divergence(compose(weight), target, given, num_steps) for weight in weights]
        for name, compose in compositions.items()
    }
    floor = sampled_divergence(target, target, given, num_steps, seed, num_samples)
    ends["AVID, trained"] = [sampled_divergence(avid, target, given, num_steps, seed, num_samples)] * len(weights)
    best = {name: weights[int(np.argmin(values))] for name, values in ends.items() if name in compositions}
    inner = {name: min(inside(weights, ends[name]), default=float("nan")) for name in compositions}
    asked: dict[str, Denoiser] = {"prior alone": prior, "AVID, trained": avid}
    asked |= {
        f"{name}, weight {weight:g}": compositions[name](weight) for name in compositions for weight in (0.5, 0.8)
    }
    errors = {name: [error_at(denoiser, target, clips, level) for level in levels] for name, denoiser in asked.items()}
    found = {
        "settings": settings | {"weights": list(weights), "levels": list(levels), "num_steps": num_steps},
        "divergence": ends, "floor of sampling": floor, "best weight": best, "error of the belief": errors,
    }  # fmt: skip
    write_whole(output / "why_not_multiply.json", json.dumps(found, indent=2) + "\n")
    plot(weights, ends, floor, levels, errors, output / "why_not_multiply.png")
    print("divergence from the target, in nats a pixel, at weights", *(f"{weight:7.1f}" for weight in weights))
    for name, values in ends.items():
        print(f"  {name:40}", *(f"{value:7.4f}" for value in values))
    print(f"  {'the target itself, by as many samples':40} {floor:7.4f}")
    for name in compositions:
        print(f"{name}: least at weight {best[name]:g}; strictly between prior and expert {inner[name]:.4f}")
    print(f"picture in {output / 'why_not_multiply.png'}")


def worlds() -> tuple[GaussianPrior, GaussianPrior]:
    """The target, which knows actions, and the prior, which has other means and twice the spread."""

    def draw(number: int, *shape: int) -> Tensor:
        return gaussian_noise(shape, seed=0, step=0, samples=[number], purpose="why not multiply")[0]

    mean, deviation = 0.3 * draw(0, *SHAPE), 0.1 + 0.2 * torch.sigmoid(draw(1, *SHAPE))
    shared: dict[str, Any] = {"context_weight": 0.5, "num_context": 1}
    target = GaussianPrior(mean, deviation, action_effect=0.3 * draw(2, NUM_ACTIONS, *SHAPE[1:]), **shared)
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


def exact_divergence(denoiser: Denoiser, target: GaussianPrior, given: Conditioning, num_steps: int) -> float:
    """KL(target, samples) in nats a pixel, of a denoiser whose belief is affine and looks at each pixel alone.

    Then so is the way of the deterministic sampler, and two starts tell which Gaussian it ends in.
    """
    batch = len(given.facts()["actions"])
    sample = partial(sampling.dpm_solver_pp_2m, pairs=sampling.pairs(target.schedule, num_steps))
    with torch.no_grad():
        middle, beside = (sample(denoiser, torch.full((batch, *SHAPE), start), given) for start in (0.0, 1.0))
    return gaussian_divergence(target, given, middle, (beside - middle).abs())


def sampled_divergence(
    denoiser: Denoiser, target: GaussianPrior, given: Conditioning, num_steps: int, seed: int, num: int
) -> float:
    """The same for any denoiser, by the mean and the deviation of so many samples of each condition."""
    sample = partial(sampling.dpm_solver_pp_2m, pairs=sampling.pairs(target.schedule, num_steps))
    means, deviations = [], []
    for number in range(len(given.facts()["actions"])):
        one = given.map(lambda value, number=number: value[number : number + 1].expand(num, *value.shape[1:]))  # type: ignore[misc]
        with torch.no_grad():
            samples = sample(denoiser, sampling.start_noise(SHAPE, seed, range(number * num, (number + 1) * num)), one)
        means.append(samples.mean(0))
        deviations.append(samples.std(0))
    return gaussian_divergence(target, given, torch.stack(means), torch.stack(deviations))


def gaussian_divergence(target: GaussianPrior, given: Conditioning, mean: Video, deviation: Video) -> float:
    """KL(target, N(mean, deviation^2)) in nats a pixel, averaged over conditions."""
    of_target = target.deviation / deviation
    distance = (target.mean_given(given) - mean) / deviation
    return (0.5 * (of_target**2 + distance**2 - 1) - of_target.log()).mean().item()


def error_at(denoiser: Denoiser, target: GaussianPrior, clips: TargetClips, level: int, num: int = 256) -> float:
    """The root mean square error of the believed clean video at a level, over noisy clips of the target."""
    clip = clips.batch(np.arange(num))
    at = target.schedule.level(torch.full((num,), level))
    noisy = at.add_noise(clip.video, gaussian_noise(SHAPE, seed=4, step=0, samples=range(num)))
    with torch.no_grad():
        found, right = (some.bind(clip.given)(noisy, at).clean for some in (denoiser, target))
    return (found - right).square().mean().sqrt().item()


def inside(weights: Sequence[float], values: Sequence[float]) -> list[float]:
    """The values at weights that leave both the prior and the expert a say."""
    return [value for weight, value in zip(weights, values, strict=True) if 0 < weight < 1]


def plot(
    weights: Sequence[float],
    ends: Mapping[str, Sequence[float]],
    floor: float,
    levels: Sequence[int],
    errors: Mapping[str, Sequence[float]],
    path: Path,
) -> None:
    """Divergence of the samples against weight; error of the belief against noise."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, values in ends.items():
        left.plot(weights, values, marker=None if name.startswith("AVID") else "o", label=name)
    left.axhline(floor, color="0.5", linestyle=":", label="the target itself, by as many samples")
    left.set_xlabel("weight of the expert")
    left.set_title("divergence of the samples from the target, nats a pixel", loc="left", fontsize=10)
    for name, values in errors.items():
        right.plot(levels, values, marker="o", markersize=3, label=name)
    right.set_xlabel("noise level (0 clean, 999 noise)")
    right.set_title("error of the believed clean video, root mean square", loc="left", fontsize=10)
    for axes in (left, right):
        axes.set_yscale("log")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
