"""The contracts that models, environments and rewards fulfil; knows no implementation of any of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from trimtab.core.values import Conditioning, Fact, Mixed, NoiseLevel, Prediction, Video

BoundDenoiser = Callable[[Video, NoiseLevel], Prediction]
"""What `Denoiser.bind` returns: the belief about a noisy video at a noise level."""

Ask = Callable[..., tuple[Prediction, Tensor | None]]
"""What `VideoModel.bind` returns: ``ask(noisy, level, prior=None)`` gives a belief, beside a prior's or alone, and the
logit of a mask, None without one."""


@runtime_checkable
class Denoiser(Protocol):
    """Anything that has a belief about a noisy video: priors, adapters and combinations of them."""

    @property
    def uses(self) -> frozenset[Fact]:
        """The facts that change the answer, no more and no fewer."""

    @property
    def space(self) -> str:
        """Fingerprint of the space that videos live in; two spaces cannot be combined."""

    def bind(self, given: Conditioning) -> BoundDenoiser:
        """Encode what is known once per clip. Raises ValueError if a fact has the wrong shape, dtype or range."""


@runtime_checkable
class Mixing(Denoiser, Protocol):
    """A denoiser that mixes a prior's belief with one of its own."""

    def believe(self, given: Conditioning) -> Callable[[Video, NoiseLevel], Mixed]:
        """As `bind`, with its own belief and the mask beside the mixture's."""


@runtime_checkable
class Codec(Protocol):
    """Frames to the space a prior diffuses in, and back. It answers on the device that it was asked on."""

    @property
    def space(self) -> str: ...

    @property
    def frames_per_latent(self) -> int:
        """How many frames one latent time step stands for (1 unless the codec compresses time)."""

    def encode(self, frames: Video) -> Video: ...

    def decode(self, latents: Video) -> Video: ...


@runtime_checkable
class NoiseSchedule(Protocol):
    """Noise levels from nearly clean to pure noise."""

    @property
    def name(self) -> str: ...

    @property
    def num_levels(self) -> int: ...

    @property
    def alphas(self) -> Tensor: ...

    @property
    def sigmas(self) -> Tensor: ...

    @property
    def may_be_pure(self) -> bool: ...

    def level(self, index: Tensor) -> NoiseLevel: ...

    def index_of(self, level: NoiseLevel) -> Tensor: ...

    def native(self, noisy: Video, level: NoiseLevel) -> tuple[Video, NoiseLevel, Tensor]: ...


@runtime_checkable
class ClipSpace(Protocol):
    """What clips a model diffuses, and how: whatever is trained beside a prior shares the prior's."""

    @property
    def schedule(self) -> NoiseSchedule: ...

    @property
    def num_context(self) -> int:
        """Frames that it is shown before the clip."""

    @property
    def num_frames(self) -> int:
        """Frames of the longest clip that it predicts."""

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """(channel, height, width) of a frame in its space."""


@runtime_checkable
class Prior(Denoiser, ClipSpace, Protocol):
    """A frozen video model and what one must know to use it."""

    @property
    def codec(self) -> Codec: ...

    @property
    def frame_rate(self) -> float:
        """Frames a second."""

    @property
    def fingerprint(self) -> str:
        """Hash of the weights, by which an adapter recognises its prior."""


@runtime_checkable
class EncodesText(Protocol):
    """A prior that is told in words, and brings what makes token states of them."""

    def encode_text(self, sentences: Sequence[str]) -> Tensor:
        """(sentence, token, feature) floats, what `Conditioning.text` is of, on any device; all of one number of tokens."""


@runtime_checkable
class OpenPrior(Prior, Protocol):
    """A prior whose weights are within reach. Methods that change them, or add to its features, take no other."""

    @property
    def network(self) -> VideoModel:
        """What answers for it; its ``ask`` takes ``control``, too: what to add to its features, coarser and coarser."""

    @property
    def channels(self) -> tuple[int, ...]:
        """Of its features."""

    @property
    def temporal(self) -> tuple[str, ...]:
        """Names of the modules of its network, and of copies of it, that mix frames. All others see frames one by one."""

    def told_actions(self, *, num_actions: int | None = None, action_dim: int | None = None) -> VideoModel:
        """A trainable copy of its model that is told actions, too, if any; at first they change nothing. An nn.Module."""

    def controller(self, *, num_actions: int | None = None, action_dim: int | None = None, **sizes: Any) -> Controller:
        """The half of its model that looks, told actions; without sizes a trainable copy, else untrained and of those sizes.

        An nn.Module.
        """


@runtime_checkable
class Controller(Protocol):
    """The half of a model that looks: from a noisy clip to features, coarser and coarser."""

    @property
    def sizes(self) -> Mapping[str, Any]:
        """The options that rebuild it; plain values."""

    @property
    def channels(self) -> tuple[int, ...]:
        """Of each of its features."""

    def bind(self, given: Conditioning) -> Callable[[Video, NoiseLevel], list[Tensor]]: ...


@runtime_checkable
class VideoModel(Protocol):
    """What priors, adapters and baselines are made of: a network, how it is asked about a noisy clip, how it answers."""

    @property
    def sizes(self) -> Mapping[str, Any]:
        """The options that rebuild it, beyond those that every model takes; plain values."""

    def bind(self, given: Conditioning) -> Ask: ...


@runtime_checkable
class Policy(Protocol):
    """Something that acts."""

    def reset(self) -> None: ...

    def act(self, observation: np.ndarray) -> np.ndarray: ...
