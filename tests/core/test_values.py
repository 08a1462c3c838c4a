"""Kinds of prediction convert into each other without loss, and conditionings keep what each sample knows."""

from types import SimpleNamespace
from typing import get_args

import pytest
import torch
from hypothesis import given as hypothesis_given
from hypothesis import settings
from hypothesis import strategies as some
from torch import Tensor

from trimtab.core.values import FACTS, Clip, Conditioning, Fact, Kind, NoiseLevel, Prediction, Video, stack
from trimtab.diffusion import schedules

KINDS: tuple[Kind, ...] = get_args(Kind)
SHAPE = (3, 2, 3, 4, 4)
VP, FLOW = schedules.sigmoid(), schedules.flow(200)

kinds = some.sampled_from(KINDS)
seeds = some.integers(0, 2**31 - 1)
levels = some.lists(some.integers(3, 190), min_size=3, max_size=3)
tables = some.sampled_from([VP, FLOW])
property_test = settings(max_examples=60, deadline=None)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape or SHAPE, generator=torch.Generator().manual_seed(seed))


def truth(kind: Kind, clean: Video, noise: Video, level: NoiseLevel) -> Tensor:
    """The definitions of values.py, written out once more."""
    alpha, sigma = (value[:, None, None, None, None] for value in (level.alpha, level.sigma))
    return {"noise": noise, "clean": clean, "velocity": alpha * noise - sigma * clean, "flow": noise - clean}[kind]


# Predictions


@property_test
@hypothesis_given(kinds, kinds, tables, levels, seeds)
def test_every_kind_reads_as_every_other(kind: Kind, other: Kind, table, indices: list[int], seed: int) -> None:
    clean, noise, level = normal(seed), normal(seed + 1), table.level(torch.tensor(indices))
    noisy = level.add_noise(clean, noise)
    belief = Prediction(truth(kind, clean, noise, level), kind, noisy, level)
    converted = belief.as_kind(other)
    assert converted.kind == other
    for read in (belief, converted):
        for name in KINDS:
            expected = truth(name, clean, noise, level)
            torch.testing.assert_close(getattr(read, name), expected, rtol=1e-3, atol=2e-3)


@property_test
@hypothesis_given(kinds, kinds, tables, levels, seeds)
def test_a_wrong_belief_round_trips_too(kind: Kind, other: Kind, table, indices: list[int], seed: int) -> None:
    level = table.level(torch.tensor(indices))
    belief = Prediction(normal(seed), kind, normal(seed + 1), level)
    back = belief.as_kind(other).as_kind(kind)
    assert (back.tensor - belief.tensor).abs().max() < 2e-3


@pytest.mark.parametrize("kind", KINDS)
def test_its_own_kind_is_read_as_it_is(kind: Kind) -> None:
    belief = Prediction(normal(0), kind, normal(1), VP.level(torch.tensor([0, 50, 199])))
    assert belief.as_kind(kind) is belief
    assert torch.equal(getattr(belief, kind), belief.tensor)
    half = Prediction(normal(0).half(), kind, normal(1).half(), belief.level)
    assert all(getattr(half, name).dtype == torch.float32 for name in KINDS)
    assert half.tensor.dtype == torch.float16


@pytest.mark.parametrize("kind", ["clean", "velocity", "flow"])
def test_all_but_noise_read_finite_at_pure_noise(kind: Kind) -> None:
    belief = Prediction(normal(0), kind, normal(1), FLOW.level(torch.tensor([199] * 3)))
    for name in KINDS:
        assert torch.isfinite(getattr(belief, name)).all()
    assert not torch.isfinite(Prediction(normal(0), "noise", normal(1), belief.level).clean).any()


@property_test
@hypothesis_given(kinds, levels, seeds, some.booleans())
def test_seen_at_another_schedule_is_the_same_belief(kind: Kind, indices: list[int], seed: int, swap: bool) -> None:
    ours, theirs = (FLOW, VP) if swap else (VP, FLOW)
    clean, noise, level = normal(seed), normal(seed + 1), ours.level(torch.tensor(indices))
    noisy = level.add_noise(clean, noise)
    native_noisy, native_level, _ = theirs.native(noisy, level)
    native = Prediction(truth(kind, clean, noise, native_level), kind, native_noisy, native_level)
    seen = native.seen_at(noisy, level)
    assert seen.kind == kind
    assert seen.noisy is noisy
    assert seen.level is level
    for name in KINDS:
        torch.testing.assert_close(getattr(seen, name), truth(name, clean, noise, level), rtol=1e-3, atol=2e-3)


def test_a_level_a_frame_multiplies_frame_by_frame() -> None:
    index = torch.tensor([[3, 100], [50, 60], [199, 0]])
    clean, noise, level = normal(0), normal(1), VP.level(index)
    noisy = level.add_noise(clean, noise)
    for sample in range(3):
        for frame in range(2):
            alpha, sigma = VP.alphas[index[sample, frame]].item(), VP.sigmas[index[sample, frame]].item()
            expected = alpha * clean[sample, frame] + sigma * noise[sample, frame]
            torch.testing.assert_close(noisy[sample, frame], expected)
    assert level.add_noise(clean.bfloat16(), noise).dtype == torch.bfloat16


