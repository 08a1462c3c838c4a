"""Composition: voices that were trained apart, summed with weights when sampling; trains nothing, and knows no network.

Product of experts and action guidance, as AVID compares itself with them (arXiv 2410.12822), and probabilistic adaptation
with its inverse (arXiv 2504.15369, equations 2 and 3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.core.checks import check_level
from trimtab.core.contracts import BoundDenoiser, Denoiser, Prior
from trimtab.core.values import Conditioning, Fact, NoiseLevel, Prediction, Video, Weights, combine, stack


@dataclass(frozen=True)
class Voice:
    """A denoiser, the facts that it is not told, and a text (token, feature) that it is told in place of the given one."""

    denoiser: Denoiser
    untold: tuple[Fact, ...] = ()
    text: Float[Tensor, "token feature"] | None = None

    def told(self, given: Conditioning) -> Conditioning:
        """What of the given facts this voice hears. Raises ValueError if there is no text to put another one in place of."""
        known = given.without(*self.untold)
        if self.text is None:
            return known
        if given.text is None or given.text.shape[1:] != self.text.shape:
            shape = None if given.text is None else tuple(given.text.shape[1:])
            raise ValueError(
                f"a negative text of token states {tuple(self.text.shape)} takes the place of a text of as many, not "
                f"{shape}; encode both to the same length"
            )
        return replace(known.without("text"), text=self.text.to(given.text).expand_as(given.text))


class Composition:
    """A `Denoiser` whose belief is the weighted sum of its voices'.

    Several voices of one denoiser, told and untold, are asked in one batch; one whose weight is the number 0 is not asked.

    Args:
        voices: the answer is of the kind of the first that has a weight.
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
        apart = [voice.told(given) for voice in self.voices]

        @cache
        def asked(speaking: tuple[int, ...]) -> list[tuple[list[int], BoundDenoiser]]:
            of_denoiser: dict[int, list[int]] = {}
            for number in speaking:
                of_denoiser.setdefault(id(self.voices[number].denoiser), []).append(number)
            return [
                (numbers, self.voices[numbers[0]].denoiser.bind(stack([apart[number] for number in numbers])))
                for numbers in of_denoiser.values()
            ]

        def denoise(noisy: Video, level: NoiseLevel) -> Prediction:
            weights = self.weights(level)
            for weight in weights.values:
                if isinstance(weight, Tensor) and weight.ndim > 3 and weight.shape[-4] not in (1, noisy.shape[1]):
                    raise ValueError(f"weights of {weight.shape[-4]} frames do not fit a video of {noisy.shape[1]}")
            heavy = [n for n, weight in enumerate(weights.values) if isinstance(weight, Tensor) or weight]
            speaking = tuple(heavy or [0])
            beliefs: dict[int, Prediction] = {}
            for numbers, ask in asked(speaking):
                together = ask(*repeated(noisy, level, len(numbers)))
                for number, part in zip(numbers, together.tensor.chunk(len(numbers)), strict=True):
                    beliefs[number] = replace(together, tensor=part, noisy=noisy, level=level, departs_from=None)
            heard = Weights(tuple(weights.values[number] for number in speaking), weights.total)
            return combine([beliefs[number] for number in speaking], heard, normalise=self.normalise)

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

    Raises:
        ValueError: the weight is not finite, or there is no such level.
    """
    check_finite(weight)
    check_level("off_below", off_below, prior.schedule.num_levels)
    weights = partial(remainder, of=partial(weight_at, prior=prior, weight=weight, off_below=off_below, fades=fades))
    return Composition([Voice(prior, ("actions",)), Voice(expert)], weights)


def action_guidance(prior: Prior, expert: Denoiser, weight: float, *, off_below: int = 0) -> Composition:
    """The prior, moved by what knowing the actions changes in the expert's belief: prior + weight (told - untold).

    Args:
        prior: never told the actions.
        expert: trained apart with actions, of which a share was forgotten, so that it answers untold too.
        weight, off_below: as in `product_of_experts`.

    Raises:
        ValueError: as `product_of_experts`.
    """
    check_finite(weight)
    check_level("off_below", off_below, prior.schedule.num_levels)

    def weights(level: NoiseLevel) -> Weights:
        told = weight_at(level, prior=prior, weight=weight, off_below=off_below, fades=False)
        return Weights((1.0, told, -told), 1.0)

    return Composition([Voice(prior, ("actions",)), Voice(expert), Voice(expert, ("actions",))], weights)


def classifier_free_guidance(
    model: Denoiser,
    weight: float,
    untold: tuple[Fact, ...] = ("actions",),
    negative: Float[Tensor, "token feature"] | None = None,
) -> Composition:
    """One model's belief, moved beyond what it is when told: untold + weight (told - untold) (arXiv 2207.12598).

    Args:
        model: to ask twice, in one batch.
        weight: 0 is untold, 1 told.
        untold: what makes the difference.
        negative: token states of a text that is told in place of the given one, where it would else be untold.

    Raises:
        ValueError: the weight is not finite or below 0, or the model uses none of what makes the difference.
    """
    if not 0 <= weight < math.inf:
        raise ValueError(f"guidance is from 0, untold, over 1, told, on, and finite, got {weight}")
    if model.uses.isdisjoint(untold):
        raise ValueError(f"told and untold differ by {' and '.join(untold)}, which this model does not use")
    weights = partial(remainder, of=lambda level: weight)
    return Composition([Voice(model, untold, negative), Voice(model)], weights)


def probabilistic_adaptation(
    in_domain: Denoiser,
    prior: Prior,
    *,
    guidance: float,
    prior_strength: Strength,
    normalise: bool = False,
    conditioning_frames: int = 0,
    negative: Float[Tensor, "token feature"] | None = None,
) -> Composition:
    """A small in-domain model's guided belief, with a large prior's voice: untold + a (told + g prior - untold).

    The standard form of arXiv 2504.15369 (equation 2; Yang et al., arXiv 2306.01872). Its weights sum to 1 + a g: each
    noise level is a product of densities to these powers, not normalised, so it is not clamped, and refused where the
    schedule ends (nearly) in pure noise.

    Args:
        in_domain: told the text, and untold.
        prior: told the text.
        guidance: a, from 1 on; 2.5 in the paper.
        prior_strength: g, from 0 on; 0.1 in the paper. At 0 the in-domain model is alone. One for all frames, or one each.
        normalise: divide by 1 + a g, which works with every schedule.
        conditioning_frames: of a prior that denoises the frames that a clip goes on from along with what follows, how many
            these are, one in the paper's code: they are left to the prior's own guided belief, untold + a (told - untold).
            Such a composition answers for clips of `prior.num_frames` alone.
        negative: token states of a text that stands for the prior's "untold" there, as "bad quality" in the paper.

    Raises:
        ValueError: numbers out of range; a model without text; or a schedule whose last alpha is below `LEAST_ALPHA`.
    """
    composed = adaptation(in_domain, prior, prior, guidance, prior_strength, normalise)
    if conditioning_frames == 0:
        if negative is not None:
            raise ValueError("a negative text is for the prior's conditioning_frames, of which there are 0; pass none")
        return composed
    if not 0 < conditioning_frames < prior.num_frames:
        raise ValueError(f"conditioning_frames is 0 .. {prior.num_frames - 1}, got {conditioning_frames}")
    if (each := torch.as_tensor(prior_strength)).ndim and len(each) != prior.num_frames:
        raise ValueError(f"beside conditioning_frames strengths are {prior.num_frames}, one a frame, got {len(each)}")
    theirs = over_time(torch.arange(prior.num_frames) < conditioning_frames)

    def weights(level: NoiseLevel) -> Weights:
        own, first = composed.weights(level), theirs.to(level.alpha)
        untold, told, added = (weight * (1 - first) for weight in own.values)
        total = 1.0 if own.sum_to_one else own.total * (1 - first) + first
        return Weights((untold, told, added + guidance * first, (1 - guidance) * first), total)

    return Composition([*composed.voices, Voice(prior, ("text",), negative)], weights, normalise=normalise)


def inverse_probabilistic_adaptation(
    in_domain: Denoiser,
    prior: Prior,
    *,
    guidance: float,
    in_domain_strength: Strength,
    negative: Float[Tensor, "token feature"] | None = None,
    normalise: bool = False,
    off_above: int | None = None,
) -> Composition:
    """A large prior's guided belief, with a small in-domain model's voice: untold + a (told + g in_domain - untold).

    The inverse form of arXiv 2504.15369 (equation 3), which plans tasks that the in-domain model never saw.

    Args:
        in_domain: told the text.
        prior: told the text, and untold.
        guidance: a, from 1 on; 2.5 in the paper.
        in_domain_strength: g, from 0 on; 0.5 in the paper. At 0 the prior is alone. One for all frames, or one each: of a
            prior that denoises the frame that a clip goes on from along with what follows, that frame's is 0 in the paper's
            code.
        negative: token states of a text that stands for "untold", as "bad quality" in the paper; nothing by default.
        normalise: as in `probabilistic_adaptation`.
        off_above: level of the prior's schedule (of 0 .. num_levels - 1) above which the prior is alone: it then says where
            things go, and the in-domain model, which has seen fewer tasks, how they look. By default both speak at all, as
            in the paper.

    Raises:
        ValueError: as `probabilistic_adaptation`.
    """
    composed = adaptation(prior, in_domain, prior, guidance, in_domain_strength, normalise, negative)
    if off_above is None:
        return composed
    check_level("off_above", off_above, prior.schedule.num_levels)
    if not torch.as_tensor(in_domain_strength).any():
        return composed

    def weights(level: NoiseLevel) -> Weights:
        speaks = prior.schedule.index_of(level) <= off_above
        untold, told, added = composed.weights(level).values
        if not speaks.any():
            return Weights((untold, told, 0.0), 1.0)
        added = added * speaks.float().reshape(*speaks.shape, *(1,) * (5 - speaks.ndim))
        return Weights((untold, told, added), 1 + added)

    return Composition(composed.voices, weights, normalise=normalise)


Strength = float | Float[Tensor, " time"]
"""Of the voice that is added: for all frames, or for each of a video's."""

