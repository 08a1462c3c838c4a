"""The ways of adapting a text-to-video prior to a robot that planning compares: what is trained, and what then imagines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trimtab.adapters.avid import AVID
from trimtab.adapters.composition import (
    classifier_free_guidance,
    inverse_probabilistic_adaptation,
    probabilistic_adaptation,
)
from trimtab.adapters.dreambooth import DreamBooth, Preserving, Stills, drawn, evenly
from trimtab.adapters.finetune import Finetune
from trimtab.adapters.from_scratch import FromScratch
from trimtab.core.contracts import Denoiser, EncodesText, Prior
from trimtab.core.values import Fact
from trimtab.data.clips import Clips
from trimtab.data.episodes import Episodes
from trimtab.diffusion import sampling
from trimtab.diffusion.losses import DenoisingLoss, velocity_loss
from trimtab.networks.optimizers import Kind
from trimtab.recipes._held import clamp_of
from trimtab.recipes._prior import patch_of, words_of
from trimtab.training import ClipSource

SUBJECT, CLASS = "a [D] robot arm", "a robot arm"
NUM_STILLS, NUM_PRESERVED = 20, 200
MOST_STEPS_ON_STILLS = 1000
"""As in DreamBooth: so few stills are soon known by heart."""

MOST_STEPS_OF_FINETUNING = 1500
"""What was trained before needs fewer; a step of a prior that copies takes twice the time that its operations say."""

STILL_STEPS = 16
"""Sampling steps of the class's stills."""

UNTOLD: Mapping[Fact, float] = {"text": 0.1}
"""The share of clips whose text is withheld, as in arXiv 2504.15369."""


Demonstrations = Episodes | Sequence[Episodes]
"""One recorded set, or several."""


@dataclass(frozen=True)
class Training:
    """Something that is trained on the robot's demonstrations.

    Attributes:
        build: the adapter's class, called as ``build(prior, **options)``.
        options: of `build`.
        lesson: called as ``lesson(model, prior, episodes, seed)``, gives the loss and the clips.
        lengths: predicted frames of a step, in turn; None for those of the scale.
        optimizer: of the weights.
        learning_rate: of the optimizer.
        most: steps, however many more a budget of operations pays for.
        own_network: whether it has one, which hears texts as the prior is told them, and looks in as large patches.
        needs_weights: whether it needs the prior's weights, or its answers alone.
    """

    build: type[Any]
    lesson: Callable[[Any, Prior, Demonstrations, int], tuple[nn.Module, ClipSource]]
    options: Mapping[str, Any] = field(default_factory=dict)
    lengths: Sequence[int] | None = None
    optimizer: Kind = "adamw"
    learning_rate: float = 1e-3
    most: int | None = None
    own_network: bool = False
    needs_weights: bool = False

    def made(self, prior: Prior) -> Any:
        """An untrained model beside a prior."""
        own: dict[str, Any] = {}
        if self.own_network:
            own = {"text_dim": words_of(prior)([CLASS]).shape[-1], "patch": patch_of(prior)}
        return self.build(prior, **own, **self.options)

    def how(self, prior: Prior) -> dict[str, Any]:
        """By what it is trained, for the record; and in which words, where they are not those that ship."""
        own = {}
        if isinstance(prior, EncodesText):
            own = {"words": sha256(words_of(prior)([CLASS]).numpy().tobytes()).hexdigest()[:16]}
        return {"optimizer": self.optimizer, "learning_rate": self.learning_rate, **own}

    def shown(self, episodes: Demonstrations) -> dict[str, int]:
        """How much of what is demonstrated it sees, for the record."""
        if self.lesson is of_stills:
            return {"stills": NUM_STILLS}
        return {"demonstrations": sum(map(len, [episodes] if isinstance(episodes, Episodes) else episodes))}


def of_videos(model: Any, prior: Prior, episodes: Demonstrations, seed: int) -> tuple[nn.Module, Clips]:
    """The loss of clips and their texts, some of which are withheld."""
    clips = Clips(episodes, prior.num_context, prior.num_frames, encode=words_of(prior))
    task = DenoisingLoss(model, prior.schedule, own=velocity_loss, seed=seed, forgotten=UNTOLD, codec=prior.codec)
    return task, clips


