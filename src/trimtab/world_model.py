"""A Gymnasium vector environment whose frames a video model imagines; knows no prior, method, simulator or file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from trimtab.core.contracts import Denoiser, Prior
from trimtab.core.values import Conditioning, Video
from trimtab.diffusion.noise import gaussian_noise

Sampler = Callable[[Denoiser, Video, Conditioning], Video]
"""(denoiser, starting noise, what is known) -> clean video, such as ``partial(ddim, pairs=pairs(schedule, 10))``."""

StartFrames = np.ndarray | Callable[[np.random.Generator], np.ndarray]
"""Real windows to begin from, (window, num_context, height, width, channel) uint8, or a function that draws one."""


class WorldModel(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """`num_envs` imagined episodes; every step samples the one frame that each environment's action causes.

    The spaces are those of the simulator that it imitates, so whatever plays that plays the dream. Rewards are zero and
    no episode terminates; all are truncated after `max_episode_steps`, which may exceed by far the clips that the model
    was trained on. The next `step` ignores its actions and begins the next episodes (`AutoresetMode.NEXT_STEP`).

    What an environment shows is a function of its seed, the number of its episode and its actions, to float tolerance:
    start window and noise are keyed by (seed, episode, step), so the rest of the batch changes nothing. This holds for
    deterministic samplers only; a stochastic one draws by place in the batch.

    Frames are handed on as context in float, in the space of the prior: rounding to bytes, or a trip through a lossy
    codec, would add an error at each step. They are clamped to `limits`, where real frames lie, so dreams stay there.

    Args:
        denoiser: the combination (or prior) to ask; it must use actions. Raises ValueError if it does not fit `prior`.
        prior: whose codec, schedule, clip length, frame shape and frame rate to go by.
        sampler: deterministic; starts at the noisiest level of the prior's schedule.
        start_frames: where episodes begin.
        num_envs: imagined episodes in parallel.
        max_episode_steps: after which an episode is truncated.
        num_actions: size of a discrete action set, or
        action_box: the (dim,) float32 Box of continuous actions.
        limits: of the space that the prior diffuses in; None for latents, which have none.
        device: where the models live.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP, "render_modes": ["rgb_array"]}  # noqa: RUF012
    render_mode = "rgb_array"

    def __init__(
        self,
        denoiser: Denoiser,
        prior: Prior,
        sampler: Sampler,
        start_frames: StartFrames,
        *,
        num_envs: int = 1,
        max_episode_steps: int = 200,
        num_actions: int | None = None,
        action_box: Box | None = None,
        limits: tuple[float, float] | None = (-1.0, 1.0),
        device: torch.device | str = "cpu",
    ) -> None:
        if num_envs < 1 or max_episode_steps < 1:
            raise ValueError(f"num_envs and max_episode_steps are at least 1, got {num_envs} and {max_episode_steps}")
        if "actions" not in denoiser.uses or denoiser.space != prior.codec.space:
            came = f"one that uses {sorted(denoiser.uses)}, in space {denoiser.space!r}"
            raise ValueError(f"expected a denoiser that uses actions, in space {prior.codec.space!r}; got {came}")
        if prior.num_context < 1 or prior.codec.frames_per_latent != 1:
            came = f"{prior.num_context} and {prior.codec.frames_per_latent}"
            raise ValueError(f"frame by frame goes a prior of num_context >= 1 and frames_per_latent 1, got {came}")
        self.denoiser, self.prior, self.sampler = denoiser, prior, sampler
        self._draw_window = start_frames if callable(start_frames) else lambda random: random.choice(start_frames)
        self.max_episode_steps, self.limits, self.device = max_episode_steps, limits, torch.device(device)
        self._first_sigma = prior.schedule.level(torch.tensor([prior.schedule.num_levels - 1])).sigma.item()

        # Frames are what the codec decodes: it may make them larger than what the prior diffuses.
        with torch.no_grad():
            shown = prior.codec.decode(torch.zeros(1, 1, *prior.frame_shape, device=self.device))
        channels, height, width = shown.shape[2:]
        self.num_envs = num_envs
        self.single_observation_space = Box(0, 255, (height, width, channels), np.uint8)
        self.single_action_space = self._one_action = action_space(num_actions, action_box)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.metadata = {**self.metadata, "render_fps": prior.frame_rate}
        self._seeds = np.random.default_rng().integers(2**31, size=num_envs).tolist()
        self._episode, self._step = -1, 0
        self._frames = np.zeros((num_envs, height, width, channels), np.uint8)
        self._context: Tensor | None = None  # (num_envs, num_context, ...) in the space of the prior; None before reset

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode in every environment.

        Args:
            seed: environment i gets seed + i, or the i-th of a list; None goes on to the next episode of the same seed.
            options: "frames", windows to begin from, (num_envs, num_context, height, width, channel) uint8.

        Returns:
            The last frame of each window, (num_envs, height, width, channel) uint8; and as information the "seed" and
            the "episode_number" of each environment.

        Raises:
            ValueError, ClosedEnvironmentError: a seed, an option or a start window is out of place; after `close`.
        """
        if self.closed:
            raise ClosedEnvironmentError("this world model is closed; build another one")
        if unknown := (options or {}).keys() - {"frames"}:
            raise ValueError(f"reset takes the option 'frames', not {sorted(unknown)}")
        seeds, episode = (self._seeds, self._episode + 1) if seed is None else (seed_each(seed, self.num_envs), 0)
        information = self._begin(seeds, episode, (options or {}).get("frames"))
        return self._frames.copy(), information

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Imagine the frame that each action, (num_envs,) integers or (num_envs, dim) floats, causes.

        Returns:
            Frames (num_envs, height, width, channel) uint8; rewards, all zero; terminations, all false; truncations;
            and information, as from `reset` when new episodes begin, else empty.

        Raises:
            ValueError, ResetNeeded, ClosedEnvironmentError: unfit actions; before `reset`; after `close`.
        """
        context, actions = self._present(), self._checked(actions, "(num_envs, ...)", 1)
        information: dict[str, Any] = {}
        if self._step == self.max_episode_steps:
            information = self._begin(self._seeds, self._episode + 1)
        else:
            video, frames = self._predict(context, actions[:, None], self._step)
            self._context, self._frames = torch.cat([context, video], dim=1)[:, 1:], frames[:, 0]
            self._step += 1
        never, over = np.zeros(self.num_envs, bool), np.full(self.num_envs, self._step == self.max_episode_steps)
        return self._frames.copy(), np.zeros(self.num_envs), never, over, information

    def imagine(self, actions: np.ndarray, *, chunk: int | None = None) -> np.ndarray:
        """What would follow from the present, which stays as it is; for planners.

        Frame k starts from the noise of the k-th `step` from here, whichever the candidate, so candidates differ by
        their actions alone. With ``chunk=1`` the frames are those of `step`. A longer chunk is denoised jointly, in
        fewer calls, and differs from those of `step` as far as the model lets frames see their neighbours.

        Args:
            actions: (num_envs, time, ...), or several candidates an environment, (num_envs, candidate, time, ...).
            chunk: frames to sample at once, at most `prior.num_frames`, which is the default.

        Returns:
            Frames (num_envs, [candidate,] time, height, width, channel) uint8. Raises as `step` does.
        """
        context, chunk = self._present(), self.prior.num_frames if chunk is None else chunk
        if not 1 <= chunk <= self.prior.num_frames:
            raise ValueError(f"chunk is 1 .. {self.prior.num_frames}, the clip length of the prior, got {chunk}")
        actions = self._checked(actions, "(num_envs, [candidate,] time, ...)", 2, 3)
        leading = actions.shape[: actions.ndim - len(self.single_action_space.shape or ())]
        plans = actions.reshape(-1, *actions.shape[len(leading) - 1 :])
        context, shown = context.repeat_interleave(len(plans) // self.num_envs, dim=0), []
        for first in range(0, leading[-1], chunk):
            video, frames = self._predict(context, plans[:, first : first + chunk], self._step + first)
            context = torch.cat([context, video], dim=1)[:, -self.prior.num_context :]
            shown.append(frames)
        return np.concatenate(shown, axis=1).reshape(*leading, *self._frames.shape[1:])

    def render(self) -> tuple[np.ndarray, ...]:
        """The last frame of each environment, (height, width, channel) uint8."""
        self._present()
        return tuple(self._frames.copy())

    @torch.no_grad()
    def _begin(self, seeds: list[int], episode: int, windows: Any = None) -> dict[str, Any]:
        """Start from these windows, or from those that the seeds draw; returns Gymnasium's information."""
        if windows is None:
            windows = np.stack([self._draw_window(np.random.default_rng([seed, episode])) for seed in seeds])
        expected = (self.num_envs, self.prior.num_context, *self._frames.shape[1:])
        if not isinstance(windows, np.ndarray) or windows.shape != expected or windows.dtype != np.uint8:
            raise ValueError(f"windows to begin from are {expected} uint8, got {describe(windows)}")
        start = self.prior.codec.encode(torch.tensor(windows, device=self.device).movedim(-1, -3) / 127.5 - 1)
        if self.limits is not None and not self.limits[0] <= start.min() <= start.max() <= self.limits[1]:
            reach = f"{start.min():.3g} .. {start.max():.3g}, beyond limits {self.limits}"
            raise ValueError(f"encoded start frames reach {reach}; pass limits=None for a prior that diffuses latents")
        self._seeds, self._episode, self._step = seeds, episode, 0
        self._context, self._frames = start, windows[:, -1].copy()
        facts = {"seed": np.array(seeds), "episode_number": np.full(self.num_envs, episode)}
        return facts | {f"_{name}": np.ones(self.num_envs, bool) for name in facts}

    @torch.no_grad()
    def _predict(self, context: Tensor, actions: np.ndarray, step: int) -> tuple[Video, np.ndarray]:
        """The video after `context`, from `step` on, and its frames as uint8; any number of plans an environment."""
        shape, steps = tuple(context.shape[2:]), range(step, step + actions.shape[1])
        draw = partial(gaussian_noise, shape, samples=[self._episode], purpose="dream")
        noise = torch.cat([draw(seed=s, step=t) for s in self._seeds for t in steps])
        noise = self._first_sigma * noise.unflatten(0, (self.num_envs, len(steps))).to(self.device)
        noise = noise.repeat_interleave(len(context) // self.num_envs, dim=0)
        given = Conditioning(context=context, actions=torch.from_numpy(actions).to(self.device))
        video = self.sampler(self.denoiser, noise, given)
        if video.shape != noise.shape or not torch.isfinite(video).all():
            raise ValueError(f"the sampler must answer a finite video {tuple(noise.shape)}, got {describe(video)}")
        video = video if self.limits is None else video.clamp(*self.limits)
        pixels = ((self.prior.codec.decode(video).float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return video, pixels.movedim(-3, -1).cpu().numpy()

    def _checked(self, actions: np.ndarray, layout: str, *num_leading: int) -> np.ndarray:
        """The actions, in the dtype of their space, if they lie in it and have so many axes before those of one."""
        actions, space, shape = np.asarray(actions), self._one_action, self._one_action.shape or ()
        low, high, kinds = (space.low, space.high, "f") if isinstance(space, Box) else (0, space.n - 1, "iu")
        leading = actions.ndim - len(shape)
        fit = leading in num_leading and actions.shape == (self.num_envs, *actions.shape[1:leading], *shape)
        fit = fit and actions.size > 0 and actions.dtype.kind in kinds
        if not fit or not ((low <= actions) & (actions <= high)).all():
            raise ValueError(f"actions are {layout}, {self.num_envs} environments, in {space}; got {describe(actions)}")
        return actions.astype(space.dtype)

    def _present(self) -> Tensor:
        """The context of every environment, if there is one."""
        if self.closed:
            raise ClosedEnvironmentError("this world model is closed; build another one")
        if self._context is None:
            raise ResetNeeded("no episode has begun; call reset() first")
        return self._context


def action_space(num_actions: int | None, box: Box | None) -> Discrete | Box:
    """The space of one environment's actions. Raises ValueError unless exactly one argument is given, and fits."""
    if box is None and num_actions is not None and num_actions >= 1:
        return Discrete(num_actions)
    if num_actions is None and box is not None and box.dtype == np.float32 and len(box.shape) == 1:
        return box
    raise ValueError(f"give num_actions >= 1 or a (dim,) float32 action_box, one of them; got {num_actions} and {box}")


def seed_each(seed: int | Sequence[int], num_envs: int) -> list[int]:
    """One seed an environment. Raises ValueError for another count, or what is no whole number in 0 .. 2**63 - 1."""
    several = [seed + i for i in range(num_envs)] if isinstance(seed, int | np.integer) else list(seed)
    whole = all(isinstance(one, int | np.integer) and 0 <= one < 2**63 for one in several)
    if len(several) != num_envs or not whole:
        raise ValueError(f"seed is one whole number or a list of {num_envs}, in 0 .. 2**63 - 1, got {seed}")
    return [int(one) for one in several]


def describe(values: Any) -> str:
    """Shape, dtype and range of an array, or what else it is, in an error message."""
    has_range = isinstance(values, np.ndarray | Tensor) and 0 not in values.shape
    kind = f"{values.dtype} {values.min()} .. {values.max()}" if has_range else type(values).__name__
    return f"{tuple(np.shape(values))} {kind}"
