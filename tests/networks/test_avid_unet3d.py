"""AVID's pixel network: its sizes to the unit, and its outputs for weights of the public code, recorded from that code."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from trimtab.adapters.avid import AVID
from trimtab.networks import attention
from trimtab.networks.avid_public import from_public
from trimtab.networks.avid_unet3d import AvidActionClassifier, AvidUNet3D
from trimtab.priors.pixel_unet import PixelUNet, PixelUNetSettings

RECORDED = load_file(Path(__file__).parent / "avid_public.safetensors")
"""Random weights of the public code's `Unet3D` and `Unet3DEncoder`, what they were given, and what they answered."""


def recorded(part: str) -> dict[str, Tensor]:
    return {name.removeprefix(part + "/"): value for name, value in RECORDED.items() if name.startswith(part + "/")}


pytestmark = pytest.mark.usefixtures("exact_products")


def small(**options: Any) -> AvidUNet3D:
    defaults: dict[str, Any] = {
        "in_channels": 12, "width": 8, "heads": 2, "head_dim": 40, "multiples": (1, 2), "num_actions": 5, "mask": True,
    }  # fmt: skip
    return AvidUNet3D(**{**defaults, **options})


def public_network() -> AvidUNet3D:
    network, weights = small(), recorded("unet/weights")
    weights["mixture_conv.weight"], weights["mixture_conv.bias"] = (
        torch.full((1, 1, 1, 1, 1), 0.5),
        torch.tensor([0.25]),
    )
    network.load_state_dict(from_public(weights))
    return network


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"width": 100, "heads": 8, "head_dim": 64}, 91_975_875),
        ({}, 22_660_047),
        ({"width": 90, "heads": 6}, 72_228_271),
        ({"in_channels": 12, "mask": True}, 22_667_448 + 2),  # the paper's count leaves out the mask's factor and shift
        ({"in_channels": 12}, 22_667_397),
        ({"mask": True}, 22_660_098 + 2),
        ({"in_channels": 12, "width": 90, "heads": 6, "mask": True}, 72_241_592 + 2),
        ({"in_channels": 12, "width": 90, "heads": 6}, 72_241_501),
        ({"width": 90, "heads": 6, "mask": True}, 72_228_362 + 2),
    ],
)
def test_the_papers_networks_have_its_number_of_parameters(options: dict[str, Any], expected: int) -> None:
    with torch.device("meta"):
        network = AvidUNet3D(**options)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


@pytest.mark.parametrize(("options", "expected"), [({}, 39_699_359), ({"width": 80, "heads": 8}, 59_747_471)])
def test_the_papers_classifiers_have_its_number_of_parameters(options: dict[str, Any], expected: int) -> None:
    with torch.device("meta"):
        classifier = AvidActionClassifier(**options)
    assert sum(parameter.numel() for parameter in classifier.parameters()) == expected


@pytest.mark.parametrize("told", [True, False])
def test_the_public_networks_weights_give_its_outputs(told: bool) -> None:
    network, given = public_network(), recorded("unet")
    channel_major = given["context"].flatten(1, 2)[:, None].expand(-1, 8, -1, -1, -1)
    seen = torch.cat([channel_major, given["noisy"].transpose(1, 2)], dim=2)
    with torch.no_grad():
        answer, mask = network(seen, given["step"], given["actions"] if told else None)
    expected = given["told" if told else "untold"].transpose(1, 2)
    assert expected.std() > 0.1
    torch.testing.assert_close(answer, expected[:, :, :3], rtol=0, atol=1e-5)
    torch.testing.assert_close(mask, 0.5 * expected[:, :, 3:] + 0.25, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("mask", "shape"), [(True, (1, 1)), (False, (3, 3))])
def test_what_the_diffusion_adds_to_the_public_network_finds_its_place(mask: bool, shape: tuple[int, int]) -> None:
    prior = PixelUNet(PixelUNetSettings(frame_shape=(3, 8, 8)))
    sizes = {"width": 8, "heads": 2, "head_dim": 40, "multiples": (1, 2)}
    adapter = AVID(prior, model="avid_unet", num_actions=5, learn_mask=mask, **sizes)
    own = adapter.network.state_dict()
    outside = {"mixture_conv.weight": torch.randn(*shape, 1, 1, 1), "mixture_conv.bias": torch.randn(shape[0])}
    adapter.network.load_state_dict(own | from_public(outside))
    place = adapter.network.mask if mask else adapter.network.added
    assert torch.equal(place.weight, outside["mixture_conv.weight"].squeeze(-1))
    assert torch.equal(place.bias, outside["mixture_conv.bias"])


