"""Methods that need the prior's weights: they begin exactly as the prior, and all that they have learns."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tiny import dreambooth
from trimtab import checkpoints, models
from trimtab.adapters.controlnet import ControlNet
from trimtab.adapters.finetune import Finetune
from trimtab.core.values import Clip, Conditioning, NoiseLevel, Video
from trimtab.diffusion.losses import DenoisingLoss
from trimtab.diffusion.noise import gaussian_noise
from trimtab.models import avid_unet
from trimtab.networks.precision import fast_products
from trimtab.networks.unet3d import NO_TEXT
from trimtab.priors import gaussian, pixel_unet
from trimtab.priors.pixel_unet import PixelUNet, PixelUNetSettings

SMALL = {
    "change_unet": {"widths": (32, 64), "depths": (1, 2)},
    "avid_unet": {"width": 8, "heads": 2, "head_dim": 32, "multiples": (1, 2)},
}


def prior_of(model: str) -> PixelUNet:
    """Of toy size, with random weights."""
    if model == "change_unet":
        return pixel_unet.tiny()
    settings = PixelUNetSettings(model, avid_unet.TINY, num_frames=3, frame_shape=(3, 16, 16), num_levels=50)
    prior, generator = PixelUNet(settings), torch.Generator().manual_seed(0)
    for parameter in prior.parameters():
        nn.init.normal_(parameter, std=0.2, generator=generator)
    return prior.frozen()


METHODS: dict[str, Callable[[PixelUNet], Any]] = {
    "controlnet": lambda prior: ControlNet(prior, num_actions=3),
    "small controlnet": lambda prior: ControlNet(prior, num_actions=3, **SMALL[prior.settings.model]),
    "controlnet, continuous": lambda prior: ControlNet(prior, action_dim=2),
    "small controlnet, continuous": lambda prior: ControlNet(prior, action_dim=2, **SMALL[prior.settings.model]),
    "finetune": lambda prior: Finetune(prior, num_actions=3),
    "finetune, continuous": lambda prior: Finetune(prior, action_dim=2),
    "low rank": lambda prior: Finetune(prior, num_actions=3, rank=4),
    "temporal": lambda prior: Finetune(prior, num_actions=3, temporal=True),
    "temporal, untold": lambda prior: Finetune(prior, temporal=True),
}
PAIRS = [
    (model, name)
    for model in SMALL
    for name in METHODS
    if model == "change_unet" or "continuous" not in name  # actions that the paper's network does not take
]


def knowledge(continuous: bool) -> Conditioning:
    context = gaussian_noise((2, 3, 16, 16), seed=5, step=0, samples=range(2))
    actions = torch.tensor([[0, 1, 2], [2, 2, 0]])
    return Conditioning(context=context, actions=torch.stack([actions, -actions], -1) / 2 if continuous else actions)


def noisy() -> Video:
    return gaussian_noise((3, 3, 16, 16), seed=6, step=0, samples=range(2))


def level_of(prior: PixelUNet) -> NoiseLevel:
    return prior.schedule.level(torch.tensor([10, 45]))


def trained(model: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


@pytest.mark.parametrize(("model_name", "name"), PAIRS)
def test_it_begins_exactly_as_the_prior_whatever_the_actions(model_name: str, name: str) -> None:
    prior = prior_of(model_name)
    model, given = METHODS[name](prior).eval(), knowledge("continuous" in name)
    with torch.no_grad():
        expected = prior.bind(given)(noisy(), level_of(prior)).tensor
        assert torch.equal(model.bind(given)(noisy(), level_of(prior)).tensor, expected)


@pytest.mark.parametrize(("model_name", "name"), PAIRS)
def test_every_weight_learns_within_two_steps_and_the_prior_never(model_name: str, name: str) -> None:
    prior = prior_of(model_name)
    model, given, before = METHODS[name](prior), knowledge("continuous" in name), copy.deepcopy(prior.state_dict())
    # Half of the samples know their actions, so that the null action is asked for, too.
    clip = Clip(noisy().clamp(-1, 1), given.forget("actions", torch.tensor([True, False])))
    task = DenoisingLoss(model, prior.schedule)
    optimizer = torch.optim.SGD(trained(model).values(), lr=0.1)
    still = set(trained(model))
    # Where what a copy is told of actions passes through zeros on its way, too, it takes one step more.
    blind = name == "controlnet, continuous" or (model_name == "avid_unet" and name == "controlnet")
    for step in range(3 if blind else 2):
        optimizer.zero_grad()
        task(clip, step=step, samples=[0, 1]).mean().backward()
        still -= {name for name, value in trained(model).items() if value.grad is not None and value.grad.any()}
        optimizer.step()
    assert not still
    assert all(torch.equal(value, before[name]) for name, value in prior.state_dict().items())


@pytest.mark.parametrize("model_name", SMALL)
def test_a_full_controlnet_looks_as_the_prior_does(model_name: str) -> None:
    prior = prior_of(model_name)
    given, seen = knowledge(False), []
    encode = prior.network.encode
    prior.network.encode = lambda *arguments: seen.append(encode(*arguments)) or seen[-1]
    with torch.no_grad():
        prior.bind(given)(noisy(), level_of(prior))
        features = ControlNet(prior, num_actions=3).controller.bind(given)(noisy(), level_of(prior))
    of_prior = seen[0] if model_name == "change_unet" else seen[0][1]
    assert tuple(feature.shape[1] for feature in features) == prior.channels
    assert all(torch.equal(own, other) for own, other in zip(features, of_prior, strict=True))


@pytest.mark.parametrize("place", [0, 1])
def test_what_is_added_arrives_where_it_was_meant_for(place: int) -> None:
    """Beside a network written out by hand."""
    prior = pixel_unet.tiny()
    network = prior.network
    video, angle = torch.randn(2, 3, network.in_channels, 16, 16), torch.tensor([0.3, 1.2])
    with torch.no_grad(), fast_products(video.device):
        condition = network.condition(angle, None, None, NO_TEXT, 2, 3)
        features = network.encode(video, condition)
        added = [torch.zeros_like(some) for some in features]
        added[place] = 10 * torch.randn_like(added[place])
        skip, frames = (own + more for own, more in zip(features, added, strict=True))
        frames = network.grow[0](frames) + skip
        for block in network.up[0]:
            frames = block(frames, condition, 3)
        scale, shift = network.modulation(condition)[:, :, None, None].chunk(2, dim=1)
        answer = network.answer(nn.functional.silu(network.norm(frames) * (1 + scale) + shift)).unflatten(0, (2, 3))
        found, _ = network(video, angle, control=added)
        plain, _ = network(video, angle)
    torch.testing.assert_close(found, answer.float(), rtol=0.05, atol=0.01)
    assert not torch.allclose(found, plain, rtol=0.05, atol=0.01)


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_what_is_added_arrives_where_it_was_meant_for_in_the_papers_network(place: int) -> None:
    """A stage gets it only where it is carried across; the middle after its attention, and at its end, in this order."""
    network = prior_of("avid_unet").network
    video, step = torch.randn(2, 3, 9, 16, 16), torch.tensor([3, 40])
    with torch.no_grad(), fast_products(video.device):
        condition, order = network.condition(step, None, None, 2, 3), network.frame_number(3)
        stem, features = network.encode(video, condition, order)
        added = [torch.zeros_like(some) for some in features]
        added[place] = 10 * torch.randn_like(added[place])
        first, second, middle, _ = (own + more for own, more in zip(features, added, strict=True))
        frames = network.middle_second(middle, condition) + added[3]
        for stage, skip in zip(network.up, (second, first), strict=True):
            frames = stage.resample(stage(torch.cat([frames, skip], dim=1), condition, order))
        answer = network.answer(network.last(torch.cat([frames, stem], dim=1))).unflatten(0, (2, 3))
        found, _ = network(video, step, control=added)
        plain, _ = network(video, step)
    torch.testing.assert_close(found, answer.float(), rtol=0.02, atol=0.02)
    assert (found - plain).abs().max() > 0.2


@pytest.mark.usefixtures("without_shape_types")
@pytest.mark.parametrize(
    ("sizes", "expected"),
    # The paper's small one has biases in its projections, for which it does not begin as the prior; they are not counted.
    [({}, 71_047_472), ({"width": 52, "heads": 8, "head_dim": 64}, 22_158_492 - (100 + 200 + 400 + 3 * 800))],
)
def test_the_papers_controlnets_have_its_number_of_parameters(sizes: dict[str, int], expected: int) -> None:
    prior = PixelUNet(PixelUNetSettings("avid_unet", avid_unet.TINY))
    base = {"width": 100, "heads": 8, "head_dim": 64}
    with torch.device("meta"):  # shapes without numbers
        prior.settings, prior.network = PixelUNetSettings("avid_unet", base), models.build("avid_unet", prior, **base)
        model = ControlNet(prior, num_actions=15, **sizes)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


def test_low_rank_changes_are_all_that_is_trained_and_saved(tmp_path: Path) -> None:
    prior = pixel_unet.tiny()
    model = METHODS["low rank"](prior)
    matrices = [value for name, value in prior.network.named_parameters() if value.ndim > 1 and name != "place.weight"]
    expected = sum(4 * (len(value) + value[0].numel()) for value in matrices) + 4 * 256  # and four actions
    assert sum(value.numel() for value in trained(model).values()) == expected
    checkpoints.save(tmp_path, model, prior)
    assert (tmp_path / checkpoints.WEIGHTS).stat().st_size < 4 * expected + 20_000


def test_a_low_rank_change_is_the_product_of_its_factors() -> None:
    model = METHODS["low rank"](pixel_unet.tiny())
    part, weight = model.network.middle[0].space, model.network.middle[0].space.weight.detach().clone()
    change = part.parametrizations.weight[0]
    with torch.no_grad():
        change.up.normal_()
    for output, row in enumerate(part.weight - weight):
        expected = sum(change.up[output, k] * change.down[k].reshape(row.shape) for k in range(4))
        torch.testing.assert_close(row, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("model_name", "at"), [("change_unet", 0.5), ("avid_unet", 7)])
def test_nothing_but_the_temporal_parts_of_a_prior_mixes_frames(model_name: str, at: float) -> None:
    prior = prior_of(model_name)
    network = prior.network
    video = torch.randn(1, 3, network.in_channels, 16, 16)
    other = video.clone()
    other[:, 1] += 1

    def moved() -> list[bool]:
        """Of which frames the answer changes when the second frame does."""
        with torch.no_grad():
            first, second = (network(some, torch.tensor([at]))[0][0] for some in (video, other))
        return [bool(change.abs().max() > 1e-4) for change in second - first]

    assert moved() == [True, True, True]
    for name in prior.temporal:
        for parameter in network.get_submodule(name).parameters():
            parameter.zero_()
    assert moved() == [False, True, False]


def test_what_mixes_frames_is_all_that_is_trained_and_saved(tmp_path: Path) -> None:
    prior = dreambooth.prior()
    model, before = Finetune(prior, temporal=True), copy.deepcopy(prior.network.state_dict())
    expected = {name for name in before if ".time." in name}
    assert expected
    assert {name.removeprefix("network.") for name in trained(model)} == expected
    text = gaussian_noise((4, 6), seed=7, step=0, samples=range(2))
    given = Conditioning(context=knowledge(False).context[:, :1], text=text)
    optimizer = torch.optim.SGD(trained(model).values(), lr=0.1)
    DenoisingLoss(model, prior.schedule)(Clip(noisy(), given), step=0, samples=[0, 1]).mean().backward()
    optimizer.step()
    changed = {
        name for name, value in model.network.state_dict().items() if not torch.equal(value, before[name].float())
    }
    assert changed == expected
    checkpoints.save(tmp_path, model, prior)
    assert {name.removeprefix("network.") for name in model.state_dict()} == expected
    again = checkpoints.load(tmp_path, Finetune, prior)
    with torch.no_grad():
        answers = [some.bind(given)(noisy(), level_of(prior)).tensor for some in (model, again, prior)]
    assert torch.equal(answers[0], answers[1])
    assert not torch.allclose(answers[0], answers[2])


@pytest.mark.usefixtures("without_shape_types")
@pytest.mark.parametrize("method", [ControlNet, Finetune])
def test_a_closed_prior_is_refused(method: Any) -> None:
    with pytest.raises(
        TypeError, match=f"{method.__name__} needs a prior whose weights are within reach.*GaussianPrior"
    ):
        method(gaussian.tiny(), num_actions=3)


def test_wrong_sizes_are_refused() -> None:
    prior = pixel_unet.tiny()
    with pytest.raises(ValueError, match=r"features at 2 resolutions, sizes .* make 3"):
        ControlNet(prior, num_actions=3, widths=(32, 32, 32), depths=(1, 1, 1))
    with pytest.raises(ValueError, match="rank 1 or more, not 0"):
        Finetune(prior, num_actions=3, rank=0)
    with pytest.raises(ValueError, match="temporal trains weights whole, rank=2 changes to all of them"):
        Finetune(prior, rank=2, temporal=True)
    other = PixelUNet(PixelUNetSettings(frame_shape=(3, 16, 16), num_frames=3))
    with pytest.raises(ValueError, match="another network's weights"):
        prior.network.adopt(other.network.state_dict())
