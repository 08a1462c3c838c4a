"""Where models are asked about held-out clips: on a GPU if there is one, and here on the CPU, with the same answers."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from trimtab.adapters.avid import AVID
from trimtab.adapters.classifier_guidance import ActionClassifier, ClassifierGuidance
from trimtab.adapters.composition import product_of_experts
from trimtab.adapters.from_scratch import FromScratch
from trimtab.core.contracts import Denoiser
from trimtab.core.values import Clip, Conditioning
from trimtab.diffusion import sampling
from trimtab.diffusion.losses import DenoisingLoss
from trimtab.priors import pixel_unet
from trimtab.priors.pixel_unet import PixelUNet
from trimtab.recipes import _held
from trimtab.recipes._held import Held, device, held_out_loss, modules_of, moved, sampler

SMALL: dict[str, Any] = {"widths": (32,), "depths": (1,), "patch": 1}


@pytest.fixture(scope="module")
def prior() -> PixelUNet:
    return pixel_unet.tiny()


@pytest.fixture(scope="module")
def held() -> Held:
    generator = torch.Generator().manual_seed(0)
    video, context = (torch.rand(3, time, 3, 16, 16, generator=generator) * 2 - 1 for time in (3, 2))
    actions = torch.zeros(3, 3, dtype=torch.long)
    clip = Clip(video, Conditioning(context=context, actions=actions))
    return Held(np.arange(3), clip, context, actions, torch.arange(3))


class OfNoModule:
    """Asks for no device, and says on which it is asked."""

    space, uses = "rgb frames in [-1, 1]", frozenset({"context"})

    def bind(self, given: Conditioning) -> Any:
        raise AssertionError(given)


def interrupted(denoiser: Denoiser) -> None:
    with moved(denoiser) as place:
        raise KeyboardInterrupt(f"on {place}")


def test_all_that_a_denoiser_is_made_of_is_found(prior: PixelUNet) -> None:
    avid, expert = (kind(prior, num_actions=3, **SMALL) for kind in (AVID, FromScratch))
    classifier = ActionClassifier(prior, num_actions=3, **SMALL)
    assert modules_of(prior) == [prior]
    assert modules_of(avid) == [avid]  # its prior goes with it
    assert modules_of(product_of_experts(prior, expert, 0.5)) == [prior, expert]
    assert modules_of(ClassifierGuidance(prior, classifier, 1.0)) == [prior, classifier]
    assert modules_of(product_of_experts(prior, product_of_experts(prior, expert, 0.5), 0.5)) == [prior, prior, expert]
    assert modules_of(OfNoModule()) == []


def test_a_denoiser_is_away_for_the_time_alone(prior: PixelUNet, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device that keeps no values, so moves are noted and not made."""
    elsewhere, home = torch.device("meta"), torch.device("cpu")
    expert, went = FromScratch(prior, num_actions=3, **SMALL), list[tuple[str, torch.device]]()
    for name, module in {"prior": prior, "expert": expert}.items():
        monkeypatch.setattr(module, "to", lambda place, name=name: went.append((name, place)), raising=False)
    product = product_of_experts(prior, expert, 0.5)
    with moved(product) as place:
        assert place == home
    assert went == []  # it is there
    monkeypatch.setattr(_held, "device", lambda: elsewhere)
    with pytest.raises(KeyboardInterrupt, match="on meta"):
        interrupted(product)
    assert went == [("prior", elsewhere), ("expert", elsewhere), ("prior", home), ("expert", home)]
    with moved(OfNoModule()) as place:
        assert place == home


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU answers otherwise in the last digits")
def test_without_a_gpu_the_answers_are_those_of_the_plain_calls(prior: PixelUNet, held: Held) -> None:
    assert device() == torch.device("cpu")
    noise = sampling.start_noise((3, *prior.frame_shape), 0, held.indices.tolist())
    steps = sampling.pairs(prior.schedule, 2)
    plain = sampling.dpm_solver_pp_2m(prior, noise, held.clip.given, pairs=steps, clamp=(-1.0, 1.0))
    assert torch.equal(sampler(prior, 2)(prior, noise, held.clip.given), plain)
    fewer = sampling.dpm_solver_pp_2m(prior, noise, held.clip.given, pairs=steps[1:], clamp=(-1.0, 1.0))
    assert torch.equal(sampler(prior, 2)(prior, noise, held.clip.given, pairs=steps[1:]), fewer)
    task = DenoisingLoss(prior, prior.schedule, seed=12345)
    with torch.no_grad():
        losses: Tensor = task(held.clip, step=0, samples=held.indices.tolist())
    assert torch.equal(held_out_loss(prior, prior, held), losses)
