"""Texts are encoded as by transformers' own loading, to one length, and what cannot be encoded is refused."""

import sys

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from trimtab.networks import encoders
from trimtab.networks.encoders import MINILM, MiniLM

TEXTS = ["open the drawer", "a robot arm closing a door", "Soccer"]


def test_token_states_are_those_of_the_encoder_that_transformers_loads() -> None:
    folder = MINILM["config.json"].locate().parent
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    reference = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    found = MiniLM(num_tokens=12)(TEXTS)
    assert found.shape == (3, 12, 384)
    assert found.dtype == torch.float32
    for states, text in zip(found, TEXTS, strict=True):
        with torch.no_grad():
            expected = reference(**tokenizer([text], return_tensors="pt")).last_hidden_state[0]
        torch.testing.assert_close(states[: len(expected)], expected, rtol=1e-4, atol=1e-5)
        assert not states[len(expected) :].any()


def test_a_text_is_encoded_alike_alone_and_among_others() -> None:
    encode = MiniLM()
    together, alone = encode(TEXTS), torch.cat([encode([text]) for text in TEXTS])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert not together.requires_grad


def test_empty_and_long_texts_are_refused() -> None:
    encode = MiniLM(num_tokens=6)
    assert encode(["one two three four"]).shape == (1, 6, 384)
    with pytest.raises(
        ValueError, match="a text has at most 4 words or pieces of words here, 'one two three four five' has 5"
    ):
        encode(["door", "one two three four five"])
    for text in ("", "  "):
        with pytest.raises(ValueError, match="a text has a word at least, and that of number 1 is empty"):
            encode(["door", text])
    with pytest.raises(ValueError, match="one sentence or more, got none"):
        encode([])
    with pytest.raises(TypeError, match="got the one 'door'; put it in a list"):
        encode("door")


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    encoders._minilm.cache_clear()
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"trimtab\[backbones\]"):
        MiniLM()
