"""Networks that torch compiles: in one piece, and to the same answers.

In a process of its own, as the checks of shapes that tests run with are nothing that torch can compile.
"""

import subprocess
import sys

import pytest

PAIR = """
import torch
from trimtab.adapters.avid import AVID
from trimtab.core.values import Conditioning
from trimtab.models import avid_unet, change_unet
from trimtab.networks import precision
from trimtab.networks.precision import compile_frozen
from trimtab.priors import pixel_unet

def check(model, compile_it, dtype=torch.float32, most=1e-5):
    precision.matrix_dtype = pixel_unet.matrix_dtype = lambda device_type: dtype
    torch.manual_seed(0)
    prior = pixel_unet.tiny()
    adapter = AVID(prior, model=model.__name__.split(".")[-1], num_actions=3, **model.TINY)
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    given = Conditioning(context=torch.rand(2, prior.num_context, *prior.frame_shape), actions=torch.tensor([[0], [2]]))
    noisy, level = torch.randn(2, 1, *prior.frame_shape), prior.schedule.level(torch.tensor([9, 30]))
    with torch.no_grad():
        expected = adapter(noisy, level, given).tensor
        for network in (prior.network, adapter.network):
            compile_it(network)
        error = (adapter(noisy, level, given).tensor - expected).norm() / expected.norm()
    assert error < most, error

"""


def run(lines: str) -> None:
    done = subprocess.run([sys.executable, "-c", PAIR + lines], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_networks_are_traced_in_one_piece() -> None:
    run("for model in (change_unet, avid_unet): check(model, lambda one: one.compile(backend='eager', fullgraph=True))")


@pytest.mark.slow  # half a minute each, and a C++ compiler
@pytest.mark.parametrize(("dtype", "most"), [("float32", 1e-5), ("bfloat16", 0.02)])
def test_a_compiled_network_answers_alike(dtype: str, most: float) -> None:
    run(f"check(change_unet, compile_frozen, torch.{dtype}, {most})")
