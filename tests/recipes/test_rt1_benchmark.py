"""The benchmark on a small RLDS set from end to end at toy size: with frames, and at the paper's settings with latents."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tiny import mine, tabletop
from tiny.rlds_files import rt1_episode, write_set
from trimtab.adapters.classifier_guidance import ReadingLoss
from trimtab.data.clips import Clips
from trimtab.data.episodes import Episodes
from trimtab.diffusion import sampling
from trimtab.diffusion.losses import DenoisingLoss, velocity_loss
from trimtab.metrics.actions import VECTORS, ActionJudge, JudgeFile
from trimtab.metrics.protocol import Evaluation
from trimtab.networks import storage
from trimtab.priors import pixel_unet
from trimtab.priors.pixel_unet import PixelUNet
from trimtab.recipes import rt1_benchmark as recipe
from trimtab.recipes._held import held_out_loss
from trimtab.recipes.benchmark.bench import cells_in
from trimtab.recipes.benchmark.inspection import Imaginer
from trimtab.recipes.benchmark.robots import EMBEDDED_SIZES, ROBOT_METHODS, held_of, robot
from trimtab.recipes.import_rlds import rlds_episodes
from trimtab.recipes.metaworld_judge import metaworld_judge
from trimtab.recipes.rt1_benchmark import (
    ACTION,
    FRAMES,
    SCALES,
    SCHEDULES,
    check_fits,
    idle,
    rt1_benchmark,
    trainings_beside,
)


def latent_prior() -> PixelUNet:
    """Of 3 frames of 32 x 64 as latents, from one."""
    return mine.of_latents(32, 64, num_frames=3, schedule=SCHEDULES["paper"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hundred episodes: 188 to train on, 2 to choose on, 10 to measure on."""
    episodes = [rt1_episode(number, 10) for number in range(200)]
    return write_set(tmp_path_factory.mktemp("rt1") / "0.1.0", [episodes[:120], episodes[120:]])


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("run")
    tabletop.prior().save(output / "prior.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SCALES, "smoke", replace(SCALES["smoke"], lengths=(8,)))
        patch.setattr("trimtab.recipes.benchmark.inspection.NUM_ASKED", 4)
        rt1_benchmark(
            folder, methods=("frozen prior", "AVID"), teraflops=0.02, num_clips=5, num_episodes=20, num_steps=2,
            batch_size=2, prior=str(output / "prior.safetensors"), datasets=output / "datasets", output=output / "run",
        )  # fmt: skip
    return output


def test_a_set_in_rlds_form_becomes_a_table(run: Path) -> None:
    cells = {cell.protocol["notes"]["method"]: cell for cell in cells_in(run / "run" / "cells", ROBOT_METHODS)}
    assert list(cells) == ["frozen prior", "AVID"]
    for name, cell in cells.items():
        assert cell.protocol["num_context"] == 1
        assert (cell.protocol["num_clips"], cell.protocol["num_levels"]) == (5, 5)
        assert cell.figure(name, "LPIPS").overall.mean > 0
        assert not any("action" in metric for metric in cell.protocol["metrics"])  # without a judge
        assert cell.protocol["notes"]["levels"]["test"] == "train[95%:]"
    assert cells["AVID"].protocol["notes"]["listening"]["protocol"]["idle"] is not None
    pictures, _ = storage.read(run / "run" / "pictures" / "avid-0.safetensors")
    assert sum(name.startswith("under") for name in pictures) == 2 * len(ACTION)
    assert "gripper, high" in (run / "run" / "report.html").read_text()


def test_no_episodes_to_train_on_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="num_episodes is at least 1, got 0"):
        rt1_benchmark(folder, num_episodes=0, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_refused_command_can_be_mended_in_the_same_folder(folder: Path, run: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "num_episodes": 20, "prior": str(run / "prior.safetensors"), "datasets": tmp_path / "datasets",
        "output": tmp_path / "run",
    }  # fmt: skip
    with pytest.raises(FileNotFoundError, match=r"features.json is missing"):
        rt1_benchmark(folder.parent / "mistyped", **options)
    with pytest.raises(ValueError, match="asked for 300 clips, and of these 10 episodes 1 to 10 can be cut"):
        rt1_benchmark(folder, num_clips=300, **options)
    assert not (tmp_path / "run" / "settings.json").exists()


def test_what_is_chosen_is_chosen_on_as_many_clips_as_there_are(run: Path) -> None:
    prior, (validation,) = tabletop.prior(), (run / "datasets").glob("rt1*-validation-*")
    episodes = Episodes.open(validation)
    domain = robot(
        prior, episodes, episodes, episodes, num_frames=prior.num_frames, levels={}, title="", names=ACTION,
        idle=idle(episodes), encode=partial(recipe.said, prior), judge_file=None,
    )  # fmt: skip
    assert len(domain.validation(48).indices) == 2
    with pytest.raises(ValueError, match="asked for 48 clips"):
        domain.test(48)


def test_parts_are_apart_and_share_the_statistics_of_training(run: Path) -> None:
    parts = {path.name.split("-")[2]: Episodes.open(path) for path in (run / "datasets").glob("rt1*")}
    assert {name: len(some) for name, some in parts.items()} == {"training": 20, "validation": 2, "test": 10}
    assert parts["test"].levels.tolist() == list(range(190, 200))
    assert parts["validation"].levels.tolist() == [188, 189]
    assert parts["training"].levels.max() < 20
    for some in parts.values():
        assert some.provenance["statistics"] == parts["training"].provenance["statistics"]
    used = parts["training"].provenance["statistics"]
    still = idle(parts["test"])
    np.testing.assert_allclose(still[:6] * np.array(used["deviation"]) + np.array(used["mean"]), 0, atol=1e-5)
    assert still[6] == 1


def test_the_papers_settings_run_with_latents_and_a_judge(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FRAMES, "paper", (32, 64))
    monkeypatch.setattr(recipe, "PAPER_SIZES", EMBEDDED_SIZES)  # but its adapters, whose steps take seconds
    shorter = replace(SCALES["paper"], lengths=(3,), avid_steps=3, batch_size=2, num_steps=3)
    monkeypatch.setitem(SCALES, "paper", shorter)
    monkeypatch.setattr("trimtab.recipes.benchmark.inspection.NUM_ASKED", 3)
    monkeypatch.setattr("trimtab.metrics.evaluation.LEAST_LEVELS", 2)
    methods = ("from scratch", "AVID", "finetuning with language")
    own: dict[str, Any] = {"prior": f"{__name__}:latent_prior", "datasets": tmp_path / "datasets"}
    run = partial(rt1_benchmark, folder, scale="paper", num_clips=3, num_episodes=10, **own)
    run(methods=(), dry_run=True, output=tmp_path / "dry")
    train = partial(metaworld_judge, held_out=0.2, num_steps=2, batch_size=2, width=4, frame_size=16)
    (training,) = (tmp_path / "datasets").glob("*-training-10-32x64")
    train(data=training, output=tmp_path / "judge")
    run(methods=methods, judge=tmp_path / "judge" / "judge.safetensors", output=tmp_path / "run")
    cells = {path.stem: Evaluation.from_json(path.read_text()) for path in (tmp_path / "run" / "cells").iterdir()}
    assert len(cells) == 3
    for cell in cells.values():
        name = cell.protocol["notes"]["method"]
        error, ratio = (cell.figure(name, metric).overall.mean for metric in ("action error", "action error ratio"))
        assert ratio == pytest.approx(error / cell.figure("real", "action error").overall.mean, rel=1e-4)
        assert cell.protocol["judge"]["settings"]["frames"] == [32, 64]
    notes = {name: cell.protocol["notes"] for name, cell in cells.items()}
    assert notes["avid-0"]["training"]["steps"] == 3
    assert notes["from-scratch-0"]["training"]["steps"] > 3  # as many operations, and no prior to ask
    assert [some["training"]["learning_rate"] for some in notes.values()] == [
        2e-5 if name.startswith("finetuning") else 1e-4 for name in notes
    ]
    assert all(some["sampler"] == "ddim, 3 steps" for some in notes.values())
    log = (tmp_path / "run" / "trainings" / "avid-0" / "log.jsonl").read_text().splitlines()
    assert json.loads(log[0])["rate"] == pytest.approx(1e-4 / 250)  # it warms up
    rlds_episodes(folder, split="train[10:20]", height=32, width=64, output=tmp_path / "others")
    train(data=tmp_path / "others", output=tmp_path / "wrong")
    with pytest.raises(
        ValueError, match=r"did not learn from actions scaled by the mean and deviation of rt1 0.1.0 train"
    ):
        run(methods=(), judge=tmp_path / "wrong" / "judge.safetensors", output=tmp_path / "again")


def test_frames_become_latents_and_latents_frames(folder: Path, tmp_path: Path) -> None:
    prior = latent_prior()
    episodes = rlds_episodes(folder, split="train[:6]", height=32, width=64, output=tmp_path / "set")
    held = held_of(Clips(episodes, prior.num_context, prior.num_frames), 4, prior)
    video = Imaginer(prior, prior, held, num_steps=3, sample=sampling.ddim).all()
    assert video.shape == held.clip.video.shape
    noise = sampling.start_noise((3, *prior.frame_shape), 0, held.indices.tolist())
    encoded = replace(held.clip.given, context=prior.codec.encode(held.told))
    latents = sampling.ddim(prior, noise, encoded, pairs=sampling.pairs(prior.schedule, 3))
    expected = prior.codec.decode(latents).clamp(-1, 1)
    torch.testing.assert_close(video, expected, atol=1.01 / 255, rtol=0)  # but for the rounding to bytes
    loss = DenoisingLoss(prior, prior.schedule, loss=velocity_loss, seed=12345, departing=False)
    clip = replace(held.clip, video=prior.codec.encode(held.clip.video), given=encoded)
    with torch.no_grad():
        torch.testing.assert_close(held_out_loss(prior, prior, held), loss(clip, step=0, samples=held.indices.tolist()))


def test_the_papers_losses_are_of_latents_and_its_rates_its_own() -> None:
    prior = latent_prior()
    trainings = trainings_beside(prior, "paper")
    for name, training in trainings.items():
        if name == "controlnet-small":  # of three resolutions
            continue
        _, task = training.assembled(prior, 0, {"action_dim": 7})
        assert isinstance(task, ReadingLoss if name == "classifier" else DenoisingLoss)
        assert task.companions[-1] is prior.codec
        assert isinstance(task, ReadingLoss) or task.companions[:2] == (velocity_loss, None)
        assert (training.passes, training.rates) == (1, (2e-5 if name.startswith("finetune") else 1e-4,))


def test_a_prior_of_other_clips_is_refused(tmp_path: Path, folder: Path) -> None:
    tabletop.prior().save(tmp_path / "prior.safetensors")
    settings: dict[str, Any] = {"prior": str(tmp_path / "prior.safetensors"), "output": tmp_path / "run"}
    with pytest.raises(
        ValueError, match=r"predicts 15 of \(3, 320, 512\), .*; this one is given 1 and predicts 8 of \(3, 64"
    ):
        rt1_benchmark(folder, scale="paper", **settings)
    check_fits(tabletop.prior(), (64, 64), 8)
    check_fits(latent_prior(), (32, 64), 3)
    with pytest.raises(ValueError, match="no judge of actions at"):
        rt1_benchmark(folder, judge=tmp_path / "none", prior=settings["prior"], output=tmp_path / "other")
    JudgeFile(tmp_path / "wide").save(
        ActionJudge(7, 4, frame_size=16, crop=16, frames=(320, 512)), {"actions": VECTORS}
    )
    with pytest.raises(
        ValueError, match=r"off frames of \(320, 512\), not vectors of 7 numbers off frames of \(64, 64\)"
    ):
        rt1_benchmark(folder, judge=tmp_path / "wide", prior=settings["prior"], output=tmp_path / "third")


def test_the_papers_adapters_are_large_and_the_small_controlnet_is_as_large() -> None:
    prior = pixel_unet.load("tabletop", schedule=recipe.SCHEDULE)
    trainings = recipe.trainings_beside(prior, "paper")
    made = (
        trainings[name].build(prior, action_dim=7, **trainings[name].options) for name in ("avid", "controlnet-small")
    )
    adapter, controlnet = (sum(v.numel() for v in model.parameters() if v.requires_grad) for model in made)
    assert 30e6 < adapter < 40e6
    assert abs(controlnet / adapter - 1) < 0.03
