"""The trusted horizon ends where a model is no longer surely better."""

import pytest
import torch

from trimtab.metrics.horizon import trusted_horizon


@pytest.mark.parametrize("good", [0, 1, 5, 12])
def test_it_ends_with_the_first_frame_that_is_no_better(good: int) -> None:
    reference = 1 + 0.1 * torch.randn(40, 12, generator=torch.Generator().manual_seed(0))
    error = reference + 0.2 * torch.randn(40, 12, generator=torch.Generator().manual_seed(1))
    error[:, :good] -= 1
    error[:, good + 1 :] -= 1  # better again later does not help
    if good < 12:
        error[:, good] += 0.5
    assert trusted_horizon(error, reference, torch.arange(40)) == good


def test_a_difference_that_may_be_chance_is_not_trusted() -> None:
    reference = torch.zeros(40, 3)
    error = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)) - 0.01
    assert trusted_horizon(error, reference, torch.arange(40)) == 0
