"""The embedded prior: a small action-free video diffusion model in pixel space; knows no adapter and no environment.

`load("procgen")` gives the one that ships with the package; `trimtab procgen-prior` trains it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.core.contracts import BoundDenoiser
from trimtab.core.values import Conditioning, Fact, NoiseLevel, Prediction, Video
from trimtab.diffusion import schedules
from trimtab.diffusion.preconditioning import FrameChange, observed_drift
from trimtab.networks import storage
from trimtab.networks.precision import matrix_dtype
from trimtab.networks.unet3d import UNet3D

SHIPPED = Path(__file__).parent / "weights"


class PixelFrames:
    """The codec of models that diffuse pixels themselves: nothing to do."""

    space = "rgb frames in [-1, 1]"
    frames_per_latent = 1

    def encode(self, frames: Video) -> Video:
        return frames

    def decode(self, latents: Video) -> Video:
        return latents


@dataclass(frozen=True)
class PixelUNetSettings:
    """What the weights alone do not say."""

    widths: tuple[int, ...] = (64, 128, 256)
    depths: tuple[int, ...] = (1, 2, 4)
    patch: int = 2
    num_context: int = 2
    num_frames: int = 8
    frame_shape: tuple[int, int, int] = (3, 64, 64)
    frame_rate: float = 15.0
    deviation: float = 0.2
    num_levels: int = 1000


class PixelUNet(nn.Module):
    """A `Prior` that predicts 1 to `num_frames` frames from `num_context` frames, and is never told the actions.

    Its schedule is the cosine one and its kind velocity. Trainable when built; `frozen()` makes it a prior for good.
    """

    uses: frozenset[Fact] = frozenset({"context"})

    def __init__(self, settings: PixelUNetSettings | None = None) -> None:
        super().__init__()
        self.settings = settings = settings or PixelUNetSettings()
        channels = settings.frame_shape[0]
        self.network = UNet3D(
            in_channels=channels * (1 + settings.num_context),
            out_channels=FrameChange.answer_channels(channels),
            max_frames=settings.num_frames,
            patch=settings.patch,
            widths=settings.widths,
            depths=settings.depths,
        )
        self.codec = PixelFrames()
        self.space = self.codec.space
        self.schedule = schedules.cosine(settings.num_levels)
        self.num_context, self.num_frames = settings.num_context, settings.num_frames
        self.frame_shape, self.frame_rate = settings.frame_shape, settings.frame_rate

    def bind(self, given: Conditioning) -> BoundDenoiser:
        context = given.context
        expected = (self.num_context, *self.frame_shape)
        if context is None or tuple(context.shape[1:]) != expected:
            came = "none" if context is None else str(tuple(context.shape))
            raise ValueError(f"this prior needs context frames of shape (batch, *{expected}), got {came}")
        if not context.is_floating_point():
            raise ValueError(
                f"context frames are floats in [-1, 1], got {context.dtype}; divide by 127.5 and subtract 1"
            )
        drift = observed_drift(context)

        def denoise(noisy: Video, level: NoiseLevel) -> Prediction:
            change = FrameChange(noisy, level, context, self.settings.deviation, drift)
            answer, _ = self.network(change.stacked(), change.angle)
            return change.belief(answer)

        return denoise

    def forward(self, noisy: Video, level: NoiseLevel, given: Conditioning) -> Prediction:
        return self.bind(given)(noisy, level)

    def frozen(self) -> PixelUNet:
        """This prior in eval mode, without gradients, its weights in the number format that products run in."""
        self.eval().requires_grad_(False)
        for module in self.network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.to(matrix_dtype(next(module.parameters()).device.type))
        return self

    @property
    def fingerprint(self) -> str:
        """Hash of settings and weights as stored (bfloat16), the same in every number format and on every device."""
        return storage.checksum(*self._contents())[:16]

    def save(self, path: Path) -> None:
        """Write settings and weights (in bfloat16) to one file."""
        storage.write(path, *self._contents())

    def _contents(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        weights = {name: value.to(torch.bfloat16) for name, value in self.network.state_dict().items()}
        return weights, {"prior": "pixel_unet", **asdict(self.settings)}


def load(name_or_path: str | Path = "procgen") -> PixelUNet:
    """A frozen prior: one that ships with the package by its name, or any from the path of its file.

    Raises ValueError for an unknown name, or a file that is damaged or holds something else.
    """
    shipped = SHIPPED / f"{name_or_path}.safetensors"
    path = shipped if shipped.exists() else Path(name_or_path)
    if not path.is_file():
        names = sorted(file.stem for file in SHIPPED.glob("*.safetensors"))
        raise ValueError(f"no prior {str(name_or_path)!r}: neither one that ships ({', '.join(names)}) nor a file")
    weights, settings = storage.read(path)
    if settings.pop("prior", None) != "pixel_unet":
        raise ValueError(f"{path} holds something else than a pixel-unet prior")
    prior = PixelUNet(PixelUNetSettings(**{key: as_tuple(value) for key, value in settings.items()}))
    prior.network.load_state_dict({name: value.float() for name, value in weights.items()})
    return prior.frozen()


def as_tuple(value: Any) -> Any:
    """JSON has lists only."""
    return tuple(value) if isinstance(value, list) else value


def tiny() -> PixelUNet:
    """A prior of toy size with random weights, for tests."""
    settings = PixelUNetSettings(widths=(32, 32), depths=(1, 1), num_frames=3, frame_shape=(3, 16, 16), num_levels=50)
    prior, generator = PixelUNet(settings), torch.Generator().manual_seed(0)
    for parameter in prior.parameters():
        nn.init.normal_(parameter, std=0.05, generator=generator)
    return prior.frozen()
