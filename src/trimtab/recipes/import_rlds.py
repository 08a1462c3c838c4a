"""Turns a set of robot episodes in RLDS form, such as RT1, into episodes to train on; knows no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from jaxtyping import Float
from PIL import Image, ImageOps
from rich import print
from rich.progress import track

from trimtab.core.files import check_room
from trimtab.data.episodes import Episodes, EpisodeWriter
from trimtab.data.recording import recorded_once
from trimtab.data.rlds import RLDS, Recorded

Actions = Float[np.ndarray, "step dim"]

RT1_MOTION = ("action/world_vector", "action/rotation_delta")
RT1_GRIPPER = "action/gripper_closedness_action"

FITS = {"pad": ImageOps.pad, "crop": ImageOps.fit}


def import_rlds(
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")],
    *,
    output: Path | None = None,
    split: str = "train[:95%]",
    max_episodes: int | None = None,
    height: int = 64,
    width: int = 64,
    fit: Literal["pad", "crop"] = "pad",
    image: str = "observation/image",
    text: str = "observation/natural_language_instruction",
    motion: tuple[str, ...] = RT1_MOTION,
    gripper: str = RT1_GRIPPER,
    statistics: Path | None = None,
    frame_rate: float = 3.0,
) -> None:
    """Import episodes that TensorFlow Datasets wrote in RLDS form; by default those of RT1 (fractal20220817_data).

    A finished set in the same place is kept if it was imported with the same settings; one with others is refused.

    Args:
        folder: of one version of the set, such as fractal20220817_data/0.1.0.
        output: the folder of the new set; by default datasets/<name>-<first episode>-<last episode>-<height>x<width>.
        split: of the set, whole or in parts, such as train, train[95%:] or train[:100]; only the files that it needs must
            be there.
        max_episodes: only so many of the first.
        height: of the frames to write; AVID's RT1 is 320.
        width: of the frames to write; AVID's RT1 is 512.
        fit: how a frame keeps its proportions: with black borders, as AVID's, or cut to the middle.
        image: what of a step is the frame.
        text: what of a step says what is to be done; that of the first is the episode's.
        motion: what of a step moves the arm, one after another, each number shifted and scaled to mean 0 and deviation 1.
        gripper: what of a step says that the gripper closes (above 0.1) or opens (below -0.1), which becomes the last number
            of the action, 1 for open and 0 for closed; "" for none.
        statistics: a set imported before, whose mean and deviation to use; name the training set to import the others. By
            default they are those of the episodes imported.
        frame_rate: frames a second; RT1's is 3.
    """
    episodes = rlds_episodes(
        folder, output=output, split=split, max_episodes=max_episodes, height=height, width=width, fit=fit, image=image,
        text=text, motion=motion, gripper=gripper, statistics=statistics, frame_rate=frame_rate,
    )  # fmt: skip
    used = episodes.provenance["statistics"]
    print(episodes)
    print(f"  motion is scaled by the mean and deviation of {used['of']}: {used['num_steps']} steps")


def rlds_episodes(
    folder: Path,
    *,
    output: Path | None = None,
    split: str = "train[:95%]",
    max_episodes: int | None = None,
    height: int = 64,
    width: int = 64,
    fit: Literal["pad", "crop"] = "pad",
    image: str = "observation/image",
    text: str = "observation/natural_language_instruction",
    motion: tuple[str, ...] = RT1_MOTION,
    gripper: str = RT1_GRIPPER,
    statistics: Path | None = None,
    frame_rate: float = 3.0,
) -> Episodes:
    """The set that `import_rlds` makes with these settings: opened if it is there, else imported first.

    The level of an episode is its number in its split, which no other part of the split shares, its task the text, and it
    ended, rather than was cut, if its last step is terminal. Pillow scales the frames bilinearly, and averages where they
    become smaller; AVID scales by TensorFlow, which does not average (to AVID's own size nothing becomes smaller). The mean
    and deviation are in the provenance.

    Raises:
        ValueError: another set is in the same place; a setting is out of range; the disk has no room for as many
            frames as episodes like the first have; or the set cannot be read, see `RLDS`.
        FileNotFoundError: the set, or a part of it that is needed, is missing.
    """
    if min(height, width) < 1 or frame_rate <= 0 or not motion or (max_episodes is not None and max_episodes < 1):
        raise ValueError(
            "importing needs height, width, frame_rate and max_episodes above 0, and the names of a motion, got "
            f"{height}, {width}, {frame_rate}, {max_episodes} and {motion}"
        )
    source = RLDS(folder)
    first, last = source.bounds(split)
    num = last - first if max_episodes is None else min(last - first, max_episodes)
    measured = None if statistics is None else Episodes.open(statistics).provenance.get("statistics")
    if statistics is not None and (measured is None or measured["motion"] != list(motion)):
        raise ValueError(f"{statistics} was not imported with the motion {' '.join(motion)}; name a set that was")
    part = f"{source.name} {source.version} {split.partition('[')[0]}[{first}:{first + num}]"
    request: dict[str, Any] = {
        "rlds": part,
        "height": height,
        "width": width,
        "fit": fit,
        "image": image,
        "text": text,
        "motion": list(motion),
        "gripper": gripper,
        "statistics_of": measured["of"] if measured else part,
        "frame_rate": frame_rate,
    }
    place = output or Path("datasets") / f"{source.name}-{first}-{first + num - 1}-{height}x{width}"

    def rows(episode: Recorded) -> tuple[np.ndarray, Actions, dict[str, Any]]:
        pictures = (
            FITS[fit](picture, (width, height), Image.Resampling.BILINEAR) for picture in episode.pictures(image)
        )
        ended = bool(episode.numbers("is_terminal")[-1])
        facts = {"level": episode.number, "task": episode.texts(text)[0], "ended": ended}
        return np.stack([np.asarray(picture) for picture in pictures]), _actions(episode, motion, gripper), facts

    def write() -> None:
        seen, *_ = rows(next(source.episodes(split, num)))  # whatever is missing is missed here, not after hours
        check_room(seen.nbytes * num, place, "import fewer episodes (--max-episodes, or --num-episodes of a benchmark)")
        used = measured or describe(_all_motion(source, split, num, motion), part, motion)
        versions = {name: version(name) for name in ("trimtab", "numpy", "pyarrow", "pillow")}
        provenance = {**request, "statistics": used, "versions": versions}
        dim = len(used["mean"]) + bool(gripper)
        with EpisodeWriter(place, frame_rate=frame_rate, action_dim=dim, provenance=provenance) as writer:
            for episode in track(source.episodes(split, num), description="importing", total=num):
                frames, actions, facts = rows(episode)
                writer.add_episode(frames, scaled(actions, used), **facts)

    return recorded_once(place, request, write)


def describe(moves: Actions, part: str, motion: tuple[str, ...]) -> dict[str, Any]:
    """The mean and deviation of every number of the motion, as plain values; `part` says of which episodes.

    As AVID's, but of the part that is imported; AVID's are of all episodes, those of validation among them.
    """
    moves = moves.astype(np.float64)
    return {
        "of": part,
        "motion": list(motion),
        "num_steps": len(moves),
        "mean": moves.mean(0).tolist(),
        "deviation": moves.std(0).tolist(),
    }


def scaled(actions: Actions, statistics: Mapping[str, Any]) -> Actions:
    """Actions whose motion, their first numbers, has mean 0 and deviation 1; float32.

    A number that never changed, where mean and deviation were taken, keeps its scale.
    """
    mean, deviation = np.array(statistics["mean"]), np.array(statistics["deviation"])
    moves, rest = np.split(actions, [len(mean)], axis=1)
    scale = np.where(deviation > 0, deviation + 1e-8, 1.0)
    return np.concatenate([(moves - mean) / scale, rest], axis=1).astype(np.float32)


def opened(closing: Actions) -> Actions:
    """Whether the gripper is to be open, 1 or 0, from how much it is told to close (above 0.1) or to open (below -0.1).

    Between commands it stays as it is. Before the first it is as that command does not want it, or open if there is none,
    as Octo (arXiv 2405.12213) reads RT1 for AVID.
    """
    told = (closing < -0.1).astype(np.float32) - (closing > 0.1)
    commands = told[told != 0]
    state, states = (-commands[0] if len(commands) else 1.0), []
    for command in told[:, 0]:
        state = command or state
        states.append([state > 0])
    return np.array(states, np.float32)


def _actions(episode: Recorded, motion: Sequence[str], gripper: str) -> Actions:
    """As recorded, the motion and then, if there is one, the gripper. Raises ValueError if that is more than one number."""
    parts = [episode.numbers(name).reshape(len(episode), -1).astype(np.float32) for name in motion]
    if gripper:
        closing = episode.numbers(gripper).reshape(len(episode), -1)
        if closing.shape[1] != 1:
            raise ValueError(f"a gripper is told one number a step, and {gripper} has {closing.shape[1]}; name another")
        parts.append(opened(closing))
    return np.concatenate(parts, axis=1)


def _all_motion(source: RLDS, split: str, num: int, motion: Sequence[str]) -> Actions:
    episodes = track(source.episodes(split, num), description="reading actions", total=num)
    return np.concatenate([_actions(episode, motion, "") for episode in episodes])
