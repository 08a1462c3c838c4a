"""The embedded prior: from disk and back, what it refuses, what it cannot know, and the one that ships."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from trimtab.adapters.controlnet import ControlNet
from trimtab.core.values import Clip, Conditioning, NoiseLevel, Video
from trimtab.data import samples
from trimtab.data.clips import Clips
from trimtab.diffusion.losses import DenoisingLoss
from trimtab.networks import storage
from trimtab.networks.precision import exact_products
from trimtab.priors import pixel_unet
from trimtab.priors.pixel_unet import SCHEDULES, SHIPPED, PixelUNet, PixelUNetSettings, load


def small(**options: Any) -> PixelUNet:
    """A trainable prior with nothing left at zero."""
    settings = {"sizes": {"widths": (32,), "depths": (1,)}, "num_frames": 3, "frame_shape": (3, 8, 8), **options}
    prior = PixelUNet(PixelUNetSettings(**settings))
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.normal_(std=0.1)
    return prior


def question(prior: PixelUNet, batch: int = 2, time: int = 3) -> tuple[Video, NoiseLevel, Tensor]:
    context = torch.rand(batch, prior.num_context, *prior.frame_shape) * 2 - 1
    level = prior.schedule.level(torch.linspace(0, prior.schedule.num_levels - 1, batch).long())
    return torch.randn(batch, time, *prior.frame_shape), level, context


# On disk


def test_latents_are_diffused_on_the_schedule_of_avids_experiment() -> None:
    """Square roots of betas from 0.00085 to 0.012, rescaled to zero terminal SNR, against diffusers."""
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", rescale_betas_zero_snr=True
    )
    ours = SCHEDULES["scaled linear, zero terminal SNR"](1000).alphas.square()
    torch.testing.assert_close(ours.float(), scheduler.alphas_cumprod, rtol=1e-4, atol=1e-5)


def test_a_saved_prior_comes_back_frozen_with_its_settings_and_fingerprint(tmp_path: Path) -> None:
    prior = small(frame_rate=7.0, num_context=1, schedule="sigmoid", num_levels=77)
    before = prior.fingerprint
    prior.save(tmp_path / "prior.safetensors")
    again = load(tmp_path / "prior.safetensors")
    assert again.settings == prior.settings
    assert (again.frame_rate, again.num_context, again.num_frames, again.frame_shape) == (7.0, 1, 3, (3, 8, 8))
    assert again.schedule.num_levels == 77
    assert not again.training
    assert not any(value.requires_grad for value in again.parameters())
    assert again.fingerprint == before
    assert load(str(tmp_path / "prior.safetensors")).fingerprint == before


def test_a_prior_can_be_loaded_with_another_schedule(tmp_path: Path) -> None:
    prior, pure = small(schedule="linear", num_levels=50), "linear, zero terminal SNR"
    prior.save(path := tmp_path / "prior.safetensors")
    other = load(path, schedule=pure)
    assert not load(path).schedule.may_be_pure
    assert other.schedule.may_be_pure
    assert other.settings == replace(prior.settings, schedule=pure)
    assert other.fingerprint != prior.fingerprint
    noisy, level, context = question(other)
    assert torch.isfinite(other.bind(Conditioning(context))(noisy, level).clean).all()
    with pytest.raises(ValueError, match="no schedule 'steep'; there are: cosine, sigmoid, linear, "):
        load(path, schedule="steep")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_fingerprint_is_the_same_in_every_number_format(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(pixel_unet, "matrix_dtype", lambda device: dtype)
    prior = small()
    before = prior.fingerprint
    frozen = prior.frozen()
    assert frozen is prior
    assert frozen.network.stem.weight.dtype == dtype
    assert frozen.network.place.weight.dtype == torch.float32
    assert frozen.fingerprint == before
    with torch.no_grad():
        frozen.network.stem.weight[0, 0, 0, 0] += 1
    assert frozen.fingerprint != before


def test_the_fingerprint_depends_on_the_settings() -> None:
    prior = small()
    before = prior.fingerprint
    prior.settings = PixelUNetSettings(**{**vars(prior.settings), "frame_rate": 0.4})
    assert prior.fingerprint != before


def test_a_loaded_prior_answers_as_the_trained_one_up_to_its_rounding(tmp_path: Path) -> None:
    torch.manual_seed(0)
    prior = small().eval()
    prior.save(tmp_path / "prior")
    noisy, level, context = question(prior)
    with torch.no_grad():
        trained = prior(noisy, level, Conditioning(context=context)).tensor
        loaded = load(tmp_path / "prior")(noisy, level, Conditioning(context=context)).tensor
        with exact_products():
            plain = load(tmp_path / "prior")(noisy, level, Conditioning(context=context)).tensor
    assert loaded.dtype == plain.dtype == torch.float32
    assert (loaded - trained).norm() < 0.02 * trained.norm()
    assert (plain - loaded).norm() < 0.03 * trained.norm()  # products of 8 bits, one after another


def test_an_unknown_name_is_answered_with_the_names_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("beta", "alpha"):
        small().save(tmp_path / f"{name}.safetensors")
    monkeypatch.setattr(pixel_unet, "SHIPPED", tmp_path)
    with pytest.raises(ValueError, match=r"no prior 'gamma': neither one that ships \(alpha, beta\) nor a file"):
        load("gamma")
    assert isinstance(load("alpha"), PixelUNet)
    with pytest.raises(ValueError, match="no prior"):
        load(tmp_path)


@pytest.mark.parametrize("damage", ["flip", "cut", "other"])
def test_a_damaged_file_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "prior"
    small().save(path)
    good = path.read_bytes()
    path.write_bytes({"flip": good[:-1] + bytes([good[-1] ^ 1]), "cut": good[:-1], "other": b"words"}[damage])
    with pytest.raises(ValueError, match=r"prior is (damaged|not a file of trimtab's)"):
        load(path)


def test_a_weights_file_of_something_else_is_refused(tmp_path: Path) -> None:
    storage.write(tmp_path / "adapter", {"a": torch.zeros(2)}, {"method": "AVID", "prior": "0123456789abcdef"})
    with pytest.raises(ValueError, match="holds something else than a pixel-unet prior"):
        load(tmp_path / "adapter")


# What it answers


def test_actions_never_change_the_answer() -> None:
    prior = small().frozen()
    noisy, level, context = question(prior)
    plain = prior.bind(Conditioning(context=context))(noisy, level).tensor
    for action in range(3):
        told = Conditioning(context=context, actions=torch.full((2, 3), action), state=torch.randn(2, 4))
        assert torch.equal(prior.bind(told)(noisy, level).tensor, plain)
    assert prior.uses == {"context"}


def test_an_untrained_prior_believes_that_the_last_frame_stays() -> None:
    sizes = {"widths": (32,), "depths": (1,)}
    prior = PixelUNet(PixelUNetSettings(sizes=sizes, num_frames=3, frame_shape=(3, 8, 8)))
    noisy, level, context = question(prior, batch=8)
    belief = prior.bind(Conditioning(context=context))(noisy, level)
    assert belief.kind == "velocity"
    last = context[:, -1:].expand_as(noisy)
    alpha, sigma = (value[:, None, None, None, None] for value in (level.alpha, level.sigma))
    trust = (alpha * 0.2) ** 2 / ((alpha * 0.2) ** 2 + sigma**2)  # in the noisy video, against the last frame
    torch.testing.assert_close(belief.clean, (1 - trust) * last + trust * noisy / alpha, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("time", [1, 2, 3])
def test_short_clips_are_answered(time: int) -> None:
    prior = small().frozen()
    noisy, level, context = question(prior, time=time)
    assert prior(noisy, level, Conditioning(context=context)).tensor.shape == (2, time, 3, 8, 8)


def test_clips_longer_than_it_was_built_for_are_refused() -> None:
    prior = small().frozen()
    noisy, level, context = question(prior, time=4)
    with pytest.raises(ValueError, match="1 to 3 frames, got 4"):
        prior(noisy, level, Conditioning(context=context))


@pytest.mark.usefixtures("without_shape_types")
@pytest.mark.parametrize(
    ("context", "message"),
    [
        (None, r"\(batch, \*\(2, 3, 8, 8\)\), got none"),
        (torch.zeros(2, 1, 3, 8, 8), r"\(batch, \*\(2, 3, 8, 8\)\), got \(2, 1, 3, 8, 8\)"),
        (torch.zeros(2, 2, 3, 8, 9), r"got \(2, 2, 3, 8, 9\)"),
        (torch.zeros(2, 3, 8, 8), r"got \(2, 3, 8, 8\)"),
        (torch.zeros(2, 2, 3, 8, 8, dtype=torch.uint8), "floats in .-1, 1., got torch.uint8; divide by 127.5"),
    ],
)
def test_a_context_of_another_shape_or_dtype_is_refused(context: Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small().bind(Conditioning(context=context))


@pytest.mark.usefixtures("without_shape_types")
def test_a_context_of_another_batch_is_refused() -> None:
    prior = small()
    noisy, level, context = question(prior)
    with pytest.raises(ValueError, match="must agree in batch"):
        prior(noisy, level, Conditioning(context=context[:1]))


@pytest.mark.usefixtures("without_shape_types")
@pytest.mark.parametrize("known", [[True, False], [True, True]])
def test_a_context_of_a_part_of_the_batch_is_refused_where_it_is_needed(known: list[bool]) -> None:
    given = Conditioning(context=torch.zeros(2, 2, 3, 8, 8), known={"context": torch.tensor(known)})
    with pytest.raises(ValueError, match=r"got none for a part of the batch; only one .* context_optional=True"):
        small().bind(given)


# Without context


def optional(**sizes: Any) -> PixelUNet:
    return small(sizes={"widths": (32,), "depths": (1,), "context_optional": True, **sizes}).frozen()


@settings(max_examples=15, deadline=None)
@for_all(st.lists(st.booleans(), min_size=3, max_size=3), st.booleans())
def test_a_forgotten_context_is_grey_and_the_others_are_seen(known: list[bool], told_text: bool) -> None:
    torch.manual_seed(0)
    prior = optional(text_dim=4)
    noisy, level, context = question(prior, batch=3)
    text = torch.randn(3, 2, 4) if told_text else None
    given = Conditioning(context=context, text=text).forget("context", ~torch.tensor(known))
    with torch.no_grad():
        found, told, untold, grey = (
            prior(noisy, level, some).tensor
            for some in (
                given,
                Conditioning(context=context, text=text),
                Conditioning(text=text),
                Conditioning(context=torch.zeros_like(context), text=text),
            )
        )
        moved = prior(noisy, level, replace(given, context=context.flip(0))).tensor
    assert torch.equal(untold, grey)
    for place, knows in enumerate(known):
        torch.testing.assert_close(found[place], (told if knows else untold)[place], rtol=1e-3, atol=1e-4)
        # In the middle the other contexts are the same when their order is turned.
        assert bool((moved[place] - found[place]).abs().max() > 1e-3) == (knows and place != 1)
    assert (told - untold).abs().amax((1, 2, 3, 4)).min() > 1e-3


def test_a_prior_that_needs_no_context_comes_back_as_one_and_its_controller_needs_none_either(tmp_path: Path) -> None:
    prior = optional()
    prior.save(tmp_path / "prior")
    again = load(tmp_path / "prior")
    assert again.fingerprint == prior.fingerprint
    noisy, level, context = question(prior)
    control = ControlNet(again, num_actions=3)
    for given in (Conditioning(), Conditioning(context=context).forget("context", torch.tensor([True, False]))):
        assert torch.equal(control(noisy, level, given).tensor, again(noisy, level, given).tensor)
    with pytest.raises(ValueError, match=r"got \(2, 1, 3, 8, 8\)"):
        prior.bind(Conditioning(context=torch.zeros(2, 1, 3, 8, 8)))


def test_a_prior_that_copies_comes_back_as_one_and_its_controller_does_without(tmp_path: Path) -> None:
    sizes = {"widths": (32,), "depths": (1,), "copies": True}
    prior = small(sizes=sizes)
    prior.save(tmp_path / "prior")
    again = load(tmp_path / "prior")
    assert again.settings.sizes["copies"]
    noisy, level, context = question(prior)
    control = ControlNet(again, num_actions=3)
    given = Conditioning(context)
    assert torch.equal(control(noisy, level, given).tensor, again(noisy, level, given).tensor)


def test_it_is_trained_on_clips_whose_context_is_forgotten() -> None:
    prior = PixelUNet(optional().settings)
    noisy, _, context = question(prior, batch=8)
    clip = Clip(noisy.clamp(-1, 1), Conditioning(context=context))
    told, some, untold = (
        DenoisingLoss(prior, prior.schedule, forgotten={"context": share})(clip, step=0, samples=range(8))
        for share in (0.0, 0.5, 1.0)
    )
    assert (torch.isclose(some, untold) | torch.isclose(some, told)).all()
    assert not torch.allclose(some, untold)
    assert not torch.allclose(some, told)


# Those that ship


@pytest.mark.parametrize("name", ["procgen", "tabletop"])
def test_a_shipped_prior_is_small_and_the_one_of_its_card(name: str) -> None:
    assert os.path.getsize(SHIPPED / f"{name}.safetensors") <= 15e6
    assert load(name).fingerprint == json.loads((SHIPPED / f"{name}.json").read_text())["fingerprint"]


def test_the_shipped_prior_is_whole_and_finite() -> None:
    path = SHIPPED / "procgen.safetensors"
    prior = load("procgen")
    assert (prior.num_context, prior.num_frames, prior.frame_shape, prior.frame_rate) == (2, 8, (3, 64, 64), 15.0)
    assert all(value.isfinite().all() for value in prior.parameters())
    json.dumps(storage.read(path)[1])
    noisy, level, context = question(prior, time=8)
    belief = prior(noisy, level, Conditioning(context=context))
    assert belief.tensor.isfinite().all()


def test_the_shipped_prior_knows_more_than_that_the_last_frame_drifts_on() -> None:
    """On real play of coinrun, which it never saw; an untrained prior knows that much and no more."""
    prior, clips = load("procgen"), Clips(samples.coinrun())
    indices = clips.evenly(32, per_level=8)
    clip = clips.batch(indices)
    with torch.no_grad():
        losses = [
            DenoisingLoss(model, prior.schedule)(clip, step=0, samples=indices.tolist()).mean()
            for model in (prior, PixelUNet())
        ]
    assert losses[0] < 0.8 * losses[1]
