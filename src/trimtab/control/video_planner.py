"""Acts by what a video model imagines: reads actions off the video, and plays them; knows no prior, method or simulator.

Visual planning as in UniPi (arXiv 2302.00111) and Adapt2Act: a video is imagined from the current frame and the task in
words, inverse dynamics read an action off each frame and the next, some actions are played, and a new video is imagined.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from trimtab.control.episodes import Plan
from trimtab.core.contracts import Denoiser, Prior
from trimtab.core.values import Conditioning, Video
from trimtab.diffusion.noise import gaussian_noise
from trimtab.diffusion.sampling import known_temperature

Videos = Float[Tensor, "copy plan time channel height width"]
Actions = Float[Tensor, "copy plan time dim"]

Sampler = Callable[[Denoiser, Video, Conditioning], Video]
"""(denoiser, starting noise, what is known) -> clean video, such as ``partial(ddim, pairs=pairs(schedule, 10))``."""

Read = Callable[[Float[Tensor, "pair channel height width"], Float[Tensor, "pair channel height width"]], Tensor]
"""Frames in [-1, 1], and those that follow, to the actions between, (pair, dim), such as `InverseDynamics.act`."""

Choose = Callable[[Videos, Actions], Int[Tensor, " copy"]]
"""Imagined videos in [-1, 1], and the actions read off them, to the number of the plan that each copy follows."""

Encoder = Callable[[Sequence[str]], Float[Tensor, "text token feature"]]


@dataclass(frozen=True)
class Present:
    """Where some copies of an environment are: all that an imagination is told.

    Attributes:
        frames: the last that were seen, (copy, num_context, height, width, 3) uint8, the first one repeated where the
            episode is younger.
        copies: their numbers in the environment.
        texts: what each is to do, in words; None if nobody said.
        episodes: a number of each one's episode, such as its seed.
        step: how many actions of the episode were played.
    """

    frames: np.ndarray
    copies: tuple[int, ...]
    texts: tuple[str, ...] | None
    episodes: tuple[int, ...]
    step: int


@runtime_checkable
class Imagine(Protocol):
    """Videos of what comes next; an `Imagination`, or the truth."""

    @property
    def horizon(self) -> int:
        """Frames of each video."""

    @property
    def num_context(self) -> int:
        """Of the last frames that it asks to see, at least one."""

    def __call__(self, present: Present) -> Videos:
        """Frames in [-1, 1], the present one not among them, of one plan or several for each copy."""


class Imagination:
    """Videos that a denoiser imagines from the last frames and the task in words.

    The starting noise is a function of (seed, episode, step, plan), so the rest of the batch changes no video, to float
    tolerance. This holds for deterministic samplers; a stochastic one draws by place in the batch.

    Args:
        denoiser: the prior, the adapted prior or the combination to ask.
        prior: whose codec, schedule, clip length and frame shape to go by.
        sampler: deterministic; starts at the noisiest level of the prior's schedule.
        encode: sentences to token states, such as `networks.encoders.MiniLM`; needed by a denoiser that uses text.
        horizon: frames to imagine, 1 to `prior.num_frames`, which is the default. Who plays 4 actions of a plan spares
            itself the rest with 4, for a prior that was trained on shorter clips, too.
        num_plans: videos for each copy, all in one batch.
        temperature: the starting noise is scaled by it, 0 to 1: the lower, the more alike are plans, and at 0 all are the
            same. A stochastic sampler is told the same.
        seed: of the noise.
        device: where the models live.

    Raises:
        ValueError: a number is out of range; the denoiser does not fit the prior, or uses text and there is no `encode`.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        prior: Prior,
        sampler: Sampler,
        *,
        encode: Encoder | None = None,
        horizon: int | None = None,
        num_plans: int = 1,
        temperature: float = 1.0,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        horizon = prior.num_frames if horizon is None else horizon
        if not 1 <= horizon <= prior.num_frames or num_plans < 1:
            raise ValueError(
                f"horizon is 1 .. {prior.num_frames}, the clip length of the prior, and num_plans at least 1; got {horizon} "
                f"and {num_plans}"
            )
        if denoiser.space != prior.codec.space:
            raise ValueError(f"expected a denoiser in space {prior.codec.space!r}, got one in {denoiser.space!r}")
        if prior.num_context < 1 or prior.codec.frames_per_latent != 1:
            came = f"{prior.num_context} and {prior.codec.frames_per_latent}"
            raise ValueError(f"plans need a prior of num_context >= 1 and frames_per_latent 1, got {came}")
        if "text" in denoiser.uses and encode is None:
            raise ValueError("this denoiser uses text; pass encode, such as networks.encoders.MiniLM()")
        self.denoiser, self.prior, self.sampler = denoiser, prior, sampler
        self.horizon, self.num_context, self.num_plans = horizon, prior.num_context, num_plans
        self.seed, self.device = seed, torch.device(device)
        # One at a time, so that an encoder that pads or sums over its batch makes no difference.
        self._states = None if encode is None else cache(lambda text: encode([text])[0].to(self.device))
        first_sigma = prior.schedule.level(torch.tensor([prior.schedule.num_levels - 1])).sigma.item()
        self._deviation = known_temperature(temperature) * first_sigma

    @torch.no_grad()
    def __call__(self, present: Present) -> Videos:
        """Raises ValueError if nobody said what to do, or the sampler's answer is not finite or of another shape."""
        known = Conditioning(
            context=self.prior.codec.encode(as_video(present.frames).to(self.device)), text=self._told(present)
        )
        known = known.map(lambda fact: fact.repeat_interleave(self.num_plans, dim=0))
        noise = torch.stack([self._noise(present, plan) for plan in range(self.num_plans)], dim=1).flatten(0, 1)
        video = self.sampler(self.denoiser, noise, known)
        if video.shape != noise.shape or not torch.isfinite(video).all():
            raise ValueError(f"the sampler must answer a finite video {tuple(noise.shape)}, got {tuple(video.shape)}")
        frames = self.prior.codec.decode(video).float().clamp(-1, 1)
        return frames.unflatten(0, (len(present.copies), self.num_plans))

    def _told(self, present: Present) -> Tensor | None:
        if self._states is None:
            return None
        if present.texts is None:
            raise ValueError("nobody said what to do; pass reset the text of each copy")
        return torch.stack([self._states(text) for text in present.texts])

    def _noise(self, present: Present, plan: int) -> Video:
        shape = (self.horizon, *self.prior.frame_shape)
        draw = gaussian_noise(
            shape,
            seed=self.seed,
            step=present.step,
            samples=present.episodes,
            purpose=f"plan {plan}",
            device=self.device,
        )
        return self._deviation * draw