def of_stills(model: Any, prior: Prior, episodes: Demonstrations, seed: int) -> tuple[nn.Module, Stills]:
    """The loss of a few stills of the robot, and of those that the prior draws for its class."""
    texts = words_of(prior)([SUBJECT, CLASS])
    sample = partial(
        sampling.dpm_solver_pp_2m, pairs=sampling.pairs(prior.schedule, STILL_STEPS), clamp=clamp_of(prior)
    )
    others = drawn(prior, texts[1], NUM_PRESERVED, sample, seed=seed)
    first = episodes if isinstance(episodes, Episodes) else episodes[0]
    subject = prior.codec.encode(evenly(first.frames, NUM_STILLS)[:, None])[:, 0]
    stills = Stills(subject, others, texts)
    return Preserving(DenoisingLoss(model, prior.schedule, seed=seed), stills), stills


SMALL: Mapping[str, Any] = {"widths": (32, 96, 128), "steady": True}
"""Of the networks that are trained beside the prior."""

TRAININGS: dict[str, Training] = {
    "in-domain": Training(FromScratch, of_videos, SMALL, optimizer="muon", learning_rate=4e-3, own_network=True),
    "avid": Training(AVID, of_videos, SMALL, optimizer="muon", learning_rate=4e-3, own_network=True),
    "temporal": Training(Finetune, of_videos, {"temporal": True}, most=MOST_STEPS_OF_FINETUNING, needs_weights=True),
    "dreambooth": Training(
        DreamBooth, of_stills, {"rank": 8}, lengths=(1,), learning_rate=1e-4, most=MOST_STEPS_ON_STILLS,
        needs_weights=True,
    ),
}  # fmt: skip

LARGE: Mapping[str, Any] = {"widths": (128, 256, 512), "depths": (3, 3, 3)}
"""Of the paper's in-domain model, which is AVDC's: channels and blocks of each resolution."""

LARGE_STEPS = 60_000
"""Of the paper's in-domain model."""

PAPER_TRAININGS: dict[str, Training] = {
    **{
        name: Training(build, of_videos, LARGE, learning_rate=1e-4, most=LARGE_STEPS, own_network=True)
        for name, build in {"in-domain": FromScratch, "avid": AVID}.items()
    },
    "temporal": replace(TRAININGS["temporal"], learning_rate=1e-4, most=LARGE_STEPS),
    "dreambooth": TRAININGS["dreambooth"],
}
"""At the size, rate and number of steps of arXiv 2504.15369, as far as it gives them: the last two are not in it."""


@dataclass(frozen=True)
class Adaptation:
    """A way of adapting a text-to-video prior.

    Attributes:
        training: what it needs trained, by name; None for the prior alone.
        compose: called as ``compose(prior, trained, how)`` with this adaptation, gives the denoiser.
        guidance: how far the answer goes beyond the untold one.
        strength: of the second voice; None where there is none.
        naming: what is added to each task's text.
        negative: a text that the prior is told where it would else be untold.
        normalise: divide the weights of a composition by their sum; else samples are not clamped, either.
        off_above: level, of a thousand that the prior's schedule is divided into, above which the second voice is silent;
            None if it never is.
        chosen: whether guidance and strength were chosen on validation tasks, by `trimtab metaworld-sweep`.
    """

    training: str | None
    compose: Callable[[Prior, Any, Adaptation], Denoiser]
    guidance: float = 2.5
    strength: float | None = None
    naming: str = ""
    negative: str | None = None
    normalise: bool = True
    off_above: int | None = None
    chosen: bool = False

    def denoiser(self, prior: Prior, trained: Any) -> Denoiser:
        """What imagines, of a prior and of what was trained beside it."""
        return self.compose(prior, trained, self)

    def words(self, prior: Prior) -> Callable[[Sequence[str]], torch.Tensor]:
        """Tasks in words to the token states that this method is told beside a prior."""
        encode = words_of(prior)
        return lambda texts: encode([text + self.naming for text in texts])

    def untold(self, prior: Prior) -> torch.Tensor | None:
        """The token states that stand for no text, (token, feature); None where nothing does."""
        return None if self.negative is None else words_of(prior)([self.negative])[0]

    def own(self) -> dict[str, Any]:
        """What is this method's own, in the protocol of a cell."""
        return {"guidance": self.guidance, "strength": self.strength, **self.form(), "chosen": self.chosen}

    def form(self) -> dict[str, Any]:
        """How it is composed and told, whatever its guidance and strength; what is chosen of these holds for one form."""
        return {name: vars(self)[name] for name in ("naming", "negative", "normalise", "off_above")}


