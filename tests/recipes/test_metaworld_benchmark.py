"""The benchmark of action vectors from end to end at toy size, on drawn dots: nothing is rendered."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tiny import tabletop
from trimtab.adapters.classifier_guidance import ReadingLoss
from trimtab.adapters.finetune import Finetune
from trimtab.adapters.from_scratch import FromScratch
from trimtab.data.clips import Clips
from trimtab.data.episodes import Episodes, EpisodeWriter
from trimtab.diffusion.losses import DenoisingLoss, velocity_loss
from trimtab.environments.metaworld import TEXTS
from trimtab.metrics.actions import VECTORS, ActionJudge, JudgeFile
from trimtab.metrics.evaluation import REPEAT_LAST_FRAME
from trimtab.networks import storage
from trimtab.priors import pixel_unet
from trimtab.recipes import metaworld_benchmark as recipe
from trimtab.recipes.benchmark.bench import cells_in
from trimtab.recipes.benchmark.methods import METHODS
from trimtab.recipes.benchmark.robots import ROBOT_METHODS, SCHEDULE, held_of, robot_trainings
from trimtab.recipes.domains import metaworld
from trimtab.recipes.metaworld_benchmark import SCALES, metaworld_benchmark, seeds_of

TASKS = ("door-open", "drawer-open")
TRIED = ("frozen prior", "action guidance", "ControlNet, small", "AVID", "finetuning with language")
LENGTH = 14


def dots(folder: Path, seeds: range, tasks: tuple[str, ...]) -> Episodes:
    """Of each task an episode of each seed: a dot that goes where the first two numbers of the action say."""
    with EpisodeWriter(folder, frame_rate=20.0, action_dim=4, provenance={"environment": "dots"}) as writer:
        for task in tasks:
            for seed in seeds:
                actions = np.random.default_rng(seed).uniform(-1, 1, (LENGTH, 4)).astype(np.float32)
                frames, places = np.zeros((LENGTH, 64, 64, 3), np.uint8), np.cumsum(2 * actions[:, :2], 0).astype(int)
                for frame, (x, y) in zip(frames, places, strict=True):
                    frame[28 + y : 36 + y, 28 + x : 36 + x] = 255
                writer.add_episode(frames, actions, level=seed, task=TEXTS[task])
    return Episodes.open(folder)


def drawn(**settings: Any) -> Episodes:
    """In place of `metaworld_episodes`."""
    if settings["output"].exists():
        return Episodes.open(settings["output"])
    return dots(settings["output"], range(settings["seed"], settings["seed"] + settings["num_episodes"]), TASKS)


@dataclass(frozen=True)
class Finished:
    """A benchmark that has run once, and what it takes to run it again."""

    settings: dict[str, Any]
    folder: Path

    @property
    def cells(self) -> Path:
        return self.folder / "run" / "cells"

    def again(self, **changes: Any) -> None:
        metaworld_benchmark(**{**self.settings, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A step or two of training a method, measured on a few episodes; ratios are made of that few here."""
    folder, judge = tmp_path_factory.mktemp("benchmark"), tmp_path_factory.mktemp("judge") / "judge.safetensors"
    torch.manual_seed(0)
    tabletop.prior({"widths": (32, 32, 32), "depths": (1, 1, 1), "patch": 8}).save(folder / "prior.safetensors")
    JudgeFile(judge).save(ActionJudge(4, 4, frame_size=64, crop=64), {"actions": VECTORS})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metaworld, "metaworld_episodes", drawn)
        patch.setattr(recipe, "PLAYED", TASKS)
        patch.setattr(recipe, "NUM_EPISODES", 4)
        patch.setitem(SCALES, "smoke", replace(SCALES["smoke"], lengths=(1, 2)))
        patch.setattr("trimtab.recipes.benchmark.inspection.NUM_ASKED", 4)
        patch.setattr("trimtab.metrics.evaluation.LEAST_LEVELS", 4)
        run = Finished(
            {
                "prior": str(folder / "prior.safetensors"), "judge": judge, "datasets": folder / "datasets",
                "methods": TRIED, "seeds": (0,), "teraflops": 0.02, "num_clips": 6, "num_steps": 2, "batch_size": 2,
                "output": folder / "run",
            },
            folder,
        )  # fmt: skip
        run.again()
        yield run


def test_strips_show_the_frames_that_a_model_was_given_not_those_of_the_judge(finished: Finished) -> None:
    pictures, _ = storage.read(finished.folder / "run" / "pictures" / "avid-0.safetensors")
    assert pictures["given"].shape[:2] == (len(pictures["AVID"]), 1)  # the judge sees two


