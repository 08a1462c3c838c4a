"""The one training loop; knows neither which model it trains nor where clips come from.

Every draw is a function of (seed, step), so the whole state of a run is its weights, their running average, the
optimizer and a few counters: one file, written atomically, from which an interrupted run goes on as if nothing had
happened. The one before it is kept too, in case the last is damaged.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from rich import print
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

from trimtab.core.files import alone_in, write_whole
from trimtab.core.values import Clip
from trimtab.networks import storage
from trimtab.networks.optimizers import Kind, optimizer_of
from trimtab.networks.sharding import gathered, put_together, shard, split_like, whole

ROTATION = 8
"""Batches that are trained on in turn, where each is trained on more than once. What a prior answered about all of them is
remembered, and should take little memory beside the adapter's own activations."""


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
    """What training has come to: counters, the averaged weights and the curve of (step, seconds, loss).

    Steps whose gradient was not finite changed nothing; they are counted in `skipped` too.
    """

    step: int
    seconds: float
    average: dict[str, Tensor]
    curve: list[dict[str, float]]
    skipped: int = 0


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
    max_skipped: int = 10,
    lengths: Sequence[int] = (8,),
    passes: int = 1,
    rotation: int = ROTATION,
    seed: int = 0,
    log_every: int = 20,
    save_every_seconds: float = 60.0,
    evaluate: Callable[[], dict[str, float]] | None = None,
    evaluate_every: int = 200,
    split: bool = False,
    optimizer: Kind = "adamw",
) -> Run:
    """Train what of `task` requires gradients, and leave the averaged weights in it.

    Args:
        task: called as ``task(clip, step=, samples=)``, gives the loss of each sample, (batch,). It is trained on a GPU if
            there is one, and afterwards back where it was.
        clips: `draw(seed, step, num)` numbers of clips, and `batch(numbers, num_frames)` of them.
        budget: seconds of training (pauses between pieces of an interrupted run do not count) or optimizer steps.
        folder: keeps state.safetensors to resume from, log.jsonl and TensorBoard events; a run found there goes on.
        title: for the progress bar.
        batch_size: clips in a step, over all processes; a multiple of their number.
        learning_rate: of the optimizer, after `warm_up` steps; falls to zero linearly over the last `cool_down` share of the
            budget.
        weight_decay: of the optimizer.
        average_decay: of the running average of the trained weights, updated once a step; shorter at the start of a
            run.
        max_gradient: the gradient norm above which gradients are scaled down.
        max_skipped: batches without a finite gradient that are passed over before training stops.
        lengths: numbers of frames to predict; each step takes one of them in turn, by (seed, step).
        passes: how often each batch is trained on, noise included: a prior that remembers is asked once for all of them.
        rotation: so many batches are trained on in turn before the first comes again.
        seed: of all draws.
        log_every: steps between two lines of the log.
        save_every_seconds: between two saves of the state.
        evaluate: figures for the log, measured on the averaged weights every `evaluate_every` steps.
        split: keep only a share of the trained weights, their gradients, optimizer state and average in each process of
            `torchrun`. An interrupted run then goes on from its last save.
        optimizer: "adamw"; or "muon", which makes the updates of linear maps orthogonal, and of which every process needs
            whole weights.

    Raises:
        ValueError: `folder` cannot be written to, or another process trains in it; its states are damaged or belong to
            another task; the batch cannot be shared by the processes; or `passes` or `rotation` is below 1; or weights
            are to be split that the optimizer needs whole.
        OSError: the state could not be saved, as on a full disk; the last one that was is kept.
        FloatingPointError: more than `max_skipped` batches had no finite gradient.
    """
    if min(passes, rotation) < 1:
        raise ValueError(f"passes and rotation are at least 1, not {passes} and {rotation}")
    if split and optimizer != "adamw":
        raise ValueError(f"split weights are trained by adamw; {optimizer} needs them whole")
    accelerator = Accelerator(log_with="tensorboard", project_dir=writable(folder), cpu=not torch.cuda.is_available())
    if batch_size % accelerator.num_processes:
        raise ValueError(f"{accelerator.num_processes} processes cannot share a batch of {batch_size}; take a multiple")
    accelerator.init_trackers("tensorboard")
    home = next(task.parameters()).device
    task.to(accelerator.device).train()
    trained = {name: value for name, value in task.named_parameters() if value.requires_grad}
    if not trained:
        raise ValueError("nothing to train: no parameter of the task requires gradients")
    if split:
        shard(task, accelerator.device)
        trained = {name: value for name, value in task.named_parameters() if value.requires_grad}
    descent = optimizer_of(optimizer, task, trained, learning_rate, weight_decay)
    state, run = folder / "state.safetensors", resume(folder / "state.safetensors", trained, descent)
    module, stepper = (task if split else accelerator.prepare(task)), accelerator.prepare(descent)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    progress = Progress(*columns, TextColumn("{task.fields[note]}"), disable=not accelerator.is_main_process)
    shown = progress.add_task(title, total=1.0, note="")
    last_save, between_steps = run.seconds, True
    mine = alone_in(folder) if accelerator.is_main_process else nullcontext()
    with mine, progress, Path(folder / "log.jsonl" if accelerator.is_main_process else os.devnull).open("w") as log:
        log.writelines(json.dumps(line) + "\n" for line in run.curve)  # without what came after the state was saved
        progress.console.print(f"{title}: state and log in {folder}" + (f", from step {run.step}" if run.step else ""))
        try:
            while (spent := budget.spent(run)) < 1:
                started = time.perf_counter()
                rate = learning_rate * min(1.0, (run.step + 1) / max(warm_up, 1), (1 - spent) / max(cool_down, 1e-9))
                for group in descent.param_groups:
                    group["lr"] = rate
                draw = drawn(run.step, passes, rotation)
                length = lengths[int(np.random.default_rng([seed, draw, 1]).integers(len(lengths)))]
                samples = clips.draw(seed, draw, batch_size)[accelerator.process_index :: accelerator.num_processes]
                clip = clips.batch(samples, length).to(accelerator.device)
                loss = module(clip, step=draw, samples=torch.from_numpy(samples)).mean()
                accelerator.backward(loss)
                gradient = float(whole(accelerator.clip_grad_norm_(trained.values(), max_gradient)))
                usable = math.isfinite(gradient)
                if not usable:
                    told = f"step {run.step} has loss {loss.item()} and gradient {gradient}"
                    if run.skipped == max_skipped:
                        raise FloatingPointError(
                            f"{told}, after {max_skipped} batches that were skipped for the same reason; "
                            "lower the learning rate, or look for values in the data that are not finite"
                        )
                    progress.console.print(f"{told}: batch skipped, {run.skipped + 1} of at most {max_skipped}")
                between_steps = False
                if usable:
                    stepper.step()
                    update_average(run.average, trained, min(average_decay, (run.step + 1) / (run.step + 10)))
                stepper.zero_grad()
                run.step, run.skipped = run.step + 1, run.skipped + int(not usable)
                run.seconds = agreed(run.seconds + time.perf_counter() - started, accelerator)
                between_steps = True
                if usable and (run.step % log_every == 0 or run.step == 1):
                    figures = {
                        "loss": accelerator.gather(loss.detach()).mean().item(),
                        "rate": rate,
                        "gradient": gradient,
                    }
                    if evaluate is not None and run.step % evaluate_every == 0:
                        with averaged(trained, run.average), gathered(task):
                            figures |= evaluate()
                    run.curve.append({"step": run.step, "seconds": round(run.seconds, 4), **figures})
                    log.write(json.dumps(run.curve[-1]) + "\n")
                    log.flush()
                    accelerator.log(figures, step=run.step)
                progress.update(
                    shown, completed=min(budget.spent(run), 1.0), note=f"step {run.step}, loss {loss.item():.3f}"
                )
                if run.seconds - last_save > save_every_seconds:
                    save(state, run, trained, descent, accelerator)
                    last_save = run.seconds
            save(state, run, trained, descent, accelerator)
            between_steps = False
            with torch.no_grad():
                for name, value in trained.items():
                    value.copy_(run.average[name])
            put_together(task, home)
            run.average = {name: whole(value).to(home) for name, value in run.average.items()}
        finally:  # Ctrl-C, too, keeps what was done; amid the update of the weights, what was saved last
            if between_steps and not split:
                save(state, run, trained, descent, accelerator)
            accelerator.end_training()  # after which processes can gather nothing more
    task.eval()
    return run


