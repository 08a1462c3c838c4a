"""A customised prior at toy size; and the prior, which hears texts and answers without context, too."""

import torch
from torch import nn

from trimtab.adapters.dreambooth import DreamBooth
from trimtab.core.contracts import OpenPrior
from trimtab.priors.pixel_unet import PixelUNet, PixelUNetSettings

SIZES = {"widths": (32, 32), "depths": (1, 1), "text_dim": 6, "context_optional": True}


def prior() -> PixelUNet:
    settings = PixelUNetSettings(sizes=SIZES, num_context=1, num_frames=3, frame_shape=(3, 16, 16), num_levels=50)
    made, generator = PixelUNet(settings), torch.Generator().manual_seed(0)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.05, generator=generator)
    return made.frozen()


def tiny(prior: OpenPrior) -> DreamBooth:
    return DreamBooth(prior, rank=2)
