"""EfficientNet-Lite0 gives what its original gives, and reading its file runs nothing.

The numbers were measured once against the package efficientnet-lite-pytorch 0.1.0: largest difference of features 2e-5, at
64, 97, 100, 128 and 224 pixels.
"""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import skimage
import torch
from PIL import Image
from torch import Tensor

from trimtab.networks import efficientnet
from trimtab.networks.efficientnet import STAGES, WEIGHTS, EfficientNetLite0, SameConvolution

TRAINED = EfficientNetLite0.pretrained()


def photograph(name: str, size: int) -> Tensor:
    """The middle of a photograph that scikit-image carries, (1, 3, size, size) in [-1, 1]."""
    whole = Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB")
    side = min(whole.size)
    left, top = (whole.width - side) // 2, (whole.height - side) // 2
    cut = whole.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(cut)).permute(2, 0, 1)[None].float() / 127.5 - 1


def test_requirements_name_the_pinned_version() -> None:
    requirements = Path(__file__).parents[2].joinpath("requirements-weights.txt").read_text().splitlines()
    assert f"{WEIGHTS.package}=={WEIGHTS.version}" in requirements


def test_it_is_frozen_and_of_the_published_size() -> None:
    assert sum(value.numel() for value in TRAINED.parameters()) == 4_652_008
    assert not TRAINED.training
    assert not any(value.requires_grad for value in TRAINED.parameters())


@pytest.mark.parametrize(
    ("name", "size", "norm"),
    [
        ("chelsea.png", 224, 15.361467),
        ("coffee.png", 224, 13.557659),
        ("chelsea.png", 64, 69.464569),
        ("coffee.png", 64, 81.643715),
        ("astronaut.png", 97, 29.248366),  # odd, so that the padding is not the same everywhere
    ],
)
def test_features_are_those_of_the_original(name: str, size: int, norm: float) -> None:
    features = TRAINED(photograph(name, size))
    assert features.shape == (1, 1280)
    assert float(features.norm()) == pytest.approx(norm, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "classes"),
    [("chelsea.png", {281, 282, 285}), ("coffee.png", {967, 968})],  # tabby, tiger cat, Egyptian cat; espresso, cup
)
def test_it_knows_a_cat_and_a_cup(name: str, classes: set[int]) -> None:
    best = TRAINED.classify(photograph(name, 224))[0].topk(len(classes)).indices
    assert set(best.tolist()) == classes


def test_maps_have_the_documented_sizes() -> None:
    sides = (2, 4, 8, 16, 16, 32, 32)
    for number, ((*_, channels, _), side) in enumerate(zip(STAGES, sides, strict=True), start=1):
        assert TRAINED.maps(torch.zeros(2, 3, 64, 32), number).shape == (2, channels, 64 // side, 32 // side)
    for number in (0, 8):
        with pytest.raises(ValueError, match=f"num_stages is 1 to 7, not {number}"):
            TRAINED.maps(torch.zeros(1, 3, 32, 32), number)


@pytest.mark.parametrize(("kernel", "side", "first"), [(3, 8, 0), (3, 7, -1), (5, 8, -1), (5, 7, -2)])
def test_padding_is_that_of_tensorflow(kernel: int, side: int, first: int) -> None:
    layer = SameConvolution(1, 1, kernel, 2, bias=False)
    torch.nn.init.zeros_(layer.weight)
    with torch.no_grad():
        layer.weight[0, 0, 0, 0] = 1  # each answer is the upper left corner of what it looks at
        numbers = torch.arange(1.0, 1 + side * side).reshape(1, 1, side, side)
        found = layer(numbers)[0, 0]
    assert found.shape == (-(-side // 2),) * 2
    expected = [
        [numbers[0, 0, y, x] if min(x, y) >= 0 else 0.0 for x in (first, first + 2)] for y in (first, first + 2)
    ]
    torch.testing.assert_close(found[:2, :2], torch.tensor(expected))


class Harmful:
    def __reduce__(self) -> tuple:
        return print, ("this must never run",)


def test_code_in_the_file_is_refused_and_not_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for zipped in (True, False):
        written = io.BytesIO()
        torch.save({"a": Harmful()}, written, _use_new_zipfile_serialization=zipped)
        monkeypatch.setattr(efficientnet, "WEIGHTS", io.BytesIO(written.getvalue()))
        with pytest.raises(pickle.UnpicklingError, match="print"):
            EfficientNetLite0.pretrained()
    assert capsys.readouterr().out == ""