def guided_prior(prior: Prior, trained: Any, how: Adaptation) -> Denoiser:
    return guided(prior, prior, how)


def guided(prior: Prior, trained: Any, how: Adaptation) -> Denoiser:
    return classifier_free_guidance(trained, how.guidance, untold=("text",), negative=how.untold(prior))


def probabilistic(prior: Prior, trained: Any, how: Adaptation) -> Denoiser:
    return probabilistic_adaptation(
        trained, prior, guidance=how.guidance, prior_strength=how.strength or 0.0, normalise=how.normalise
    )


def inverse(prior: Prior, trained: Any, how: Adaptation) -> Denoiser:
    silent = None if how.off_above is None else how.off_above * prior.schedule.num_levels // 1000
    return inverse_probabilistic_adaptation(
        trained, prior, guidance=how.guidance, in_domain_strength=how.strength or 0.0, negative=how.untold(prior),
        normalise=how.normalise, off_above=silent,
    )  # fmt: skip


PRIOR, IN_DOMAIN = "vanilla prior", "in-domain only"
FINETUNED, CUSTOMIZED = "direct finetuning", "subject customization"
PROBABILISTIC, INVERSE = "probabilistic adaptation", "inverse probabilistic adaptation"
LATE = f"{INVERSE}, low noise"
"""The inverse form in which the in-domain model is silent in the noisier half: where things go is the prior's to say. Below,
half of each errs less than the prior alone, even at the novel validation task (`trimtab score-alignment`)."""

ADAPTER = "AVID"
"""Told words alone, and trained on the same clips as the in-domain model, for as many operations."""

AS_WRITTEN = (f"{PROBABILISTIC}, as written", f"{INVERSE}, as written")
"""The two compositions with the paper's weights, which sum to 1 + guidance x strength."""

ADAPTATIONS: dict[str, Adaptation] = {
    PRIOR: Adaptation(None, guided_prior),
    IN_DOMAIN: Adaptation("in-domain", guided),
    FINETUNED: Adaptation("temporal", guided),
    CUSTOMIZED: Adaptation("dreambooth", guided, naming=f" with {SUBJECT}"),
    PROBABILISTIC: Adaptation("in-domain", probabilistic, strength=0.1),
    INVERSE: Adaptation("in-domain", inverse, strength=0.5),
    LATE: Adaptation("in-domain", inverse, strength=0.5, off_above=500),
    ADAPTER: Adaptation("avid", guided),
    AS_WRITTEN[0]: Adaptation("in-domain", probabilistic, strength=0.1, normalise=False),
    AS_WRITTEN[1]: Adaptation("in-domain", inverse, strength=0.5, normalise=False),
}


def learning(methods: Iterable[str], random_share: float) -> list[str]:
    """Of these methods those that depend on the demonstrations, where a share of their actions is random; else all."""
    return [name for name in methods if not random_share or (name in ADAPTATIONS and ADAPTATIONS[name].training)]


NEGATIVE = "bad quality, worse quality"
PAPER: dict[str, Adaptation] = {
    name: replace(
        how,
        guidance={PRIOR: 7.5, FINETUNED: 8.0, CUSTOMIZED: 7.5}.get(name, how.guidance),
        negative=NEGATIVE if name in (PRIOR, FINETUNED, CUSTOMIZED, INVERSE, LATE, AS_WRITTEN[1]) else None,
    )
    for name, how in ADAPTATIONS.items()
}
"""With the paper's guidance of each, and its text where the prior would be untold (arXiv 2504.15369)."""

NORMALISED = tuple(name for name in ADAPTATIONS if name not in AS_WRITTEN)

CHOICES = Path(__file__).parents[1] / "planning_choices.json"
"""What `trimtab metaworld-sweep` chose last; planning goes by it."""
