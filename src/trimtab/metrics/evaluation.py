"""Measures the videos of several methods on the same clips, as one table; knows no model, sampler or dataset."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from trimtab.core.values import Video
from trimtab.metrics.actions import Actions, Context, JudgeFile, Vectors, action_errors, is_recognised
from trimtab.metrics.distributions import (
    DISTRIBUTION_METRICS,
    distance_by_step,
    distance_jackknife,
    frechet_distance,
    kernel_distance,
    temporal_error,
)
from trimtab.metrics.features import in_parts, kept, real_features
from trimtab.metrics.frames import Lpips, PerFrame, check_videos, psnr, sharpness, ssim
from trimtab.metrics.i3d import I3D, LEAST_FRAMES, with_context
from trimtab.metrics.inception import Inception
from trimtab.metrics.intervals import NUM_RESAMPLES, mean_interval, paired_interval
from trimtab.metrics.protocol import Evaluation, Figure
from trimtab.metrics.weights import I3D_KINETICS, INCEPTION
from trimtab.networks import storage

REPEAT_LAST_FRAME = "repeat last frame"
REAL = "real"
LEAST_LEVELS = 30
"""A ratio divides by a mean over levels; one that is above zero on fewer levels than this is left out."""

FRAME_METRICS = {
    "PSNR": "dB, values in [0, 1], mean squared error of a frame at least 1e-10; higher is better",
    "SSIM": "11 x 11 Gaussian window of sigma 1.5, values in [0, 1]; higher is better",
    "LPIPS": "v0.1, AlexNet, input in [-1, 1], frames at their own size; lower is better",
    "sharpness": "gradient energy of the generated frame over that of the real one; 1 is as sharp as real",
}

VGG = {"LPIPS (VGG)": FRAME_METRICS["LPIPS"].replace("AlexNet", "VGG16")}
"""What AVID's tables are made with; many times as slow."""

ACTION_METRICS = {
    "accuracy": "share of actions that the judge recognises; higher is better",
    "error": "mean absolute error of the action vectors that the judge reads, as in AVID; lower is better",
}
"""What `evaluate` reports of the judge's answers, to discrete actions and to action vectors."""

DISTANCES = {
    "FID": f"{DISTRIBUTION_METRICS['FID']}; predicted frames only",
    "KID": f"{DISTRIBUTION_METRICS['KID']}; predicted frames only",
    "FID with given frames": f"{DISTRIBUTION_METRICS['FID']}; given frames pooled with them on both sides",
    "FVD with given frames": f"{DISTRIBUTION_METRICS['FVD']}; given frames put before both",
    "FVD": f"{DISTRIBUTION_METRICS['FVD']}; predicted frames only",
}
"""What `evaluate` makes of whole sets of clips; the given frames, equal on both sides, make a distance smaller."""

BY_STEP = ("FID", "KID")
"""Distances of one frame of every clip, too: given frames have no step, and FVD's network sees nine frames or more."""

LEAST_CLIPS = 64
"""Fewer clips have no FID or FVD here, since it would say more about their number than about the model.

On coinrun (two given frames, eight predicted) the FVD of one model's clips is 638 for 16 of them, 510 for 32 and 387 for
64, on the way to some 260 if it keeps falling with one over the number; and two sets of 32 real clips are 612 apart, as
much as repeating the last frame is from real, 639. Figures of 64 are still for ranking methods on the same clips only.
"""

LEAST_LEVELS_OF_DISTANCE = 20
"""As many blocks as `jackknife` deals levels into."""


