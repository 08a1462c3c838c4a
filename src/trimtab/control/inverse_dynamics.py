"""Inverse dynamics: which action leads from one frame to the next; knows no simulator, and not who drew the frames.

A video plan becomes actions by it (UniPi, arXiv 2302.00111; Adapt2Act reads VC-1's features by one linear layer). Frozen
features of what is in a frame say little of how far a small thing has moved, so a small stem is trained beside them. And
they are soon known by heart: in scenes that it has seen in passing only, the stem alone reads better.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from trimtab.networks import storage
from trimtab.networks.efficientnet import EfficientNetLite0
from trimtab.networks.vision_transformer import VisionTransformer

Frames = Float[Tensor, "batch 3 height width"]
Action = Float[Tensor, "batch dim"]
Encoder = Callable[[Tensor], Tensor]
"""Frames (batch, 3, height, width) in [-1, 1] to features, (batch, feature) or (batch, feature, rows, columns)."""

EMBEDDED = "efficientnet-lite0"
NUM_STAGES = 3
"""Of EfficientNet, of which a map of height / 8 by width / 8 places and 40 features is taken."""

ABSENT = {
    "vc1": (16, "vc1_vitb.pth (VC-1 base, of facebookresearch/eai-vc, for non-commercial use: CC BY-NC 4.0)"),
    "dinov2": (14, "dinov2_vitb14_pretrain.pth (DINOv2 base, of facebookresearch/dinov2, Apache 2.0)"),
}
"""Encoders whose weights no package carries: the pixels of their patches, and the file that has them, with its licence."""


METAWORLD = Path(__file__).parent / "readers" / "metaworld.safetensors"
"""Those of MetaWorld's arm that ship with the library, of four numbers off frames of 64 x 64; made by the `inverse_dynamics`
recipe, whose results are beside them."""


class InverseDynamics(nn.Module):
    """Reads the action, a vector in [-1, 1], off a frame and the next. Always in float32.

    Args:
        dim: numbers in an action.
        frame_size: side of the square frames, a multiple of 8.
        width: channels of the stem's first convolution.
        encoder: "efficientnet-lite0"; "vc1" or "dinov2", with weights; or any frozen network or function from frames to
            features (see `Encoder`); None for the stem alone.
        weights: the safetensors file of the last two, of any size of ViT.

    Raises:
        ValueError: a size is out of range; the encoder is unknown; or weights are missing, not asked for, or another's.
        FileNotFoundError: there is no such file, or the package that carries the embedded encoder's weights is missing.
    """

    def __init__(
        self,
        dim: int = 4,
        frame_size: int = 64,
        width: int = 32,
        encoder: str | Encoder | None = EMBEDDED,
        weights: Path | None = None,
    ) -> None:
        super().__init__()
        if dim < 1 or width < 1 or frame_size < 8 or frame_size % 8:
            raise ValueError(
                f"dim and width are at least 1, and frame_size is a multiple of 8, not {dim}, {width} and {frame_size}"
            )
        self.named = encoder if isinstance(encoder, str) else None
        self.encoder = chosen(encoder, weights)
        if isinstance(self.encoder, nn.Module):
            self.encoder.eval().requires_grad_(False)
        self.settings: dict[str, Any] = {"dim": dim, "frame_size": frame_size, "width": width}
        features, rows, columns = self.see(torch.zeros(1, 3, frame_size, frame_size)).shape[1:]
        self.compare = nn.Conv2d(2 * features, 32, 1) if features else None
        self.stem = nn.Sequential(
            nn.Conv2d(9, width, 5, 2, 2),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(2 * width, 4 * width, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(4 * width, 16, 1),  # few channels, so that every position keeps its own weights below
        )
        self.head = nn.Sequential(
            nn.ReLU(),
            nn.Linear(16 * (frame_size // 8) ** 2 + (32 * rows * columns if features else 0), 256),
            nn.ReLU(),
            nn.Linear(256, dim),
        )

    def train(self, mode: bool = True) -> InverseDynamics:
        """Train, or not, all but the encoder."""
        super().train(mode)
        if isinstance(self.encoder, nn.Module):
            self.encoder.eval()
        return self

    @torch.no_grad()
    def see(self, frames: Frames) -> Float[Tensor, "batch feature rows columns"]:
        """The frozen features of frames, none without an encoder; a vector has one row and one column."""
        if self.encoder is None:
            return frames.new_zeros(len(frames), 0, 1, 1)
        seen = self.encoder(frames)
        return seen if seen.ndim == 4 else seen[..., None, None]

    def forward(self, before: Frames, after: Frames, seen: tuple[Tensor, Tensor] | None = None) -> Action:
        """The action between two frames in [-1, 1], not clamped; what is seen in both may be passed if it is known."""
        seen_before, seen_after = seen or self.see(torch.cat([before, after])).chunk(2)
        moved = torch.cat([before, after, after - before], dim=1).contiguous(memory_format=torch.channels_last)
        read = [self.stem(moved)]
        if self.compare is not None:
            read.append(self.compare(torch.cat([seen_after, seen_after - seen_before], dim=1)))
        return self.head(torch.cat([part.flatten(1) for part in read], dim=1))

    def loss(
        self, before: Frames, after: Frames, actions: Action, seen: tuple[Tensor, Tensor] | None = None
    ) -> Float[Tensor, " batch"]:
        """The squared error of each sample, the mean over the numbers of its action."""
        return functional.mse_loss(self(before, after, seen), actions, reduction="none").mean(1)

    @torch.no_grad()
    def act(self, before: Frames, after: Frames) -> Action:
        """The action between two frames, real or imagined, in [-1, 1].

        Raises:
            ValueError: frames of another size, dtype or range, or that do not pair up.
        """
        size = self.settings["frame_size"]
        for frames in (before, after):
            if frames.shape != (len(before), 3, size, size) or frames.dtype != torch.float32:
                raise ValueError(
                    f"frames are ({len(before)}, 3, {size}, {size}) float32, not {tuple(frames.shape)} {frames.dtype}"
                )
            if not (frames.abs() <= 1.001).all():
                raise ValueError(f"frames lie in [-1, 1], not [{frames.min():.3g}, {frames.max():.3g}]")
        return self(before, after).clamp(-1, 1)

    def save(self, path: Path, **facts: Any) -> None:
        """Write the trained part, atomically; with it, by what the frozen encoder is recognised, and facts, plain values.

        Of the encoder only its name is kept, if it was given by name.
        """
        trained = {name: value for name, value in self.state_dict().items() if not name.startswith("encoder.")}
        recognise = None if self.encoder is None else self._recognise()
        storage.write(path, trained, {**self.settings, "encoder": self.named, "recognise": recognise, "facts": facts})

    def _recognise(self) -> float:
        """A number that another encoder would hardly give: the size of its features of one picture, the later the heavier.

        Without weights it would be the same for all whose features are normalised.
        """
        side = torch.linspace(-1, 1, self.settings["frame_size"])
        picture = torch.stack([side.expand(len(side), -1), side[:, None].expand(-1, len(side)), side.outer(side)])
        features = self.see(picture[None].to(next(self.parameters()).device)).flatten()
        return float((features * torch.linspace(0, 1, len(features)).to(features)).norm())


def load(path: Path, encoder: str | Encoder | None = None, weights: Path | None = None) -> InverseDynamics:
    """The model that `save` wrote, in eval mode, behind the encoder that it was trained with, if it was with any.

    Args:
        path: of the file.
        encoder: as when the model was made; by default that which the file names, or the embedded one if it names none.
        weights: as when the model was made.

    Raises:
        ValueError: the file is damaged or something else; the encoder is another; or weights are missing, or not asked for.
        FileNotFoundError: there is no file of weights, or the package that carries the embedded encoder's is missing.
    """
    trained, settings = storage.read(path)
    if "recognise" not in settings:
        raise ValueError(f"{path} holds no inverse dynamics; train it with `trimtab inverse-dynamics`")
    expected, named, _ = settings.pop("recognise"), settings.pop("encoder", None), settings.pop("facts", {})
    if encoder is None:
        encoder = named or EMBEDDED
    model = InverseDynamics(**settings, encoder=None if expected is None else encoder, weights=weights)
    if expected is not None and not math.isclose(found := model._recognise(), expected, rel_tol=1e-3):
        raise ValueError(
            f"{path} was trained with another encoder (its features of a test picture had size {expected:.6g}, this one's "
            f"have {found:.6g}); pass the one it was trained with"
        )
    frozen = {name: value for name, value in model.state_dict().items() if name.startswith("encoder.")}
    model.load_state_dict(trained | frozen)
    return model.eval()


class FirstStages(nn.Module):
    """The embedded encoder: what the first stages of EfficientNet see."""

    def __init__(self) -> None:
        super().__init__()
        self.network = EfficientNetLite0.pretrained()

    def forward(self, frames: Frames) -> Float[Tensor, "batch 40 rows columns"]:
        return self.network.maps(frames, NUM_STAGES)


def chosen(encoder: str | Encoder | None, weights: Path | None) -> Encoder | None:
    """The frozen encoder, which may be named, from a file of weights where no package has them.

    Raises ValueError, and says what to pass instead, if there is none, or its weights are missing, or not asked for.
    """
    if isinstance(encoder, str) and encoder in ABSENT:
        patch, file = ABSENT[encoder]
        if weights is None:
            raise ValueError(
                f"the weights of {encoder} come with no package: get {file}, convert it to safetensors, and pass its path "
                "as weights (--encoder-weights where a reader is trained, --reader-weights where one is used)"
            )
        return VisionTransformer.read(weights, patch)
    if weights is not None:
        raise ValueError(f"weights are for the encoders {' and '.join(ABSENT)}; pass none for another, or for none")
    if not isinstance(encoder, str):
        return encoder
    if encoder != EMBEDDED:
        raise ValueError(f"no encoder is named {encoder!r}; there are {', '.join((EMBEDDED, *ABSENT))}")
    return FirstStages()
