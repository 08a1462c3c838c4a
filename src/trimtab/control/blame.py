"""Says which part of a visual planner is to blame for a failed episode; knows no prior, method or simulator.

One part at a time is swapped for the truth, which the environment's expert tells, and the episode is played again from the
same start. The first swap that restores success names the cause.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args, runtime_checkable

import numpy as np

from trimtab.control.episodes import Environment, Episode, Plan, run_episodes
from trimtab.control.video_planner import Present, VideoPlanner, Videos, as_video

Cause = Literal["the video", "the inverse dynamics", "the expert"]


@runtime_checkable
class Demonstrating(Environment, Protocol):
    """An environment with experts."""

    def expert_continuation(self, num_steps: int, copies: Sequence[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The frame after each action, (copy, num_steps, height, width, 3) uint8, and the actions, (copy, num_steps, dim),
        if the experts acted from now on; afterwards everything is as before."""


def first_cause(video_restores: bool, actions_restore: bool) -> Cause:
    """What to mend first, by which swaps for the truth restore success.

    "the video", if actions read off the true one succeed; else "the inverse dynamics", with or without the video, if the
    expert's actions succeed; else "the expert", who fails from this start, in so many steps.
    """
    if video_restores:
        return "the video"
    return "the inverse dynamics" if actions_restore else "the expert"


@dataclass(frozen=True)
class Blame:
    """A failed episode, and how it went with one part swapped for the truth.

    Attributes:
        failed: as the planner played it.
        true_video: actions were read off the expert's continuation instead of an imagined video.
        true_actions: the expert's actions were played, as many at a time as a plan was followed.
    """

    failed: Episode
    true_video: Episode
    true_actions: Episode

    @property
    def cause(self) -> Cause:
        """What to mend first."""
        return first_cause(self.true_video.success, self.true_actions.success)


def find_causes(
    environment: Demonstrating, planner: VideoPlanner, played: Sequence[Episode], *, keep_frames: bool = False
) -> list[Blame]:
    """Play the failed episodes again, from the same starts, with one part of the planner swapped at a time.

    Args:
        environment: that they were played in, one episode a copy.
        planner: that played them; it is left as it is.
        played: all that `run_episodes` answered, one a copy, in their order.
        keep_frames: keep what was seen with each swap, and the plans.

    Returns:
        One answer for each failed episode. Raises ValueError if there is not one episode a copy.
    """
    if len(played) != environment.num_envs:
        raise ValueError(f"expected the episodes of all {environment.num_envs} copies, got {len(played)}")
    failed = [copy for copy, episode in enumerate(played) if not episode.success]
    if not failed:
        return []
    knowing = Continuation(environment, planner.imagine.horizon)
    with_video = VideoPlanner(knowing, planner.read, replan_every=planner.replan_every, choose=planner.choose)
    again = [
        run_episodes(environment, player, [one.seed for one in played], copies=failed, keep_frames=keep_frames)
        for player in (with_video, Expert(environment, planner.replan_every))
    ]
    return [Blame(*episodes) for episodes in zip([played[copy] for copy in failed], *again, strict=True)]


def summary(blames: Sequence[Blame]) -> str:
    """How many failures each part is to blame for, as text: a line for each task, and one for all."""
    texts = sorted({blame.failed.text for blame in blames})
    rows = {text: [blame.cause for blame in blames if blame.failed.text == text] for text in texts}
    rows["all"] = [blame.cause for blame in blames]
    width = max(len(text) for text in ("failed episodes", *rows)) + 2
    lines = [f"{'failed episodes':{width}}" + "  ".join(get_args(Cause))]
    for text, causes in rows.items():
        lines.append(f"{text:{width}}" + "  ".join(f"{causes.count(cause):>{len(cause)}}" for cause in get_args(Cause)))
    return "\n".join(lines)


class Continuation:
    """The truth in place of an imagination: what would be seen if the expert acted from now on. One plan a copy.

    Args:
        environment: that the planner plays in.
        horizon: frames of each video.
    """

    num_context = 1

    def __init__(self, environment: Demonstrating, horizon: int) -> None:
        self.environment, self.horizon = environment, horizon

    def __call__(self, present: Present) -> Videos:
        return as_video(self.environment.expert_continuation(self.horizon, present.copies)[0])[:, None]


class Expert:
    """Plays what the environment's expert does, some actions at a time, whatever is seen meanwhile.

    Args:
        environment: that it plays in.
        replan_every: actions to play before the expert is asked again.
    """

    def __init__(self, environment: Demonstrating, replan_every: int = 1) -> None:
        self.environment, self.replan_every = environment, replan_every
        self.plans: Mapping[int, Plan] = {}
        self.reset()

    def reset(self, texts: Sequence[str] | None = None, episodes: Sequence[int] | None = None) -> None:
        self._step, self._ahead = 0, np.empty(0)

    def act(self, frames: np.ndarray, active: np.ndarray | None = None) -> np.ndarray:
        """The next action of each copy, (num_envs, dim) float32; zeros for copies that do not play."""
        playing = list(range(len(frames))) if active is None else np.flatnonzero(active).tolist()
        place = self._step % self.replan_every
        if place == 0:
            actions = self.environment.expert_continuation(self.replan_every, playing)[1]
            self._ahead = np.zeros((len(frames), *actions.shape[1:]), np.float32)
            self._ahead[playing] = actions
        self._step += 1
        now = self._ahead[:, place].copy()
        if active is not None:
            now[~active] = 0
        return now
