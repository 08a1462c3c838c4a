"""A prior of the tabletop's kind at toy size, and recordings that it could be of: a drawn dot stands for the robot."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from trimtab.data.episodes import Episodes, EpisodeWriter
from trimtab.environments.metaworld import TEXTS
from trimtab.priors.pixel_unet import PixelUNet, PixelUNetSettings
from trimtab.recipes.tabletop_prior import TABLETOP

SIZES: dict[str, Any] = {"widths": (32,), "depths": (1,), "patch": 8}


def prior(sizes: dict[str, Any] = SIZES, **settings: Any) -> PixelUNet:
    """Untrained, but with an opinion."""
    whole: dict[str, Any] = {**vars(TABLETOP), "sizes": {**TABLETOP.sizes, **sizes}, **settings}
    made, generator = PixelUNet(PixelUNetSettings(**whole)), torch.Generator()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.05, generator=generator.manual_seed(parameter.numel()))
    return made.frozen()


def dots(folder: Path) -> Episodes:
    """Two start states of each of two tasks: a dot that goes right, or left, by two pixels a frame."""
    if not folder.exists():
        with EpisodeWriter(folder, frame_rate=20.0, action_dim=4, provenance={"environment": "dots"}) as writer:
            for number, task in enumerate(("door-close", "door-open") * 2):
                frames = np.zeros((12, 64, 64, 3), np.uint8)
                for time, frame in enumerate(frames):
                    x = 30 + (2, -2)[number % 2] * time
                    frame[20:28, x : x + 8] = 255
                writer.add_episode(frames, np.zeros((12, 4), np.float32), level=number // 2, task=TEXTS[task])
    return Episodes.open(folder)
