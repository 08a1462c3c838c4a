"""Gradient checkpointing: what the blocks of a network work out is worked out again for gradients, instead of kept."""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from trimtab.networks.avid_unet3d import Stage
from trimtab.networks.blocks import Block


def recompute(network: nn.Module) -> None:
    """From now on only the inputs of this network's blocks are kept for gradients (Chen et al., arXiv 1604.06174).

    Answers and gradients stay the same. The blocks' way forward is taken twice in a training step, and the memory of
    activations falls to that of the blocks' borders and of one block.
    """
    for module in network.modules():
        if isinstance(module, Block | Stage):
            module.forward = partial(checkpoint, module.forward, use_reentrant=False)  # type: ignore[method-assign]
