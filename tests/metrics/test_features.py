"""Features of real clips are made once and kept, and nothing but the right file is taken for them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trimtab.metrics.features import identity, in_parts, real_features
from trimtab.metrics.i3d import I3D
from trimtab.metrics.inception import Inception
from trimtab.metrics.weights import I3D_KINETICS, INCEPTION
from trimtab.networks import storage


class Counted(Inception):
    """Mean colours in the place of InceptionV3, and how many clips were looked at."""

    def __init__(self, resize: Any = "tensorflow 1") -> None:
        nn.Module.__init__(self)
        self.resize, self.clips = resize, 0

    def forward(self, video: Tensor) -> Tensor:
        self.clips += len(video)
        return video.mean((3, 4))


@pytest.fixture
def video() -> Tensor:
    return torch.rand(11, 2, 3, 4, 4) * 2 - 1


def test_parts_are_put_together_in_order(video: Tensor) -> None:
    sizes = []

    def measure(one: Tensor, other: Tensor) -> Tensor:
        sizes.append(len(one))
        return (one - other).mean((2, 3, 4))

    assert torch.equal(in_parts(measure, video, video.flip(1), of="differences"), measure(video, video.flip(1)))
    assert sizes == [8, 3, 11]


def test_kept_features_are_used_again(video: Tensor, tmp_path: Path) -> None:
    network = Counted()
    first = real_features(network, video, tmp_path / "new")
    assert network.clips == 11
    assert torch.equal(real_features(network, video, tmp_path / "new"), first)
    assert network.clips == 11
    assert torch.equal(real_features(network, video), first)
    assert network.clips == 22


def test_other_frames_and_protocols_have_files_of_their_own(video: Tensor, tmp_path: Path) -> None:
    for network, some in ((Counted(), video), (Counted("half pixel"), video), (Counted(), video.flip(0))):
        assert torch.equal(real_features(network, some, tmp_path), some.mean((3, 4)))
        assert network.clips == 11
    assert len(list(tmp_path.iterdir())) == 3


def test_a_file_that_is_damaged_or_of_something_else_is_made_again(video: Tensor, tmp_path: Path) -> None:
    network = Counted()
    expected = real_features(network, video, tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    altered = whole[:-1] + bytes([whole[-1] ^ 1])
    storage.write(tmp_path / "other", {"features": torch.zeros(1)}, {})
    for content in (b"", whole[:40], altered, (tmp_path / "other").read_bytes()):
        path.write_bytes(content)
        network.clips = 0
        assert torch.equal(real_features(network, video, tmp_path), expected)
        assert network.clips == 11
        assert torch.equal(storage.read(path)[0]["features"], expected)


def test_networks_are_told_apart_by_protocol_and_weights() -> None:
    class Named(I3D):
        def __init__(self) -> None:
            nn.Module.__init__(self)

    assert identity(Counted())["weights"] == INCEPTION.sha256
    assert identity(Named())["weights"] == I3D_KINETICS.sha256
    assert len({identity(network)["network"] for network in (Counted(), Counted("half pixel"), Named())}) == 3
