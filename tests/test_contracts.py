"""The whole contract on every prior and every adapter, found by walking their folders; each builds itself by `tiny`."""

import importlib
import pkgutil
import sys
import typing
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import trimtab.adapters
import trimtab.models
import trimtab.priors
from tiny import dreambooth
from trimtab import checkpoints
from trimtab.adapters.avid import AVID
from trimtab.adapters.finetune import Finetune
from trimtab.adapters.from_scratch import FromScratch
from trimtab.core.contracts import Denoiser, OpenPrior, Prior
from trimtab.core.values import Clip, Conditioning, NoiseLevel, Prediction
from trimtab.diffusion.losses import DenoisingLoss, velocity_loss
from trimtab.priors import pixel_unet
from trimtab.priors.pixel_unet import PixelUNet, PixelUNetSettings


def modules(package: Any) -> Iterator[Any]:
    for found in pkgutil.iter_modules(package.__path__):
        yield importlib.import_module(f"{package.__name__}.{found.name}")


PRIORS = {module.__name__: module for module in modules(trimtab.priors)}
MODELS = {module.__name__.rpartition(".")[2]: module for module in modules(trimtab.models)}
ADAPTERS = {module.__name__: module for module in modules(trimtab.adapters)}


def tiny(module: Any, prior: Prior) -> Any:
    """Built by the module itself, or where it would need a sibling, by the file of its name in tests/tiny."""
    return builder(module)(prior)


def builder(module: Any) -> Any:
    own = getattr(module, "tiny", None)
    return own or importlib.import_module(f"tiny.{module.__name__.rpartition('.')[2]}").tiny


def priors_for(adapter: str) -> dict[str, Callable[[], Any]]:
    """All, by name; or the one beside `tiny` in the method's file in tests/tiny, where it asks more of its prior."""
    own = getattr(sys.modules[builder(ADAPTERS[adapter]).__module__], "prior", None)
    return {"pixel_unet": own} if own else {name.rpartition(".")[2]: builder(PRIORS[name]) for name in PRIORS}


def embedded(adapter: str) -> Any:
    """The embedded prior at toy size, as this adapter needs it."""
    return priors_for(adapter)["pixel_unet"]()


PAIRS = [
    pytest.param(adapter, make, id=f"{adapter.rpartition('.')[2]}-{prior}")
    for adapter in ADAPTERS
    for prior, make in priors_for(adapter).items()
    if isinstance(make(), OpenPrior) or typing.get_type_hints(builder(ADAPTERS[adapter]))["prior"] is not OpenPrior
]
"""Every adapter beside every prior; those that need weights beside the priors whose weights are within reach."""


TRAINED = [name for name, module in ADAPTERS.items() if isinstance(tiny(module, embedded(name)), nn.Module)]


