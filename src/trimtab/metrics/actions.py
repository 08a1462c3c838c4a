"""A small judge that reads actions off a video, and the figures made from its answers; knows no world model or game."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional

from trimtab.core.files import write_whole
from trimtab.core.values import Video
from trimtab.metrics.frames import check_videos
from trimtab.metrics.intervals import Interval, mean_interval

Context = Float[Tensor, "batch num_context channel height width"]
Logits = Float[Tensor, "batch time action"]
Actions = Int[Tensor, "batch time"]
Recognised = Bool[Tensor, "batch time"]
Vectors = Float[Tensor, "batch time dim"]
Errors = Float[Tensor, "batch time"]

DISCRETE, VECTORS = "discrete", "vectors"
"""What a judge reads, as its card says under `actions`."""

_CHUNK = 512


class ActionJudge(nn.Module):
    """Which action led from each frame to the next, read from that pair of frames and one frame before.

    Three frames show how the motion changed, which is what an action does; the judge sees no more than that, so the
    longer dynamics of a video cannot help or harm it. Always in float32, so figures agree between machines.

    What it was trained for says what its answers are: logits of discrete actions (cross entropy), or action vectors
    themselves (squared error), as `action_errors` takes them.

    Args:
        num_actions: how many actions there are, or of how many numbers action vectors are made.
        width: channels of the first convolution.
        frame_size: side of the square that it sees a frame as.
        crop: side of the square in the middle that the judge looks at, a multiple of 8; for games whose camera follows
            the agent, its surroundings show all that an action does. Where the camera stands still, the whole frame.
        frames: height and width of the frames that it is shown, which it scales to that square; by default they are such.
    """

    def __init__(
        self,
        num_actions: int = 15,
        width: int = 32,
        frame_size: int = 64,
        crop: int = 32,
        frames: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if crop % 8 or not 0 < crop <= frame_size:
            raise ValueError(f"crop must be a multiple of 8 up to the frame size {frame_size}, not {crop}")
        shown = tuple(frames or (frame_size, frame_size))
        self.settings: dict[str, Any] = {
            "num_actions": num_actions,
            "width": width,
            "frame_size": frame_size,
            "crop": crop,
            "frames": list(shown),
        }
        self.frame_size, self.crop, self.frames = frame_size, crop, shown
        self.layers = nn.Sequential(
            nn.Conv2d(9, width, 5, 2, 2),
            nn.ReLU(),
            Residual(width),
            nn.Conv2d(width, 2 * width, 3, 2, 1),
            nn.ReLU(),
            Residual(2 * width),
            nn.Conv2d(2 * width, 4 * width, 3, 2, 1),
            nn.ReLU(),
            Residual(4 * width),
            nn.Conv2d(4 * width, 16, 1),  # few channels, so that every position keeps its own weights below
            nn.Flatten(),
            nn.ReLU(),
            nn.Linear(16 * (crop // 8) ** 2, 8 * width),
            nn.ReLU(),
            nn.Linear(8 * width, num_actions),
        )

    def look(self, frames: Float[Tensor, "*batch channel height width"]) -> Float[Tensor, "*batch channel crop crop"]:
        """The middle of the frames as squares, all that the judge sees."""
        if self.frames != (self.frame_size, self.frame_size):
            small = functional.interpolate(
                frames.flatten(0, -4), (self.frame_size,) * 2, mode="bilinear", antialias=True
            )
            frames = small.unflatten(0, frames.shape[:-3])
        edge = (self.frame_size - self.crop) // 2
        return frames[..., edge : edge + self.crop, edge : edge + self.crop]

    def score(self, seen: Float[Tensor, "triple 3 3 crop crop"]) -> Float[Tensor, "triple action"]:
        """Answers to the action between the second and third of three consecutive frames, already cropped."""
        changes = seen.diff(dim=1)
        stacked = torch.cat([seen[:, 2], changes[:, 1], changes[:, 0]], dim=1)
        return self.layers(stacked.contiguous(memory_format=torch.channels_last))

    @torch.no_grad()
    def forward(self, context: Context, video: Video) -> Logits:
        """Logits of the action that led to each frame of the video, or that action itself.

        Args:
            context: the frames before the video, two or more, float32 in [-1, 1].
            video: (batch, time, 3, height, width), float32 in [-1, 1].

        Raises:
            ValueError: a wrong shape, dtype or range, or fewer than two context frames.
        """
        check_videos(context=context)
        check_videos(video=video)
        if context.shape[1] < 2 or len(context) != len(video):
            raise ValueError(
                f"the judge needs two context frames for each of {len(video)} videos, got {tuple(context.shape)}"
            )
        if context.shape[-2:] != video.shape[-2:] or video.shape[-2:] != self.frames:
            raise ValueError(
                f"this judge reads frames of {self.frames[0]} x {self.frames[1]}, not {tuple(context.shape[-2:])} "
                f"and {tuple(video.shape[-2:])}"
            )
        seen = self.look(torch.cat([context[:, -2:], video], dim=1))
        triples = seen.unfold(1, 3, 1).movedim(-1, 2).flatten(0, 1)  # a view: (batch * time, 3 frames, channel, h, w)
        return torch.cat([self.score(part) for part in triples.split(_CHUNK)]).unflatten(0, video.shape[:2])


class Residual(nn.Module):
    """Adds a 3 x 3 convolution to its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(width, width, 3, 1, 1)

    def forward(self, hidden: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        return hidden + functional.relu(self.convolution(hidden))


def merge(logits: Logits, effects: Sequence[int]) -> Float[Tensor, "batch time effect"]:
    """Logits of effects: actions with one effect pool their probability. `effects` gives the effect of each action."""
    _check_effects(effects, logits.shape[-1])
    table = torch.tensor(effects, device=logits.device)
    return torch.stack([logits[..., table == effect].logsumexp(-1) for effect in range(max(effects) + 1)], dim=-1)


def is_recognised(logits: Logits, actions: Actions, effects: Sequence[int] | None = None) -> Recognised:
    """Whether the judge's best guess is the true action, or with `effects` an action of the same effect.

    Raises ValueError for actions that are no integers of shape (batch, time) below the number of actions, and for an
    `effects` that does not number the effect of each action from 0 without a gap.
    """
    num_actions = logits.shape[-1]
    if actions.is_floating_point() or actions.shape != logits.shape[:2]:
        raise ValueError(
            f"actions must be integers {tuple(logits.shape[:2])}, not {actions.dtype} {tuple(actions.shape)}"
        )
    if actions.min() < 0 or actions.max() >= num_actions:
        raise ValueError(f"actions must lie in [0, {num_actions - 1}], not [{actions.min()}, {actions.max()}]")
    if effects is None:
        return logits.argmax(-1) == actions
    return merge(logits, effects).argmax(-1) == torch.tensor(effects, device=actions.device)[actions.long()]


def action_error_ratio(recognised_generated: Recognised, recognised_real: Recognised) -> float:
    """(1 - accuracy on generated) / (1 - accuracy on real): 1 is as readable as real video, lower is better.

    The likely reading of AVID's "action error ratio" for discrete actions; infinite if the judge never errs on real.
    """
    wrong_generated, wrong_real = (1 - is_right.double().mean() for is_right in (recognised_generated, recognised_real))
    return float(wrong_generated / wrong_real)


def action_accuracy_ratio(recognised_generated: Recognised, recognised_real: Recognised) -> float:
    """Accuracy on generated / accuracy on real: 1 is as readable as real video, higher is better (AVID's code)."""
    return float(recognised_generated.double().mean() / recognised_real.double().mean())


def action_errors(read: Vectors, actions: Vectors, *, squared: bool = False) -> Errors:
    """How far the action vectors that a judge reads are from those taken, in each frame; 0 is exact.

    Args:
        read: the judge's answers.
        actions: what was done, in the units that the judge was trained on.
        squared: the mean over the numbers of a vector of the squared differences, instead of the absolute (AVID's code).

    Raises:
        ValueError: shapes differ, or actions are discrete.
    """
    if read.shape != actions.shape or not actions.is_floating_point():
        raise ValueError(
            f"actions must be floats {tuple(read.shape)}, as the judge's answers, not {actions.dtype} "
            f"{tuple(actions.shape)}; discrete actions are for is_recognised"
        )
    difference = (read - actions).double()
    return (difference.square() if squared else difference.abs()).mean(-1)


def vector_error_ratio(generated: Errors, real: Errors, episodes: Int[Tensor, " batch"], *, seed: int = 0) -> Interval:
    """Mean error on generated video / mean error on real: 1 is as readable as real video, lower is better.

    AVID's action error ratio for action vectors, with an interval; errors are those of `action_errors` on the same clips.

    Args:
        generated, real: the judge's errors.
        episodes: the episode of each clip, resampled as a whole.
        seed: of the resampling.

    Raises:
        ValueError: shapes differ, there are fewer than two episodes, or the judge never errs on real video.
    """
    if generated.shape != real.shape:
        raise ValueError(f"both errors are of the same clips, not {tuple(generated.shape)} and {tuple(real.shape)}")
    return mean_interval(generated.mean(1), episodes, over=real.mean(1), seed=seed)


def _check_effects(effects: Sequence[int], num_actions: int) -> None:
    if len(effects) != num_actions or set(effects) != set(range(max(effects) + 1)):
        raise ValueError(f"effects must number the effect of {num_actions} actions from 0 without a gap, not {effects}")


@dataclass(frozen=True)
class JudgeFile:
    """A trained judge on disk: float16 weights, and beside them a card (JSON) that pins their SHA-256.

    The card also says under `actions` what the judge was trained to read, "discrete" actions or "vectors".
    """

    path: Path

    @property
    def card(self) -> dict[str, Any]:
        """What the judge was trained on and how well it reads real video; raises FileNotFoundError if absent."""
        card: dict[str, Any] = json.loads(self.path.with_suffix(".json").read_text())
        return card

    @property
    def frames(self) -> tuple[int, ...]:
        """Height and width of the frames that it is shown."""
        settings = self.card["settings"]
        return tuple(settings.get("frames") or (settings["frame_size"],) * 2)

    @property
    def reads_vectors(self) -> bool:
        """Whether its answers are action vectors; if its card does not say, they are logits of discrete actions.

        Raises ValueError if the card says neither.
        """
        kind = self.card.get("actions", DISCRETE)
        if kind not in (DISCRETE, VECTORS):
            raise ValueError(
                f"the card of {self.path.name} should have actions {DISCRETE!r} or {VECTORS!r}, not {kind!r}"
            )
        return bool(kind == VECTORS)

    def load(self) -> ActionJudge:
        """The judge, in eval mode. Raises FileNotFoundError if absent, ValueError if the weights are not the card's."""
        card, data = self.card, self.path.read_bytes()
        found = hashlib.sha256(data).hexdigest()
        if found != card["sha256"]:
            raise ValueError(f"{self.path.name} has SHA-256 {found}, not its card's {card['sha256']}; restore the file")
        judge = ActionJudge(**card["settings"])
        judge.load_state_dict({name: value.float() for name, value in load(data).items()})
        return judge.eval().requires_grad_(False)

    def save(self, judge: ActionJudge, card: Mapping[str, Any]) -> None:
        """Write weights and card, each atomically; a half-written pair is caught by the SHA-256 when loaded."""
        data = save({name: value.half().contiguous() for name, value in judge.state_dict().items()})
        complete = {**card, "settings": judge.settings, "sha256": hashlib.sha256(data).hexdigest()}
        write_whole(self.path, data)
        write_whole(self.path.with_suffix(".json"), json.dumps(complete, indent=2) + "\n")


COINRUN_JUDGE = JudgeFile(Path(__file__).parent / "judges" / "coinrun.safetensors")
"""The judge of coinrun's actions that ships with the library; made by the `procgen_judge` recipe."""

METAWORLD_JUDGE = JudgeFile(Path(__file__).parent / "judges" / "metaworld.safetensors")
"""That of MetaWorld's, which are vectors; made by the `metaworld_judge` recipe."""
