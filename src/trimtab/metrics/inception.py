"""The InceptionV3 that FID and KID are defined by (Szegedy et al. 2015, the TensorFlow graph of 2015-12-05)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from trimtab.core.values import Video
from trimtab.metrics.convolutions import FrozenConvolutions, fold
from trimtab.metrics.frames import Images, check_videos
from trimtab.metrics.weights import INCEPTION, read_script

Resize = Literal["tensorflow 1", "half pixel"]

PROTOCOLS: dict[Resize, str] = {
    "tensorflow 1": "InceptionV3 of 2015-12-05, eval mode, float frames, TensorFlow 1 bilinear to 299, (x - 128) / 128",
    "half pixel": "InceptionV3 of 2015-12-05, eval mode, float frames, half pixel bilinear to 299, x / 127.5 - 1",
}
"""How a frame becomes features, in one line."""

_SIZE, _CHUNK = 299, 32
_PREFIX = "net/layers/"


class Inception(FrozenConvolutions):
    """2048 features a frame: the last pooling layer of InceptionV3, batch normalisation always in eval mode.

    Frames stay floats, they are never rounded to uint8. Two ways to bring them to 299 x 299, neither antialiased, are
    in use, and figures made with one do not compare with those of the other:

    - ``"tensorflow 1"``: bilinear with corner-aligned origins (pixel k reads position k * size / 299) and input
      (x - 128) / 128 for x in [0, 255], as in the graph that FID was first computed with, and in torch-fidelity.
    - ``"half pixel"``: bilinear between pixel centres and input x / 127.5 - 1, as in pytorch-fid and in AVID's code.
    """

    def __init__(self, resize: Resize = "tensorflow 1") -> None:
        if resize not in PROTOCOLS:
            raise ValueError(f"resize must be one of {[*PROTOCOLS]}, not {resize!r}")
        arrays = read_script(INCEPTION.read())
        names = [name.removesuffix("/weight") for name in arrays if name.endswith("/weight")]
        super().__init__(
            {
                name.removeprefix(_PREFIX): fold(
                    *(arrays[f"{name}/{part}"] for part in ("weight", "beta", "mean", "var"))
                )
                for name in names
            }
        )
        self.resize = resize

    @torch.no_grad()
    def forward(self, video: Video) -> Float[Tensor, "batch time 2048"]:
        """The features of every frame of (batch, time, 3, height, width) in [-1, 1], float32, on the CPU.

        Raises ValueError for a wrong shape, dtype or range.
        """
        check_videos(video=video)
        parts = [self.features(self.prepare(part)).cpu() for part in video.flatten(0, 1).split(_CHUNK)]
        return torch.cat(parts).unflatten(0, video.shape[:2])

    def prepare(self, images: Images) -> Float[Tensor, "image 3 299 299"]:
        """Resized and scaled as the network's input."""
        if self.resize == "half pixel":
            return functional.interpolate(images, (_SIZE, _SIZE), mode="bilinear", align_corners=False)
        return (resize_tensorflow(images, _SIZE) * 127.5 - 0.5) / 128  # x is (images + 1) * 127.5

    def features(self, images: Float[Tensor, "image 3 299 299"]) -> Float[Tensor, "image 2048"]:
        """The network itself. Names are those of the TensorFlow graph."""
        hidden = images.contiguous(memory_format=torch.channels_last)
        hidden = self.convolve(hidden, "conv", stride=2)
        hidden = self.convolve(hidden, "conv_1", padded=False)
        hidden = self.convolve(hidden, "conv_2")
        hidden = self.convolve(functional.max_pool2d(hidden, 3, 2), "conv_3")
        hidden = self.convolve(hidden, "conv_4", padded=False)
        hidden = functional.max_pool2d(hidden, 3, 2)
        for block in ("mixed", "mixed_1", "mixed_2"):
            hidden = self.mix(hidden, block, (2, 3))
        hidden = self.halve(hidden, "mixed_3", (3,), self.convolve(hidden, "mixed_3/conv", stride=2))
        for block in ("mixed_4", "mixed_5", "mixed_6", "mixed_7"):
            hidden = self.mix(hidden, block, (3, 5))
        hidden = self.halve(hidden, "mixed_8", (2, 4))
        hidden = self.fork(hidden, "mixed_9", _average(hidden))
        hidden = self.fork(hidden, "mixed_10", functional.max_pool2d(hidden, 3, 1, 1))
        return hidden.mean((2, 3))

    def convolve(
        self, hidden: Float[Tensor, "n c h w"], name: str, *, stride: int = 1, padded: bool = True
    ) -> Float[Tensor, "n out rows columns"]:
        """A convolution and ReLU; those of stride two, and those asked to, see no border."""
        kernel, bias = self.layer(name)
        padding = [size // 2 if padded and stride == 1 else 0 for size in kernel.shape[2:]]
        return functional.conv2d(hidden, kernel, bias, stride, padding).relu_()

    def tower(self, hidden: Tensor, name: str, length: int, last_stride: int = 1) -> Tensor:
        """Convolutions in a row."""
        for number in range(length):
            stride = last_stride if number == length - 1 else 1
            hidden = self.convolve(hidden, f"{name}/conv{_suffix(number)}", stride=stride)
        return hidden

    def mix(self, hidden: Tensor, block: str, lengths: Sequence[int]) -> Tensor:
        """Side by side: one convolution, towers of these lengths, and one convolution of the averaged input."""
        towers = [self.tower(hidden, f"{block}/tower{_suffix(n)}", length) for n, length in enumerate(lengths)]
        pooled = self.tower(_average(hidden), f"{block}/tower_2", 1)
        return torch.cat([self.tower(hidden, block, 1), *towers, pooled], 1)

    def halve(self, hidden: Tensor, block: str, lengths: Sequence[int], *before: Tensor) -> Tensor:
        """Side by side at half the size: what comes before, towers of these lengths, and the pooled input."""
        towers = [self.tower(hidden, f"{block}/tower{_suffix(n)}", length, 2) for n, length in enumerate(lengths)]
        return torch.cat([*before, *towers, functional.max_pool2d(hidden, 3, 2)], 1)

    def fork(self, hidden: Tensor, block: str, pooled: Tensor) -> Tensor:
        """Side by side: one convolution, two towers that fork into a wide and a high kernel, and the pooled input."""
        one = self.convolve(hidden, f"{block}/tower_conv")
        two = self.convolve(self.convolve(hidden, f"{block}/tower_1_conv"), f"{block}/tower_1_conv_1")
        forked = [
            self.convolve(part, f"{block}/{tower}_mixed_conv{_suffix(number)}")
            for part, tower in ((one, "tower"), (two, "tower_1"))
            for number in range(2)
        ]
        first, last = self.tower(hidden, block, 1), self.convolve(pooled, f"{block}/tower_2_conv")
        return torch.cat([first, *forked, last], 1)


def _suffix(number: int) -> str:
    return f"_{number}" if number else ""


def _average(hidden: Tensor) -> Tensor:
    return functional.avg_pool2d(hidden, 3, 1, 1, count_include_pad=False)


def resize_tensorflow(images: Float[Tensor, "image 3 height width"], size: int) -> Float[Tensor, "image 3 size size"]:
    """TensorFlow 1's default bilinear resize: output pixel k reads position k * length / size, without antialiasing."""
    for axis in (2, 3):
        length = images.shape[axis]
        position = torch.arange(size, dtype=torch.float64) * length / size
        low = position.long()
        share = (position - low).to(images).reshape([-1, 1] if axis == 2 else [-1])
        low, high = low.to(images.device), (low + 1).clamp(max=length - 1).to(images.device)
        images = torch.lerp(images.index_select(axis, low), images.index_select(axis, high), share)
    return images
