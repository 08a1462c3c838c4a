"""A prior that remembers at toy size."""

from trimtab.priors import gaussian
from trimtab.priors.remembering import Remembering


def tiny() -> Remembering:
    return Remembering(gaussian.tiny(), 4)
