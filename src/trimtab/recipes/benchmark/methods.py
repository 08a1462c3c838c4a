"""The ways of adapting a prior that the benchmark compares: what is trained for each, and what then answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from trimtab.adapters.avid import AVID
from trimtab.adapters.classifier_guidance import ActionClassifier, ClassifierGuidance, ReadingLoss
from trimtab.adapters.composition import action_guidance, product_of_experts
from trimtab.adapters.controlnet import ControlNet
from trimtab.adapters.finetune import Finetune
from trimtab.adapters.from_scratch import FromScratch
from trimtab.core.contracts import Denoiser, Prior
from trimtab.diffusion.losses import DenoisingLoss, clean_loss
from trimtab.diffusion.schedules import Schedule
from trimtab.forecast import fit_or_forecast, operations_per_step
from trimtab.networks.optimizers import Kind
from trimtab.priors.remembering import Remembering
from trimtab.recipes.procgen_prior import frames_task
from trimtab.training import ROTATION, Budget, ClipSource, Run

RATES = (3e-4, 1e-3, 3e-3)
"""Learning rates to choose among."""

CONTEXT_NOISE = 0.1
"""The largest deviation of what is added to the context of "AVID, noised": 13 steps of a byte."""

PASSES = 4
"""How often AVID trains on what the prior answered once."""

FORGOTTEN = 0.2
"""The share of clips whose actions are withheld where guidance needs an untold answer (AVID's)."""


def alone(prior: Prior, trained: Any, strength: float | None) -> Denoiser:
    """What was trained answers itself."""
    answer: Denoiser = trained
    return answer


def reading_task(trained: Any, schedule: Schedule, seed: int, **options: Any) -> nn.Module:
    return ReadingLoss(trained, schedule, seed=seed, **options)


@dataclass(frozen=True)
class Training:
    """Something that is trained.

    Attributes:
        build: the adapter's class, called as ``build(prior, **options)``, with what actions there are among the options.
        options: of `build`; adapters, classifier, small ControlNet and low-rank changes have equally many weights.
        task: called as ``task(model, schedule, seed)``, gives the loss.
        passes: how often each batch is trained on; if more than once, the prior is asked once, and remembers.
        num_frames: recorded frames to train on; None for the benchmark's.
        like: the training whose learning rate it shares; itself by default.
        rates: learning rates to choose among, on validation levels; one leaves no choice.
        optimizer: of the weights.
    """

    build: type[Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    task: Callable[..., nn.Module] = frames_task
    rates: Sequence[float] = RATES
    passes: int = 1
    num_frames: int | None = None
    like: str | None = None
    optimizer: Kind = "adamw"

    def assembled(self, prior: Prior, seed: int, actions: Mapping[str, int]) -> tuple[Any, nn.Module]:
        """An untrained model, and its loss; `actions` are the options `num_actions` or `action_dim`."""
        torch.manual_seed(seed)
        asked = Remembering(prior, ROTATION) if self.passes > 1 else prior
        model = self.build(asked, **{**actions, **self.options})
        return model, self.task(model, prior.schedule, seed)

    def fitted(
        self,
        task: nn.Module,
        clips: ClipSource,
        teraflops: float,
        *,
        batch_size: int,
        lengths: Sequence[int],
        dry_run: bool,
        **options: Any,
    ) -> tuple[Run | None, float]:
        """Train for so many operations, in 10^12; also how many a step takes. The options are those of `fit`."""
        batches: dict[str, Any] = {"batch_size": batch_size, "lengths": lengths, "passes": self.passes}
        step = self.teraflops_a_step(task, clips, batch_size, lengths)
        budget = Budget(steps=round(teraflops / step))
        options = {"average_decay": 0.995, "optimizer": self.optimizer, **options}
        return fit_or_forecast(dry_run, task, clips, budget, **batches, **options), step

    def teraflops_a_step(self, task: nn.Module, clips: ClipSource, batch_size: int, lengths: Sequence[int]) -> float:
        """Operations of a training step, in 10^12."""
        return operations_per_step(task, clips, batch_size=batch_size, lengths=lengths, passes=self.passes) / 1e12


@dataclass(frozen=True)
class Method:
    """A way of adapting a prior.

    Attributes:
        training: what it needs trained, by name; None for the prior alone.
        needs_weights: whether it needs the prior's weights, or its answers alone.
        compose: called as ``compose(prior, trained, strength)``, gives the denoiser.
        strengths: among which one is chosen on validation levels, when the training is done; none if there is no strength.
        varies: the method that this is a variation of, which is shown beside it, in figures of its own.
        along: what a variation differs in: in how many weights or frames, as points of one curve, or in something else.
        told_text: whether it is told what the clips show, in words, in training and when it is measured.
    """

    training: str | None
    needs_weights: bool = False
    compose: Callable[..., Denoiser] = alone
    strengths: Sequence[float] = ()
    varies: str | None = None
    along: Literal["parameters", "frames"] | None = None
    told_text: bool = False

    @property
    def is_made_once(self) -> bool:
        """Whether there is one cell of it, of the first seed, and not one of every seed."""
        return self.training is None or self.varies is not None


TRAININGS: dict[str, Training] = {
    "scratch": Training(FromScratch),
    "forgetful": Training(FromScratch, task=partial(frames_task, forgotten={"actions": FORGOTTEN}), like="scratch"),
    "classifier": Training(
        ActionClassifier, {"widths": (32, 64, 96), "depths": (1, 1, 2)}, reading_task, rates=(1e-4, *RATES)
    ),
    "controlnet": Training(ControlNet),
    "controlnet-small": Training(ControlNet, {"widths": (64, 96, 160), "depths": (1, 1, 2)}, rates=(*RATES, 1e-2)),
    "finetune": Training(Finetune, rates=(1e-4, *RATES)),
    "lora": Training(Finetune, {"rank": 40}, rates=(*RATES, 1e-2)),
    "avid": Training(AVID, passes=PASSES),
    "avid-no-mask": Training(AVID, {"learn_mask": False}, passes=PASSES, like="avid"),
    "avid-blind": Training(AVID, {"see_prior": False}, passes=PASSES, like="avid"),
    "avid-neither": Training(AVID, {"learn_mask": False, "see_prior": False}, passes=PASSES, like="avid"),
    "avid-mixture": Training(AVID, task=partial(frames_task, own=False), passes=PASSES, like="avid"),
    "avid-asked": Training(AVID, like="avid"),
    "avid-noised": Training(AVID, task=partial(frames_task, context_noise=CONTEXT_NOISE), passes=PASSES, like="avid"),
}

SIZES = {"small": (32, 64, 96), "large": (96, 128, 192)}
"""Widths of smaller and larger adapters; `change_unet`'s own lie between."""

FRAMES = (5_000, 20_000)
"""Sets to train on that are smaller than the benchmark's."""

VARIATIONS = ("noised", "mixture", "asked")
"""AVID with noise on its context; without the loss of its own belief; and with the prior asked about every batch anew."""

VARIED = {"from scratch": "scratch", "AVID": "avid"}
"""The methods that are trained in other sizes and on less data, too."""

TRAININGS |= {
    f"{name}-{size}": replace(TRAININGS[name], options={"widths": widths}, like=name)
    for name in VARIED.values()
    for size, widths in SIZES.items()
}
TRAININGS |= {
    f"{name}-{frames}": replace(TRAININGS[name], num_frames=frames, like=name)
    for name in VARIED.values()
    for frames in FRAMES
}

PAPER_RATE = (1e-4,)
SMALL: dict[str, Any] = {"model": "avid_unet", "width": 50, "heads": 4, "head_dim": 50}
LARGE: dict[str, Any] = {"model": "avid_unet", "width": 90, "heads": 6, "head_dim": 50}


def clean_task(denoiser: Any, schedule: Schedule, seed: int, **options: Any) -> nn.Module:
    """AVID's loss of its pixel models."""
    return DenoisingLoss(denoiser, schedule, loss=clean_loss, seed=seed, **options)


PAPER_TRAININGS: dict[str, Training] = {
    "scratch": Training(FromScratch, SMALL, clean_task, PAPER_RATE),
    "scratch-large": Training(FromScratch, LARGE, clean_task, PAPER_RATE),
    "forgetful": Training(FromScratch, SMALL, partial(clean_task, forgotten={"actions": FORGOTTEN}), PAPER_RATE),
    "classifier": Training(
        ActionClassifier, {"model": "avid_unet", "width": 80, "heads": 8, "head_dim": 64}, reading_task, PAPER_RATE
    ),
    "controlnet": Training(ControlNet, {}, clean_task, PAPER_RATE),
    "controlnet-small": Training(ControlNet, {"width": 52, "heads": 8, "head_dim": 64}, clean_task, PAPER_RATE),
    "finetune": Training(Finetune, {}, clean_task, (2e-5,)),
    "lora": Training(Finetune, {"rank": 32}, clean_task, PAPER_RATE),
    "avid": Training(AVID, SMALL, clean_task, PAPER_RATE),
    "avid-large": Training(AVID, LARGE, clean_task, PAPER_RATE),
    "avid-no-mask": Training(AVID, {**SMALL, "learn_mask": False}, clean_task, PAPER_RATE),
    "avid-blind": Training(AVID, {**SMALL, "see_prior": False}, clean_task, PAPER_RATE),
    "avid-neither": Training(AVID, {**SMALL, "learn_mask": False, "see_prior": False}, clean_task, PAPER_RATE),
}
"""At the paper's sizes and rates, around a prior of `trimtab procgen-prior --size paper`."""

SHARES = (0.2, 0.4, 0.6, 0.8, 0.9, 0.95)
"""Of an expert in a product. At 0 the prior is alone, at 1 the expert."""

PUSHES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Of a classifier; 1 is Bayes' rule."""


def product_above(prior: Prior, expert: Denoiser, strength: float) -> Denoiser:
    """The prior alone in the cleaner half of the noise levels."""
    return product_of_experts(prior, expert, strength, off_below=prior.schedule.num_levels // 2)


METHODS: dict[str, Method] = {
    "frozen prior": Method(None, compose=lambda prior, trained, strength: prior),
    "from scratch": Method("scratch"),
    "product of experts": Method("scratch", compose=product_of_experts, strengths=SHARES),
    "product of experts, fading": Method("scratch", compose=partial(product_of_experts, fades=True), strengths=SHARES),
    "product of experts, noisy half": Method("scratch", compose=product_above, strengths=SHARES),
    "action guidance": Method("forgetful", compose=action_guidance, strengths=(0.25, 0.5, 1.0, 2.0)),
    "classifier guidance": Method("classifier", compose=ClassifierGuidance, strengths=PUSHES),
    "ControlNet": Method("controlnet", needs_weights=True),
    "ControlNet, small": Method("controlnet-small", needs_weights=True),
    "finetuning": Method("finetune", needs_weights=True),
    "LoRA": Method("lora", needs_weights=True),
    "AVID": Method("avid"),
    "AVID without mask": Method("avid-no-mask"),
    "AVID blind to the prior": Method("avid-blind"),
    "AVID without both": Method("avid-neither"),
}

METHODS |= {
    f"{method}, {variation}": Method(
        f"{name}-{variation}", varies=method, along="parameters" if variation in SIZES else "frames"
    )
    for method, name in VARIED.items()
    for variation in (*SIZES, *FRAMES)
}
METHODS |= {f"AVID, {variation}": Method(f"avid-{variation}", varies="AVID") for variation in VARIATIONS}


def slug(name: str) -> str:
    """The name of a method as a file's."""
    return name.lower().replace(",", "").replace(" ", "-")
