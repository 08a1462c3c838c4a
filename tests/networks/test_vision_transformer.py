"""Our vision transformer is the one of transformers, reads its sizes off a file, and says what is wrong with a file."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional
from transformers import Dinov2Config, Dinov2Model

from trimtab.networks.vision_transformer import RESIZED, SIDE, VisionTransformer


def published(theirs: Dinov2Model) -> dict[str, Tensor]:
    """Their weights under the names of DINOv2's own file."""
    names = {
        "embeddings.position_embeddings": "pos_embed",
        "embeddings.patch_embeddings.projection": "patch_embed.proj",
        "embeddings.": "",
        "encoder.layer": "blocks",
        "attention.o_proj": "attn.proj",
        "layer_scale1.lambda1": "ls1.gamma",
        "layer_scale2.lambda1": "ls2.gamma",
        "layernorm": "norm",
    }
    weights = {}
    for name, value in theirs.state_dict().items():
        for old, new in names.items():
            name = name.replace(old, new)
        weights[name] = value.clone()
    for block in range(theirs.config.num_hidden_layers):
        for part in ("weight", "bias"):
            each = [weights.pop(f"blocks.{block}.attention.{kind}_proj.{part}") for kind in "qkv"]
            weights[f"blocks.{block}.attn.qkv.{part}"] = torch.cat(each)
    return weights


def test_it_is_that_of_transformers_for_another_number_of_places_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = Dinov2Model(
        Dinov2Config(hidden_size=128, num_hidden_layers=2, num_attention_heads=2, image_size=18 * 14, patch_size=14)
    ).eval()
    with torch.no_grad():
        for value in theirs.parameters():
            value.add_(0.1 * torch.randn_like(value))
    save_file(published(theirs), tmp_path / "theirs.safetensors")
    ours, pictures = VisionTransformer.read(tmp_path / "theirs.safetensors", 14), torch.randn(2, 3, SIDE, SIDE)
    expected = theirs(pictures).last_hidden_state
    torch.testing.assert_close(ours.states(pictures), expected, rtol=1e-3, atol=1e-3)
    assert not ours.training
    assert not any(value.requires_grad for value in ours.parameters())


def test_frames_are_scaled_cut_and_normalised_as_pictures() -> None:
    network, frames = VisionTransformer(64, 1, 16).eval(), torch.rand(2, 3, 64, 64) * 2 - 1
    large = functional.interpolate(frames, (RESIZED, RESIZED), mode="bicubic", antialias=True)
    large = large.clamp(-1, 1)[..., 16:240, 16:240]
    mean, deviation = (torch.tensor(each)[:, None, None] for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    expected = network.states(((large + 1) / 2 - mean) / deviation)[:, 0]
    assert network(frames).shape == (2, 64)
    torch.testing.assert_close(network(frames), expected, rtol=1e-3, atol=1e-4)


def test_a_file_decides_the_sizes_and_what_training_alone_needed_is_left(tmp_path: Path) -> None:
    network = VisionTransformer(128, 3, 16, scaled=True).eval()
    unused = {"mask_token": torch.zeros(1, 128), "decoder_embed.weight": torch.zeros(8, 128)}
    save_file({**network.state_dict(), **unused}, tmp_path / "a.safetensors")
    again, frames = VisionTransformer.read(tmp_path / "a.safetensors", 16), torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(again(frames), network(frames))


def test_files_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    weights, path = VisionTransformer(64, 1, 16).state_dict(), tmp_path / "a.safetensors"
    torch.save(weights, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a.pth is no .safetensors file.*convert it once.*weights_only=True"):
        VisionTransformer.read(tmp_path / "a.pth", 16)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        VisionTransformer.read(path, 16)
    path.write_bytes(b"weights")
    with pytest.raises(ValueError, match="cut short, or no safetensors file"):
        VisionTransformer.read(path, 16)
    for wrong, came in (
        ({**weights, "patch_embed.proj.weight": torch.zeros(64, 3, 14, 14)}, r"got \(64, 3, 14, 14\)"),
        ({"embeddings.cls_token": torch.zeros(1)}, "got none of that name; .* not of transformers"),
        ({**weights, "norm.weight": torch.zeros(32)}, "size mismatch for norm.weight"),
        ({**weights, "pos_embed": torch.zeros(1, 12, 64)}, "size mismatch for pos_embed"),
        ({**weights, "register_tokens": torch.zeros(1, 4, 64)}, "register_tokens"),
    ):
        save_file(wrong, path)
        with pytest.raises(ValueError, match=rf"(?s)holds another network: .*{came}"):
            VisionTransformer.read(path, 16)
