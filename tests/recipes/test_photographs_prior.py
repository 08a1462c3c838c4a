"""The prior of photographs from end to end at toy size: films are recorded once, and training goes on where it stopped."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from trimtab import forecast
from trimtab.data.clips import Clips
from trimtab.environments.photographs import EPISODE_FRAMES, Photographs
from trimtab.networks import storage
from trimtab.priors import pixel_unet
from trimtab.priors.pixel_unet import PixelUNet, PixelUNetSettings
from trimtab.recipes import photographs_prior as recipe
from trimtab.recipes.photographs_prior import photographs_episodes, photographs_prior

SMALL = PixelUNetSettings(sizes={"widths": (32, 32, 32), "depths": (1, 1, 1)})


def test_films_are_recorded_level_by_level_and_reused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "sets" / "films"
    episodes = photographs_episodes(first_level=5, num_levels=3, folder=folder)
    assert episodes.levels.tolist() == [5, 6, 7]
    assert episodes.lengths.tolist() == [EPISODE_FRAMES] * 3
    assert episodes.ended.all()
    assert episodes.action_names == ("watch",)
    assert np.array_equal(episodes.frames[EPISODE_FRAMES], Photographs(1, first_level=6).observe()[0][0])
    assert Clips(episodes).frame_rate == SMALL.frame_rate
    assert photographs_episodes(first_level=5, num_levels=3, folder=folder).provenance == episodes.provenance
    assert "reusing" in capsys.readouterr().out
    with pytest.raises(ValueError, match="num_levels 3, not 4"):
        photographs_episodes(first_level=5, num_levels=4, folder=folder)


def test_training_goes_on_and_leaves_a_prior(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(recipe, "PixelUNet", partial(PixelUNet, SMALL))
    monkeypatch.setattr(forecast, "TRIED", 1)
    run = partial(photographs_prior, batch_size=2, num_levels=2, data=tmp_path / "films", output=tmp_path / "run")
    path = tmp_path / "run" / "prior.safetensors"

    def steps() -> int:
        return storage.read(tmp_path / "run" / "state.safetensors")[1]["step"]

    run(minutes=1.0, dry_run=True)
    assert "will need" in capsys.readouterr().out
    assert not path.exists()
    run(minutes=0.01)
    first, done = pixel_unet.load(path), steps()
    assert first.settings == SMALL
    assert done >= 1
    assert f"procgen-benchmark--prior{path}" in "".join(capsys.readouterr().out.split())  # lines are wrapped anywhere
    run(minutes=0.03)
    assert steps() > done
    assert pixel_unet.load(path).fingerprint != first.fingerprint
    with pytest.raises(ValueError, match="batch_size 2, not 3"):
        run(minutes=0.03, batch_size=3)
    settings = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert settings["command"] == "photographs-prior"


def test_it_can_start_from_another_prior(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "PixelUNet", partial(PixelUNet, SMALL))
    other = PixelUNet(SMALL)
    torch.nn.init.normal_(other.network.answer.bias, std=0.1)
    other.save(tmp_path / "other.safetensors")
    options = {"batch_size": 1, "num_levels": 1, "data": tmp_path / "films", "output": tmp_path / "run"}
    photographs_prior(minutes=1e-6, learning_rate=0.0, initial=str(tmp_path / "other.safetensors"), **options)
    assert pixel_unet.load(tmp_path / "run" / "prior.safetensors").fingerprint == other.fingerprint
