"""Checkpoints: the trained part alone, whole, and beside its own prior or not at all."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from trimtab import checkpoints
from trimtab.adapters import avid, from_scratch
from trimtab.adapters.avid import AVID
from trimtab.adapters.from_scratch import FromScratch
from trimtab.networks import storage
from trimtab.priors import gaussian, pixel_unet


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    prior = pixel_unet.tiny()
    checkpoints.save(tmp_path / "run" / "avid", avid.tiny(prior), prior, facts={"steps": 7})
    return tmp_path / "run" / "avid"


def test_what_was_saved_comes_back_in_eval_mode(tmp_path: Path) -> None:
    prior = pixel_unet.tiny()
    before = avid.tiny(prior)
    checkpoints.save(tmp_path, before, prior)
    after = checkpoints.load(tmp_path, AVID, prior)
    assert isinstance(after, AVID)
    assert not after.training
    assert after.settings == before.settings
    assert after.prior is prior
    for (name, value), (other, again) in zip(before.state_dict().items(), after.state_dict().items(), strict=True):
        assert name == other
        assert value.dtype == again.dtype == torch.float32
        assert torch.equal(value, again), name


def test_settings_that_are_not_the_defaults_come_back(tmp_path: Path) -> None:
    prior = gaussian.tiny()
    built = AVID(
        prior, action_dim=5, learn_mask=False, see_prior=False, deviation=0.7, widths=(64, 32), depths=(1, 2), patch=2
    )
    checkpoints.save(tmp_path, built, prior)
    again = checkpoints.load(tmp_path, AVID, prior)
    assert (again.network.residual, again.network.sees_prior, again.network.deviation) == (True, False, 0.7)
    assert again.settings == built.settings
    assert [value.shape for value in again.parameters()] == [value.shape for value in built.parameters()]


def test_the_prior_is_not_in_the_file(saved: Path) -> None:
    prior = pixel_unet.tiny()
    weights, _ = storage.read(saved / checkpoints.WEIGHTS)
    assert set(weights) == set(avid.tiny(prior).state_dict())
    of_prior = {value.float().sum().item() for value in prior.state_dict().values() if value.numel() > 32}
    assert of_prior.isdisjoint({value.sum().item() for value in weights.values()})


def test_the_config_is_for_people_and_says_what_the_file_says(saved: Path) -> None:
    prior, config = pixel_unet.tiny(), json.loads((saved / checkpoints.CONFIG).read_text())
    assert config == storage.read(saved / checkpoints.WEIGHTS)[1]
    assert (config["method"], config["prior"], config["facts"]) == ("AVID", prior.fingerprint, {"steps": 7})
    assert config["settings"] == {
        "model": "change_unet", "num_actions": 3, "action_dim": None, "learn_mask": True, "see_prior": True,
        "mask_bias": 0.0, "deviation": 0.2,
        "widths": [32], "depths": [1], "patch": 1,
    }  # fmt: skip
    (saved / checkpoints.CONFIG).unlink()
    checkpoints.load(saved, AVID, prior)  # the weights file alone is enough


def test_another_prior_is_refused_and_both_are_named(saved: Path) -> None:
    own, other = pixel_unet.tiny(), pixel_unet.tiny()
    nn.init.constant_(other.network.place.weight, 0.5)
    assert own.fingerprint != other.fingerprint
    with pytest.raises(ValueError, match="trained beside the prior") as refusal:
        checkpoints.load(saved, AVID, other)
    assert own.fingerprint in str(refusal.value)
    assert other.fingerprint in str(refusal.value)
    assert str(saved) in str(refusal.value)


def test_a_prior_of_the_same_weights_and_another_clip_length_is_another_prior(saved: Path) -> None:
    other = pixel_unet.tiny()
    other.settings = pixel_unet.PixelUNetSettings(**{**vars(other.settings), "frame_rate": 0.3})
    with pytest.raises(ValueError, match="trained beside the prior"):
        checkpoints.load(saved, AVID, other)


def test_another_method_is_refused(saved: Path, tmp_path: Path) -> None:
    prior = pixel_unet.tiny()
    with pytest.raises(ValueError, match="holds a AVID adapter, not FromScratch"):
        checkpoints.load(saved, FromScratch, prior)
    checkpoints.save(tmp_path / "scratch", from_scratch.tiny(prior), prior)
    with pytest.raises(ValueError, match="holds a FromScratch adapter, not AVID"):
        checkpoints.load(tmp_path / "scratch", AVID, prior)


def test_a_file_that_is_no_adapter_is_refused(saved: Path) -> None:
    prior = pixel_unet.tiny()
    prior.save(saved / checkpoints.WEIGHTS)
    with pytest.raises(ValueError, match="holds a None adapter, not AVID"):
        checkpoints.load(saved, AVID, prior)


@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.999])
def test_damage_is_found(saved: Path, part: float) -> None:
    path, prior = saved / checkpoints.WEIGHTS, pixel_unet.tiny()
    good = path.read_bytes()
    place = int(part * len(good))
    path.write_bytes(good[:place] + bytes([good[place] ^ 4]) + good[place + 1 :])
    with pytest.raises(ValueError, match=r"adapter.safetensors is (damaged|not a file of trimtab's)"):
        checkpoints.load(saved, AVID, prior)
    path.write_bytes(good[:place])
    with pytest.raises(ValueError, match="cut short"):
        checkpoints.load(saved, AVID, prior)


@pytest.mark.parametrize("missing", ["file", "folder"])
def test_a_missing_checkpoint_is_named(saved: Path, missing: str) -> None:
    if missing == "file":
        (saved / checkpoints.WEIGHTS).unlink()
    else:
        shutil.rmtree(saved)
    with pytest.raises(ValueError, match=r"no checkpoint in .*avid: adapter.safetensors is missing"):
        checkpoints.load(saved, AVID, pixel_unet.tiny())


def test_a_second_save_replaces_the_first(saved: Path) -> None:
    prior = pixel_unet.tiny()
    later = avid.tiny(prior)
    nn.init.ones_(later.network.place.weight)
    checkpoints.save(saved, later, prior, facts={"steps": 9})
    assert checkpoints.load(saved, AVID, prior).network.place.weight.eq(1).all()
    assert json.loads((saved / checkpoints.CONFIG).read_text())["facts"] == {"steps": 9}
    assert sorted(file.name for file in saved.iterdir()) == [checkpoints.WEIGHTS, checkpoints.CONFIG]


def test_a_model_from_scratch_goes_with_every_prior_of_the_same_clips(tmp_path: Path) -> None:
    own, other = pixel_unet.tiny(), pixel_unet.tiny()
    nn.init.constant_(other.network.place.weight, 0.5)
    model = from_scratch.tiny(own)
    checkpoints.save(tmp_path, model, own)
    again = checkpoints.load(tmp_path, FromScratch, other)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    config = {"method": "FromScratch", "prior": own.fingerprint, "settings": model.settings}
    storage.write(tmp_path / "bound" / checkpoints.WEIGHTS, model.state_dict(), config)  # as they were bound once
    checkpoints.load(tmp_path / "bound", FromScratch, own)
    with pytest.raises(ValueError, match="trained beside the prior"):
        checkpoints.load(tmp_path / "bound", FromScratch, other)
    for difference in ({"num_levels": 77}, {"num_frames": 5}, {"schedule": "linear, zero terminal SNR"}):
        unlike = pixel_unet.PixelUNet(replace(own.settings, **difference))
        with pytest.raises(ValueError, match="trained beside the prior any of clips"):
            checkpoints.load(tmp_path, FromScratch, unlike)


def test_facts_of_a_training_are_told_and_must_be_as_asked(tmp_path: Path) -> None:
    prior = pixel_unet.tiny()
    assert checkpoints.facts_of(tmp_path / "none", learning_rate=1.0) is None
    facts = {"steps": 9, "optimizer": "muon", "learning_rate": 0.004}
    checkpoints.save(tmp_path, FromScratch(prior, num_actions=3), prior, facts=facts)
    assert checkpoints.facts_of(tmp_path, optimizer="muon", learning_rate=0.004) == facts
    with pytest.raises(ValueError, match=r"with optimizer muon, not adamw, words None, not abc; move it away"):
        checkpoints.facts_of(tmp_path, optimizer="adamw", learning_rate=0.004, words="abc")
