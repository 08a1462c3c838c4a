"""Trains the reader of a robot's actions from a frame and the next, and measures it on held-out episodes."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from rich import print
from torch import Tensor, nn
from torch.nn import functional

from trimtab.control.inverse_dynamics import Frames, InverseDynamics
from trimtab.core.checks import counted
from trimtab.core.contracts import Prior
from trimtab.core.files import write_whole
from trimtab.core.values import Clip
from trimtab.data.episodes import Episodes
from trimtab.forecast import fit_or_forecast
from trimtab.metrics.intervals import Interval
from trimtab.networks.precision import fast_products
from trimtab.recipes._prior import frame_size, prior_of
from trimtab.recipes.domains.metaworld import ACTION_REPEAT, MAX_STEPS, SIZE, play
from trimtab.recipes.reading.degraded import degrade
from trimtab.recipes.reading.drawn import Films, believed, clips_for, done_in, drawn_anew
from trimtab.recipes.reading.pairs import ACTION, Pairs, Part, commanded, divided, errors, moved, pair
from trimtab.training import Budget, record_settings

CHUNK = 128

WITHHELD = 0.5
"""The share of the pairs from which what the encoder sees is withheld, so that the stem learns to do without: the encoder's
maps soon know the scenes of training by heart."""

FROM_REAL = 0.25
"""The share of the pairs whose first frame is left as it is, as the frame that a plan goes on from is a real one."""

NUM_EPISODES = 24
"""Of each task, to record."""

NUM_LEARNED, NUM_MEASURED = 4000, 64
"""Clips that a prior draws to learn from, and to measure the error on."""


def inverse_dynamics(
    *,
    data: tuple[Path, ...] = (),
    learn: Literal["motion", "commands"] = "motion",
    num_episodes: int = NUM_EPISODES,
    action_repeat: int = ACTION_REPEAT,
    max_steps: int = MAX_STEPS,
    size: int = SIZE,
    held_out: float = 0.1,
    num_steps: int = 4000,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    width: int = 64,
    encoder: str | None = None,
    encoder_weights: Path | None = None,
    shift: int = 4,
    degraded: bool = True,
    imagined: str | None = None,
    drawn: float = 0.0,
    seed: int = 0,
    dry_run: bool = False,
    datasets: Path = Path("datasets"),
    output: Path = Path("runs/inverse-dynamics"),
) -> None:
    """Train inverse dynamics on MetaWorld episodes, and measure the error of each part of the action on others.

    Args:
        data: sets of `trimtab record-metaworld`, of the pace of the plans, such as those of its `--robot --action-repeat 4
            --max-episode-steps 50 --random-share 0.5 --random-hold 4`; what this command would record is not asked for
            then. By default metaworld-play and metaworld-roam among the datasets, the robot at play. At the tasks that are
            demonstrated, or that no plan is measured on, half of the choices are random and held for a while, since the
            expert's own can be guessed from where the arm is; in the scenes of the others all are: of these it may see what
            they look like, and not what is to be done.
        learn: to answer the action that would keep up the hand's motion, which is all seen in the two frames; or the
            command that was given, of which, as the arm lags behind, they show a part.
        num_episodes: to record of each task; twice as many of those at which all is random.
        action_repeat: for how many of the simulator's 1/80 seconds an action is held, in what is recorded; plans are made at
            the pace that the reader knows.
        max_steps: actions in an episode of it.
        size: of a frame of it, 64, 128, 256 or 512 pixels, as many as those of the prior that plans are made with.
        held_out: the share of the episodes that it is measured on.
        num_steps: optimizer steps.
        batch_size: pairs of frames a step.
        learning_rate: the highest; it warms up over the first tenth and then falls to zero.
        width: of the trained stem.
        encoder: what frozen features it reads beside the stem's, such as efficientnet-lite0; none by default, as scenes of
            which it saw little are read better by the stem alone.
        encoder_weights: the safetensors file of vc1 or dinov2, of which no package has the weights.
        shift: by up to so many pixels both frames of a pair are displaced alike in training, for the stem.
        degraded: train the stem on frames as a video model may draw them: half of the pairs blurred, all with some noise.
        imagined: the name of a prior that ships with the package, the path of one, or ``module:function``
            (docs/your_model.md): the error is measured on frames that it generates, too. What was done in a clip that is
            imagined freely is unknown, so held-out clips are covered by noise in part, and drawn anew by the prior from
            there: of little noise, what was done shows through, and the
            error is what the model's way of drawing costs the reader; from noise alone, that the model imagined another
            motion than the one recorded adds to it.
        drawn: the share of the pairs, 0 to 1, that are as this prior believes them where noise covers what was recorded.
        seed: of the choice of episodes, the weights and the batches.
        dry_run: record what data are missing, and then only say what the training will need in memory, time and disk.
        datasets: where recorded episodes are kept, unless `data` names the sets.
        output: run folder; inverse_dynamics.safetensors in it is the result, and results.json says how good it is.
    """
    if not 0 <= drawn <= 1 or (drawn and imagined is None):
        raise ValueError(
            f"drawn is a share, 0 to 1, of the pairs that a prior draws, which --imagined names; got {drawn} of {imagined}"
        )
    settings = {name: value for name, value in locals().items() if name not in ("dry_run", "datasets")}
    if not drawn:
        del settings["imagined"]  # which is only measured then, and may be asked of what is trained
    if data and (num_episodes, action_repeat, max_steps, size) != (NUM_EPISODES, ACTION_REPEAT, MAX_STEPS, SIZE):
        raise ValueError(
            "num_episodes, action_repeat, max_steps and size are of what is recorded, and sets are given; leave out either"
        )
    if not 0 < held_out < 1 or shift < 0 or not 0 < learning_rate < math.inf:
        raise ValueError(
            "held_out is between 0 and 1, shift from 0 on and learning_rate above 0, got "
            f"{held_out}, {shift} and {learning_rate}"
        )
    counted(num_episodes=num_episodes, num_steps=num_steps, batch_size=batch_size)
    given = [Episodes.open(path) for path in data]
    torch.manual_seed(seed)
    prior = None if imagined is None else prior_of(imagined)
    side = given[0].frames.shape[1] if given else size
    if prior is not None and frame_size(prior) != (side, side):
        raise ValueError(f"the prior imagines frames of {frame_size(prior)}, the sets hold {(side, side)}")
    model = InverseDynamics(len(ACTION), side, width, encoder, encoder_weights)
    record_settings(output, "inverse-dynamics", settings, dry_run=dry_run)
    episodes = given or play(datasets, num_episodes, action_repeat=action_repeat, max_steps=max_steps, size=size)
    train, test = divided(episodes, held_out, seed)
    done = (moved if learn == "motion" else commanded)(episodes)
    held = None if prior is None else clips_for(prior, test, NUM_MEASURED)
    films = None
    if prior is not None and drawn and not dry_run:
        films = believed(prior, clips_for(prior, train, NUM_LEARNED), done, seed)
    task = Reading(model, train, done, shift, WITHHELD, seed, degraded, films, drawn)
    run = fit_or_forecast(
        dry_run, task, train, Budget(steps=num_steps), folder=output, title="inverse dynamics",
        batch_size=batch_size, learning_rate=learning_rate, warm_up=num_steps // 10, cool_down=0.9, lengths=(1,),
        seed=seed, log_every=100,
    )  # fmt: skip
    if run is None:
        return
    model = model.cpu()
    model.save(output / "inverse_dynamics.safetensors", **facts_of(episodes))
    read, actions = answers(model, test, done)
    mean = train.mean_action(done)
    found = errors(read, actions, mean, torch.from_numpy(test.episodes))
    generated = {}
    if prior is not None and held is not None:
        generated = errors_on_generated(model, prior, held, done, mean, seed)
    results = {
        "num_train_episodes": len(np.unique(train.episodes)),
        "num_test_episodes": len(np.unique(test.episodes)),
        "data": [{name: value for name, value in some.provenance.items() if name != "checksums"} for some in episodes],
        "held_out_error": found,
        "error_on_generated": generated,
    }
    write_whole(output / "results.json", json.dumps(results, indent=2) + "\n")
    print(table(found))
    for frames, figures in generated.items():
        print(f"\n{frames}\n{table(figures)}")


def facts_of(episodes: Sequence[Episodes]) -> dict[str, Any]:
    """For how many steps of the simulator an action is held, and how the robot looks (None: as the simulator draws it).

    Of the first None if the sets differ; of the second as many as there are. Nothing of what none of them says.
    """
    repeats = {some.provenance.get("action_repeat") for some in episodes}
    looks = [some.provenance["robot"] for some in episodes if "robot" in some.provenance]
    facts: dict[str, Any] = {} if repeats == {None} else {"action_repeat": repeats.pop() if len(repeats) == 1 else None}
    return facts | ({"looks": [look for n, look in enumerate(looks) if look not in looks[:n]]} if looks else {})


class Reading(nn.Module):
    """The task for `fit`. What the frozen encoder sees in a frame is remembered, in half precision, once it was asked.

    Args:
        model: to train.
        pairs: that it is trained on.
        done: the action to answer, of every row of the sets.
        shift: by up to so many pixels the frames of a pair are displaced alike, so that none is known by heart.
        withheld: the share of the pairs from which what the encoder sees is withheld.
        seed: of both, and of the next.
        degraded: whether the stem sees frames as a video model may draw them, but for some first ones.
        films: as a video model did draw them, for some of the pairs; of these what the encoder sees is withheld.
        drawn: their share.
    """

    def __init__(
        self,
        model: InverseDynamics,
        pairs: Pairs,
        done: Tensor,
        shift: int = 0,
        withheld: float = 0.0,
        seed: int = 0,
        degraded: bool = False,
        films: Films | None = None,
        drawn: float = 0.0,
    ) -> None:
        super().__init__()
        self.degraded, self.films, self.drawn = degraded, films, drawn
        self.model, self.pairs, self.shift, self.withheld, self.seed = model, pairs, shift, withheld, seed
        self.done = done
        size, num = model.settings["frame_size"], sum(some.num_frames for some in pairs.clips.sets)
        shape = model.see(torch.zeros(1, 3, size, size)).shape[1:]
        self.memory = torch.from_numpy(np.zeros((num, *shape), np.float16))  # takes no room until it is written to
        self.is_known = np.zeros(num, dtype=bool)

    def forward(self, clip: Clip, *, step: int, samples: Sequence[int] | Tensor) -> Float[Tensor, " batch"]:
        before, after = pair(clip)
        rows = self.pairs.rows(np.asarray(samples))
        actions = self.done[torch.from_numpy(rows)].to(before)
        random = np.random.default_rng([self.seed, step, 2])
        told = torch.from_numpy(random.random((len(rows), 1, 1, 1)) >= self.withheld).to(before)
        seen = self.see(before, rows), self.see(after, rows + 1)
        is_drawn = torch.zeros(len(rows), 1, 1, 1, dtype=torch.bool, device=before.device)
        if self.films is not None:
            is_drawn = torch.from_numpy(random.random((len(rows), 1, 1, 1)) < self.drawn).to(is_drawn)
            first, second, did = (part.to(before) for part in self.films.pairs(len(rows), random))
            before, after = torch.where(is_drawn, first, before), torch.where(is_drawn, second, after)
            actions, told = torch.where(is_drawn[:, 0, 0], did, actions), told * ~is_drawn
        before, after = displaced_alike(before, after, self.shift, random)
        if self.degraded:
            worse = degrade(torch.stack([before, after], dim=1), self.seed, step, samples).clamp(-1, 1)
            is_real = torch.from_numpy(random.random((len(rows), 1, 1, 1)) < FROM_REAL).to(is_drawn)
            before = torch.where(is_real | is_drawn, before, worse[:, 0])
            after = torch.where(is_drawn, after, worse[:, 1])
        with fast_products(before.device):
            return self.model.loss(before, after, actions, (seen[0] * told, seen[1] * told))

    def see(self, frames: Frames, rows: np.ndarray) -> Tensor:
        """The features of frames that lie in these rows of the sets."""
        if len(new := np.flatnonzero(~self.is_known[rows])):
            self.memory[rows[new]] = self.model.see(frames[new]).to(self.memory)
            self.is_known[rows] = True
        return self.memory[rows].to(frames)


def displaced_alike(before: Frames, after: Frames, most: int, random: np.random.Generator) -> tuple[Frames, Frames]:
    """Both frames of each pair, displaced by the same random whole numbers of pixels; what comes in repeats the border."""
    if not most:
        return before, after
    height, width = before.shape[-2:]
    wide = functional.pad(torch.cat([before, after], dim=1), (most,) * 4, mode="replicate")
    corners = random.integers(2 * most + 1, size=(len(wide), 2)).tolist()
    cut = [pair[:, top : top + height, left : left + width] for pair, (top, left) in zip(wide, corners, strict=True)]
    first, second = torch.stack(cut).chunk(2, dim=1)
    return first, second


def answers(model: InverseDynamics, pairs: Pairs, done: Tensor) -> tuple[Tensor, Tensor]:
    """What the model reads off recorded frames, and what was done: (pair, dim) each."""
    parts = np.array_split(pairs.numbers, -(-len(pairs.numbers) // CHUNK))
    read = [model.act(*pair(pairs.batch(part))) for part in parts]
    return torch.cat(read), done[torch.from_numpy(pairs.rows(pairs.numbers))]


@torch.no_grad()
def errors_on_generated(
    model: InverseDynamics, prior: Prior, held: Part, done: Tensor, mean_action: Float[Tensor, " dim"], seed: int
) -> dict[str, dict[str, dict[str, Any]]]:
    """The errors on frames that a prior draws anew, by what they are drawn from, beside those on the same clips as recorded.

    As a planner does, the model reads a real frame and the first drawn one, and then drawn ones. The prior is told the
    frames before, and the text if it hears one, and nothing of the actions.

    Args:
        model: to measure.
        prior: to draw.
        held: the clips, from `clips_for`.
        done: the action to answer, of every row of the sets.
        mean_action: the best answer of one who sees nothing.
        seed: of the noise.
    """
    clips, of = held.clips, held.episodes
    actions = done_in(held, done, clips.num_frames).flatten(0, 1)
    shown: dict[str, list[Tensor]] = {}
    for part in np.array_split(held.numbers, -(-len(held.numbers) // 16)):
        clip = held.batch(part)
        last = clip.given.facts()["context"][:, -1:]
        for frames, video in {"recorded": clip.video, **drawn_anew(prior, clip, part, seed)}.items():
            film = torch.cat([last, video], dim=1)
            shown.setdefault(frames, []).append(model.act(film[:, :-1].flatten(0, 1), film[:, 1:].flatten(0, 1)))
    episodes = torch.from_numpy(of).repeat_interleave(clips.num_frames)
    return {frames: errors(torch.cat(read), actions, mean_action, episodes) for frames, read in shown.items()}


def table(found: dict[str, dict[str, Any]]) -> str:
    """The errors as text, a line for each part of the action, beside that of always answering the mean."""
    lines = [f"{'held-out error':16}{'read off frames':28}{'the mean':10}R^2"]
    for name, figures in found.items():
        error, explained = (str(Interval(**figures[key])) for key in ("squared_error", "r_squared"))
        lines.append(f"{name:16}{error:28}{figures['of_the_mean']['mean']:<10.4g}{explained}")
    return "\n".join(lines)
