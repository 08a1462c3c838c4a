"""The one training loop; knows neither which model it trains nor where clips come from.

Every draw is a function of (seed, step), so the whole state of a run is its weights, their running average, the
optimizer and two
counters: one file, written atomically, from which an interrupted run goes on as if nothing had happened.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from accelerate import Accelerator
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

from trimtab.core.values import Clip
from trimtab.networks import storage


@runtime_checkable
class ClipSource(Protocol):
    """Where clips come from."""

    def draw(self, seed: int, step: int, num: int) -> np.ndarray: ...

    def batch(self, indices: np.ndarray, num_frames: int | None = None) -> Clip: ...


@dataclass(frozen=True)
class Budget:
    """How long to train: until `seconds` of training time are spent, or `steps` are done, whichever is given."""

    seconds: float | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        if (self.seconds is None) == (self.steps is None) or (self.seconds or self.steps or 0) <= 0:
            raise ValueError(
                "a budget is a positive number of seconds or of steps, one of the two; "
                f"got {self.seconds} seconds and {self.steps} steps"
            )

    def spent(self, run: Run) -> float:
        """The share of the budget that is spent, 1 or more when it is used up."""
        return run.seconds / self.seconds if self.seconds is not None else run.step / max(self.steps or 0, 1)


@dataclass
class Run:
    """What training has come to: counters, the averaged weights and the curve of (step, seconds, loss)."""

    step: int
    seconds: float
    average: dict[str, Tensor]
    curve: list[dict[str, float]]


def fit(
    task: nn.Module,
    clips: ClipSource,
    budget: Budget,
    *,
    folder: Path,
    title: str = "training",
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    warm_up: int = 50,
    cool_down: float = 0.3,
    weight_decay: float = 0.01,
    average_decay: float = 0.999,
    max_gradient: float = 1.0,
    lengths: Sequence[int] = (8,),
    seed: int = 0,
    log_every: int = 20,
    save_every_seconds: float = 60.0,
    evaluate: Callable[[], dict[str, float]] | None = None,
    evaluate_every: int = 200,
) -> Run:
    """Train what of `task` requires gradients, and leave the averaged weights in it.

    Args:
        task: called as ``task(clip, step=, samples=)``, gives the loss of each sample, (batch,).
        clips: `draw(seed, step, num)` numbers of clips, and `batch(numbers, num_frames)` of them.
        budget: seconds of training (pauses between pieces of an interrupted run do not count) or optimizer steps.
        folder: keeps state.safetensors to resume from, log.jsonl and TensorBoard events; a run found there goes on.
        title: for the progress bar.
        batch_size: clips in a step, over all processes.
        learning_rate: of AdamW, after `warm_up` steps; falls to zero linearly over the last `cool_down` share of the
            budget.
        weight_decay: of AdamW.
        average_decay: of the running average of the trained weights, updated once a step; shorter at the start of a
            run.
        max_gradient: the gradient norm above which gradients are scaled down.
        lengths: numbers of frames to predict; each step takes one of them in turn, by (seed, step).
        seed: of all draws.
        log_every: steps between two lines of the log.
        save_every_seconds: between two saves of the state.
        evaluate: figures for the log, measured on the averaged weights every `evaluate_every` steps.

    Raises:
        ValueError: `folder` cannot be written to, or its state is damaged or belongs to another task.
        FloatingPointError: the loss is not finite.
    """
    accelerator = Accelerator(log_with="tensorboard", project_dir=writable(folder), cpu=not torch.cuda.is_available())
    accelerator.init_trackers("tensorboard")
    task.to(accelerator.device).train()
    trained = {name: value for name, value in task.named_parameters() if value.requires_grad}
    if not trained:
        raise ValueError("nothing to train: no parameter of the task requires gradients")
    optimizer = torch.optim.AdamW(trained.values(), learning_rate, betas=(0.9, 0.99), weight_decay=weight_decay)
    state, run = folder / "state.safetensors", resume(folder / "state.safetensors", trained, optimizer)
    module, stepper = accelerator.prepare(task, optimizer)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    progress = Progress(*columns, TextColumn("{task.fields[note]}"), disable=not accelerator.is_main_process)
    shown = progress.add_task(title, total=1.0, note="")
    last_save, whole = time.perf_counter(), True
    with progress, Path(folder / "log.jsonl" if accelerator.is_main_process else os.devnull).open("w") as log:
        log.writelines(json.dumps(line) + "\n" for line in run.curve)  # without what came after the state was saved
        progress.console.print(f"{title}: state and log in {folder}" + (f", from step {run.step}" if run.step else ""))
        try:
            while (spent := budget.spent(run)) < 1:
                started = time.perf_counter()
                rate = learning_rate * min(1.0, (run.step + 1) / max(warm_up, 1), (1 - spent) / max(cool_down, 1e-9))
                for group in optimizer.param_groups:
                    group["lr"] = rate
                length = lengths[int(np.random.default_rng([seed, run.step, 1]).integers(len(lengths)))]
                samples = clips.draw(seed, run.step, batch_size)[accelerator.process_index :: accelerator.num_processes]
                clip = clips.batch(samples, length).to(accelerator.device)
                loss = module(clip, step=run.step, samples=torch.from_numpy(samples)).mean()
                accelerator.backward(loss)
                gradient = float(accelerator.clip_grad_norm_(trained.values(), max_gradient))
                if not math.isfinite(gradient):
                    raise FloatingPointError(
                        f"step {run.step} has loss {loss.item()} and gradient {gradient}; lower the learning rate"
                    )
                whole = False
                stepper.step()
                stepper.zero_grad()
                run.step += 1
                update_average(run.average, trained, min(average_decay, run.step / (run.step + 9)))
                run.seconds += time.perf_counter() - started
                whole = True
                if run.step % log_every == 0 or run.step == 1:
                    figures = {
                        "loss": accelerator.gather(loss.detach()).mean().item(),
                        "rate": rate,
                        "gradient": gradient,
                    }
                    if evaluate is not None and run.step % evaluate_every == 0:
                        with averaged(trained, run.average):
                            figures |= evaluate()
                    run.curve.append({"step": run.step, "seconds": round(run.seconds, 2), **figures})
                    log.write(json.dumps(run.curve[-1]) + "\n")
                    log.flush()
                    accelerator.log(figures, step=run.step)
                progress.update(
                    shown, completed=min(budget.spent(run), 1.0), note=f"step {run.step}, loss {loss.item():.3f}"
                )
                if time.perf_counter() - last_save > save_every_seconds and accelerator.is_main_process:
                    save(state, run, trained, optimizer)
                    last_save = time.perf_counter()
        finally:  # Ctrl-C, too, keeps what was done; amid the update of the weights, what was saved last
            if whole and accelerator.is_main_process:
                save(state, run, trained, optimizer)
            accelerator.end_training()
    with torch.no_grad():
        for name, value in trained.items():
            value.copy_(run.average[name])
    task.eval()
    return run


def update_average(average: dict[str, Tensor], trained: dict[str, nn.Parameter], decay: float) -> None:
    with torch.no_grad():
        torch._foreach_lerp_(list(average.values()), [trained[name] for name in average], 1 - decay)


@contextmanager
def averaged(trained: Mapping[str, nn.Parameter], average: Mapping[str, Tensor]) -> Iterator[None]:
    """The averaged weights in place of the trained ones, for the time of an evaluation."""
    kept = {name: value.detach().clone() for name, value in trained.items()}
    with torch.no_grad():
        try:
            for name, value in trained.items():
                value.copy_(average[name])
            yield
        finally:
            for name, value in trained.items():
                value.copy_(kept[name])


def save(path: Path, run: Run, trained: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    """Write the whole state of a run to one file."""
    tensors = {f"average/{name}": value for name, value in run.average.items()}
    for name, value in trained.items():
        tensors[f"weights/{name}"] = value
        for key, part in optimizer.state.get(value, {}).items():
            tensors[f"{key}/{name}"] = part
    storage.write(path, tensors, {"step": run.step, "seconds": run.seconds, "curve": run.curve})


def resume(path: Path, trained: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> Run:
    """The run that was saved at `path`, its weights and optimizer state in place; a new run if there is none."""
    if not path.exists():
        return Run(0, 0.0, {name: value.detach().clone() for name, value in trained.items()}, [])
    tensors, counters = storage.read(path)
    saved = {key.split("/", 1)[1]: tuple(value.shape) for key, value in tensors.items() if key.startswith("weights/")}
    if saved != {name: tuple(value.shape) for name, value in trained.items()}:
        raise ValueError(
            f"{path} is the state of another model ({len(saved)} trained tensors, not these {len(trained)}); "
            "continue with the settings it was started with, or choose another folder"
        )
    average = {}
    with torch.no_grad():
        for name, value in trained.items():
            value.copy_(tensors[f"weights/{name}"])
            average[name] = tensors[f"average/{name}"].to(value.device)
            if f"exp_avg/{name}" in tensors:
                keys = ("exp_avg", "exp_avg_sq")
                optimizer.state[value] = {key: tensors[f"{key}/{name}"].to(value.device) for key in keys}
                optimizer.state[value]["step"] = tensors[f"step/{name}"]
    return Run(counters["step"], counters["seconds"], average, counters["curve"])


def writable(folder: Path) -> Path:
    """The folder, made if need be. Raises ValueError if nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"cannot write to {folder} ({error.strerror}); choose another folder") from error
    return folder


def record_settings(folder: Path, command: str, settings: Mapping[str, Any]) -> None:
    """Write settings.json, from which `trimtab <command> --settings` repeats a run.

    Raises ValueError if the folder cannot be written to, or holds a run of other settings.
    """
    plain = json.loads(json.dumps(dict(settings), default=str))
    path = writable(folder) / "settings.json"
    if path.exists():
        found = json.loads(path.read_text())["settings"]
        if changed := [
            f"{name} {found.get(name)!r}, not {value!r}" for name, value in plain.items() if found.get(name) != value
        ]:
            raise ValueError(
                f"{folder} holds a run with other settings ({', '.join(changed)}); choose another output folder"
            )
        return
    versions = {name: version(name) for name in ("trimtab", "torch", "numpy", "accelerate")}
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps({"command": command, "settings": plain, "versions": versions}, indent=2) + "\n")
    os.replace(partial, path)
