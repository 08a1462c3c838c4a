"""The distance of imagined videos is that of the library's FVD, and its interval holds it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from trimtab.core.contracts import Denoiser
from trimtab.core.values import Clip, Conditioning
from trimtab.metrics.distributions import fvd
from trimtab.priors import pixel_unet
from trimtab.recipes._held import Held
from trimtab.recipes.planning.continuations import continued, video_distance


def held_of(num: int, time: int) -> Held:
    video, context = (torch.rand(num, some, 3, 16, 16) * 2 - 1 for some in (time, 1))
    actions = torch.zeros(num, time, 4)
    clip = Clip(video, Conditioning(context, actions, text=torch.randn(num, 3, 5)))
    return Held(np.arange(num), clip, context, actions, torch.arange(num))


def test_every_clip_is_imagined_from_its_own_start_and_words() -> None:
    held, asked, prior = held_of(20, 2), list[Conditioning](), pixel_unet.tiny()

    def sample(denoiser: Denoiser, noise: torch.Tensor, given: Conditioning) -> torch.Tensor:
        assert given.actions is None
        asked.append(given)
        return noise

    first, again, other = (continued(prior, prior, sample, held, seed) for seed in (0, 0, 1))
    assert first.shape == held.clip.video.shape
    assert (first.min(), first.max()) == (-1, 1)  # noise goes beyond
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    for name in ("context", "text"):
        told = torch.cat([given.facts()[name] for given in asked[: len(asked) // 3]])
        assert torch.equal(told, held.clip.given.facts()[name])


@pytest.mark.slow
def test_the_distance_is_that_of_fvd(tmp_path: Path) -> None:
    torch.manual_seed(0)
    held = held_of(20, 8)
    imagined = held.clip.video.flip(0).contiguous()
    found = video_distance(imagined, held, tmp_path)
    assert found.mean == pytest.approx(fvd(imagined, held.clip.video, held.context), rel=1e-3)
    assert found.low <= found.mean <= found.high
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
