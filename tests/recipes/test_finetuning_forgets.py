"""What finetuning forgets: how it is drawn, what the prior's own domain says of the prior; and once from end to end."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tiny import tabletop
from trimtab import forecast
from trimtab.control.inverse_dynamics import InverseDynamics
from trimtab.data.episodes import Episodes
from trimtab.metrics.intervals import Interval
from trimtab.metrics.text_match import TextMatch
from trimtab.recipes import finetuning_forgets as recipe
from trimtab.recipes import tabletop_prior_card
from trimtab.recipes._held import Held
from trimtab.recipes.domains.tabletop import WORDS
from trimtab.recipes.finetuning_forgets import BEFORE, DIVERSITIES, OwnDomain, finetuned, finetuning_forgets, plot
from trimtab.recipes.planning import bench as planning
from trimtab.recipes.planning.bench import Bench
from trimtab.recipes.planning.scales import Scale
from trimtab.recipes.tabletop_prior_card import of_two_tasks


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(tabletop_prior_card, "halfway_episodes", lambda *, folder, **settings: tabletop.dots(folder))
    monkeypatch.setattr(forecast, "TRIED", 1)
    size = Scale(teraflops=0.01, num_steps=1, batch_size=2)
    return Bench(tabletop.prior(), size, tmp_path / "reader.safetensors", 0.0, tmp_path, tmp_path / "planning")


def clips(bench: Bench, num: int) -> Held:
    return of_two_tasks(bench.prior, num, bench.datasets)


def test_the_one_task_is_demonstrated_and_measured() -> None:
    assert [len(tasks) for tasks in DIVERSITIES.values()] == [1, 3]


def test_the_prior_has_forgotten_nothing(bench: Bench) -> None:
    own = OwnDomain.of(bench, TextMatch().eval(), clips(bench, 4), seed=0)
    assert sorted(own.asked.unique().tolist()) == [list(WORDS).index(task) for task in ("door-close", "door-open")]
    figures = own.figures(bench.prior)
    assert figures["loss"].mean > 0
    assert (figures["loss less the prior's"].low, figures["loss less the prior's"].high) == (0, 0)
    assert all(figures[name].num_clusters == 4 for name in figures)


def test_more_clips_than_there_are_are_refused(bench: Bench) -> None:
    with pytest.raises(ValueError, match=r"there are \d+ clips that begin so, got num_clips 500"):
        clips(bench, 500)


def test_sets_are_trained_on_apart(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[tuple[str, ...], int]] = []

    def demonstrated(bench: Bench, tasks: tuple[str, ...], number: int) -> Episodes:
        asked.append((tasks, number))
        return tabletop.dots(tmp_path / "dots")

    monkeypatch.setattr(recipe, "demonstrated", demonstrated)
    one, every = DIVERSITIES
    assert finetuned(bench, BEFORE, 0, 0, tmp_path / "out") is bench.prior
    changed = finetuned(bench, one, 3, 0, tmp_path / "out")
    finetuned(bench, every, 25, 0, tmp_path / "out")
    assert asked == [(DIVERSITIES[one], 3), (DIVERSITIES[every], 25)]
    for place in ("1x3", "3x25"):
        assert (tmp_path / "out" / place / "trainings" / "temporal-0-0").is_dir()
    own = OwnDomain.of(bench, TextMatch().eval(), clips(bench, 4), seed=0)
    assert own.figures(changed)["loss less the prior's"].mean != 0


def test_demonstrations_are_as_large_as_what_the_prior_imagines(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def recorded(**settings: Any) -> Episodes:
        asked.append(settings)
        return tabletop.dots(tmp_path / "dots")

    monkeypatch.setattr(recipe, "metaworld_episodes", recorded)
    large = replace(bench, prior=tabletop.prior(frame_shape=(3, 128, 128)))
    for some in (bench, large):
        recipe.demonstrated(some, ("drawer-close",), 3)
    assert [settings["size"] for settings in asked] == [64, 128]
    assert [settings["output"].name for settings in asked] == ["metaworld-shown-1x3", "metaworld-shown-1x3-128px"]


def test_it_is_drawn(tmp_path: Path) -> None:
    level = Interval(0.5, 0.4, 0.6, 8, 4)
    names = [f"{BEFORE}, 0", *(f"{diversity}, {number}" for diversity in DIVERSITIES for number in (3, 9))]
    plot({name: {"success": level, "loss": level} for name in names}, (3, 9), tmp_path / "a" / "picture.png")
    assert (tmp_path / "a" / "picture.png").stat().st_size > 1000


@pytest.mark.slow
def test_few_and_many_demonstrations_end_to_end(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.prior.save(tmp_path / "prior.safetensors")
    InverseDynamics(width=4).save(bench.reader)
    TextMatch().save(tmp_path / "judge.safetensors", {"steps": 0})
    monkeypatch.setitem(planning.SCALES, "smoke", bench.size)
    for _ in range(2):
        finetuning_forgets(
            demonstrations=(1, 2), num_starts=1, num_clips=4, prior=str(tmp_path / "prior.safetensors"),
            reader=bench.reader, datasets=tmp_path,
            matcher=tmp_path / "judge.safetensors", output=tmp_path / "out",
        )  # fmt: skip
    written = json.loads((tmp_path / "out" / "finetuning_forgets.json").read_text())
    assert list(written["figures"]) == [f"{BEFORE}, 0", *(f"{some}, {n}" for some in DIVERSITIES for n in (1, 2))]
    assert torch.tensor([of["loss"]["mean"] for of in written["figures"].values()]).isfinite().all()
    assert (tmp_path / "datasets").exists() is False
    assert sorted(path.name for path in tmp_path.glob("metaworld-shown-*")) == [
        f"metaworld-shown-{some}" for some in ("1x1", "1x2", "3x1", "3x2")
    ]
    assert (tmp_path / "out" / "finetuning_forgets.png").stat().st_size > 1000
