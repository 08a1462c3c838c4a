"""Classifier guidance: the frozen prior, pushed to where a classifier of noisy clips reads the wanted actions.

Dhariwal and Nichol, arXiv 2105.05233, as AVID compares itself with it (arXiv 2410.12822).
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from trimtab.core.checks import check_level
from trimtab.core.companions import Accompanied
from trimtab.core.contracts import BoundDenoiser, Codec, Denoiser, NoiseSchedule, Prior
from trimtab.core.values import Clip, Conditioning, Fact, NoiseLevel, Prediction, Video
from trimtab.diffusion.losses import encoded
from trimtab.diffusion.noise import gaussian_noise, uniform_integers
from trimtab.models import controller

REACH = 4.0
"""Continuous actions, in standard deviations, are told apart between minus and plus this, unless another is given."""

LEAST_ALPHA = 0.1
"""Of a noise level at which a classifier is heard; so no gradient is multiplied by more than ten times its weight."""


@runtime_checkable
class Classifier(Protocol):
    """Reads actions off noisy clips."""

    def log_likelihood(self, noisy: Video, level: NoiseLevel, given: Conditioning) -> Float[Tensor, " batch"]:
        """Of the actions in `given`, all of a clip's together, differentiable in the noisy clip."""


class ActionClassifier(nn.Module):
    """A `Classifier`: the half of a model that looks, and a head that reads off its coarsest features.

    Args:
        prior: whose clip length, context, frame shape and schedule to share.
        model: the name of a file in models/.
        num_actions: size of a discrete action set, or
        action_dim: width of a continuous action, each dimension of which is cut into `num_bins` equal bins.
        num_bins: of each number of a continuous action.
        reach: of the bins, from minus to plus this: in standard deviations for actions that are scaled by theirs.
        sizes: of the model's network.

    Raises:
        ValueError: neither or both of num_actions and action_dim, or a reach of 0 or less.
    """

    def __init__(
        self,
        prior: Prior,
        *,
        model: str = "change_unet",
        num_actions: int | None = None,
        action_dim: int | None = None,
        num_bins: int = 256,
        reach: float = REACH,
        **sizes: Any,
    ) -> None:
        super().__init__()
        if (num_actions is None) == (action_dim is None):
            raise ValueError(
                f"a classifier reads either num_actions or action_dim, got {num_actions} and {action_dim}; give one"
            )
        if not reach > 0:
            raise ValueError(f"bins reach from minus to plus a number above 0, got {reach}")
        self.controller: Any = controller(model, prior, **sizes)
        self.num_actions, self.action_dim = num_actions, action_dim
        self.num_bins, self.reach = num_bins, reach
        classes = num_actions if num_actions is not None else (action_dim or 0) * num_bins
        width = self.controller.channels[-1]
        self.head = nn.Sequential(
            nn.LayerNorm(16 * width), nn.Linear(16 * width, 512), nn.GELU(), nn.Linear(512, classes)
        )
        self.settings: dict[str, Any] = {
            "model": model, "num_actions": num_actions, "action_dim": action_dim, "num_bins": num_bins,
            "reach": reach,
            **self.controller.sizes,
        }  # fmt: skip

    def logits(self, noisy: Video, level: NoiseLevel, given: Conditioning) -> Float[Tensor, "batch time what class"]:
        """Of the action that causes each frame; `what` counts the dimensions of continuous actions, one otherwise."""
        features = self.controller.bind(given.without("actions"))(noisy, level)[-1].float()
        rough = functional.adaptive_avg_pool2d(features, 4).flatten(1)
        return self.head(rough).unflatten(1, (self.action_dim or 1, -1)).unflatten(0, noisy.shape[:2])

    def log_likelihood(self, noisy: Video, level: NoiseLevel, given: Conditioning) -> Float[Tensor, " batch"]:
        return -self.errors(noisy, level, given).flatten(1).sum(1)

    def errors(self, noisy: Video, level: NoiseLevel, given: Conditioning) -> Float[Tensor, "batch time what"]:
        """Cross-entropies. Raises ValueError if there are no actions, or some that it was not built for."""
        logits = self.logits(noisy, level, given)
        return functional.cross_entropy(logits.movedim(-1, 1), self.classes(given, noisy.shape[1]), reduction="none")

    def classes(self, given: Conditioning, time: int) -> Int[Tensor, "batch time what"]:
        """The actions as the classifier numbers them."""
        actions = given.actions
        if actions is None or actions.shape[1] != time:
            came = "none" if actions is None else f"{actions.shape[1]}"
            raise ValueError(f"the classifier needs an action for each of {time} frames, got {came}")
        if actions.is_floating_point() != (self.action_dim is not None):
            raise ValueError(f"this classifier reads {self.settings}, got actions of {actions.dtype}")
        if self.action_dim is None:
            return actions[..., None].long()
        share = (actions.clamp(-self.reach, self.reach) + self.reach) / (2 * self.reach)
        return (share * self.num_bins).long().clamp(max=self.num_bins - 1)


