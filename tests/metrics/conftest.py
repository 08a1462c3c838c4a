"""What tests of metrics share."""

from collections.abc import Iterator

import jaxtyping
import pytest


@pytest.fixture
def without_shape_types() -> Iterator[None]:
    """As users run it: the shape annotations are not enforced, so the library's own checks must speak."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
