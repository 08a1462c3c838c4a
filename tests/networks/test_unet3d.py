"""The video network: what each frame's answer depends on, its start, its refusals, and its two number formats."""

from contextvars import ContextVar
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trimtab.networks import precision
from trimtab.networks.attention import Source, TextAttention
from trimtab.networks.blocks import Block, FourierEmbedding, TemporalConv
from trimtab.networks.precision import exact_products, fast_products, matrix_dtype, whole_products
from trimtab.networks.unet3d import Text, UNet3D

pytestmark = pytest.mark.usefixtures("exact_products")


def network(randomise: bool = True, **options: Any) -> UNet3D:
    """A small network with discrete actions; by default without the zeros that it starts with."""
    options = {"in_channels": 3, "out_channels": 3, "num_actions": 4, "widths": (32, 64), "depths": (1, 1), **options}
    built = UNet3D(**options).eval()
    if randomise:
        with torch.no_grad():
            for parameter in built.parameters():
                parameter.normal_(std=0.1)
    return built.requires_grad_(False)


def video(batch: int = 2, time: int = 8, channels: int = 3, side: int = 8) -> Tensor:
    return torch.randn(batch, time, channels, side, side)


def angles(*shape: int) -> Tensor:
    return torch.linspace(0.1, 1.4, torch.Size(shape).numel()).reshape(shape)


def frames_that_differ(first: Tensor, second: Tensor) -> list[bool]:
    """Of one sample, which frames."""
    return ((first - second).abs().flatten(2).amax(2)[0] > 1e-5).tolist()


@pytest.mark.parametrize("time", range(1, 9))
def test_every_number_of_frames_keeps_shape_and_dtype(time: int) -> None:
    actions = torch.arange(2 * time).reshape(2, time) % 4
    answer, mask = network(mask=True, out_channels=5)(video(time=time), angles(2), actions)
    assert mask is not None
    assert answer.shape == (2, time, 5, 8, 8)
    assert mask.shape == (2, time, 1, 8, 8)
    assert (answer.dtype, mask.dtype) == (torch.float32, torch.float32)
    assert answer.isfinite().all()


@pytest.mark.parametrize("in_channels", [3, 6, 12])
def test_channels_stacked_on_the_frames_change_the_answer(in_channels: int) -> None:
    built, seen = network(in_channels=in_channels), video(channels=in_channels)
    answer = built(seen, angles(2))[0]
    assert answer.shape == (2, 8, 3, 8, 8)
    for channel in range(in_channels):
        moved = seen.clone()
        moved[:, :, channel] += 1
        assert (built(moved, angles(2))[0] - answer).abs().max() > 1e-3


def test_the_untrained_network_answers_zero_and_trusts_by_the_bias() -> None:
    built = network(randomise=False, mask=True, mask_bias=1.5)
    answer, mask = built(video(), angles(2), torch.ones(2, 8, dtype=torch.int64))
    assert torch.equal(answer, torch.zeros(2, 8, 3, 8, 8))
    assert mask is not None
    assert torch.equal(mask, torch.full((2, 8, 1, 8, 8), 1.5))


def test_an_action_moves_its_own_frame_and_far_frames_not_at_all() -> None:
    """One block mixes each frame with its neighbours alone, so the reach of an action is known."""
    built, actions, seen = network(widths=(32,), depths=(1,)), torch.zeros(1, 8, dtype=torch.int64), video(1)
    before = built(seen, angles(1), actions)[0]
    for frame in range(8):
        other = actions.clone()
        other[0, frame] = 3
        after = built(seen, angles(1), other)[0]
        assert frames_that_differ(before, after) == [abs(k - frame) <= 1 for k in range(8)]


def test_a_level_per_frame_equals_one_level_where_they_agree() -> None:
    built, seen = network(), video()
    whole = built(seen, angles(2))[0]
    torch.testing.assert_close(built(seen, angles(2)[:, None].expand(2, 8))[0], whole)
    assert (built(seen, angles(2, 8))[0] - whole).abs().max() > 1e-3


def test_frames_know_their_place() -> None:
    built, still = network(widths=(32,), depths=(1,)), video(1, 1).expand(1, 8, 3, 8, 8)
    answer = built(still, angles(1))[0]
    assert not torch.allclose(answer[0, 3], answer[0, 4], atol=1e-4)
    with torch.no_grad():
        built.place.weight.zero_()
    answer = built(still, angles(1))[0]
    torch.testing.assert_close(answer[0, 3], answer[0, 4])


