"""Intervals cover the true mean as often as they claim, when clips of one level resemble each other."""

import numpy as np
import pytest
import torch
from torch import Tensor

from trimtab.metrics.intervals import Interval, mean_interval, paired_interval, seed_interval


def clustered(seed: int, num_clusters: int = 60, per_cluster: int = 8) -> tuple[Tensor, Tensor]:
    """Values of mean 3: a shared part a cluster (deviation 1) and a part a clip (deviation 0.5)."""
    random = np.random.default_rng(seed)
    shared = np.repeat(random.normal(3, 1, num_clusters), per_cluster)
    values = shared + random.normal(0, 0.5, num_clusters * per_cluster)
    return torch.tensor(values), torch.arange(num_clusters).repeat_interleave(per_cluster) + 10_000


def test_width_is_that_of_the_known_answer() -> None:
    values, clusters = clustered(0, num_clusters=400)
    interval = mean_interval(values, clusters)
    deviation = (1 + 0.25 / 8) ** 0.5 / 400**0.5
    assert interval.mean == pytest.approx(values.mean().item())
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * deviation, rel=0.15)
    assert (interval.num_clips, interval.num_clusters) == (3200, 400)


def test_coverage_is_95_percent_by_cluster_and_far_less_by_clip() -> None:
    by_cluster = by_clip = 0
    for seed in range(300):
        values, clusters = clustered(seed)
        interval = mean_interval(values, clusters, num_resamples=500, seed=seed)
        by_cluster += interval.low <= 3 <= interval.high
        interval = mean_interval(values, torch.arange(len(values)), num_resamples=500, seed=seed)
        by_clip += interval.low <= 3 <= interval.high
    assert 0.90 <= by_cluster / 300 <= 0.98
    assert by_clip / 300 < 0.7


def test_paired_interval_is_narrower_and_sees_a_small_difference() -> None:
    first, clusters = clustered(0)
    second = first - 0.1 + 0.1 * torch.tensor(np.random.default_rng(1).normal(size=len(first)))
    paired = paired_interval(first, second, clusters)
    one, other = mean_interval(first, clusters), mean_interval(second, clusters)
    assert paired.high - paired.low < 0.2 * min(one.high - one.low, other.high - other.low)
    assert paired.low > 0.05
    assert one.low < other.mean < one.high  # separate intervals would not have seen it
    assert paired.mean == pytest.approx(one.mean - other.mean)


def test_ratio_of_means() -> None:
    over, clusters = clustered(0)
    interval = mean_interval(2 * over, clusters, over=over)
    assert (interval.mean, interval.low, interval.high) == pytest.approx((2, 2, 2))
    unequal = mean_interval(over + 3 * torch.arange(len(over)) / len(over), clusters, over=over)
    assert unequal.low < unequal.mean < unequal.high
    assert unequal.mean == pytest.approx(1.5, abs=0.1)


def test_clips_weigh_equally_whatever_their_cluster() -> None:
    values, clusters = torch.tensor([1.0, 1.0, 1.0, 5.0]), torch.tensor([7, 7, 7, 9])
    assert mean_interval(values, clusters).mean == 2.0


def test_seed_decides_the_interval() -> None:
    values, clusters = clustered(0)
    assert mean_interval(values, clusters, seed=4) == mean_interval(values, clusters, seed=4)
    assert mean_interval(values, clusters, seed=4) != mean_interval(values, clusters, seed=5)


def test_what_has_no_interval_is_refused() -> None:
    values, clusters = clustered(0)
    with pytest.raises(ValueError, match="two clusters or more, not 1"):
        mean_interval(values, torch.zeros_like(clusters))
    with pytest.raises(ValueError, match="finite"):
        mean_interval(torch.where(values > 4, torch.inf, values), clusters)
    with pytest.raises(ValueError, match="denominator"):
        mean_interval(values, clusters, over=torch.zeros_like(values))


def test_an_interval_over_seeds_is_students() -> None:
    from scipy import stats

    for num in (2, 3, 7):
        means = np.random.default_rng(num).normal(5, 2, num)
        low, high = stats.t.interval(0.95, num - 1, means.mean(), stats.sem(means))
        found = seed_interval(means.tolist())
        assert (found.mean, found.low, found.high) == pytest.approx((means.mean(), low, high), rel=1e-3)
    with pytest.raises(ValueError, match="two finite values"):
        seed_interval([1.0])


def test_an_interval_is_said_with_as_many_digits_as_asked_for_and_no_rounding_error() -> None:
    interval = Interval(0.123456, -2.2e-17, 1 / 3, 4, 2)
    assert (str(interval), f"{interval}", f"{interval:.2g}") == (
        "0.1235 [0, 0.3333]", "0.1235 [0, 0.3333]", "0.12 [0, 0.33]",
    )  # fmt: skip
