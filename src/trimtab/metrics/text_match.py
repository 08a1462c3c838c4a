"""Which of several texts a video shows, by a small network of its own; knows no video model and no simulator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from trimtab.core.values import Clip, Video
from trimtab.metrics.frames import check_videos
from trimtab.networks import storage
from trimtab.networks.attention import mean_token

Texts = Float[Tensor, "text token feature"]
Logits = Float[Tensor, "batch text"]


class TextMatch(nn.Module):
    """How well each of several texts fits a video, by the first frame and how the others differ from it.

    Frame and text become vectors of one space, and fit as far as they point in one direction (as CLIP has it, arXiv
    2103.00020). Always in float32.

    Args:
        text_dim: features of a token.
        num_frames: predicted frames of a clip.
        frame_size: side of the square frames, a multiple of 8.
        width: channels of the first convolution.
    """

    def __init__(self, text_dim: int = 384, num_frames: int = 8, frame_size: int = 64, width: int = 32) -> None:
        super().__init__()
        if frame_size % 8 or min(text_dim, num_frames, frame_size, width) < 1:
            raise ValueError(
                "text_dim, num_frames and width are at least 1, and frame_size is a multiple of 8, not "
                f"{text_dim}, {num_frames}, {width} and {frame_size}"
            )
        self.settings = {"text_dim": text_dim, "num_frames": num_frames, "frame_size": frame_size, "width": width}
        self.look = nn.Sequential(
            nn.Conv2d(3 + 3 * num_frames, width, 5, 2, 2),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(2 * width, 4 * width, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(4 * width, 16, 1),  # few channels, so that every position keeps its own weights below
            nn.Flatten(),
            nn.ReLU(),
            nn.Linear(16 * (frame_size // 8) ** 2, 256),
            nn.ReLU(),
            nn.Linear(256, 128),
        )
        self.hear = nn.Linear(text_dim, 128)
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(
        self, context: Float[Tensor, "batch num_context channel height width"], video: Video, texts: Texts
    ) -> Logits:
        """Logits of each text for each video.

        Args:
            context: the frames before the video, of which the last is looked at, float32 in [-1, 1].
            video: (batch, num_frames, 3, height, width), float32 in [-1, 1].
            texts: token states, zero where a text has no more tokens.

        Raises:
            ValueError: a wrong shape, dtype or range.
        """
        check_videos(context=context)
        check_videos(video=video)
        size, num = self.settings["frame_size"], self.settings["num_frames"]
        if video.shape[1:] != (num, 3, size, size) or len(context) != len(video):
            raise ValueError(
                f"this network looks at clips of ({num}, 3, {size}, {size}), one context each, got {tuple(video.shape)} and "
                f"context {tuple(context.shape)}"
            )
        first = context[:, -1]
        seen = torch.cat([first, (video - first[:, None]).flatten(1, 2)], dim=1)
        shown = functional.normalize(self.look(seen.contiguous(memory_format=torch.channels_last)), dim=-1)
        told = functional.normalize(self.hear(mean_token(texts)), dim=-1)
        return self.scale.exp() * shown @ told.T

    def save(self, path: Path, facts: dict[str, Any]) -> None:
        """Write weights, settings and facts about the training to one file, atomically."""
        storage.write(path, self.state_dict(), {**self.settings, "facts": facts})


def load(path: Path) -> TextMatch:
    """The network that `save` wrote, in eval mode. Raises ValueError if the file is damaged or something else."""
    weights, settings = storage.read(path)
    if "text_dim" not in settings or "facts" not in settings:
        raise ValueError(f"{path} holds no network that matches texts; `trimtab tabletop-prior-card` trains one")
    network = TextMatch(**{name: value for name, value in settings.items() if name != "facts"})
    network.load_state_dict(weights)
    return network.eval()


def which_text(told: Float[Tensor, "batch token feature"], texts: Texts) -> Int[Tensor, " batch"]:
    """The number of the text that each sample was told. Raises ValueError if one is not among them."""
    same: Bool[Tensor, "batch text"] = (told[:, None] == texts).flatten(2).all(-1)
    if not same.any(1).all():
        raise ValueError(f"a clip has a text that is none of the {len(texts)} it is to be matched with")
    return same.int().argmax(1)


class Matching(nn.Module):
    """The task for `fit`: name the text of a clip among all, however it is coloured and wherever it is seen from.

    A set has few looks, and a look can be learned by heart; so every clip is shown in another each time.

    Args:
        network: to train.
        texts: all that there are.
    """

    def __init__(self, network: TextMatch, texts: Texts) -> None:
        super().__init__()
        self.network, self.texts = network, texts

    def forward(self, clip: Clip, *, step: int, samples: Sequence[int] | Tensor) -> Float[Tensor, " batch"]:
        known = clip.given.facts()
        frames = seen_otherwise(torch.cat([known["context"][:, -1:], clip.video], dim=1), step)
        logits = self.network(frames[:, :1], frames[:, 1:], self.texts)
        return functional.cross_entropy(logits, which_text(known["text"], self.texts), reduction="none")


def seen_otherwise(video: Video, seed: int) -> Video:
    """Each video, float32 in [-1, 1], in other colours and from nearby, all its frames alike; a function of the seed.

    Its channels are mixed, its contrast changes by up to 0.4 and its brightness by up to 0.3; it is turned by up to 0.15
    radians, zoomed by up to 15%, and moved by up to 0.15 of half its side. What comes into sight repeats the border.
    """
    generator, num = torch.Generator(video.device).manual_seed(seed), len(video)

    def drawn(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(num, *shape, generator=generator, device=video.device)

    mixing, share = torch.softmax(drawn(-3.0, 3.0, 3, 3), dim=-1), drawn(0.0, 1.0, 1, 1)
    mixing = drawn(0.6, 1.4, 1, 1) * (share * mixing + (1 - share) * torch.eye(3, device=video.device))
    coloured = torch.einsum("boc,btchw->btohw", mixing, video) + drawn(-0.3, 0.3, 1, 1, 1, 1)
    angle, zoom = drawn(-0.15, 0.15), drawn(0.85, 1.15)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1).unflatten(1, (2, 2))
    place = torch.cat([zoom[:, None, None] * turn, drawn(-0.15, 0.15, 2, 1)], dim=2)
    flat = coloured.flatten(1, 2)
    grid = functional.affine_grid(place, list(flat.shape), align_corners=False)
    moved = functional.grid_sample(flat, grid, padding_mode="border", align_corners=False)
    return moved.unflatten(1, video.shape[1:3]).clamp(-1, 1)


def prefers(logits: Logits, wanted: Int[Tensor, " batch"], other: Int[Tensor, " batch"]) -> Bool[Tensor, " batch"]:
    """Whether a video fits one text better than another; a coin would say so of every second."""
    return logits.gather(1, wanted[:, None]).squeeze(1) > logits.gather(1, other[:, None]).squeeze(1)
