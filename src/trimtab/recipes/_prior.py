"""The prior that a command is told by a word: one that ships, a file of one, or what a function of the user's own makes."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.core.checks import is_open
from trimtab.core.contracts import EncodesText, Prior
from trimtab.core.values import Conditioning, Prediction
from trimtab.networks.encoders import MiniLM
from trimtab.priors import pixel_unet
from trimtab.recipes._held import modules_of

OWED = (
    "uses", "space", "bind", "schedule", "num_context", "num_frames", "frame_shape", "codec", "frame_rate", "fingerprint",
)  # fmt: skip
"""What a `Prior` has."""

NUM_TOKENS = 24
"""Of a text, for the tabletop prior and all that is composed with it."""

TRIED = ("a robot arm", "a robot arm opens the drawer")
"""Texts of unlike length that a prior is tried with."""


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
    made = asked(f"{name} was called without arguments", function_of(name))
    if missing := [owed for owed in OWED if not hasattr(type(made), owed) and not hasattr(made, owed)]:
        raise ValueError(f"what {name} makes is no prior: it lacks {', '.join(missing)}; see docs/your_model.md")
    for module in modules_of(made):
        module.eval().requires_grad_(False)
    try:
        check_answers(made)
    except ValueError as error:
        raise ValueError(f"the prior of {name} does not keep its word: {error}; see docs/your_model.md") from error
    checked: Prior = made
    return checked


def asked(what: str, call: Callable[..., Any], *options: Any) -> Any:
    """What a call of the user's own code answers. Raises ValueError that says what was asked and where it failed."""
    try:
        return call(*options)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise ValueError(f"{what}, and failed at {last.filename}, line {last.lineno}: {error!r}") from error


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
        if not f"{module}.".startswith(f"{error.name}."):  # what the module itself imports
            raise ValueError(f"{module} was imported, and failed: {error!r}") from error
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
    grey = torch.zeros(1, prior.num_context, 3, *frame_size(prior))
    context = asked("its codec was asked to encode frames", prior.codec.encode, grey)
    if tuple(context.shape[1:]) != (prior.num_context, *prior.frame_shape):
        raise ValueError(f"frames are encoded as {tuple(context.shape[1:])}, but frame_shape is {prior.frame_shape}")
    given = Conditioning(context=context.repeat_interleave(2, dim=0))
    if "text" not in prior.uses:
        answer_of(prior, given, "what follows a grey clip")
        return
    first, second = (asked("it was asked to encode a text", words_of(prior), [sentence]) for sentence in TRIED)
    if first.ndim != 3 or first.shape != second.shape:
        raise ValueError(
            f"texts are encoded as {tuple(first.shape)} and {tuple(second.shape)}, not as (1, token, feature) of one "
            "number of tokens; pad what is short"
        )
    whose = "its own" if isinstance(prior, EncodesText) else "MiniLM's, as it has no encode_text"
    given = replace(given, text=first.repeat_interleave(2, dim=0))
    told = answer_of(prior, given, f"what follows a grey clip and a text, {tuple(first.shape)}, {whose}")
    untold = answer_of(prior, given.without("text"), "what follows a grey clip, untold (`given.text` is None)")
    half = given.forget("text", torch.tensor([False, True]))
    found = answer_of(prior, half, 'the same where `given.is_known("text")` is true for the first of two clips alone')
    # Where the text moves an answer less than rounding does, nothing can be said.
    if not all((one - right).norm() <= (one - wrong).norm() + 0.02 * right.norm() for one, right, wrong in (
        (found[0], told[0], untold[0]), (found[1], untold[1], told[1]),
    )):  # fmt: skip
        raise ValueError('it does not heed `given.is_known("text")`, which says of which samples the text is known')


def answer_of(prior: Prior, given: Conditioning, what: str) -> Tensor:
    """What a prior answers about two noisy clips, the same two at every call. Raises ValueError if it cannot be used."""
    noisy = torch.randn(1, prior.num_frames, *prior.frame_shape, generator=torch.Generator().manual_seed(0))
    noisy = noisy.repeat_interleave(2, dim=0)
    level = prior.schedule.level(torch.full((2,), prior.schedule.num_levels // 2))
    answer = asked(f"it was asked {what}", lambda: prior.bind(given)(noisy, level))
    if not isinstance(answer, Prediction):
        raise ValueError(f"asked {what} it answers no Prediction but {type(answer).__name__}")
    if answer.tensor.shape != noisy.shape or not torch.isfinite(answer.tensor).all():
        raise ValueError(
            f"asked {what}, of {tuple(noisy.shape)}, it answers {tuple(answer.tensor.shape)}, or not in finite numbers"
        )
    return answer.tensor.float().cpu()


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
        raise ValueError(
            f"clips of {max(lengths)} frames are asked for, and this prior predicts {prior.num_frames}; pass another"
        )
    return max(lengths)
