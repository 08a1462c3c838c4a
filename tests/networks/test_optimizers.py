"""AdamW and Muon: against torch's AdamW, singular value decompositions, and an update written by hand."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from trimtab.core.values import Clip, Conditioning
from trimtab.networks import storage
from trimtab.networks.optimizers import BETAS, MOMENTUM, Muon, optimizer_of, orthogonal
from trimtab.training import Budget, fit

pytestmark = pytest.mark.usefixtures("exact_products")


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 1000), st.floats(1e-3, 1e3))
def test_an_orthogonal_matrix_keeps_the_singular_vectors(rows: int, columns: int, seed: int, size: float) -> None:
    matrix = size * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    found = left.mT @ orthogonal(matrix) @ right.mT
    apart = found - torch.diag(found.diagonal())
    assert apart.abs().max() < 2e-2
    large = values > 0.1 * values.norm()
    assert ((found.diagonal() > 0.6) & (found.diagonal() < 1.3))[large].all()
    assert (found.diagonal() > 0).all()


def test_what_is_no_matrix_goes_by_adamw() -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Linear(4, 4), nn.Linear(4, 4)
    theirs.load_state_dict(ours.state_dict())
    muon = optimizer_of("muon", ours, dict(ours.named_parameters()), 0.1, 0.3)
    adamw = torch.optim.AdamW(theirs.parameters(), 0.1, betas=BETAS, weight_decay=0.3)
    for step in range(4):
        for model, optimizer in ((ours, muon), (theirs, adamw)):
            optimizer.zero_grad()
            model(torch.arange(4.0) + step).square().sum().backward()
            optimizer.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("weight", [torch.randn(32, 64), torch.randn(48, 32, 3, 1)])
def test_a_matrix_follows_the_update_written_by_hand(weight: Tensor) -> None:
    value, momentum, rate, decay = nn.Parameter(weight.clone()), torch.zeros_like(weight), 0.02, 0.1
    muon = Muon([value], [], rate, decay)
    expected = weight.clone()
    for step in range(3):
        value.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(step))
        momentum = MOMENTUM * momentum + (1 - MOMENTUM) * value.grad
        aim = (1 - MOMENTUM) * value.grad + MOMENTUM * momentum
        update = orthogonal(aim.flatten(1)).reshape(weight.shape) * 0.2 * math.sqrt(max(len(weight), weight[0].numel()))
        expected = expected * (1 - rate * decay) - rate * update
        muon.step()
        torch.testing.assert_close(value.detach(), expected, rtol=1e-5, atol=1e-6)
        assert update.square().mean().sqrt() == pytest.approx(0.2, rel=0.25)


def test_matrices_are_the_large_weights_of_linear_maps() -> None:
    model = nn.ModuleDict(
        {
            "embedding": nn.Embedding(64, 64),
            "large": nn.Linear(64, 64),
            "small": nn.Linear(64, 8),
            "conv": nn.Conv2d(32, 32, 3),
            "thin": nn.Conv2d(2, 64, 3),
        }
    )
    trained = {name: value for name, value in model.named_parameters() if not name.startswith("conv.bias")}
    muon = optimizer_of("muon", model, trained, 0.1, 0.0)
    matrices, others = (
        {name for name, value in trained.items() for some in group["params"] if some is value}
        for group in muon.param_groups
    )
    assert matrices == {"large.weight", "conv.weight"}
    assert matrices | others == trained.keys()


def test_weights_without_a_gradient_stay() -> None:
    value = nn.Parameter(torch.randn(32, 32))
    before = value.detach().clone()
    Muon([value], [], 0.1, 0.1).step()
    assert torch.equal(value, before)


class Source:
    def draw(self, seed: int, step: int, num: int) -> np.ndarray:
        return np.random.default_rng([seed, step]).integers(100, size=num)

    def batch(self, indices: np.ndarray, num_frames: int | None = None) -> Clip:
        video = torch.stack(
            [torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(int(number))) for number in indices]
        )
        return Clip(2 * video - 1, Conditioning(context=2 * video[:, :1] - 1))


class Guess(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(48, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 48))

    def forward(self, clip: Clip, *, step: int, samples: Tensor) -> Tensor:
        known = clip.given.facts()["context"].flatten(1)
        return (self.layers(known) - clip.video[:, 1].flatten(1)).square().mean(1)


def run(folder: Path, steps: int, kind: str = "muon", **options: bool) -> dict[str, Tensor]:
    fit(
        Guess(), Source(), Budget(steps=steps), folder=folder, batch_size=4, warm_up=2, cool_down=0.0,
        optimizer=kind, **options,
    )  # fmt: skip
    return storage.read(folder / "state.safetensors")[0]


def test_a_run_by_muon_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", 8)
    run(tmp_path / "pieces", 5)
    pieces = run(tmp_path / "pieces", 8)
    assert any(name.startswith("momentum/") for name in whole)
    assert whole.keys() == pieces.keys()
    assert all(torch.equal(whole[name], pieces[name]) for name in whole)


def test_another_optimizer_does_not_go_on_with_a_run(tmp_path: Path) -> None:
    run(tmp_path, 2)
    with pytest.raises(ValueError, match="is the state of a run by Muon, not AdamW"):
        run(tmp_path, 4, "adamw")


def test_split_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="muon needs them whole"):
        run(tmp_path, 2, split=True)