LEAST_ALPHA = 0.03
"""Of a schedule's noisiest level, for weights that do not sum to one: samples shrink by about alpha^(sum - 1) there."""

MOST_WEIGHT = 1000.0
"""At which what bfloat16 rounds off a belief, one part in 512, has become larger than the belief."""


def adaptation(
    guided: Denoiser,
    other: Denoiser,
    prior: Prior,
    guidance: float,
    strength: Strength,
    normalise: bool,
    negative: Tensor | None = None,
) -> Composition:
    """What both forms are: one model is guided, told against untold, and the other's told voice added."""
    strengths = torch.as_tensor(strength)
    if strengths.numel() == 0:
        raise ValueError("a strength is one for all frames or one for each, got none")
    if not 1 <= guidance <= MOST_WEIGHT:
        raise ValueError(
            f"guidance is 1, which is the told model alone, to {MOST_WEIGHT:g}, got {guidance}; the paper has 2.5"
        )
    if not ((strengths >= 0) & (strengths <= MOST_WEIGHT)).all() or strengths.ndim > 1:
        raise ValueError(
            f"a strength is 0, which leaves the second model out, to {MOST_WEIGHT:g}, one for all frames or (time,), one "
            f"for each, got {strength}; the paper has 0.1 and 0.5"
        )
    for name, model in (("guided", guided), ("other", other)):
        if "text" not in model.uses:
            raise ValueError(
                f"told and untold differ by the text, which the {name} model, {type(model).__name__}, does not hear; pass "
                "one that does"
            )
    last = prior.schedule.level(torch.tensor([prior.schedule.num_levels - 1])).alpha.item()
    most = strengths.max().item()
    if most and not normalise and last < LEAST_ALPHA:
        raise ValueError(
            f"weights that sum to {1 + guidance * most:.3g} need a schedule that ends at alpha >= {LEAST_ALPHA}, this "
            f"one ends at {last:.3g}; pass normalise=True"
        )
    frames = over_time(strengths) if strengths.ndim else strength

    def weights(level: NoiseLevel) -> Weights:
        added = guidance * (frames.to(level.alpha) if isinstance(frames, Tensor) else frames)
        return Weights((1 - guidance, guidance, added), 1 + added if most else 1.0)

    untold = Voice(guided, ("text",), negative)
    return Composition([untold, Voice(guided), Voice(other)], weights, normalise=normalise)


def over_time(each: Tensor) -> Tensor:
    """One number a frame, (time,), shaped to multiply a video."""
    return each[:, None, None, None]


def check_finite(weight: float) -> None:
    if not math.isfinite(weight):
        raise ValueError(f"a weight is a finite number, got {weight}")


def remainder(level: NoiseLevel, of: Callable[[NoiseLevel], float | Tensor]) -> Weights:
    return Weights.remainder(of(level))


def weight_at(level: NoiseLevel, *, prior: Prior, weight: float, off_below: int, fades: bool) -> float | Tensor:
    """An expert's weight at a noise level: a number where it is the same at all, else shaped to multiply a video."""
    if not off_below and not fades:
        return weight
    index = prior.schedule.index_of(level)
    share = (index >= off_below).float() * (index / (prior.schedule.num_levels - 1) if fades else 1.0)
    return (weight * share).reshape(*share.shape, *(1,) * (5 - share.ndim))
