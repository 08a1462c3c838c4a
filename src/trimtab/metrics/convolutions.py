"""Frozen convolutions with folded batch normalisation, the stuff of the networks that FID and FVD are defined by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

_EPSILON = 1e-3
"""Added to every variance, in both networks."""


class FrozenConvolutions(nn.Module):
    """Kernels and biases by name, as buffers: always in eval mode, and nothing to train.

    Args:
        layers: by name, what `fold` makes: the kernel (out, in, \\*size) and the bias (out,).
    """

    def __init__(self, layers: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        for name, (kernel, bias) in layers.items():
            self.register_buffer(f"{name}/kernel", kernel)
            self.register_buffer(f"{name}/bias", bias)

    def layer(self, name: str) -> tuple[Tensor, Tensor]:
        """Kernel and bias."""
        return self.get_buffer(f"{name}/kernel"), self.get_buffer(f"{name}/bias")


def fold(
    kernel: Float[np.ndarray, "out in *size"],
    beta: Float[np.ndarray, " out"],
    mean: Float[np.ndarray, " out"],
    variance: Float[np.ndarray, " out"],
) -> tuple[Tensor, Tensor]:
    """A convolution and the batch normalisation after it (its scale is one) as one convolution, folded in float64."""
    scale = (variance.astype(np.float64) + _EPSILON) ** -0.5
    folded: Any = kernel * scale.reshape(-1, *[1] * (kernel.ndim - 1)), beta - mean * scale
    return torch.tensor(folded[0], dtype=torch.float32), torch.tensor(folded[1], dtype=torch.float32)
