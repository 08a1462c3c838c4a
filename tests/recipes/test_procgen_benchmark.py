"""Choices and benchmark from end to end at toy size, on real Procgen: cells, what is not done twice, and the page."""

import json
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch

from trimtab.core.files import alone_in, write_whole
from trimtab.core.values import Clip, Conditioning, Prediction
from trimtab.metrics.evaluation import REAL, REPEAT_LAST_FRAME
from trimtab.metrics.intervals import seed_interval
from trimtab.metrics.protocol import Evaluation
from trimtab.priors import pixel_unet
from trimtab.priors.pixel_unet import PixelUNet, PixelUNetSettings
from trimtab.recipes import procgen_benchmark as procgen_benchmark_recipe
from trimtab.recipes import procgen_rollouts as rollouts
from trimtab.recipes._held import Held
from trimtab.recipes.benchmark.bench import Bench, cells_in
from trimtab.recipes.benchmark.methods import METHODS, PAPER_TRAININGS, SIZES, TRAININGS, VARIED, slug
from trimtab.recipes.benchmark.report import Words, horizons, write_report
from trimtab.recipes.benchmark.results import ALIKE, Results, check_alike, check_budgets
from trimtab.recipes.benchmark.tables import listed
from trimtab.recipes.domains import coinrun
from trimtab.recipes.procgen_benchmark import SCALES, procgen_benchmark
from trimtab.recipes.procgen_choices import CHOICES, chosen, procgen_choices
from trimtab.recipes.procgen_prior import PAPER

CHEAP = ("frozen prior", "from scratch", "product of experts", "AVID", "AVID, small", "AVID, asked")