@pytest.mark.parametrize("discrete", [True, False])
def test_a_sample_that_does_not_know_its_actions_gets_the_null_action(discrete: bool) -> None:
    built = network() if discrete else network(num_actions=None, action_dim=2)
    actions = torch.randint(4, (3, 8)) if discrete else torch.randn(3, 8, 2)
    seen, known = video(3), torch.tensor([True, False, True])
    told, untold = built(seen, angles(3), actions)[0], built(seen, angles(3))[0]
    mixed = built(seen, angles(3), actions, known)[0]
    torch.testing.assert_close(mixed[[0, 2]], told[[0, 2]])
    torch.testing.assert_close(mixed[1], untold[1])
    assert (told - untold).abs().flatten(1).amax(1).min() > 1e-3


def test_a_permuted_batch_gives_permuted_answers() -> None:
    built, seen, actions = network(mask=True), video(4, 5), torch.randint(4, (4, 5))
    order = torch.tensor([2, 0, 3, 1])
    straight = built(seen, angles(4), actions)
    permuted = built(seen[order], angles(4)[order], actions[order])
    for first, second in zip(straight, permuted, strict=True):
        assert first is not None
        assert second is not None
        torch.testing.assert_close(first[order], second)


def test_the_time_convolution_is_a_three_dimensional_one() -> None:
    for kernel_size in (1, 3, 5):
        own, reference = TemporalConv(32, kernel_size), nn.Conv3d(32, 32, (kernel_size, 1, 1), padding="same")
        with torch.no_grad():
            reference.weight.copy_(own.conv.weight[..., None])
            assert own.conv.bias is not None
            assert reference.bias is not None
            reference.bias.copy_(own.conv.bias)
        frames = torch.randn(3, 6, 32, 5, 7)
        expected = reference(frames.transpose(1, 2)).transpose(1, 2)
        torch.testing.assert_close(own(frames.flatten(0, 1), 6).unflatten(0, (3, 6)), expected)
        shuffled = frames.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(own(shuffled, 6).unflatten(0, (3, 6)), expected)


def test_a_block_mixes_time_within_a_clip_and_never_between_clips() -> None:
    block = Block(32, 16).requires_grad_(False)
    nn.init.normal_(block.time.conv.weight)
    frames, condition = torch.randn(3 * 4, 32, 4, 4), torch.randn(3 * 4, 16)
    other = frames.clone()
    other[5] = torch.randn(32, 4, 4)  # the second frame of the second clip
    change = block(other, condition, 4) - block(frames, condition, 4)
    assert (change.flatten(1).abs().amax(1) > 1e-3).nonzero().flatten().tolist() == [4, 5, 6]


def test_a_new_block_passes_its_input_on() -> None:
    frames = torch.randn(8, 64, 4, 4)
    assert torch.equal(Block(64, 16)(frames, torch.randn(8, 16), 4), frames)


def test_neighbouring_levels_have_different_embeddings() -> None:
    close = FourierEmbedding(128)(torch.tensor([0.0, 0.01, 1.57]))
    assert close.shape == (3, 128)
    assert torch.equal(close[0], torch.cat([torch.zeros(64), torch.ones(64)]))
    assert (close[0] - close[1]).norm() > 1
    torch.testing.assert_close(close.square().sum(1), torch.full((3,), 64.0))


