"""Recomputed blocks: the same answers and gradients, less memory."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trimtab.networks.avid_unet3d import AvidUNet3D
from trimtab.networks.memory import recompute
from trimtab.networks.unet3d import UNet3D

NETWORKS: dict[str, Any] = {
    "unet3d": lambda: UNet3D(in_channels=9, out_channels=3, num_actions=4, patch=1, widths=(32, 64), depths=(3, 3)),
    "avid_unet3d": lambda: AvidUNet3D(width=16, heads=2, head_dim=32, multiples=(1, 2), num_actions=4),
}


def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    network = NETWORKS[name]()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.05)
    return network


def step(network: nn.Module) -> tuple[Tensor, dict[str, Tensor], int]:
    """The answer, the gradients, and the bytes that were kept for them beyond the parameters."""
    kept: dict[int, int] = {}
    parameters = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}

    def keep(value: Tensor) -> Tensor:
        if value.untyped_storage().data_ptr() not in parameters:
            kept[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return value

    generator = torch.Generator().manual_seed(1)
    video, actions = torch.randn(2, 4, 9, 16, 16, generator=generator), torch.arange(8).reshape(2, 4) % 4
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        answer, _ = network(video, torch.tensor([0.3, 1.2]), actions)
        held = sum(kept.values())
    answer.square().mean().backward()
    return (
        answer.detach(),
        {name: value.grad for name, value in network.named_parameters() if value.grad is not None},
        held,
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_answers_and_gradients_stay_and_less_is_kept(name: str) -> None:
    plain, saving = built(name), built(name)
    recompute(saving)
    (answer, gradients, held), (same_answer, same_gradients, held_less) = step(plain), step(saving)
    assert torch.equal(answer, same_answer)
    assert gradients.keys() == same_gradients.keys()
    for key, value in gradients.items():
        torch.testing.assert_close(same_gradients[key], value, rtol=1e-3, atol=1e-5)
    assert held_less < 0.6 * held
    assert saving.state_dict().keys() == plain.state_dict().keys()
