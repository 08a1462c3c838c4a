"""The judge's recipe runs from simulator to shipped file at toy size."""

from pathlib import Path

import torch

from trimtab.metrics.actions import JudgeFile
from trimtab.recipes.procgen_judge import COINRUN_TABLES, procgen_judge


def test_recipe_leaves_a_judge_with_its_card(tmp_path: Path) -> None:
    output = tmp_path / "judges" / "toy.safetensors"
    procgen_judge(
        num_frames=600,
        num_steps=3,
        batch_size=8,
        width=4,
        num_test_frames=400,
        episode_frames=20,
        datasets=tmp_path / "datasets",
        output=output,
    )
    file = JudgeFile(output)
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
