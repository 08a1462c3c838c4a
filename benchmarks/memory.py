"""Memory of training an adapter, against what it cannot do without; run with `make bench-memory`.

What it cannot do without: the weights of prior and adapter; the adapter's gradients, optimizer state and average; and its
own activations, which are all tensors that autograd keeps, each counted once. The frozen prior should add nothing but its
weights; beside the embedded one stands what is remembered of its answers, so that it is asked once for several passes. The
peak is of tensors, from torch's record of what it allocates and frees; the process holds more, by libraries, their scratch
memory and gaps. Each pair is measured in a process of its own.
"""

from __future__ import annotations

import multiprocessing
import sys

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from trimtab.adapters.avid import AVID
from trimtab.data import samples
from trimtab.data.clips import Clips
from trimtab.diffusion.losses import DenoisingLoss, clean_loss
from trimtab.forecast import own_memory
from trimtab.networks.precision import keep_freed_memory
from trimtab.priors import pixel_unet
from trimtab.priors.pixel_unet import PixelUNet, PixelUNetSettings
from trimtab.priors.remembering import Remembering
from trimtab.recipes.procgen_prior import frames_task
from trimtab.training import ROTATION

PAPER = {"width": 100, "heads": 8, "head_dim": 64}


def size(tensors: list[Tensor]) -> int:
    """Bytes of the memory behind tensors, each piece once."""
    return sum({part.untyped_storage().data_ptr(): part.untyped_storage().nbytes() for part in tensors}.values())


def task_of(pair: str) -> tuple[PixelUNet, DenoisingLoss]:
    if pair == "embedded":
        prior = pixel_unet.load("procgen")
        adapter = AVID(Remembering(prior, ROTATION), num_actions=15)
        return prior, frames_task(adapter, prior.schedule, seed=0)
    prior = PixelUNet(PixelUNetSettings("avid_unet", PAPER, schedule="sigmoid", num_levels=200)).frozen()
    adapter = AVID(prior, model="avid_unet", num_actions=15)
    return prior, DenoisingLoss(adapter, prior.schedule, loss=clean_loss)


def measure(pair: str, batch: int) -> float:
    """Train a few steps, print what the last took, and answer the ratio of its peak to what it cannot do without."""
    keep_freed_memory()
    clips = Clips(samples.coinrun())
    clip = clips.batch(clips.draw(0, 0, batch))
    before = own_memory()
    prior, task = task_of(pair)
    trained = [value for value in task.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    average = [value.detach().clone() for value in trained]
    weights = [*prior.parameters(), *prior.buffers(), *task.parameters(), *task.buffers()]
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    def loss_at(step: int) -> Tensor:
        return task(clip, step=step, samples=range(batch)).mean()

    def learn(loss: Tensor) -> None:
        loss.backward()
        optimizer.step()
        torch._foreach_lerp_(average, [value.detach() for value in trained], 0.01)

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = loss_at(0)
    others = [*weights, clip.video, *clip.given.facts().values()]
    activations = size([*kept, *others]) - size(others)
    kept.clear()
    learn(loss)
    gradients = size([value.grad for value in trained if value.grad is not None])
    lasting = size([part for parts in optimizer.state.values() for part in parts.values()]) + size(average)
    del loss
    optimizer.zero_grad()
    answers = getattr(task.denoiser.prior, "answers", {})
    if answers:
        for step in range(1, ROTATION):
            loss_at(step)
    remembered = size([tensor for tensor, _ in answers.values()])
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        learn(loss_at(ROTATION))
    peak = size(weights) + lasting + remembered + highest(record)
    needed = size(weights) + gradients + lasting + activations
    figures = (size(weights), gradients + lasting, activations, needed, peak)
    print(f"{f'{pair}, {batch} clips':24}{''.join(f'{figure / 2**20:>12.0f}' for figure in figures)}", end="")
    print(f"{peak / needed:>8.2f}{(own_memory() - before) / 2**20:>10.0f}")
    return peak / needed


def highest(record: profile) -> int:
    """The most bytes that lived at once, of all that was allocated since the record began."""
    changes = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes.sort(key=lambda event: event.start_ns())
    return int(np.cumsum([event.nbytes() for event in changes]).max())


def main() -> None:
    print(
        f"{'MiB':24}{'weights':>12}{'state':>12}{'activations':>12}{'needed':>12}{'peak':>12}{'ratio':>8}{'process':>10}"
    )
    sys.stdout.flush()
    for pair, batch in (("embedded", 8), ("embedded", 16), ("AVID-22M", 2)):
        process = multiprocessing.get_context("spawn").Process(target=measure, args=(pair, batch))
        process.start()
        process.join()


if __name__ == "__main__":
    main()