def evaluate(
    methods: Mapping[str, Video],
    real: Video,
    *,
    context: Context,
    actions: Actions | Vectors,
    levels: Int[Tensor, " batch"],
    reference: str = REPEAT_LAST_FRAME,
    judge_file: JudgeFile | None = None,
    effects: Mapping[str, Sequence[int]] | None = None,
    distributions: bool = False,
    cache: Path | None = None,
    notes: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Evaluation:
    """Measure every method on the same clips; the row "repeat last frame" is always added.

    Args:
        methods: generated videos by method, (batch, time, 3, height, width), float32 in [-1, 1], one sample a clip.
        real: what really happened, same shape.
        context: the frames before, (batch, num_context, 3, height, width).
        actions: (batch, time) integers, or vectors (batch, time, dim), floats in the units that the judge was trained on;
            action k caused frame k of the video.
        levels: the level of each clip, resampled as a whole for the intervals.
        reference: the method that the others are compared with, clip by clip.
        judge_file: reads actions off the videos, such as these are; without it no action figure is made.
        effects: by name, tables that merge discrete actions of one effect for further action figures.
        distributions: add what costs most: the distances between sets of clips (`DISTANCES`), each left out, and said so,
            where the clips are too few or too short for it; LPIPS with VGG's weights; and the temporal error.
        cache: a folder in which what is made of real videos alone, their features and all of repetition that takes long, is
            kept for further calls.
        notes: anything JSON that belongs to the protocol: dataset, sampler, seeds, fingerprints.
        seed: of the bootstrap, and of the jackknife of distances.

    Raises:
        ValueError: shapes, dtypes or ranges disagree; a reserved name; fewer than two levels; unknown reference; the judge
            reads discrete actions and these are vectors, or the other way round.
        FileNotFoundError: a package that carries weights is not installed.
    """
    if not methods.keys().isdisjoint({REPEAT_LAST_FRAME, REAL}):
        raise ValueError(f"{REPEAT_LAST_FRAME!r} and {REAL!r} are rows of every table; give your methods other names")
    if reference not in {*methods, REPEAT_LAST_FRAME}:
        raise ValueError(f"the reference {reference!r} is none of the methods {[*methods, REPEAT_LAST_FRAME]}")
    check_videos(context=context)
    check_videos(real=real, **methods)
    _check_actions(actions, real, judge_file, effects)
    videos = {REPEAT_LAST_FRAME: context[:, -1:].expand_as(real), **methods}
    lpips, left_out = Lpips().to(real.device), dict[str, str]()
    weights = {"lpips": asdict(lpips.weights)}
    measured: dict[str, dict[str, PerFrame]] = {}
    frame_metrics: tuple[Callable[[Video, Video], PerFrame], ...] = (psnr, ssim, lpips, sharpness)
    for metric, measure in zip(FRAME_METRICS, frame_metrics, strict=True):
        measured[metric] = {name: measure(video, real) for name, video in videos.items()}
    definitions, divided_by = dict(FRAME_METRICS), dict[str, PerFrame]()
    if distributions:
        vgg = Lpips("vgg").to(real.device)
        measured |= {
            metric: {name: _vgg(vgg, name, video, real, cache) for name, video in videos.items()} for metric in VGG
        }
        measured["temporal error"] = {
            name: temporal_error(video, real, context, lpips) for name, video in videos.items()
        }
        definitions |= VGG
        definitions["temporal error"] = DISTRIBUTION_METRICS["temporal error"]
        weights["lpips_vgg"] = asdict(vgg.weights)
    if judge_file is not None:
        judge = judge_file.load().to(real.device)
        read = {name: judge(context, video) for name, video in {REAL: real, **videos}.items()}
        for table, kinds in _read_off(read, actions, effects or {}):
            first = next(iter(kinds))
            measured[f"action {first}{table}"] = kinds[first]
            definitions[f"action {first}{table}"] = ACTION_METRICS[first]
            for kind, value in kinds.items():
                ratio, on_real = f"action {kind} ratio{table}", value[REAL]
                if len(levels[(on_real > 0).any(1)].unique()) < LEAST_LEVELS:
                    left_out[ratio] = f"{kind} on real video is above zero on fewer than {LEAST_LEVELS} levels"
                    continue
                measured[ratio] = {name: values for name, values in value.items() if name != REAL}
                divided_by[ratio] = on_real
                definitions[ratio] = f"mean {kind} on generated video / mean {kind} on real video; 1 reads like real"

    figures = [
        frame_figure(
            method,
            metric,
            values,
            levels,
            over=divided_by.get(metric),
            reference=None if method == reference else measured[metric][reference],
            seed=seed,
        )
        for metric, by_method in measured.items()
        for method, values in by_method.items()
    ]
    if distributions:
        left_out |= no_distance(len(real), len(levels.unique()), context.shape[1], real.shape[1])
        wanted = [metric for metric in DISTANCES if metric not in left_out]
        definitions |= {metric: DISTANCES[metric] for metric in wanted}
        weights |= {"inception": asdict(INCEPTION), "i3d": asdict(I3D_KINETICS)}
        for metric, sets in _feature_sets(wanted, videos, real, context, cache):
            figures += _distance_figures(metric, sets, levels, reference, seed)

    protocol = {
        "num_clips": len(real),
        "num_levels": len(levels.unique()),
        "num_context": context.shape[1],
        "num_predicted": real.shape[1],
        "clips": storage.checksum({"real": real, "context": context, "actions": _as_stored(actions)}, {}),
        "levels": levels.tolist(),
        "reference": reference,
        "metrics": definitions,
        "left_out": left_out,
        **weights,
        "judge": None if judge_file is None else judge_file.card,
        "effects": {name: list(effect) for name, effect in (effects or {}).items()},
        "intervals": {"share": 0.95, "resampled": "levels", "num_resamples": NUM_RESAMPLES, "seed": seed},
        "notes": dict(notes or {}),
    }
    return Evaluation(tuple(figures), protocol)


def _vgg(lpips: Lpips, method: str, video: Video, real: Video, cache: Path | None) -> PerFrame:
    """LPIPS with VGG's weights; that of repetition, which is made of real frames and the same for every model, is kept."""
    make = partial(in_parts, lpips, video, real, of=f"LPIPS (VGG) of {method}")
    if method != REPEAT_LAST_FRAME:
        return make()
    videos = storage.checksum({"video": video, "real": real}, {})
    facts = {"metric": VGG["LPIPS (VGG)"], "weights": lpips.weights.sha256, "videos": videos}
    return kept(make, cache, facts).to(real.device)


def frame_figure(
    method: str,
    metric: str,
    values: PerFrame,
    levels: Int[Tensor, " batch"],
    *,
    over: PerFrame | None = None,
    reference: PerFrame | None = None,
    seed: int = 0,
) -> Figure:
    """The figure of a metric that has a value a frame.

    Args:
        method, metric: its names.
        values: a value a frame, (batch, time).
        levels: the level of each clip, resampled as a whole.
        over: denominators; the figure is then a ratio of means, which a single clip has not.
        reference: values of the method to subtract for the difference.
        seed: of the bootstrap.

    Raises:
        ValueError: as `mean_interval`.
    """
    options: dict[str, Any] = {"over": None if over is None else over.mean(1), "seed": seed}
    per_clip = values.mean(1)
    steps = (values.mean(0) if over is None else values.mean(0) / over.mean(0)).tolist()
    return Figure(
        method,
        metric,
        overall=mean_interval(per_clip, levels, **options),
        per_step=tuple(step if math.isfinite(step) else None for step in steps),
        difference=None if reference is None else paired_interval(per_clip, reference.mean(1), levels, **options),
        values=tuple(float(f"{value:.5g}") for value in per_clip.tolist()) if over is None else (),
    )


def no_distance(num_clips: int, num_levels: int, num_context: int, num_predicted: int) -> dict[str, str]:
    """The `DISTANCES` that such clips do not have, with the reason."""
    reasons = {}
    for metric in DISTANCES:
        length = num_predicted + num_context * (metric == "FVD with given frames")
        if num_levels < LEAST_LEVELS_OF_DISTANCE:
            reasons[metric] = f"its interval needs {LEAST_LEVELS_OF_DISTANCE} levels or more, not {num_levels}"
        elif metric != "KID" and num_clips < LEAST_CLIPS:
            reasons[metric] = f"a Frechet distance needs {LEAST_CLIPS} clips or more, not {num_clips}"
        elif metric.startswith("FVD") and length < LEAST_FRAMES:
            reasons[metric] = f"its network sees {LEAST_FRAMES} frames or more, not {length}"
    return reasons


def _check_actions(
    actions: Actions | Vectors, real: Video, judge_file: JudgeFile | None, effects: Mapping[str, Sequence[int]] | None
) -> None:
    """Raises ValueError for action vectors that do not go with the videos, the judge or the effects."""
    are_vectors = actions.is_floating_point()
    if are_vectors and (actions.ndim != 3 or actions.shape[:2] != real.shape[:2]):
        expected = f"({len(real)}, {real.shape[1]}, dim)"
        raise ValueError(f"action vectors are {expected}, one for each frame of the video, not {tuple(actions.shape)}")
    if are_vectors and effects:
        raise ValueError("effects merge discrete actions; leave them out for action vectors")
    if judge_file is not None and judge_file.reads_vectors != are_vectors:
        kinds = ("discrete actions", "action vectors")
        raise ValueError(
            f"{judge_file.path.name} reads {kinds[judge_file.reads_vectors]}, and these are {kinds[are_vectors]}; pass a "
            "judge that was trained on such actions, or none"
        )


def _as_stored(actions: Actions | Vectors) -> Tensor:
    """Of one dtype a kind, so that equal actions have one checksum."""
    return actions.float() if actions.is_floating_point() else actions.long()


def _read_off(
    read: Mapping[str, Tensor], actions: Actions | Vectors, effects: Mapping[str, Sequence[int]]
) -> Iterator[tuple[str, dict[str, dict[str, PerFrame]]]]:
    """What the judge's answers are worth: the table, as it ends a metric's name, and kinds of values by video.

    A ratio to real video is made of every kind; the first is reported by itself, too.
    """
    if actions.is_floating_point():
        yield "", {"error": {name: action_errors(answer, actions) for name, answer in read.items()}}
        return
    for table, effect in {"15 actions": None, **effects}.items():
        right = {name: is_recognised(answer, actions, effect).double() for name, answer in read.items()}
        yield f" ({table})", {"accuracy": right, "error": {name: 1 - value for name, value in right.items()}}


def _feature_sets(
    wanted: Sequence[str], videos: Mapping[str, Video], real: Video, context: Context, cache: Path | None
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Each metric with the features of the real clips and of every method's; a network is done before the next."""
    whole = with_context(real, context)
    if not {"FID", "FID with given frames", "KID"}.isdisjoint(wanted):
        inception = Inception().to(real.device)
        given, ahead = real_features(inception, whole, cache).split([context.shape[1], real.shape[1]], dim=1)
        predicted = {
            name: given[:, -1:].expand_as(ahead)  # one frame again and again
            if name == REPEAT_LAST_FRAME
            else in_parts(inception, video, of=f"Inception features of {name}")
            for name, video in videos.items()
        }
        sets = {REAL: ahead, **predicted}
        for metric in ("FID", "KID"):
            if metric in wanted:
                yield metric, sets
        if "FID with given frames" in wanted:
            yield "FID with given frames", {name: torch.cat([given, some], dim=1) for name, some in sets.items()}
    if not {"FVD", "FVD with given frames"}.isdisjoint(wanted):
        i3d = I3D().to(real.device)
        for metric, before in (("FVD with given frames", [context]), ("FVD", [])):
            if metric in wanted:
                yield (
                    metric,
                    {
                        REAL: real_features(i3d, whole if before else real, cache),
                        **{
                            # repetition is made of real frames, and the same for every model
                            name: real_features(i3d, with_context(video, context) if before else video, cache)
                            if name == REPEAT_LAST_FRAME
                            else in_parts(i3d, video, *before, of=f"I3D features of {name}")
                            for name, video in videos.items()
                        },
                    },
                )


def _distance_figures(
    metric: str, sets: Mapping[str, Tensor], levels: Int[Tensor, " batch"], reference: str, seed: int
) -> Iterator[Figure]:
    distance = kernel_distance if metric == "KID" else frechet_distance
    measured = {
        method: distance_jackknife(distance, features, sets[REAL], levels, of=f"{metric} of {method}", seed=seed)
        for method, features in sets.items()
        if method != REAL
    }
    for method, value in measured.items():
        difference = None if method == reference else (value - measured[reference]).interval
        steps = distance_by_step(distance, sets[method], sets[REAL]) if metric in BY_STEP else ()
        yield Figure(method, metric, value.interval, per_step=steps, difference=difference)
