"""Statistics of masks against sums done by hand, and masks that failed in each known way."""

import json
import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import given as hypothesis_given
from hypothesis import settings
from hypothesis import strategies as some
from torch import Tensor

from trimtab.metrics.intervals import mean_interval
from trimtab.metrics.masks import CONSTANT, IGNORED, SHUT_OUT, MaskStatistics, mask_statistics, moving_places

CLIPS, STEPS, SIZE = 6, 3, 8
LEVELS = torch.arange(CLIPS) // 2


def corner(num: int = 2) -> Tensor:
    """Something moves in the upper left."""
    moving = torch.zeros(CLIPS, STEPS, 1, SIZE, SIZE, dtype=torch.bool)
    moving[..., :num, :num] = True
    return moving


def healthy(moving: Tensor, noise: float = 0.0) -> Tensor:
    return torch.where(moving, 0.5, 0.9 - 0.2 * noise)


@pytest.fixture(scope="module")
def statistics() -> MaskStatistics:
    return mask_statistics({noise: healthy(corner(), noise) for noise in (1.0, 0.0)}, corner(), LEVELS)


def test_figures_by_hand(statistics: MaskStatistics) -> None:
    """4 of 64 places move, trusted by 0.5; the others by 0.9 at noise 0 and 0.7 at noise 1."""
    clean, pure = statistics.by_noise[0.0], statistics.by_noise[1.0]
    assert [*statistics.by_noise] == [0.0, 1.0]
    assert clean.mean == pytest.approx((4 * 0.5 + 60 * 0.9) / 64)
    assert clean.deviation == pytest.approx(0.4 * math.sqrt(4 / 64 * 60 / 64))
    assert (clean.low, clean.median, clean.high) == pytest.approx((0.5, 0.9, 0.9))
    assert (clean.moving, clean.still) == pytest.approx((0.5, 0.9))
    assert (pure.moving, pure.still) == pytest.approx((0.5, 0.7))
    assert statistics.overall.mean == pytest.approx((clean.mean + pure.mean) / 2)
    assert statistics.overall.deviation == pytest.approx((clean.deviation + pure.deviation) / 2)
    assert (statistics.overall.moving, statistics.overall.still) == pytest.approx((0.5, 0.8))
    assert (statistics.overall.median, statistics.overall.high) == pytest.approx((0.7, 0.9))
    assert len(statistics.by_frame) == STEPS
    assert statistics.by_frame[0] == statistics.by_frame[2]
    assert statistics.by_frame[0].mean == pytest.approx(statistics.overall.mean)
    assert statistics.maps.shape == (2, STEPS, 1, SIZE, SIZE)
    torch.testing.assert_close(statistics.maps[1, 0, 0], healthy(corner(), 1.0)[0, 0, 0])
    assert statistics.failures() == []


def test_trust_where_things_move_has_an_interval_over_levels(statistics: MaskStatistics) -> None:
    for value, expected in (
        (statistics.moving, 0.5),
        (statistics.still, 0.8),
        (statistics.difference, 0.3),
        (statistics.correlation, -1.0),
    ):
        assert value is not None
        assert (value.mean, value.low, value.high) == pytest.approx((expected,) * 3)
        assert (value.num_clips, value.num_clusters) == (CLIPS, 3)


def test_frames_are_told_apart() -> None:
    mask = torch.linspace(0.2, 0.4, STEPS)[:, None, None, None].expand(CLIPS, STEPS, 1, SIZE, SIZE)
    statistics = mask_statistics({0.5: mask}, corner(), LEVELS)
    assert [frame.mean for frame in statistics.by_frame] == pytest.approx([0.2, 0.3, 0.4])
    assert statistics.overall.deviation == pytest.approx(0, abs=1e-7)  # over the places of a frame


def test_clips_in_which_nothing_or_everything_moves_say_nothing_of_it() -> None:
    moving = corner()
    moving[0], moving[1] = False, True
    mask = healthy(moving)
    statistics = mask_statistics({0.5: mask}, moving, LEVELS)
    assert statistics.moving is not None
    assert (statistics.moving.num_clips, statistics.moving.num_clusters) == (4, 2)
    nothing = mask_statistics({0.5: mask}, torch.zeros_like(moving), LEVELS)
    assert nothing.moving is nothing.still is nothing.difference is nothing.correlation is None
    assert nothing.overall.moving is None
    assert nothing.overall.still == pytest.approx(nothing.overall.mean)
    everything = mask_statistics({0.5: mask}, torch.ones_like(moving), LEVELS)
    assert everything.overall.still is None


def test_a_constant_mask_goes_with_nothing() -> None:
    statistics = mask_statistics({0.5: torch.full_like(corner(), 0.3, dtype=torch.float32)}, corner(), LEVELS)
    assert statistics.correlation is not None
    assert (statistics.correlation.low, statistics.correlation.high) == (0, 0)


