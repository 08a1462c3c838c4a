"""A part of a network is trained, named exactly, and that part alone is saved."""

import pytest
import torch
from torch import nn

from trimtab.networks.low_rank import change_by_rank, save_trained_alone, train_only, within


def network() -> nn.Sequential:
    torch.manual_seed(0)
    built = nn.Sequential()
    for name, layer in (("time", nn.Linear(3, 3)), ("times", nn.Linear(3, 3)), ("last", nn.Conv2d(3, 2, 1))):
        built.add_module(name, layer)
    return built


def trained(module: nn.Module) -> set[str]:
    return {name for name, value in module.named_parameters() if value.requires_grad}


@pytest.mark.parametrize(
    ("name", "inside"),
    [("time", True), ("time.conv.weight", True), ("times", False), ("up.time", False), ("tim", False), ("", False)],
)
def test_a_name_is_within_whole_parts_of_a_path(name: str, inside: bool) -> None:
    assert within(name, ["last", "time"]) == inside
    assert not within(name, [])


def test_all_but_what_is_named_is_frozen_and_what_was_frozen_stays_so() -> None:
    built = network()
    built.time.bias.requires_grad_(False)
    train_only(built, ["time", "last.bias"])
    assert trained(built) == {"time.weight", "last.bias"}


def test_changes_are_made_to_all_but_the_spared_and_saved_without_what_they_change() -> None:
    built, other = network(), network()
    with torch.no_grad():
        other.time.weight.mul_(2)  # what is not saved is not overwritten
    for module in (built, other):
        train_only(module, [])
        change_by_rank(module, 1, spared=["time"])
        save_trained_alone(module)
    factors = {f"{name}.parametrizations.weight.0.{side}" for name in ("times", "last") for side in ("up", "down")}
    assert trained(built) == factors
    with torch.no_grad():
        built.times.parametrizations.weight[0].up.fill_(1)
    assert set(built.state_dict()) == factors
    other.load_state_dict(built.state_dict())
    assert torch.equal(other.times.weight, built.times.weight)
    assert torch.equal(other.time.weight, 2 * built.time.weight)
    with pytest.raises(RuntimeError, match=r"Missing key.*last\.parametrizations\.weight\.0\.up"):
        other.load_state_dict({name: value for name, value in built.state_dict().items() if "last" not in name})


@pytest.mark.parametrize("rank", [0, -1])
def test_a_rank_below_one_is_refused(rank: int) -> None:
    with pytest.raises(ValueError, match=f"rank 1 or more, not {rank}"):
        change_by_rank(network(), rank)
