"""InceptionV3 gives the features of the archive that its weights come from, for frames that are resized as named."""

import io

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from trimtab.metrics.inception import Inception, resize_tensorflow
from trimtab.metrics.weights import INCEPTION


@pytest.fixture(scope="module")
def inception() -> Inception:
    return Inception()


@pytest.fixture(scope="module")
def video() -> Tensor:
    return torch.rand(1, 2, 3, 40, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_features_are_those_of_the_archive_itself(inception: Inception, video: Tensor) -> None:
    theirs = torch.jit.load(io.BytesIO(INCEPTION.read())).eval()
    with torch.no_grad():
        expected = theirs(inception.prepare(video.flatten(0, 1)))
    assert expected.std() > 0.1
    torch.testing.assert_close(inception(video), expected.unflatten(0, (1, 2)), atol=5e-5, rtol=0)


def test_features_do_not_depend_on_the_batch(inception: Inception, video: Tensor) -> None:
    """As they would with batch normalisation in training mode."""
    inception.train()
    torch.testing.assert_close(inception(video)[:, :1], inception(video[:, :1]), atol=1e-5, rtol=0)


def test_tensorflow_resize_agrees_with_a_loop_over_pixels() -> None:
    image = torch.randn(1, 3, 5, 8)
    resized = resize_tensorflow(image, 11).numpy()
    for row in range(11):
        for column in range(11):
            y, x = row * 5 / 11, column * 8 / 11
            top, left = int(y), int(x)
            corners = image[0][:, [[top], [min(top + 1, 4)]], [left, min(left + 1, 7)]].numpy()
            weights = np.outer([1 - (y - top), y - top], [1 - (x - left), x - left])
            np.testing.assert_allclose(resized[0, :, row, column], (corners * weights).sum((1, 2)), atol=1e-6)
    torch.testing.assert_close(resize_tensorflow(image[..., :5], 5), image[..., :5])


def test_each_way_to_resize_scales_as_it_says(inception: Inception, video: Tensor) -> None:
    images = video.flatten(0, 1)
    pixels = (images + 1) / 2 * 255
    expected = (resize_tensorflow(pixels, 299) - 128) / 128
    torch.testing.assert_close(inception.prepare(images), expected, atol=1e-5, rtol=0)
    expected = functional.interpolate(pixels / 255, (299, 299), mode="bilinear", align_corners=False) * 2 - 1
    torch.testing.assert_close(Inception("half pixel").prepare(images), expected, atol=1e-5, rtol=0)


@pytest.mark.usefixtures("without_shape_types")
def test_what_it_would_misread_is_refused(inception: Inception, video: Tensor) -> None:
    with pytest.raises(ValueError, match="must be one of"):
        Inception("bicubic")
    with pytest.raises(ValueError, match="must lie in"):
        inception(video * 255)
    with pytest.raises(ValueError, match="must be float32"):
        inception(video.double())


def test_nothing_is_trained(inception: Inception) -> None:
    assert list(inception.parameters()) == []
    assert len(list(inception.buffers())) == 2 * 94
