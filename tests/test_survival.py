"""Training in processes of its own: killed at any moment, and shared by two; slow, since every process starts anew."""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from trimtab.networks import storage

SCRIPT = """
import sys
from contextlib import nullcontext
from pathlib import Path
import torch
from trimtab.adapters.avid import AVID
from trimtab.data import samples
from trimtab.data.clips import Clips
from trimtab.diffusion.losses import DenoisingLoss, change_loss
from trimtab.networks.precision import exact_products
from trimtab.priors.pixel_unet import PixelUNet, PixelUNetSettings
from trimtab.training import Budget, fit

torch.set_num_threads(1)
torch.manual_seed(0)
with exact_products() if "exact" in sys.argv else nullcontext():
    sizes = {"widths": (32, 32), "depths": (1, 1)}
    trained = prior = PixelUNet(PixelUNetSettings(sizes=sizes))
    if "adapter" in sys.argv:
        trained = AVID(prior.frozen(), num_actions=15, **sizes)
    fit(
        DenoisingLoss(trained, prior.schedule, loss=change_loss),
        Clips(samples.coinrun()),
        Budget(steps=int(sys.argv[2])),
        folder=Path(sys.argv[1]),
        batch_size=4,
        lengths=(1, 3),
        log_every=1,
        save_every_seconds=0.0,
        evaluate=lambda: {
            "weights": sum(float(value.sum()) for value in trained.parameters()),
            "processes": torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1,
        },
        evaluate_every=5,
        split="split" in sys.argv,
    )
"""

pytestmark = pytest.mark.slow


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "train.py"
    path.write_text(SCRIPT)
    return path


def environment(gpu: bool = False) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **({} if gpu else {"CUDA_VISIBLE_DEVICES": ""})}


def train(script: Path, folder: Path, steps: int, *launcher: str, how: Sequence[str] = (), gpu: bool = False) -> None:
    command = [sys.executable, *launcher, script, folder, str(steps), *how]
    subprocess.run(command, check=True, env=environment(gpu), timeout=600)
    logged = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["processes"] for line in logged if "processes" in line][-1] == (2 if launcher else 1)


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_run_killed_at_ten_random_moments_ends_as_if_nothing_had_happened(script: Path, tmp_path: Path) -> None:
    steps = 150
    train(script, tmp_path / "whole", steps)
    chance, kills, folder = random.Random(0), 0, tmp_path / "killed"
    log = folder / "log.jsonl"
    while kills < 10:
        before = log.read_bytes() if log.exists() else None
        process = subprocess.Popen([sys.executable, script, folder, str(steps)], env=environment())
        while process.poll() is None and (not log.exists() or log.read_bytes() == before):
            time.sleep(0.01)  # until it trains: the start itself is nothing to interrupt
        time.sleep(chance.uniform(0, 0.3))
        assert process.poll() is None, f"it was finished after {kills} kills; give it more steps"
        process.kill()
        process.wait()
        kills += 1
    train(script, folder, steps)
    whole, killed = (storage.read(tmp_path / name / "state.safetensors") for name in ("whole", "killed"))
    assert whole[1]["step"] == killed[1]["step"] == steps
    assert all(torch.equal(whole[0][name], killed[0][name]) for name in whole[0])
    assert whole[0].keys() == killed[0].keys()
    assert losses(tmp_path / "whole") == losses(folder)


TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
"""Starts two processes; accelerate's own launcher starts one where there is no GPU, whatever it is told."""


def same(one: Path, two: Path) -> None:
    """The same losses and the same state, but for the order of sums, which products in bfloat16 would round away."""
    (first, _), (second, _) = (storage.read(folder / "state.safetensors") for folder in (one, two))
    assert {name: value.shape for name, value in first.items()} == {name: value.shape for name, value in second.items()}
    assert losses(two) == pytest.approx(losses(one), rel=1e-3)
    for name, value in first.items():
        if name.startswith("average/"):
            torch.testing.assert_close(second[name], value, rtol=0, atol=2e-3)


def test_two_processes_train_as_one(script: Path, tmp_path: Path) -> None:
    train(script, tmp_path / "one", 20, how=["exact"])
    train(script, tmp_path / "two", 20, *TWO, how=["exact"])
    same(tmp_path / "one", tmp_path / "two")


def test_split_weights_train_as_whole_ones_and_their_state_is_the_same(script: Path, tmp_path: Path) -> None:
    """In one process, in two, and begun by two and gone on with by one that splits nothing."""
    train(script, tmp_path / "whole", 20, how=["exact"])
    train(script, tmp_path / "one", 20, how=["exact", "split"])
    train(script, tmp_path / "two", 20, *TWO, how=["exact", "split"])
    train(script, tmp_path / "mixed", 10, *TWO, how=["exact", "split"])
    train(script, tmp_path / "mixed", 20, how=["exact"])
    for name in ("one", "two"):
        same(tmp_path / "whole", tmp_path / name)
    assert losses(tmp_path / "mixed")[:10] == pytest.approx(losses(tmp_path / "whole")[:10], rel=1e-3)
    assert len(losses(tmp_path / "mixed")) == 20


def test_an_adapter_is_split_and_its_prior_is_not(script: Path, tmp_path: Path) -> None:
    train(script, tmp_path / "whole", 10, how=["exact", "adapter"])
    train(script, tmp_path / "two", 10, *TWO, how=["exact", "adapter", "split"])
    same(tmp_path / "whole", tmp_path / "two")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_trains_a_split_adapter_as_the_processor_does(script: Path, tmp_path: Path) -> None:
    train(script, tmp_path / "processor", 10, how=["adapter"])
    train(script, tmp_path / "gpu", 10, how=["adapter", "split"], gpu=True)
    assert losses(tmp_path / "gpu") == pytest.approx(losses(tmp_path / "processor"), rel=0.02)


def test_an_evaluation_amid_split_training_sees_whole_weights(script: Path, tmp_path: Path) -> None:
    train(script, tmp_path / "whole", 5)
    train(script, tmp_path / "two", 5, *TWO, how=["split"])
    sums = [json.loads((tmp_path / name / "log.jsonl").read_text().splitlines()[-1]) for name in ("whole", "two")]
    assert sums[1]["weights"] == pytest.approx(sums[0]["weights"], abs=0.1)
