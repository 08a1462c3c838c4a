"""Pretraining hears every game, whatever the size of its changes."""

import numpy as np
import pytest
import torch
from torch import nn

from trimtab.data.clips import Clips
from trimtab.data.episodes import Episodes
from trimtab.diffusion import schedules
from trimtab.diffusion.losses import DenoisingLoss
from trimtab.priors.pixel_unet import tiny
from trimtab.recipes.procgen_prior import GamesAlike, mean_change


class Brightening(Episodes):
    """One episode whose frames brighten by `rise` each, in steps of 1 / 127.5."""

    def __init__(self, rise: int) -> None:
        self.info = {"fps": 15, "features": {"action": {"info": {"action_names": ["none"]}}}}
        self.lengths, self.starts, self.levels = np.array([12]), np.array([0]), np.array([0])
        self.frames = (
            np.full((12, 16, 16, 3), 10, np.uint8) + (rise * np.arange(12, dtype=np.uint8))[:, None, None, None]
        )
        self.actions = np.zeros(12, np.int64)


def test_the_change_of_frames_is_measured_from_the_last_context_frame() -> None:
    assert mean_change(Clips(Brightening(4), num_frames=3)) == pytest.approx(4 * (1 + 2 + 3) / 3 / 127.5, rel=1e-4)


def test_a_quiet_game_counts_by_the_root_of_its_change() -> None:
    clips, prior = Clips([Brightening(1), Brightening(16)], num_frames=3), tiny()
    plain = DenoisingLoss(prior, schedules.cosine(50), seed=0)
    alike = GamesAlike(plain, clips)
    samples = torch.tensor([0, len(clips) - 1, 1])
    clip = clips.batch(samples)
    factors = alike(clip, step=3, samples=samples) / plain(clip, step=3, samples=samples)
    assert factors[0] == pytest.approx(4 * factors[1].item(), rel=1e-4)
    assert factors[2] == pytest.approx(factors[0].item())
    changes = torch.tensor([1.0, 16.0])  # what each contributes, on average as much as without weights
    assert (alike.weights * changes).mean() == pytest.approx(changes.mean().item(), rel=1e-4)
    assert sum(value.numel() for value in alike.parameters()) == sum(value.numel() for value in prior.parameters())
    assert isinstance(alike, nn.Module)
