"""What the networks compute in ways of their own, for speed, against torch's plain way."""

import math

import pytest
import torch
from torch.nn import functional

from trimtab.networks import attention
from trimtab.networks.attention import FrameNumber, TemporalAttention, softmax_of_few
from trimtab.networks.avid_unet3d import Unit
from trimtab.networks.blocks import ConvToPixels


@pytest.mark.parametrize(("channels", "patch", "kernel_size"), [(4, 2, 1), (3, 2, 3), (1, 3, 3)])
def test_a_convolution_to_pixels_is_a_convolution_and_a_shuffle(channels: int, patch: int, kernel_size: int) -> None:
    layer = ConvToPixels(8, channels, patch, kernel_size)
    frames = torch.randn(2, 8, 5, 6).to(memory_format=torch.channels_last).requires_grad_()
    expected = functional.pixel_shuffle(
        functional.conv2d(frames, layer.weight, layer.bias, padding=kernel_size // 2), patch
    )
    answer, cotangent = layer(frames), torch.randn_like(expected)
    torch.testing.assert_close(answer, expected)
    assert answer.is_contiguous(memory_format=torch.channels_last)
    wanted, found = (torch.autograd.grad(some, (frames, *layer.parameters()), cotangent) for some in (expected, answer))
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("scale", [0.1, 30.0, 1e4])
def test_a_softmax_of_few_is_a_softmax(scale: float) -> None:
    logits = (scale * torch.randn(3, 4, 8, dtype=torch.double)).requires_grad_()
    found, expected = softmax_of_few(logits), logits.softmax(-1)
    torch.testing.assert_close(found, expected)
    cotangent = torch.randn_like(expected)
    torch.testing.assert_close(*(torch.autograd.grad((some * cotangent).sum(), logits) for some in (found, expected)))


def test_unit_vectors_have_the_gradient_of_normalize() -> None:
    vectors = torch.randn(3, 5, 7, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(Unit.apply, vectors)
    torch.testing.assert_close(Unit.apply(vectors), functional.normalize(vectors, dim=-1))
    assert torch.equal(Unit.apply(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_frames_are_turned_pair_by_pair() -> None:
    """Rotary embedding as its paper writes it: the pair (a, b) by the angle frame * 10000^(-pair / pairs)."""
    order, features = FrameNumber(heads=1, head_dim=6)(5), torch.randn(5, 6)
    turned = (features[:, None] @ order.turn(6))[:, 0]
    for frame in range(5):
        for pair in range(3):
            angle = frame * 10_000 ** (-pair / 3)
            first, second = features[frame, 2 * pair : 2 * pair + 2].tolist()
            expected = [
                first * math.cos(angle) - second * math.sin(angle),
                second * math.cos(angle) + first * math.sin(angle),
            ]
            assert turned[frame, 2 * pair : 2 * pair + 2].tolist() == pytest.approx(expected, abs=1e-5)


def test_attention_over_time_is_the_same_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, number = TemporalAttention(16, heads=2, head_dim=40), FrameNumber(heads=2, head_dim=40)
    frames = torch.randn(2 * 3, 16, 4, 5).to(memory_format=torch.channels_last)
    whole = layer(frames, number(3))
    monkeypatch.setattr(attention, "PLACES", 7)  # does not divide the 40
    torch.testing.assert_close(layer(frames, number(3)), whole)
    torch.testing.assert_close(layer(frames[:3], number(3)), whole[:3])  # a clip does not see another
