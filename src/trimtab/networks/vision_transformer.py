"""A plain vision transformer as frozen eyes, such as VC-1 or DINOv2, from a file of weights; knows no video and no action.

Dosovitskiy et al., arXiv 2010.11929. VC-1 (Majumdar et al., arXiv 2303.18240) was trained as a masked autoencoder; DINOv2
(Oquab et al., arXiv 2304.07193) scales what each layer adds. Layers are named as in the files that both were published in.
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

HEAD = 64
"""Features of an attention head, in every size of both."""

RESIZED, SIDE = 256, 224
"""Frames are scaled to the former, bicubically, and their middle is looked at, as when the networks were measured."""

Tokens = Float[Tensor, "batch token feature"]


class VisionTransformer(nn.Module):
    """Random weights; `read` gives trained ones.

    Args:
        width: features of a token, a multiple of 64.
        depth: blocks.
        patch: side of the square of pixels that becomes a token.
        scaled: whether what each layer adds is scaled, feature by feature, as in DINOv2.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, width: int, depth: int, patch: int, scaled: bool = False) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, 1 + (SIDE // patch) ** 2, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, patch)})
        self.blocks = nn.Sequential(*(Block(width, scaled) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        mean, deviation = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("deviation", deviation, persistent=False)

    @classmethod
    def read(cls, path: Path, patch: int) -> VisionTransformer:
        """The network whose weights a file holds, frozen, in eval mode; its width and depth are the file's.

        Args:
            path: a safetensors file, its tensors named as the networks were published.
            patch: that the network is to have.

        Raises:
            ValueError: the file is no safetensors file, or holds another network.
            FileNotFoundError: there is none.
        """
        if path.suffix != ".safetensors":
            raise ValueError(
                f"{path} is no .safetensors file, and what else holds weights may run code when it is read; convert it "
                "once, where you trust it: safetensors.torch.save_file(torch.load(path, weights_only=True), new), of VC-1 "
                'what is under "model" in it'
            )
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path} of weights")
        try:
            weights = {name: value.float() for name, value in load_file(path).items() if not name.startswith(UNUSED)}
        except SafetensorError as error:
            raise ValueError(f"{path} is cut short, or no safetensors file: {error}") from error
        kernel, places = weights.get("patch_embed.proj.weight"), weights.get("pos_embed")
        if kernel is None or places is None or kernel.shape[1:] != (3, patch, patch) or len(kernel) % HEAD:
            came = "none of that name" if kernel is None else tuple(kernel.shape)
            raise ValueError(
                f"{path} holds another network: patch_embed.proj.weight is (a multiple of {HEAD}, 3, {patch}, {patch}), got "
                f"{came}; the names are those of the networks' own files, not of transformers"
            )
        depth = len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
        network = cls(len(kernel), depth, patch, "blocks.0.ls1.gamma" in weights)
        try:
            network.load_state_dict({**weights, "pos_embed": resized(places, SIDE // patch)})
        except RuntimeError as error:
            raise ValueError(f"{path} holds another network: {error}") from error
        return network.eval().requires_grad_(False)

    def forward(self, frames: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch feature"]:
        """What frames in [-1, 1] show, as a whole: the state of the token that stands for no place."""
        seen = functional.interpolate(frames, (RESIZED, RESIZED), mode="bicubic", antialias=True).clamp(-1, 1)
        edge = (RESIZED - SIDE) // 2
        return self.states((((seen + 1) / 2 - self.mean) / self.deviation)[..., edge:-edge, edge:-edge])[:, 0]

    def states(self, pictures: Float[Tensor, "batch 3 224 224"]) -> Tokens:
        """The states of the token for the whole, and of each place, row by row."""
        places = self.patch_embed["proj"](pictures).flatten(2).mT
        tokens = torch.cat([self.cls_token.expand(len(places), -1, -1), places], dim=1) + self.pos_embed
        return self.norm(self.blocks(tokens))


UNUSED = ("decoder", "mask_token")
"""What masked autoencoders, and DINOv2, need in training alone."""


class Block(nn.Module):
    """Attention, and two layers for each token by itself."""

    def __init__(self, width: int, scaled: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})
        self.ls1, self.ls2 = (Scale(width) if scaled else nn.Identity() for _ in range(2))

    def forward(self, tokens: Tokens) -> Tokens:
        asked, keys, values = self.attn["qkv"](self.norm1(tokens)).unflatten(-1, (3, -1, HEAD)).permute(2, 0, 3, 1, 4)
        heard = functional.scaled_dot_product_attention(asked, keys, values).transpose(1, 2).flatten(2)
        tokens = tokens + self.ls1(self.attn["proj"](heard))
        return tokens + self.ls2(self.mlp["fc2"](functional.gelu(self.mlp["fc1"](self.norm2(tokens)))))


class Scale(nn.Module):
    """A factor for each feature."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, tokens: Tokens) -> Tokens:
        return self.gamma * tokens


def resized(places: Float[Tensor, "1 token feature"], side: int) -> Float[Tensor, "1 place feature"]:
    """What is added to the token for the whole, and to each place, for a square of so many places a side."""
    whole, rest = places[:, :1], places[:, 1:]
    before = round(rest.shape[1] ** 0.5)
    if before == side or before**2 != rest.shape[1]:
        return places
    grid = rest.mT.unflatten(2, (before, before))
    grid = functional.interpolate(grid, (side, side), mode="bicubic", align_corners=False)
    return torch.cat([whole, grid.flatten(2).mT], dim=1)
