"""I3D pads as TensorFlow does and refuses clips that it is not defined for."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from trimtab.metrics.i3d import I3D, pad_same


@pytest.fixture(scope="module")
def i3d() -> I3D:
    return I3D()


def random_video(time: int, batch: int = 1, size: int = 32) -> Tensor:
    return torch.rand(batch, time, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_logits_are_those_of_the_jax_network_that_the_weights_come_from(i3d: I3D) -> None:
    """Its answers, evaluated once with jax 0.10.2 and flax 0.12.8 on the same resized clip: every fiftieth class."""
    axes = (torch.arange(length, dtype=torch.float32) for length in (11, 3, 40, 40))
    time, channel, row, column = torch.meshgrid(*axes, indexing="ij")
    wave = (0.7 * time + 0.3 * column + channel).sin() + (0.2 * row * (channel + 1) - 0.4 * time).cos()
    expected = torch.tensor([2.389335, -1.254766, 1.521492, 1.644257, -3.511580, 1.346559, 3.619531, -1.255114])
    torch.testing.assert_close(i3d(wave[None] / 2)[0, ::50], expected, atol=1e-4, rtol=0)


def windows(hidden: np.ndarray, size: int, stride: int) -> dict[tuple[int, ...], np.ndarray]:
    """TensorFlow's "SAME" windows of (channel, time, height, width) by output position; zeros beyond the border."""
    first, found = [], {}
    for length in hidden.shape[1:]:
        outputs = math.ceil(length / stride)
        before = max((outputs - 1) * stride + size - length, 0) // 2
        first.append([output * stride - before for output in range(outputs)])
    for place in itertools.product(*(range(len(starts)) for starts in first)):
        window = np.zeros((len(hidden), size, size, size))
        for inside in itertools.product(range(size), repeat=3):
            at = [starts[k] + i for starts, k, i in zip(first, place, inside, strict=True)]
            if all(0 <= k < length for k, length in zip(at, hidden.shape[1:], strict=True)):
                window[:, *inside] = hidden[:, *at]
        found[place] = window
    return found


@pytest.mark.parametrize(
    ("name", "size", "stride", "shape"),
    [
        ("Conv3d_1a_7x7", 7, 2, (3, 4, 5)),
        ("Conv3d_2c_3x3", 3, 1, (3, 2, 4)),
        ("Mixed_3b/Branch_2/Conv3d_0b_3x3", 3, 1, (2, 3, 3)),
    ],
)
def test_convolutions_agree_with_loops(i3d: I3D, name: str, size: int, stride: int, shape: tuple[int, ...]) -> None:
    kernel, bias = (tensor.double().numpy() for tensor in i3d.layer(name))
    hidden = torch.randn(1, kernel.shape[1], *shape)
    ours = i3d.convolve(hidden, name, stride)[0].numpy()
    expected = windows(hidden[0].double().numpy(), size, stride)
    assert ours.shape[1:] == tuple(math.ceil(length / stride) for length in shape)
    for place, window in expected.items():
        value = (np.tensordot(kernel, window, 4) + bias).clip(0)
        np.testing.assert_allclose(ours[:, *place], value, atol=1e-4)


@pytest.mark.parametrize(("length", "stride"), [(4, 2), (5, 2), (3, 1), (1, 2)])
def test_pools_agree_with_loops(length: int, stride: int) -> None:
    hidden = torch.rand(1, 2, length, 4, 5)
    padded = pad_same(hidden, (3, 3, 3), (stride,) * 3)
    ours = functional.max_pool3d(padded, 3, stride)[0].numpy()
    for place, window in windows(hidden[0].numpy(), 3, stride).items():
        np.testing.assert_allclose(ours[:, *place], window.max((1, 2, 3)))


def test_border_is_the_one_that_is_asked_for() -> None:
    padded = pad_same(torch.ones(1, 1, 5, 4, 224), (7, 2, 3), (2, 2, 1))
    assert padded.shape == (1, 1, 5 + 6, 4, 224 + 2)
    assert padded[0, 0, :, 0, 1].tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0]
    padded = pad_same(torch.ones(1, 1, 4, 1, 1), (3, 1, 1), (2, 1, 1))
    assert padded.flatten().tolist() == [1, 1, 1, 1, 0]  # the odd row is behind


def test_features_are_the_same_one_by_one_and_with_the_context_in_front(i3d: I3D) -> None:
    video = random_video(9, batch=2)
    features = i3d(video)
    assert features.shape == (2, 400)
    torch.testing.assert_close(i3d(video[1:, 2:], video[1:, :2]), features[1:], atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("without_shape_types")
def test_what_it_would_misread_is_refused(i3d: I3D) -> None:
    with pytest.raises(ValueError, match="9 frames or more, not 8"):
        i3d(random_video(8))
    with pytest.raises(ValueError, match="9 frames or more, not 8"):
        i3d(random_video(6), random_video(2))
    with pytest.raises(ValueError, match="does not fit before"):
        i3d(random_video(9), random_video(2, size=16))
    with pytest.raises(ValueError, match="must lie in"):
        i3d(random_video(9) * 2)


def test_nothing_is_trained(i3d: I3D) -> None:
    assert list(i3d.parameters()) == []
    assert len(list(i3d.buffers())) == 2 * 58
