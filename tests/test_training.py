"""The training loop: against a plain loop written by hand, and interrupted wherever it can be."""

import itertools
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trimtab import training
from trimtab.core.files import alone_in
from trimtab.core.values import Clip, Conditioning
from trimtab.diffusion.losses import DenoisingLoss
from trimtab.networks import storage
from trimtab.priors.pixel_unet import PixelUNet, PixelUNetSettings
from trimtab.training import Budget, ClipSource, Run, fit, record_settings

MIX = torch.tensor([[0.5, 0.2, 0.0], [0.0, -0.7, 0.3], [0.1, 0.0, 0.9]])


class Source:
    """Clips whose every frame is the last context frame with its colours mixed; `before` may spoil a call."""

    def __init__(self, before: Callable[[str, int], None] = lambda call, step: None, side: int = 2) -> None:
        self.before, self.side, self.step = before, side, 0
        self.drawn: list[tuple[int, int]] = []
        self.lengths: list[int | None] = []

    def draw(self, seed: int, step: int, num: int) -> np.ndarray:
        self.step = step
        self.before("draw", step)
        self.drawn.append((seed, step))
        return np.random.default_rng([seed, step]).integers(100, size=num)

    def batch(self, indices: np.ndarray, num_frames: int | None = None) -> Clip:
        self.before("batch", self.step)
        self.lengths.append(num_frames)
        context = torch.stack(
            [torch.rand(2, 3, self.side, self.side, generator=torch.Generator().manual_seed(int(i))) for i in indices]
        )
        mixed = torch.einsum("ij,bjhw->bihw", MIX, context[:, -1])
        video = mixed[:, None].expand(-1, num_frames or 8, -1, -1, -1).clone()
        return Clip(2 * video - 1, Conditioning(context=2 * context - 1))


class Colours(nn.Module):
    """Learns the mixture; a part of it is frozen. `before` may spoil the loss of a step."""

    def __init__(self, spoil: Callable[[int], float] = lambda step: 1.0) -> None:
        super().__init__()
        self.mix, self.spoil = nn.Linear(3, 3, bias=False), spoil
        self.scale = nn.Parameter(torch.full((3,), 0.5), requires_grad=False)
        self.seen: list[Tensor] = []
        with torch.no_grad():
            self.mix.weight.copy_(torch.eye(3))

    def forward(self, clip: Clip, *, step: int, samples: Tensor) -> Tensor:
        assert clip.given.context is not None
        assert len(samples) == len(clip.video)
        self.seen.append(self.mix.weight.detach().clone())
        guess = self.mix(clip.given.context[:, -1].movedim(1, -1)) * self.scale
        errors = (guess - clip.video[:, 0].movedim(1, -1)) ** 2
        return errors.flatten(1).mean(1) * self.spoil(step)


def train(folder: Path, task: nn.Module | None = None, clips: ClipSource | None = None, **options: Any) -> Run:
    """Ten steps of a quick task, unless told otherwise."""
    settings: dict[str, Any] = {"budget": Budget(steps=10), "batch_size": 4, "learning_rate": 0.05, "warm_up": 2}
    settings |= {"log_every": 1, **options}
    return fit(task or Colours(), clips or Source(), folder=folder, **settings)


def stop_at(place: str, step: int) -> Callable[[str, int], None]:
    def before(call: str, now: int) -> None:
        if (call, now) == (place, step):
            raise KeyboardInterrupt

    return before


def state(folder: Path) -> dict[str, Tensor]:
    return storage.read(folder / "state.safetensors")[0]


def same(first: Path, second: Path) -> bool:
    """Whether two runs are at the same point: weights, averages and optimizer, bit for bit."""
    one, other = state(first), state(second)
    counters = [storage.read(folder / "state.safetensors")[1]["step"] for folder in (first, second)]
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one) and len(set(counters)) == 1


def log_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


# What a run does


