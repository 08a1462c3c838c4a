"""The demo from end to end at toy size, on real Procgen: what it leaves behind, and that it goes on from there."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from trimtab import checkpoints
from trimtab.metrics.evaluation import REAL, REPEAT_LAST_FRAME
from trimtab.networks import storage
from trimtab.priors import pixel_unet
from trimtab.priors.pixel_unet import PixelUNet, PixelUNetSettings
from trimtab.recipes import catch_up as longer
from trimtab.recipes import demo as recipe
from trimtab.recipes.demo import METHODS, NAMES, demo
from trimtab.recipes.domains import coinrun
from trimtab.recipes.few_steps import SAMPLERS, few_steps

NUM_CLIPS = 4


@dataclass(frozen=True)
class Finished:
    """A demo that has run once, and what it takes to run it again."""

    settings: dict[str, Any]
    output: Path

    def again(self, **changes: Any) -> None:
        demo(**{**self.settings, **changes})

    def steps(self) -> dict[str, int]:
        return {name: storage.read(self.output / name / "state.safetensors")[1]["step"] for name in METHODS}

    def results(self) -> dict[str, Any]:
        return json.loads((self.output / "results.json").read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One run of a few training steps; the held-out set is recorded shorter, since most of the time would go there."""
    folder, record = tmp_path_factory.mktemp("demo"), coinrun.procgen_episodes

    def shorter(**request: Any) -> Any:
        return record(**{**request, "num_frames": min(request["num_frames"], 1000)})

    torch.manual_seed(0)
    prior = PixelUNet(PixelUNetSettings(sizes={"widths": (32, 32, 32), "depths": (1, 1, 1)}))
    torch.nn.init.normal_(prior.network.answer.bias, std=0.1)  # or it believes what an untrained adapter does
    prior.save(folder / "prior.safetensors")
    run = Finished(
        {
            "seconds": 1.0,
            "num_clips": NUM_CLIPS,
            "num_frames": 1000,
            "num_steps": 2,
            "batch_size": 4,
            "prior": str(folder / "prior.safetensors"),
            "datasets": folder / "datasets",
            "output": folder / "run",
        },
        folder / "run",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coinrun, "procgen_episodes", shorter)
        run.again()
        yield run


def test_the_report_stands_alone_and_names_every_method(finished: Finished) -> None:
    page = (finished.output / "report.html").read_text()
    for name in (*NAMES.values(), REPEAT_LAST_FRAME, REAL):
        assert name in page
    assert page.count("data:image/") >= 4
    assert "src=http" not in page.replace('"', "")
    assert page.rstrip().endswith("</html>")


def test_the_results_come_with_their_protocol(finished: Finished) -> None:
    results = finished.results()
    protocol = results["protocol"]
    assert (protocol["num_clips"], protocol["num_levels"]) == (NUM_CLIPS, NUM_CLIPS)
    assert (protocol["num_context"], protocol["num_predicted"]) == (2, 8)
    assert protocol["reference"] == NAMES["avid"]
    assert protocol["notes"]["prior"] == pixel_unet.load(finished.settings["prior"]).fingerprint
    assert protocol["judge"]["game"] == "coinrun"
    assert {"PSNR", "SSIM", "LPIPS", "action accuracy (effects)"} <= set(protocol["metrics"])
    measured = {(figure["method"], figure["metric"]) for figure in results["figures"]}
    for name in (*NAMES.values(), REPEAT_LAST_FRAME):
        assert {(name, metric) for metric in protocol["metrics"]} <= measured


@pytest.mark.parametrize("name", METHODS)
def test_the_checkpoints_load_beside_the_prior(finished: Finished, name: str) -> None:
    prior = pixel_unet.load(finished.settings["prior"])
    model = checkpoints.load(finished.output / name, METHODS[name], prior)
    average = storage.read(finished.output / name / "state.safetensors")[0]
    for key, value in model.state_dict().items():
        assert torch.equal(value, average[f"average/denoiser.{key}"]), key
    config = json.loads((finished.output / name / checkpoints.CONFIG).read_text())
    assert config["facts"]["steps"] == finished.steps()[name] >= 1