@pytest.mark.usefixtures("without_shape_types")
@pytest.mark.parametrize(
    ("options", "seen", "actions", "message"),
    [
        ({}, video(channels=4), None, "takes 3 channels .* got 4 channels"),
        ({}, video(side=6), None, "divide by 4, got 3 channels of 6 x 6"),
        ({"max_frames": 3}, video(time=4), None, "1 to 3 frames, got 4"),
        ({}, video(), torch.full((2, 8), 4), r"actions are 0 \.\. 3, got 4 \.\. 4"),
        ({}, video(), torch.full((2, 8), -1), r"actions are 0 \.\. 3, got -1 \.\. -1"),
        ({}, video(), torch.zeros(2, 8), r"integers below 4 of shape \(2, 8\).* got torch.float32"),
        (
            {},
            video(),
            torch.zeros(2, 7, dtype=torch.int64),
            r"of shape \(2, 8\), one a frame; got torch.int64 \(2, 7\)",
        ),
        ({"num_actions": None, "action_dim": 2}, video(), torch.zeros(2, 8, 3), r"floats of shape \(2, 8, 2\)"),
        ({"num_actions": None, "action_dim": 2}, video(), torch.zeros(2, 8, 2, dtype=torch.int64), "floats of shape"),
        ({"num_actions": None}, video(), torch.zeros(2, 8, dtype=torch.int64), "built without actions"),
    ],
)
def test_what_it_was_not_built_for_is_refused(
    options: dict[str, Any], seen: Tensor, actions: Tensor | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        network(**options)(seen, angles(2), actions)


def test_a_copy_is_a_part_of_the_answer_of_a_network_that_copies_and_the_rest_sees_it() -> None:
    built, frame, seen = network(copies=3), torch.randn(2, 3, 8, 8), video()
    levels = (torch.zeros(2, 1, 1, 1, 1), torch.ones(2, 1, 1, 1, 1))
    answer = built(seen, angles(2), source=Source(frame, seen, *levels, lambda copy: seen - copy))[0]
    assert answer.shape == (2, 8, 6, 8, 8)
    bright = built(seen, angles(2), source=Source(frame + 1, seen, *levels, lambda copy: seen - copy))[0]
    assert (bright - answer)[:, :, 3:].mean() > 0.5
    assert (bright - answer)[:, :, :3].abs().max() > 1e-3
    other = built(seen, angles(2), source=Source(frame, seen, *levels, lambda copy: seen + copy))[0]
    assert torch.equal(other[:, :, 3:], answer[:, :, 3:])
    assert (other - answer)[:, :, :3].abs().max() > 1e-3
    with pytest.raises(ValueError, match="pass it as source"):
        built(seen, angles(2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_actions": 3, "action_dim": 2}, "not both"),
        ({"widths": (32, 40)}, "multiples of 32"),
        ({"depths": (1,)}, "one for each of depths"),
    ],
)
def test_impossible_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network(**options)


def test_bfloat16_products_stay_close_to_float32_and_the_answer_is_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    built, seen, actions = network(mask=True), video(), torch.randint(4, (2, 8))
    exact = built(seen, angles(2), actions)
    formats: list[torch.dtype] = []
    built.stem.register_forward_hook(lambda module, inputs, output: formats.append(output.dtype))
    monkeypatch.setattr(precision, "matrix_dtype", lambda device: torch.bfloat16)
    rounded = built(seen, angles(2), actions)
    assert formats == [torch.bfloat16]
    for whole, part in zip(exact, rounded, strict=True):
        assert whole is not None
        assert part is not None
        assert part.dtype == torch.float32
        error = (whole - part).norm() / whole.norm()
        assert 0 < error < 0.02


@pytest.mark.parametrize(
    ("has_matrix_units", "has_bfloat16_products", "dtype"),
    [(True, True, torch.bfloat16), (False, True, torch.bfloat16), (False, False, torch.float32)],
)
def test_the_processor_decides_the_number_format(
    monkeypatch: pytest.MonkeyPatch, has_matrix_units: bool, has_bfloat16_products: bool, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_matrix_units)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_bfloat16_products)
    monkeypatch.setattr(precision, "_exact", ContextVar("exact", default=False))  # as outside of this file
    fresh = matrix_dtype.__wrapped__
    assert fresh("cpu") == dtype
    assert fresh("meta") == torch.float32
    monkeypatch.setattr(precision, "matrix_dtype", fresh)
    with fast_products(torch.device("cpu")):
        assert torch.nn.functional.linear(torch.ones(2, 2), torch.ones(2, 2)).dtype == dtype
        for kind in ("cpu", "meta"):  # the second has no such contexts here, and needs none
            with whole_products(torch.device(kind)):
                assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == (torch.float32 if kind == "cpu" else dtype)
    with exact_products(), fast_products(torch.device("cpu")):
        assert torch.nn.functional.linear(torch.ones(2, 2), torch.ones(2, 2)).dtype == torch.float32


def test_gradients_reach_every_weight() -> None:
    built = network(mask=True).requires_grad_(True)
    answer, mask = built(video(), angles(2), torch.randint(4, (2, 8)), torch.tensor([True, False]))
    assert mask is not None
    (answer.square().mean() + mask.square().mean()).backward()
    silent = [name for name, value in built.named_parameters() if value.grad is None or not value.grad.any()]
    assert silent == []