def test_a_run_equals_a_plain_loop_written_by_hand(tmp_path: Path) -> None:
    task = Colours()
    run = train(tmp_path, task, weight_decay=0.1, max_gradient=0.5, average_decay=0.7, cool_down=0.5, lengths=(3,))

    weight, source = nn.Parameter(torch.eye(3)), Source()
    mean, second, average = torch.zeros(3, 3), torch.zeros(3, 3), torch.eye(3)
    for step in range(10):
        clip = source.batch(source.draw(0, step, 4), 3)
        assert clip.given.context is not None
        guess = torch.einsum("ij,bjhw->bihw", weight, clip.given.context[:, -1]) * 0.5
        (gradient,) = torch.autograd.grad(((guess - clip.video[:, 0]) ** 2).mean(), weight)
        gradient = gradient * min(1.0, 0.5 / (gradient.norm().item() + 1e-6))
        rate = 0.05 * min(1.0, (step + 1) / 2, (1 - step / 10) / 0.5)
        mean, second = 0.9 * mean + 0.1 * gradient, 0.99 * second + 0.01 * gradient**2
        update = (mean / (1 - 0.9 ** (step + 1))) / ((second / (1 - 0.99 ** (step + 1))).sqrt() + 1e-8)
        with torch.no_grad():
            weight.copy_(weight * (1 - rate * 0.1) - rate * update)
        decay = min(0.7, (step + 1) / (step + 10))
        average = decay * average + (1 - decay) * weight.detach()

    saved = state(tmp_path)
    torch.testing.assert_close(saved["weights/mix.weight"], weight.detach(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(saved["average/mix.weight"], average, rtol=1e-4, atol=1e-6)
    assert torch.equal(task.mix.weight, saved["average/mix.weight"])
    assert torch.equal(run.average["mix.weight"], saved["average/mix.weight"])
    assert run.step == 10


def test_only_trained_parts_move_are_averaged_and_are_kept(tmp_path: Path) -> None:
    task = Colours()
    run = train(tmp_path, task)
    assert set(run.average) == {"mix.weight"}
    assert {name.split("/", 1)[1] for name in state(tmp_path)} == {"mix.weight"}
    assert torch.equal(task.scale, torch.full((3,), 0.5))
    assert not task.training


def test_without_averaging_the_last_weights_are_left_in_the_task(tmp_path: Path) -> None:
    task = Colours()
    train(tmp_path, task, average_decay=0.0)
    assert torch.equal(task.mix.weight, state(tmp_path)["weights/mix.weight"])
    assert not torch.equal(task.mix.weight, task.seen[-1])


def test_the_loss_of_a_video_prior_falls_and_its_average_is_as_good(tmp_path: Path) -> None:
    sizes = {"widths": (32,), "depths": (1,)}
    settings = PixelUNetSettings(sizes=sizes, num_frames=3, frame_shape=(3, 8, 8), num_levels=50)
    prior, source = PixelUNet(settings), Source(side=8)
    task = DenoisingLoss(prior, prior.schedule)
    judged = source.batch(np.arange(200, 232), 3)

    def held_out() -> float:
        with torch.no_grad():
            return float(task(judged, step=10**6, samples=range(32)).mean())

    before = held_out()
    run = train(
        tmp_path, task, source, budget=Budget(steps=60), batch_size=16, learning_rate=3e-3, lengths=(1, 2, 3), warm_up=5
    )
    losses = [line["loss"] for line in run.curve]
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:10])
    assert held_out() < 0.6 * before
    assert set(source.lengths) == {1, 2, 3}


def test_lengths_and_draws_are_a_function_of_seed_and_step(tmp_path: Path) -> None:
    sources = [Source() for _ in range(3)]
    for number, (source, seed) in enumerate(zip(sources, (0, 0, 1), strict=True)):
        train(tmp_path / str(number), clips=source, seed=seed, lengths=(1, 2, 5, 8))
    assert sources[0].drawn == [(0, step) for step in range(10)]
    assert sources[0].lengths == sources[1].lengths
    assert sources[0].lengths != sources[2].lengths
    assert set(sources[0].lengths) <= {1, 2, 5, 8}
    assert len(set(sources[0].lengths)) > 1


# The learning rate and the budget


def test_batches_come_again_a_rotation_later_length_and_step_included(tmp_path: Path) -> None:
    source, told = Source(), list[int]()
    task = Colours(lambda step: told.append(step) or 1.0)
    train(tmp_path, task, source, lengths=(1, 2, 3, 4), passes=2, rotation=3, budget=Budget(steps=10))
    expected = [0, 1, 2, 0, 1, 2, 3, 4, 5, 3]
    assert [step for _, step in source.drawn] == expected
    assert told == expected
    assert source.lengths == [source.lengths[expected.index(step)] for step in expected]
    with pytest.raises(ValueError, match="passes and rotation are at least 1, not 0 and 8"):
        train(tmp_path / "none", passes=0)


