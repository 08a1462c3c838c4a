"""Distances between sets agree with closed forms and other libraries, and their intervals cover what they claim."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import poly_mmd

from trimtab.data import samples
from trimtab.metrics.distributions import (
    DISTRIBUTION_METRICS,
    changes,
    distance_jackknife,
    fid,
    frechet_distance,
    fvd,
    kernel_distance,
    kid,
    temporal_error,
)
from trimtab.metrics.frames import Lpips
from trimtab.metrics.i3d import I3D
from trimtab.metrics.inception import Inception


def exact(num: int, mean: Tensor, root: Tensor, seed: int = 0) -> Tensor:
    """Items whose sample mean and unbiased covariance are exactly `mean` and ``root.T @ root``."""
    noise = torch.randn(num, len(mean), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    columns = torch.linalg.qr(noise - noise.mean(0)).Q
    return columns * math.sqrt(num - 1) @ root + mean


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_frechet_distance_of_diagonal_gaussians() -> None:
    first, second = torch.tensor([1.0, 2.0, 0.5]).double(), torch.tensor([3.0, 2.0, 0.0]).double()
    mean = torch.tensor([1.0, 0.0, -2.0]).double()
    value = frechet_distance(exact(20, mean, first.diag()), exact(30, 0 * mean, second.diag(), seed=1))
    assert value == pytest.approx(5 + 4 + 0 + 0.25, abs=1e-9)  # squared differences of means and of deviations


def test_frechet_distance_of_scaled_and_of_commuting_gaussians() -> None:
    """With S2 = c^2 S1 the trace is (1 - c)^2 trace S1, whatever the axes of S1."""
    root = drawn(6, 6)
    value = frechet_distance(exact(50, torch.zeros(6).double(), root), exact(50, torch.zeros(6).double(), 3 * root))
    assert value == pytest.approx(4 * (root.T @ root).trace().item(), rel=1e-9)


@pytest.mark.parametrize(("num", "real_num"), [(200, 150), (9, 300), (300, 9), (9, 7)])
def test_frechet_distance_agrees_with_a_matrix_root(num: int, real_num: int) -> None:
    """Also with fewer items than features, where scipy's root of a singular matrix is good to a few digits only."""
    first, second = drawn(num, 12) @ drawn(12, 12, seed=1), drawn(real_num, 12, seed=2) @ drawn(12, 12, seed=3) + 0.5
    covariances = [np.cov(items.numpy(), rowvar=False) for items in (first, second)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    difference = (first.mean(0) - second.mean(0)).square().sum().item()
    theirs = difference + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert frechet_distance(first, second) == pytest.approx(theirs, rel=1e-9 if min(num, real_num) > 12 else 1e-3)


def test_frechet_distance_of_equal_sets_is_zero_and_leading_axes_are_pooled() -> None:
    items = drawn(4, 5, 8)
    assert 0 <= frechet_distance(items, items.flatten(0, 1).flip(0)) < 1e-9
    assert frechet_distance(items, 2 * items) == frechet_distance(items.flatten(0, 1), 2 * items.flatten(0, 1))


def test_frechet_distance_counts_equal_items_as_often_as_they_come() -> None:
    """Such as the frames of a still video; against the formula, with the covariance of all items."""
    first, second = drawn(30, 6).repeat(5, 1)[:-7], drawn(200, 6, seed=1)
    covariances = [np.cov(items.numpy(), rowvar=False) for items in (first, second)]
    traces = np.trace(sum(covariances) - 2 * scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real)
    expected = (first.mean(0) - second.mean(0)).square().sum().item() + traces
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9)


class Known(nn.Module):
    """Hands on features that are already known, in the place of a network."""

    num_features = 16

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def test_frechet_distance_agrees_with_torchmetrics() -> None:
    theirs = FrechetInceptionDistance(Known(), normalize=True, input_img_size=(1, 4, 4))
    first, second = drawn(70, 1, 4, 4), 1.5 * drawn(60, 1, 4, 4, seed=1) + 0.2
    theirs.set_dtype(torch.float64)
    theirs.update(first, real=False)
    theirs.update(second, real=True)
    assert frechet_distance(first.flatten(1), second.flatten(1)) == pytest.approx(theirs.compute().item(), rel=1e-4)


def test_kernel_distance_agrees_with_loops_over_pairs() -> None:
    first, second = drawn(7, 5), drawn(9, 5, seed=1) + 0.3

    def mean_kernel(one: Tensor, other: Tensor) -> float:
        pairs = [(a, b) for i, a in enumerate(one) for j, b in enumerate(other) if one is not other or i != j]
        return sum((float(a @ b) / 5 + 1) ** 3 for a, b in pairs) / len(pairs)

    theirs = mean_kernel(first, first) + mean_kernel(second, second) - 2 * mean_kernel(first, second)
    assert kernel_distance(first, second) == pytest.approx(theirs, rel=1e-9)
    first, second = drawn(1100, 5), drawn(1100, 5, seed=1) + 0.1  # more than a part
    assert kernel_distance(first, second) == pytest.approx(poly_mmd(first, second).item(), rel=1e-6)


