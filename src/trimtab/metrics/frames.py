"""Compares generated frames with real ones, one value a frame; knows no model, dataset or average.

All metrics take two videos (batch, time, 3, height, width), float32 in [-1, 1], and give (batch, time), so per-step
figures, overall figures and paired differences all come from one table. Frames are compared as floats, not as uint8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from trimtab.core.packages import PackagedFile
from trimtab.core.values import Video
from trimtab.metrics.weights import LPIPS_ALEX, LPIPS_VGG, read_arrays
from trimtab.networks.precision import fast_products

PerFrame = Float[Tensor, "batch time"]
Images = Float[Tensor, "image 3 height width"]

_CHUNK = 256
"""Frames evaluated at once: keeps the features of a few hundred frames in memory, whatever the number of clips."""


def check_videos(**videos: Tensor) -> None:
    """Raise ValueError unless all are float32 RGB videos in [-1, 1] of one shape and on one device."""
    (first_name, first), *_ = videos.items()
    for name, video in videos.items():
        if video.ndim != 5 or video.shape[2] != 3 or 0 in video.shape:
            raise ValueError(f"{name} must be (batch, time, 3, height, width), not {tuple(video.shape)}")
        if video.dtype != torch.float32:
            raise ValueError(
                f"{name} must be float32, not {video.dtype}; convert it with `.float()`, uint8 / 127.5 - 1"
            )
        if video.shape != first.shape or video.device != first.device:
            raise ValueError(
                f"{first_name} and {name} must have one shape and device, not {tuple(first.shape)} on {first.device} "
                f"and {tuple(video.shape)} on {video.device}"
            )
        low, high = video.aminmax()
        if not (low >= -1.00001 and high <= 1.00001):  # also false for NaN
            raise ValueError(
                f"{name} must lie in [-1, 1], not [{low:.4g}, {high:.4g}]; clamp samples with `.clamp(-1, 1)`, "
                "and map [0, 1] with `* 2 - 1`"
            )


def _over_frames(
    measure: Callable[[Images, Images], Tensor], generated: Video, real: Video, chunk: int = _CHUNK
) -> PerFrame:
    check_videos(generated=generated, real=real)
    pairs = zip(generated.flatten(0, 1).split(chunk), real.flatten(0, 1).split(chunk), strict=True)
    return torch.cat([measure(*pair) for pair in pairs]).unflatten(0, generated.shape[:2])


@torch.no_grad()
def psnr(generated: Video, real: Video) -> PerFrame:
    """Peak signal-to-noise ratio in dB for values in [0, 1]; identical frames give 100 (mean squared error >= 1e-10).

    Raises ValueError for a wrong shape, dtype or range.
    """

    def measure(first: Images, second: Images) -> Tensor:
        error = ((first - second) / 2).square().mean((1, 2, 3))
        return -10 * error.clamp(min=1e-10).log10()

    return _over_frames(measure, generated, real)


@torch.no_grad()
def ssim(generated: Video, real: Video) -> PerFrame:
    """Structural similarity (Wang et al. 2004), 11 x 11 Gaussian window of sigma 1.5, values in [0, 1]; 1 is identical.

    Averaged over the positions whose window lies inside the frame, as scikit-image, by which it is computed on the CPU, and
    torchmetrics up to 1.4 do; later torchmetrics averages over the reflected border too.
    Raises ValueError for a wrong shape, dtype or range, and for frames smaller than the window.
    """
    from skimage.metrics import structural_similarity

    _check_size("SSIM", real, 11)

    def measure(first: Images, second: Images) -> Tensor:
        pairs = zip(*(((images + 1) / 2).cpu().numpy() for images in (first, second)), strict=True)
        options: dict[str, Any] = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        values = [structural_similarity(*pair, data_range=1.0, channel_axis=0, **options) for pair in pairs]
        return torch.tensor(values, dtype=torch.float32, device=first.device)

    return _over_frames(measure, generated, real)


@torch.no_grad()
def sharpness(generated: Video, real: Video) -> PerFrame:
    """Gradient energy of the generated frame over that of the real one: below 1 is blurred, above 1 is noisy.

    The energy is the mean squared difference of neighbouring pixels plus 1e-8, so two flat frames give 1.
    Raises ValueError for a wrong shape, dtype or range.
    """

    def energy(images: Images) -> Tensor:
        along_width, along_height = images.diff(dim=3), images.diff(dim=2)
        return along_width.square().mean((1, 2, 3)) + along_height.square().mean((1, 2, 3)) + 1e-8

    _check_size("sharpness", real, 2)
    return _over_frames(lambda first, second: energy(first) / energy(second), generated, real)


@dataclass(frozen=True)
class _Backbone:
    """What tells the networks of LPIPS apart: their weights, convolutions and pools, and where features are taken."""

    weights: PackagedFile
    name: str
    strides_and_paddings: tuple[tuple[int, int], ...]
    pool: int  # size of the max-pools of stride 2
    pooled_before: tuple[int, ...]  # convolutions that see their input through a max-pool
    taken_after: tuple[int, ...]  # convolutions whose features, after the ReLU, are compared
    smallest: int  # side of the smallest frame of which something is left at the end
    chunk: int  # pairs of frames compared at once


_BACKBONES = {
    "alex": _Backbone(
        LPIPS_ALEX, "AlexNet_0", ((4, 2), (1, 2), (1, 1), (1, 1), (1, 1)), 3, (1, 2), (0, 1, 2, 3, 4), 31, _CHUNK
    ),
    "vgg": _Backbone(LPIPS_VGG, "VGG16_0", ((1, 1),) * 13, 2, (2, 4, 7, 10), (1, 3, 6, 9, 12), 16, 16),
}


class Lpips(nn.Module):
    """LPIPS v0.1 (Zhang et al. 2018, arXiv 1801.03924): 0 is identical, larger is more different.

    Scaled input, features after five of the ReLUs, unit length over channels, squared difference, a non-negative
    weight a channel, mean over positions, sum over layers. The weights come from an installed package (`LPIPS_ALEX`,
    `LPIPS_VGG`).

    Args:
        backbone: ``"alex"``, five convolutions, for measuring; or ``"vgg"``, VGG16, as AVID's tables are made with,
            many times slower. Figures of one do not compare with those of the other.
    """

    def __init__(self, backbone: Literal["alex", "vgg"] = "alex") -> None:
        super().__init__()
        if backbone not in _BACKBONES:
            raise ValueError(f"backbone must be one of {[*_BACKBONES]}, not {backbone!r}")
        self.backbone = _BACKBONES[backbone]
        self.weights = self.backbone.weights
        arrays = {name: torch.tensor(array) for name, array in read_arrays(self.weights.read()).items()}
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).reshape(3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).reshape(3, 1, 1))
        for layer in range(len(self.backbone.strides_and_paddings)):
            path = f"{self.backbone.name}/Conv_{layer}"
            kernel = arrays[f"{path}/kernel"].permute(3, 2, 0, 1)  # from (height, width, in, out)
            self.register_buffer(f"kernel_{layer}", kernel.contiguous(memory_format=torch.channels_last))
            self.register_buffer(f"bias_{layer}", arrays[f"{path}/bias"])
        for layer in range(5):
            self.register_buffer(f"head_{layer}", arrays[f"NetLinLayer_{layer}/Conv_0/kernel"].reshape(-1))

    def features(self, images: Images) -> list[Float[Tensor, "image channel h w"]]:
        """The features of each of the five layers, of unit length over channels."""
        hidden = ((images - self.get_buffer("shift")) / self.get_buffer("scale")).contiguous(
            memory_format=torch.channels_last
        )
        result = []
        for layer, (stride, padding) in enumerate(self.backbone.strides_and_paddings):
            if layer in self.backbone.pooled_before:
                hidden = functional.max_pool2d(hidden, self.backbone.pool, 2)
            kernel, bias = self.get_buffer(f"kernel_{layer}"), self.get_buffer(f"bias_{layer}")
            hidden = functional.conv2d(hidden, kernel, bias, stride, padding).relu()
            if layer in self.backbone.taken_after:
                result.append(hidden / (hidden.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return result

    @torch.no_grad()
    def forward(self, generated: Video, real: Video) -> PerFrame:
        """Raises ValueError for a wrong shape, dtype or range, and for frames below 31 pixels ("vgg": 16)."""
        _check_size("LPIPS", real, self.backbone.smallest)

        def measure(first: Images, second: Images) -> Tensor:
            looked_at, where = torch.cat([first, second]).unique(dim=0, return_inverse=True)  # once at a still video
            one, other = where.split(len(first))
            return self.between(((layer[one], layer[other]) for layer in self.features(looked_at)), len(first))

        return _over_frames(measure, generated, real, self.backbone.chunk)

    def distance(self, generated: Video, real: Video) -> PerFrame:
        """The same to train by: gradients reach the generated frames, whose values may leave [-1, 1].

        In bf16 where the processor is fast at it.
        """
        _check_size("LPIPS", real, self.backbone.smallest)
        with fast_products(real.device):
            with torch.no_grad():
                goal = self.features(real.flatten(0, 1))
            features = zip(self.features(generated.flatten(0, 1)), goal, strict=True)
            return self.between(features, len(real.flatten(0, 1))).unflatten(0, real.shape[:2])

    def between(self, features: Iterable[tuple[Tensor, Tensor]], num: int) -> Float[Tensor, " image"]:
        """The distances, given the features of both sides, layer by layer."""
        total = self.get_buffer("shift").new_zeros(num)
        for layer, (one, other) in enumerate(features):
            weights = self.get_buffer(f"head_{layer}")
            total = total + torch.einsum("nchw,c->n", (one - other).square(), weights) / one[0, 0].numel()
        return total


def _check_size(name: str, video: Tensor, smallest: int) -> None:
    if min(video.shape[-2:]) < smallest:
        raise ValueError(
            f"{name} needs frames of {smallest} pixels or more, not {tuple(video.shape[-2:])}; resize them"
        )
