"""The embedded prior: a small action-free video diffusion model in pixel space; knows no adapter and no environment.

`load("procgen")` gives the one that ships with the package; `trimtab procgen-prior` trains it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trimtab import models
from trimtab.core.contracts import BoundDenoiser
from trimtab.core.values import Conditioning, Fact, NoiseLevel, Prediction, Video
from trimtab.diffusion import schedules
from trimtab.models import build
from trimtab.networks import storage
from trimtab.networks.attention import FrameNumber, TemporalAttention
from trimtab.networks.blocks import TemporalConv
from trimtab.networks.precision import matrix_dtype

SHIPPED = Path(__file__).parent / "weights"


class PixelFrames:
    """The codec of models that diffuse pixels themselves: nothing to do."""

    space = "rgb frames in [-1, 1]"
    frames_per_latent = 1

    def encode(self, frames: Video) -> Video:
        return frames

    def decode(self, latents: Video) -> Video:
        return latents


SCHEDULES: dict[str, Callable[[int], schedules.Schedule]] = {
    "cosine": schedules.cosine,
    "sigmoid": schedules.sigmoid,
    "linear": partial(schedules.linear, first=0.00085, last=0.012),
    "linear, zero terminal SNR": lambda num_levels: schedules.zero_terminal_snr(SCHEDULES["linear"](num_levels)),
    "scaled linear, zero terminal SNR": lambda num_levels: schedules.zero_terminal_snr(
        schedules.scaled_linear(num_levels)
    ),
}


@dataclass(frozen=True)
class PixelUNetSettings:
    """What the weights alone do not say.

    Attributes:
        model: the name of a file in models/.
        sizes: of its network; `text_dim` among them lets it hear texts, `context_optional` answer without context, too.
        num_context: frames that it is shown.
        num_frames: frames of the longest clip that it predicts.
        frame_shape: (channel, height, width).
        frame_rate: frames a second.
        schedule: a name in `SCHEDULES`: cosine, AVID's sigmoid, linear, that of arXiv 2504.15369, which never ends in pure
            noise, or its form that does; or that of latent diffusion in such a form, which AVID's latent models have.
        num_levels: of the schedule.
    """

    model: str = "change_unet"
    sizes: Mapping[str, Any] = field(default_factory=lambda: {"widths": (64, 128, 256), "depths": (1, 2, 4)})
    num_context: int = 2
    num_frames: int = 8
    frame_shape: tuple[int, int, int] = (3, 64, 64)
    frame_rate: float = 15.0
    schedule: str = "cosine"
    num_levels: int = 1000


class PixelUNet(nn.Module):
    """A `Prior` that predicts 1 to `num_frames` frames from `num_context` frames, and is never told the actions.

    Trainable when built; `frozen()` makes it a prior for good.
    """

    def __init__(self, settings: PixelUNetSettings | None = None) -> None:
        super().__init__()
        self.settings = settings = settings or PixelUNetSettings()
        self.codec = PixelFrames()
        self.space = self.codec.space
        self.schedule = SCHEDULES[settings.schedule](settings.num_levels)
        self.num_context, self.num_frames = settings.num_context, settings.num_frames
        self.frame_shape, self.frame_rate = settings.frame_shape, settings.frame_rate
        self.network = build(settings.model, self, **settings.sizes)
        self.uses: frozenset[Fact] = frozenset({"context", "text"} if settings.sizes.get("text_dim") else {"context"})

    def bind(self, given: Conditioning) -> BoundDenoiser:
        ask = self.network.bind(given.without("actions"))
        return lambda noisy, level: ask(noisy, level)[0]

    def forward(self, noisy: Video, level: NoiseLevel, given: Conditioning) -> Prediction:
        return self.bind(given)(noisy, level)

    @property
    def channels(self) -> tuple[int, ...]:
        """As of an `OpenPrior`."""
        return tuple(self.network.channels)

    @property
    def temporal(self) -> tuple[str, ...]:
        """As of an `OpenPrior`."""
        kinds = TemporalConv | TemporalAttention | FrameNumber
        return tuple(name for name, module in self.network.named_modules() if isinstance(module, kinds))

    def told_actions(self, *, num_actions: int | None = None, action_dim: int | None = None) -> Any:
        """As of an `OpenPrior`."""
        copy = build(self.settings.model, self, num_actions=num_actions, action_dim=action_dim, **self.settings.sizes)
        copy.adopt(self.network.state_dict())
        return copy

    def controller(self, *, num_actions: int | None = None, action_dim: int | None = None, **sizes: Any) -> Any:
        """As of an `OpenPrior`."""
        actions: dict[str, Any] = {"num_actions": num_actions, "action_dim": action_dim}
        half = models.controller(self.settings.model, self, **actions, **(sizes or self.settings.sizes))
        if not sizes:
            half.adopt(self.network.state_dict())
        return half

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


def load(name_or_path: str | Path = "procgen", *, schedule: str | None = None) -> PixelUNet:
    """A frozen prior.

    Args:
        name_or_path: of one that ships with the package, or of the file of any.
        schedule: diffuse by this one of `SCHEDULES` instead of its own, for a prior that was trained on its levels, too.

    Raises:
        ValueError: an unknown name, or a file that is damaged or holds something else.
    """
    shipped = SHIPPED / f"{name_or_path}.safetensors"
    path = shipped if shipped.exists() else Path(name_or_path)
    if not path.is_file():
        names = sorted(file.stem for file in SHIPPED.glob("*.safetensors"))
        raise ValueError(
            f"no prior {str(name_or_path)!r}: neither one that ships ({', '.join(names)}) nor a file; "
            "commands of robots take yours as module:function"
        )
    weights, settings = storage.read(path)
    if settings.pop("prior", None) != "pixel_unet":
        raise ValueError(f"{path} holds something else than a pixel-unet prior")
    settings |= {} if schedule is None else {"schedule": schedule}
    if settings["schedule"] not in SCHEDULES:
        raise ValueError(f"no schedule {settings['schedule']!r}; there are: {', '.join(SCHEDULES)}")
    prior = PixelUNet(PixelUNetSettings(**{key: as_tuples(value) for key, value in settings.items()}))
    prior.network.load_state_dict({name: value.float() for name, value in weights.items()})
    return prior.frozen()


def as_tuples(value: Any) -> Any:
    """JSON has lists only."""
    if isinstance(value, dict):
        return {key: as_tuples(some) for key, some in value.items()}
    return tuple(value) if isinstance(value, list) else value


def tiny() -> PixelUNet:
    """A prior of toy size with random weights, for tests."""
    sizes = {"widths": (32, 32), "depths": (1, 1)}
    settings = PixelUNetSettings(sizes=sizes, num_frames=3, frame_shape=(3, 16, 16), num_levels=50)
    prior, generator = PixelUNet(settings), torch.Generator().manual_seed(0)
    for parameter in prior.parameters():
        nn.init.normal_(parameter, std=0.05, generator=generator)
    return prior.frozen()