def test_every_cell_has_the_error_of_actions_and_its_ratio(finished: Finished) -> None:
    cells = {cell.protocol["notes"]["method"]: cell for cell in cells_in(finished.cells, ROBOT_METHODS)}
    assert list(cells) == list(TRIED)
    for name, cell in cells.items():
        notes = cell.protocol["notes"]
        assert (cell.protocol["num_levels"], cell.protocol["num_context"]) == (6, 2)  # the judge sees two frames
        error, ratio = (cell.figure(name, metric).overall.mean for metric in ("action error", "action error ratio"))
        assert ratio == pytest.approx(error / cell.figure("real", "action error").overall.mean, rel=1e-4)
        assert cell.figure(REPEAT_LAST_FRAME, "action error ratio").overall.mean > 0
        assert notes["levels"] == {
            "training": "seeds 1000-1003", "validation": "seeds 3000-3002", "test": "seeds 4000-4002",
        }  # fmt: skip
        assert ("listening" in notes) == (name not in ("frozen prior", "finetuning with language"))
        assert ("mask" in notes) == (name == "AVID")
    guided = cells["action guidance"].protocol["notes"]
    tried = guided["strengths tried (LPIPS on validation levels)"]
    assert tried[str(guided["strength"])] == min(tried.values())
    assert cells["AVID"].protocol["notes"]["training"]["frames"] == 2 * 4 * LENGTH


def test_all_weights_of_the_prior_are_trained_at_a_rate_of_their_own(finished: Finished) -> None:
    rates = {
        cell.protocol["notes"]["method"]: cell.protocol["notes"]["training"].get("learning_rate")
        for cell in cells_in(finished.cells, ROBOT_METHODS)
    }
    assert rates == {
        "frozen prior": None, "action guidance": 4e-3, "ControlNet, small": 1e-3, "AVID": 4e-3,
        "finetuning with language": 1e-3,
    }  # fmt: skip
    trainings = robot_trainings(tabletop.prior(), muon_rate=2e-3, rate=3e-3, finetuning=2e-5)
    assert {name for name, training in trainings.items() if training.rates == (2e-5,)} == {
        "finetune", "finetune-language",
    }  # fmt: skip
    assert all((training.rates == (2e-3,)) == (training.optimizer == "muon") for training in trainings.values())
    plain = robot_trainings(tabletop.prior(), muon_rate=None, rate=3e-3)
    assert {training.optimizer for training in plain.values()} == {"adamw"}


def test_the_prior_diffuses_up_to_pure_noise(finished: Finished) -> None:
    prior = pixel_unet.load(finished.settings["prior"], schedule=SCHEDULE)
    assert prior.schedule.may_be_pure
    for cell in cells_in(finished.cells, ROBOT_METHODS):
        assert cell.protocol["notes"]["prior"] == prior.fingerprint


def test_the_page_names_actions_and_episodes(finished: Finished) -> None:
    page = (finished.folder / "run" / "report.html").read_text()
    for said in (*TRIED, "x, low", "gripper, high", "held-out episodes", "action error ratio"):
        assert said in page
    assert "levels;" not in page
    header = (finished.folder / "run" / "table.md").read_text().split("\n\n")[1].splitlines()[0]
    assert "action error ratio" in header
    assert "accuracy" not in header
    pictures, _ = storage.read(finished.folder / "run" / "pictures" / "avid-0.safetensors")
    under = [name for name in pictures if name.startswith("under")]
    assert sorted(under) == sorted(f"under {number}" for number in range(8))


def test_what_is_finished_is_not_done_again(finished: Finished) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.cells.iterdir()}
    finished.again()
    assert {path: path.stat().st_mtime_ns for path in finished.cells.iterdir()} == before


def test_language_is_heard_by_finetuning_with_it_alone(finished: Finished) -> None:
    folder = finished.folder / "run" / "trainings"
    assert (folder / "finetune-language-0").is_dir()
    trainings = robot_trainings(tabletop.prior())
    model, _ = trainings["finetune-language"].assembled(tabletop.prior(), 0, {"action_dim": 4})
    assert isinstance(model, Finetune)
    assert model.uses == {"context", "text"}
    alone, _ = trainings["scratch"].assembled(tabletop.prior(), 0, {"action_dim": 4})
    assert isinstance(alone, FromScratch)
    assert alone.uses == {"context", "actions"}
    assert [name for name, method in ROBOT_METHODS.items() if method.told_text] == ["finetuning with language"]


