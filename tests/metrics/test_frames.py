"""Frame metrics agree with independent computations, and refuse what they would misread."""

from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio
from torch import Tensor
from torch.nn import functional
from torchmetrics.functional.image import peak_signal_noise_ratio as torchmetrics_psnr
from torchmetrics.functional.image import structural_similarity_index_measure

from trimtab.metrics.frames import Lpips, psnr, sharpness, ssim
from trimtab.metrics.weights import LPIPS_ALEX, LPIPS_VGG, read_arrays


def smooth_video(*shape: int, seed: int = 0) -> Tensor:
    noise = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return functional.avg_pool2d(noise.flatten(0, 1), 5, 1, 2).mul(3).clamp(-1, 1).unflatten(0, shape[:2])


def noisy(video: Tensor, amount: float, seed: int = 1) -> Tensor:
    return (video + amount * torch.randn(video.shape, generator=torch.Generator().manual_seed(seed))).clamp(-1, 1)


def blurred(video: Tensor) -> Tensor:
    return functional.avg_pool2d(video.flatten(0, 1), 3, 1, 1, count_include_pad=False).unflatten(0, video.shape[:2])


@pytest.fixture(scope="module")
def lpips() -> Lpips:
    return Lpips()


@pytest.fixture(scope="module")
def real() -> Tensor:
    return smooth_video(2, 3, 3, 64, 64)


def to_numpy(frame: Tensor) -> np.ndarray:
    return ((frame + 1) / 2).permute(1, 2, 0).double().numpy()


def test_psnr_agrees_with_scikit_image(real: Tensor) -> None:
    generated = noisy(real, 0.2)
    ours = psnr(generated, real)
    assert ours.shape == (2, 3)
    for clip in range(2):
        for step in range(3):
            theirs = peak_signal_noise_ratio(
                to_numpy(real[clip, step]), to_numpy(generated[clip, step]), data_range=1.0
            )
            assert ours[clip, step].item() == pytest.approx(theirs, abs=1e-4)


def test_ssim_agrees_with_torchmetrics_inside_the_border(real: Tensor) -> None:
    generated = noisy(real, 0.2)
    ours = ssim(generated, real)
    assert ours.shape == (2, 3)
    _, theirs = structural_similarity_index_measure(
        *((video.flatten(0, 1) + 1) / 2 for video in (generated, real)), data_range=1.0, return_full_image=True
    )
    inside = theirs[..., 5:-5, 5:-5].mean((1, 2, 3))
    torch.testing.assert_close(ours.flatten(), inside, atol=1e-5, rtol=0)


def test_psnr_agrees_with_torchmetrics(real: Tensor) -> None:
    generated = noisy(real, 0.3)
    theirs = torchmetrics_psnr(
        (generated.flatten(0, 1) + 1) / 2, (real.flatten(0, 1) + 1) / 2, 1.0, reduction="none", dim=(1, 2, 3)
    )
    torch.testing.assert_close(psnr(generated, real).flatten(), theirs, atol=1e-4, rtol=0)


def test_values_stay_with_their_clip_and_step(real: Tensor, lpips: Lpips) -> None:
    generated = real.clone()
    generated[1, 2] = noisy(real, 0.5)[1, 2]
    elsewhere = torch.ones(2, 3, dtype=torch.bool)
    elsewhere[1, 2] = False
    for metric, identical in ((psnr, 100.0), (ssim, 1.0), (sharpness, 1.0), (lpips, 0.0)):
        values = metric(generated, real)
        torch.testing.assert_close(values[elsewhere], torch.full((5,), identical), atol=1e-4, rtol=0)
        assert abs(values[1, 2] - identical) > 0.05


def test_more_frames_than_a_chunk_change_nothing(real: Tensor, lpips: Lpips) -> None:
    generated = noisy(real, 0.2)
    many = (generated.repeat(20, 3, 1, 1, 1), real.repeat(20, 3, 1, 1, 1))  # 360 frames
    for metric in (psnr, sharpness, lpips):
        torch.testing.assert_close(metric(*many), metric(generated, real).repeat(20, 3), atol=1e-5, rtol=1e-4)


def test_sharpness_of_a_known_pattern(real: Tensor) -> None:
    """Halving contrast quarters the energy; blur lowers it; noise raises it; two flat frames give one."""
    torch.testing.assert_close(sharpness(real / 2, real), torch.full((2, 3), 0.25), atol=1e-3, rtol=0)
    assert (sharpness(blurred(real), real) < 0.9).all()
    assert (sharpness(noisy(real, 0.3), real) > 1.1).all()
    torch.testing.assert_close(sharpness(torch.zeros(1, 1, 3, 8, 8), torch.ones(1, 1, 3, 8, 8)), torch.ones(1, 1))


ALEX_LAYERS = [(11, 4, 2, 0), (5, 1, 2, 3), (3, 1, 1, 3), (3, 1, 1, 0), (3, 1, 1, 0)]
"""Size, stride and padding of each convolution, and the size of the max-pool of stride 2 before it."""
VGG_LAYERS = [(3, 1, 1, 2 if layer in (2, 4, 7, 10) else 0) for layer in range(13)]


