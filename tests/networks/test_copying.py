"""Attention that copies patches of a frame: by its definition, at first, and that it learns to find what moved."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from trimtab.networks.attention import CopyAttention


def layer(channels: int = 12, **options: int) -> CopyAttention:
    torch.manual_seed(0)
    return CopyAttention(channels, source_channels=3, patch=2, **options)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def test_a_copy_is_a_mean_of_patches_by_how_queries_and_keys_agree_when_turned_by_their_places() -> None:
    copy, frames, source = layer(features=8), noise(2 * 3, 12, 4, 5), noise(2, 3, 8, 10)
    with torch.no_grad():
        copy.query.weight.mul_(30)
        copy.key.weight.mul_(30)
        copy.sharper.fill_(0.03)
        found = copy(frames, source)
        patches = functional.pixel_unshuffle(source, 2)
        queries, keys = copy.query(frames), copy.key(copy.look(patches))

    def turned(features: Tensor, row: int, column: int) -> list[float]:
        unit = features / features.square().mean().sqrt()
        angles = [column * f for f in copy.frequencies.tolist()] + [row * f for f in copy.frequencies.tolist()]
        pairs = list(zip(unit[:4].tolist(), unit[4:].tolist(), angles, strict=True))
        first = [one * math.cos(angle) - two * math.sin(angle) for one, two, angle in pairs]
        return first + [one * math.sin(angle) + two * math.cos(angle) for one, two, angle in pairs]

    places = [(row, column) for row in range(4) for column in range(5)]
    for frame, (row, column) in ((0, (0, 0)), (1, (2, 3)), (4, (3, 1)), (5, (0, 4))):
        query = torch.tensor(turned(queries[frame, :, row, column], row, column))
        held = torch.tensor([turned(keys[frame // 3, :, r, c], r, c) for r, c in places])
        shares = (0.3 * math.e * held @ query).softmax(0)
        expected = shares @ patches[frame // 3].flatten(1).t()
        of_patch = functional.pixel_unshuffle(found, 2)[frame, :, row, column]
        torch.testing.assert_close(of_patch, expected, rtol=1e-3, atol=1e-4)


def test_at_first_each_place_copies_from_around_itself() -> None:
    copy, source = layer(), torch.zeros(1, 3, 32, 32)
    source[..., 16:18, 10:12] = 1.0
    with torch.no_grad():
        found = functional.avg_pool2d(copy(noise(1, 12, 16, 16), source)[0].mean(0, keepdim=True), 2)[0]
        copy.sharper.fill_(0.1)
        sharp = copy(noise(1, 12, 16, 16), source)
    row, column = divmod(int(found.argmax()), 16)
    assert abs(row - 8) <= 1
    assert abs(column - 5) <= 1
    assert found[8, 5] > 2 * found.mean()
    assert (sharp - source).square().mean() < 0.2 * source.square().mean()


def test_it_learns_to_find_what_moved_by_its_look_and_in_pictures_that_it_never_saw() -> None:
    """Features are the patches of a picture that moved by another number of places each time."""
    copy = layer(12)
    optimizer = torch.optim.Adam(copy.parameters(), lr=1e-3)
    random = torch.Generator().manual_seed(0)

    def moved() -> tuple[Tensor, Tensor]:
        picture = functional.interpolate(torch.randn(4, 3, 12, 12, generator=random), scale_factor=2)
        by = torch.randint(-4, 5, (2,), generator=random).tolist()
        return picture, picture.roll((2 * by[0], 2 * by[1]), (-2, -1))

    def error() -> Tensor:
        picture, target = moved()
        return (copy(functional.pixel_unshuffle(target, 2), picture) - target).square().mean()

    with torch.no_grad():
        before = torch.stack([error() for _ in range(8)]).mean()
    for _ in range(300):
        optimizer.zero_grad()
        error().backward()
        optimizer.step()
    with torch.no_grad():
        after = torch.stack([error() for _ in range(8)]).mean()
    assert after < 0.3 * before


def test_gradients_reach_every_weight() -> None:
    copy = layer()
    copy(noise(2, 12, 4, 4), noise(1, 3, 8, 8)).square().mean().backward()
    assert [name for name, value in copy.named_parameters() if value.grad is None or not value.grad.any()] == []