@settings(max_examples=30, deadline=None)
@hypothesis_given(
    some.integers(2, 4), some.integers(1, 3), some.lists(some.floats(0, 1), min_size=1, max_size=3, unique=True),
    some.integers(0, 1000),
)  # fmt: skip
def test_figures_are_those_of_numpy(clips: int, steps: int, noises: list[float], seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    shape, levels = (clips, steps, 1, 4, 5), torch.arange(clips)
    masks = {noise: torch.rand(shape, generator=random) for noise in noises}
    moving = torch.rand(shape, generator=random) < 0.5
    found = mask_statistics(masks, moving, levels, seed=seed)
    values = np.stack([masks[noise].numpy() for noise in sorted(noises)]).astype(np.float64)
    assert found.overall.mean == pytest.approx(values.mean(), abs=1e-6)
    assert found.overall.deviation == pytest.approx(values.std((-2, -1)).mean(), abs=1e-6)
    quantiles = np.quantile(values, [0.05, 0.5, 0.95])
    assert (found.overall.low, found.overall.median, found.overall.high) == pytest.approx(tuple(quantiles), abs=1e-5)
    for time, frame in enumerate(found.by_frame):
        assert frame.mean == pytest.approx(values[:, :, time].mean(), abs=1e-6)
    for noise, own in zip(sorted(noises), values, strict=True):
        assert found.by_noise[noise].mean == pytest.approx(own.mean(), abs=1e-6)
    both = moving.flatten(1).any(1) & ~moving.flatten(1).all(1)
    if both.sum() >= 2:
        mean, where = values.mean(0).reshape(clips, -1), moving.flatten(1).numpy()
        rows = both.nonzero().flatten().tolist()
        still = torch.tensor([mean[row][~where[row]].mean() for row in rows])
        goes_with = torch.tensor([np.corrcoef(mean[row], where[row])[0, 1] for row in rows])
        for interval, per_clip in ((found.still, still), (found.correlation, goes_with)):
            expected = mean_interval(per_clip, levels[both], seed=seed)
            assert interval is not None
            assert (interval.mean, interval.low, interval.high) == pytest.approx(
                (expected.mean, expected.low, expected.high), abs=1e-5
            )
    assert mask_statistics(masks, moving, levels, seed=seed) == found


def around(value: float, spread: float) -> dict[float, Tensor]:
    noise = torch.rand(CLIPS, STEPS, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    return {0.5: (value + spread * (2 * noise - 1)).clamp(0, 1)}


@pytest.mark.parametrize(
    ("masks", "words"),
    [
        (around(0.98, 0.02), "stuck near 1"),
        (around(1.0, 0.0), "stuck near 1"),
        (around(0.02, 0.02), "stuck near 0"),
        (around(0.0, 0.0), "stuck near 0"),
        (around(0.5, 0.005), "same everywhere"),
        (around(SHUT_OUT - 0.01, 0.001), "same everywhere"),
        (around(IGNORED + 0.01, 0.001), "same everywhere"),
    ],
)
def test_failures_are_named(masks: Mapping[float, Tensor], words: str) -> None:
    (said,) = mask_statistics(masks, corner(), LEVELS).failures()
    assert words in said


def test_masks_that_trust_the_prior_nearly_everywhere_are_healthy() -> None:
    """An agent on a few places of which the adapter knows best is what a mask is for."""
    assert mask_statistics({0.5: torch.where(corner(2), 0.3, 0.99)}, corner(), LEVELS).failures() == []
    one_noise = {0.1: healthy(corner()), 0.9: torch.full((CLIPS, STEPS, 1, SIZE, SIZE), 0.99)}
    assert (
        mask_statistics(one_noise, corner(), LEVELS).failures() == []
    )  # it may well be sure of the prior at one level
    agent = torch.where(torch.arange(50) == 0, 0.8, 0.9).reshape(1, 1, 1, 5, 10).expand(CLIPS, STEPS, 1, 5, 10)
    found = mask_statistics({0.5: agent}, torch.zeros_like(agent, dtype=torch.bool), LEVELS)
    assert found.overall.deviation == pytest.approx(0.014, abs=1e-4)
    assert found.overall.deviation > CONSTANT


def test_what_moves_differs_from_the_last_context_frame() -> None:
    context = torch.zeros(1, 2, 3, 2, 2)
    context[:, 0] = 1  # older frames do not matter
    real = torch.zeros(1, 2, 3, 2, 2)
    real[0, 0, 1, 0, 0], real[0, 1, :, 1, 1] = 0.11, -0.09
    moving = moving_places(real, context)
    assert moving.shape == (1, 2, 1, 2, 2)
    assert moving.nonzero().tolist() == [[0, 0, 0, 0, 0]]
    assert moving_places(real, context, threshold=0.05).sum() == 2


def test_everything_but_the_maps_is_plain_json(statistics: MaskStatistics) -> None:
    written = json.loads(json.dumps(statistics.to_dict(), allow_nan=False))
    assert written["failures"] == []
    assert written["by_noise"]["0.0"]["still"] == pytest.approx(0.9)
    assert written["difference"]["mean"] == pytest.approx(0.3)
    assert "maps" not in written


@pytest.mark.usefixtures("without_shape_types")
def test_what_is_no_mask_is_refused() -> None:
    good = healthy(corner())
    for masks, moving, levels, message in (
        ({}, corner(), LEVELS, "no masks"),
        ({0.5: good[:, :2]}, corner(), LEVELS, "one shape"),
        ({0.5: good[:, :, 0]}, corner(), LEVELS, "one shape"),
        ({0.5: good, 0.6: good[:2]}, corner(), LEVELS, "one shape"),
        ({0.5: good}, corner().float(), LEVELS, "must be bool"),
        ({0.5: good}, corner(), LEVELS[:2], "must be bool"),
        ({0.5: good * 2}, corner(), LEVELS, "lie in"),
        ({0.5: good * torch.nan}, corner(), LEVELS, "lie in"),
        ({30.0: good}, corner(), LEVELS, "at noise level 30"),
    ):
        with pytest.raises(ValueError, match=message):
            mask_statistics(masks, moving, levels)
