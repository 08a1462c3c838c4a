"""What the benchmarks measure that must hold on every machine."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import memory
import speed


def test_training_an_adapter_takes_little_more_memory_than_it_must() -> None:
    """The frozen prior leaves no graph behind: the peak is that of weights, state and the adapter's own activations."""
    assert memory.measure("embedded", 4) <= 1.15


@pytest.mark.parametrize(("measure", "number"), [(speed.compositions, 4), (speed.adaptations, 2)])
def test_what_is_composed_is_compared_with_the_very_calls_that_it_is_made_of(
    measure: Callable[..., None], number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both do as many operations, so that what is left of the time is what composing costs."""
    compared: dict[str, tuple[int, int]] = {}

    def compare(cases, given, noisy, level, rounds) -> None:
        for name, (composed, networks) in cases.items():
            ask = composed.bind(given)
            with torch.no_grad():
                whole = speed.operations(lambda: ask(noisy, level))  # noqa: B023
                compared[name] = whole, sum(map(speed.operations, networks))

    monkeypatch.setattr(speed, "compare", compare)
    measure(batch=1)
    assert len(compared) == number
    for whole, called in compared.values():
        assert whole == called > 0
    if measure is speed.adaptations:
        standard, inverse = compared.values()
        assert inverse > standard  # the large prior is asked twice, not once


def test_memory_is_counted_once_and_by_what_lies_behind() -> None:
    whole = torch.zeros(10, 10)
    assert memory.size([whole, whole[0], whole.t()]) == 400
