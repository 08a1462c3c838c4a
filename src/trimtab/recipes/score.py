"""Score a folder of videos, of any system, against a folder of real ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from jaxtyping import Float, Int
from rich import print
from torch import Tensor

from trimtab.core.files import write_whole
from trimtab.core.values import Video
from trimtab.data.video_files import read_videos
from trimtab.metrics.distributions import (
    DISTRIBUTION_METRICS,
    changes,
    distance_by_step,
    distance_jackknife,
    frechet_distance,
    kernel_distance,
)
from trimtab.metrics.evaluation import DISTANCES, FRAME_METRICS, LEAST_CLIPS, VGG, frame_figure
from trimtab.metrics.features import in_parts
from trimtab.metrics.frames import Lpips, psnr, sharpness, ssim
from trimtab.metrics.i3d import I3D, LEAST_FRAMES
from trimtab.metrics.inception import Inception
from trimtab.metrics.intervals import BLOCKS, NUM_RESAMPLES, Interval
from trimtab.metrics.protocol import Evaluation, Figure
from trimtab.metrics.weights import I3D_KINETICS, INCEPTION, LPIPS_ALEX, LPIPS_VGG
from trimtab.networks import storage

PAIRED = (*FRAME_METRICS, *VGG, "temporal error")


def score(
    real: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="REAL")],
    fake: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FAKE")],
    *,
    num_context: int = 0,
    output: Path | None = None,
) -> None:
    """Score generated videos against real ones, by the standard metrics.

    Both folders hold videos (mp4, gif, folders of pictures, npz) of one length and size. Where the names agree, each video
    is compared with its namesake, too (PSNR, SSIM, LPIPS, sharpness, temporal error); intervals are over these pairs.
    FID and FVD are left out where either folder has fewer than 64 videos: they would say more about their number.

    Args:
        real: folder of real videos.
        fake: folder of generated ones.
        num_context: given frames at the start of every video: they are compared in no metric, but FVD sees them, and is
            called "FVD with given frames" then.
        output: a file for the figures and what exactly was measured (JSON), which `trimtab compare` reads.
    """
    reals, fakes = read_videos(real), read_videos(fake)
    check_alike(reals, fakes, num_context)
    name, paired = fake.resolve().name, reals.keys() == fakes.keys()
    real_videos, fake_videos = as_video(reals), as_video(fakes)
    levels = torch.arange(len(reals))  # every video is taken for a level of its own
    figures: list[Figure] = []
    left_out: dict[str, str] = {}
    if paired:
        for metric, values in pairwise(fake_videos, real_videos, num_context).items():
            figures.append(frame_figure(name, metric, values, levels))
    else:
        left_out = dict.fromkeys(PAIRED, "the two folders hold videos of other names, so none has a real counterpart")
    for metric, found, steps in distances(fake_videos, real_videos, num_context, levels if paired else None):
        if isinstance(found, str):
            left_out[metric] = found
        else:
            figures.append(Figure(name, metric, found, per_step=steps, difference=None))
    definitions = FRAME_METRICS | VGG | DISTRIBUTION_METRICS | DISTANCES
    protocol = {
        "num_clips": len(reals),
        "num_levels": len(reals),
        "num_generated": len(fakes),
        "num_context": num_context,
        "num_predicted": real_videos.shape[1] - num_context,
        "frame_size": list(real_videos.shape[3:]),
        "clips": storage.checksum({"": real_videos}, {"names": sorted(reals)}),
        "levels": levels.tolist(),
        "metrics": {figure.metric: definitions[figure.metric] for figure in figures},
        "left_out": left_out,
        "lpips": asdict(LPIPS_ALEX),
        "lpips_vgg": asdict(LPIPS_VGG),
        "inception": asdict(INCEPTION),
        "i3d": asdict(I3D_KINETICS),
        "intervals": {"share": 0.95, "resampled": "videos", "num_resamples": NUM_RESAMPLES, "seed": 0},
    }
    print(f"{len(fakes)} videos of {real_videos.shape[1]} frames against {len(reals)} real ones")
    for figure in figures:
        interval = figure.overall
        print(f"  {figure.metric:24}{f'{interval.mean:.4g}' if math.isnan(interval.low) else interval}")
    for metric, reason in left_out.items():
        print(f"  {metric:24}left out: {reason}")
    if output is not None:
        write_whole(output, Evaluation(tuple(figures), protocol).to_json() + "\n")
        print(f"written to {output}")


def check_alike(reals: Mapping[str, np.ndarray], fakes: Mapping[str, np.ndarray], num_context: int) -> None:
    """Raises ValueError unless all videos are of one length and size, longer than what is given, and two or more."""
    shapes = {video.shape[:3] for video in (*reals.values(), *fakes.values())}
    if len(shapes) != 1:
        raise ValueError(
            f"all videos must have one length and size (time, height, width), these have {sorted(shapes)}; "
            "cut and resize them first, all in the same way"
        )
    (length, _, _), fewest = shapes.pop(), min(len(reals), len(fakes))
    if not 0 <= num_context < length:
        raise ValueError(f"num_context is 0 to {length - 1} for videos of {length} frames, got {num_context}")
    if fewest < 2:
        raise ValueError(f"two videos or more are needed on each side, got {len(reals)} and {len(fakes)}")


def as_video(videos: Mapping[str, np.ndarray]) -> Video:
    """(batch, time, 3, height, width) float32 in [-1, 1], in the order of names."""
    stacked = torch.from_numpy(np.stack([videos[name] for name in sorted(videos)]))
    return stacked.permute(0, 1, 4, 2, 3).float() / 127.5 - 1


def pairwise(fake: Video, real: Video, num_context: int) -> dict[str, Float[Tensor, "batch predicted"]]:
    """What compares a video with its namesake, frame by frame."""
    lpips = Lpips()
    given = max(num_context, 1)  # changes are counted from the last given frame on, or from the first one
    clips = fake[:, num_context:], real[:, num_context:]
    measures: tuple[Callable[[Video, Video], Tensor], ...] = (psnr, ssim, lpips, sharpness)
    found = {name: measure(*clips) for name, measure in zip(FRAME_METRICS, measures, strict=True)}
    found |= {name: in_parts(Lpips("vgg"), *clips, of=name) for name in VGG}
    if real.shape[1] > given:
        theirs, ours = (changes(some[:, given:], some[:, :given], lpips) for some in (fake, real))
        found["temporal error"] = (theirs - ours).abs()
    return found


def distances(
    fake: Float[Tensor, "fakes time 3 height width"],
    real: Float[Tensor, "reals time 3 height width"],
    num_context: int,
    pairs: Int[Tensor, " video"] | None = None,
) -> Iterator[tuple[str, Interval | str, tuple[float, ...]]]:
    """What compares the two folders as sets, by metric: the distance, or why there is none, and that of each frame.

    It has an interval where `pairs` says which video belongs to which, of as many as there are blocks to leave out.
    """
    fewest = min(len(fake), len(real))
    too_few = f"a Frechet distance needs {LEAST_CLIPS} videos or more on each side, not {fewest}"

    def figure(metric: str, distance: Callable[[Tensor, Tensor], float], fakes: Tensor, reals: Tensor) -> Interval:
        if pairs is None or fewest < BLOCKS:
            return Interval(distance(fakes, reals), math.nan, math.nan, len(fakes), len(fakes))
        return distance_jackknife(distance, fakes, reals, pairs, of=metric).interval

    inception = Inception()
    frames = [in_parts(inception, some[:, num_context:], of="features of frames") for some in (fake, real)]
    if fewest < LEAST_CLIPS:
        yield "FID", too_few, ()
    else:
        yield "FID", figure("FID", frechet_distance, *frames), distance_by_step(frechet_distance, *frames)
    yield "KID", figure("KID", kernel_distance, *frames), distance_by_step(kernel_distance, *frames)
    metric = "FVD with given frames" if num_context else "FVD"
    if real.shape[1] < LEAST_FRAMES:
        yield metric, f"its network sees {LEAST_FRAMES} frames or more, these videos have {real.shape[1]}", ()
    elif fewest < LEAST_CLIPS:
        yield metric, too_few, ()
    else:
        i3d = I3D()
        motions = [in_parts(i3d, some, of="features of videos") for some in (fake, real)]
        yield metric, figure(metric, frechet_distance, *motions), ()
