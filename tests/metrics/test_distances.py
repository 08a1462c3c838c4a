"""`evaluate(distributions=True)`: the distances of sets are those of their own functions, or are left out and said so."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trimtab.metrics import evaluation
from trimtab.metrics.distributions import distance_jackknife, fid, frechet_distance, fvd, kid, temporal_error
from trimtab.metrics.evaluation import (
    DISTANCES,
    LEAST_CLIPS,
    LEAST_LEVELS_OF_DISTANCE,
    REPEAT_LAST_FRAME,
    evaluate,
    no_distance,
)
from trimtab.metrics.frames import Lpips
from trimtab.metrics.i3d import I3D, with_context
from trimtab.metrics.inception import Inception
from trimtab.metrics.intervals import mean_interval
from trimtab.metrics.protocol import Evaluation
from trimtab.metrics.weights import I3D_KINETICS, INCEPTION, LPIPS_VGG

NUM_CLIPS, NUM_CONTEXT, NUM_STEPS = 24, 2, 9


class TinyInception(Inception):
    """Twelve means a frame in the place of InceptionV3, and how many clips were looked at."""

    clips = 0

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.resize = "tensorflow 1"

    def forward(self, video: Tensor) -> Tensor:
        TinyInception.clips += len(video)
        return nn.functional.adaptive_avg_pool2d(video.flatten(0, 1), 2).flatten(1).unflatten(0, video.shape[:2])


class TinyI3D(I3D):
    """Means over time of the frames and of their changes in the place of I3D, and how many clips were looked at."""

    clips = 0

    def __init__(self) -> None:
        nn.Module.__init__(self)

    def forward(self, video: Tensor, context: Tensor | None = None) -> Tensor:
        TinyI3D.clips += len(video)
        whole = video if context is None else with_context(video, context)
        colours = whole.mean((3, 4))
        return torch.cat([colours.mean(1), colours.diff(dim=1).abs().mean(1), colours[:, -1]], dim=1)


class TinyVGG(Lpips):
    """AlexNet in the place of VGG16, and how many clips were compared."""

    clips = 0

    def forward(self, video: Tensor, other: Tensor) -> Tensor:
        TinyVGG.clips += len(video)
        return super().forward(video, other)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "Inception", TinyInception)
    monkeypatch.setattr(evaluation, "I3D", TinyI3D)
    monkeypatch.setattr(evaluation, "Lpips", lambda backbone="alex": TinyVGG() if backbone == "vgg" else Lpips())
    monkeypatch.setattr(evaluation, "LEAST_CLIPS", NUM_CLIPS)
    monkeypatch.setattr(TinyInception, "clips", 0)
    monkeypatch.setattr(TinyI3D, "clips", 0)
    monkeypatch.setattr(TinyVGG, "clips", 0)


@pytest.fixture(scope="module")
def clips() -> Mapping[str, Tensor]:
    """Noise that drifts, and a video close to it."""
    random = torch.Generator().manual_seed(0)
    context = torch.rand(NUM_CLIPS, NUM_CONTEXT, 3, 32, 32, generator=random) * 1.6 - 0.8
    change = 0.1 * torch.randn(NUM_CLIPS, NUM_STEPS, 3, 32, 32, generator=random)
    real = (context[:, -1:] + change.cumsum(1)).clamp(-1, 1)
    return {
        "context": context,
        "real": real,
        "close": (real + 0.05 * torch.randn(real.shape, generator=random)).clamp(-1, 1),
        "actions": torch.randint(4, (NUM_CLIPS, NUM_STEPS), generator=random),
        "levels": torch.arange(NUM_CLIPS) + 500,
    }


def measure(clips: Mapping[str, Tensor], steps: int = NUM_STEPS, **options: Any) -> Evaluation:
    """Of the first predicted frames alone, since the tables of all are slow."""
    known = {"context": clips["context"], "actions": clips["actions"][:, :steps], "levels": clips["levels"]}
    return evaluate(
        {"close": clips["close"][:, :steps]},
        clips["real"][:, :steps],
        **{**known, "distributions": True, "seed": 3, **options},
    )


@pytest.mark.usefixtures("tiny")
def test_distances_are_those_of_the_functions_for_one(clips: Mapping[str, Tensor]) -> None:
    table = measure(clips)
    context, real, inception, i3d = clips["context"], clips["real"], TinyInception(), TinyI3D()
    for name, video in (("close", clips["close"]), (REPEAT_LAST_FRAME, context[:, -1:].expand_as(real))):
        expected = {
            "FID": fid(video, real, inception),
            "KID": kid(video, real, inception),
            "FID with given frames": fid(with_context(video, context), with_context(real, context), inception),
            "FVD with given frames": fvd(video, real, context, i3d),
            "FVD": fvd(video, real, network=i3d),
        }
        assert expected.keys() == DISTANCES.keys()
        frames = list(zip(video.split(1, dim=1), real.split(1, dim=1), strict=True))
        by_step = {metric: [of(*pair, inception) for pair in frames] for metric, of in (("FID", fid), ("KID", kid))}
        for metric, value in expected.items():
            found = table.figure(name, metric)
            assert found.per_step == pytest.approx(by_step.get(metric, []), rel=1e-4, abs=1e-9), metric
            assert found.overall.mean == pytest.approx(value, rel=1e-4), metric
            assert found.overall.low < value < found.overall.high
            assert found.values == ()
            assert (found.difference is None) == (name == REPEAT_LAST_FRAME)
    sets = [i3d(video, context) for video in (clips["close"], real, context[:, -1:].expand_as(real))]
    close, still = (distance_jackknife(frechet_distance, some, sets[1], clips["levels"], seed=3) for some in sets[::2])
    assert table.figure("close", "FVD with given frames").difference == (close - still).interval
    assert table.protocol["left_out"] == {}
    assert DISTANCES.items() <= table.protocol["metrics"].items()
    weights = [table.protocol[name]["sha256"] for name in ("inception", "i3d")]
    assert weights == [INCEPTION.sha256, I3D_KINETICS.sha256]


def test_lpips_with_vgg_and_temporal_error_are_metrics_of_frames(clips: Mapping[str, Tensor]) -> None:
    order = torch.tensor([2, 0, 3, 1])
    few = {name: value[:8] for name, value in clips.items()}  # so few that no distance is made
    real, context, levels = few["real"][:, :4], few["context"], few["levels"]
    shuffled = real[:, order]
    table = measure({**few, "close": shuffled}, steps=4)
    for metric, expected in (
        ("LPIPS (VGG)", Lpips("vgg")(shuffled, real)),
        ("temporal error", temporal_error(shuffled, real, context)),
    ):
        found = table.figure("close", metric)
        assert found.per_step == pytest.approx(expected.mean(0).tolist(), rel=1e-4)
        assert found.values == pytest.approx(expected.mean(1).tolist(), rel=5e-5)
        assert found.overall.mean == pytest.approx(mean_interval(expected.mean(1), levels).mean, rel=1e-5)
        assert found.difference is not None
    in_order = measure({**few, "close": real}, steps=4).figure("close", "temporal error")
    assert in_order.overall.high == 0 < table.figure("close", "temporal error").overall.low
    assert table.protocol["lpips_vgg"]["sha256"] == LPIPS_VGG.sha256


@pytest.mark.usefixtures("tiny")
def test_real_clips_are_looked_at_once_whatever_the_number_of_methods(
    clips: Mapping[str, Tensor], tmp_path: Path
) -> None:
    """Seven predicted frames are too few for an FVD of them alone; the frame that is repeated is looked at as given."""
    few = {name: clips[name] for name in ("context", "levels")} | {"actions": clips["actions"][:, :7]}
    real, close = clips["real"][:, :7], clips["close"][:, :7]
    methods = {"close": close, "again": close}
    options: dict[str, Any] = {**few, "distributions": True, "cache": tmp_path}
    first = evaluate(methods, real, **options)
    assert (TinyInception.clips, TinyI3D.clips, TinyVGG.clips) == (3 * NUM_CLIPS, 4 * NUM_CLIPS, 3 * NUM_CLIPS)
    changed = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(changed) == 4  # of repetition, too, for I3D and VGG16
    assert evaluate(methods, real, **options) == first
    methods_alone = (5 * NUM_CLIPS, 6 * NUM_CLIPS, 5 * NUM_CLIPS)
    assert (TinyInception.clips, TinyI3D.clips, TinyVGG.clips) == methods_alone
    assert changed == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    for path in changed:
        path.write_bytes(path.read_bytes()[:-1])
    assert evaluate(methods, real, **options) == first


@pytest.mark.usefixtures("tiny")
def test_without_being_asked_no_set_is_compared(clips: Mapping[str, Tensor]) -> None:
    table = measure(clips, steps=1, distributions=False)
    assert list(table.protocol["metrics"]) == ["PSNR", "SSIM", "LPIPS", "sharpness"]
    assert TinyInception.clips == TinyI3D.clips == 0


@pytest.mark.usefixtures("tiny")
def test_what_is_left_out_is_said_in_the_table(clips: Mapping[str, Tensor]) -> None:
    few = {name: value[:-1] for name, value in clips.items()}
    table = measure(few, steps=1)
    assert set(table.protocol["left_out"]) == {*DISTANCES} - {"KID"}
    assert set(table.protocol["metrics"]) >= {"KID", "LPIPS (VGG)", "temporal error"}
    assert TinyI3D.clips == 0
    with pytest.raises(KeyError, match="needs 24 clips or more, not 23"):
        table.figure("close", "FID")


def test_too_few_levels_clips_and_frames_leave_distances_out() -> None:
    enough = {"num_clips": LEAST_CLIPS, "num_levels": LEAST_LEVELS_OF_DISTANCE, "num_context": 2, "num_predicted": 9}
    assert no_distance(**enough) == {}
    few_clips = no_distance(**{**enough, "num_clips": LEAST_CLIPS - 1})
    assert few_clips == dict.fromkeys(
        [*DISTANCES.keys() - {"KID"}], "a Frechet distance needs 64 clips or more, not 63"
    )
    few_levels = no_distance(**{**enough, "num_levels": 19})
    assert few_levels == dict.fromkeys(DISTANCES, "its interval needs 20 levels or more, not 19")
    short = no_distance(**{**enough, "num_predicted": 8})
    assert short == {"FVD": "its network sees 9 frames or more, not 8"}
    assert no_distance(**{**enough, "num_predicted": 6}).keys() == {"FVD", "FVD with given frames"}


def test_the_least_number_of_levels_is_that_of_the_interval() -> None:
    features = torch.randn(2, LEAST_LEVELS_OF_DISTANCE, 3)
    levels = torch.arange(LEAST_LEVELS_OF_DISTANCE)
    assert distance_jackknife(frechet_distance, *features, levels).num_clusters == LEAST_LEVELS_OF_DISTANCE
    with pytest.raises(ValueError, match="20 clusters or more"):
        distance_jackknife(frechet_distance, *features[:, 1:], levels[1:])


@pytest.mark.slow
def test_with_the_networks_themselves(clips: Mapping[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "LEAST_CLIPS", LEAST_LEVELS_OF_DISTANCE)
    few = {name: value[:LEAST_LEVELS_OF_DISTANCE] for name, value in clips.items()}
    table = measure(few, steps=7)
    real, close, context = few["real"][:, :7], few["close"][:, :7], few["context"]
    assert table.protocol["left_out"].keys() == {"FVD"}
    for metric, value in (("FID", fid(close, real)), ("FVD with given frames", fvd(close, real, context))):
        assert table.figure("close", metric).overall.mean == pytest.approx(value, rel=1e-3)
