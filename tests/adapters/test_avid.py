"""AVID against its formula, written out by hand, and what it hides from the prior."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trimtab.adapters import avid
from trimtab.adapters.avid import AVID
from trimtab.core.contracts import BoundDenoiser
from trimtab.core.values import Conditioning, Kind, NoiseLevel, Video
from trimtab.diffusion import schedules
from trimtab.diffusion.noise import gaussian_noise
from trimtab.diffusion.preconditioning import displaced
from trimtab.diffusion.schedules import Schedule
from trimtab.priors import gaussian, pixel_unet
from trimtab.priors.gaussian import GaussianPrior

SCHEDULES = {
    "linear": schedules.linear(),
    "zero_snr": schedules.zero_terminal_snr(schedules.scaled_linear()),
    "flow": schedules.flow(),
}
SHAPE = (4, 3, 8, 8)


def knowledge(batch: int = 3, time: int = 4) -> Conditioning:
    context = gaussian_noise((2, *SHAPE[1:]), seed=5, step=0, samples=range(batch))
    return Conditioning(context=context, actions=torch.arange(batch * time).reshape(batch, time) % 3)


def noisy_at(schedule: Schedule, batch: int = 3, time: int = 4) -> tuple[Video, NoiseLevel]:
    level = schedule.level(torch.linspace(10, schedule.num_levels - 1, batch).long())
    return gaussian_noise((time, *SHAPE[1:]), seed=6, step=0, samples=range(batch)), level


def built(prior: GaussianPrior, **options: Any) -> AVID:
    """A small adapter with nothing left at zero."""
    adapter = AVID(prior, num_actions=3, widths=(32,), depths=(1,), patch=1, **options).eval()
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.normal_(std=0.1)
    return adapter.requires_grad_(False)


def trust(adapter: AVID, logit: float) -> AVID:
    """The adapter with one mask logit everywhere."""
    assert adapter.network.mask is not None
    for parameter in adapter.network.mask.parameters():
        nn.init.zeros_(parameter)
    adapter.network.mask_bias = logit
    return adapter


def overheard(
    adapter: AVID, noisy: Video, level: NoiseLevel, given: Conditioning
) -> tuple[Tensor, tuple[Tensor, Tensor | None]]:
    """What the adapter's network is shown, and what it answers."""
    heard: list[Any] = []
    hook = adapter.network.register_forward_hook(lambda module, inputs, output: heard.append((inputs[0], output)))
    adapter.bind(given)(noisy, level)
    hook.remove()
    return heard[0]


def by_hand(
    adapter: AVID, noisy: Video, level: NoiseLevel, given: Conditioning
) -> tuple[dict[str, Tensor], Tensor, Tensor | None]:
    """The adapter's own belief in every kind, the prior's tensor, and the mask, from the formulas of the paper."""
    assert given.context is not None
    belief = adapter.prior.bind(Conditioning(context=given.context))(noisy, level)
    prior, shown = belief.tensor, adapter.network.sees_prior
    alpha, sigma = (value[:, None, None, None, None].double() for value in (level.alpha, level.sigma))
    length = (alpha**2 + sigma**2).sqrt()
    a, s, d = alpha / length, sigma / length, adapter.network.deviation
    last = given.context[:, -1:].double()
    narrow = ((a * d) ** 2 + s**2).sqrt()
    seen_change = (noisy / length - a * last) / narrow
    context = given.context.flatten(1, 2)[:, None].expand(-1, noisy.shape[1], -1, -1, -1)
    stood = torch.cat([context[:, :, -noisy.shape[2] :], torch.zeros_like(context[:, :, :1])], dim=2)  # nothing drifts
    seen = [seen_change.float(), context, stood, *([prior] if shown else [])]
    # The network is asked with what it was asked with, once it is seen to be that: its products round to bfloat16.
    asked, (answer, logit) = overheard(adapter, noisy, level, given)
    torch.testing.assert_close(asked, torch.cat(seen, dim=2), rtol=1e-4, atol=1e-4)
    answer, scale, where, still = answer.double().split([noisy.shape[2], 1, 2, 1], dim=2)
    d, last = d * (4 * scale).clamp(-6, 2).exp(), displaced(last, 4 * where.cumsum(1))
    share = (2 * still).clamp(0, 1)
    last = (1 - share) * last + share * given.context[:, -1:].double()
    variance = (a * d) ** 2 + s**2
    # Of the change r ~ N(0, d^2), seen as a * r + s * e: the mean of its velocity, and the network's share.
    change = noisy / length - a * last
    of_change = (a * s - s * a * d**2) / variance * change + d / variance.sqrt() * answer
    velocity = of_change - s * last
    clean, noise = a * noisy / length - s * velocity, s * noisy / length + a * velocity
    kinds = {"noise": noise, "clean": clean, "velocity": alpha * noise - sigma * clean, "flow": noise - clean}
    return kinds, prior, None if logit is None else torch.sigmoid(logit)


