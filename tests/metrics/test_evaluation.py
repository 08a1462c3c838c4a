"""One table holds what the metrics say, with intervals over levels and the protocol beside every figure."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from trimtab.metrics.actions import ActionJudge, JudgeFile, action_accuracy_ratio, action_error_ratio, is_recognised
from trimtab.metrics.evaluation import REAL, REPEAT_LAST_FRAME, evaluate
from trimtab.metrics.frames import psnr
from trimtab.metrics.intervals import mean_interval, paired_interval
from trimtab.metrics.protocol import Evaluation
from trimtab.metrics.weights import LPIPS_ALEX

NUM_CLIPS, NUM_STEPS, NUM_LEVELS = 216, 3, 36
EFFECTS = (0, 1, 1, 2)


@pytest.fixture(scope="module")
def clips() -> Mapping[str, Tensor]:
    """Noise that drifts: the real video is the context's last frame plus a little, so small differences are known."""
    random = torch.Generator().manual_seed(0)
    context = torch.rand(NUM_CLIPS, 2, 3, 32, 32, generator=random) * 1.6 - 0.8
    change = 0.1 * torch.randn(NUM_CLIPS, NUM_STEPS, 3, 32, 32, generator=random)
    real = (context[:, -1:] + change.cumsum(1)).clamp(-1, 1)
    close = (real + 0.05 * torch.randn(real.shape, generator=random)).clamp(-1, 1)
    actions = torch.randint(4, (NUM_CLIPS, NUM_STEPS), generator=random)
    levels = torch.arange(NUM_LEVELS).repeat_interleave(NUM_CLIPS // NUM_LEVELS)
    return {"context": context, "real": real, "close": close, "actions": actions, "levels": levels}


@pytest.fixture(scope="module")
def judge_file(tmp_path_factory: pytest.TempPathFactory) -> JudgeFile:
    torch.manual_seed(0)
    file = JudgeFile(Path(tmp_path_factory.mktemp("judge")) / "judge.safetensors")
    file.save(ActionJudge(num_actions=4, width=4, frame_size=32, crop=32), {"game": "none"})
    return file


def measure(clips: Mapping[str, Tensor], **options: Any) -> Evaluation:
    known = {name: clips[name] for name in ("context", "actions", "levels")}
    return evaluate({"close": clips["close"]}, clips["real"], **{**known, **options})


@pytest.fixture(scope="module")
def table(clips: Mapping[str, Tensor], judge_file: JudgeFile) -> Evaluation:
    return measure(clips, judge_file=judge_file, effects={"effects": EFFECTS}, notes={"sampler": "none"}, seed=3)


def test_figures_are_those_of_the_parts(table: Evaluation, clips: Mapping[str, Tensor]) -> None:
    ours, theirs = (
        psnr(video, clips["real"]) for video in (clips["close"], clips["context"][:, -1:].expand_as(clips["real"]))
    )
    found = table.figure("close", "PSNR")
    assert found.overall == mean_interval(ours.mean(1), clips["levels"], seed=3)
    assert found.difference == paired_interval(ours.mean(1), theirs.mean(1), clips["levels"], seed=3)
    assert found.per_step == pytest.approx(ours.mean(0).tolist())
    assert (found.overall.num_clips, found.overall.num_clusters) == (NUM_CLIPS, NUM_LEVELS)


def test_repeat_last_frame_is_always_there_and_worse_later(table: Evaluation) -> None:
    repeat = table.figure(REPEAT_LAST_FRAME, "PSNR")
    assert repeat.difference is None
    assert repeat.per_step[0] > repeat.per_step[2]
    for metric, sign in (("PSNR", 1), ("SSIM", 1), ("LPIPS", -1)):
        difference = table.figure("close", metric).difference
        assert difference is not None
        assert min(sign * difference.low, sign * difference.high) > 0


def test_action_figures_agree_with_their_formulas(
    table: Evaluation, clips: Mapping[str, Tensor], judge_file: JudgeFile
) -> None:
    judge = judge_file.load()
    for name, effects in (("15 actions", None), ("effects", EFFECTS)):
        right = {
            method: is_recognised(judge(clips["context"], clips[key]), clips["actions"], effects)
            for method, key in ((REAL, "real"), ("close", "close"))
        }
        for method, value in right.items():
            accuracy = table.figure(method, f"action accuracy ({name})").overall.mean
            assert accuracy == pytest.approx(value.double().mean().item())
        ratio = table.figure("close", f"action error ratio ({name})").overall.mean
        assert ratio == pytest.approx(action_error_ratio(right["close"], right[REAL]))
        ratio = table.figure("close", f"action accuracy ratio ({name})").overall.mean
        assert ratio == pytest.approx(action_accuracy_ratio(right["close"], right[REAL]))


def test_protocol_goes_with_the_figures_as_json(table: Evaluation, judge_file: JudgeFile) -> None:
    written = json.loads(table.to_json())
    protocol = written["protocol"]
    assert (protocol["num_clips"], protocol["num_levels"], protocol["num_predicted"]) == (
        NUM_CLIPS,
        NUM_LEVELS,
        NUM_STEPS,
    )
    assert protocol["lpips"]["sha256"] == LPIPS_ALEX.sha256
    assert protocol["judge"]["sha256"] == judge_file.card["sha256"]
    assert protocol["notes"] == {"sampler": "none"}
    assert protocol["intervals"]["seed"] == 3
    assert {figure["metric"] for figure in written["figures"]} == set(protocol["metrics"])
    assert len(written["figures"]) == len(table.figures)
    lines = str(table).splitlines()
    assert lines[0].startswith("216 clips of 36 levels")
    assert sum(line.startswith("| close |") for line in lines) == 1


def test_error_ratio_without_enough_errors_is_left_out_and_said_so(
    clips: Mapping[str, Tensor], judge_file: JudgeFile
) -> None:
    few = {name: value[:8] for name, value in clips.items()}
    table = measure(few, judge_file=judge_file)
    assert "fewer than 30 levels" in table.protocol["left_out"]["action error ratio (15 actions)"]
    with pytest.raises(KeyError, match="fewer than 30 levels"):
        table.figure("close", "action error ratio (15 actions)")


def test_what_cannot_be_compared_is_refused(clips: Mapping[str, Tensor]) -> None:
    few = {name: value[:4] for name, value in clips.items()}
    known = {name: few[name] for name in ("context", "actions", "levels")}
    for name in (REAL, REPEAT_LAST_FRAME):
        with pytest.raises(ValueError, match="other names"):
            evaluate({name: few["close"]}, few["real"], **known)
    with pytest.raises(ValueError, match="none of the methods"):
        measure(few, reference="absent")
    with pytest.raises(ValueError, match="clos must lie in"):
        evaluate({"clos": few["close"] * 2}, few["real"], **known)
    with pytest.raises(ValueError, match="two clusters"):
        measure(few, levels=torch.zeros(4, dtype=torch.int64))
