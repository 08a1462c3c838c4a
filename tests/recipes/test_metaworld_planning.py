"""Planning end to end at toy size: every method is trained, plays MetaWorld, and stands in the table; once is enough."""

import json
from pathlib import Path

import pytest
import torch

from trimtab.control.inverse_dynamics import InverseDynamics
from trimtab.core.values import Video
from trimtab.metrics.intervals import Interval
from trimtab.priors.pixel_unet import PixelUNet, PixelUNetSettings
from trimtab.recipes import _continuations
from trimtab.recipes import metaworld_planning as recipe
from trimtab.recipes._adaptations import ADAPTATIONS
from trimtab.recipes._held import Held
from trimtab.recipes._planning_report import TRUTHS
from trimtab.recipes.metaworld_planning import metaworld_planning
from trimtab.recipes.record_metaworld import metaworld_episodes
from trimtab.recipes.tabletop_prior import TABLETOP


def alike(imagined: Video, held: Held, cache: Path) -> Interval:
    """In place of FVD, which needs more clips, and minutes: the mean difference."""
    mean = (imagined - held.clip.video).abs().mean().item()
    return Interval(mean, mean, mean, len(imagined), 1)


SIZES = {**TABLETOP.sizes, "widths": (32,), "depths": (1,), "patch": 8}


@pytest.mark.slow
def test_every_method_is_trained_and_plays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    prior = PixelUNet(PixelUNetSettings(**{**vars(TABLETOP), "sizes": SIZES})).frozen()
    prior.save(tmp_path / "prior.safetensors")
    InverseDynamics(width=4).save(tmp_path / "reader.safetensors")
    few = metaworld_episodes(
        tasks=("drawer-close",), num_episodes=4, action_repeat=4, max_episode_steps=50, output=tmp_path / "few"
    )
    monkeypatch.setattr(recipe, "demonstrations", lambda share, datasets: few)
    monkeypatch.setattr(_continuations, "metaworld_episodes", lambda **settings: few)
    monkeypatch.setattr(recipe, "video_distance", alike)
    monkeypatch.setattr("trimtab.recipes._adaptations.NUM_PRESERVED", 4)
    monkeypatch.setattr("trimtab.recipes._adaptations.NUM_STILLS", 4)

    def run() -> None:
        metaworld_planning(
            tasks=("window-open", "door-close"), num_starts=2, num_clips=4, num_steps=1, teraflops=0.02,
            prior=str(tmp_path / "prior.safetensors"), reader=tmp_path / "reader.safetensors", output=tmp_path / "run",
        )  # fmt: skip

    run()
    paths = sorted((tmp_path / "run" / "cells").glob("*.json"))
    cells = [json.loads(path.read_text()) for path in paths]
    methods = {*TRUTHS, *ADAPTATIONS}
    assert {(cell["method"], cell["task"]) for cell in cells} == {
        (m, t) for m in methods for t in ("window-open", "door-close")
    }
    assert all(cell["success"] == [True, True] for cell in cells if cell["method"] == "the expert")
    assert all(cell["steps"] == [50, 50] for cell in cells if not any(cell["success"]))
    assert all(cell["training"]["steps"] > 0 for cell in cells if cell["method"] == "in-domain only")
    videos = [json.loads(path.read_text()) for path in (tmp_path / "run" / "cells" / "videos").glob("*.json")]
    assert {cell["method"] for cell in videos} == {*ADAPTATIONS}
    assert all(cell["FVD with given frames"]["mean"] > 0 for cell in videos)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "inverse probabilistic adaptation, imagined" in page
    written = [path.stat().st_mtime_ns for path in paths]
    paths[0].unlink()
    run()
    again = [path.stat().st_mtime_ns for path in paths]
    assert [old == new for old, new in zip(written, again, strict=True)] == [False] + [True] * (len(paths) - 1)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no methods"):
        metaworld_planning(methods=("telepathy",), output=tmp_path / "one")
    with pytest.raises(ValueError, match="no tasks"):
        metaworld_planning(tasks=("laundry",), output=tmp_path / "two")
    with pytest.raises(ValueError, match="train them first"):
        recipe.reading(tmp_path / "nothing")