@pytest.mark.parametrize("kind", ["noise", "clean", "velocity", "flow"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_mixture_is_made_in_the_priors_own_kind(name: str, kind: Kind) -> None:
    adapter, given = built(gaussian.tiny(kind, SCHEDULES[name])), knowledge()
    noisy, level = noisy_at(SCHEDULES[name])
    belief, alone, mask = adapter.believe(given)(noisy, level)
    own, prior, expected_mask = by_hand(adapter, noisy, level, given)
    assert belief.kind == kind
    assert belief.tensor.isfinite().all()
    assert mask is not None
    assert expected_mask is not None
    torch.testing.assert_close(mask, expected_mask, rtol=1e-4, atol=1e-4)
    assert mask.std() > 0.01
    torch.testing.assert_close(getattr(alone, kind).double(), own[kind], rtol=1e-3, atol=2e-3)
    expected = prior * expected_mask + own[kind] * (1 - expected_mask)
    torch.testing.assert_close(belief.tensor.double(), expected, rtol=1e-3, atol=2e-3)
    assert (prior - own[kind]).abs().mean() > 0.1, "prior and adapter agree, so that the mixture shows nothing"


@pytest.mark.parametrize("kind", ["noise", "clean", "velocity"])
def test_full_trust_is_the_prior_and_no_trust_the_adapter(kind: Kind) -> None:
    adapter, given = built(gaussian.tiny(kind)), knowledge()
    noisy, level = noisy_at(SCHEDULES["linear"])
    prior = adapter.prior.bind(given.without("actions"))(noisy, level)
    assert torch.equal(trust(adapter, 100.0).bind(given)(noisy, level).tensor, prior.tensor)
    own, _, _ = by_hand(adapter, noisy, level, given)
    without = trust(adapter, -100.0).bind(given)(noisy, level).tensor
    torch.testing.assert_close(without.double(), own[kind], rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize(("bias", "share"), [(0.0, 0.5), (2.0, 0.8807970779778823)])
def test_the_untrained_mask_is_the_bias_alone(bias: float, share: float) -> None:
    adapter = AVID(gaussian.tiny(), num_actions=3, widths=(32,), depths=(1,), patch=1, mask_bias=bias)
    with torch.no_grad():
        belief, _, mask = adapter.believe(knowledge())(*noisy_at(SCHEDULES["linear"]))
    assert mask is not None
    torch.testing.assert_close(mask, torch.full((3, 4, 1, 8, 8), share))
    assert belief.weights_sum_to_one


def test_without_a_mask_the_answer_is_added_and_starts_as_the_prior() -> None:
    given, (noisy, level) = knowledge(), noisy_at(SCHEDULES["linear"])
    new = AVID(gaussian.tiny(), num_actions=3, learn_mask=False, widths=(32,), depths=(1,), patch=1)
    prior = new.prior.bind(given.without("actions"))(noisy, level)
    with torch.no_grad():
        belief, _, mask = new.believe(given)(noisy, level)
    assert mask is None
    assert torch.equal(belief.tensor, prior.tensor)
    nn.init.ones_(new.network.answer.bias)  # type: ignore[arg-type]
    with torch.no_grad():
        assert torch.equal(new.bind(given)(noisy, level).tensor, prior.tensor + 1)


@pytest.mark.parametrize("learn_mask", [True, False])
def test_the_network_sees_the_prior_only_if_it_may(learn_mask: bool) -> None:
    given, (noisy, level) = knowledge(), noisy_at(SCHEDULES["linear"])
    for see_prior in (True, False):
        adapter, seen = built(gaussian.tiny(), learn_mask=learn_mask, see_prior=see_prior), list[Tensor]()
        adapter.network.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(inputs[0]))
        adapter.bind(given)(noisy, level)
        other = GaussianPrior(torch.ones(SHAPE), torch.ones(SHAPE), num_context=2)
        adapter.companions = (other,)
        adapter.bind(given)(noisy, level)
        assert seen[0].shape[2] == adapter.network.in_channels == 13 + 3 * see_prior
        assert torch.equal(seen[0][:, :, :13], seen[1][:, :, :13])
        if see_prior:
            assert torch.equal(seen[1][:, :, 13:], other.bind(given)(noisy, level).tensor)
            assert not torch.equal(seen[0][:, :, 13:], seen[1][:, :, 13:])


class Spy(GaussianPrior):
    """A prior that notes what it is told, and under which conditions it is asked."""

    told: list[Conditioning]
    recording: list[bool]

    def bind(self, given: Conditioning) -> BoundDenoiser:
        self.told.append(given)
        believe = super().bind(given)

        def denoise(noisy: Video, level: NoiseLevel) -> Any:
            self.recording.append(torch.is_grad_enabled())
            return believe(noisy * self.weight, level)

        return denoise


def spy() -> Spy:
    made = Spy(torch.zeros(SHAPE), torch.ones(SHAPE), action_effect=torch.ones(3, *SHAPE[1:]), num_context=2)
    made.told, made.recording, made.weight = [], [], nn.Parameter(torch.ones(1))
    return made


def test_the_prior_is_never_told_the_actions_and_gets_no_gradient() -> None:
    prior, given = spy(), knowledge()
    adapter = built(prior).requires_grad_(True)
    noisy, level = noisy_at(SCHEDULES["linear"])
    for half_told in (given, given.forget("actions", torch.tensor([True, False, True])), given.without("actions")):
        adapter(noisy, level, half_told).tensor.square().mean().backward()
    assert all(told.actions is None and "actions" not in told.known for told in prior.told)
    assert all(told.context is given.context for told in prior.told)
    assert prior.recording == [False] * 3
    assert prior.weight.grad is None
    assert all(value.grad is not None for value in adapter.parameters())
    assert "weight" not in dict(adapter.named_parameters())


def test_the_prior_is_asked_once_a_step_and_told_once_a_clip() -> None:
    prior = spy()
    believe = built(prior).bind(knowledge())
    for _ in range(3):
        believe(*noisy_at(SCHEDULES["linear"]))
    assert (len(prior.told), len(prior.recording)) == (1, 3)


def test_a_sample_that_does_not_know_its_actions_is_answered_as_if_nobody_told() -> None:
    adapter, given = built(gaussian.tiny()), knowledge()
    noisy, level = noisy_at(SCHEDULES["linear"])
    told, untold = (adapter.bind(facts)(noisy, level).tensor for facts in (given, given.without("actions")))
    mixed = adapter.bind(given.forget("actions", torch.tensor([False, True, False])))(noisy, level).tensor
    torch.testing.assert_close(mixed[[0, 2]], told[[0, 2]])
    torch.testing.assert_close(mixed[1], untold[1])
    assert (told - untold).abs().amax() > 1e-3


@pytest.mark.parametrize("time", [1, 2, 4])
def test_short_clips_are_answered(time: int) -> None:
    adapter, (noisy, level) = built(gaussian.tiny()), noisy_at(SCHEDULES["linear"], time=time)
    given = knowledge(time=time)
    belief, _, mask = adapter.believe(given)(noisy, level)
    assert belief.tensor.shape == (3, time, 3, 8, 8)
    assert mask is not None
    assert mask.shape == (3, time, 1, 8, 8)
    own, prior, expected = by_hand(adapter, noisy, level, given)
    assert expected is not None
    torch.testing.assert_close(
        belief.tensor.double(), prior * expected + own["velocity"] * (1 - expected), rtol=1e-3, atol=2e-3
    )


def test_continuous_actions_steer_too() -> None:
    adapter = AVID(gaussian.tiny(), action_dim=2, widths=(32,), depths=(1,), patch=1).eval().requires_grad_(False)
    for parameter in adapter.parameters():
        nn.init.normal_(parameter, std=0.1)
    noisy, level = noisy_at(SCHEDULES["linear"])
    context = knowledge().context
    answers = [
        adapter.bind(Conditioning(context=context, actions=sign * torch.ones(3, 4, 2)))(noisy, level).tensor
        for sign in (1, -1)
    ]
    assert (answers[0] - answers[1]).abs().amax() > 1e-3


def test_the_adapter_leaves_the_priors_mode_and_weights_alone() -> None:
    prior = pixel_unet.tiny()
    adapter, before = avid.tiny(prior), prior.fingerprint
    adapter.train()
    assert not prior.training
    adapter.requires_grad_(True)
    assert not any(value.requires_grad for value in prior.parameters())
    assert {name.split(".")[0] for name in adapter.state_dict()} == {"network"}
    assert prior.fingerprint == before


def test_context_is_needed() -> None:
    with pytest.raises(ValueError, match=r"this model needs context frames of shape .* got none"):
        built(gaussian.tiny()).bind(knowledge().without("context"))
