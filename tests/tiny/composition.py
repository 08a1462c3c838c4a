"""A product of a prior and an expert at toy size."""

from trimtab.adapters import from_scratch
from trimtab.adapters.composition import Composition, product_of_experts
from trimtab.core.contracts import Prior


def tiny(prior: Prior) -> Composition:
    return product_of_experts(prior, from_scratch.tiny(prior), 0.4)
