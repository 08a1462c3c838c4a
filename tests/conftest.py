"""One thread a test process, since several run side by side, and nothing random that is not seeded."""

from collections.abc import Iterator

import jaxtyping
import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("any machine", deadline=None)  # a busy one is no error
settings.load_profile("any machine")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def exact_products() -> Iterator[None]:
    """Float32 products on every processor, so that comparisons are sharp."""
    from trimtab.networks import precision  # not above, where shape annotations would not be enforced in it yet

    with precision.exact_products():
        yield


@pytest.fixture
def without_shape_types() -> Iterator[None]:
    """As users run it: the shape annotations are not enforced, so the library's own checks must speak."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
