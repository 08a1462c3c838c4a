"""The sweep: its picture is of what was found; and once from end to end at toy size."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from trimtab.control.inverse_dynamics import InverseDynamics
from trimtab.priors.pixel_unet import PixelUNet, PixelUNetSettings
from trimtab.recipes import _continuations, metaworld_planning, metaworld_sweep
from trimtab.recipes.metaworld_planning import Scale
from trimtab.recipes.metaworld_sweep import FIGURES, draw
from trimtab.recipes.record_metaworld import metaworld_episodes
from trimtab.recipes.tabletop_prior import TABLETOP


def test_the_best_cell_is_framed(tmp_path: Path) -> None:
    found = {
        f"{g}, {s}": {"success": g * s, "FVD with given frames": g + s, "spread": -s}
        for g in (1.0, 2.0)
        for s in (0.1, 0.5)
    }
    best = [list(found)[choose([cell[name] for cell in found.values()])] for name, choose in FIGURES.items()]
    assert best == ["2.0, 0.5", "1.0, 0.1", "1.0, 0.1"]
    draw(found, (1.0, 2.0), (0.1, 0.5), tmp_path / "sweep.png")
    picture = Image.open(tmp_path / "sweep.png").convert("RGB")
    red = sum(pixel == (255, 0, 0) for pixel in picture.get_flattened_data())
    assert red > 3 * 200  # three frames


@pytest.mark.slow
def test_strengths_are_tried_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    sizes = {**TABLETOP.sizes, "widths": (32,), "depths": (1,), "patch": 8}
    prior = PixelUNet(PixelUNetSettings(**{**vars(TABLETOP), "sizes": sizes})).frozen()
    prior.save(tmp_path / "prior.safetensors")
    InverseDynamics(width=4).save(tmp_path / "reader.safetensors")
    few = metaworld_episodes(
        tasks=("drawer-close",), num_episodes=3, action_repeat=4, max_episode_steps=50, output=tmp_path / "few"
    )
    monkeypatch.setattr(metaworld_planning, "demonstrations", lambda share, datasets: few)
    monkeypatch.setattr(_continuations, "metaworld_episodes", lambda **settings: few)
    monkeypatch.setitem(metaworld_sweep.SCALES, "smoke", Scale(num_seeds=1, teraflops=0.02, num_steps=1))
    monkeypatch.setattr(metaworld_sweep, "fvd", lambda *videos: float(videos[0].std()))
    for _ in range(2):
        metaworld_sweep.metaworld_sweep(
            guidances=(1.0,), strengths=(0.5, 1.0), num_starts=1, num_clips=2, num_samples=2,
            prior=str(tmp_path / "prior.safetensors"), reader=tmp_path / "reader.safetensors", datasets=tmp_path,
            planning=tmp_path / "planning", output=tmp_path / "sweep",
        )  # fmt: skip
    found = json.loads((tmp_path / "sweep" / "inverse.json").read_text())
    assert list(found["cells"]) == ["1.0, 0.5", "1.0, 1.0"]
    assert found["best"] in found["cells"]
    assert all(cell["spread"] > 0 for cell in found["cells"].values())
    assert (tmp_path / "sweep" / "inverse.png").exists()