def numpy_lpips(first: np.ndarray, second: np.ndarray, backbone: str) -> float:
    """LPIPS of two (height, width, 3) frames in [-1, 1], written as loops over positions in float64."""
    weights, network, layers, compared = {
        "alex": (LPIPS_ALEX, "AlexNet_0", ALEX_LAYERS, range(5)),
        "vgg": (LPIPS_VGG, "VGG16_0", VGG_LAYERS, (1, 3, 6, 9, 12)),
    }[backbone]
    arrays = {name: array.astype(np.float64) for name, array in read_arrays(weights.read()).items()}
    shift, scale = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])

    def slide(image: np.ndarray, size: int, stride: int, at: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        rows, columns = ((length - size) // stride + 1 for length in image.shape[:2])
        return np.array(
            [
                [at(image[r * stride : r * stride + size, c * stride : c * stride + size]) for c in range(columns)]
                for r in range(rows)
            ]
        )

    def features(frame: np.ndarray) -> list[np.ndarray]:
        hidden, found = (frame - shift) / scale, []
        for layer, (size, stride, padding, pool) in enumerate(layers):
            kernel, bias = (arrays[f"{network}/Conv_{layer}/{name}"] for name in ("kernel", "bias"))
            if pool:
                hidden = slide(hidden, pool, 2, lambda patch: patch.max((0, 1)))
            padded = np.pad(hidden, ((padding, padding), (padding, padding), (0, 0)))
            hidden = slide(padded, size, stride, lambda patch, k=kernel, b=bias: np.tensordot(patch, k, 3) + b).clip(0)
            found.append(hidden / (np.linalg.norm(hidden, axis=-1, keepdims=True) + 1e-10))
        return [found[layer] for layer in compared]

    heads = [arrays[f"NetLinLayer_{layer}/Conv_0/kernel"].ravel() for layer in range(5)]
    both = zip(features(first), features(second), heads, strict=True)
    return sum(float((((one - other) ** 2) @ head).mean()) for one, other, head in both)


@pytest.mark.parametrize(("backbone", "size"), [("alex", 64), ("vgg", 24)])
def test_lpips_agrees_with_a_numpy_evaluation(real: Tensor, backbone: Literal["alex", "vgg"], size: int) -> None:
    real = real[:1, :1, :, :size, :size]
    generated = noisy(real, 0.3)
    frames = (video[0, 0].permute(1, 2, 0).double().numpy() for video in (generated, real))
    assert Lpips(backbone)(generated, real).item() == pytest.approx(numpy_lpips(*frames, backbone), abs=1e-5)


def test_lpips_with_vgg_is_another_figure_of_the_same_kind(real: Tensor, lpips: Lpips) -> None:
    """In chunks of its own size; zero for equals, larger for more noise, and not AlexNet's."""
    vgg, some = Lpips("vgg"), real[..., :32, :32].repeat(3, 1, 1, 1, 1)
    assert len(vgg.state_dict()) == 2 + 2 * 13 + 5
    values = vgg(noisy(some, 0.1), some)
    assert vgg(some, some).abs().max() == 0
    assert (vgg(noisy(some, 0.4), some) > values).all()
    torch.testing.assert_close(values[4:], vgg(noisy(some, 0.1)[4:], some[4:]), atol=1e-6, rtol=1e-4)
    assert (values - lpips(noisy(some, 0.1), some)).abs().min() > 0.001


def test_lpips_is_a_distance_that_grows_with_blur_and_noise(real: Tensor, lpips: Lpips) -> None:
    assert lpips(real, real).abs().max() == 0
    torch.testing.assert_close(lpips(noisy(real, 0.2), real), lpips(real, noisy(real, 0.2)))
    once, twice = blurred(real), blurred(blurred(real))
    assert (lpips(once, real) > 0.001).all()
    assert (lpips(twice, real) > lpips(once, real)).all()
    assert (lpips(noisy(real, 0.4), real) > lpips(noisy(real, 0.1), real)).all()


def test_lpips_can_be_trained_by(real: Tensor, lpips: Lpips) -> None:
    """The same figures, up to the number format, and a step against their gradient makes them smaller."""
    generated = noisy(real, 0.3).requires_grad_()
    before = lpips.distance(generated, real)
    torch.testing.assert_close(before, lpips(generated.detach(), real), rtol=0.05, atol=1e-3)
    (gradient,) = torch.autograd.grad(before.sum(), generated)
    after = lpips.distance(generated - 0.1 * gradient / gradient.abs().max(), real)
    assert (after < before).all()
    torch.testing.assert_close(lpips.distance(1.5 * real, real).detach().isfinite().all(), torch.tensor(True))


def test_lpips_has_nothing_to_train(lpips: Lpips) -> None:
    assert list(lpips.parameters()) == []
    assert len(lpips.state_dict()) == 17


@pytest.mark.usefixtures("without_shape_types")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda video: video[0], "must be \\(batch, time, 3, height, width\\)"),
        (lambda video: video[:, :, :1], "must be \\(batch, time, 3, height, width\\)"),
        (lambda video: video[:0], "must be \\(batch, time, 3, height, width\\)"),
        (lambda video: video[:1], "must have one shape"),
        (lambda video: video.double(), "must be float32"),
        (lambda video: video.mul(127).to(torch.uint8), "must be float32"),
        (lambda video: video * 1.5, "must lie in \\[-1, 1\\]"),
        (lambda video: video * float("nan"), "must lie in \\[-1, 1\\]"),
    ],
)
@pytest.mark.parametrize("metric", [psnr, ssim, sharpness, Lpips()])
def test_wrong_videos_are_refused(
    metric: Callable, change: Callable[[Tensor], Tensor], message: str, real: Tensor
) -> None:
    with pytest.raises(ValueError, match=message):
        metric(change(real), real)


@pytest.mark.usefixtures("without_shape_types")
def test_other_backbones_are_refused() -> None:
    with pytest.raises(ValueError, match="must be one of"):
        Lpips("squeeze")


@pytest.mark.parametrize(("metric", "size"), [(ssim, 10), (Lpips(), 30), (Lpips("vgg"), 15), (sharpness, 1)])
def test_frames_below_the_window_are_refused(metric: Callable, size: int) -> None:
    with pytest.raises(ValueError, match="pixels or more"):
        metric(torch.zeros(1, 1, 3, size, size), torch.zeros(1, 1, 3, size, size))