def medoid(videos: Videos, actions: Actions) -> Int[Tensor, " copy"]:
    """The plan whose actions are nearest to the mean over plans.

    Not the mean itself, which nobody imagined (of a way around to the left and one to the right it is neither), and not
    what a failed sample says, which lies far from it. Of two plans neither is nearer; three are needed.
    """
    return (actions - actions.mean(1, keepdim=True)).square().sum((2, 3)).argmin(1)


class VideoPlanner:
    """A policy for several copies of an environment: imagines, reads off actions, plays the first, and imagines again.

    The action between the present frame, which is real, and the first imagined one is played first; the next are read
    off two imagined frames, and what is seen meanwhile is not heeded.

    Args:
        imagine: what comes next; an `Imagination`.
        read: inverse dynamics; its actions are clamped to [-1, 1].
        replan_every: actions of a plan to play: 1 is the closed loop, `imagine.horizon` the open one.
        choose: which of several plans to follow.

    Raises:
        ValueError: `replan_every` is beyond what is imagined.
    """

    def __init__(self, imagine: Imagine, read: Read, *, replan_every: int = 1, choose: Choose = medoid) -> None:
        if not 1 <= replan_every <= imagine.horizon:
            raise ValueError(f"replan_every is 1 .. {imagine.horizon}, the frames imagined, got {replan_every}")
        self.imagine, self.read, self.replan_every, self.choose = imagine, read, replan_every, choose
        self.reset()

    def reset(self, texts: Sequence[str] | None = None, episodes: Sequence[int] | None = None) -> None:
        """Begin an episode in every copy.

        Args:
            texts: what each copy is to do, in words; may be left out where no text is used.
            episodes: a number for the episode of each copy, such as its seed, which decides its noise; by default its place.
        """
        self.plans: dict[int, Plan] = {}
        self._texts, self._episodes = texts, episodes
        self._step, self._seen = 0, np.empty(0)

    def act(self, frames: np.ndarray, active: np.ndarray | None = None) -> np.ndarray:
        """The next action of each copy.

        Args:
            frames: what the copies show, (num_envs, height, width, 3) uint8.
            active: (num_envs,) bool, which copies play; nothing is imagined for the others. By default all.

        Returns:
            Actions (num_envs, dim) float32 in [-1, 1]; zeros for copies that do not play.

        Raises:
            ValueError: frames or copies do not fit what was told before; what was imagined or read does not fit, or is not
                finite.
        """
        playing = self._playing(frames, active)
        past = np.repeat(frames[:, None], self.imagine.num_context, 1) if self._step == 0 else self._seen
        self._seen = np.concatenate([past[:, 1:], frames[:, None]], axis=1)
        due = [i for i in playing if i not in self.plans or self._step - self.plans[i].step >= self.replan_every]
        if due:
            self.plans.update(self._plan(due))
        actions = np.zeros((len(frames), self.plans[playing[0]].actions.shape[1]), np.float32)
        for copy in playing:
            actions[copy] = self.plans[copy].actions[self._step - self.plans[copy].step]
        self._step += 1
        return actions

    def _playing(self, frames: np.ndarray, active: np.ndarray | None) -> list[int]:
        """The numbers of the copies that play."""
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
            raise ValueError(f"frames are (num_envs, height, width, 3) uint8, got {frames.shape} {frames.dtype}")
        if self._step > 0 and self._seen[:, -1].shape != frames.shape:
            raise ValueError(f"frames were {self._seen[:, -1].shape}, got {frames.shape}; call reset() first")
        for name, each in (("texts", self._texts), ("episodes", self._episodes), ("active", active)):
            if each is not None and len(each) != len(frames):
                raise ValueError(f"{name} has one entry for each of {len(frames)} copies, got {len(each)}")
        playing = list(range(len(frames))) if active is None else np.flatnonzero(active).tolist()
        if not playing:
            raise ValueError("no copy is active; stop when all episodes are over")
        return playing

    @torch.no_grad()
    def _plan(self, copies: list[int]) -> dict[int, Plan]:
        """A plan for each of these copies, from the present on."""
        texts, episodes = self._texts, range(len(self._seen)) if self._episodes is None else self._episodes
        present = Present(
            frames=self._seen[copies],
            copies=tuple(copies),
            texts=None if texts is None else tuple(texts[copy] for copy in copies),
            episodes=tuple(episodes[copy] for copy in copies),
            step=self._step,
        )
        videos = self.imagine(present)
        now = as_video(present.frames[:, None, -1:]).to(videos)
        expected = (len(copies), max(1, videos.shape[1]), self.imagine.horizon, *now.shape[3:])
        if videos.shape != expected or not (videos.abs() <= 1).all():
            raise ValueError(
                f"imagine must answer (copy, plan, time, channel, height, width), here {expected}, in [-1, 1], got "
                f"{tuple(videos.shape)}; frames are those of the environment"
            )
        film = torch.cat([now.expand(-1, videos.shape[1], -1, -1, -1, -1), videos], dim=2)
        actions = self.read(film[:, :, :-1].flatten(0, 2), film[:, :, 1:].flatten(0, 2))
        if actions.ndim != 2 or len(actions) != videos.shape[:3].numel() or not torch.isfinite(actions).all():
            wanted = f"({videos.shape[:3].numel()}, dim)"
            raise ValueError(
                f"read must answer finite actions {wanted}, one a pair of frames, got {tuple(actions.shape)}"
            )
        actions = actions.float().clamp(-1, 1).unflatten(0, videos.shape[:3])
        chosen = enumerate(self.choose(videos, actions).tolist())
        return {
            copies[row]: Plan(self._step, as_pixels(videos[row, plan]), actions[row, plan].cpu().numpy())
            for row, plan in chosen
        }


def as_video(frames: np.ndarray) -> Float[Tensor, "*leading channel height width"]:
    """Frames (..., height, width, channel) uint8 as floats in [-1, 1]."""
    return torch.tensor(frames).movedim(-1, -3) / 127.5 - 1


def as_pixels(video: Float[Tensor, "*leading channel height width"]) -> np.ndarray:
    """Frames in [-1, 1] as (..., height, width, channel) uint8."""
    return ((video.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).movedim(-3, -1).cpu().numpy()
