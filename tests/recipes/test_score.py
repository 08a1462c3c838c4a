"""`trimtab score` on small folders, against the metrics asked one by one."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from trimtab.metrics.distributions import fid, fvd, kid
from trimtab.metrics.frames import Lpips, psnr
from trimtab.metrics.protocol import Evaluation
from trimtab.recipes.score import distances, score


def videos(seed: int, num: int = 3, time: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num, time, 32, 32, 3), dtype=np.uint8)


def write(folder: Path, some: np.ndarray, prefix: str = "clip") -> Path:
    folder.mkdir()
    np.savez(folder / "videos.npz", **{f"{prefix}{number}": video for number, video in enumerate(some)})
    return folder


def as_video(some: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(some).permute(0, 1, 4, 2, 3).float() / 127.5 - 1


def scored(tmp_path: Path, **options: int) -> Evaluation:
    score(tmp_path / "real", tmp_path / "fake", output=tmp_path / "score.json", **options)
    return Evaluation.from_json((tmp_path / "score.json").read_text())


@pytest.fixture
def of_any_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Distances of a few videos, which cost little."""
    monkeypatch.setattr("trimtab.recipes.score.LEAST_CLIPS", 2)


@pytest.mark.usefixtures("of_any_number")
def test_every_figure_is_the_metrics_own(tmp_path: Path) -> None:
    real, fake = videos(0), videos(1)
    write(tmp_path / "real", real)
    write(tmp_path / "fake", fake)
    found = scored(tmp_path, num_context=1)
    metrics = {"PSNR", "SSIM", "LPIPS", "LPIPS (VGG)", "sharpness", "temporal error", "FID", "KID"}
    assert {figure.metric for figure in found.figures} == metrics == set(found.protocol["metrics"])
    ours, theirs = as_video(fake)[:, 1:], as_video(real)[:, 1:]
    expected = {
        "PSNR": psnr(ours, theirs).mean().item(), "LPIPS": Lpips()(ours, theirs).mean().item(),
        "LPIPS (VGG)": Lpips("vgg")(ours, theirs).mean().item(), "FID": fid(ours, theirs), "KID": kid(ours, theirs),
    }  # fmt: skip
    for metric, value in expected.items():
        assert found.figure("fake", metric).overall.mean == pytest.approx(value, rel=1e-4)
    interval = found.figure("fake", "PSNR").overall
    assert interval.low <= expected["PSNR"] <= interval.high
    assert found.figure("fake", "PSNR").values == pytest.approx(psnr(ours, theirs).mean(1).tolist(), rel=1e-4)
    assert math.isnan(found.figure("fake", "FID").overall.low)
    last = found.figure("fake", "FID").per_step[-1], found.figure("fake", "KID").per_step[-1]
    assert last == pytest.approx((fid(ours[:, -1:], theirs[:, -1:]), kid(ours[:, -1:], theirs[:, -1:])), rel=1e-4)
    assert found.protocol["left_out"].keys() == {"FVD with given frames"}
    assert found.protocol["num_context"] == 1


def test_videos_of_other_names_are_compared_as_sets_alone(tmp_path: Path) -> None:
    real, fake = videos(0), videos(1, num=2)
    write(tmp_path / "real", real)
    write(tmp_path / "fake", fake, prefix="other")
    found = scored(tmp_path)
    assert {figure.metric for figure in found.figures} == {"KID"}
    assert {"PSNR", "LPIPS", "temporal error", "FVD"} <= found.protocol["left_out"].keys()
    assert found.protocol["left_out"]["FID"] == "a Frechet distance needs 64 videos or more on each side, not 2"


class Known(torch.nn.Module):
    """The mean colours of frames, in the place of a network's features."""

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        return video.mean((3, 4))


@pytest.mark.parametrize("fewer", [63, 64])
def test_distances_need_so_many_videos_and_have_intervals_over_pairs(
    fewer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trimtab.recipes.score.Inception", Known)
    real, fake = as_video(videos(0, num=64)), as_video(videos(1, num=fewer))
    found = {metric: figure for metric, figure, _ in distances(fake, real, 0)}
    if fewer == 63:
        assert found["FID"] == "a Frechet distance needs 64 videos or more on each side, not 63"
        return
    assert math.isnan(found["FID"].low)
    with_interval = {metric: figure for metric, figure, _ in distances(fake, real, 0, torch.arange(64))}
    for metric in ("FID", "KID"):
        assert with_interval[metric].mean == pytest.approx(found[metric].mean)
        assert with_interval[metric].low < found[metric].mean < with_interval[metric].high


@pytest.mark.slow
@pytest.mark.usefixtures("of_any_number")
def test_long_videos_get_an_fvd(tmp_path: Path) -> None:
    real, fake = videos(0, num=2, time=10), videos(1, num=2, time=10)
    write(tmp_path / "real", real)
    write(tmp_path / "fake", fake)
    expected, found = fvd(as_video(fake), as_video(real)), scored(tmp_path, num_context=2)
    assert found.figure("fake", "FVD with given frames").overall.mean == pytest.approx(expected, rel=1e-4)


def test_folders_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "real", videos(0))
    write(tmp_path / "fake", videos(1, time=3))
    with pytest.raises(ValueError, match="one length and size"):
        scored(tmp_path)
    with pytest.raises(ValueError, match="num_context is 0 to 3"):
        score(tmp_path / "real", tmp_path / "real", num_context=4)
    write(tmp_path / "wide", videos(0)[:, :, :, :16])
    with pytest.raises(ValueError, match=r"one length and size .*\(4, 32, 16\), \(4, 32, 32\)"):
        score(tmp_path / "real", tmp_path / "wide")
    write(tmp_path / "single", videos(0, num=1))
    with pytest.raises(ValueError, match="two videos or more"):
        score(tmp_path / "real", tmp_path / "single")
