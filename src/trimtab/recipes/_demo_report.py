"""The page that the demo ends with; knows the demo's results, and no model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from trimtab.core.values import Clip, Video
from trimtab.metrics.evaluation import REAL, REPEAT_LAST_FRAME, Evaluation
from trimtab.metrics.intervals import Interval, mean_interval, paired_interval
from trimtab.metrics.listening import Listening
from trimtab.metrics.masks import MaskStatistics
from trimtab.report import Report, film_strip
from trimtab.report.sections import listening_section, mask_section

CATCH_UP = Path(__file__).parent / "catch_up.json"
"""What `trimtab catch-up` measured last: how long from-scratch needs to reach AVID's loss."""

NAMES = {"prior": "frozen prior", "scratch": "from scratch", "avid": "AVID"}
ACCURACY = "action accuracy (effects)"
METRICS: dict[str, Literal["min", "max"] | None] = {
    "LPIPS": "min",
    "PSNR": "max",
    "SSIM": "max",
    "sharpness": None,
    ACCURACY: "max",
    "action accuracy (15 actions)": "max",
    "action error ratio (effects)": "min",
}


def write_report(
    path: Path,
    *,
    table: Evaluation,
    losses: Mapping[str, Tensor],
    levels: Tensor,
    curves: Mapping[str, tuple[list[float], list[float]]],
    clip: Clip,
    videos: Mapping[str, Video],
    mask: Tensor,
    masks: MaskStatistics,
    listening: Listening,
    what_if: Mapping[str, Tensor],
    settings: Mapping[str, Any],
    seconds: float,
) -> Path:
    """Write the demo's report: findings, strips, table, curves and settings; and strip.png, two of the clips, beside it."""
    overall = {name: mean_interval(loss, levels) for name, loss in losses.items()}
    report = Report(
        "AVID on coinrun",
        f"A frozen video prior that never saw coinrun nor any action, steered by an adapter trained for {seconds:g} seconds",
    )
    report.summary(findings(table, losses, levels, overall, seconds))

    shown = slice(0, len(clip.video), max(1, len(clip.video) // 8))
    context = clip.given.context
    assert context is not None  # every held-out clip has its context
    report.section("What it imagines", "Eight frames from two, on levels that none of the models was trained on.")
    rows = {"ground truth": clip.video, **{NAMES[name]: videos[name] for name in NAMES}, "AVID's mask": mask}
    report.strips(
        {name: video[shown][:8] for name, video in rows.items()},
        "The same held-out clips, sampled from the same noise. The mask is AVID's trust in the prior, averaged over the "
        "sampling steps: 1 takes the prior's word for it, 0 the adapter's.",
        given=context[shown][:8],
        labels=[f"level {int(level)}" for level in levels[shown][:8]],
    )
    strip = {name: video[shown][:2] for name, video in rows.items()}
    film_strip(strip, given=context[shown][:2], clips=range(len(context[shown][:2]))).save(
        path.with_name("strip.png"), optimize=True
    )
    num_shown = len(next(iter(what_if.values())))
    listening_section(
        report,
        listening,
        what_if,
        given=context[:num_shown],
        labels=[f"level {int(level)}" for level in levels[:num_shown]],
    )
    mask_section(report, masks)

    report.section("How good it is")
    methods = [REAL, REPEAT_LAST_FRAME, *NAMES.values()]
    metrics = {name: best for name, best in METRICS.items() if name in table.protocol["metrics"]}
    protocol = table.protocol
    report.table(
        ["model", "denoising loss", *metrics],
        [[name, loss_of(name, overall), *(figure(table, name, metric) for metric in metrics)] for name in methods],
        f"Means over {protocol['num_clips']} clips of {protocol['num_levels']} held-out levels with 95% intervals, levels "
        "resampled. The denoising loss is that of the velocity; repetition of the last frame has none.",
        note="; ".join(f"{name}: {text}" for name, text in protocol["metrics"].items() if name in metrics),
        best={"denoising loss": "min", **{name: best for name, best in metrics.items() if best}},
    )
    report.table(
        ["AVID minus", "denoising loss", *metrics],
        [
            [
                NAMES[name],
                paired_interval(losses["avid"], losses[name], levels),
                *(opposite(table, NAMES[name], metric) for metric in metrics),
            ]
            for name in ("scratch", "prior")
        ],
        "The same clips compared one by one: paired differences with 95% intervals.",
    )
    steps = list(range(1, clip.video.shape[1] + 1))
    by_step = {name: (steps, list(table.figure(name, "LPIPS").per_step)) for name in methods if name != REAL}
    report.curves(by_step, "LPIPS of each predicted frame; lower is better.", "predicted frame", "LPIPS")

    report.section("How it learned", catch_up_text())
    caption = f"Loss on {protocol['num_clips'] // 4} held-out clips, the same for all."
    report.curves(curves, caption, "seconds of training", "denoising loss")
    report.section("Settings")
    versions = {name: version(name) for name in ("trimtab", "torch", "numpy")}
    report.settings(
        {**{key: str(value) for key, value in settings.items()}, **versions, "protocol": json.dumps(protocol)}
    )
    return report.write(path)


def findings(
    table: Evaluation, losses: Mapping[str, Tensor], levels: Tensor, overall: Mapping[str, Interval], seconds: float
) -> list[str]:
    """What the numbers say, in sentences."""
    said = [
        f"After {seconds:g} seconds of training each, AVID's denoising loss on held-out levels is "
        f"{overall['avid'].mean:.4f}, "
        f"from scratch {overall['scratch'].mean:.4f}; the frozen prior alone stands at {overall['prior'].mean:.4f}."
    ]
    for metric, words, better in (("LPIPS", "LPIPS", -1), (ACCURACY, "share of actions recognised", 1)):
        values = {name: table.figure(NAMES[name], metric).overall.mean for name in NAMES}
        verdicts = []
        for name in ("scratch", "prior"):
            difference = opposite(table, NAMES[name], metric)
            gain = sorted((better * difference.low, better * difference.high))
            word = "AVID is better" if gain[0] > 0 else "AVID is worse" if gain[1] < 0 else "not told apart"
            verdicts.append(f"{NAMES[name]} {values[name]:.3f} ({word})")
        said.append(f"{words[0].upper() + words[1:]}: AVID {values['avid']:.3f}, {', '.join(verdicts)}.")
    return said


def opposite(table: Evaluation, name: str, metric: str) -> Interval:
    """AVID minus the method; the table holds the method minus AVID, the reference."""
    difference = table.figure(name, metric).difference
    assert difference is not None  # only the reference has none
    return Interval(-difference.mean, -difference.high, -difference.low, difference.num_clips, difference.num_clusters)


def figure(table: Evaluation, name: str, metric: str) -> Interval | str:
    """A cell; recorded video, and repetition, have no figure for some metrics."""
    try:
        return table.figure(name, metric).overall
    except KeyError:
        return "–"


def loss_of(name: str, overall: Mapping[str, Interval]) -> Interval | str:
    short = {full: key for key, full in NAMES.items()}
    return overall[short[name]] if name in short else "–"


def catch_up_text() -> str:
    """What the longer run of the from-scratch model showed, if one was made."""
    if not CATCH_UP.exists():
        return ""
    facts = json.loads(CATCH_UP.read_text())
    return str(facts["sentence"])
