"""Plays a policy in a vectorised environment and keeps the episodes, once; knows neither the environment nor the policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from rich import print
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from trimtab.core.contracts import Policy
from trimtab.core.files import alone_in
from trimtab.data.episodes import Episodes, EpisodeWriter


@runtime_checkable
class Environment(Protocol):
    """Several copies of a simulator that start a new episode by themselves when one ends."""

    def observe(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Frames (n, height, width, 3) uint8, whether each is the first of an episode (n,), and its level (n,)."""

    def act(self, actions: np.ndarray, restart: np.ndarray) -> None:
        """Take one action in every copy; where `restart` (n,) is true, begin a new episode instead."""


@runtime_checkable
class Player(Policy, Protocol):
    """A policy for all copies at once: frames (n, height, width, 3) in, actions (n, ...) out."""


def record(
    environment: Environment,
    policy: Player,
    writer: EpisodeWriter,
    num_frames: int,
    *,
    max_episode_frames: int = 500,
    min_episode_frames: int = 2,
    task: str = "play",
    show_progress: bool = True,
) -> None:
    """Play until at least `num_frames` frames are written; the caller finishes the writer.

    An episode is written when it ends, or when it reaches `max_episode_frames`, where it is cut (its last action is not
    played) and the environment begins a new one, so that more levels are seen; episodes
    shorter than `min_episode_frames` are dropped. What each copy has not finished at the end is kept as a cut episode,
    so that long episodes are not under-represented. The same environment and policy give the same set.

    Raises:
        ValueError: the numbers of frames leave nothing to record.
    """
    if num_frames < 1 or not 1 <= min_episode_frames <= max_episode_frames:
        raise ValueError(
            "recording needs num_frames >= 1 and 1 <= min_episode_frames <= max_episode_frames, got "
            f"{num_frames}, {min_episode_frames} and {max_episode_frames}"
        )
    policy.reset()
    frames, _, levels = environment.observe()
    playing: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in frames]
    columns = (TextColumn("recording {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not show_progress) as progress:
        bar = progress.add_task(task, total=num_frames)

        def keep(copy: int, ended: bool) -> None:
            rows, playing[copy] = playing[copy], []
            if len(rows) >= min_episode_frames and writer.num_frames < num_frames:
                seen, actions = (np.stack(part) for part in zip(*rows, strict=True))
                writer.add_episode(seen, actions, level=int(levels[copy]), task=task, ended=ended)
                progress.update(bar, completed=min(writer.num_frames, num_frames))

        def can_be_kept() -> int:
            return sum(len(rows) for rows in playing if len(rows) >= min_episode_frames)

        while writer.num_frames + can_be_kept() < num_frames:
            actions = policy.act(frames)
            for copy, rows in enumerate(playing):
                rows.append((frames[copy].copy(), actions[copy]))
            cut = np.array([len(rows) == max_episode_frames for rows in playing])
            environment.act(actions, cut)
            frames, first, next_levels = environment.observe()
            for copy in np.flatnonzero(first).tolist():
                keep(copy, ended=not bool(cut[copy]))
            levels = next_levels
        for copy in range(len(playing)):
            keep(copy, ended=False)


def recorded_once(folder: Path, request: Mapping[str, Any], write: Callable[[], None]) -> Episodes:
    """The set in a folder: opened if it is there, else written first. Of several processes one writes, and others wait.

    Args:
        folder: of the set.
        request: what of the set's provenance must be so; plain values.
        write: records the set there, with the request among its provenance.

    Raises:
        ValueError: another set is there.
    """
    lock = folder.with_name(f".{folder.name}.lock")  # of this set alone, so that others are recorded meanwhile
    lock.mkdir(parents=True, exist_ok=True)
    with alone_in(lock, wait=True):
        if not folder.exists():
            write()
            return Episodes.open(folder)
    episodes = Episodes.open(folder)
    found = episodes.provenance
    differing = [
        f"{name} {found.get(name)!r}, not {value!r}" for name, value in request.items() if found.get(name) != value
    ]
    if differing:
        raise ValueError(
            f"{folder} holds another set ({', '.join(differing)}); delete that folder, or record elsewhere: by "
            "--output of a command that records, by --datasets of one that trains"
        )
    print(f"reusing {folder}, recorded {found['date']} with the same settings")
    return episodes


def describe_play(episodes: Episodes, effects: Sequence[int] | None = None) -> dict[str, float | int | list[float]]:
    """What discrete play looks like, to judge whether its actions matter.

    Args:
        episodes: a set with discrete actions.
        effects: the class of effect of each action; every action is its own class by default.

    Returns:
        Counts of episodes and levels; the mean episode length in frames; the share of episodes that the environment
        ended; the share of pixels that differ from one frame to the next and the share of frames where fewer than 1 %
        do (from about 5,000 pairs); the mean number of frames that one action is held; the entropy of the actions in
        bits; and the share of each class of effect.
    """
    if episodes.num_actions is None:
        raise ValueError(f"{episodes.folder} holds action vectors; this describes discrete actions")
    last = episodes.starts + episodes.lengths - 1
    inside = np.delete(np.arange(episodes.num_frames), last)  # rows whose next row shows what their action did
    pairs = inside[:: max(1, len(inside) // 5000)]
    changed = np.array([(episodes.frames[row] != episodes.frames[row + 1]).any(-1).mean() for row in pairs])
    switches = np.count_nonzero(episodes.actions[inside] != episodes.actions[inside + 1])
    shares = np.bincount(episodes.actions, minlength=episodes.num_actions) / episodes.num_frames
    some = shares[shares > 0]
    classes = np.arange(episodes.num_actions) if effects is None else np.asarray(effects)
    return {
        "num_episodes": len(episodes),
        "num_levels": len(np.unique(episodes.levels)),
        "mean_length": float(episodes.lengths.mean()),
        "share_ended": float(episodes.ended.mean()),
        "share_pixels_changed": float(changed.mean()),
        "share_frames_still": float((changed < 0.01).mean()),
        "mean_hold": episodes.num_frames / (switches + len(episodes)),
        "action_entropy_bits": float(-(some * np.log2(some)).sum()),
        "share_of_effects": np.bincount(classes, weights=shares).round(4).tolist(),
    }