@dataclass(frozen=True)
class Finished:
    """A benchmark that has run once, and what it takes to run it again."""

    settings: dict[str, Any]
    folder: Path

    @property
    def cells(self) -> Path:
        return self.folder / "run" / "cells"

    def again(self, **changes: Any) -> None:
        procgen_benchmark(**{**self.settings, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A few steps of training a method; the sets are recorded shorter, since most of the time would go there."""
    folder, record = tmp_path_factory.mktemp("benchmark"), coinrun.procgen_episodes

    def shorter(**request: Any) -> Any:
        return record(**{**request, "num_frames": min(request["num_frames"], 1000)})

    torch.manual_seed(0)
    prior = folder / "prior.safetensors"
    PixelUNet(PixelUNetSettings(sizes={"widths": (32, 32, 32), "depths": (1, 1, 1)})).save(prior)
    shared: dict[str, Any] = {"prior": str(prior), "datasets": folder / "datasets", "num_frames": 1000, "batch_size": 2}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coinrun, "procgen_episodes", shorter)
        patch.setattr("trimtab.recipes.procgen_choices.LENGTHS", (1, 2))
        smoke = replace(SCALES["smoke"], lengths=(1, 2))
        patch.setitem(SCALES, "smoke", smoke)
        procgen_choices(
            **shared, teraflops=0.02, trainings=("scratch", "avid"), num_clips=2, output=folder / "choices",
            record=folder / "choices.json",
        )  # fmt: skip
        run = Finished(
            {
                **shared, "methods": CHEAP, "seeds": (0,), "teraflops": 0.05, "num_clips": 4,
                "choices": folder / "choices.json", "output": folder / "run",
            },
            folder,
        )  # fmt: skip
        run.again()
        yield run


def test_choices_have_the_lowest_loss_on_validation_levels(finished: Finished) -> None:
    facts = json.loads((finished.folder / "choices.json").read_text())
    assert list(facts) == ["scratch", "avid"]
    for name, found in facts.items():
        losses = found["validation loss"]
        assert losses[f"{found['learning_rate']:g}"] == min(losses.values())
        assert len(losses) == len(TRAININGS[name].rates)
        assert found["protocol"]["levels"] == "5000-5499"


def test_choices_are_added_to_those_that_were_recorded(finished: Finished, tmp_path: Path) -> None:
    record = tmp_path / "choices.json"
    elsewhere = {"protocol": {"prior": "another"}}
    record.write_text(
        json.dumps({"lora": {"learning_rate": 0.1} | elsewhere, "avid": {"learning_rate": 0.2} | elsewhere})
    )
    settings = json.loads((finished.folder / "choices" / "settings.json").read_text())["settings"]
    datasets = finished.settings["datasets"]
    procgen_choices(
        **settings, trainings=("avid",), datasets=datasets, output=finished.folder / "choices", record=record
    )
    prior = pixel_unet.load(finished.settings["prior"])
    with pytest.warns(UserWarning, match=f"chosen beside prior another, not {prior.fingerprint}"):
        assert chosen("lora", TRAININGS["lora"], record, prior) == 0.1
    known = json.loads((finished.folder / "choices.json").read_text())
    assert chosen("avid", TRAININGS["avid"], record, prior) == known["avid"]["learning_rate"]


def test_a_new_rate_is_tried_alone_and_an_end_of_the_range_is_said(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record = tmp_path / "choices.json"
    record.write_text((finished.folder / "choices.json").read_text())
    known = json.loads(record.read_text())["avid"]["validation loss"]
    monkeypatch.setitem(TRAININGS, "avid", replace(TRAININGS["avid"], rates=(3e-4, 1e-12)))
    monkeypatch.setattr("trimtab.recipes.procgen_choices.LENGTHS", (1, 2))
    settings = json.loads((finished.folder / "choices" / "settings.json").read_text())["settings"]
    choose = partial(
        procgen_choices, **settings, trainings=("avid",), datasets=finished.settings["datasets"], output=tmp_path,
        record=record,
    )  # fmt: skip
    choose(dry_run=True)  # of what is to be tried, not of what is known
    assert "avid-1e-12 will need" in " ".join(capsys.readouterr().out.split())
    choose()
    assert [path.name for path in tmp_path.glob("avid-*")] == ["avid-1e-12"]
    found = json.loads(record.read_text())["avid"]
    assert found["validation loss"].keys() == {"0.0003", "1e-12"}
    assert found["validation loss"]["0.0003"] == known["0.0003"]
    said = " ".join(capsys.readouterr().out.split())
    assert f"avid: {found['learning_rate']:g} is an end of those tried" in said  # as each of two is


def test_a_training_that_nothing_was_chosen_for_is_refused(finished: Finished) -> None:
    with pytest.raises(ValueError, match="procgen-choices --trainings lora"):
        chosen("lora", TRAININGS["lora"], finished.folder / "choices.json", paper_prior())
    with pytest.raises(ValueError, match="no trainings"):
        procgen_choices(trainings=("magic",), output=finished.folder / "none")


def test_it_is_refused_before_anything_else_is_trained(finished: Finished, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="procgen-choices --trainings lora"):
        finished.again(methods=("from scratch", "LoRA"), seeds=(1,), output=tmp_path)
    assert not (tmp_path / "trainings").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teraflops": 0.1}, "was trained for .* teraflops, not 0.1; keep"),
        ({"num_clips": 3}, "on 4 clips, not 3; keep"),
    ],
)
def test_cells_of_another_budget_or_of_other_clips_are_refused_at_once(
    change: dict[str, Any], message: str, finished: Finished, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        finished.again(**change, seeds=(1,), output=tmp_path, cells=finished.cells)
    assert not (tmp_path / "trainings").exists()


@pytest.mark.parametrize(("frames", "levels"), [(100_000, "0-99"), (500_000, "0-499"), (2_500_000, "0-2499")])
def test_the_papers_sets_have_as_many_levels_as_the_papers(frames: int, levels: str, tmp_path: Path) -> None:
    domain = procgen_benchmark_recipe.coinrun(pixel_unet.load("procgen"), tmp_path, "uniform", frames)
    assert domain.levels["training"] == levels
    domain = procgen_benchmark_recipe.coinrun(pixel_unet.load("procgen"), tmp_path, "sticky", frames)
    assert domain.levels["training"] == "0-499"


def test_cells_of_smoke_are_cells_of_tiny() -> None:
    tiny, smoke = SCALES["tiny"], SCALES["smoke"]
    assert set(smoke.methods) < set(tiny.methods)
    assert replace(tiny, methods=smoke.methods, num_seeds=1, lengths=smoke.lengths) == smoke


@pytest.mark.parametrize("scale", ["smoke", "tiny", "paper"])
def test_a_learning_rate_was_chosen_for_all_that_a_scale_trains(scale: str) -> None:
    prior, size = pixel_unet.load("procgen"), SCALES[scale]
    for name in {METHODS[method].training for method in size.methods} - {None}:
        assert 0 < chosen(name, size.trainings[name], CHOICES, prior) < 0.1


def test_every_cell_keeps_its_figures_and_how_they_came_about(finished: Finished) -> None:
    cells = {cell.protocol["notes"]["method"]: cell for cell in cells_in(finished.cells)}
    assert list(cells) == list(CHEAP)  # in the order of METHODS
    for name, cell in cells.items():
        notes = cell.protocol["notes"]
        assert set(cell.methods) >= {name, REPEAT_LAST_FRAME}
        assert len(cell.figure(name, "LPIPS").values) == 4
        assert "FID" in cell.protocol["left_out"]  # of so few clips
        assert ("listening" in notes) == (name != "frozen prior")
        assert ("mask" in notes) == name.startswith("AVID")
    product = cells["product of experts"].protocol["notes"]
    tried = product["strengths tried (LPIPS on validation levels)"]
    assert tried[str(product["strength"])] == min(tried.values())
    steps = {name: cells[name].protocol["notes"]["training"]["steps"] for name in ("from scratch", "AVID")}
    assert steps["AVID"] < steps["from scratch"]  # as the prior's operations count, too
    small, usual = (cells[name].protocol["notes"]["training"]["parameters"] for name in ("AVID, small", "AVID"))
    assert small < usual


@pytest.mark.slow
def test_every_method_makes_a_cell(finished: Finished, tmp_path: Path) -> None:
    beside = {"protocol": {"prior": pixel_unet.load(finished.settings["prior"]).fingerprint}}
    rates = tmp_path / "choices.json"
    rates.write_text(json.dumps({name: {"learning_rate": 1e-3} | beside for name in TRAININGS}))
    names = [name for name in METHODS if name not in CHEAP]
    finished.again(methods=names, choices=rates, output=tmp_path / "run")
    found = Results(cells_in(tmp_path / "run" / "cells"), METHODS)
    assert list(found.cells) == names
    for name in names:
        notes = found.notes(name)
        assert notes["training"]["steps"] > 0
        assert 0 < found.figure(name, "LPIPS").mean < 1
        assert (notes["strength"] in METHODS[name].strengths) or not METHODS[name].strengths
    page = (tmp_path / "run" / "report.html").read_text()
    assert all(name in page for name in names if METHODS[name].along is None)


def test_the_product_is_of_the_expert_that_was_trained_alone(finished: Finished) -> None:
    alone, product = (
        Evaluation.from_json((finished.cells / f"{name}-0.json").read_text()).protocol["notes"]["training"]
        for name in ("from-scratch", "product-of-experts")
    )
    assert product == alone


def test_what_is_finished_is_not_done_again(finished: Finished, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.cells.iterdir()}
    lost = finished.cells / "frozen-prior-0.json"
    text = json.loads(lost.read_text())["figures"]
    lost.unlink()
    finished.again()
    assert json.loads(lost.read_text())["figures"] == text  # the same clips, from the same noise
    after = {path: path.stat().st_mtime_ns for path in finished.cells.iterdir()}
    assert {path.name for path in after if after[path] != before[path]} == {lost.name}


def test_what_another_process_is_at_work_on_is_left_to_it(finished: Finished, tmp_path: Path) -> None:
    output, names = tmp_path / "run", ("from scratch", "product of experts", "frozen prior")
    claim = output / "claims" / "scratch-0"
    claim.mkdir(parents=True)
    last = output / "cells" / "frozen-prior-0.json"
    made: list[str] = []

    def other() -> None:
        """It trains from scratch, which the product needs, too, until the command has done all else, and then stops."""
        while not last.exists():
            time.sleep(0.05)
        made.extend(path.stem for path in last.parent.glob("*.json"))
        shutil.copy(finished.cells / "from-scratch-0.json", last.parent)
        held.close()

    with ExitStack() as held:
        held.enter_context(alone_in(claim))
        shutil.copytree(finished.folder / "run" / "trainings", output / "trainings")
        thread = Thread(target=other)
        thread.start()
        finished.again(methods=names, output=output)
        thread.join()
    assert made == ["frozen-prior-0"]
    copied = (last.parent / "from-scratch-0.json").read_bytes()
    assert copied == (finished.cells / "from-scratch-0.json").read_bytes()
    assert {path.stem for path in last.parent.glob("*.json")} == {slug(name) + "-0" for name in names}


def test_the_page_stands_alone_and_shows_every_method(finished: Finished) -> None:
    page = (finished.folder / "run" / "report.html").read_text()
    for name in (*CHEAP[:4], CHEAP[5], REPEAT_LAST_FRAME, "Do they listen?", "The masks", "Other sizes, less data"):
        assert name in page
    for shown in ("mean mask at each place", "One start and one noise under every action", "LPIPS against trained"):
        assert shown in page
    assert "LPIPS against frames" not in page  # no variation has fewer
    assert "src=http" not in page.replace('"', "")
    tables = [part.splitlines() for part in (finished.folder / "run" / "table.md").read_text().split("\n\n")]
    frames, clips, minus, varied = tables
    assert len(frames) == 2 + 1 + 4  # head, repeat, and the methods that are no variations
    assert len(clips) == 2 + 2 + 4  # real, too
    assert len(minus) == 2 + 3
    assert [line.split(" | ")[0] for line in varied[2:]] == ["| AVID", "| AVID, small", "| AVID, asked"]
    assert [len({line.count("|") for line in table}) for table in tables] == [1] * 4


def test_the_models_dream_on(finished: Finished, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    record = rollouts.procgen_episodes
    monkeypatch.setattr(rollouts, "procgen_episodes", lambda **request: record(**{**request, "num_frames": 600}))
    run = finished.folder / "run"
    rollouts.procgen_rollouts(times=2, num_clips=3, benchmark=run, datasets=finished.settings["datasets"])
    table = Evaluation.from_json((run / "rollouts.json").read_text())
    assert set(table.methods) == {*CHEAP, "AVID, frames handed over", REPEAT_LAST_FRAME, REAL}
    assert len(table.figure("AVID", "LPIPS").per_step) == 16
    assert table.figure("AVID", "LPIPS") != table.figure("AVID, frames handed over", "LPIPS")
    lines = (run / "rollouts.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in lines[2:4]] == [f"| {REAL}", f"| {REPEAT_LAST_FRAME}"]
    assert len(lines) == 2 + 2 + len(CHEAP) + 1
    assert {line.count("|") for line in lines} == {3 + 3 + 1 + 2}
    again = (run / "rollouts.json").read_text()
    monkeypatch.setattr(rollouts, "rollout", lambda *_: pytest.fail("what was dreamt is kept"))
    rollouts.procgen_rollouts(times=2, num_clips=3, benchmark=run, datasets=finished.settings["datasets"])
    assert (run / "rollouts.json").read_text() == again
    page = (run / "rollouts.html").read_text()
    said = page[: page.index("A model is trusted")]
    assert all(said.count(f"{name}; ") + said.count(f"{name}: trusted for") == 1 for name in CHEAP)
    finished.again()  # now the benchmark's page says so, too
    page = (run / "report.html").read_text()
    assert "AVID, seed 0, can be trusted for" in page
    assert "frozen prior can be trusted for" in page
    assert horizons(run / "cells" / "rollouts", "another prior") == []
    elsewhere = {"times": 2, "num_clips": 3, "benchmark": tmp_path, "datasets": finished.settings["datasets"]}
    shutil.copy(run / "settings.json", tmp_path)
    with pytest.raises(ValueError, match="no finished cell of seed 0"):
        rollouts.procgen_rollouts(**elsewhere)
    shutil.copytree(run / "cells", tmp_path / "cells")  # figures alone, and no model
    rollouts.procgen_rollouts(**elsewhere)
    assert (tmp_path / "rollouts.json").read_text() == again
    (tmp_path / "cells" / "rollouts" / "avid-small-0.json").unlink()
    rollouts.procgen_rollouts(**elsewhere)
    assert set(table.methods) - set(Evaluation.from_json((tmp_path / "rollouts.json").read_text()).methods) == {
        "AVID, small"
    }
    shutil.rmtree(tmp_path / "cells" / "rollouts")
    (tmp_path / "cells" / "frozen-prior-0.json").unlink()
    with pytest.raises(
        ValueError, match=r"there are cells of AVID, .* but not their models in .* make the cells there"
    ):
        rollouts.procgen_rollouts(**elsewhere)


def test_the_seed_of_the_training_is_noted_beside_that_of_the_noise(
    finished: Finished, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    record, seeds = rollouts.procgen_episodes, {"AVID, small": 0, "frozen prior": None}
    monkeypatch.setattr(rollouts, "procgen_episodes", lambda **request: record(**{**request, "num_frames": 300}))
    monkeypatch.setattr(rollouts, "rollout", lambda _denoiser, _prior, held, *_: held.clip.video.roll(1, 0))
    for name in ("avid-small-0", "frozen-prior-0"):
        (tmp_path / "cells").mkdir(exist_ok=True)
        shutil.copy(finished.cells / f"{name}.json", tmp_path / "cells")
    dream = partial(
        rollouts.procgen_rollouts, times=1, num_clips=2, seed=1, benchmark=finished.folder / "run",
        cells=tmp_path / "cells", datasets=tmp_path, output=tmp_path,
    )  # fmt: skip
    dream()
    for path in (tmp_path / "cells" / "rollouts").iterdir():
        notes = Evaluation.from_json(path.read_text()).protocol["notes"]
        assert notes["seed"] == 1
        assert [notes["training seed"]] == [seeds[name] for name in notes["trusted frames"]]
    table = Evaluation.from_json((tmp_path / "rollouts.json").read_text())
    assert table.protocol["notes"]["training seeds"] == seeds
    monkeypatch.setattr(rollouts, "measured", lambda *_: pytest.fail("what was measured is kept"))
    dream()


def result(path: Path, **notes: Any) -> Path:
    """A result of no clips."""
    protocol = {"num_clips": 0, "levels": [], "clips": "", "metrics": {}, "left_out": {}, "intervals": {}}
    path.write_text(Evaluation((), {**protocol, "num_predicted": 80, "notes": notes}).to_json())
    return path


def test_rollouts_are_said_to_be_of_the_training_that_they_are_of(tmp_path: Path) -> None:
    facts = {"prior": "abc", "seed": 1}
    result(tmp_path / "avid-noised-1.json", **facts, **{"training seed": 0, "trusted frames": {"AVID, noised": 12}})
    result(tmp_path / "frozen-1.json", **facts, **{"training seed": None, "trusted frames": {"frozen prior": 11}})
    older = result(tmp_path / "lora-1.json", **facts, **{"trusted frames": {"LoRA": 10}})
    longer = "frames of a longer rollout."
    assert horizons(tmp_path, "abc") == [
        f"AVID, noised, seed 0, can be trusted for 12 of 80 {longer}",
        f"frozen prior can be trusted for 11 of 80 {longer}",
        f"LoRA can be trusted for 10 of 80 {longer}",
    ]
    assert rollouts.is_measured(older, facts)
    assert not rollouts.is_measured(older, facts | {"sampler": "ddim"})
    assert horizons(tmp_path / "none", "abc") == []


def test_a_file_that_is_no_cell_is_named(tmp_path: Path) -> None:
    result(tmp_path / "avid-0.json", method="AVID")
    result(tmp_path / "frozen-prior-0.json", method="frozen prior")
    assert [cell.protocol["notes"]["method"] for cell in cells_in(tmp_path)] == ["frozen prior", "AVID"]
    magic = result(tmp_path / "magic-0.json", method="magic")
    with pytest.raises(ValueError, match=r"magic-0\.json notes the method 'magic', .* AVID.*; move it away, or use"):
        cells_in(tmp_path)
    result(magic)
    with pytest.raises(ValueError, match=r"magic-0\.json notes the method None"):
        cells_in(tmp_path)
    for path in tmp_path.iterdir():
        path.unlink()
    magic.write_text("{}")
    for read in (cells_in, partial(horizons, prior="abc"), lambda _: rollouts.is_measured(magic, {})):
        with pytest.raises(ValueError, match=r"magic-0\.json: this is no result"):
            read(tmp_path)


class Unread:
    """A `ClipSource` that nothing is read of."""

    def draw(self, *_: Any) -> Any:
        raise AssertionError

    batch = draw


def test_a_forecast_is_of_each_training_once_and_of_all_together(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tried: list[str] = []

    def forecast(dry_run: bool, *_: Any, folder: Path, **__: Any) -> None:
        assert dry_run
        tried.append(folder.name)
        needs = {"memory": len(tried) * 2**30, "seconds": 60.0, "steps": 10, "disk": 2**20}
        write_whole(folder / "forecast.json", json.dumps(needs))

    monkeypatch.setattr("trimtab.recipes.benchmark.methods.fit_or_forecast", forecast)
    monkeypatch.setattr("trimtab.recipes.benchmark.methods.operations_per_step", lambda *_, **__: 1e12)
    prior = pixel_unet.tiny()
    domain = procgen_benchmark_recipe.coinrun(prior, tmp_path, "sticky", 50_000)
    bench = Bench(prior, replace(domain, training=lambda _: Unread()), SCALES["tiny"], tmp_path, rate=lambda *_: 1e-3)
    write_whole(tmp_path / "trainings" / "avid-0" / "config.json", '{"facts": {}}')  # it is trained
    bench.run(CHEAP, (0, 1), tmp_path / "cells", dry_run=True)
    assert tried == ["scratch-0", "avid-small-0", "avid-asked-0", "avid-1"]
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "5 trainings, one after another, will need: memory 4.00 GiB, time 5.0 minutes for 50 steps, disk 5 MiB" in said
    )
    assert said.endswith("sampling and measuring 9 cells comes on top")


def test_seeds_are_listed_with_their_interval() -> None:
    assert listed([0.13891, 0.13709]) == f"0.1389, 0.1371: {seed_interval([0.13891, 0.13709])}"


def asked(monkeypatch: pytest.MonkeyPatch, ask: Callable[[], Any]) -> dict[str, Any]:
    """What would be recorded."""
    request: dict[str, Any] = {}

    def note(**settings: Any) -> None:
        request.update(settings)
        raise LookupError

    for recipe in (coinrun, rollouts):
        monkeypatch.setattr(recipe, "procgen_episodes", note)
    with pytest.raises(LookupError):
        ask()
    return request


@pytest.mark.parametrize(
    ("policy", "num_clips", "sets"),
    [
        ("sticky", 128, {"train-50000": (50_000, 200), "validation": (24_000, 48), "test": (24_000, 48)}),
        ("sticky", 300, {"train-50000": (50_000, 200), "validation-300": (28_800, 48), "test-300": (28_800, 48)}),
        (
            "uniform",
            300,
            {
                "train-50000-uniform": (50_000, 1000),
                "validation-300-uniform": (600_000, 1000),
                "test-300-uniform": (600_000, 1000),
            },
        ),
    ],
)
def test_uniform_play_is_as_long_as_the_papers_and_sticky_play_as_it_was(
    policy: Any, num_clips: int, sets: dict[str, tuple[int, int]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    prior, found = pixel_unet.load("procgen"), {}
    for ask in (
        lambda: coinrun.training_clips(prior, 50_000, tmp_path, policy),
        lambda: coinrun.validation(prior, num_clips, tmp_path, policy),
        lambda: coinrun.held_out(prior, num_clips, tmp_path, policy),
    ):
        request = asked(monkeypatch, ask)
        assert request["policy"] == policy
        name = request["output"].name.removeprefix("coinrun-")
        found[name] = request["num_frames"], request["max_episode_frames"]
    assert found == sets


@pytest.mark.parametrize(
    ("scale", "policy", "name"),
    [("tiny", "sticky", "coinrun-test-80"), ("paper", "uniform", "coinrun-test-80-uniform")],
)
def test_rollouts_are_of_the_play_that_the_benchmark_is_of(
    scale: str, policy: str, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = {"settings": {"scale": scale, "prior": "procgen", "num_steps": None}}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    request = asked(monkeypatch, lambda: rollouts.procgen_rollouts(benchmark=tmp_path, datasets=tmp_path))
    assert (request["policy"], request["output"].name) == (policy, name)


def test_only_other_sizes_are_points_of_the_curve_over_sizes(finished: Finished) -> None:
    results = Results(cells_in(finished.cells), METHODS)
    sizes = [
        cell.protocol["notes"]["training"]["parameters"]
        for name in ("AVID, small", "AVID")
        for cell in results.cells[name]
    ]
    assert [size for size, _ in results.points("AVID", "parameters", "LPIPS")] == sizes
    assert len(results.points("AVID", "frames", "LPIPS")) == 1
    assert results.points("from scratch", "parameters", "no such metric") == []


@pytest.mark.parametrize("key", ALIKE)
def test_cells_of_another_prior_sampler_or_division_are_not_put_into_one_table(finished: Finished, key: str) -> None:
    cells = cells_in(finished.cells)
    notes = cells[0].protocol["notes"] | {key: "another"}
    with pytest.raises(ValueError, match=rf"was measured with another {key}: .*, not another"):
        check_alike(cells[1:], notes)
    with pytest.raises(ValueError, match=f"another {key}: another, not"):
        Results([cells[1], replace(cells[0], protocol={**cells[0].protocol, "notes": notes})], METHODS)


def test_cells_of_another_sampler_are_refused_before_anything_is_trained(finished: Finished, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="another sampler"):
        finished.again(num_steps=3, methods=("ControlNet",), output=tmp_path, cells=finished.cells)
    assert not (tmp_path / "trainings").exists()


def test_figures_over_seeds_are_of_every_metric(finished: Finished, tmp_path: Path) -> None:
    cells = cells_in(finished.cells)
    other = next(cell for cell in cells if cell.protocol["notes"]["method"] == "AVID")
    second = replace(other, protocol={**other.protocol, "notes": other.protocol["notes"] | {"seed": 1}})
    found = Results([*cells, second], METHODS)
    same = found.across_seeds("AVID", "PSNR")
    assert same.low == same.mean == same.high == pytest.approx(other.figure("AVID", "PSNR").overall.mean)
    assert found.loss_across_seeds("AVID").num_clips == 2
    assert list(found.noted("mask")) == ["AVID, seed 0", "AVID, seed 1"]
    assert found.listening("AVID") == Results(cells, METHODS).listening("AVID")
    assert found.listening("frozen prior") == "–"
    assert found.per_step("AVID", "LPIPS") == pytest.approx(other.figure("AVID", "LPIPS").per_step)
    page = write_report(
        tmp_path / "page.html", [*cells, second], pictures=finished.folder / "run" / "pictures",
        rollouts=tmp_path / "rollouts", methods=METHODS, words=Words("title", "level", ("left",)),
    ).read_text()  # fmt: skip
    assert page.count("Across training seeds") == 3
    by_seed = (tmp_path / "table.md").read_text().split("\n\n")[3].splitlines()
    assert [line.split(" | ")[0] for line in by_seed] == ["| training seed by seed", "| ---", "| AVID"]
    value = f"{other.figure('AVID', 'LPIPS').overall.mean:.4g}"
    assert f" {value}, {value}: {found.across_seeds('AVID', 'LPIPS')} " in by_seed[2]


def test_cells_of_two_budgets_are_not_put_into_one_table(finished: Finished) -> None:
    cells = cells_in(finished.cells)
    check_budgets(cells)
    trained = next(cell for cell in cells if cell.protocol["notes"]["training"])
    training = trained.protocol["notes"]["training"]
    notes = trained.protocol["notes"] | {"training": training | {"steps": 2 * training["steps"]}}
    longer = replace(trained, protocol={**trained.protocol, "notes": notes})
    with pytest.raises(ValueError, match="these cells are of several budgets"):
        check_budgets([*cells, longer])


def test_unknown_methods_and_other_settings_are_refused(finished: Finished) -> None:
    with pytest.raises(ValueError, match="no methods"):
        finished.again(methods=("magic",))
    with pytest.raises(ValueError, match="other settings"):
        finished.again(num_steps=3)


def test_every_method_names_a_training_and_every_training_is_used() -> None:
    used = {method.training for method in METHODS.values()} - {None}
    assert used == set(TRAININGS)
    assert set(PAPER_TRAININGS) <= {*TRAININGS}
    assert all(training.like is None or training.like in TRAININGS for training in TRAININGS.values())
    assert all(method.varies is None or method.varies in METHODS for method in METHODS.values())


def test_what_is_compared_at_equal_size_has_equally_many_weights() -> None:
    prior = pixel_unet.load("procgen")
    others = {"controlnet", "finetune", *(f"{name}-{size}" for name in VARIED.values() for size in SIZES)}
    counts = {}
    for name in set(TRAININGS) - others:
        model, _ = TRAININGS[name].assembled(prior, 0, coinrun.COINRUN_ACTIONS)
        counts[name] = sum(value.numel() for value in model.parameters() if value.requires_grad)
    assert counts.keys() >= {"scratch", "classifier", "controlnet-small", "lora", "avid"}
    assert max(counts.values()) < 1.03 * counts["avid"]
    assert min(counts.values()) > 0.97 * counts["avid"]


@pytest.mark.parametrize(
    ("training", "expected"),
    [("scratch", 22_660_047), ("scratch-large", 72_228_271), ("avid", 22_667_448 + 2), ("avid-large", 72_241_592 + 2),
     ("avid-no-mask", 22_667_397 + 12), ("avid-blind", 22_660_098 + 2), ("controlnet-small", 22_158_492 - 3_100)],
)  # fmt: skip
def test_the_papers_trainings_have_its_numbers_of_weights(training: str, expected: int) -> None:
    """More are the convolutions of a mask, or of a change; fewer, the biases of the small ControlNet's projections."""
    prior, recipe = paper_prior(), PAPER_TRAININGS[training]
    with torch.device("meta"):
        model = recipe.build(prior, num_actions=15, **recipe.options)
    assert sum(value.numel() for value in model.parameters()) == expected
    assert sum(value.numel() for value in prior.parameters()) == 91_975_875


@cache
def paper_prior() -> PixelUNet:
    return PixelUNet(PAPER)


class Halves:
    """A codec whose latents are halves of frames."""

    space, frames_per_latent = "halves of frames", 1

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        return frames / 2

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return 2 * latents


class Still:
    """Believes that nothing moves."""

    space, uses = Halves.space, frozenset({"context"})

    def bind(self, given: Conditioning) -> Any:
        last = given.facts()["context"][:, -1:]
        return lambda noisy, level: Prediction(last.expand_as(noisy).contiguous(), "clean", noisy, level)


@pytest.mark.parametrize("hand_over", ["latents", "frames"])
def test_a_rollout_stays_in_the_space_that_the_prior_diffuses_in(hand_over: Any) -> None:
    prior = PixelUNet(PixelUNetSettings(num_frames=2, frame_shape=(3, 8, 8)))
    prior.codec = Halves()
    play = (torch.randint(256, (3, 7, 3, 8, 8)) / 127.5 - 1).float()
    context, real, actions = play[:, :2], play[:, 2:], torch.zeros(3, 5, dtype=torch.long)
    clip = Clip(real, Conditioning(context=context, actions=actions))
    held = Held(torch.arange(3).numpy(), clip, context, actions, torch.arange(3))
    dreamt = rollouts.rollout(Still(), prior, held, 2, 0, hand_over, chunk=2)
    torch.testing.assert_close(dreamt, context[:, -1:].expand_as(real), rtol=0, atol=1e-6)