def test_the_public_classifiers_weights_give_its_outputs() -> None:
    classifier = AvidActionClassifier(width=8, heads=2, head_dim=24, size=8, multiples=(1, 2), hidden=16, num_actions=5)
    given = recorded("classifier")
    classifier.load_state_dict(from_public(recorded("classifier/weights")))
    clip = torch.cat([given["context"], given["noisy"]], dim=2).transpose(1, 2)
    with torch.no_grad():
        logits = classifier(clip, 2, given["step"])
    assert given["logits"].std() > 0.1
    torch.testing.assert_close(logits, given["logits"], rtol=0, atol=1e-5)


def test_only_the_actions_that_are_known_count() -> None:
    network, given = public_network(), recorded("unet")
    seen = torch.randn(2, 8, 12, 8, 8)
    with torch.no_grad():
        told, untold = (network(seen, given["step"], actions)[0] for actions in (given["actions"], None))
        half = network(seen, given["step"], given["actions"], torch.tensor([True, False]))[0]
    assert not torch.allclose(told, untold, atol=1e-3)
    torch.testing.assert_close(half, torch.stack([told[0], untold[1]]), rtol=1e-4, atol=1e-5)


def test_the_untrained_mask_is_a_half_everywhere() -> None:
    _, logit = small()(torch.randn(1, 3, 12, 8, 8), torch.zeros(1))
    assert logit is not None
    assert torch.equal(logit, torch.zeros(1, 3, 1, 8, 8))


def test_frames_far_apart_share_a_bias() -> None:
    """Distances below 8 have a bucket each, farther ones share, and the two directions never do."""
    order = attention.FrameNumber(heads=1, head_dim=4)
    torch.nn.init.normal_(order.bias.weight)
    bias = order(40).bias[0].detach()
    near = [bias[0, key] for key in range(8)] + [bias[query, 0] for query in range(1, 8)]
    assert len({float(value) for value in near}) == 15
    assert bias[0, 32] == bias[0, 39]
    assert bias[0, 8] != bias[0, 31]
    assert bias[3, 9] == bias[10, 16]


def test_every_weight_learns() -> None:
    network = small()
    answer, mask = network(torch.randn(2, 3, 12, 8, 8), torch.tensor([0, 9]), torch.zeros(2, 3, dtype=torch.long))
    assert mask is not None
    (answer.square().mean() + (mask - 1).square().mean()).backward()
    unused = {"null_action", "frame_number.frequencies"}  # no sample without actions; constants
    for name, parameter in network.named_parameters():
        assert name in unused or (parameter.grad is not None and parameter.grad.isfinite().all()), name


@pytest.mark.usefixtures("without_shape_types")
def test_other_shapes_are_refused() -> None:
    network = small()
    with pytest.raises(ValueError, match="takes 12 channels and sides that divide by 2, got 9 channels of 8 x 8"):
        network(torch.zeros(1, 3, 9, 8, 8), torch.zeros(1))
    with pytest.raises(ValueError, match=r"actions must be \(1, 3\), one a frame; got \(1, 2\)"):
        network(torch.zeros(1, 3, 12, 8, 8), torch.zeros(1), torch.zeros(1, 2, dtype=torch.long))
    with pytest.raises(ValueError, match=r"actions are 0 \.\. 4, got 0 \.\. 5"):
        network(torch.zeros(1, 2, 12, 8, 8), torch.zeros(1), torch.tensor([[0, 5]]))
    classifier = AvidActionClassifier(width=8, heads=2, head_dim=24, size=8, multiples=(1, 2), hidden=16)
    with pytest.raises(ValueError, match="clips of more than 2 frames of 8 x 8, got 2"):
        classifier(torch.zeros(1, 2, 3, 8, 8), 2)
