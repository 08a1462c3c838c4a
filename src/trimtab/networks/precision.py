"""Which number format matrix products are fast in on a device; knows no network."""

from __future__ import annotations

from functools import cache

import torch


@cache
def matrix_dtype(device_type: str) -> torch.dtype:
    """bfloat16 where the processor has matrix units for it (AMX, or a GPU since Ampere), else float32."""
    if device_type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device_type == "cpu" and torch.cpu._is_amx_tile_supported():
        return torch.bfloat16
    return torch.float32


def fast_products(device: torch.device) -> torch.autocast:
    """A context in which convolutions and matrix products run in `matrix_dtype`; weights and sums stay as they are."""
    dtype = matrix_dtype(device.type)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)
