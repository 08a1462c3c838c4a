"""Priors that users might bring: of latents, hearing texts by an encoder of their own, weights within reach or not."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tiny import tabletop
from trimtab.core.contracts import BoundDenoiser
from trimtab.core.values import Conditioning, Video
from trimtab.priors.pixel_unet import PixelUNet

NUM_BITS = 5


class Unshuffled:
    """A lossless codec: squares of pixels as channels, half as bright."""

    space = "squares of two pixels, halved"
    frames_per_latent = 1

    def encode(self, frames: Video) -> Video:
        return functional.pixel_unshuffle(frames.flatten(0, 1) / 2, 2).unflatten(0, frames.shape[:2])

    def decode(self, latents: Video) -> Video:
        return functional.pixel_shuffle(latents.flatten(0, 1) * 2, 2).unflatten(0, latents.shape[:2])


class Doubling(Unshuffled):
    """Two frames a latent, as it says."""

    frames_per_latent = 2


class Halving(Unshuffled):
    """Decodes to frames of half the size."""

    def decode(self, latents: Video) -> Video:
        return super().decode(latents)[..., ::2, ::2]


def of_latents(height: int, width: int, sizes: dict[str, Any] | None = None, **settings: Any) -> PixelUNet:
    """An open prior of frames of this height and width as latents."""
    shape = (12, height // 2, width // 2)
    made = tabletop.prior({**tabletop.SIZES, "patch": 4, **(sizes or {})}, frame_shape=shape, **settings)
    made.codec = Unshuffled()  # type: ignore[assignment]
    made.space = made.codec.space
    return made


class Closed:
    """What a large model may look like from outside: it answers, and its weights are out of reach. No module, either."""

    def __init__(self, inner: PixelUNet) -> None:
        self._inner, self.codec, self.space, self.uses = inner, inner.codec, inner.space, inner.uses
        self.schedule, self.num_context, self.num_frames = inner.schedule, inner.num_context, inner.num_frames
        self.frame_shape, self.frame_rate, self.fingerprint = inner.frame_shape, inner.frame_rate, inner.fingerprint

    def bind(self, given: Conditioning) -> BoundDenoiser:
        return self._inner.bind(given)

    def encode_text(self, sentences: Sequence[str]) -> Tensor:
        """The first letters of a sentence, a token each, as bits; by weights that one may think are to be trained."""
        codes = torch.tensor([[ord(letter) for letter in sentence[:7].ljust(7)] for sentence in sentences])
        return ((codes[..., None] >> torch.arange(NUM_BITS)) & 1).float() * torch.ones(NUM_BITS, requires_grad=True)


def closed() -> Closed:
    """Of one frame of 64 x 64 given, and eight predicted."""
    return Closed(of_latents(64, 64, {"text_dim": NUM_BITS}))


def deaf() -> Closed:
    """The same, but it hears no texts."""
    return Closed(of_latents(64, 64, {"text_dim": None}, schedule="linear, zero terminal SNR"))


def trainable() -> PixelUNet:
    """As it was trained: in train mode, with gradients."""
    return of_latents(64, 64).train().requires_grad_(True)
