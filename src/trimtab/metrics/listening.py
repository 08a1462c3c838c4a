"""Does a model listen to its actions? Told wrong ones, it should do worse; knows a function that imagines, and no model.

A video may look right whatever the actions were, so quality under the true actions does not answer this. Here the same
starts are imagined again, from the same noise, under actions that are wrong: if nothing changes the model is deaf, and
if the video gets no worse the actions were of no use.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from trimtab.core.values import Clip, Conditioning, Video
from trimtab.metrics.actions import Context, JudgeFile, is_recognised
from trimtab.metrics.frames import Lpips
from trimtab.metrics.intervals import NUM_RESAMPLES, Interval, mean_interval
from trimtab.metrics.weights import LPIPS_ALEX

Imagine = Callable[[Conditioning], Video]
"""What is known of some clips -> their videos, float32 in [-1, 1]; the start noise of a clip may depend on its position
in the batch, and on nothing else, so that only what is known makes a difference."""

Told = Num[Tensor, "batch step ..."]

WRONG = {
    "swapped": "those of another clip",
    "zeroed": "the action that does nothing, all along",
    "shuffled": "its own, in another order",
    "reversed": "its own, from last to first",
}
"""The wrong actions that the score averages over."""

UNTOLD = "untold"

NEGLIGIBLE = 0.01
"""A share of the LPIPS under true actions: a model whose wrong actions surely cost less than this does not listen."""

SAME_VIDEO = 1e-2
"""Two videos of one clip under one knowledge may differ by this much: one step of a byte, as some GPU sums vary."""


@dataclass(frozen=True)
class Listening:
    """What wrong actions do to a model's videos, with the protocol that it was measured under.

    A clip whose wrong actions are its true ones says nothing, and is left out of that kind's figures; `num_clips` of
    each interval counts those that are left.

    Attributes:
        score: what wrong actions cost: the mean cost over the kinds of `WRONG`, over the mean error. A share, above
            zero if the model uses its actions for good, zero if it is deaf.
        error: LPIPS between the videos under true actions and the real ones.
        response: for each kind of wrong actions, LPIPS between the videos under these and under true ones; 0 is deaf.
        cost: for each kind, the error under these minus the error under true ones; above zero: the true ones helped.
        follows: under swapped actions, where these are not the clip's own, the share that a judge recognises minus the
            share of the clip's own that it recognises in the same frames: 1 always does what it is told, -1 always what
            really happened. None without a judge.
        follows_on_real: the same figure for real videos and their own actions: as far as this judge can tell.
        left_out: kinds that have no figure, and why.
        protocol: everything else that the figures depend on, JSON.
    """

    score: Interval
    error: Interval
    response: Mapping[str, Interval]
    cost: Mapping[str, Interval]
    follows: Interval | None
    follows_on_real: Interval | None
    left_out: Mapping[str, str]
    protocol: Mapping[str, Any]

    @property
    def listens(self) -> bool | None:
        """Whether wrong actions surely cost something, surely cost next to nothing, or neither is sure (None)."""
        return True if self.score.low > 0 else False if self.score.high < NEGLIGIBLE else None

    def verdict(self) -> str:
        """What the intervals say, in a sentence or two."""
        cost = f"wrong ones raise its LPIPS by {_percent(self.score)}"
        is_deaf = all(response.high <= NEGLIGIBLE * self.error.mean for response in self.response.values())
        if self.listens:
            said = f"It listens to its actions: {cost}."
        elif self.listens is None:
            said = f"It is not told apart from a model that does not listen to its actions: {cost}."
        elif is_deaf:
            said = "It does not listen to its actions: its videos are all but the same whatever they are."
        elif self.score.high < 0:
            said = f"It does not listen to its actions, but takes them the wrong way: {cost}."
        else:
            said = f"It does not listen to its actions: its videos change with them, but {cost}."
        if self.follows is None or self.follows_on_real is None:
            return said
        word = "shows" if self.follows.low > 0 else "does not show" if self.follows.high < 0 else "is not seen to show"
        return (
            f"{said} Told another clip's actions, it {word} these rather than its own: by {_percent(self.follows)} of the "
            f"frames, where real video shows its own by {_percent(self.follows_on_real)}."
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values for JSON, the verdict included."""
        return {"verdict": self.verdict(), "listens": self.listens, **asdict(self)}


