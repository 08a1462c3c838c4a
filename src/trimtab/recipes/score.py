"""Score a folder of videos, of any system, against a folder of real ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from rich import print
from rich.progress import track
from torch import Tensor

from trimtab.core.files import write_whole
from trimtab.core.values import Video
from trimtab.data.video_files import read_videos
from trimtab.metrics.distributions import DISTRIBUTION_METRICS, changes, frechet_distance, kernel_distance
from trimtab.metrics.evaluation import FRAME_METRICS
from trimtab.metrics.frames import Lpips, psnr, sharpness, ssim
from trimtab.metrics.i3d import I3D, LEAST_FRAMES
from trimtab.metrics.inception import Inception
from trimtab.metrics.intervals import mean_interval
from trimtab.networks import storage

CHUNK = 8


def score(
    real: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="REAL")],
    fake: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FAKE")],
    *,
    num_context: int = 0,
    output: Path | None = None,
) -> None:
    """Score generated videos against real ones, by the standard metrics.

    Both folders hold videos (mp4, gif, folders of pictures, npz) of one length and size. Where the names agree, each video
    is compared with its namesake, too (PSNR, SSIM, LPIPS, sharpness, temporal error); the interval of these is over videos.

    Args:
        real: folder of real videos.
        fake: folder of generated ones.
        num_context: given frames at the start of every video: they are compared in no metric, but FVD sees them.
        output: a file for the figures and what exactly was measured (JSON).
    """
    reals, fakes = read_videos(real), read_videos(fake)
    check_alike(reals, fakes, num_context)
    paired = reals.keys() == fakes.keys()
    figures: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    real_videos, fake_videos = as_video(reals), as_video(fakes)
    real_clips, fake_clips = (some[:, num_context:] for some in (real_videos, fake_videos))
    if paired:
        figures |= {
            metric: interval(values) for metric, values in pairwise(fake_videos, real_videos, num_context).items()
        }
    else:
        left_out = dict.fromkeys(PAIRED, "the two folders hold videos of other names, so none has a real counterpart")
    inception = Inception()
    frames, real_frames = (in_parts(inception, some, "frames") for some in (fake_clips, real_clips))
    figures["FID"] = {"mean": frechet_distance(frames, real_frames)}
    figures["KID"] = {"mean": kernel_distance(frames, real_frames)}
    if real_videos.shape[1] < LEAST_FRAMES:
        left_out["FVD"] = f"its network sees {LEAST_FRAMES} frames or more, these videos have {real_videos.shape[1]}"
    else:
        i3d = I3D()
        figures["FVD"] = {
            "mean": frechet_distance(*(in_parts(i3d, some, "videos") for some in (fake_videos, real_videos)))
        }
    protocol = {
        "metrics": {name: text for name, text in (FRAME_METRICS | DISTRIBUTION_METRICS).items() if name in figures},
        "left_out": left_out,
        "num_context": num_context,
        "num_frames": real_videos.shape[1],
        "frame_size": list(real_videos.shape[3:]),
        "real": {"videos": len(reals), "sha256": storage.checksum({"": real_videos}, {})},
        "intervals": "95% bootstrap over videos" if paired else None,
    }
    print(f"{len(fakes)} videos of {real_videos.shape[1]} frames against {len(reals)} real ones")
    for metric, figure in figures.items():
        between = f" [{figure['low']:.4g}, {figure['high']:.4g}]" if "low" in figure else ""
        print(f"  {metric:16}{figure['mean']:.4g}{between}")
    for metric, reason in left_out.items():
        print(f"  {metric:16}left out: {reason}")
    if output is not None:
        write_whole(output, json.dumps({"protocol": protocol, "figures": figures}, indent=2, allow_nan=False) + "\n")
        print(f"written to {output}")


PAIRED = (*FRAME_METRICS, "temporal error")


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


def pairwise(fake: Video, real: Video, num_context: int) -> dict[str, Tensor]:
    """What compares a video with its namesake: one number each."""
    lpips = Lpips()
    given = max(num_context, 1)  # changes are counted from the last given frame on, or from the first one
    clips = fake[:, num_context:], real[:, num_context:]
    measures: tuple[Callable[[Video, Video], Tensor], ...] = (psnr, ssim, lpips, sharpness)
    found = {name: measure(*clips).mean(1) for name, measure in zip(FRAME_METRICS, measures, strict=True)}
    if real.shape[1] > given:
        theirs, ours = (changes(some[:, given:], some[:, :given], lpips) for some in (fake, real))
        found["temporal error"] = (theirs - ours).abs().mean(1)
    return found


def interval(values: Tensor) -> dict[str, float]:
    found = mean_interval(values, torch.arange(len(values)))
    return {"mean": found.mean, "low": found.low, "high": found.high}


def in_parts(network: Any, videos: Video, what: str) -> Tensor:
    """Features of many videos, with a bar."""
    parts = track(videos.split(CHUNK), f"features of {what}", transient=True)
    return torch.cat([network(part) for part in parts])
