"""`trimtab compare` on results of `evaluate` and of `trimtab score`."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trimtab.metrics.evaluation import REPEAT_LAST_FRAME, evaluate
from trimtab.metrics.protocol import Evaluation
from trimtab.recipes.compare import compare
from trimtab.recipes.score import score


def result(path: Path, *methods: str, seed: int = 0, **options: Any) -> Evaluation:
    """Of methods that add more noise the later they come."""
    random = torch.Generator().manual_seed(0)
    real, context = (torch.rand(8, time, 3, 32, 32, generator=random) * 1.6 - 0.8 for time in (2, 1))
    videos = {
        name: (real + 0.1 * (place + 1) * torch.randn(real.shape, generator=random)).clamp(-1, 1)
        for place, name in enumerate(methods)
    }
    actions, levels = torch.zeros(8, 2, dtype=torch.int64), torch.arange(8)
    found = evaluate(videos, real, context=context, actions=actions, levels=levels, seed=seed, **options)
    path.write_text(found.to_json())
    return found


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    result(tmp_path / "one.json", "good", "bad")
    result(tmp_path / "two.json", "other")
    return tmp_path / "one.json", tmp_path / "two.json"


def test_differences_are_printed_with_what_they_stand_on(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    compare(*pair, method="bad")
    lines = capsys.readouterr().out.splitlines()
    shown = [line for line in lines if any(name in line for name in ("PSNR", "SSIM", "LPIPS", "sharpness"))]
    assert len(shown) == 4
    assert all("[" in line and "]" in line for line in shown)
    assert any("bad, first" in line and "other, second" in line for line in lines)
    assert "8 clips of 8 levels" in lines[-1]


def test_methods_of_one_file_are_compared(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    compare(pair[0], pair[0], method="good", other=REPEAT_LAST_FRAME)
    assert REPEAT_LAST_FRAME in " ".join(capsys.readouterr().out.split())


def test_what_was_made_otherwise_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, steps in (("few", 2), ("many", 50)):
        notes = {"method": name, "sampler": f"ddim, {steps} steps", "prior": "abc", "strengths": {"1": steps}}
        result(tmp_path / name, name, notes=notes)
    compare(tmp_path / "few", tmp_path / "many")
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.endswith("made otherwise: sampler: ddim, 2 steps and ddim, 50 steps")


def test_what_cannot_be_compared_is_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"one\.json has good, bad; name one with --method"):
        compare(*pair)
    with pytest.raises(ValueError, match="no method 'absent'"):
        compare(*pair, method="good", other="absent")
    result(tmp_path / "three.json", "other", seed=1)
    with pytest.raises(ValueError, match=r"intervals\.seed: 0 and 1"):
        compare(pair[0], tmp_path / "three.json", method="good")
    (tmp_path / "four.json").write_text("{}")
    with pytest.raises(ValueError, match=r"four\.json: this is no result"):
        compare(pair[0], tmp_path / "four.json", method="good")


def test_scores_of_two_systems_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trimtab.recipes.score.LEAST_CLIPS", 2)  # distances of so few cost little
    random = np.random.default_rng(0)
    for folder in ("real", "ours", "theirs"):
        (tmp_path / folder).mkdir()
        videos = {f"clip{number}": random.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8) for number in range(3)}
        np.savez(tmp_path / folder / "videos.npz", **videos)
    for folder in ("ours", "theirs"):
        score(tmp_path / "real", tmp_path / folder, output=tmp_path / f"{folder}.json")
    capsys.readouterr()
    compare(tmp_path / "ours.json", tmp_path / "theirs.json")
    printed = capsys.readouterr().out
    assert "ours, first" in printed
    assert "LPIPS" in printed
    assert "a single clip has none: FID, KID" in " ".join(printed.split())
