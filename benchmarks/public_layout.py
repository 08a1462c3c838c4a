"""AVID's pixel network run the way its public code lays it out: five axes, Conv3d, explicit attention, float32.

It computes what `AvidUNet3D` computes, from the same weights, so that the two can be compared in one process.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from trimtab.networks.attention import LinearAttention, Order, SpatialAttention, TemporalAttention
from trimtab.networks.avid_unet3d import AvidUNet3D, ResidualBlock, Stage, sinusoids


def answer(network: AvidUNet3D, video: Tensor, step: Tensor, actions: Tensor) -> tuple[Tensor, Tensor | None]:
    """As ``network(video, step, actions)``: (batch, time, channel, height, width) and the mask's logit."""
    time = video.shape[1]
    of_step = network.step(sinusoids(step, network.width))[:, None].expand(-1, time, -1)
    told = torch.cat([of_step, network.action_mlp(network.action(actions))], dim=-1)
    condition = functional.silu(told).transpose(1, 2)  # (batch, feature, time)
    order = network.frame_number(time)
    frames = over_time(network.stem_time, convolved(network.stem, video.transpose(1, 2)), order)  # type: ignore[arg-type]
    skips = [frames]
    for stage in network.down:
        skips.append(passed(stage, frames, condition, order))  # type: ignore[arg-type]
        frames = convolved(stage.resample, skips[-1])  # type: ignore[arg-type]
    frames = residual(network.middle_first, frames, condition)
    frames = over_time(network.middle_time, over_space(network.middle_space, frames), order)
    frames = residual(network.middle_second, frames, condition)
    for stage in network.up:
        frames = passed(stage, torch.cat([frames, skips.pop()], dim=1), condition, order)  # type: ignore[arg-type]
        frames = convolved(stage.resample, frames)  # type: ignore[arg-type]
    frames = residual(network.last, torch.cat([frames, skips.pop()], dim=1), None)
    found, logit = convolved(network.answer, frames).tensor_split([network.out_channels], dim=1)
    mask = None if network.mask is None else convolved(network.mask, logit).transpose(1, 2)
    return found.transpose(1, 2), mask


def convolved(layer: nn.Module, video: Tensor) -> Tensor:
    if isinstance(layer, nn.Identity):
        return video
    assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
    run = functional.conv3d if isinstance(layer, nn.Conv2d) else functional.conv_transpose3d
    stride, padding = (1, *layer.stride), (0, *layer.padding)
    return run(video, layer.weight.contiguous()[:, :, None], layer.bias, stride=stride, padding=padding)  # type: ignore[operator]


def passed(stage: Stage, video: Tensor, condition: Tensor, order: Order) -> Tensor:
    video = residual(stage.second, residual(stage.first, video, condition), condition)
    return over_time(stage.time, linearly(stage.space, video), order)


def residual(block: ResidualBlock, video: Tensor, condition: Tensor | None) -> Tensor:
    hidden = scaled(convolved(block.first, video), block.first_norm.gain)
    if block.modulation is not None and condition is not None:
        scale, shift = block.modulation(condition.transpose(1, 2)).transpose(1, 2)[..., None, None].chunk(2, dim=1)
        hidden = hidden * (scale + 1) + shift
    hidden = functional.silu(scaled(convolved(block.second, functional.silu(hidden)), block.second_norm.gain))
    return hidden + convolved(block.skip, video)


def scaled(video: Tensor, gain: Tensor) -> Tensor:
    return functional.normalize(video, dim=1) * math.sqrt(len(gain)) * gain[:, None, None, None]


def normed(video: Tensor, gain: Tensor) -> Tensor:
    variance, mean = torch.var_mean(video, dim=1, unbiased=False, keepdim=True)
    return (video - mean) / (variance + 1e-5).sqrt() * gain[:, None, None, None]


def heads_of(layer: nn.Module, tokens: Tensor, heads: int) -> tuple[Tensor, ...]:
    """(..., token, channel) to query, key and value (..., head, token, feature)."""
    return tuple(part.unflatten(-1, (heads, -1)).transpose(-2, -3) for part in layer.qkv(tokens).chunk(3, dim=-1))  # type: ignore[operator]


def over_time(layer: TemporalAttention, video: Tensor, order: Order) -> Tensor:
    tokens = normed(video, layer.norm.gain).permute(0, 3, 4, 2, 1)
    query, key, value = heads_of(layer, tokens, layer.heads)
    logits = (
        torch.einsum("...id,...jd->...ij", turned(query * layer.head_dim**-0.5, order), turned(key, order)) + order.bias
    )
    weights = (logits - logits.amax(dim=-1, keepdim=True).detach()).softmax(dim=-1)
    mixed = torch.einsum("...ij,...jd->...id", weights, value).transpose(-2, -3).flatten(-2)
    return video + layer.out(mixed).permute(0, 4, 3, 1, 2)


def turned(features: Tensor, order: Order) -> Tensor:
    """Rotary embedding, pair by pair."""
    size = 2 * order.cos.shape[-1]
    pairs, rest = features[..., :size].unflatten(-1, (-1, 2)), features[..., size:]
    first, second = pairs.unbind(-1)
    both = torch.stack([first * order.cos - second * order.sin, second * order.cos + first * order.sin], dim=-1)
    return torch.cat([both.flatten(-2), rest], dim=-1)


def over_space(layer: SpatialAttention, video: Tensor) -> Tensor:
    tokens = normed(video, layer.norm.gain).permute(0, 2, 3, 4, 1).flatten(2, 3)
    query, key, value = heads_of(layer, tokens, layer.heads)
    weights = torch.einsum("...id,...jd->...ij", query * query.shape[-1] ** -0.5, key).softmax(dim=-1)
    mixed = torch.einsum("...ij,...jd->...id", weights, value).transpose(-2, -3).flatten(-2)
    return video + layer.out(mixed).unflatten(2, video.shape[3:]).permute(0, 4, 1, 2, 3)


def linearly(layer: LinearAttention, video: Tensor) -> Tensor:
    tokens = normed(video, layer.norm.gain).permute(0, 2, 3, 4, 1).flatten(2, 3)
    query, key, value = heads_of(layer, tokens, layer.heads)
    query = query.softmax(dim=-1) * layer.head_dim**-0.5
    context = torch.einsum("...nd,...ne->...de", key.softmax(dim=-2), value)
    mixed = torch.einsum("...de,...nd->...ne", context, query).transpose(-2, -3).flatten(-2)
    return video + layer.out(mixed).unflatten(2, video.shape[3:]).permute(0, 4, 1, 2, 3)
