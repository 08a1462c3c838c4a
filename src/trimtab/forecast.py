"""What a training will need in memory, time, disk and operations, measured on a few of its steps; knows no model."""

from __future__ import annotations

import json
import resource
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich import print
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from trimtab.core.files import write_whole
from trimtab.training import Budget, ClipSource, Run, fit

FORECAST = "forecast.json"

TRIED = 12
"""Steps that are tried, after a first."""


@dataclass(frozen=True)
class Needs:
    """Of one training.

    Attributes:
        memory: bytes that the process itself held at its peak, or of the GPU if there is one.
        seconds: of training.
        steps: of the optimizer.
        disk: bytes in the run folder at the end.
    """

    memory: int
    seconds: float
    steps: int
    disk: int

    def __str__(self) -> str:
        return (
            f"memory {self.memory / 2**30:.2f} GiB, time {self.seconds / 60:.1f} minutes for {self.steps} steps, "
            f"disk {self.disk / 2**20:.0f} MiB"
        )


def together(needs: Sequence[Needs]) -> Needs:
    """Of several trainings, one after another."""
    return Needs(
        memory=max((some.memory for some in needs), default=0),
        seconds=sum((some.seconds for some in needs), 0.0),
        steps=sum(some.steps for some in needs),
        disk=sum(some.disk for some in needs),
    )


def told(folder: Path) -> Needs:
    """What was forecast for a training in this folder, in a dry run."""
    return Needs(**json.loads((folder / FORECAST).read_text()))


def fit_or_forecast(
    dry_run: bool, task: nn.Module, clips: ClipSource, budget: Budget, *, folder: Path, **options: Any
) -> Run | None:
    """`fit`; what it needed is kept in needs.json, and said beside what was forecast. With `dry_run` the forecast alone.

    The options are those of `fit`.
    """
    if dry_run:
        needs = forecast(task, clips, budget, **options)
        write_whole(folder / FORECAST, json.dumps(asdict(needs), indent=1) + "\n")
        print(f"{options.get('title', 'training')} will need: {needs}")
        return None
    run = fit(task, clips, budget, folder=folder, **options)
    disk = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    needs = Needs(peak_memory(), run.seconds, run.step, disk)
    path = folder / "needs.json"
    if path.exists() and json.loads(path.read_text())["steps"] == run.step:
        return run  # nothing was left to do, which needs next to nothing
    write_whole(path, json.dumps(asdict(needs), indent=1) + "\n")
    if (folder / FORECAST).exists() and told(folder).steps == run.step:  # else it was of another training
        print(f"forecast: {told(folder)}\nneeded:   {needs}")
    return run


def taken(model: nn.Module, run: Run, teraflops: float) -> dict[str, Any]:
    """What a training took, for the record: weights trained, steps, 10^12 operations in each, and seconds in all."""
    return {
        "parameters": sum(value.numel() for value in model.parameters() if value.requires_grad),
        "steps": run.step,
        "teraflops a step": teraflops,
        "seconds": run.seconds,
    }


def forecast(
    task: nn.Module,
    clips: ClipSource,
    budget: Budget,
    *,
    lengths: Sequence[int] = (8,),
    passes: int = 1,
    **options: Any,
) -> Needs:
    """Try a few steps on the shortest and the longest clips, and reckon from them what `fit` of the same arguments needs.

    The weights are afterwards what they were before. The time of a step is taken as linear in the length of its clips;
    evaluations count for memory, but not as time of training.
    """
    kept = {name: value.detach().clone() for name, value in task.state_dict().items()}
    pace, disk, tried = {}, 0, max(TRIED, 3 * passes)
    with tempfile.TemporaryDirectory() as place:
        for length in sorted({min(lengths), max(lengths)}):
            trial = Path(place) / str(length)
            trying = {"title": "trial", "log_every": 1, "evaluate_every": tried, "passes": passes, "rotation": 1}
            run = fit(task, clips, Budget(steps=1 + tried), folder=trial, lengths=(length,), **options | trying)
            seconds = np.diff([line["seconds"] for line in run.curve])[: tried // passes * passes]
            pace[length] = float(np.median(seconds.reshape(-1, passes), axis=0).mean())  # some passes ask the prior
            disk = (trial / "state.safetensors").stat().st_size
    task.load_state_dict(kept)
    low, high = min(pace), max(pace)
    per_frame = (pace[high] - pace[low]) / max(high - low, 1)
    per_step = sum(pace[low] + per_frame * (length - low) for length in lengths) / len(lengths)
    steps = budget.steps or round((budget.seconds or 0) / per_step)
    lines = steps // options.get("log_every", 20)
    if steps * per_step > options.get("save_every_seconds", 60.0):
        disk *= 2  # the state before the last is kept too
    return Needs(peak_memory(), steps * per_step, steps, disk + 400 * lines)


def operations_per_step(
    task: nn.Module,
    clips: ClipSource,
    *,
    batch_size: int,
    lengths: Sequence[int] = (8,),
    passes: int = 1,
    seed: int = 0,
) -> float:
    """Floating-point operations of a training step, of convolutions and matrix products, there and back (torch's counter).

    The mean over `lengths` and `passes`, as `fit` takes each as often; a multiply-add counts as two.
    """
    counted = {}
    for length in set(lengths):
        samples = clips.draw(seed, 0, batch_size)
        clip = clips.batch(samples, length)
        with FlopCounterMode(display=False) as counter:
            for _ in range(passes):
                task(clip, step=0, samples=torch.from_numpy(samples)).mean().backward()
        counted[length] = counter.get_total_flops() / passes
    task.zero_grad()
    return sum(counted[length] for length in lengths) / len(lengths)


def peak_memory() -> int:
    """Bytes that this process (or on a GPU, its tensors) held at its peak."""
    return torch.cuda.max_memory_reserved() if torch.cuda.is_available() else own_memory()


def own_memory() -> int:
    """Bytes of this process alone, without pages of mapped data sets, which the system takes back at will.

    As freed memory is kept (`keep_freed_memory`), it is the peak, too. Where there is no /proc, the peak with such pages.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("RssAnon"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
