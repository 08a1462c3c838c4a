"""Videos as any system writes them, written by other hands than ours and read back."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from trimtab.data.video_files import read_videos


def frames(seed: int = 0, time: int = 4) -> np.ndarray:
    """Smooth, so that codecs lose little."""
    corner = np.random.default_rng(seed).integers(0, 200, (time, 1, 1, 3))
    ramp = np.arange(32)[None, :, None, None] + np.arange(48)[None, None, :, None] // 2
    return np.clip(corner + ramp, 0, 255).astype(np.uint8)


def write_pictures(folder: Path, video: np.ndarray) -> None:
    folder.mkdir()
    for number, frame in enumerate(video):
        Image.fromarray(frame).save(folder / f"{number:03}.png")


def write_mp4(path: Path, video: np.ndarray) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(15))
        stream.width, stream.height, stream.pix_fmt, stream.options = 48, 32, "yuv444p", {"crf": "1"}
        for frame in video:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def test_every_kind_is_read(tmp_path: Path) -> None:
    video = frames()
    write_pictures(tmp_path / "pictures", video)
    write_mp4(tmp_path / "film.mp4", video)
    images = [Image.fromarray(frame) for frame in video]
    images[0].save(tmp_path / "moving.gif", save_all=True, append_images=images[1:])
    np.savez(tmp_path / "named.npz", one=video)
    np.save(tmp_path / "many.npy", np.stack([video, video[::-1]]))
    (tmp_path / "notes.txt").write_text("no video")
    found = read_videos(tmp_path)
    assert list(found) == ["film", "000000", "000001", "moving", "one", "pictures"]
    assert all(some.dtype == np.uint8 and some.shape == (4, 32, 48, 3) for some in found.values())
    for exact in ("000000", "one", "pictures"):
        assert np.array_equal(found[exact], video)
    assert np.array_equal(found["000001"], video[::-1])
    for lossy, bound in (("film", 4), ("moving", 12)):
        assert np.abs(found[lossy].astype(int) - video).mean() < bound


def test_pictures_are_in_the_order_that_people_count_in(tmp_path: Path) -> None:
    video = frames(time=12)
    (tmp_path / "counted").mkdir()
    for number, frame in enumerate(video):
        Image.fromarray(frame).save(tmp_path / "counted" / f"take 2 frame {number}.png")
    assert np.array_equal(read_videos(tmp_path)["counted"], video)
    (tmp_path / "named").mkdir()
    for name, frame in zip(("a.png", "a2.png", "a10.png", "b.png", "b01.png", "b1.png"), video, strict=False):
        Image.fromarray(frame).save(tmp_path / "named" / name)
    assert np.array_equal(read_videos(tmp_path)["named"], video[:6])


@pytest.mark.parametrize(
    ("change", "got"),
    [
        (lambda video: video / 255, "float64"),
        (lambda video: np.concatenate([video, video[..., :1]], axis=-1), "uint8"),
        (lambda video: np.concatenate([video, video[..., :1]], axis=-1).astype(np.float32) / 255, "float32"),
        (lambda video: video[..., 0], "uint8"),
        (lambda video: video[..., :1] / 255, "float64"),
        (lambda video: video.astype(int), "int64"),
    ],
)
def test_what_is_no_video_becomes_one_as_the_message_says(
    change: Callable[[np.ndarray], np.ndarray], got: str, tmp_path: Path
) -> None:
    array = change(frames())
    np.save(tmp_path / "clip.npy", array)
    with pytest.raises(ValueError, match=rf"is \(time, height, width, 3\) uint8, got {got} ") as refused:
        read_videos(tmp_path)
    ways = str(refused.value).split("; ")[1:]
    assert ("floats" in str(refused.value)) == got.startswith("float")
    for way in ways:
        array = eval(way.split(" by ")[1], {"np": np, "frames": array})  # noqa: S307
    np.save(tmp_path / "clip.npy", array)
    assert read_videos(tmp_path)["clip"].shape == frames().shape


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("broken.mp4", b"no film", "cannot be read as a video"),
        ("broken.gif", b"no film", "cannot be read as a picture"),
        ("broken.npz", b"no film", "holds no arrays"),
    ],
)
def test_a_damaged_file_is_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}.*{message}"):
        read_videos(tmp_path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_an_array_file_that_was_cut_is_named(save: Callable[..., None], kept: float, tmp_path: Path) -> None:
    save(tmp_path / "cut.npz", one=frames())
    content = (tmp_path / "cut.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[: round(kept * len(content))])
    with pytest.raises(ValueError, match=r"cut\.npz holds no arrays"):
        read_videos(tmp_path)


@pytest.mark.parametrize("kind", ["png", "gif", "mp4"])
def test_pictures_and_films_that_were_cut_or_worn_are_named(kind: str, tmp_path: Path) -> None:
    """Wherever a byte is missing or wrong, the file is named, or what can be read of it has whole frames."""
    noise = np.random.default_rng(0).integers(0, 256, (4, 32, 48, 3), np.uint8)
    path = tmp_path / f"clip.{kind}"
    if kind == "png":
        write_pictures(tmp_path / "clip", noise)
        path = tmp_path / "clip" / "000.png"
    elif kind == "mp4":
        write_mp4(path, noise)
    else:
        first, *rest = (Image.fromarray(picture) for picture in noise)
        first.save(path, save_all=True, append_images=rest)
    content, refused = path.read_bytes(), 0
    damaged = [content[: round(len(content) * kept)] for kept in (0.1, 0.5, 0.9)]
    damaged += [content[:at] + b"\xff" * 4 + content[at + 4 :] for at in range(0, len(content) - 4, len(content) // 24)]
    for some in damaged:
        path.write_bytes(some)
        try:
            videos = read_videos(tmp_path)
        except ValueError as error:
            assert path.name in str(error) or path.parent.name in str(error)  # noqa: PT017
            refused += 1
        else:
            assert all(video.shape[1:] == noise.shape[1:] for video in videos.values())
    assert refused > 0


def test_an_array_file_with_a_damaged_byte_is_named(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "worn.npz", one=np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8))
    content = bytearray((tmp_path / "worn.npz").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "worn.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"worn\.npz holds no arrays"):
        read_videos(tmp_path)


def test_no_pickle_is_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"objects\.npy holds no arrays of numbers"):
        read_videos(tmp_path)


def test_what_is_no_folder_of_videos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no folder"):
        read_videos(tmp_path / "nothing")
    with pytest.raises(ValueError, match="holds no video"):
        read_videos(tmp_path)
    np.savez(tmp_path / "floats.npz", one=frames() / 255)
    with pytest.raises(ValueError, match="uint8, got float64"):
        read_videos(tmp_path)
    np.savez(tmp_path / "floats.npz", one=frames()[:0])
    with pytest.raises(ValueError, match="; save it so, with at least one frame"):
        read_videos(tmp_path)
    (tmp_path / "floats.npz").unlink()
    np.savez(tmp_path / "a.npz", twice=frames())
    write_pictures(tmp_path / "twice", frames())
    with pytest.raises(ValueError, match="two videos named 'twice'"):
        read_videos(tmp_path)
    Image.fromarray(frames()[0][:8]).save(tmp_path / "twice" / "009.png")
    (tmp_path / "a.npz").unlink()
    with pytest.raises(ValueError, match="have one size"):
        read_videos(tmp_path)
