"""The I3D network that FVD is defined by (Carreira and Zisserman 2017, arXiv 1705.07750; 400 classes of Kinetics)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from trimtab.core.values import Video
from trimtab.metrics.actions import Context
from trimtab.metrics.convolutions import FrozenConvolutions, fold
from trimtab.metrics.frames import check_videos
from trimtab.metrics.weights import I3D_KINETICS, read_arrays

Clips = Float[Tensor, "batch 3 time height width"]

LEAST_FRAMES = 9
"""The network halves time three times and then looks at two moments together."""

_SIZE = 224
_CHUNK = 64
"""Frames evaluated at once, in whole clips."""


class I3D(FrozenConvolutions):
    """400 features a clip: the class logits of I3D, averaged over time.

    Frames stay floats, they are never rounded to uint8, and are resized to 224 x 224, bilinear between pixel centres and
    without antialiasing; input in [-1, 1].
    """

    protocol = (
        "I3D of Kinetics-400, 400 logits averaged over time, float frames, half pixel bilinear to 224, in [-1, 1]"
    )

    def __init__(self) -> None:
        arrays = read_arrays(I3D_KINETICS.read())
        suffix, layers = "/BatchNorm_0/bias", {}
        for name in (name.removesuffix(suffix).removeprefix("params/") for name in arrays if name.endswith(suffix)):
            kernel = arrays[f"params/{name}/Conv_0/kernel"].transpose(4, 3, 0, 1, 2)  # from (time, h, w, in, out)
            mean, variance = (arrays[f"batch_stats/{name}/BatchNorm_0/{part}"].ravel() for part in ("mean", "var"))
            layers[name] = fold(kernel, arrays[f"params/{name}{suffix}"], mean, variance)
        logits = "params/Logits/Conv3d_0c_1x1/Conv_0"
        layers["Logits"] = torch.tensor(arrays[f"{logits}/kernel"][0, 0, 0]).T, torch.tensor(arrays[f"{logits}/bias"])
        super().__init__(layers)

    @torch.no_grad()
    def forward(self, video: Video, context: Context | None = None) -> Float[Tensor, "batch 400"]:
        """The features of every clip, on the CPU.

        Args:
            video: (batch, time, 3, height, width), float32 in [-1, 1].
            context: frames to put before each clip, (batch, num_context, 3, height, width).

        Raises:
            ValueError: a wrong shape, dtype or range, or fewer than nine frames with the context.
        """
        check_videos(video=video)
        video = video if context is None else with_context(video, context)
        if (length := video.shape[1]) < LEAST_FRAMES:
            raise ValueError(
                f"I3D needs clips of {LEAST_FRAMES} frames or more, not {length}; predict more, or give the frames "
                "before them as context"
            )
        parts = video.split(max(1, _CHUNK // length))
        return torch.cat([self.features(self.prepare(part)).cpu() for part in parts])

    def prepare(self, video: Video) -> Float[Tensor, "batch 3 time 224 224"]:
        """Resized as the network's input, channels before time."""
        frames = functional.interpolate(video.flatten(0, 1), (_SIZE, _SIZE), mode="bilinear", align_corners=False)
        return frames.unflatten(0, video.shape[:2]).movedim(1, 2)

    def features(self, clips: Clips) -> Float[Tensor, "batch 400"]:
        """The network itself, for clips of 193 to 224 pixels. Names are those of the TensorFlow graph."""
        hidden = self.convolve(clips.contiguous(memory_format=torch.channels_last_3d), "Conv3d_1a_7x7", stride=2)
        hidden = _pool(hidden, (1, 3, 3), (1, 2, 2))
        hidden = self.convolve(self.convolve(hidden, "Conv3d_2b_1x1"), "Conv3d_2c_3x3")
        hidden = _pool(hidden, (1, 3, 3), (1, 2, 2))
        hidden = self.mix(self.mix(hidden, "Mixed_3b"), "Mixed_3c")
        hidden = _pool(hidden, (3, 3, 3), (2, 2, 2))
        for letter in "bcdef":
            hidden = self.mix(hidden, f"Mixed_4{letter}")
        hidden = _pool(hidden, (2, 2, 2), (2, 2, 2))
        hidden = self.mix(self.mix(hidden, "Mixed_5b"), "Mixed_5c")
        averaged = functional.avg_pool3d(hidden, (2, 7, 7), 1).mean((2, 3, 4))  # logits are linear in it
        return functional.linear(averaged, *self.layer("Logits"))

    def convolve(self, hidden: Tensor, name: str, stride: int = 1) -> Tensor:
        """A convolution and ReLU that see TensorFlow's "SAME" border of zeros."""
        kernel, bias = self.layer(name)
        padded = pad_same(hidden, tuple(kernel.shape[2:]), (stride,) * 3)
        return functional.conv3d(padded, kernel, bias, stride).relu_()

    def mix(self, hidden: Tensor, block: str) -> Tensor:
        """Side by side: a convolution, two pairs of them, and one of the pooled input."""
        pairs = [
            self.convolve(
                self.convolve(hidden, f"{block}/Branch_{branch}/Conv3d_0a_1x1"),
                f"{block}/Branch_{branch}/Conv3d_0b_3x3",
            )
            for branch in (1, 2)
        ]
        pooled = self.convolve(_pool(hidden, (3, 3, 3), (1, 1, 1)), f"{block}/Branch_3/Conv3d_0b_1x1")
        return torch.cat([self.convolve(hidden, f"{block}/Branch_0/Conv3d_0a_1x1"), *pairs, pooled], 1)


def with_context(video: Video, context: Context) -> Float[Tensor, "batch all_frames channel height width"]:
    """The video with the frames before it in front. Raises ValueError if they do not fit, or are no such frames."""
    check_videos(context=context)
    if context.shape[:1] != video.shape[:1] or context.shape[2:] != video.shape[2:]:
        raise ValueError(f"context {tuple(context.shape)} does not fit before video {tuple(video.shape)}")
    return torch.cat([context, video], dim=1)


def pad_same(
    hidden: Float[Tensor, "batch channel time height width"], window: tuple[int, ...], stride: tuple[int, ...]
) -> Float[Tensor, "batch channel more_time more_height more_width"]:
    """TensorFlow's "SAME" border of zeros, which has the odd row behind: ceil(length / stride) windows fit."""
    border: list[int] = []
    for length, size, step in zip(hidden.shape[2:], window, stride, strict=True):
        missing = max((-(-length // step) - 1) * step + size - length, 0)
        border = [missing // 2, missing - missing // 2, *border]  # the last axis comes first
    return functional.pad(hidden, border) if any(border) else hidden


def _pool(hidden: Tensor, window: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    """The maximum of windows with a "SAME" border, whose zeros change nothing after a ReLU."""
    return functional.max_pool3d(pad_same(hidden, window, stride), window, stride)