def test_the_learning_rate_warms_up_and_cools_down(tmp_path: Path) -> None:
    train(tmp_path, budget=Budget(steps=20), learning_rate=0.08, warm_up=4, cool_down=0.5)
    rates = [line["rate"] for line in log_of(tmp_path)]
    falling = [0.08 * left / 10 for left in range(10, 0, -1)]
    assert np.allclose(rates, [0.02, 0.04, 0.06, *[0.08] * 7, *falling])


@pytest.mark.parametrize("warm_up", [0, 1])
def test_without_warm_up_and_cool_down_the_rate_is_constant(tmp_path: Path, warm_up: int) -> None:
    train(tmp_path, warm_up=warm_up, cool_down=0.0)
    assert [line["rate"] for line in log_of(tmp_path)] == [0.05] * 10


def test_seconds_of_training_are_counted_across_pieces_and_without_pauses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that moves on by one second whenever it is read: at the start and at the end of a step."""
    monkeypatch.setattr(training, "time", SimpleNamespace(perf_counter=itertools.count().__next__))

    def evaluate() -> dict[str, float]:
        return {"judged": float(sum(training.time.perf_counter() > 0 for _ in range(100)))}

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, clips=Source(stop_at("draw", 3)), budget=Budget(seconds=7.0), cool_down=0.0)
    run = train(tmp_path, budget=Budget(seconds=7.0), cool_down=0.0, evaluate=evaluate, evaluate_every=1)
    assert (run.step, run.seconds) == (7, 7.0)
    assert [line["seconds"] for line in log_of(tmp_path)] == list(range(1, 8))
    assert [line.get("judged") for line in log_of(tmp_path)] == [*[None] * 3, *[100.0] * 4]


@pytest.mark.parametrize("options", [{}, {"seconds": 1.0, "steps": 1}, {"steps": 0}, {"seconds": 0.0}, {"steps": -1}])
def test_a_budget_is_one_positive_number(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a positive number of seconds or of steps"):
        Budget(**options)


# Interruption


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    torch.manual_seed(0)
    train(folder, lengths=(1, 2, 5))
    return folder


@pytest.mark.parametrize("step", [0, 1, 6, 9])
@pytest.mark.parametrize("place", ["draw", "batch"])
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(
    whole: Path, tmp_path: Path, place: str, step: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, clips=Source(stop_at(place, step)), lengths=(1, 2, 5))
    assert storage.read(tmp_path / "state.safetensors")[1]["step"] == step
    source, task = Source(), Colours()
    with torch.no_grad():
        task.mix.weight.fill_(9)  # what the new process starts with does not matter
    run = train(tmp_path, task, source, lengths=(1, 2, 5))
    assert source.drawn == [(0, later) for later in range(step, 10)]
    assert same(tmp_path, whole)
    assert run.step == 10
    losses = [[line["loss"] for line in log_of(folder)] for folder in (tmp_path, whole)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("place", ["optimizer", "average"])
def test_a_run_interrupted_while_weights_change_goes_on_from_what_was_saved_before(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    calls = itertools.count(1)
    with monkeypatch.context() as patch:
        owner, name = (training, "update_average") if place == "average" else (torch.optim.AdamW, "step")
        change = getattr(owner, name)

        def half_done(*arguments: Any, **options: Any) -> Any:
            result = change(*arguments, **options)
            if next(calls) == 5:
                raise KeyboardInterrupt
            return result

        patch.setattr(owner, name, half_done)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, lengths=(1, 2, 5), save_every_seconds=0.0)
    assert storage.read(tmp_path / "state.safetensors")[1]["step"] == 4
    train(tmp_path, lengths=(1, 2, 5))
    assert same(tmp_path, whole)


def test_a_killed_run_goes_on_from_its_last_save_and_logs_each_step_once(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, clips=Source(stop_at("draw", 4)), lengths=(1, 2, 5))
    shutil.copy(tmp_path / "state.safetensors", tmp_path / "kept")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, clips=Source(stop_at("draw", 7)), lengths=(1, 2, 5))
    shutil.move(tmp_path / "kept", tmp_path / "state.safetensors")  # as a kill between two saves leaves it
    train(tmp_path, lengths=(1, 2, 5))
    assert same(tmp_path, whole)
    assert [line["step"] for line in log_of(tmp_path)] == list(range(1, 11))


def test_a_finished_run_is_reused(tmp_path: Path) -> None:
    first, second, source = Colours(), Colours(), Source()
    train(tmp_path, first)
    run = train(tmp_path, second, source)
    assert source.drawn == []
    assert (run.step, len(run.curve)) == (10, 10)
    assert torch.equal(first.mix.weight, second.mix.weight)
    assert [line["step"] for line in log_of(tmp_path)] == list(range(1, 11))


def test_an_evaluation_sees_the_average_and_leaves_no_trace(whole: Path, tmp_path: Path) -> None:
    task, seen = Colours(), list[Tensor]()

    def evaluate() -> dict[str, float]:
        assert not torch.is_grad_enabled()
        seen.append(task.mix.weight.clone())
        return {"judged": task.mix.weight.sum().item()}

    train(tmp_path, task, lengths=(1, 2, 5), log_every=2, evaluate=evaluate, evaluate_every=4)
    assert same(tmp_path, whole)
    assert [line["step"] for line in log_of(tmp_path) if "judged" in line] == [4, 8]
    average = torch.eye(3)  # by hand from the weights that the task was called with
    for step, weight in enumerate([*task.seen[1:], state(tmp_path)["weights/mix.weight"]], start=1):
        decay = min(0.999, step / (step + 9))
        average = decay * average + (1 - decay) * weight
        if step in (4, 8):
            torch.testing.assert_close(seen.pop(0), average)
    assert seen == []


# What is refused


def spoilt(*steps: int) -> Colours:
    """A task whose loss is not a number at some steps."""
    return Colours(lambda step: math.nan if step in steps else 1.0)


def test_a_batch_without_a_finite_loss_is_skipped_counted_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = spoilt(4, 7)
    run = train(tmp_path, task)
    assert (run.step, run.skipped) == (10, 2)
    assert torch.equal(task.seen[5], task.seen[4]), "the weights moved in a step that was skipped"
    assert not torch.equal(task.seen[6], task.seen[5])
    assert [line["step"] for line in log_of(tmp_path)] == [1, 2, 3, 4, 6, 7, 9, 10]
    assert all(value.isfinite().all() for value in state(tmp_path).values())
    assert "batch skipped, 2 of at most 10" in " ".join(capsys.readouterr().out.split())
    assert storage.read(tmp_path / "state.safetensors")[1]["skipped"] == 2


def test_too_many_batches_without_a_finite_loss_stop_and_keep_the_state_before(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match=r"step 7 has loss nan .* after 2 batches that were skipped"):
        train(tmp_path / "spoilt", spoilt(2, 4, 7), max_skipped=2)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", spoilt(2, 4), Source(stop_at("draw", 7)))
    assert same(tmp_path / "spoilt", tmp_path / "stopped")


def test_skipped_batches_are_counted_across_an_interruption(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, spoilt(2), Source(stop_at("draw", 5)))
    assert train(tmp_path, spoilt(6)).skipped == 2


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "flip": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "cut": lambda content: content[:-5],
    "other": lambda content: b"not a state",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_state_without_one_before_is_refused_and_left_alone(tmp_path: Path, damage: str) -> None:
    train(tmp_path)
    path = tmp_path / "state.safetensors"
    assert not training.before(path).exists(), "only one state was saved"
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    content = path.read_bytes()
    with pytest.raises(ValueError, match=r"state.safetensors is (damaged|not a file of trimtab's)"):
        train(tmp_path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("damage", [*DAMAGE, "missing"])
def test_after_a_damaged_state_the_one_before_goes_on_and_it_says_so(
    whole: Path, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"lengths": (1, 2, 5), "save_every_seconds": 0.0}
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, clips=Source(stop_at("draw", 6)), **options)
    path = tmp_path / "state.safetensors"
    content = path.read_bytes()
    path.unlink() if damage == "missing" else path.write_bytes(DAMAGE[damage](content))
    train(tmp_path, **options)
    said = "".join(capsys.readouterr().out.split())  # long paths are broken anywhere
    assert "goingonfromthestatebeforeit,step" in said
    assert "state.safetensorsis" in said
    assert same(tmp_path, whole)
    aside = path.with_name("state-damaged.safetensors")
    assert aside.exists() == (damage != "missing")


def test_a_full_disk_stops_with_a_way_out_and_loses_no_save(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"lengths": (1, 2, 5), "save_every_seconds": 0.0}
    write, saves = storage.write, itertools.count(1)

    def full(*arguments: Any) -> None:
        if next(saves) > 3:
            raise OSError(28, "No space left on device")
        write(*arguments)

    monkeypatch.setattr(storage, "write", full)
    with pytest.raises(OSError, match=r"cannot save step 4 to .*No space left on device.*make room and start again"):
        train(tmp_path, **options)
    monkeypatch.undo()
    train(tmp_path, **options)
    assert same(tmp_path, whole)


def test_a_batch_that_processes_cannot_share_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training.Accelerator, "num_processes", property(lambda self: 3))
    with pytest.raises(ValueError, match="3 processes cannot share a batch of 4"):
        train(tmp_path)


@pytest.mark.parametrize(("name", "part"), [("more", nn.Linear(2, 2)), ("mix", nn.Linear(4, 3, bias=False))])
def test_the_state_of_another_model_is_refused(tmp_path: Path, name: str, part: nn.Module) -> None:
    train(tmp_path)
    before, other = (tmp_path / "state.safetensors").read_bytes(), Colours()
    setattr(other, name, part)
    with pytest.raises(ValueError, match="the state of another model"):
        train(tmp_path, other)
    assert (tmp_path / "state.safetensors").read_bytes() == before


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ValueError, match=r"cannot write to .*file/run .*choose another folder"):
        train(tmp_path / "file" / "run")
    with pytest.raises(ValueError, match="cannot write to"):
        train(tmp_path / "file")


def test_a_folder_in_which_another_process_trains_is_refused_and_nothing_is_lost(tmp_path: Path, whole: Path) -> None:
    folder = shutil.copytree(whole, tmp_path / "run")
    with alone_in(folder), pytest.raises(ValueError, match="another process is at work in"):
        train(folder, budget=Budget(steps=20))
    assert same(folder, whole)
    assert log_of(folder) == log_of(whole)


def test_a_task_without_anything_to_train_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to train"):
        train(tmp_path, Colours().requires_grad_(False))


# What is written beside the state


def test_the_log_has_a_line_for_the_first_step_and_every_so_many(tmp_path: Path) -> None:
    run = train(tmp_path, log_every=4)
    assert log_of(tmp_path) == run.curve
    assert [line["step"] for line in run.curve] == [1, 4, 8]
    assert all(set(line) == {"step", "seconds", "loss", "rate", "gradient"} for line in run.curve)
    assert not list(tmp_path.glob("*.partial"))


def test_tensorboard_shows_what_the_log_says(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train(tmp_path, log_every=5)
    (events,) = tmp_path.rglob("*tfevents*")
    shown = EventAccumulator(str(events.parent)).Reload()
    for figure in ("loss", "rate", "gradient"):
        points = {point.step: point.value for point in shown.Scalars(figure)}
        assert points == pytest.approx({int(line["step"]): line[figure] for line in run.curve})


def test_settings_are_kept_and_others_refused(tmp_path: Path) -> None:
    settings = {"seconds": 3.0, "output": tmp_path / "run", "widths": (32, 64), "prior": None}
    record_settings(tmp_path / "run", "demo", {**settings, "seconds": 1.0}, dry_run=True)
    record_settings(tmp_path / "run", "demo", settings)
    kept = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert kept["command"] == "demo"
    assert kept["settings"] == {"seconds": 3.0, "output": str(tmp_path / "run"), "widths": [32, 64], "prior": None}
    assert {"trimtab", "torch", "numpy"} <= set(kept["versions"])
    record_settings(tmp_path / "run", "demo", settings)
    with pytest.raises(ValueError, match=r"other settings \(seconds 3.0, not 4.0\)"):
        record_settings(tmp_path / "run", "demo", {**settings, "seconds": 4.0}, dry_run=True)
    assert json.loads((tmp_path / "run" / "settings.json").read_text()) == kept