def drawn(step: int, passes: int, rotation: int) -> int:
    """The number of the batch that a step trains on: a rotation of them, so many times over, then the next."""
    return step // (rotation * passes) * rotation + step % rotation


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


def agreed(seconds: float, accelerator: Accelerator) -> float:
    """The first process's clock, so that all stop at the same step."""
    if accelerator.num_processes == 1:
        return seconds
    return float(broadcast(torch.tensor(seconds, dtype=torch.float64, device=accelerator.device)))


def save(
    path: Path,
    run: Run,
    trained: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
) -> None:
    """Write the whole state of a run to one file, and keep the one that was there. Raises OSError if that fails.

    The first process writes it; of split weights all give their shares.
    """
    tensors = {f"average/{name}": whole(value) for name, value in run.average.items()}
    for name, value in trained.items():
        tensors[f"weights/{name}"] = whole(value)
        for key, part in optimizer.state.get(value, {}).items():
            tensors[f"{key}/{name}"] = whole(part)
    if not accelerator.is_main_process:
        return
    if path.exists():
        os.replace(path, before(path))
    try:
        storage.write(
            path,
            tensors,
            {
                "step": run.step,
                "seconds": run.seconds,
                "skipped": run.skipped,
                "curve": run.curve,
                "optimizer": type(optimizer).__name__,
            },
        )
    except OSError as error:
        kept = f", the run goes on from its last save, {before(path).name}" if before(path).exists() else ""
        raise OSError(
            f"cannot save step {run.step} to {path} ({error.strerror or error}); make room and start again{kept}"
        ) from error


