"""A result survives its file, and results are compared clip by clip only if they were measured alike."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from trimtab.metrics.evaluation import REPEAT_LAST_FRAME, evaluate
from trimtab.metrics.frames import psnr
from trimtab.metrics.intervals import Interval, paired_interval
from trimtab.metrics.protocol import Evaluation, Figure, compared


@pytest.fixture(scope="module")
def clips() -> Mapping[str, Tensor]:
    random = torch.Generator().manual_seed(0)
    real = torch.rand(12, 3, 3, 32, 32, generator=random) * 1.6 - 0.8
    noise = torch.randn(2, *real.shape, generator=random)
    return {
        "real": real,
        "near": (real + 0.05 * noise[0]).clamp(-1, 1),
        "far": (real + 0.2 * noise[1]).clamp(-1, 1),
        "context": torch.rand(12, 2, 3, 32, 32, generator=random),
        "actions": torch.randint(4, (12, 3), generator=random),
        "levels": torch.arange(6).repeat_interleave(2),
    }


def measure(clips: Mapping[str, Tensor], *methods: str, **options: Any) -> Evaluation:
    known: dict[str, Any] = {name: clips[name] for name in ("context", "actions", "levels")}
    return evaluate({name: clips[name] for name in methods}, clips["real"], **{**known, **options})


@pytest.fixture(scope="module")
def near(clips: Mapping[str, Tensor]) -> Evaluation:
    return measure(clips, "near", reference="near", notes={"seed": 1})


@pytest.fixture(scope="module")
def far(clips: Mapping[str, Tensor]) -> Evaluation:
    return measure(clips, "far", notes={"seed": 2})


def test_a_result_survives_its_file(near: Evaluation) -> None:
    text = near.to_json()
    assert Evaluation.from_json(text) == near
    assert json.loads(text)["protocol"] == near.protocol
    figure = near.figure("near", "PSNR")
    assert f'\n      "values": [{", ".join(map(str, figure.values))}]\n' in text
    assert '\n    "levels": [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5],\n' in text


def test_values_are_those_of_the_clips(near: Evaluation, clips: Mapping[str, Tensor]) -> None:
    values = near.figure("near", "PSNR").values
    assert values == pytest.approx(psnr(clips["near"], clips["real"]).mean(1).tolist(), rel=5e-5)
    assert all(len(str(value)) <= 6 for value in values)  # five digits and a point


def test_a_figure_without_an_interval_survives_its_file(near: Evaluation) -> None:
    bare = Figure("near", "FID", Interval(3.5, math.nan, math.nan, 12, 6), (), None)
    text = replace(near, figures=(bare,)).to_json()
    assert "NaN" not in text
    found = Evaluation.from_json(text).figure("near", "FID").overall
    assert found.mean == 3.5
    assert math.isnan(found.low) and math.isnan(found.high)  # noqa: PT018


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("protocol", "levels"), ..., "lacks.*levels"),
        (("protocol", "levels"), [1, 2], "2 levels for 12 clips"),
        (("protocol",), ..., "no 'protocol'"),
        (("figures", 0, "values"), ..., "no 'values'"),
        (("figures", 0, "values"), [1.0], "'PSNR'.*number for each of 12 clips"),
        (("figures", 0, "values"), ["1.0"] * 12, "number for each of 12 clips"),
        (("figures", 0, "per_step"), ["1.0"], "for each step"),
        (("figures", 0, "overall"), {"mean": 1.0, "low": 0.0, "high": 2.0}, "intervals of"),
        (("figures", 0, "overall", "mean"), "1.0", "all numbers"),
        (("figures", 0, "difference"), 1.0, "no result"),
        (("figures", 0, "method"), 1, "two texts"),
        (("figures",), 3, "no result"),
    ],
)
def test_what_is_no_result_is_refused(far: Evaluation, place: tuple, value: Any, message: str) -> None:
    content = json.loads(far.to_json())
    holder = content
    for key in place[:-1]:
        holder = holder[key]
    if value is ...:
        del holder[place[-1]]
    else:
        holder[place[-1]] = value
    with pytest.raises(ValueError, match=message):
        Evaluation.from_json(json.dumps(content))


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '{"figures": []}'])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no result of this version"):
        Evaluation.from_json(text)


def test_differences_are_those_of_one_table(near: Evaluation, far: Evaluation, clips: Mapping[str, Tensor]) -> None:
    found = compared(near, far, "near", "far")
    assert list(found) == ["PSNR", "SSIM", "LPIPS", "sharpness"]
    together = measure(clips, "near", "far", reference="far")
    for metric, interval in found.items():
        expected = together.figure("near", metric).difference
        assert expected is not None
        for end in ("mean", "low", "high"):
            assert getattr(interval, end) == pytest.approx(getattr(expected, end), rel=1e-3), metric
    values = [torch.tensor(table.figure(name, "PSNR").values) for table, name in ((near, "near"), (far, "far"))]
    assert found["PSNR"].low == pytest.approx(paired_interval(*values, clips["levels"]).low)


def test_a_result_may_be_compared_with_one_that_was_read(near: Evaluation, far: Evaluation) -> None:
    read = Evaluation.from_json(near.to_json())
    assert compared(read, far, "near", "far") == compared(near, far, "near", "far")
    assert set(compared(read, near, "near", "near").values()) == {Interval(0.0, 0.0, 0.0, 12, 6)}


def test_what_has_no_value_a_clip_is_not_compared(near: Evaluation, far: Evaluation) -> None:
    fewer = replace(far, figures=tuple(replace(f, values=()) if f.metric == "PSNR" else f for f in far.figures))
    assert list(compared(near, fewer, "near", "far")) == ["SSIM", "LPIPS", "sharpness"]
    none = replace(far, figures=tuple(replace(figure, values=()) for figure in far.figures))
    with pytest.raises(ValueError, match="no metric with a value a clip"):
        compared(near, none, "near", "far")


def test_unknown_methods_are_refused_by_name(near: Evaluation, far: Evaluation) -> None:
    with pytest.raises(ValueError, match=f"no method 'far' in this result; there are {REPEAT_LAST_FRAME}, near"):
        compared(near, far, "far", "far")


@pytest.mark.parametrize(
    ("change", "keys"),
    [
        ({"seed": 5}, ["intervals.seed: 0 and 5"]),
        ({"levels": torch.arange(12)}, ["num_levels: 6 and 12", "levels: "]),
        ({"actions": torch.zeros(12, 3, dtype=torch.int64)}, ["clips: "]),
        ({"context": torch.zeros(12, 1, 3, 32, 32)}, ["num_context: 2 and 1", "clips: "]),
        ({"effects": {"two": (0, 1)}}, ["effects.two: absent and"]),
    ],
)
def test_results_measured_otherwise_are_refused_and_told_what_differs(
    near: Evaluation, clips: Mapping[str, Tensor], change: dict[str, Any], keys: list[str]
) -> None:
    with pytest.raises(ValueError, match="not measured alike") as error:
        compared(near, measure(clips, "far", **change), "near", "far")
    lines = str(error.value).splitlines()[1:]
    assert len(lines) == len(keys)
    assert all(line.strip().startswith(key) for line, key in zip(lines, keys, strict=True))
    assert all(len(line) < 220 for line in lines)


def test_other_definitions_and_weights_are_other_protocols(near: Evaluation, far: Evaluation) -> None:
    for key, inner in (("lpips", "sha256"), ("metrics", "PSNR")):
        other = {**far.protocol, key: {**far.protocol[key], inner: far.protocol[key][inner] + " otherwise"}}
        with pytest.raises(ValueError, match=rf"{key}\.{inner}: .* otherwise"):
            compared(near, replace(far, protocol=other), "near", "far")