def test_a_text_is_heard_by_its_own_clip_and_only_if_that_is_told_it() -> None:
    built, seen, words = network(text_dim=12), video(2, 3), torch.randn(2, 5, 12)
    actions = torch.randint(4, (2, 3))

    def answer(tokens: Tensor | None, known: list[bool] | None = None) -> Tensor:
        text = Text(tokens, None if known is None else torch.tensor(known))
        found: Tensor = built(seen, angles(2), actions, text=text)[0]
        return found

    told, untold, half = answer(words), answer(None), answer(words, [True, False])
    assert all(frames_that_differ(told, untold))
    torch.testing.assert_close(half[0], told[0])
    torch.testing.assert_close(half[1], untold[1])
    torch.testing.assert_close(answer(words, [False, False]), untold)
    other = answer(torch.cat([words[:1], torch.randn(1, 5, 12)]))
    torch.testing.assert_close(other[0], told[0])
    assert not torch.allclose(other[1], told[1])
    torch.testing.assert_close(answer(words[:, [3, 1, 0, 4, 2]]), told)  # the encoder knows the order of words


def test_the_gist_of_a_text_is_heard_alone_and_is_the_mean_of_the_tokens_that_it_has() -> None:
    built, seen, words = network(text_dim=12), video(2, 3), torch.randn(2, 5, 12)
    built.reads = None  # so that nothing attends to tokens
    words[:, 3:] = 0

    def answer(tokens: Tensor) -> Tensor:
        found: Tensor = built(seen, angles(2), torch.ones(2, 3, dtype=torch.long), text=Text(tokens))[0]
        return found

    mean = words[:, :3].mean(1, keepdim=True)
    torch.testing.assert_close(answer(words), answer(mean))
    assert not torch.allclose(answer(words), answer(mean.flip(0)))
    assert not torch.allclose(answer(words), answer(torch.zeros(2, 1, 12)))


def test_what_pads_a_text_is_no_token() -> None:
    built, seen, words = network(text_dim=12), video(2, 3), torch.randn(2, 5, 12)
    padded = torch.cat([words, torch.zeros(2, 7, 12)], dim=1)
    actions = torch.ones(2, 3, dtype=torch.long)
    answers = [built(seen, angles(2), actions, text=Text(tokens))[0] for tokens in (words, padded)]
    torch.testing.assert_close(*answers)


def test_attention_to_a_text_is_that_of_torch_with_one_token_more() -> None:
    own, reference = TextAttention(64, 12), nn.MultiheadAttention(64, 2, bias=False, kdim=12, vdim=12, batch_first=True)
    with torch.no_grad():
        for parameter in own.parameters():
            parameter.normal_(std=0.3)
        reference.q_proj_weight.copy_(own.query.weight)
        for weight, of_own in zip(
            (reference.k_proj_weight, reference.v_proj_weight), own.key_value.weight.chunk(2), strict=True
        ):
            weight.copy_(of_own)
        reference.out_proj.weight.copy_(own.out.weight)
    frames, text = torch.randn(6, 64, 4, 4), torch.randn(2, 5, 12)
    tokens = torch.cat([own.nothing.expand(2, 1, 12), text], dim=1)
    places = own.norm(frames).permute(0, 2, 3, 1).reshape(2, -1, 64)
    expected = reference(places, tokens, tokens)[0] + own.out.bias
    found = (own(frames, text, None, 3) - frames).permute(0, 2, 3, 1).reshape(2, -1, 64)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_text_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="built without text"):
        network()(video(), angles(2), text=Text(torch.randn(2, 5, 12)))
    for shape in ((2, 5, 11), (3, 5, 12), (2, 0, 12)):
        with pytest.raises(ValueError, match=r"text must be \(2, token, 12\), at least one token"):
            network(text_dim=12)(video(), angles(2), text=Text(torch.randn(shape)))


def test_weights_that_grow_drown_nothing_in_a_steady_network() -> None:
    """The noise level and what is carried across still move the answer; else, with such weights, they hardly do."""

    def moved(steady: bool) -> list[float]:
        built, seen = network(steady=steady), video(2, 4)
        with torch.no_grad():
            for block in built.middle:
                block.time.conv.weight.mul_(1e5)  # type: ignore[union-attr]
            built.level[-1].bias.sub_(30.0)
        answer = built(seen, angles(2))[0]
        others = [built(seen, angles(2) / 2)[0]]
        control = [torch.randn(8, 32, 4, 4), torch.zeros(8, 64, 2, 2)]
        others.append(built(seen, angles(2), control=control)[0])
        return [((other - answer).norm() / answer.norm()).item() for other in others]

    assert min(moved(steady=True)) > 0.02
    assert max(moved(steady=False)) < 0.001
