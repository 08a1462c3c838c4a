"""The judge's recipe runs from simulator to shipped file at toy size."""

import json
from pathlib import Path
from typing import Any

import torch

from trimtab.metrics.actions import JudgeFile
from trimtab.recipes.domains.coinrun import COINRUN_TABLES
from trimtab.recipes.procgen_judge import degrade, procgen_judge


def test_what_is_done_to_frames_is_a_function_of_seed_step_and_sample() -> None:
    frames = torch.rand(4, 3, 3, 8, 8) * 2 - 1
    whole = degrade(frames, 0, 5, [3, 1, 4, 9])
    torch.testing.assert_close(degrade(frames[2:], 0, 5, [4, 9]), whole[2:])
    assert not torch.allclose(degrade(frames, 0, 6, [3, 1, 4, 9]), whole)
    flat = degrade(torch.zeros(200, 3, 3, 8, 8), 0, 5, range(200))  # nothing to blur
    assert 0.01 < flat.std() < 0.013  # 0.02 times a uniform draw, of which the mean square is a third


def test_recipe_leaves_a_judge_with_its_card(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {
        "num_frames": 600, "num_steps": 3, "batch_size": 8, "width": 4, "num_test_frames": 400, "episode_frames": 20,
    }  # fmt: skip
    places = {"datasets": tmp_path / "datasets", "output": tmp_path / "run"}
    procgen_judge(**sizes, **places, dry_run=True)
    assert json.loads((tmp_path / "run/forecast.json").read_text())["steps"] == 3
    procgen_judge(**sizes, **places)
    file = JudgeFile(tmp_path / "run" / "coinrun.safetensors")
    assert file.load()(torch.zeros(1, 2, 3, 64, 64), torch.zeros(1, 1, 3, 64, 64)).shape == (1, 1, 15)
    accuracy = file.card["accuracy"]
    assert set(accuracy) == {"15 actions", *COINRUN_TABLES}
    for figures in accuracy.values():
        assert figures["interval"][0] <= figures["accuracy"] <= figures["interval"][1]
        assert figures["num_levels"] >= 15
    assert accuracy["horizontal"]["commonest_class"] >= accuracy["effects"]["commonest_class"]
    assert file.card["num_train_levels"] >= 15
    ceilings = file.card["memoryless_ceiling"]
    assert 0.3 < ceilings["15 actions"] <= ceilings["effects"] <= ceilings["effects without down"]
    assert 0.9 < ceilings["horizontal"] < 1
