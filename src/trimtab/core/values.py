"""The values that flow through the library and the one formula that composes them; knows no network, file or robot.

Everything starts from ``noisy = alpha * clean + sigma * noise``. A `Prediction` is a belief about the parts of that
sum; `combine` is the weighted sum of such beliefs that every composition method reduces to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

Video = Float[Tensor, "batch time channel height width"]
"""Frames in [-1, 1], or latents."""

Kind = Literal["noise", "clean", "velocity", "flow"]
"""What a network predicts: noise e, clean x, velocity ``alpha * e - sigma * x``, or flow ``e - x``."""

Fact = Literal["context", "actions", "state", "text"]
FACTS: tuple[Fact, ...] = get_args(Fact)


@dataclass(frozen=True)
class Conditioning:
    """What is known besides the noisy video. A fact that is None is unknown for the whole batch.

    Attributes:
        context: clean frames already observed, (batch, num_context, channel, height, width), in [-1, 1] or latents.
        actions: (batch, step) integer indices or (batch, step, dim) floats. Counting the last context frame as frame 0,
            action k leads from frame k to frame k + 1, so action k causes the k-th predicted frame.
        state: proprioception, (batch, dim).
        text: token states, (batch, token, feature).
        known: for a fact known for part of the batch only, a (batch,) mask of the samples that know it.
    """

    context: Video | None = None
    actions: Num[Tensor, "batch step ..."] | None = None
    state: Float[Tensor, "batch dim"] | None = None
    text: Float[Tensor, "batch token feature"] | None = None
    known: Mapping[Fact, Bool[Tensor, " batch"]] = field(default_factory=lambda: MappingProxyType({}))

    def facts(self) -> dict[Fact, Tensor]:
        """The facts that at least part of the batch knows."""
        return {name: value for name in FACTS if (value := getattr(self, name)) is not None}

    def without(self, *names: Fact) -> Conditioning:
        """The same knowledge with these facts forgotten by the whole batch."""
        kept = {name: mask for name, mask in self.known.items() if name not in names}
        return replace(self, **dict.fromkeys(names), known=kept)

    def forget(self, name: Fact, samples: Bool[Tensor, " batch"]) -> Conditioning:
        """The same knowledge with one fact forgotten by the samples where the mask is true."""
        if getattr(self, name) is None:
            return self
        return replace(self, known={**self.known, name: self.is_known(name) & ~samples})

    def is_known(self, name: Fact) -> Bool[Tensor, " batch"]:
        """Which samples of the batch know a fact that is not None."""
        if name in self.known:
            return self.known[name]
        value = self.facts()[name]
        return torch.ones(len(value), dtype=torch.bool, device=value.device)

    def map(self, change: Callable[[Tensor], Tensor]) -> Conditioning:
        """Apply one function to every tensor, the masks included (to move, slice or repeat a batch)."""
        facts = {name: change(value) for name, value in self.facts().items()}
        return Conditioning(**facts, known={name: change(mask) for name, mask in self.known.items()})


def stack(several: Sequence[Conditioning]) -> Conditioning:
    """Join conditionings along the batch; a fact that only some of them know is masked out for the others.

    Told and untold passes of one network run as one batch this way. Raises ValueError if shapes differ.
    """
    facts: dict[str, Tensor] = {}
    known: dict[Fact, Tensor] = {}
    for name in FACTS:
        example = next((getattr(given, name) for given in several if getattr(given, name) is not None), None)
        if example is None:
            continue
        parts, masks = [], []
        for given in several:
            value = getattr(given, name)
            if value is not None and value.shape[1:] != example.shape[1:]:
                raise ValueError(f"cannot stack {name} of shapes {tuple(example.shape)} and {tuple(value.shape)}")
            batch = next((len(fact) for fact in given.facts().values()), len(example))
            parts.append(example.new_zeros(batch, *example.shape[1:]) if value is None else value)
            masks.append(example.new_zeros(batch, dtype=torch.bool) if value is None else given.is_known(name))
        facts[name] = torch.cat(parts)
        if any(name in given.known or getattr(given, name) is None for given in several):
            known[name] = torch.cat(masks)
    return Conditioning(**facts, known=known)


@dataclass(frozen=True)
class Clip:
    """One batch of training data: the frames to predict, and what is known about them."""

    video: Video
    given: Conditioning

    def to(self, device: torch.device | str) -> Clip:
        return Clip(self.video.to(device), self.given.map(lambda value: value.to(device)))


@dataclass(frozen=True)
class NoiseLevel:
    """How noisy a video is: the pair (alpha, sigma), one per video, (batch,), or one per frame, (batch, time).

    `may_be_pure` says, without a look at the tensors, whether alpha can be zero (zero-terminal-SNR and flow
    schedules).
    """

    alpha: Float[Tensor, "batch *time"]
    sigma: Float[Tensor, "batch *time"]
    may_be_pure: bool = False

    @property
    def angle(self) -> Tensor:
        """atan2(sigma, alpha), 0 for clean and pi / 2 for pure noise: a coordinate for look-up, never for arithmetic."""
        return torch.atan2(self.sigma, self.alpha)

    def broadcast(self) -> tuple[Tensor, Tensor]:
        """Alpha and sigma shaped to multiply a video."""
        shape = self.alpha.shape + (1,) * (5 - self.alpha.ndim)
        return self.alpha.reshape(shape), self.sigma.reshape(shape)

    def add_noise(self, clean: Video, noise: Video) -> Video:
        alpha, sigma = self.broadcast()
        return (alpha * clean + sigma * noise).to(clean.dtype)


@dataclass(frozen=True)
class Prediction:
    """A denoiser's belief about a noisy video; keeps the tensor as given, converts in float32 when read.

    `weights_sum_to_one` is False for a combination that is not a mixture of beliefs about one density; a clamp of
    such a
    prediction's clean video would destroy the composition, so samplers refuse it.

    `departs_from` is the clean video that the belief starts from, put together from context frames, if the denoiser tells
    it.
    """

    tensor: Video
    kind: Kind
    noisy: Video
    level: NoiseLevel
    weights_sum_to_one: bool = True
    departs_from: Video | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"a prediction's kind is one of {get_args(Kind)}, not {self.kind!r}")
        if self.tensor.shape != self.noisy.shape:
            raise ValueError(
                f"a prediction has the noisy video's shape {tuple(self.noisy.shape)}, not {tuple(self.tensor.shape)}"
            )

    def like(self, tensor: Video) -> Prediction:
        """Another belief about the same noisy video, of the same kind."""
        return replace(self, tensor=tensor, departs_from=None)

    @property
    def clean(self) -> Video:
        """The clean video; infinite where a noise prediction is read at alpha = 0, which carries no information."""
        alpha, sigma = self.level.broadcast()
        tensor, noisy = self.tensor.float(), self.noisy.float()
        if self.kind == "clean":
            return tensor
        if self.kind == "noise":
            return (noisy - sigma * tensor) / alpha
        if self.kind == "velocity":
            return (alpha * noisy - sigma * tensor) / (alpha**2 + sigma**2)
        return (noisy - sigma * tensor) / (alpha + sigma)

    @property
    def noise(self) -> Video:
        """The noise; infinite where a clean prediction is read at sigma = 0."""
        alpha, sigma = self.level.broadcast()
        tensor, noisy = self.tensor.float(), self.noisy.float()
        if self.kind == "noise":
            return tensor
        if self.kind == "clean":
            return (noisy - alpha * tensor) / sigma
        if self.kind == "velocity":
            return (sigma * noisy + alpha * tensor) / (alpha**2 + sigma**2)
        return (noisy + alpha * tensor) / (alpha + sigma)

    @property
    def velocity(self) -> Video:
        alpha, sigma = self.level.broadcast()
        return self.tensor.float() if self.kind == "velocity" else alpha * self.noise - sigma * self.clean

    @property
    def flow(self) -> Video:
        return self.tensor.float() if self.kind == "flow" else self.noise - self.clean

    def as_kind(self, kind: Kind) -> Prediction:
        """The same belief, held as another kind."""
        return self if kind == self.kind else replace(self, tensor=getattr(self, kind), kind=kind)

    def seen_at(self, noisy: Video, level: NoiseLevel) -> Prediction:
        """The same belief about `noisy`, a rescaled copy of this noisy video that is just as noisy (another schedule)."""
        if self.kind == "velocity":
            theirs, ours = torch.hypot(*level.broadcast()), torch.hypot(*self.level.broadcast())
            return replace(self, tensor=self.tensor.float() * (theirs / ours), noisy=noisy, level=level)
        return replace(self, noisy=noisy, level=level)


class Mixed(NamedTuple):
    """What a mixture of a prior and an adapter believes.

    Attributes:
        belief: the mixture's.
        own: the adapter's, alone; the mixture's, where what the adapter says is added and there is no mask.
        mask: the trust in the prior, in (0, 1); None without one.
    """

    belief: Prediction
    own: Prediction
    mask: Float[Tensor, "batch time 1 height width"] | None


Weight = float | int | Tensor
"""A number, or a tensor that broadcasts against a video (batch, time, channel, height, width)."""


@dataclass(frozen=True)
class Weights:
    """The weights of the voices of a combination, with their sum known from the formula rather than from tensors."""

    values: tuple[Weight, ...]
    total: Weight

    @classmethod
    def remainder(cls, *others: Weight) -> Weights:
        """Weights of a mixture: the first voice gets ``1 - sum(others)``, so the sum is one by construction."""
        return cls((1.0 - sum(others), *others), 1.0)

    @classmethod
    def of(cls, *values: Weight) -> Weights:
        """Weights as given; their sum is one only if they are numbers that add up to one."""
        total = sum(values)
        return cls(values, 1.0 if isinstance(total, float | int) and abs(total - 1) < 1e-6 else total)

    @property
    def sum_to_one(self) -> bool:
        return isinstance(self.total, float) and self.total == 1.0

    def normalised(self) -> Weights:
        """The same proportions, summing to one (raises ZeroDivisionError if the numbers sum to zero)."""
        return Weights(tuple(value / self.total for value in self.values), 1.0)


def combine(voices: Sequence[Prediction], weights: Weights, *, normalise: bool = False) -> Prediction:
    """The weighted sum of predicted noises, answered in the kind of the first voice (docs/concepts.md, "One formula").

    With W the sum of the weights the clean video is ``sum(w_i * clean_i) + (1 - W) * noisy / alpha``; voices of one
    kind
    are summed in that kind. If W is one by construction the second term is absent and the answer is finite on pure
    noise.

    Args:
        voices: predictions about the same noisy video.
        weights: one weight a voice.
        normalise: divide the weights by their sum first, the form that works on every schedule.

    Raises:
        ValueError: counts differ; or W is not one and the schedule reaches alpha = 0, where the product is undefined.
    """
    if not voices or len(voices) != len(weights.values):
        raise ValueError(f"combine needs one weight a voice, got {len(voices)} voices, {len(weights.values)} weights")
    if normalise and not weights.sum_to_one:
        weights = weights.normalised()
    first = voices[0]
    if not weights.sum_to_one and first.level.may_be_pure:
        raise ValueError(
            f"weights that sum to {describe(weights.total)} need alpha > 0 at every level, and this schedule ends in pure "
            "noise (zero-terminal-SNR or flow); pass normalise=True, or a prior with another schedule"
        )
    kind = first.kind
    if any(voice.kind != kind for voice in voices) and any(voice.kind == "noise" for voice in voices):
        kind = "noise"  # the one kind that the others convert to without a division by alpha
    terms = [weight * voice.as_kind(kind).tensor for weight, voice in zip(weights.values, voices, strict=True)]
    result = sum(terms[1:], terms[0])
    if not weights.sum_to_one:
        alpha, sigma = first.level.broadcast()
        excess = (1 - weights.total) * first.noisy / alpha
        share: dict[Kind, Weight] = {"noise": 0.0, "clean": 1.0, "velocity": -sigma, "flow": -1.0}
        result = result + share[kind] * excess
    sum_to_one = weights.sum_to_one and all(voice.weights_sum_to_one for voice in voices)
    belief = replace(first, tensor=result, kind=kind, weights_sum_to_one=sum_to_one, departs_from=None)
    return belief if kind == first.kind else belief.as_kind(first.kind)


def describe(weight: Weight) -> str:
    """A weight in an error message."""
    return f"{weight:.4g}" if isinstance(weight, float | int) else f"a tensor of shape {tuple(weight.shape)}"
