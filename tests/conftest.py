"""One thread a test process, since several run side by side, and nothing random that is not seeded."""

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