def test_both_models_have_one_network_apart_from_mask_and_view(finished: Finished) -> None:
    prior = pixel_unet.load(finished.settings["prior"])
    shapes = [
        {name: value.shape for name, value in recipe.build(method, prior, 2.0).network.named_parameters()}
        for method in ("avid", "scratch")
    ]
    differing = {name for name in shapes[0] if shapes[0][name] != shapes[1].get(name)}
    assert differing == {"mask.weight", "mask.bias", "stem.weight"}
    assert shapes[1].keys() <= shapes[0].keys()


def test_samples_are_frames_of_every_model_and_a_mask(finished: Finished) -> None:
    samples, _ = storage.read(finished.output / "samples.safetensors")
    assert set(samples) == {*NAMES, "mask"}
    for name in NAMES:
        assert samples[name].shape == (NUM_CLIPS, 8, 3, 64, 64)
        assert samples[name].dtype == torch.uint8
    assert samples["mask"].shape == (NUM_CLIPS, 8, 1, 64, 64)
    assert 0 < samples["mask"].min() < samples["mask"].max() < 1


def test_a_second_run_reuses_everything_and_gives_the_same_numbers(
    finished: Finished, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps, results = finished.steps(), finished.results()
    kept = {path: path.stat().st_mtime_ns for path in finished.settings["datasets"].rglob("*.parquet")}
    assert kept

    def refuse(*arguments: Any) -> Any:
        raise AssertionError("sampled again")

    monkeypatch.setattr(recipe, "sampler", lambda *arguments: refuse)
    finished.again()
    assert finished.steps() == steps
    assert finished.results() == results
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert "reusing" in capsys.readouterr().out


def test_other_settings_in_the_same_folder_are_refused(finished: Finished) -> None:
    before = finished.results()
    with pytest.raises(ValueError, match=r"holds a run with other settings \(num_steps 2, not 3\)"):
        finished.again(num_steps=3)
    assert finished.results() == before


@pytest.mark.parametrize("reached", [True, False])
def test_a_longer_run_says_when_it_reaches_avid(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reached: bool
) -> None:
    """It goes on from the demo's run, multiple by multiple, until its loss is that of the demo's AVID."""
    losses = iter([1e-6, 0.7, 0.6, 1e-6 if reached else 0.6, 0.55])  # the curve's own are far above the first
    monkeypatch.setattr(longer, "held_out_loss", lambda *arguments: torch.tensor([next(losses)]))
    record, steps = tmp_path / "catch_up.json", finished.steps()["scratch"]
    longer.catch_up(
        times=3.5,
        demo=finished.output,
        output=tmp_path / "run",
        datasets=finished.settings["datasets"],
        record=record,
    )
    facts = json.loads(record.read_text())
    assert facts == json.loads((tmp_path / "run" / "catch_up.json").read_text())
    assert facts["goal"] == pytest.approx(1e-6)
    assert facts["demo_steps"] == steps
    done = storage.read(tmp_path / "run" / "state.safetensors")[1]["step"]
    if reached:
        assert facts["reached_at_times"] == 3
        assert done == 3 * steps
        assert "after 3.0 times the steps" in facts["sentence"]
    else:
        assert facts["reached_at_times"] is None
        assert done == round(3.5 * steps)
        assert "did not reach the loss of AVID (0.0000) within 3.5 times" in facts["sentence"]


def test_few_steps_are_held_against_many(finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On its clips the demo's sampler, at its number of steps, gives the demo's own videos and so its own figures."""
    monkeypatch.setattr("trimtab.recipes.few_steps.validation", coinrun.held_out)
    few_steps(
        steps=(1, 2),
        num_clips=NUM_CLIPS,
        adapter=finished.output / "avid",
        prior=finished.settings["prior"],
        datasets=finished.settings["datasets"],
        output=tmp_path,
    )
    found, of_demo = (
        {(row["method"], row["metric"]): row["overall"]["mean"] for row in results["figures"]}
        for results in (json.loads((tmp_path / "few_steps.json").read_text()), finished.results())
    )
    for metric in ("LPIPS", "PSNR", "sharpness"):
        assert found["DPM-Solver++ 2M, 2", metric] == pytest.approx(of_demo[NAMES["avid"], metric], rel=1e-3)
        first = {found[f"{name}, 1", metric] for name in SAMPLERS}
        assert max(first) - min(first) < 1e-3 * max(first), (
            "one step to a clean video is the belief, whatever the sampler"
        )
    assert (tmp_path / "few_steps.png").read_bytes().startswith(b"\x89PNG")
