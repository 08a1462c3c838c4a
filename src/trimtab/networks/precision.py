"""How a processor computes fast: number formats of matrix products, compiling, memory that is kept; knows no network."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn

_exact = ContextVar("_exact", default=False)


@contextmanager
def exact_products() -> Iterator[None]:
    """A context in which everything is multiplied in float32, as to compare a network with another to the fifth digit.

    Load priors within it, too: when they are frozen their weights are rounded to the format of products.
    """
    token = _exact.set(True)
    try:
        yield
    finally:
        _exact.reset(token)


@torch.compiler.assume_constant_result
def matrix_dtype(device_type: str) -> torch.dtype:
    """bfloat16 where the processor multiplies it faster (AMX, AVX-512 with bf16, a GPU since Ampere), else float32."""
    if _exact.get():
        return torch.float32
    if device_type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device_type == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()):
        return torch.bfloat16
    return torch.float32


def fast_products(device: torch.device) -> AbstractContextManager[Any]:
    """A context in which convolutions and matrix products run in `matrix_dtype`; weights and sums stay as they are."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    dtype = matrix_dtype(device.type)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)


def whole_products(device: torch.device) -> AbstractContextManager[Any]:
    """A context within `fast_products` in which everything is multiplied in the format that it has."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def compile_frozen(network: nn.Module) -> None:
    """Let torch compile a network whose weights will not change again, such as those of a world model.

    It is frozen, and compiled at its first call without gradients, and again for every new shape: half a minute each, with
    a C++ compiler. What lies between its convolutions is then done in one pass over memory, and weights are laid out once.
    From then on torch takes all weights that it compiles without gradients in this process for constants.
    """
    network.eval().requires_grad_(False)
    torch._inductor.config.freezing = True  # as an option it does not reach what decides that weights are constants
    network.compile(dynamic=False)


def keep_freed_memory() -> None:
    """Let glibc reuse large freed blocks; by default it returns them, and page faults take a fifth of a training step.

    Elsewhere (another C library) it does nothing. Call it once, before the first large tensor.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(-4, 0)  # M_MMAP_MAX: large blocks come from the heap,
        set_option(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: which is not given back,
        set_option(-2, 2**28)  # M_TOP_PAD: and grows in large steps
