"""Composition: voices that were trained apart, summed with weights when sampling; trains nothing, and knows no network.

Product of experts and action guidance, as AVID compares itself with them (arXiv 2410.12822; methods 2.2 and 2.3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from trimtab.core.contracts import BoundDenoiser, Denoiser, Prior
from trimtab.core.values import Conditioning, Fact, NoiseLevel, Prediction, Video, Weights, combine, stack


@dataclass(frozen=True)
class Voice:
    """A denoiser, and the facts that it is not told."""

    denoiser: Denoiser
    untold: tuple[Fact, ...] = ()


class Composition:
    """A `Denoiser` whose belief is the weighted sum of its voices'.

    Several voices of one denoiser, told and untold, are asked in one batch.

    Args:
        voices: the answer is of the first one's kind.
        weights: of the voices, at a noise level.
        normalise: divide the weights by their sum.

    Raises:
        ValueError: the voices live in different spaces.
    """

    def __init__(
        self, voices: Sequence[Voice], weights: Callable[[NoiseLevel], Weights], *, normalise: bool = False
    ) -> None:
        spaces = {voice.denoiser.space for voice in voices}
        if len(spaces) != 1:
            raise ValueError(f"voices of one space can be combined, these live in {len(spaces)}: {sorted(spaces)}")
        self.voices, self.weights, self.normalise = tuple(voices), weights, normalise
        (self.space,) = spaces

    @property
    def uses(self) -> frozenset[Fact]:
        return frozenset().union(*(voice.denoiser.uses - set(voice.untold) for voice in self.voices))

    def bind(self, given: Conditioning) -> BoundDenoiser:
        apart = [given.without(*voice.untold) for voice in self.voices]
        of_denoiser: dict[int, list[int]] = {}
        for number, voice in enumerate(self.voices):
            of_denoiser.setdefault(id(voice.denoiser), []).append(number)
        asked = [
            (numbers, self.voices[numbers[0]].denoiser.bind(stack([apart[number] for number in numbers])))
            for numbers in of_denoiser.values()
        ]

        def denoise(noisy: Video, level: NoiseLevel) -> Prediction:
            beliefs: dict[int, Prediction] = {}
            for numbers, ask in asked:
                together = ask(*repeated(noisy, level, len(numbers)))
                for number, part in zip(numbers, together.tensor.chunk(len(numbers)), strict=True):
                    beliefs[number] = replace(together, tensor=part, noisy=noisy, level=level)
            voices = [beliefs[number] for number in range(len(self.voices))]
            return combine(voices, self.weights(level), normalise=self.normalise)

        return denoise


def repeated(noisy: Tensor, level: NoiseLevel, times: int) -> tuple[Tensor, NoiseLevel]:
    """The same question several times, along the batch."""
    if times == 1:
        return noisy, level
    alpha, sigma = (torch.cat([part] * times) for part in (level.alpha, level.sigma))
    return torch.cat([noisy] * times), NoiseLevel(alpha, sigma, level.may_be_pure)


def product_of_experts(
    prior: Prior, expert: Denoiser, weight: float, *, off_below: int = 0, fades: bool = False
) -> Composition:
    """The prior's density to the power 1 - weight times the expert's to the power weight, noise level by noise level.

    Args:
        prior: never told the actions.
        expert: trained apart, with actions.
        weight: of the expert.
        off_below: levels of the prior's schedule (of 0 .. num_levels - 1) below which the prior is alone.
        fades: whether the weight falls linearly with the level, from its value at the highest to zero at the lowest.
    """
    weights = partial(remainder, of=partial(weight_at, prior=prior, weight=weight, off_below=off_below, fades=fades))
    return Composition([Voice(prior, ("actions",)), Voice(expert)], weights)


def action_guidance(prior: Prior, expert: Denoiser, weight: float, *, off_below: int = 0) -> Composition:
    """The prior, moved by what knowing the actions changes in the expert's belief: prior + weight (told - untold).

    Args:
        prior: never told the actions.
        expert: trained apart with actions, of which a share was forgotten, so that it answers untold too.
        weight, off_below: as in `product_of_experts`.
    """

    def weights(level: NoiseLevel) -> Weights:
        told = weight_at(level, prior=prior, weight=weight, off_below=off_below, fades=False)
        return Weights((1.0, told, -told), 1.0)

    return Composition([Voice(prior, ("actions",)), Voice(expert), Voice(expert, ("actions",))], weights)


def classifier_free_guidance(model: Denoiser, weight: float, untold: tuple[Fact, ...] = ("actions",)) -> Composition:
    """One model's belief, moved beyond what it is when told: untold + weight (told - untold) (arXiv 2207.12598)."""
    weights = partial(remainder, of=lambda level: weight)
    return Composition([Voice(model, untold), Voice(model)], weights)


def remainder(level: NoiseLevel, of: Callable[[NoiseLevel], float | Tensor]) -> Weights:
    return Weights.remainder(of(level))


def weight_at(level: NoiseLevel, *, prior: Prior, weight: float, off_below: int, fades: bool) -> float | Tensor:
    """An expert's weight at a noise level: a number where it is the same at all, else shaped to multiply a video."""
    if not off_below and not fades:
        return weight
    index = prior.schedule.index_of(level)
    share = (index >= off_below).float() * (index / (prior.schedule.num_levels - 1) if fades else 1.0)
    return (weight * share).reshape(*share.shape, *(1,) * (5 - share.ndim))
