"""Measures the videos of several methods on the same clips, as one table; knows no model, sampler or dataset."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from jaxtyping import Int
from torch import Tensor

from trimtab.core.values import Video
from trimtab.metrics.actions import Actions, Context, JudgeFile, is_recognised
from trimtab.metrics.frames import Lpips, PerFrame, check_videos, psnr, sharpness, ssim
from trimtab.metrics.intervals import NUM_RESAMPLES, mean_interval, paired_interval
from trimtab.metrics.protocol import Evaluation, Figure

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


def evaluate(
    methods: Mapping[str, Video],
    real: Video,
    *,
    context: Context,
    actions: Actions,
    levels: Int[Tensor, " batch"],
    reference: str = REPEAT_LAST_FRAME,
    judge_file: JudgeFile | None = None,
    effects: Mapping[str, Sequence[int]] | None = None,
    notes: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Evaluation:
    """Measure every method on the same clips; the row "repeat last frame" is always added.

    Args:
        methods: generated videos by method, (batch, time, 3, height, width), float32 in [-1, 1], one sample a clip.
        real: what really happened, same shape.
        context: the frames before, (batch, num_context, 3, height, width).
        actions: (batch, time) integers; action k caused frame k of the video.
        levels: the level of each clip, resampled as a whole for the intervals.
        reference: the method that the others are compared with, clip by clip.
        judge_file: reads actions off the videos; without it no action figure is made.
        effects: by name, tables that merge actions of one effect for further action figures.
        notes: anything JSON that belongs to the protocol: dataset, sampler, seeds, fingerprints.
        seed: of the bootstrap.

    Raises:
        ValueError: shapes, dtypes or ranges disagree; a reserved name; fewer than two levels; unknown reference.
    """
    if not methods.keys().isdisjoint({REPEAT_LAST_FRAME, REAL}):
        raise ValueError(f"{REPEAT_LAST_FRAME!r} and {REAL!r} are rows of every table; give your methods other names")
    if reference not in {*methods, REPEAT_LAST_FRAME}:
        raise ValueError(f"the reference {reference!r} is none of the methods {[*methods, REPEAT_LAST_FRAME]}")
    check_videos(context=context)
    check_videos(real=real, **methods)
    videos = {REPEAT_LAST_FRAME: context[:, -1:].expand_as(real), **methods}
    lpips, left_out = Lpips().to(real.device), {}
    measured: dict[str, dict[str, PerFrame]] = {}
    frame_metrics: tuple[Callable[[Video, Video], PerFrame], ...] = (psnr, ssim, lpips, sharpness)
    for metric, measure in zip(FRAME_METRICS, frame_metrics, strict=True):
        measured[metric] = {name: measure(video, real) for name, video in videos.items()}
    definitions, divided_by = dict(FRAME_METRICS), dict[str, PerFrame]()
    if judge_file is not None:
        judge = judge_file.load().to(real.device)
        logits = {name: judge(context, video) for name, video in {REAL: real, **videos}.items()}
        for table, effect in {"15 actions": None, **(effects or {})}.items():
            right = {name: is_recognised(value, actions, effect).double() for name, value in logits.items()}
            wrong = {name: 1 - value for name, value in right.items()}
            measured[f"action accuracy ({table})"] = right
            definitions[f"action accuracy ({table})"] = "share of actions that the judge recognises; higher is better"
            for kind, value in (("accuracy", right), ("error", wrong)):
                ratio, on_real = f"action {kind} ratio ({table})", value[REAL]
                if len(levels[(on_real > 0).any(1)].unique()) < LEAST_LEVELS:
                    left_out[ratio] = f"{kind} on real video is above zero on fewer than {LEAST_LEVELS} levels"
                    continue
                measured[ratio] = {name: values for name, values in value.items() if name != REAL}
                divided_by[ratio] = on_real
                definitions[ratio] = f"mean {kind} on generated video / mean {kind} on real video; 1 reads like real"

    def figure(method: str, metric: str) -> Figure:
        values, over = measured[metric][method], divided_by.get(metric)
        options: dict[str, Any] = {"over": None if over is None else over.mean(1), "seed": seed}
        steps = (values.mean(0) if over is None else values.mean(0) / over.mean(0)).tolist()
        overall, difference = mean_interval(values.mean(1), levels, **options), None
        if method != reference:
            difference = paired_interval(values.mean(1), measured[metric][reference].mean(1), levels, **options)
        per_step = tuple(step if math.isfinite(step) else None for step in steps)
        return Figure(method, metric, overall, per_step, difference)

    protocol = {
        "num_clips": len(real),
        "num_levels": len(levels.unique()),
        "num_context": context.shape[1],
        "num_predicted": real.shape[1],
        "reference": reference,
        "metrics": definitions,
        "left_out": left_out,
        "lpips": asdict(lpips.weights),
        "judge": None if judge_file is None else judge_file.card,
        "effects": {name: list(effect) for name, effect in (effects or {}).items()},
        "intervals": {"share": 0.95, "resampled": "levels", "num_resamples": NUM_RESAMPLES, "seed": seed},
        "notes": dict(notes or {}),
    }
    return Evaluation(tuple(figure(method, metric) for metric in measured for method in measured[metric]), protocol)
