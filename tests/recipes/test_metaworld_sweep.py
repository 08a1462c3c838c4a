"""The sweep: success decides, then nearness to the experts; and once from end to end at toy size."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tiny import tabletop
from trimtab.control.inverse_dynamics import InverseDynamics
from trimtab.recipes.finetuning_forgets import finetuning_forgets
from trimtab.recipes.metaworld_sweep import at_the_edge, best, draw, metaworld_sweep, trials
from trimtab.recipes.motion_isolation import motion_isolation
from trimtab.recipes.planning import bench as planning
from trimtab.recipes.planning import continuations
from trimtab.recipes.planning.adaptations import INVERSE, PRIOR
from trimtab.recipes.planning.scales import SCALES, Scale, chosen
from trimtab.recipes.record_metaworld import metaworld_episodes
from trimtab.recipes.score_alignment import score_alignment
from trimtab.recipes.score_voices import score_voices


def cell(success: float, lpips: float, fvd: float, spread: float = 0.0) -> dict[str, float]:
    return {"success": success, "LPIPS": lpips, "FVD with given frames": fvd, "spread": spread}


def test_success_decides_and_of_equals_the_nearest_to_the_experts() -> None:
    tried = {"low": cell(0.5, 0.1, 9.0), "near": cell(0.5, 0.3, 2.0, 0.1), "wide": cell(0.5, 0.2, 3.0, 9.0)}
    assert best(tried) == "near"
    assert best({**tried, "often": cell(0.6, 9.0, 99.0)}) == "often"
    del tried["wide"]["FVD with given frames"]  # of too few clips: then none is judged by it
    assert best(tried) == "low"


def test_it_is_said_where_what_is_chosen_lies_at_the_edge() -> None:
    grid = [(guidance, strength) for guidance in (1.0, 2.5, 5.0) for strength in (0.1, 0.5, 2.0)]
    assert at_the_edge((2.5, 0.5), grid) == at_the_edge((1.0, 0.5), grid) == ""  # none is below 1
    assert at_the_edge((5.0, 0.1), grid) == "a higher guidance and a lower strength"
    assert at_the_edge((2.5, 2.0), grid) == "a higher strength"
    assert at_the_edge((2.5, None), [(2.5, None), (5.0, None)]) == "a lower guidance"


@pytest.mark.parametrize(
    "grid", [{"guidances": (0.5,)}, {"strengths": (-0.1,)}, {"guidances": ()}, {"strengths": (math.nan,)}]
)
def test_a_grid_outside_sense_is_refused_before_anything_is_trained(grid: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="guidances are 1 to 1000 and strengths 0 to 1000"):
        metaworld_sweep(**grid, output=tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    "command", [metaworld_sweep, score_voices, finetuning_forgets, score_alignment, motion_isolation]
)
def test_nothing_to_measure_is_refused_before_it_is_recorded(command: Callable[..., None], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="num_clips is at least 1, got 0"):
        command(num_clips=0, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", [metaworld_sweep, score_voices, score_alignment, motion_isolation])
def test_more_clips_than_there_are_are_refused_before_anything_is_kept(
    command: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = tabletop.dots(tmp_path / "dots")
    monkeypatch.setattr(continuations, "metaworld_episodes", lambda **settings: few)
    with pytest.raises(ValueError, match="5000"):
        command(num_clips=5000, datasets=tmp_path, planning=tmp_path / "planning", output=tmp_path / "run")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dots"]


def test_what_is_chosen_is_framed_in_every_panel(tmp_path: Path) -> None:
    for strengths in ((0.1, 0.5), (None,)):
        tried = {(g, s): cell(1.0, g + (s or 0), g + (s or 0), -g) for g in (1.0, 2.0) for s in strengths}
        assert best(tried) == (1.0, strengths[0])
        draw(tried, "a method", tmp_path / "sweep.png")
        picture = Image.open(tmp_path / "sweep.png").convert("RGB")
        red = sum(pixel == (255, 0, 0) for pixel in picture.get_flattened_data())
        assert red > 4 * 200  # four frames


def test_what_was_tried_before_is_chosen_from_and_drawn_with_gaps(tmp_path: Path) -> None:
    protocol = {"prior": "1234"}

    def keep(guidance: float, strength: float, success: float, method: str = "a-method", **other: str) -> None:
        made = {"guidance": guidance, "strength": strength, "figures": cell(success, 1.0, 1.0)}
        path = tmp_path / f"{method}--{guidance}--{strength}.json"
        path.write_text(json.dumps({**made, "protocol": protocol | other}))

    keep(2.5, 0.5, 0.9)
    keep(10.0, 2.0, 0.7)
    keep(2.5, 2.0, 0.8)
    keep(2.5, 3.0, 1.0, "a-method-late")  # of another method
    tried = trials("a method", protocol, tmp_path)
    assert list(tried) == [(2.5, 0.5), (2.5, 2.0), (10.0, 2.0)]
    assert best(tried) == (2.5, 0.5)
    draw(tried, "a method", tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").stat().st_size > 1000
    keep(1.0, 0.5, 0.9, prior="5678")
    with pytest.raises(ValueError, match=r"a method, guidance 1.0, strength 0.5 .* differ in prior"):
        trials("a method", protocol, tmp_path)


def test_no_training_is_refused_before_it_is_recorded(tmp_path: Path) -> None:
    tabletop.prior().save(tmp_path / "prior.safetensors")
    with pytest.raises(ValueError, match="teraflops are above 0 and finite, got 0"):
        metaworld_sweep(teraflops=0.0, prior=str(tmp_path / "prior.safetensors"), output=tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


@pytest.mark.slow
def test_strengths_are_tried_kept_and_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prior = tabletop.prior()
    prior.save(tmp_path / "prior.safetensors")
    for seed, name in enumerate(("reader", "other")):
        torch.manual_seed(seed)
        InverseDynamics(width=4).save(tmp_path / f"{name}.safetensors")
    few = metaworld_episodes(
        tasks=("drawer-close",), num_episodes=3, action_repeat=4, max_episode_steps=50, output=tmp_path / "few"
    )
    monkeypatch.setattr(planning, "demonstrations", lambda share, datasets, **pace: few)
    monkeypatch.setattr(continuations, "metaworld_episodes", lambda **settings: few)
    monkeypatch.setitem(planning.SCALES, "smoke", Scale(num_seeds=1, teraflops=0.02, num_steps=1))

    def sweep(reader: str, methods: tuple[str, ...] = (PRIOR, INVERSE), **options: Any) -> None:
        metaworld_sweep(
            methods=methods, guidances=(1.0, 2.0), strengths=(1.0,), num_starts=1, num_clips=2, **options,
            prior=str(tmp_path / "prior.safetensors"), reader=tmp_path / f"{reader}.safetensors", datasets=tmp_path,
            planning=tmp_path / "planning", output=tmp_path / "sweep", record=tmp_path / "choices.json",
        )  # fmt: skip

    sweep("reader")
    sweep("reader")
    found = json.loads((tmp_path / "sweep" / "choices.json").read_text())
    assert found == json.loads((tmp_path / "choices.json").read_text())
    assert [len(one["tried"]) for one in found.values()] == [2, 2]
    assert all(cell["spread"] > 0 and "FVD with given frames" not in cell for cell in found[INVERSE]["tried"])
    assert (tmp_path / "sweep" / "inverse-probabilistic-adaptation.png").exists()
    sweep("reader", (INVERSE,), random_share=0.7)
    with_share = json.loads((tmp_path / "sweep" / "choices.json").read_text())
    assert with_share == {**found, f"{INVERSE}, 70% random actions": with_share[f"{INVERSE}, 70% random actions"]}
    assert (tmp_path / "sweep" / "random-70" / "inverse-probabilistic-adaptation.png").exists()
    assert (tmp_path / "planning" / "trainings" / "in-domain-0-70").is_dir()
    tiny = SCALES["tiny"].but({"num_steps": 1})
    ours = chosen(tmp_path / "choices.json", prior, tiny)
    assert (ours[INVERSE].guidance, ours[INVERSE].strength) == (found[INVERSE]["guidance"], 1.0)
    assert [name for name, how in ours.items() if how.chosen] == [PRIOR, INVERSE]
    another = tabletop.prior({**tabletop.SIZES, "widths": (64,)})
    # Another prior, more steps, another pace.
    for other, size in ((another, tiny), (prior, SCALES["tiny"]), (prior, SCALES["paper"])):
        with pytest.raises(ValueError, match="holds no choice for this"):
            chosen(tmp_path / "choices.json", other, size)
    path = tmp_path / "sweep" / "settings.json"
    path.write_text(
        path.read_text().replace("reader.safetensors", "other.safetensors")
    )  # as if it had been overwritten
    with pytest.raises(ValueError, match="differ in reader"):
        sweep("other")
