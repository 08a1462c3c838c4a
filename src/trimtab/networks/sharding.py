"""What is trained, split over processes: each keeps a share of weights, gradients, optimizer state and average.

A thin layer over torch's fully_shard (FSDP2), on GPUs and on CPUs alike; knows no model. The frozen prior is left whole in
every process: it leaves no gradients, and its answer is needed at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as distributed
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(task: nn.Module, device: torch.device) -> None:
    """Split, in place, what of `task` requires gradients; it is gathered whenever the task is called."""
    if not distributed.is_initialized():  # one process alone, which is a smoke test
        backend = "nccl" if device.type == "cuda" else "gloo"
        distributed.init_process_group(backend, store=distributed.HashStore(), rank=0, world_size=1)
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    for value in task.parameters():
        value.data = value.data.contiguous()  # which it asks for
    fully_shard(task, mesh=mesh, ignored_params={value for value in task.parameters() if not value.requires_grad})


def whole(tensor: Tensor) -> Tensor:
    """The tensor put together from its shares; every process must ask. A tensor that is not split is itself."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def split_like(tensor: Tensor, other: Tensor) -> Tensor:
    """A whole tensor, split and placed as another is."""
    tensor = tensor.to(other.device)
    return distribute_tensor(tensor, other.device_mesh, other.placements) if isinstance(other, DTensor) else tensor


@contextmanager
def gathered(task: nn.Module) -> Iterator[None]:
    """Split weights whole in every process, for the time of an evaluation; nothing to do for others."""
    if not isinstance(task, FSDPModule):
        yield
        return
    task.unshard()
    try:
        yield
    finally:
        task.reshard()


def put_together(task: nn.Module, home: torch.device) -> None:
    """Give the modules within `task` plain parameters again, and move them to this device."""
    for module in task.modules():
        for name, value in list(module.named_parameters(recurse=False)):
            if isinstance(value, DTensor):
                setattr(module, name, nn.Parameter(whole(value.detach()).clone()))
    # What was split would look for its shares when it is moved, so its parts are moved instead.
    for module in task.children() if isinstance(task, FSDPModule) else [task]:
        module.to(home)
