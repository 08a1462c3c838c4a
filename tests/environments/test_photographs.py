"""Films of photographs are functions of their level, show what they say, and move as they say."""

import subprocess
import sys
from importlib import metadata

import numpy as np
import pytest
from PIL import Image

from trimtab.data.recording import Environment, Player
from trimtab.environments import photographs as films
from trimtab.environments.photographs import EPISODE_FRAMES, FILES, Photographs, Scene, Watching, photographs, scene

LEVELS = range(60)


@pytest.fixture(scope="module")
def images() -> dict[str, Image.Image]:
    return photographs()


@pytest.fixture(scope="module")
def scenes(images: dict[str, Image.Image]) -> list[Scene]:
    return [scene(images, level) for level in LEVELS]


def watch(environment: Photographs, num_frames: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames, whether each is the first, and levels, (time, n, ...)."""
    seen, policy = [], Watching()
    for _ in range(num_frames):
        seen.append(environment.observe())
        environment.act(policy.act(seen[-1][0]))
    frames, first, levels = (np.stack(part) for part in zip(*seen, strict=True))
    return frames, first, levels


def test_a_level_is_one_film_whoever_shows_it(images: dict[str, Image.Image]) -> None:
    frames, first, levels = watch(Photographs(2, first_level=7, num_levels=3), 2 * EPISODE_FRAMES)
    assert frames.shape == (2 * EPISODE_FRAMES, 2, 64, 64, 3)
    assert frames.dtype == np.uint8
    assert np.flatnonzero(first.all(1)).tolist() == np.flatnonzero(first.any(1)).tolist() == [0, EPISODE_FRAMES]
    assert levels[first.all(1)].tolist() == [[7, 8], [9, 7]]
    shown = [frames[:EPISODE_FRAMES, 0], frames[:EPISODE_FRAMES, 1], frames[EPISODE_FRAMES:, 0]]
    for level, film in zip((7, 8, 9), shown, strict=True):
        assert np.array_equal(film, scene(images, level).film())
    assert np.array_equal(shown[0], frames[EPISODE_FRAMES:, 1])
    assert not np.array_equal(shown[0], shown[1])
    assert isinstance(Photographs(1), Environment)
    assert isinstance(Watching(), Player)


def test_restart_begins_the_next_film() -> None:
    environment = Photographs(3)
    environment.act(np.zeros(3, np.int64), np.array([False, True, False]))
    _, first, levels = environment.observe()
    assert first.tolist() == [False, True, False]
    assert levels.tolist() == [0, 3, 2]


def test_the_camera_never_leaves_the_photograph(scenes: list[Scene]) -> None:
    for shown in scenes:
        background, half = shown.layers[0], 32 * shown.zoom[:, None]
        assert (background.points - half).min() >= -1e-9
        assert (background.points + half <= np.array(background.image.size) + 1e-9).all()


def test_cameras_stand_move_zoom_and_follow(scenes: list[Scene]) -> None:
    travelled = np.array([np.abs(np.diff(shown.layers[0].points, axis=0)).sum() for shown in scenes])
    zooms = np.array([np.ptp(shown.zoom) > 0 for shown in scenes])
    follows = np.array([shown.follows for shown in scenes])
    assert (travelled[follows] > 0).all()
    for kind in (follows, zooms, travelled == 0, (travelled > 0) & ~follows):
        assert 0.1 < kind.mean() < 0.6
    assert not (follows & zooms).any()
    assert {len(shown.layers) for shown in scenes} == {1, 2, 3, 4}
    speeds = np.concatenate([np.hypot(*np.diff(shown.layers[0].points, axis=0).T) for shown in scenes])
    assert speeds.max() > 2
    assert speeds.max() <= np.hypot(films.FASTEST, films.FASTEST) + 1e-9


def test_what_is_followed_stays_in_place_and_what_is_behind_it_moves(scenes: list[Scene]) -> None:
    stayed, moved = [], []
    for shown in scenes:
        layer = shown.layers[-1]
        travelled = np.ptp(shown.layers[0].points, axis=0).max()
        if not shown.follows or travelled < 16:
            continue
        assert (layer.places == layer.places[0]).all()
        film = shown.film().astype(int)
        changes = np.abs(film - film[0]).max(axis=(0, 3))
        x, y = layer.points[0] - layer.places[0]
        piece = layer.image.transform((64, 64), Image.Transform.AFFINE, (1, 0, x, 0, 1, y), Image.Resampling.BILINEAR)
        inside = np.asarray(piece)[..., 3] == 255
        assert inside.any()
        stayed.append(changes[inside].max())
        moved.append(np.mean(changes[~inside] > 10))
    assert len(stayed) > 5
    assert max(stayed) == 0
    assert min(moved) > 0.3


def test_cutouts_that_come_back_do_so_out_of_sight(scenes: list[Scene]) -> None:
    """What is further inside the frame than anything goes in one frame does not jump."""
    num_returns = 0
    for shown in scenes:
        for layer in shown.layers[1:]:
            edge = np.array(layer.image.size) / 2 / shown.zoom[:, None] - 3 * films.FASTEST
            inside = ((layer.places > -edge) & (layer.places < 64 + edge)).all(1)
            jumps = (np.abs(np.diff(layer.places, axis=0)) > 3 * films.FASTEST).any(1)
            assert not (jumps & (inside[1:] | inside[:-1])).any()
            num_returns += jumps.sum()
    assert num_returns > 20


def test_films_differ_in_photograph_and_fill_the_range(scenes: list[Scene]) -> None:
    frames = np.stack([np.asarray(shown.frame(0)) for shown in scenes])
    assert len({frame.tobytes() for frame in frames}) == len(frames)
    assert frames.min() == 0
    assert frames.max() == 255
    assert frames.std(axis=(1, 2)).max(1).min() > 1


def test_wrong_arguments_are_refused() -> None:
    environment = Photographs(2)
    for actions in ([0, 1], [-1, 0], [0.0, 0.0], [0], [[0, 0]]):
        with pytest.raises(ValueError, match="all 0"):
            environment.act(np.array(actions))
    with pytest.raises(ValueError, match="restart is"):
        environment.act(np.array([0, 0]), np.array([0, 1]))
    with pytest.raises(ValueError, match="num_levels >= 1"):
        Photographs(num_levels=0)


def test_missing_photographs_are_named_with_what_installs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(films, "FILES", (*FILES, "unicorn.png"))
        with pytest.raises(ValueError, match=r"unicorn\.png.*pip install scikit-image"):
            Photographs(1)

    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    with pytest.raises(ValueError, match=r"scikit-image.*pip install scikit-image"):
        Photographs(1)


def test_the_package_that_carries_the_photographs_is_not_imported() -> None:
    code = (
        "import sys; from trimtab.environments.photographs import Photographs; Photographs(1);"
        "print('skimage' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("False\n", "")
