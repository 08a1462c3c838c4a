"""How much of everything planning does, and with what was chosen: on one small machine, and in the paper; trains nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from trimtab.core.checks import counted
from trimtab.core.contracts import Prior
from trimtab.core.values import Video
from trimtab.diffusion import sampling
from trimtab.recipes.domains.metaworld import (
    ACTION_REPEAT,
    FIRST_START,
    MAX_STEPS,
    NOVEL,
    NOVEL_OF_THE_PAPER,
    PLAYED,
    SEEN,
    TEMPERATURE,
)
from trimtab.recipes.planning.adaptations import (
    ADAPTATIONS,
    AS_WRITTEN,
    CHOICES,
    CUSTOMIZED,
    FINETUNED,
    IN_DOMAIN,
    NORMALISED,
    PAPER,
    PAPER_TRAININGS,
    PRIOR,
    TRAININGS,
    Adaptation,
    Training,
)
from trimtab.recipes.planning.results import TRUTHS
from trimtab.recipes.record_metaworld import ROBOT


@dataclass(frozen=True)
class Scale:
    """How much of everything.

    Attributes:
        tasks: that are planned; those that no demonstration shows are novel.
        methods: names, of ADAPTATIONS and TRUTHS.
        num_seeds: trainings of each.
        num_starts: start states of a task, the same for all.
        first_start: the seed of the first of them; the next have the next seeds.
        num_clips: of the experts, that videos are compared with and denoising is measured on.
        teraflops: floating-point operations of one training, in 10^12.
        sample: from noise to a video.
        num_steps: sampling steps of a plan.
        temperature: the noise that a video starts from is scaled by it, 0 to 1.
        num_plans: videos that are imagined at once, of which the one is followed whose actions are nearest to the mean.
        replan_every: actions that are played of a plan.
        horizon: frames that are imagined of it.
        action_repeat: for how many of the simulator's 1/80 seconds an action is held.
        max_steps: actions within which a task is to be done.
        batch_size: clips in a training step.
        lengths: predicted frames of a training step, in turn: mostly as many as a plan has, at times a whole clip, as
            videos are judged.
        trainings: by name, what is trained.
        adaptations: by name, with the guidance and strength that they are used with unless others are chosen.

    Raises:
        ValueError: a number is out of range.
    """

    tasks: Sequence[str] = (*SEEN, *NOVEL)
    methods: Sequence[str] = (*TRUTHS, *NORMALISED)
    num_seeds: int = 3
    num_starts: int = 10
    first_start: int = FIRST_START
    num_clips: int = 64
    teraflops: float = 200.0
    sample: Callable[..., Video] = sampling.dpm_solver_pp_2m
    num_steps: int = 4
    temperature: float = TEMPERATURE
    num_plans: int = 1
    replan_every: int = 4
    horizon: int = 4
    action_repeat: int = ACTION_REPEAT
    max_steps: int = MAX_STEPS
    batch_size: int = 8
    lengths: Sequence[int] = (1, 2, 4, 4, 4, 8)
    trainings: Mapping[str, Training] = field(default_factory=lambda: TRAININGS)
    adaptations: Mapping[str, Adaptation] = field(default_factory=lambda: ADAPTATIONS)

    def __post_init__(self) -> None:
        names = ("num_seeds", "num_starts", "num_clips", "num_steps", "num_plans")
        counted(**{name: getattr(self, name) for name in names})
        if not 0 < self.teraflops < math.inf:
            raise ValueError(
                f"teraflops are above 0 and finite, got {self.teraflops}; leave them out for the scale's own"
            )
        if self.first_start < FIRST_START:
            raise ValueError(
                f"first_start is {FIRST_START} or more, got {self.first_start}; lower seeds are those of what was learned "
                "from or chosen on"
            )
        if not 1 <= self.replan_every <= self.horizon:
            raise ValueError(
                f"of a plan of {self.horizon} frames 1 to {self.horizon} actions can be played, got replan_every "
                f"{self.replan_every}; imagine more frames (horizon), or play fewer"
            )
        sampling.known_temperature(self.temperature)

    def but(self, own: Mapping[str, Any]) -> Scale:
        """With these in place of its own, where they are given. Raises ValueError if one is out of range."""
        return replace(self, **{name: value for name, value in own.items() if value is not None})

    @property
    def pace(self) -> dict[str, int]:
        """At which the robot acts, and for how long."""
        return {"action_repeat": self.action_repeat, "max_steps": self.max_steps}

    @property
    def sampled(self) -> dict[str, Any]:
        """How videos are sampled, in the protocol of a cell."""
        return {"sampler": f"{self.sample.__name__}, {self.num_steps} steps", "temperature": self.temperature}

    @property
    def novel(self) -> tuple[str, ...]:
        return tuple(task for task in self.tasks if task not in PLAYED)


SCALES = {
    "smoke": Scale(num_seeds=1, num_starts=4, teraflops=16.0),
    "tiny": Scale(),
    "paper": Scale(
        tasks=("button-press", "window-open", *NOVEL_OF_THE_PAPER),
        methods=(*TRUTHS, PRIOR, IN_DOMAIN, FINETUNED, CUSTOMIZED, *AS_WRITTEN),
        num_starts=30, teraflops=1e9, sample=sampling.ddim, num_steps=25, replan_every=1, horizon=8, action_repeat=2,
        max_steps=200, batch_size=16, lengths=(8,), temperature=1.0, trainings=PAPER_TRAININGS,
        adaptations=PAPER,
    ),
}  # fmt: skip


def chosen(path: Path | None, prior: Prior, size: Scale, random_share: float = 0.0) -> dict[str, Adaptation]:
    """A scale's adaptations, with what was chosen for them beside this prior; the others stay as they are.

    What was chosen at another pace, of videos that were sampled otherwise, or for another form of the method, is not taken;
    how long was trained may differ. Where nothing was chosen with this share of random actions, what was with none is taken.

    Args:
        path: of the choices; None for those of the package, if it has any.
        prior: that is adapted.
        size: whose pace and sampling they have to be of.
        random_share: of the demonstrations' actions.

    Raises:
        ValueError: a file was named that is not there, or that holds no choice for this.
    """
    if path is not None and not path.is_file():
        raise ValueError(f"no choices in {path}; trimtab metaworld-sweep makes them: choices.json in its output")
    named, path = path is not None, path or CHOICES
    found = json.loads(path.read_text()) if path.exists() else {}
    ours = {"prior": prior.fingerprint, "look": asdict(ROBOT), **size.pace, **size.sampled}
    made = dict(size.adaptations)
    try:
        for name, how in size.adaptations.items():
            for key in (name, choice_name(name, random_share)):
                if key in found and holds({**ours, "form": how.form()}, found[key]["protocol"]):
                    one = found[key]
                    made[name] = replace(how, guidance=one["guidance"], strength=one["strength"], chosen=True)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} holds no choices of `trimtab metaworld-sweep` ({error!r})") from error
    if named and not any(how.chosen for how in made.values()):
        raise ValueError(
            f"{path} holds no choice for this: none is of {ours} and of a method's form; run `trimtab metaworld-sweep` with "
            "these, or name no --choices"
        )
    return made


def choice_name(method: str, random_share: float) -> str:
    """What a choice is called in its file: the method, with the share of random actions, if there are any."""
    return f"{method}, {random_share:.0%} random actions" if random_share else method


def holds(asked: Mapping[str, Any], protocol: Mapping[str, Any]) -> bool:
    """Whether a protocol, read from a file, says all that is asked."""
    return json.loads(json.dumps(asked)).items() <= protocol.items()