def test_unknown_kinds_and_other_shapes_are_refused() -> None:
    level = VP.level(torch.tensor([1, 2, 3]))
    right = {"tensor": normal(0), "kind": "noise", "noisy": normal(1), "level": level}
    Prediction(**right)
    with pytest.raises(ValueError, match="kind is one of"):  # called without the tests' own check of types
        Prediction.__post_init__(SimpleNamespace(**{**right, "kind": "velocities"}))
    with pytest.raises(ValueError, match="noisy video's shape"):
        Prediction.__post_init__(SimpleNamespace(**{**right, "tensor": normal(0)[:, :1]}))


def test_like_keeps_everything_but_the_tensor() -> None:
    belief = Prediction(normal(0), "flow", normal(1), VP.level(torch.tensor([1, 2, 3])), weights_sum_to_one=False)
    other = belief.like(normal(2))
    assert torch.equal(other.tensor, normal(2))
    assert (other.kind, other.noisy, other.level, other.weights_sum_to_one) == (
        "flow",
        belief.noisy,
        belief.level,
        False,
    )


# Conditionings


def everything(batch: int, seed: int = 0) -> Conditioning:
    return Conditioning(
        context=normal(seed, batch, 1, 3, 4, 4),
        actions=torch.arange(batch * 2).reshape(batch, 2) + seed,
        state=normal(seed + 1, batch, 5),
        text=normal(seed + 2, batch, 6, 7),
    )


def assert_same(one: Conditioning, other: Conditioning) -> None:
    """Every sample knows the same facts, of the same value."""
    for name in FACTS:
        first, second = getattr(one, name), getattr(other, name)
        if first is None or second is None:
            assert first is None or not one.is_known(name).any()
            assert second is None or not other.is_known(name).any()
            continue
        assert torch.equal(one.is_known(name), other.is_known(name))
        assert torch.equal(first[one.is_known(name)], second[one.is_known(name)])


subsets = some.sets(some.sampled_from(FACTS), max_size=3)


@property_test
@hypothesis_given(some.lists(some.tuples(some.integers(1, 3), subsets, some.integers(0, 7)), min_size=1, max_size=4))
def test_a_stack_comes_apart_into_what_was_stacked(parts: list[tuple[int, set[Fact], int]]) -> None:
    several = []
    for number, (batch, unknown, bits) in enumerate(parts):
        mask = torch.tensor([bool(bits >> k & 1) for k in range(batch)])
        several.append(everything(batch, 10 * number).without(*unknown).forget("state", mask))
    together = stack(several)
    start = 0
    for part, (batch, _, _) in zip(several, parts, strict=True):
        window = slice(start, start + batch)
        assert_same(together.map(lambda value, window=window: value[window]), part)
        start += batch
    assert all(len(value) == start for value in together.facts().values())


def test_a_stack_of_what_all_know_needs_no_mask() -> None:
    assert not stack([everything(2), everything(3, 5)]).known
    partly = stack([everything(2), everything(2).without("actions")])
    assert set(partly.known) == {"actions"}
    assert partly.is_known("actions").tolist() == [True, True, False, False]


def test_shapes_that_do_not_stack_are_refused() -> None:
    longer = Conditioning(actions=torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="cannot stack actions"):
        stack([everything(2), longer])


@property_test
@hypothesis_given(some.sampled_from(FACTS), some.integers(0, 7), some.integers(0, 7))
def test_forgetting_adds_up_and_touches_one_fact(name: Fact, first: int, second: int) -> None:
    masks = [torch.tensor([bool(bits >> k & 1) for k in range(3)]) for bits in (first, second)]
    given = everything(3)
    forgetful = given.forget(name, masks[0]).forget(name, masks[1])
    assert torch.equal(forgetful.is_known(name), ~(masks[0] | masks[1]))
    for other in FACTS:
        assert torch.equal(getattr(forgetful, other), getattr(given, other))
        assert given.is_known(other).all()
        if other != name:
            assert forgetful.is_known(other).all()


def test_without_forgets_for_all_and_drops_the_mask() -> None:
    given = everything(3).forget("actions", torch.tensor([True, False, False]))
    bare = given.without("actions", "text")
    assert set(bare.facts()) == {"context", "state"}
    assert not bare.known
    assert set(given.facts()) == set(FACTS)
    assert bare.forget("actions", torch.ones(3, dtype=torch.bool)) is bare


def test_a_clip_moves_with_its_masks() -> None:
    given = everything(3).forget("actions", torch.tensor([True, False, False]))
    moved = Clip(normal(0), given).to("meta")
    assert moved.video.device.type == "meta"
    assert all(value.device.type == "meta" for value in moved.given.facts().values())
    assert moved.given.known["actions"].device.type == "meta"
