"""Compares sets of generated and real clips as distributions (FID, KID, FVD), and how both change in time.

A figure is a distance between two sets of features, so features are made once and asked for all figures:

    inception, i3d = Inception(), I3D()
    frames, real_frames = inception(generated), inception(real)
    frechet_distance(frames, real_frames), kernel_distance(frames, real_frames)  # FID, KID
    fvd = distance_jackknife(frechet_distance, i3d(generated, context), i3d(real, context), levels)
    fvd.interval, (fvd - other_fvd).interval  # with its interval, and less that of another method on the same clips

A Frechet distance of few items is too large, by an amount that depends on their number: compare figures of one number
of clips only. FVD of few clips hardly reacts to shuffled frames, so print `temporal_error` beside it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Num
from torch import Tensor

from trimtab.core.values import Video
from trimtab.metrics.actions import Context
from trimtab.metrics.frames import Lpips, PerFrame, check_videos
from trimtab.metrics.i3d import I3D, with_context
from trimtab.metrics.inception import PROTOCOLS, Inception
from trimtab.metrics.intervals import Jackknife, jackknife

DISTRIBUTION_METRICS = {
    "FID": f"Frechet distance, unbiased covariances, all frames pooled; {PROTOCOLS['tensorflow 1']}; lower is better",
    "KID": "squared maximum mean discrepancy, kernel (x.y / 2048 + 1) ** 3, unbiased estimate from all pairs of frames; "
    f"{PROTOCOLS['tensorflow 1']}; lower is better",
    "FVD": f"Frechet distance, unbiased covariances; {I3D.protocol}; lower is better",
    "temporal error": "absolute difference of LPIPS (v0.1, AlexNet) from one frame to the next between generated and "
    "real, first frame against the last of the context; lower is better",
}
"""What exactly is measured with the default networks, by figure, as in `evaluation.FRAME_METRICS`."""


def fid(generated: Video, real: Video, network: Inception | None = None) -> float:
    """Frechet inception distance (Heusel et al. 2017, arXiv 1706.08500) of all frames; not a squared root, 0 is equal.

    Raises ValueError for a wrong shape, dtype or range.
    """
    check_videos(generated=generated, real=real)
    network = Inception().to(real.device) if network is None else network
    return frechet_distance(network(generated), network(real))


def kid(generated: Video, real: Video, network: Inception | None = None) -> float:
    """Kernel inception distance (Binkowski et al. 2018, arXiv 1801.01401) of all frames; near zero for equals.

    Raises ValueError for a wrong shape, dtype or range.
    """
    check_videos(generated=generated, real=real)
    network = Inception().to(real.device) if network is None else network
    return kernel_distance(network(generated), network(real))


def fvd(generated: Video, real: Video, context: Context | None = None, network: I3D | None = None) -> float:
    """Frechet video distance (Unterthiner et al. 2018, arXiv 1812.01717); 0 is equal.

    Args:
        generated: (batch, time, 3, height, width), float32 in [-1, 1].
        real: what really happened, same shape.
        context: (batch, num_context, 3, height, width), put before both (AVID's tables of coinrun are made so), which
            makes the figure smaller; without it only the predicted frames are seen.
        network: to use again; made if absent.

    Raises:
        ValueError: a wrong shape, dtype or range, or fewer than nine frames with the context.
    """
    check_videos(generated=generated, real=real)
    network = I3D().to(real.device) if network is None else network
    return frechet_distance(network(generated, context), network(real, context))


@torch.no_grad()
def temporal_error(generated: Video, real: Video, context: Context, lpips: Lpips | None = None) -> PerFrame:
    """How differently a generated clip changes from frame to frame than the real one; 0 is alike, lower is better.

    The absolute difference of `changes` of the two, step by step: the "tLP" of Chu et al. 2020 (arXiv 1811.09393)
    without its factor 100. It grows for frames out of order, flicker and standing still; it sees how much changes, not
    what, so a plausible future other than the real one is not at zero either.

    Raises ValueError for a wrong shape, dtype or range.
    """
    check_videos(generated=generated, real=real)
    lpips = Lpips().to(real.device) if lpips is None else lpips
    return (changes(generated, context, lpips) - changes(real, context, lpips)).abs()


def changes(video: Video, context: Context, lpips: Lpips) -> PerFrame:
    """LPIPS between each frame and the one before; the first is compared with the last frame of the context.

    Raises ValueError for a wrong shape, dtype or range.
    """
    frames = with_context(video, context[:, -1:])
    return lpips(frames[:, 1:], frames[:, :-1])


@torch.no_grad()
def frechet_distance(generated: Float[Tensor, "*generated feature"], real: Float[Tensor, "*real feature"]) -> float:
    """|m1 - m2|^2 + trace(S1 + S2 - 2 (S1 S2)^(1/2)) of means and unbiased covariances, in float64.

    With S = R^T R for both, the eigenvalues of S1 S2 are those of M M^T with M = R1 R2^T, so the last trace is the sum of
    their roots: no root of a matrix and nothing added to the diagonal, also where there are fewer items than features.
    Singular values of M would be more exact, by digits that no figure shows, and take three times as long.

    Args:
        generated: features of items, at least two; leading axes are pooled.
        real: the same for real items, whose number may differ.

    Raises:
        ValueError: fewer than two items, a value that is not finite, or different numbers of features.
    """
    (mean, root), (real_mean, real_root) = map(_mean_and_root, _items(generated, real))
    product = root @ real_root.T
    square = product @ product.T if len(root) <= len(real_root) else product.T @ product
    overlap = torch.linalg.eigvalsh(square).clamp(min=0).sqrt().sum()
    spread = root.square().sum() + real_root.square().sum() - 2 * overlap
    return max(0.0, float((mean - real_mean).square().sum() + spread))  # rounding alone can lead below zero


@torch.no_grad()
def kernel_distance(generated: Float[Tensor, "*generated feature"], real: Float[Tensor, "*real feature"]) -> float:
    """Squared maximum mean discrepancy with the kernel (x.y / features + 1)^3, estimated without bias from all pairs.

    The mean over random subsets, as it is often printed, has the same expectation and more noise. The estimate can be
    slightly negative. Arguments and errors as in `frechet_distance`.
    """
    items, real_items = _items(generated, real)
    within = sum(
        _kernel_sum(part, part, pairs_only=True) / (len(part) * (len(part) - 1)) for part in (items, real_items)
    )
    return within - 2 * _kernel_sum(items, real_items) / (len(items) * len(real_items))


def distance_jackknife(
    distance: Callable[[Tensor, Tensor], float],
    generated: Float[Tensor, "clip *inner feature"],
    real: Float[Tensor, "clip *inner feature"],
    clusters: Num[Tensor, " clip"],
    *,
    of: str = "distance",
    seed: int = 0,
) -> Jackknife:
    """A distance of all clips and without each block of clusters: its ``interval``, and that of a difference of two.

    A bootstrap does not fit: a drawn set repeats clips, which makes a Frechet distance larger than that of the set
    itself. The interval is for the figure of as many clips as these; what few clips add is in it still.

    Args:
        distance: `frechet_distance` or `kernel_distance`.
        generated: features of each clip, or of each frame of it.
        real: features of the same clips' real continuations.
        clusters: the cluster (level) of each clip.
        of: what is measured, for the bar.
        seed: of the dealing into blocks.

    Raises:
        ValueError: shapes differ, there are fewer than 20 clusters, or what `distance` refuses.
    """
    if real.shape != generated.shape or clusters.shape != generated.shape[:1]:
        shapes = {tuple(generated.shape), tuple(real.shape)}
        raise ValueError(
            f"an interval needs features of one shape and one cluster a clip, not {shapes} and {tuple(clusters.shape)}"
        )
    return jackknife(lambda kept: distance(generated[kept], real[kept]), clusters, of=of, seed=seed)


def distance_by_step(
    distance: Callable[[Tensor, Tensor], float],
    generated: Float[Tensor, "generated time feature"],
    real: Float[Tensor, "real time feature"],
) -> tuple[float, ...]:
    """The distance of the first frames of all clips, of their second frames, and so on.

    A step has fewer items than all frames pooled, so its Frechet distance is larger than that of all, for that reason
    alone; steps and methods compare with one another. Raises ValueError for what `distance` refuses.
    """
    return tuple(distance(*step) for step in zip(generated.unbind(1), real.unbind(1), strict=True))


def _items(*sets: Tensor) -> list[Float[Tensor, "item feature"]]:
    items = [features.flatten(0, -2).double() for features in sets]
    if min(map(len, items)) < 2 or len({part.shape[1] for part in items}) > 1:
        raise ValueError(
            f"a distance needs two items or more of as many features, not {[tuple(part.shape) for part in items]}"
        )
    if not all(part.isfinite().all() for part in items):
        raise ValueError("a distance needs finite features; look for the clip whose features are not finite")
    return items


def _mean_and_root(items: Float[Tensor, "item feature"]) -> tuple[Tensor, Tensor]:
    """The mean, and a matrix R for which R^T R is the unbiased covariance."""
    mean = items.mean(0)
    alike, counts = items.unique(dim=0, return_counts=True)  # the frames of a still video are one row of R
    root = (alike - mean) * (counts.to(items) / (len(items) - 1)).sqrt().unsqueeze(1)
    return mean, torch.linalg.qr(root, mode="r").R if len(root) > root.shape[1] else root


def _kernel_sum(first: Tensor, second: Tensor, *, pairs_only: bool = False) -> float:
    """The kernel summed over all pairs, or over those of different items; in parts, which bounds the memory."""
    total = sum(((part @ second.T / second.shape[1] + 1) ** 3).sum() for part in first.split(1024))
    if pairs_only:
        total = total - ((first.square().sum(1) / first.shape[1] + 1) ** 3).sum()
    return float(total)