def measure_listening(
    imagine: Imagine,
    clip: Clip,
    levels: Int[Tensor, " batch"],
    *,
    idle: int | Float[Tensor, " dim"] | None = None,
    untold: bool = False,
    effects: Sequence[int] | None = None,
    judge_file: JudgeFile | None = None,
    chunk: int = 16,
    notes: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Listening:
    """Imagine the same clips under true and wrong actions, and say what the difference is.

    Args:
        imagine: what is known of at most `chunk` clips -> their videos, of the shape of the real ones; called once for
            each kind of actions and chunk, and once more to see that it answers the same twice.
        clip: what really happened, (batch, time, 3, height, width), float32 in [-1, 1], and what is known, with one
            action a frame.
        levels: the level of each clip, resampled as a whole for the intervals.
        idle: the action that does nothing: an index, without which discrete actions are not zeroed; of continuous
            actions, (dim,), zeros by default.
        untold: also ask for videos of which no action is known, for a model that allows it; not part of the score.
        effects: the effect of each discrete action: wrong actions of the same effects are not wrong, for the judge too.
        judge_file: reads actions off the videos, to say whether they show what was told; for discrete actions.
        chunk: clips imagined at once.
        notes: anything JSON that belongs to the protocol: dataset, sampler, fingerprints.
        seed: of the shuffles and of the bootstrap.

    Raises:
        ValueError: actions are missing, or fit neither the frames nor `idle`, `effects` or the judge; `imagine` answers
            differently when asked twice, or with videos of another shape, dtype or range; no actions are wrong on two
            levels; the videos under true actions are the real ones.
    """
    if chunk < 1 or levels.shape != clip.video.shape[:1]:
        raise ValueError(f"{len(clip.video)} clips need as many levels and chunk >= 1, not {len(levels)} and {chunk}")
    actions, levels = _checked_actions(clip, effects, judge_file), levels.to(clip.video.device)
    told: dict[str, Told | None] = {**wrong_actions(actions, idle=idle, seed=seed)}
    if untold:
        told[UNTOLD] = None  # knowing nothing is never the same as knowing the true actions
    says = {
        kind: torch.ones_like(levels, dtype=torch.bool) if wrong is None else _differs(wrong, actions, effects).any(1)
        for kind, wrong in told.items()
    }
    left_out = {} if "zeroed" in told else {"zeroed": "no action was named that does nothing; pass its index as idle"}
    for kind, which in says.items():
        if len(levels[which].unique()) < 2:
            left_out[kind] = "these are the true actions but for clips of fewer than two levels"
    told = {kind: wrong for kind, wrong in told.items() if kind not in left_out}
    averaged = [kind for kind in told if kind in WRONG]
    if not averaged:
        raise ValueError(f"no actions are wrong, so none can cost anything; measure on other clips: {left_out}")

    values = _imagine_and_compare(imagine, clip, told, judge_file, chunk)
    error = values["error"]
    if not error.any():
        raise ValueError("the videos under true actions are the real ones, so no share of their LPIPS can be named")
    cost = {kind: values[f"error, {kind}"] - error for kind in told}
    counted = torch.stack([says[kind] for kind in averaged])
    # What wrong actions cost a clip: the mean over those of its kinds that are wrong.
    own_cost = (torch.stack([cost[kind] for kind in averaged]) * counted).sum(0) / counted.sum(0).clamp(min=1)

    def interval(of: Tensor, which: Bool[Tensor, " batch"], over: Tensor | None = None) -> Interval:
        return mean_interval(of[which], levels[which], over=None if over is None else over[which], seed=seed)

    follows = follows_on_real = None
    swapped = told.get("swapped")
    if judge_file is not None and swapped is not None:
        differs = _differs(swapped, actions, effects)

        def shown(video: str, this: Told, that: Told) -> Interval:
            right, wrong = (is_recognised(values[f"read off {video}"], each, effects).double() for each in (this, that))
            return interval(((right - wrong) * differs).sum(1), says["swapped"], differs.sum(1))

        follows, follows_on_real = shown("swapped", swapped, actions), shown("real", actions, swapped)
    return Listening(
        score=interval(own_cost, counted.any(0), error),
        error=mean_interval(error, levels, seed=seed),
        response={kind: interval(values[f"response, {kind}"], says[kind]) for kind in told},
        cost={kind: interval(cost[kind], says[kind]) for kind in told},
        follows=follows,
        follows_on_real=follows_on_real,
        left_out=left_out,
        protocol={
            "num_clips": len(levels),
            "num_levels": len(levels.unique()),
            "num_predicted": clip.video.shape[1],
            "told": {kind: WRONG.get(kind, "nothing") for kind in told},
            "score": averaged,
            "idle": idle.tolist() if isinstance(idle, Tensor) else idle,
            "effects": None if effects is None else list(effects),
            "lpips": asdict(LPIPS_ALEX),
            "judge": None if judge_file is None else judge_file.card,
            "chunk": chunk,
            "intervals": {"share": 0.95, "resampled": "levels", "num_resamples": NUM_RESAMPLES, "seed": seed},
            "notes": dict(notes or {}),
        },
    )


def wrong_actions(actions: Told, *, idle: int | Float[Tensor, " dim"] | None = None, seed: int = 0) -> dict[str, Told]:
    """For each kind of `WRONG`, actions to tell each clip instead of its own; "zeroed" only where idle is known.

    Swapped are those of the clip before, in the order of the batch. A shuffle is a function of the seed and the clip's
    position, and differs from the true order unless all actions of the clip are equal.

    Args:
        actions: (batch, step) integers or (batch, step, dim) floats.
        idle: the action that does nothing: an index, or (dim,) floats, zeros by default.
        seed: of the shuffles.

    Raises:
        ValueError: idle is no action of this kind.
    """
    told = {"swapped": actions.roll(1, 0)}
    if actions.is_floating_point() and idle is None:
        idle = actions.new_zeros(actions.shape[2:])
    if idle is not None:
        action, is_index = torch.as_tensor(idle), not actions.is_floating_point()
        if action.shape != actions.shape[2:] or action.is_floating_point() == is_index or (is_index and action < 0):
            wanted = "an index from 0" if is_index else f"floats of shape {tuple(actions.shape[2:])}"
            raise ValueError(f"idle must be one action, {wanted}, not {idle}")
        told["zeroed"] = action.to(actions).expand_as(actions)
    shuffles = (_shuffled(own, np.random.default_rng([seed, clip])) for clip, own in enumerate(actions))
    told["shuffled"] = torch.stack(list(shuffles))
    told["reversed"] = actions.flip(1)
    return told


def under_every_action(imagine: Imagine, context: Context, num_actions: int, num_frames: int) -> dict[int, Video]:
    """The same starts under each discrete action, held all along: {action: (batch, num_frames, 3, height, width)}.

    Args:
        imagine: as in `measure_listening`; asked for all starts at once.
        context: the starts, (batch, num_context, 3, height, width), in [-1, 1].
        num_actions: how many actions there are.
        num_frames: to imagine.
    """
    return {
        action: imagine(Conditioning(context, torch.full((len(context), num_frames), action, device=context.device)))
        for action in range(num_actions)
    }


def under_every_dimension(
    imagine: Imagine,
    context: Context,
    deviation: Float[Tensor, " dim"],
    num_frames: int,
    *,
    idle: Float[Tensor, " dim"] | None = None,
) -> dict[tuple[int, int], Video]:
    """The same starts with one dimension of a continuous action held a standard deviation below or above idle.

    The keys are (dimension, -1 or 1); deviation and idle (zeros by default) are in units of the actions, (dim,); the
    rest is as in `under_every_action`.
    """
    centre = torch.zeros_like(deviation) if idle is None else idle
    shown = {}
    for dimension in range(len(deviation)):
        for sign in (-1, 1):
            action = centre.clone()
            action[dimension] += sign * deviation[dimension]
            actions = action.to(context.device).expand(len(context), num_frames, -1)
            shown[dimension, sign] = imagine(Conditioning(context, actions))
    return shown


def _checked_actions(clip: Clip, effects: Sequence[int] | None, judge_file: JudgeFile | None) -> Told:
    """The actions of a clip that can be measured."""
    actions = clip.given.actions
    if actions is None or not clip.given.is_known("actions").all():
        raise ValueError("the true actions of every clip must be known to compare them with wrong ones")
    if actions.shape[:2] != clip.video.shape[:2]:
        raise ValueError(
            f"there must be one action a frame, {tuple(clip.video.shape[:2])}, not {tuple(actions.shape[:2])}; "
            "cut the actions to those that cause the frames"
        )
    if (effects is not None or judge_file is not None) and actions.is_floating_point():
        raise ValueError("effects and judge_file are for discrete actions; leave them out for continuous ones")
    if effects is not None and not 0 <= int(actions.min()) <= int(actions.max()) < len(effects):
        raise ValueError(f"effects must name the effect of every action, up to {int(actions.max())}, not {effects}")
    if judge_file is not None and clip.given.context is None:
        raise ValueError("a judge reads the first action off the context too; give the clips their context")
    return actions


def _imagine_and_compare(
    imagine: Imagine, clip: Clip, told: Mapping[str, Told | None], judge_file: JudgeFile | None, chunk: int
) -> dict[str, Tensor]:
    """Clip by clip: the error under true actions; the response to each kind, and the error under it; what is read off."""
    lpips = Lpips().to(clip.video.device)
    judge = None if judge_file is None else judge_file.load().to(clip.video.device)
    found: dict[str, list[Tensor]] = defaultdict(list)
    for first in range(0, len(clip.video), chunk):
        part = itemgetter(slice(first, first + chunk))
        real, given = part(clip.video), clip.given.map(part)
        true = imagine(given)
        if first == 0:
            _check_same(true, imagine(given))
        found["error"].append(lpips(true, real).mean(1).double())
        for kind, wrong in told.items():
            video = imagine(given.without("actions") if wrong is None else replace(given, actions=part(wrong)))
            found[f"response, {kind}"].append(lpips(video, true).mean(1).double())
            found[f"error, {kind}"].append(lpips(video, real).mean(1).double())
            if kind == "swapped" and judge is not None and given.context is not None:
                found["read off swapped"].append(judge(given.context, video))
                found["read off real"].append(judge(given.context, real))
    return {name: torch.cat(parts) for name, parts in found.items()}


def _differs(told: Told, actions: Told, effects: Sequence[int] | None) -> Bool[Tensor, "batch step"]:
    """Where a clip is told something else than its own."""
    if effects is None:
        return (told != actions).flatten(2).any(2) if actions.ndim > 2 else told != actions
    table = torch.tensor(effects, device=actions.device)
    return table[told.long()] != table[actions.long()]


def _shuffled(actions: Num[Tensor, "step ..."], random: np.random.Generator) -> Num[Tensor, "step ..."]:
    """The actions of one clip in an order that makes a difference, if there is one."""
    if (actions == actions[0]).all():
        return actions
    while True:
        shuffled = actions[torch.from_numpy(random.permutation(len(actions)))]
        if not torch.equal(shuffled, actions):
            return shuffled


def _check_same(first: Video, second: Video) -> None:
    difference = (first - second).abs().max().item()
    if not difference <= SAME_VIDEO:  # also for NaN
        raise ValueError(
            f"imagine made two videos of the same clips that differ by {difference:.3g}; start it from noise that is a "
            "function of a seed and the position in the batch, or the noise would pass for the actions"
        )


def _percent(interval: Interval) -> str:
    mean, low, high = (f"{100 * value:.1f}%" for value in (interval.mean, interval.low, interval.high))
    return f"{mean} [{low}, {high}]".replace("-", "\N{MINUS SIGN}")
