"""DreamBooth: a copy of the prior that meets a subject in a few stills, and calls it by a word; needs the prior's weights.

Ruiz et al., arXiv 2208.12242, as arXiv 2504.15369 customises a video model by it: by low-rank changes to all
but what mixes frames, so that a subject known from stills alone moves as the prior knows that things do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from trimtab.core.checks import check_open
from trimtab.core.contracts import BoundDenoiser, OpenPrior, Prior
from trimtab.core.values import Clip, Conditioning, NoiseLevel, Prediction, Video
from trimtab.diffusion.sampling import start_noise
from trimtab.networks.low_rank import change_by_rank, save_trained_alone, train_only

Frames = Float[Tensor, "still channel height width"]
"""Stills in [-1, 1], or latents."""


class DreamBooth(nn.Module):
    """A `Denoiser`: a copy of the prior that draws, and reads, a little otherwise. It begins as the prior.

    The encoder of texts stays as it is, since other models hear the same; the attention to what it says changes.

    Args:
        prior: that hears texts. To be trained on stills it also answers without context (`context_optional`).
        rank: of the changes, one for every matrix and convolution that does not mix frames. They are all that is saved.

    Raises:
        ValueError: a rank below one, or a prior that hears no texts.
        TypeError: a prior whose weights are out of reach.
    """

    def __init__(self, prior: OpenPrior, *, rank: int = 8) -> None:
        super().__init__()
        check_open(prior, type(self).__name__)
        check_hears_text(prior)
        self.space, self.uses, self.settings = prior.space, prior.uses, {"rank": rank}
        network: Any = prior.told_actions()
        self.network = network
        train_only(network, ())
        change_by_rank(network, rank, spared=prior.temporal)
        save_trained_alone(self)

    def bind(self, given: Conditioning) -> BoundDenoiser:
        ask = self.network.bind(given.without("actions"))
        return lambda noisy, level: ask(noisy, level)[0]

    def forward(self, noisy: Video, level: NoiseLevel, given: Conditioning) -> Prediction:
        return self.bind(given)(noisy, level)


class Stills:
    """What `fit` draws clips from, of one frame (``lengths=(1,)``) and without context: the subject and its class in turn.

    Args:
        subject: about 20 stills of it, in the prior's space, such as `evenly` picks.
        others: stills of its class, that the prior itself drew (`drawn`), alike.
        texts: what subject and class are called, (2, token, feature): ``encode(["a [D] robot arm", "a robot arm"])``.

    Raises:
        ValueError: no stills, stills of two shapes, or the same text twice.
    """

    def __init__(
        self,
        subject: Float[Tensor, "still channel height width"],
        others: Float[Tensor, "other channel height width"],
        texts: Float[Tensor, "2 token feature"],
    ) -> None:
        if not len(subject) or not len(others) or subject.shape[1:] != others.shape[1:]:
            raise ValueError(
                "stills of the subject and of its class are needed, (still, channel, height, width) of one frame shape, "
                f"got {tuple(subject.shape)} and {tuple(others.shape)}"
            )
        if len(texts) != 2 or torch.equal(*texts):
            raise ValueError(
                "two texts are needed, the subject's with a word that the class's has not; got "
                + ("the same twice" if len(texts) == 2 else f"{len(texts)}")
            )
        self.num_subject, self.frames, self.texts = len(subject), torch.cat([subject, others]), texts

    def __len__(self) -> int:
        return len(self.frames)

    def draw(self, seed: int, step: int, num: int) -> np.ndarray:
        """Random numbers of stills (num,), every other of the subject's, a function of (seed, step) alone.

        In a draw none comes twice before all of its kind have come. Of an odd number every other draw begins with the class,
        so that draws of one do not see the subject alone.
        """
        generator, numbers = np.random.default_rng([seed, step]), np.empty(num, np.int64)
        first = step % 2 if num % 2 else 0
        for kind, places in (
            (range(self.num_subject), numbers[first::2]),
            (range(self.num_subject, len(self)), numbers[1 - first :: 2]),
        ):
            places[:] = np.resize(generator.permutation(kind), len(places))
        return numbers

    def batch(self, indices: Sequence[int] | np.ndarray | Tensor, num_frames: int | None = None) -> Clip:
        """Stills as clips, (batch, 1, channel, height, width), told their texts. Raises ValueError for longer clips."""
        if num_frames not in (None, 1):
            raise ValueError(f"stills are clips of one frame, not {num_frames}; pass lengths=(1,) to fit")
        numbers = torch.as_tensor(indices)
        return Clip(self.frames[numbers][:, None], Conditioning(text=self.texts[self.of_class(numbers).long()]))

    def of_class(self, indices: Tensor) -> Bool[Tensor, " batch"]:
        """Which of these stills show the class, and not the subject."""
        return indices >= self.num_subject


class Preserving(nn.Module):
    """A loss of stills that weighs those of the class, so that other subjects stay what they were (section 3.3).

    Args:
        task: the loss, such as `DenoisingLoss(model, prior.schedule)`.
        stills: that it is trained on.
        preservation: the weight, of at least zero; 1 in the paper.

    Raises:
        ValueError: a negative weight.
    """

    def __init__(self, task: nn.Module, stills: Stills, preservation: float = 1.0) -> None:
        super().__init__()
        if preservation < 0:
            raise ValueError(f"preservation is a weight of at least 0, not {preservation}")
        self.task, self.stills, self.preservation = task, stills, preservation

    def forward(self, clip: Clip, *, step: int, samples: Tensor) -> Float[Tensor, " batch"]:
        loss = self.task(clip, step=step, samples=samples)
        return torch.where(self.stills.of_class(samples).to(loss.device), self.preservation * loss, loss)


def evenly(frames: UInt8[np.ndarray, "frame height width channel"], num: int) -> Frames:
    """So many frames of a recorded set, `Episodes.frames`, at even distances. Raises ValueError if it has fewer."""
    if not 1 <= num <= len(frames):
        raise ValueError(f"of {len(frames)} frames 1 to {len(frames)} can be picked, not {num}")
    places = ((np.arange(num) + 0.5) * len(frames) / num).astype(np.int64)
    return torch.from_numpy(frames[places]).movedim(-1, 1).float() / 127.5 - 1


@torch.no_grad()
def drawn(
    prior: Prior,
    text: Float[Tensor, "token feature"],
    num: int,
    sample: Callable[[Prior, Video, Conditioning], Video],
    *,
    seed: int = 0,
    batch_size: int = 32,
) -> Frames:
    """Stills that a prior draws for a text, without context: of the subject's class, once, before the training.

    Args:
        prior: that hears texts, and answers without context.
        text: what the class is called, where the prior is.
        num: of stills; some hundreds, so that the copy does not learn them by heart.
        sample: a sampler of `diffusion.sampling`, its steps (and clamp) given by `functools.partial`.
        seed: of the noise, a function of this and the number of the still.
        batch_size: drawn at once.

    Raises:
        ValueError: no stills are asked for, or a prior that hears no texts or needs context.
    """
    check_hears_text(prior)
    if num < 1:
        raise ValueError(f"at least one still is drawn, not {num}")
    stills = []
    for samples in torch.arange(num).split(batch_size):
        noise = start_noise((1, *prior.frame_shape), seed, samples, device=text.device)
        given = Conditioning(text=text.expand(len(samples), *text.shape))
        stills.append(sample(prior, noise, given)[:, 0].cpu())
    return torch.cat(stills)


def check_hears_text(prior: Prior) -> None:
    """Raises ValueError for a prior of which text is no part of what it uses."""
    if "text" not in prior.uses:
        raise ValueError("a subject is called by a word, and this prior hears no texts; take one built with text_dim")
