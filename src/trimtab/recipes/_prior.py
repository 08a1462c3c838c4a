"""The prior that a command is told by a word: one that ships, a file of one, or what a function of the user's own makes."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.core.checks import is_open
from trimtab.core.contracts import EncodesText, Prior
from trimtab.core.values import Conditioning
from trimtab.networks.encoders import MiniLM
from trimtab.priors import pixel_unet
from trimtab.recipes._held import modules_of

OWED = (
    "uses", "space", "bind", "schedule", "num_context", "num_frames", "frame_shape", "codec", "frame_rate", "fingerprint",
)  # fmt: skip
"""What a `Prior` has."""

NUM_TOKENS = 24
"""Of a text, for the tabletop prior and all that is composed with it."""

SAID = ("a robot arm", "a robot arm opens the drawer")


def prior_of(name: str, schedule: str | None = None) -> Prior:
    """A prior by name, path, or ``module:function``, which is called without arguments, and whose prior is tried once.

    The module is a file in the folder that the command is called from, or one that is installed.

    Args:
        name: any of the three.
        schedule: that an embedded prior diffuses by instead of its own, if any; a prior of yours keeps its own.

    Raises:
        ValueError: no such prior, or what the function makes is none, or does not keep its word.
    """
    if ":" not in name or Path(name).exists():
        return pixel_unet.load(name, schedule=schedule)
    made: Prior = function_of(name)()
    if missing := [owed for owed in OWED if not hasattr(type(made), owed) and not hasattr(made, owed)]:
        raise ValueError(f"what {name} makes is no prior: it lacks {', '.join(missing)}; see docs/your_model.md")
    for module in modules_of(made):
        module.eval().requires_grad_(False)
    try:
        check_answers(made)
    except ValueError as error:
        raise ValueError(f"the prior of {name} does not keep its word: {error}; see docs/your_model.md") from error
    return made


def function_of(name: str) -> Callable[[], Any]:
    """What is called so in a module. Raises ValueError if there is no such module, or nothing in it that can be called."""
    module, function = name.rsplit(":", 1)
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    where = f"before the colon goes a file in {here}, without its .py, or a module that is installed"
    if not all(part.isidentifier() for part in module.split(".")):
        raise ValueError(f"no prior {name!r}: {module!r} is the name of no module; {where}")
    try:
        found = getattr(importlib.import_module(module), function, None)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise  # what the module itself imports
        raise ValueError(f"no prior {name!r}: {error}; {where}") from error
    if not callable(found):
        raise ValueError(f"no prior {name!r}: {module} has no function {function!r} that makes one")
    return found


@torch.no_grad()
def check_answers(prior: Prior) -> None:
    """Ask a prior once about a grey clip. Raises ValueError if something is not as it says, before hours rest on it."""
    if prior.space != prior.codec.space or prior.codec.frames_per_latent != 1:
        raise ValueError(
            f"it is of space {prior.space!r} and its codec of {prior.codec.space!r}, of {prior.codec.frames_per_latent} "
            "frames a latent; spaces must be one, and latents frames one by one"
        )
    context = prior.codec.encode(torch.zeros(1, prior.num_context, 3, *frame_size(prior)))
    if tuple(context.shape[1:]) != (prior.num_context, *prior.frame_shape):
        raise ValueError(f"frames are encoded as {tuple(context.shape[1:])}, but frame_shape is {prior.frame_shape}")
    text = None
    if "text" in prior.uses:
        first, second = (words_of(prior)([sentence]) for sentence in SAID)
        if first.ndim != 3 or first.shape != second.shape:
            raise ValueError(
                f"texts are encoded as {tuple(first.shape)} and {tuple(second.shape)}, not as (1, token, feature) of one "
                "number of tokens; pad what is short"
            )
        text = first
    given = Conditioning(context=context, text=text)
    noisy = torch.randn(1, prior.num_frames, *prior.frame_shape)
    level = prior.schedule.level(torch.tensor([prior.schedule.num_levels // 2]))
    answers = []
    for told in (given,) if text is None else (given, given.without("text")):
        answers.append(answer := prior.bind(told)(noisy, level).tensor)
        if answer.shape != noisy.shape or not torch.isfinite(answer).all():
            raise ValueError(
                f"asked about a clip of {tuple(noisy.shape)} it answers {tuple(answer.shape)}, or not in finite numbers"
            )
    if text is not None:  # what is trained beside it is untold in some samples of a batch
        two = given.map(lambda fact: fact.repeat_interleave(2, dim=0)).forget("text", torch.tensor([False, True]))
        level = prior.schedule.level(torch.full((2,), prior.schedule.num_levels // 2))
        found = prior.bind(two)(noisy.repeat(2, 1, 1, 1, 1), level).tensor
        far = [[(one - answer[0]).norm() for answer in answers] for one in found]
        if far[0][0] > far[0][1] or far[1][1] > far[1][0]:
            raise ValueError('it does not heed `given.is_known("text")`, which says of which samples the text is known')


def words_of(prior: Prior, num_tokens: int = NUM_TOKENS) -> Callable[[Sequence[str]], Tensor]:
    """Sentences to the token states that a prior is told, on the CPU: its own, or else MiniLM's, so many a text."""
    if not isinstance(prior, EncodesText):
        return MiniLM(num_tokens)
    own: EncodesText = prior

    @torch.no_grad()
    def encode(sentences: Sequence[str]) -> Float[Tensor, "sentence token feature"]:
        # One by one, as an encoder may round otherwise in company.
        return torch.cat([own.encode_text([sentence]) for sentence in sentences]).float().cpu()

    return encode


@torch.no_grad()
def frame_size(prior: Prior) -> tuple[int, int]:
    """Height and width of the frames that a prior imagines, in pixels."""
    height, width = prior.codec.decode(torch.zeros(1, 1, *prior.frame_shape)).shape[-2:]
    return height, width


def patch_of(prior: Any) -> int:
    """In which the network of an open prior looks at frames, 1 where it has none or is out of reach."""
    return int(prior.network.sizes.get("patch", 1)) if is_open(prior) else 1


def clip_length(prior: Prior, lengths: Sequence[int]) -> int:
    """Frames of the clips that are trained and measured on: the longest of a training's. Raises ValueError if a prior's are
    shorter.
    """
    if prior.num_frames < max(lengths):
        raise ValueError(f"clips of {max(lengths)} frames are asked for, and this prior predicts {prior.num_frames}")
    return max(lengths)