class ReadingLoss(Accompanied):
    """The cross-entropy of a classifier on clips, at noise levels drawn at random; the counterpart of `DenoisingLoss`.

    Args:
        classifier: what is trained.
        schedule: of the prior that it is to guide.
        seed: of the draws, which depend on (seed, step, sample) alone.
        codec: encodes the clip's frames and context first; without it clips are already in the prior's space.
    """

    def __init__(
        self, classifier: ActionClassifier, schedule: NoiseSchedule, *, seed: int = 0, codec: Codec | None = None
    ) -> None:
        super().__init__()
        self.classifier, self.schedule, self.seed = classifier, schedule, seed
        self.companions = (codec,)  # which may be a module, and is not trained

    def forward(self, clip: Clip, *, step: int, samples: Tensor) -> Float[Tensor, " batch"]:
        """The loss of each sample, (batch,): the mean over frames and dimensions."""
        (codec,) = self.companions
        clip = clip if codec is None else encoded(clip, codec)
        clean = clip.video.float()
        index = uniform_integers(self.schedule.num_levels, seed=self.seed, step=step, samples=samples, purpose="level")
        level = self.schedule.level(index.to(clean.device))
        noise = gaussian_noise(tuple(clean.shape[1:]), seed=self.seed, step=step, samples=samples, device=clean.device)
        return self.classifier.errors(level.add_noise(clean, noise), level, clip.given).flatten(1).mean(1)


class ClassifierGuidance:
    """A `Denoiser`: the prior's belief about the noise, minus sigma * weight * the gradient of the log-likelihood.

    That is the score of the prior times the classifier's likelihood to the power `weight`. A clean video is moved by the
    gradient times weight * sigma^2 / alpha, without bound towards pure noise, where there is nothing to read: there the
    prior is alone. A sampler of few steps, of which the first would do so in full, needs that.

    Args:
        prior: never told the actions.
        classifier: of noisy clips of the same space.
        weight: of the classifier; 1 is Bayes' rule.
        off_below: levels of the prior's schedule (of 0 .. num_levels - 1) below which the prior is alone.
        least_alpha: where alpha, with sigma the sides of a triangle of hypotenuse 1, is below it, the prior is alone, too.

    Raises:
        ValueError: there is no such level.
    """

    def __init__(
        self,
        prior: Prior,
        classifier: Classifier,
        weight: float,
        *,
        off_below: int = 0,
        least_alpha: float = LEAST_ALPHA,
    ) -> None:
        check_level("off_below", off_below, prior.schedule.num_levels)
        self.prior, self.classifier, self.weight = prior, classifier, weight
        self.off_below, self.least_alpha = off_below, least_alpha
        self.space = prior.space

    @property
    def voices(self) -> tuple[Denoiser | Classifier, ...]:
        return (self.prior, self.classifier)

    @property
    def uses(self) -> frozenset[Fact]:
        return self.prior.uses | {"context", "actions"}

    def bind(self, given: Conditioning) -> BoundDenoiser:
        ask = self.prior.bind(given.without("actions"))

        def denoise(noisy: Video, level: NoiseLevel) -> Prediction:
            belief = ask(noisy, level)
            if given.actions is None:
                return belief
            with torch.enable_grad():
                point = noisy.detach().requires_grad_(True)
                likelihood = self.classifier.log_likelihood(point, level, given)
                (gradient,) = torch.autograd.grad(torch.where(given.is_known("actions"), likelihood, 0).sum(), point)
            index = self.prior.schedule.index_of(level)
            wanted = (self.weight * (index >= self.off_below)).reshape(index.shape + (1,) * (5 - index.ndim))
            alpha, sigma = level.broadcast()
            # Every kind is linear in the noise: what is added to it, as the belief's own kind, is added to the belief.
            added = Prediction(-sigma * wanted * gradient, "noise", torch.zeros_like(noisy), level).as_kind(belief.kind)
            is_clear = (alpha > 0) & (alpha >= self.least_alpha * torch.hypot(alpha, sigma))
            return belief.like(belief.tensor.float() + torch.where(is_clear, added.tensor, 0.0))

        return denoise


def tiny(prior: Prior) -> ClassifierGuidance:
    """By a classifier of toy size, of three actions, for tests."""
    classifier = ActionClassifier(prior, num_actions=3, widths=(32,), depths=(1,), patch=1)
    return ClassifierGuidance(prior, classifier, 1.0)
