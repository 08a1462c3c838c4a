"""Attention that copies patches of a frame: by its definition, at first, and that it learns to find what moved."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from trimtab.networks.attention import QUERIES, CopyAttention, Source, looked_up


def layer(channels: int = 12, **options: int) -> CopyAttention:
    torch.manual_seed(0)
    return CopyAttention(channels, source_channels=3, patch=2, **options)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def unseen(frame: Tensor, num_frames: int) -> Source:
    """A source of frames that are pure noise, which says nothing of them."""
    noisy = noise(len(frame), num_frames, *frame.shape[1:])
    return seen(frame, noisy, alpha=0.0, sigma=1.0)


def seen(frame: Tensor, noisy: Tensor, alpha: float, sigma: float) -> Source:
    levels = (torch.full((len(frame), 1, 1, 1, 1), value) for value in (alpha, sigma))
    return Source(frame, noisy, *levels, unlike=lambda copy: noisy - copy)


def test_a_copy_is_a_mean_of_patches_by_how_queries_and_keys_agree_when_turned_by_their_places() -> None:
    copy, frames, source = layer(features=8), noise(2 * 3, 12, 4, 5), noise(2, 3, 8, 10)
    with torch.no_grad():
        copy.query.weight.mul_(30)
        copy.key.weight.mul_(30)
        copy.sharper.fill_(0.03)
        found = copy(frames, unseen(source, 3))
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
        found = functional.avg_pool2d(copy(noise(1, 12, 16, 16), unseen(source, 1))[0].mean(0, keepdim=True), 2)[0]
        copy.sharper.fill_(0.1)
        sharp = copy(noise(1, 12, 16, 16), unseen(source, 1))
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
        return (copy(functional.pixel_unshuffle(target, 2), unseen(picture, 1)) - target).square().mean()

    with torch.no_grad():
        before = torch.stack([error() for _ in range(8)]).mean()
    for _ in range(300):
        optimizer.zero_grad()
        error().backward()
        optimizer.step()
    with torch.no_grad():
        after = torch.stack([error() for _ in range(8)]).mean()
    assert after < 0.3 * before


def test_without_a_guess_a_copy_is_the_posterior_mean_of_the_patch_that_is_seen_in_noise() -> None:
    """By Bayes' rule, if every patch is as likely as another before one looks, and the noise is of known deviation."""
    copy, frame, noisy, alpha, sigma = layer(), noise(1, 3, 8, 10), noise(1, 2, 3, 8, 10), 0.8, 0.6
    with torch.no_grad():
        copy.sharper.fill_(-1.0)  # any patch, before one looks
        copy.heed.bias.copy_(torch.tensor([0.0, -100.0]))  # and only at the patch itself
        found = functional.pixel_unshuffle(copy(noise(2, 12, 4, 5), seen(frame, noisy, alpha, sigma)), 2)
    patches = functional.pixel_unshuffle(frame[0], 2).flatten(1).t()
    deviation = math.hypot(sigma, alpha * copy.UNLIKENESS)
    for number, row, column in ((0, 0, 0), (1, 3, 2)):
        shown = functional.pixel_unshuffle(noisy[0, number], 2)[:, row, column]
        likely = torch.distributions.Normal(alpha * patches, deviation).log_prob(shown).sum(1).softmax(0)
        torch.testing.assert_close(found[number, :, row, column], likely @ patches, rtol=1e-3, atol=1e-4)


def test_what_is_around_a_patch_tells_apart_patches_that_look_alike() -> None:
    """Two grey squares, of which one has a bright border; what is seen is the latter, elsewhere and in noise."""
    frame = torch.zeros(1, 3, 24, 24)
    frame[..., 2:8, 2:8] = 1.0
    frame[..., 4:6, 4:6] = 0.5
    frame[..., 16:18, 16:18] = 0.6
    moved = frame.roll((8, 6), (-2, -1))
    noisy = 0.8 * moved + 0.3 * noise(1, 1, 3, 24, 24)
    copy = layer()
    with torch.no_grad():
        copy.sharper.fill_(-1.0)
        found = {}
        for heed in (-100.0, 0.0):
            copy.heed.bias.copy_(torch.tensor([0.0, heed]))
            found[heed] = copy(noise(1, 12, 12, 12), seen(frame, noisy, 0.8, 0.3))[0, :, 12:14, 10:12].mean()
    assert abs(found[0.0] - 0.5) < 0.5 * abs(found[-100.0] - 0.5)


def test_each_frame_has_its_own_noise() -> None:
    copy, frame, noisy = layer(), noise(1, 3, 8, 8), noise(1, 2, 3, 8, 8)
    features = noise(2, 12, 4, 4)
    alpha, sigma = (torch.tensor(pair).view(1, 2, 1, 1, 1) for pair in ((0.6, 0.0), (0.8, 1.0)))
    with torch.no_grad():
        both = copy(features, Source(frame, noisy, alpha, sigma, unlike=lambda copy: copy))
        for number in range(2):
            alone = seen(frame, noisy[:, [number]], alpha[0, number].item(), sigma[0, number].item())
            torch.testing.assert_close(both[[number]], copy(features[[number]], alone))


def test_gradients_reach_every_weight() -> None:
    copy = layer()
    copy(noise(2, 12, 4, 4), seen(noise(1, 3, 8, 8), noise(1, 2, 3, 8, 8), 0.8, 0.6)).square().mean().backward()
    assert [name for name, value in copy.named_parameters() if value.grad is None or not value.grad.any()] == []


def test_what_is_looked_up_is_the_attention_of_torch_with_its_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = ((QUERIES + 5, 4), (30, 4), (QUERIES + 5, 7), (30, 7), (30, 3))
    query, key, seen, known, value = (
        torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes
    )
    ours = looked_up(query, key, seen, known, value)
    both = torch.cat([query, seen], -1)[None], torch.cat([key, known], -1)[None], value[None]
    theirs = functional.scaled_dot_product_attention(*both, scale=1.0)[0]
    torch.testing.assert_close(ours, theirs)
    inputs = (query, key, seen, known, value)
    for one, other in zip(*(torch.autograd.grad(some.square().sum(), inputs) for some in (ours, theirs)), strict=True):
        torch.testing.assert_close(one, other)