def test_kernel_distance_is_unbiased_where_frechet_distance_is_not() -> None:
    """Between two draws from one distribution; thirty features and twenty items."""
    pairs = [(drawn(20, 30, seed=seed), drawn(20, 30, seed=seed + 1000)) for seed in range(200)]
    values = [kernel_distance(*pair) for pair in pairs]
    assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(200)
    assert min(frechet_distance(*pair) for pair in pairs) > 5


@pytest.mark.usefixtures("without_shape_types")
@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_features_that_have_no_distance_are_refused(distance: Callable[[Tensor, Tensor], float]) -> None:
    with pytest.raises(ValueError, match="two items or more"):
        distance(drawn(1, 4), drawn(5, 4))
    with pytest.raises(ValueError, match="as many features"):
        distance(drawn(5, 4), drawn(5, 3))
    with pytest.raises(ValueError, match="finite"):
        distance(drawn(5, 4), drawn(5, 4) * torch.nan)


def clustered(seed: int, features: int = 8, levels: int = 60, clips: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Generated and real features that share what their level and their clip have, and the levels."""
    shared = drawn(levels, features, seed=seed).repeat_interleave(clips, 0)
    real = shared + drawn(levels * clips, features, seed=seed + 10_000)
    own = drawn(levels, features, seed=seed + 20_000).repeat_interleave(clips, 0)
    return 0.8 * real + 0.6 * own + 0.3, real, torch.arange(levels).repeat_interleave(clips) + 500


@pytest.mark.slow
def test_interval_covers_the_expected_figure() -> None:
    """Of 200 evaluations, and less often if clips were taken for independent."""
    sets = [clustered(seed) for seed in range(200)]
    expected = np.mean([frechet_distance(generated, real) for generated, real, _ in sets])
    by_level = by_clip = 0
    for generated, real, levels in sets:
        interval = distance_jackknife(frechet_distance, generated, real, levels).interval
        by_level += interval.low <= expected <= interval.high
        interval = distance_jackknife(frechet_distance, generated, real, torch.arange(len(levels))).interval
        by_clip += interval.low <= expected <= interval.high
    assert 0.90 <= by_level / 200 <= 0.99
    assert by_clip < by_level - 10


def test_interval_says_what_it_stands_on_and_pairs_methods() -> None:
    generated, real, levels = clustered(0)
    measured = distance_jackknife(frechet_distance, generated, real, levels)
    interval = measured.interval
    assert interval.mean == frechet_distance(generated, real)
    assert (interval.num_clips, interval.num_clusters) == (180, 60)
    worse = generated + 0.05
    paired = (distance_jackknife(frechet_distance, worse, real, levels) - measured).interval
    assert paired.mean == pytest.approx(frechet_distance(worse, real) - interval.mean)
    assert paired.low > 0
    assert paired.high - paired.low < 0.5 * (interval.high - interval.low)
    assert interval == distance_jackknife(frechet_distance, generated, real, levels).interval


def test_interval_takes_out_whole_clips_of_frames() -> None:
    """Five frames a clip that are all alike: the same figure as five copies, and the same blocks."""
    generated, real, levels = clustered(0)
    frames = [features[:, None].expand(-1, 5, -1) for features in (generated, real)]
    one, many = (distance_jackknife(kernel_distance, *sets, levels).interval for sets in ((generated, real), frames))
    assert many.high - many.low == pytest.approx(one.high - one.low, rel=0.05)


@pytest.mark.usefixtures("without_shape_types")
def test_what_has_no_interval_is_refused() -> None:
    generated, real, levels = clustered(0)
    with pytest.raises(ValueError, match="20 clusters or more, not 1"):
        distance_jackknife(frechet_distance, generated, real, torch.zeros_like(levels))
    with pytest.raises(ValueError, match="one cluster a clip"):
        distance_jackknife(frechet_distance, generated, real[:, :2], levels)


@pytest.fixture(scope="module")
def clips() -> Tensor:
    """Twelve clips of eleven frames of real play."""
    play = samples.coinrun()
    episodes = [torch.from_numpy(np.asarray(play.episode(number)[0])) for number in range(len(play))]
    cut = [frames[start : start + 11] for frames in episodes for start in range(0, len(frames) - 10, 11)]
    return torch.stack(cut[:12]).permute(0, 1, 4, 2, 3).float() / 127.5 - 1


@pytest.fixture(scope="module")
def shuffled(clips: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.stack([clip[2:][torch.randperm(9, generator=generator)] for clip in clips])


def test_temporal_error_grows_with_shuffled_frozen_and_flickering_frames(clips: Tensor, shuffled: Tensor) -> None:
    """More than with blur, which spoils every frame, and no motion but by making it fainter."""
    context, real, lpips = clips[:6, :2], clips[:6, 2:], Lpips()
    assert temporal_error(real, real, context, lpips).abs().max() == 0
    blurred = nn.functional.avg_pool2d(real.flatten(0, 1), 3, 1, 1).unflatten(0, real.shape[:2])
    frozen = context[:, -1:].expand_as(real)
    flicker = (real + 0.3 * torch.tensor([1.0, -1.0]).repeat(5)[:9].reshape(9, 1, 1, 1)).clamp(-1, 1)
    of_blur = temporal_error(blurred, real, context, lpips).mean()
    for worse, times in ((shuffled[:6], 2), (flicker, 2), (frozen, 1.3)):
        assert temporal_error(worse, real, context, lpips).mean() > times * of_blur
    torch.testing.assert_close(temporal_error(frozen, real, context, lpips), changes(real, context, lpips))


def test_changes_compare_each_frame_with_the_one_before(clips: Tensor) -> None:
    lpips, context, video = Lpips(), clips[:1, :2], clips[:1, 2:5]
    values = changes(video, context, lpips)
    for step in range(3):
        frame, before = clips[:1, 2 + step : 3 + step], clips[:1, 1 + step : 2 + step]
        torch.testing.assert_close(values[:, step : step + 1], lpips(frame, before))


def test_fid_and_kid_are_the_distances_of_the_features_of_all_frames(clips: Tensor) -> None:
    generated, real, inception = clips[:2, :2], clips[:2, 2:4], Inception("half pixel")
    sets = inception(generated), inception(real)
    assert fid(generated, real, inception) == pytest.approx(frechet_distance(*sets), rel=1e-4)
    assert kid(generated, real, inception) == pytest.approx(kernel_distance(*sets), rel=1e-4)


@pytest.mark.slow
def test_order_of_frames_hardly_moves_fid_and_fvd_but_noise_does(clips: Tensor, shuffled: Tensor) -> None:
    """FID and KID cannot see the order. FVD of few clips sees it less than what tells one half of them from another.

    FVD ranks noise far above shuffling; the temporal error ranks shuffling above noise, which is a flicker too.
    """
    context, real = clips[:, :2], clips[:, 2:]
    noisy = (real + 0.2 * torch.randn(real.shape)).clamp(-1, 1)
    inception, i3d, lpips = Inception(), I3D(), Lpips()
    frames, shuffled_frames, noisy_frames = (inception(video[:6]) for video in (real, shuffled, noisy))
    assert frechet_distance(shuffled_frames, frames) < 1e-3
    assert frechet_distance(noisy_frames, frames) > 10
    assert abs(kernel_distance(shuffled_frames, frames)) < 0.1 * kernel_distance(noisy_frames, frames)
    motions, shuffled_motions, noisy_motions = (i3d(video, context) for video in (real, shuffled, noisy))
    of_order = frechet_distance(shuffled_motions, motions)
    assert frechet_distance(motions[:6], motions[6:]) > of_order > 0
    assert frechet_distance(noisy_motions, motions) > 2 * of_order
    of_shuffled, of_noisy = (temporal_error(video, real, context, lpips).mean() for video in (shuffled, noisy))
    assert of_shuffled > 1.3 * of_noisy
    assert fvd(shuffled[:6], real[:6], context[:6], i3d) == pytest.approx(
        frechet_distance(shuffled_motions[:6], motions[:6]), rel=1e-3
    )
    assert fvd(shuffled[:6], real[:6], network=i3d) == pytest.approx(
        frechet_distance(i3d(shuffled[:6]), i3d(real[:6])), rel=1e-3
    )


@pytest.mark.usefixtures("without_shape_types")
@pytest.mark.parametrize("figure", [fid, kid, fvd, lambda generated, real: temporal_error(generated, real, real)])
def test_clips_of_other_shapes_and_ranges_are_refused(figure: Callable, clips: Tensor) -> None:
    with pytest.raises(ValueError, match="must have one shape"):
        figure(clips[:, :9], clips)
    with pytest.raises(ValueError, match="must lie in"):
        figure(clips * 2, clips)


def test_every_figure_says_how_it_is_made() -> None:
    assert list(DISTRIBUTION_METRICS) == ["FID", "KID", "FVD", "temporal error"]
    assert all("lower is better" in text for text in DISTRIBUTION_METRICS.values())
