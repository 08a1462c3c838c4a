"""The layout that speed is compared with computes the same as the network."""

import sys
from pathlib import Path

import pytest
import torch

from trimtab.networks.avid_unet3d import AvidUNet3D

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import public_layout


@pytest.mark.usefixtures("exact_products")
def test_the_public_layout_answers_as_the_network() -> None:
    network = AvidUNet3D(in_channels=12, width=32, heads=2, head_dim=40, multiples=(1, 2, 2), mask=True)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.1)
    video, step, actions = torch.randn(2, 5, 12, 16, 16), torch.tensor([3, 150]), torch.randint(15, (2, 5))
    expected, expected_mask = network(video, step, actions)
    found, mask = public_layout.answer(network, video, step, actions)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(mask, expected_mask, rtol=1e-4, atol=1e-4)