def test_all_methods_but_the_variations_are_there(finished: Finished) -> None:
    usual = {name for name, method in METHODS.items() if method.varies is None}
    assert set(ROBOT_METHODS) == usual | {"finetuning with language"}
    assert {method.training for method in ROBOT_METHODS.values()} - {None} == set(robot_trainings(tabletop.prior()))
    prior = pixel_unet.load(finished.settings["prior"])
    for training in robot_trainings(prior).values():
        training.assembled(prior, 0, {"action_dim": 4})


def test_what_learns_beside_the_prior_or_alone_has_equally_many_weights() -> None:
    prior = pixel_unet.load("tabletop", schedule=SCHEDULE)
    trainings = robot_trainings(prior)
    counts = {}
    for name in ("scratch", "forgetful", "avid", "avid-no-mask", "avid-blind", "controlnet-small", "lora"):
        model, _ = trainings[name].assembled(prior, 0, {"action_dim": 4})
        counts[name] = sum(value.numel() for value in model.parameters() if value.requires_grad)
    assert max(counts.values()) / min(counts.values()) < 1.03, counts


def test_all_is_trained_by_the_error_of_velocities() -> None:
    prior = tabletop.prior()
    for name, training in robot_trainings(prior).items():
        if name == "controlnet-small":  # which is not of this prior's depth
            continue
        _, task = training.assembled(prior, 0, {"action_dim": 4})
        assert isinstance(task, ReadingLoss if name == "classifier" else DenoisingLoss)
        assert isinstance(task, ReadingLoss) or task.companions[:2] == (velocity_loss, velocity_loss)
        assert task.companions[-1] is prior.codec
        anew = name in ("scratch", "forgetful") or name.startswith("avid")
        assert (training.optimizer == "muon") is anew


def test_a_model_is_told_one_frame_of_those_that_the_judge_sees(finished: Finished, tmp_path: Path) -> None:
    prior, episodes = tabletop.prior(), dots(tmp_path / "set", range(6), TASKS)
    held = held_of(Clips(episodes, 2, prior.num_frames), 10, prior)
    assert held.context.shape[:2] == (10, 2)
    assert torch.equal(held.told, held.context[:, 1:])
    assert len(held.levels.unique()) == 10  # two tasks have the same seeds, and are other episodes
    for number, episode in zip(range(10), held.levels.tolist(), strict=True):
        actions = torch.from_numpy(episodes.episode(episode)[1].copy())
        windows = actions.unfold(0, prior.num_frames, 1).movedim(-1, 1)
        assert (windows == held.actions[number]).all(2).all(1).any()


@pytest.mark.parametrize(
    ("option", "because"),
    [
        *(({name: 0}, f"{name} is at least 1, got 0") for name in ("num_clips", "num_steps", "batch_size")),
        ({"teraflops": -1.0}, "teraflops are above 0 and finite, got -1.0"),
    ],
)
def test_what_has_no_sense_is_refused_before_it_is_recorded(
    option: dict[str, Any], because: str, finished: Finished, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=because):
        finished.again(**option, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_does_not_fit_is_refused(finished: Finished, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no methods"):
        finished.again(methods=("AVID, noised",))
    with pytest.raises(ValueError, match="other settings"):
        finished.again(finetuning_rate=0.1)
    with pytest.raises(ValueError, match=r"no judge of actions at .*; train one by `trimtab metaworld-judge`"):
        finished.again(judge=tmp_path / "none.safetensors", output=tmp_path / "run")
    JudgeFile(tmp_path / "small.safetensors").save(ActionJudge(4, 4, frame_size=16, crop=16), {"actions": VECTORS})
    with pytest.raises(
        ValueError,
        match=r"vectors of 4 numbers off frames of \(16, 16\), not vectors of 4 numbers off frames of \(64, 64\)",
    ):
        finished.again(judge=tmp_path / "small.safetensors", output=tmp_path / "other")
    tabletop.prior({**tabletop.SIZES, "text_dim": None}).save(tmp_path / "deaf.safetensors")
    with pytest.raises(ValueError, match="are told texts, and this prior hears none"):
        finished.again(prior=str(tmp_path / "deaf.safetensors"), output=tmp_path / "deaf")


def test_sets_that_share_a_seed_are_refused(tmp_path: Path) -> None:
    one, other = (dots(tmp_path / f"{first}", range(first, first + 3), TASKS[:1]) for first in (0, 2))
    with pytest.raises(ValueError, match="must not share a seed"):
        seeds_of(training=one, test=other)