def before(path: Path) -> Path:
    """Where the state that was saved before the last one is kept."""
    return path.with_name(f"{path.stem}-before{path.suffix}")


def last_saved(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The state at `path`, or the one before it if that is missing or damaged, which is said; None without either.

    A damaged state is put aside under another name. Raises ValueError if there is no undamaged one.
    """
    problem = None
    for candidate in (path, before(path)):
        if not candidate.exists():
            continue
        try:
            found = storage.read(candidate)
        except ValueError as error:
            problem = problem or error
            continue
        if candidate != path:
            if path.exists():
                os.replace(path, path.with_name(f"{path.stem}-damaged{path.suffix}"))
            print(f"{problem or f'{path} is missing'}; going on from the state before it, step {found[1]['step']}")
        return found
    if problem is not None:
        raise problem
    return None


def resume(path: Path, trained: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> Run:
    """The run that was saved at `path`, its weights and optimizer state in place; a new run if there is none."""
    found = last_saved(path)
    if found is None:
        return Run(0, 0.0, {name: value.detach().clone() for name, value in trained.items()}, [])
    tensors, counters = found
    saved = {key.split("/", 1)[1]: tuple(value.shape) for key, value in tensors.items() if key.startswith("weights/")}
    if saved != {name: tuple(value.shape) for name, value in trained.items()}:
        raise ValueError(
            f"{path} is the state of another model ({len(saved)} trained tensors, not these {len(trained)}); "
            "continue with the settings it was started with, or choose another folder"
        )
    if (theirs := counters.get("optimizer", "AdamW")) != type(optimizer).__name__:
        raise ValueError(
            f"{path} is the state of a run by {theirs}, not {type(optimizer).__name__}; continue with the optimizer it was "
            "started with, or choose another folder"
        )
    average = {}
    with torch.no_grad():
        for name, value in trained.items():
            value.copy_(split_like(tensors[f"weights/{name}"], value))
            average[name] = split_like(tensors[f"average/{name}"], value)
            known = [key for key in ("exp_avg", "exp_avg_sq", "momentum") if f"{key}/{name}" in tensors]
            if known:
                optimizer.state[value] = {key: split_like(tensors[f"{key}/{name}"], value) for key in known}
            if f"step/{name}" in tensors:
                optimizer.state[value]["step"] = tensors[f"step/{name}"]
    return Run(counters["step"], counters["seconds"], average, counters["curve"], counters.get("skipped", 0))


def writable(folder: Path) -> Path:
    """The folder, made if need be. Raises ValueError if nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(2**20))  # a full disk may still take an empty file
    except OSError as error:
        raise ValueError(f"cannot write to {folder} ({error.strerror}); make room, or choose another folder") from error
    return folder


def record_settings(folder: Path, command: str, settings: Mapping[str, Any], *, dry_run: bool = False) -> None:
    """Write settings.json, which `trimtab <command> --settings` takes for defaults; not in a dry run.

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
    elif not dry_run:
        versions = {name: version(name) for name in ("trimtab", "torch", "numpy", "accelerate")}
        write_whole(path, json.dumps({"command": command, "settings": plain, "versions": versions}, indent=2) + "\n")
