"""The judge of texts: it learns which text a video shows, and what it says is counted rightly."""

from pathlib import Path

import numpy as np
import pytest
import torch

from trimtab.core.values import Clip, Conditioning
from trimtab.metrics import text_match
from trimtab.metrics.text_match import Matching, TextMatch, prefers, which_text
from trimtab.networks.attention import mean_token
from trimtab.training import Budget, fit

TEXTS = torch.zeros(2, 3, 4)
TEXTS[0, 0, 0] = TEXTS[1, :2, 1] = 1.0


class Dots:
    """A dot that goes right, told the first text, or down, told the second; from a random place."""

    def draw(self, seed: int, step: int, num: int) -> np.ndarray:
        return np.random.default_rng([seed, step]).integers(1000, size=num)

    def batch(self, indices: np.ndarray, num_frames: int | None = None) -> Clip:
        frames = torch.full((len(indices), 3, 3, 16, 16), -1.0)
        for row, number in enumerate(np.asarray(indices).tolist()):
            x, y = np.random.default_rng(number).integers(3, 10, size=2)
            for time in range(3):
                right, down = (2 * time, 0) if number % 2 == 0 else (0, 2 * time)
                frames[row, time, :, y + down : y + down + 2, x + right : x + right + 2] = 1.0
        text = TEXTS[torch.as_tensor(np.asarray(indices) % 2)]
        return Clip(frames[:, 1:], Conditioning(context=frames[:, :1], text=text))


def network() -> TextMatch:
    torch.manual_seed(0)
    return TextMatch(text_dim=4, num_frames=2, frame_size=16, width=8)


def test_it_learns_which_text_a_video_shows(tmp_path: Path) -> None:
    judge, dots = network(), Dots()
    fit(Matching(judge, TEXTS), dots, Budget(steps=120), folder=tmp_path, batch_size=32, lengths=(2,), warm_up=10)
    clip = dots.batch(np.arange(2000, 2100))
    known = clip.given.facts()
    logits, wanted = judge(known["context"], clip.video, TEXTS), which_text(known["text"], TEXTS)
    assert wanted.tolist() == [0, 1] * 50
    assert (logits.argmax(1) == wanted).float().mean() > 0.95
    assert prefers(logits, wanted, 1 - wanted).float().mean() > 0.95
    backwards = judge(clip.video[:, 1:], torch.cat([clip.video[:, :1], known["context"]], 1), TEXTS)
    assert not torch.allclose(backwards, logits, atol=0.1)  # the order of frames matters


def test_a_video_seen_otherwise_moves_as_it_did() -> None:
    video = Dots().batch(np.arange(8)).video
    still = video[:, :1].expand_as(video)
    seen, stands = text_match.seen_otherwise(video, 3), text_match.seen_otherwise(still, 3)
    assert torch.equal(seen, text_match.seen_otherwise(video, 3))
    assert not torch.allclose(seen, text_match.seen_otherwise(video, 4), atol=0.1)
    torch.testing.assert_close(stands, stands[:, :1].expand_as(stands))  # all frames of a video alike,
    torch.testing.assert_close(seen[:, 0], stands[:, 0])
    assert (seen[0] - seen[2]).abs().max() > 0.05  # and no two videos
    assert -1 <= seen.min() < seen.max() <= 1


def test_saved_and_loaded_it_says_the_same(tmp_path: Path) -> None:
    judge, clip = network().eval(), Dots().batch(np.arange(3))
    judge.save(tmp_path / "judge.safetensors", {"steps": 0})
    again = text_match.load(tmp_path / "judge.safetensors")
    known = clip.given.facts()
    torch.testing.assert_close(again(known["context"], clip.video, TEXTS), judge(known["context"], clip.video, TEXTS))


def test_empty_tokens_do_not_count() -> None:
    torch.testing.assert_close(mean_token(TEXTS), torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0]]))


def test_preference_is_between_two_texts() -> None:
    logits = torch.tensor([[0.0, 1.0, 5.0], [2.0, 1.0, 5.0]])
    assert prefers(logits, torch.tensor([1, 1]), torch.tensor([0, 0])).tolist() == [True, False]


def test_bad_input_is_named() -> None:
    judge, clip = network(), Dots().batch(np.arange(3))
    context = clip.given.facts()["context"]
    with pytest.raises(ValueError, match=r"clips of \(2, 3, 16, 16\)"):
        judge(context, clip.video[:, :1], TEXTS)
    with pytest.raises(ValueError, match="none of the 2"):
        which_text(torch.ones(1, 3, 4), TEXTS)
    with pytest.raises(ValueError, match="multiple of 8"):
        TextMatch(frame_size=20)
