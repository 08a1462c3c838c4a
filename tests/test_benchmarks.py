"""What the benchmarks measure that must hold on every machine."""

import sys
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import memory


def test_training_an_adapter_takes_little_more_memory_than_it_must() -> None:
    """The frozen prior leaves no graph behind: the peak is that of weights, state and the adapter's own activations."""
    assert memory.measure("embedded", 4) <= 1.15


def test_memory_is_counted_once_and_by_what_lies_behind() -> None:
    whole = torch.zeros(10, 10)
    assert memory.size([whole, whole[0], whole.t()]) == 400
