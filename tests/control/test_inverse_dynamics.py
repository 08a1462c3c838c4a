"""Inverse dynamics learns how far a square was moved, and is kept without its encoder."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from trimtab.control.inverse_dynamics import InverseDynamics, load
from trimtab.networks import storage
from trimtab.networks.vision_transformer import VisionTransformer

SIZE = 32


def square_world(num: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """A bright square on grey that the action, (x, y), moves by up to 4 pixels: frames before and after, and actions."""
    random = torch.Generator().manual_seed(seed)
    place = torch.rand(num, 2, generator=random) * 12 + 10
    actions = torch.rand(num, 2, generator=random) * 2 - 1

    def draw(centre: Tensor) -> Tensor:
        pixels = torch.arange(SIZE) + 0.5
        cover = (3.5 - (pixels - centre[:, :, None]).abs()).clamp(0, 1)  # (num, 2, SIZE), soft at the edges
        return (cover[:, 0, None, None, :] * cover[:, 1, None, :, None]).expand(-1, 3, -1, -1).contiguous() * 1.5 - 0.5

    return draw(place), draw(place + 4 * actions), actions


def pooled(frames: Tensor) -> Tensor:
    """An encoder of vectors: (batch, 12)."""
    return functional.adaptive_avg_pool2d(frames, 2).flatten(1)


@pytest.mark.parametrize("encoder", ["efficientnet-lite0", pooled, None])
def test_it_learns_how_a_square_moves(encoder) -> None:
    model = InverseDynamics(2, SIZE, 8, encoder)
    before, after, actions = square_world(512, 0)
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], 3e-3)
    seen = model.see(before), model.see(after)
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / 200)
        some = torch.randint(512, (64,))
        optimizer.zero_grad()
        model.loss(before[some], after[some], actions[some], (seen[0][some], seen[1][some])).mean().backward()
        optimizer.step()
    before, after, actions = square_world(256, 1)
    error = (model.act(before, after) - actions).square().mean()
    assert error < 0.03  # of 0.333, the error of always answering the mean
    torch.testing.assert_close(model.loss(before, after, actions).shape, (256,))


def test_what_is_seen_may_be_passed() -> None:
    model = InverseDynamics(2, SIZE, 4).eval()
    before, after, actions = square_world(3, 0)
    torch.testing.assert_close(model(before, after, (model.see(before), model.see(after))), model(before, after))
    torch.testing.assert_close(model.loss(before, after, actions), (model(before, after) - actions).square().mean(1))


def test_the_encoder_stays_frozen() -> None:
    encoder = nn.Sequential(nn.Conv2d(3, 5, 8, 8), nn.BatchNorm2d(5))
    model = InverseDynamics(3, SIZE, 4, encoder).train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    model.loss(*torch.zeros(2, 4, 3, SIZE, SIZE), torch.ones(4, 3)).mean().backward()
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    for name, value in model.named_parameters():
        assert (value.grad is None) == name.startswith("encoder."), name


@pytest.mark.parametrize("encoder", ["efficientnet-lite0", pooled, None])
def test_it_is_kept_without_the_encoder(encoder, tmp_path: Path) -> None:
    model = InverseDynamics(2, SIZE, 4, encoder).eval()
    path = tmp_path / "model.safetensors"
    model.save(path)
    tensors, settings = storage.read(path)
    assert settings["encoder"] == (encoder if isinstance(encoder, str) else None)
    assert set(tensors) == {name for name, value in model.named_parameters() if value.requires_grad}
    before, after, _ = square_world(3, 0)
    again = load(path, encoder)
    assert not again.training
    torch.testing.assert_close(again.act(before, after), model.act(before, after))


def test_another_encoder_or_file_is_refused(tmp_path: Path) -> None:
    InverseDynamics(2, SIZE, 4, pooled).save(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="was trained with another encoder"):
        load(tmp_path / "model.safetensors", lambda frames: pooled(frames) * 1.1)
    storage.write(tmp_path / "other.safetensors", {"a": torch.zeros(1)}, {})
    with pytest.raises(ValueError, match="holds no inverse dynamics"):
        load(tmp_path / "other.safetensors")


@pytest.mark.parametrize(("name", "file"), [("vc1", "vc1_vitb.pth"), ("dinov2", "dinov2_vitb14_pretrain.pth")])
def test_an_encoder_without_weights_says_which_it_needs(name: str, file: str) -> None:
    with pytest.raises(ValueError, match=f"the weights of {name} come with no package: get {file}.* as weights"):
        InverseDynamics(encoder=name)


@pytest.mark.parametrize(("name", "patch"), [("vc1", 16), ("dinov2", 14)])
def test_a_named_encoder_sees_by_the_weights_that_are_given(name: str, patch: int, tmp_path: Path) -> None:
    weights, path = tmp_path / "weights.safetensors", tmp_path / "model.safetensors"
    network = VisionTransformer(64, 1, patch, scaled=name == "dinov2").eval()
    save_file(network.state_dict(), weights)
    model = InverseDynamics(2, SIZE, 4, name, weights).eval()
    before, after, actions = square_world(2, 0)
    assert model.see(before).shape == (2, 64, 1, 1)
    torch.testing.assert_close(model.see(before)[..., 0, 0], network(before))
    model.train().loss(before, after, actions).mean().backward()
    for parameter, value in model.named_parameters():
        assert (value.grad is None) == parameter.startswith("encoder."), parameter
    model.eval().save(path)
    assert not any(tensor.startswith("encoder.") for tensor in storage.read(path)[0])
    for found in (load(path, name, weights), load(path, weights=weights)):
        torch.testing.assert_close(found.act(before, after), model.act(before, after))
    with pytest.raises(ValueError, match=f"the weights of {name} come with no package"):
        load(path)
    tensors, settings = storage.read(path)
    assert settings.pop("encoder") == name
    storage.write(tmp_path / "old.safetensors", tensors, settings)  # of a time when no name was kept
    torch.testing.assert_close(
        load(tmp_path / "old.safetensors", name, weights).act(before, after), model.act(before, after)
    )
    with pytest.raises(ValueError, match="was trained with another encoder"):
        load(tmp_path / "old.safetensors")
    save_file({**network.state_dict(), "cls_token": torch.randn(1, 1, 64)}, weights)
    with pytest.raises(ValueError, match="was trained with another encoder"):
        load(path, name, weights)
    for other in ("efficientnet-lite0", None, pooled):
        with pytest.raises(ValueError, match="weights are for the encoders vc1 and dinov2"):
            InverseDynamics(2, SIZE, 4, other, weights)
    with pytest.raises(ValueError, match="holds another network"):
        InverseDynamics(2, SIZE, 4, {"vc1": "dinov2", "dinov2": "vc1"}[name], weights)


def test_unknown_encoders_and_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="no encoder is named 'resnet'; there are efficientnet-lite0, vc1, dinov2"):
        InverseDynamics(encoder="resnet")
    for sizes in ({"dim": 0}, {"frame_size": 60}, {"width": 0}):
        with pytest.raises(ValueError, match="frame_size is a multiple of 8"):
            InverseDynamics(**sizes)


@pytest.mark.usefixtures("without_shape_types")
def test_frames_that_do_not_fit_are_refused() -> None:
    model, good = InverseDynamics(2, SIZE, 4, pooled), torch.zeros(2, 3, SIZE, SIZE)
    for bad in (good[:1], good[..., :8], good.double()):
        with pytest.raises(ValueError, match=r"frames are \(2, 3, 32, 32\) float32"):
            model.act(good, bad)
    with pytest.raises(ValueError, match=r"frames lie in \[-1, 1\], not \[2, 2\]"):
        model.act(good, good + 2)


def test_actions_are_clamped() -> None:
    model = InverseDynamics(2, SIZE, 4, pooled)
    nn.init.constant_(model.head[-1].bias, 3.0)
    frames = torch.zeros(1, 3, SIZE, SIZE)
    assert model(frames, frames).min() > 1
    assert model.act(frames, frames).tolist() == [[1.0, 1.0]]
