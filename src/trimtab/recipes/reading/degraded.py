"""Frames as a video model may draw them, for who learns to read what models draw; knows no model, and not what they show."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from trimtab.diffusion.noise import as_indices, gaussian_noise, generator

Several = Float[Tensor, "batch frame channel height width"]


def degrade(frames: Several, seed: int, step: int, samples: Sequence[int] | Tensor) -> Several:
    """Half of the samples blurred, each frame by its own amount, all with a little noise.

    A reader trained on clean frames alone fails on a slight blur, and then measures sharpness instead of actions.

    Args:
        frames: in [-1, 1]; the noise may lead beyond.
        seed: of what is done to them.
        step: of training.
        samples: the index of each, which with seed and step decides what is done to it.
    """
    num = frames.shape[1]
    blurred = functional.avg_pool2d(frames.flatten(0, 1), 3, 1, 1, count_include_pad=False).unflatten(0, (-1, num))
    draws = [torch.rand(num + 2, generator=generator(seed, step, sample, "degrade")) for sample in as_indices(samples)]
    blur, is_blurred, spread = torch.stack(draws).to(frames)[:, :, None, None, None].split((num, 1, 1), dim=1)
    noise = gaussian_noise(frames.shape[1:], seed=seed, step=step, samples=samples, device=frames.device)
    return frames.lerp(blurred, blur * (is_blurred < 0.5)) + 0.02 * spread * noise