def randomised(module: nn.Module) -> nn.Module:
    """Trained parts that start at zero hide mistakes; what is frozen in it is the prior's."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in (some for some in module.parameters() if some.requires_grad):
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def knowledge(prior: Prior, batch: int = 2, time: int | None = None) -> Conditioning:
    channels, height, width = prior.frame_shape
    generator = torch.Generator().manual_seed(2)
    context = torch.rand(batch, max(prior.num_context, 1), channels, height, width, generator=generator) * 2 - 1
    actions = torch.randint(3, (batch, time or prior.num_frames), generator=generator)
    text = torch.randn(batch, 4, 6, generator=generator) if "text" in prior.uses else None
    return Conditioning(context=context, actions=actions, text=text)


def noisy_like(prior: Prior, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(batch, prior.num_frames, *prior.frame_shape, generator=generator)


def middle(prior: Prior, batch: int = 2) -> NoiseLevel:
    return prior.schedule.level(torch.full((batch,), prior.schedule.num_levels // 2))


def other(facts: Conditioning, name: str) -> Conditioning:
    """The same knowledge with one fact changed."""
    value = facts.facts()[name]
    return replace(facts, **{name: (value + 1) % 3 if name == "actions" else -value})


def check_denoiser(denoiser: Denoiser, prior: Prior) -> None:
    """What every denoiser owes: shape, dtype, finiteness, an untouched input, honest `uses`, and determinism."""
    assert isinstance(denoiser, Denoiser)
    given, noisy, level = knowledge(prior), noisy_like(prior), middle(prior)
    before = noisy.clone()
    with torch.no_grad():
        first = denoiser.bind(given)(noisy, level)
        again = denoiser.bind(given)(noisy, level)
        assert isinstance(first, Prediction)
        assert first.tensor.shape == noisy.shape
        assert first.tensor.dtype == torch.float32
        assert torch.equal(noisy, before), "the input was changed in place"
        assert torch.equal(first.tensor, again.tensor), "the same question got two answers"
        for index in (0, prior.schedule.num_levels // 3, prior.schedule.num_levels - 1):
            at = prior.schedule.level(torch.full((2,), index))
            assert denoiser.bind(given)(noisy, at).tensor.isfinite().all(), f"not finite at level {index}"
        for name in given.facts():
            moved = denoiser.bind(other(given, name))(noisy, level).tensor
            differs = bool((moved - first.tensor).abs().max() > 1e-6)
            assert differs == (name in denoiser.uses), (
                f"uses says {sorted(denoiser.uses)}, but {name} decides: {differs}"
            )


def check_adapter(adapter: Any, prior: Prior) -> None:
    """What every adapter owes beyond that: it trains its own part alone, and its prior never changes."""
    check_denoiser(randomised(adapter), prior)
    own = {id(parameter) for parameter in adapter.parameters()}
    of_prior = {id(parameter) for parameter in prior.parameters()} if isinstance(prior, nn.Module) else set()
    assert own, "nothing to train"
    assert not own & of_prior, "the prior's weights are among the trained ones"
    was_training = isinstance(prior, nn.Module) and prior.training
    adapter.train()
    assert (isinstance(prior, nn.Module) and prior.training) == was_training, "the prior changed its mode"
    half_told = knowledge(prior).forget("actions", torch.tensor([True, False]))
    clip = Clip(torch.zeros(2, prior.num_frames, *prior.frame_shape), half_told)
    DenoisingLoss(adapter, prior.schedule, loss=velocity_loss)(clip, step=0, samples=[0, 1]).mean().backward()
    trained = {name: value for name, value in adapter.named_parameters() if value.requires_grad}
    missing = [name for name, value in trained.items() if value.grad is None or not value.grad.any()]
    assert not missing, f"no gradient reaches {missing}"
    if isinstance(prior, nn.Module):
        assert all(value.grad is None for value in prior.parameters()), "a gradient reached the prior"


@pytest.mark.parametrize("name", PRIORS)
def test_prior_keeps_the_contract(name: str) -> None:
    prior = builder(PRIORS[name])()
    assert isinstance(prior, Prior)
    check_denoiser(prior, prior)
    assert len(prior.fingerprint) >= 8
    assert prior.fingerprint == builder(PRIORS[name])().fingerprint
    latents = noisy_like(prior)
    frames = prior.codec.decode(latents).clamp(-1, 1)
    assert frames.shape[:1] + frames.shape[2:3] == (len(latents), 3)
    again = prior.codec.encode(frames)
    assert again.shape == latents.shape
    assert again.isfinite().all()
    if frames.shape == latents.shape:  # pixels
        torch.testing.assert_close(prior.codec.decode(again), frames, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("name", "make_prior"), PAIRS)
def test_adapter_keeps_the_contract(name: str, make_prior: Callable[[], Any]) -> None:
    prior = make_prior()
    adapter = tiny(ADAPTERS[name], prior)
    if isinstance(adapter, nn.Module):
        check_adapter(adapter, prior)
    else:  # it trains nothing
        for voice in adapter.voices:
            part = getattr(voice, "denoiser", voice)
            if isinstance(part, nn.Module) and part is not prior:
                randomised(part)
        check_denoiser(adapter, prior)


def made_of(model: str, adapter: Any, prior: Prior, **options: Any) -> Any:
    return adapter(prior, model=model, num_actions=3, **MODELS[model].TINY, **options)


@pytest.mark.parametrize("options", [{}, {"num_actions": 3}], ids=str)
@pytest.mark.parametrize("make_prior", [pixel_unet.tiny, dreambooth.prior], ids=["without text", "with text"])
def test_finetuning_of_what_mixes_frames_keeps_the_contract(
    make_prior: Callable[[], Any], options: dict[str, int]
) -> None:
    prior = make_prior()
    adapter = Finetune(prior, temporal=True, **options)
    assert adapter.uses == prior.uses | ({"actions"} if options else set())
    check_adapter(adapter, prior)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("switches", [{}, {"see_prior": False}, {"learn_mask": False}], ids=str)
def test_every_model_makes_an_adapter(model: str, switches: dict[str, bool]) -> None:
    prior = pixel_unet.tiny()
    check_adapter(made_of(model, AVID, prior, **switches), prior)


@pytest.mark.parametrize("model", MODELS)
def test_every_model_makes_a_baseline_and_a_prior(model: str, tmp_path: Path) -> None:
    settings = PixelUNetSettings(model, MODELS[model].TINY, num_frames=3, frame_shape=(3, 16, 16), num_levels=50)
    prior = PixelUNet(settings)
    randomised(prior)
    check_denoiser(prior.frozen(), prior)
    check_adapter(made_of(model, FromScratch, prior), prior)
    prior.save(tmp_path / "prior")
    assert pixel_unet.load(tmp_path / "prior").fingerprint == prior.fingerprint


@pytest.mark.parametrize("model", MODELS)
def test_every_models_mask_starts_at_its_bias_and_its_residual_at_nothing(model: str) -> None:
    prior = pixel_unet.tiny()
    given, noisy, level = knowledge(prior), noisy_like(prior), middle(prior)
    _, _, mask = made_of(model, AVID, prior, mask_bias=1.5).believe(given)(noisy, level)
    assert torch.allclose(mask, torch.sigmoid(torch.tensor(1.5)).expand_as(mask))
    added, _, _ = made_of(model, AVID, prior, learn_mask=False).believe(given)(noisy, level)
    assert torch.equal(added.tensor, prior.bind(given)(noisy, level).tensor)


def test_an_unknown_model_is_answered_with_the_names_there_are() -> None:
    with pytest.raises(ValueError, match="no model 'nonsense'; there are: avid_unet, change_unet"):
        AVID(pixel_unet.tiny(), model="nonsense", num_actions=3)


@pytest.mark.parametrize("name", TRAINED)
def test_adapter_comes_back_from_disk_without_its_prior(name: str, tmp_path: Path) -> None:
    prior = embedded(name)
    adapter = randomised(tiny(ADAPTERS[name], prior))
    checkpoints.save(tmp_path, adapter, prior)
    size = (tmp_path / checkpoints.WEIGHTS).stat().st_size
    assert size < 4 * sum(value.numel() for value in adapter.parameters()) + 100_000, (
        "more than the trained part was saved"
    )
    again = checkpoints.load(tmp_path, type(adapter), prior)
    given, noisy, level = knowledge(prior), noisy_like(prior), middle(prior)
    with torch.no_grad():
        assert torch.equal(again.bind(given)(noisy, level).tensor, adapter.bind(given)(noisy, level).tensor)


class Deaf(nn.Module):
    """A deliberately wrong adapter: says that it uses actions, and does not."""

    uses = frozenset({"context", "actions"})

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self.prior, self.space, self.scale = (prior,), prior.space, nn.Parameter(torch.ones(1))

    def bind(self, given: Conditioning) -> Any:
        believe = self.prior[0].bind(given.without("actions"))
        return lambda noisy, level: believe(noisy, level).like(believe(noisy, level).tensor * self.scale)


class Thief(Deaf):
    """Another: it trains the prior."""

    def __init__(self, prior: Any) -> None:
        super().__init__(prior)
        self.stolen = prior.requires_grad_(True)


class Scribbler(Deaf):
    """Another: it writes into its input."""

    uses = frozenset({"context"})

    def bind(self, given: Conditioning) -> Any:
        believe = super().bind(given)
        return lambda noisy, level: believe(noisy.mul_(0.5), level)


@pytest.mark.parametrize(
    ("wrong", "message"), [(Deaf, "uses says"), (Thief, "uses says|trained"), (Scribbler, "in place")]
)
def test_the_contract_finds_a_wrong_adapter(wrong: Any, message: str) -> None:
    prior = pixel_unet.tiny()
    with pytest.raises(AssertionError, match=message):
        check_adapter(wrong(prior), prior)
