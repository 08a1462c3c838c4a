"""Random draws that are a function of (seed, step, sample) alone; knows neither schedules nor models.

A sample therefore comes out the same whatever the batch it is in, the order, the number of processes or the device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def gaussian_noise(
    shape: tuple[int, ...],
    *,
    seed: int,
    step: int,
    samples: Sequence[int] | Tensor,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    purpose: str = "noise",
) -> Tensor:
    """Standard normal noise, one draw of `shape` a sample: (sample, *shape).

    Args:
        shape: of one sample, without the batch.
        seed: of the run.
        step: of training or sampling.
        samples: the index of each sample in the data set or in the list of videos to imagine.
        device: where the answer lives; the draw itself is always made on the CPU.
        dtype: of the answer; the draw itself is always float32.
        purpose: draws for different purposes are independent.
    """
    indices = as_indices(samples)
    noise = torch.empty((len(indices), *shape))
    for index, row in zip(indices, noise, strict=True):
        torch.randn(shape, generator=generator(seed, step, index, purpose), out=row)
    return noise.to(device=device, dtype=dtype)


def uniform_integers(
    high: int, *, seed: int, step: int, samples: Sequence[int] | Tensor, purpose: str = "integers"
) -> Tensor:
    """One integer a sample, uniform over 0 .. high - 1: (sample,) int64 on the CPU; the rest as in `gaussian_noise`."""
    draws = [torch.randint(high, (), generator=generator(seed, step, i, purpose)) for i in as_indices(samples)]
    return torch.stack(draws) if draws else torch.empty(0, dtype=torch.int64)


def generator(seed: int, step: int, sample: int, purpose: str) -> torch.Generator:
    """A CPU generator for one sample; torch uses 32 bits of a seed, so a hash spreads neighbours over all of them."""
    digest = hashlib.blake2b(f"{purpose}/{seed}/{step}/{sample}".encode(), digest_size=4).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


def as_indices(samples: Sequence[int] | Tensor) -> list[int]:
    """Sample indices as whole numbers. Raises ValueError for anything but a row of whole numbers."""
    if isinstance(samples, Tensor):
        if samples.ndim != 1 or samples.is_floating_point():
            raise ValueError(
                f"samples must be a row of integers, got {samples.dtype} of shape {tuple(samples.shape)}; "
                "pass the index of each sample"
            )
        return samples.tolist()
    return [int(sample) for sample in samples]
