"""The change since the last frame: an answer of zero is the exact posterior mean, on every schedule."""

import math

import pytest
import torch
from torch import Tensor

from trimtab.core.values import Conditioning, NoiseLevel, Prediction, Video
from trimtab.diffusion import schedules
from trimtab.diffusion.losses import Perceived, change_loss, velocity_loss
from trimtab.diffusion.noise import gaussian_noise
from trimtab.diffusion.preconditioning import FrameChange, clamped, displaced, observed_drift
from trimtab.diffusion.schedules import Schedule
from trimtab.priors.gaussian import GaussianPrior

SCHEDULES = {
    "linear": schedules.linear(),
    "cosine": schedules.cosine(),
    "sigmoid": schedules.sigmoid(),
    "zero_snr": schedules.zero_terminal_snr(schedules.scaled_linear()),
    "flow": schedules.flow(),
    "shifted_flow": schedules.flow(100, 3.0),
    "growing": Schedule("growing", torch.ones(50).double(), torch.linspace(0.01, 20, 50).double()),
}
SHAPE = (4, 3, 4, 4)


def drawn(schedule: Schedule, deviation: float = 0.2, batch: int = 5) -> tuple[Video, NoiseLevel, Tensor, Video, Video]:
    """Noisy clips from the first level to the last, their context of two frames, clean clips and noise."""
    level = schedule.level(torch.linspace(0, schedule.num_levels - 1, batch).long())
    context = gaussian_noise((2, *SHAPE[1:]), seed=1, step=0, samples=range(batch))
    change, noise = (gaussian_noise(SHAPE, seed=1, step=k, samples=range(batch)) for k in (1, 2))
    clean = context[:, -1:] + deviation * change
    return level.add_noise(clean, noise), level, context, clean, noise


def told(answer: Tensor, log_scale: float = 0.0, right: float = 0.0, down: float = 0.0, still: float = 0.0) -> Tensor:
    """An answer, with the log of its scale and a displacement in pixels stacked on, both in fours, and by how much a pixel
    stands still; frames after the first say no more motion, so that all have the displacement of the first."""
    said = torch.tensor([log_scale / 4, right / 4, down / 4, still])
    extra = said[:, None, None].repeat(*answer.shape[:2], 1, *answer.shape[3:])
    extra[:, 1:, 1:3] = 0
    return torch.cat([answer, extra], dim=2)


@pytest.mark.parametrize("deviation", [0.05, 0.2, 1.0, 2.0])
@pytest.mark.parametrize("name", SCHEDULES)
def test_an_answer_of_zero_is_the_posterior_mean_of_a_gaussian_change(name: str, deviation: float) -> None:
    schedule = SCHEDULES[name]
    noisy, level, context, _, _ = drawn(schedule, deviation)
    exact = GaussianPrior(
        torch.zeros(SHAPE), torch.full(SHAPE, deviation), context_weight=1.0, num_context=2, schedule=schedule
    )
    expected = exact.bind(Conditioning(context=context))(noisy, level)
    belief = FrameChange(noisy, level, context, deviation).belief(told(torch.zeros_like(noisy)))
    assert belief.kind == "velocity"
    assert belief.noisy is noisy
    assert belief.level is level
    assert belief.weights_sum_to_one
    scale = torch.hypot(level.alpha, level.sigma).max().item()
    torch.testing.assert_close(belief.tensor, expected.velocity, rtol=1e-4, atol=1e-5 * scale)
    torch.testing.assert_close(belief.clean, expected.clean, rtol=1e-4, atol=1e-4)


def test_the_posterior_mean_by_hand_at_one_pixel() -> None:
    """Last frame 0.5, deviation 0.2, alpha 0.6, sigma 0.8, noisy 1.1: precision weighting of 0.5 and 1.1 / 0.6."""
    level = NoiseLevel(torch.tensor([0.6]), torch.tensor([0.8]))
    noisy, context = torch.full((1, 1, 1, 1, 1), 1.1), torch.full((1, 1, 1, 1, 1), 0.5)
    belief = FrameChange(noisy, level, context, 0.2).belief(torch.zeros(1, 1, 5, 1, 1))
    of_last, of_noisy = 1 / 0.2**2, 0.6**2 / 0.8**2
    expected = (of_last * 0.5 + of_noisy * 1.1 / 0.6) / (of_last + of_noisy)
    assert math.isclose(belief.clean.item(), expected, rel_tol=1e-5)


@pytest.mark.parametrize("name", SCHEDULES)
def test_what_the_network_must_answer_has_unit_variance_whatever_the_level(name: str) -> None:
    """The belief is linear in the answer, so that two probes tell which answer is the truth."""
    noisy, level, context, clean, noise = drawn(SCHEDULES[name], batch=64)
    change = FrameChange(noisy, level, context, 0.2)
    alpha, sigma = level.broadcast()
    zero, one = (change.belief(told(torch.full_like(noisy, value))).tensor for value in (0.0, 1.0))
    answer = (alpha * noise - sigma * clean - zero) / (one - zero)
    assert 0.95 < answer.std() < 1.05
    assert ((answer.flatten(1).std(1) - 1).abs() < 0.35).all()  # 192 numbers each


@pytest.mark.parametrize("name", SCHEDULES)
def test_what_the_network_sees_has_unit_variance_whatever_the_level(name: str) -> None:
    noisy, level, context, _, _ = drawn(SCHEDULES[name], batch=64)
    seen = FrameChange(noisy, level, context, 0.2).stacked()
    assert seen.shape == (64, 4, FrameChange.seen_channels(3, 2), 4, 4)
    assert 0.95 < seen[:, :, :3].std() < 1.05
    for frame in range(4):
        assert torch.equal(seen[:, frame, 3:9], context.flatten(1, 2))
        assert torch.equal(seen[:, frame, 9:12], context[:, -1])
        assert (seen[:, frame, 12] == 0).all()  # nothing drifts


@pytest.mark.parametrize("name", ["flow", "growing"])
def test_the_network_sees_the_same_whatever_the_scale_of_the_schedule(name: str) -> None:
    """A noisy clip and its level, both multiplied by a number, are the same knowledge."""
    noisy, level, context, _, _ = drawn(SCHEDULES[name])
    factor = torch.tensor([0.5, 1.0, 2.0, 3.0, 0.1])
    scaled = NoiseLevel(level.alpha * factor, level.sigma * factor, level.may_be_pure)
    first = FrameChange(noisy, level, context, 0.2)
    second = FrameChange(noisy * factor[:, None, None, None, None], scaled, context, 0.2)
    torch.testing.assert_close(first.stacked(), second.stacked(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(first.angle, second.angle)
    torch.testing.assert_close(first.angle, level.angle)
    answer = told(torch.randn_like(noisy), 0.5)
    torch.testing.assert_close(first.belief(answer).clean, second.belief(answer).clean, rtol=1e-3, atol=1e-3)


def test_a_level_per_frame_is_each_frames_own() -> None:
    schedule = SCHEDULES["cosine"]
    noisy, _, context, _, _ = drawn(schedule)
    index = torch.arange(20).reshape(5, 4) * 50
    together = FrameChange(noisy, schedule.level(index), context, 0.2)
    answer = told(torch.randn_like(noisy), -0.5)
    for frame in range(4):
        alone = FrameChange(noisy[:, frame : frame + 1], schedule.level(index[:, frame]), context, 0.2)
        torch.testing.assert_close(together.stacked()[:, frame], alone.stacked()[:, 0])
        part = alone.belief(answer[:, frame : frame + 1])  # without motion, no frame depends on another
        torch.testing.assert_close(together.belief(answer).tensor[:, frame], part.tensor[:, 0])


def test_the_loss_of_the_change_charges_a_wrong_answer_by_its_share_in_the_velocity() -> None:
    """An answer that is wrong by one costs, before the tail is taken off, its share's square over the share."""
    noisy, level, context, _, _ = drawn(SCHEDULES["cosine"])
    change, answer = FrameChange(noisy, level, context, 0.2), torch.randn_like(noisy)
    right, wrong = change.belief(told(answer)), change.belief(told(answer + 1))
    alpha, sigma = level.broadcast()
    clean = right.clean
    noise = (noisy - alpha * clean) / sigma
    share = (wrong.velocity - right.velocity).flatten(1)[:, 0]
    assert share[0] > 0.99
    assert math.isclose(share[-1].item(), 0.2, rel_tol=1e-3)
    small, large = (change_loss(wrong, clean, noise, tail=tail) for tail in (1e-6, 10.0))
    torch.testing.assert_close(small, share.sqrt(), rtol=2e-3, atol=1e-3)  # far above the tail: the absolute error
    torch.testing.assert_close(large, share / 20, rtol=5e-3, atol=1e-4)  # far below: half the square over the tail
    assert change_loss(right, clean, noise).abs().max() < 2e-3


def test_the_loss_of_the_change_charges_what_is_misplaced_less_than_what_is_gone() -> None:
    """By hand: a dot of one pixel, gone or beside its place, errors of pixels and of squares of 2 and 4, near no noise."""
    clean = torch.zeros(1, 1, 3, 4, 4)
    clean[..., 0, 0] = 1
    level = NoiseLevel(torch.tensor([0.6]), torch.tensor([0.8]))
    share = 0.2 / math.hypot(0.6 * 0.2, 0.8)
    scale, noise = 0.8 + 0.6**2 / 0.8, torch.randn_like(clean)  # what an error of the clean video is in the velocity

    def loss(believed: Tensor, **options: int) -> float:
        belief = Prediction(believed, "clean", level.add_noise(clean, noise), level)
        return change_loss(belief, clean, noise, tail=1e-6, **options).item()

    gone, beside, away = torch.zeros_like(clean), clean.roll(1, -1), clean.roll(3, -1)
    unit = scale / math.sqrt(share) / 16  # one pixel of sixteen
    assert loss(gone, coarsest=1) == pytest.approx(unit, rel=1e-3)
    assert loss(beside, coarsest=1) == pytest.approx(2 * unit, rel=1e-3)
    assert loss(gone, coarsest=4) == pytest.approx(unit, rel=1e-3)  # the mean of three figures that are the same
    assert loss(beside, coarsest=4) == pytest.approx(2 * unit / 7, rel=1e-3)  # squares do not see it
    assert loss(away, coarsest=4) == pytest.approx((2 + 2 * 2) * unit / 7, rel=1e-3)  # that of 4 does not
    assert loss(away, coarsest=64) == loss(away, coarsest=4)


def test_a_perceived_loss_adds_a_distance_of_the_clean_videos() -> None:
    noisy, level, context, clean, noise = drawn(SCHEDULES["cosine"])
    belief = FrameChange(noisy, level, context, 0.2).belief(told(torch.randn_like(noisy)))
    asked: list[Tensor] = []

    class Squares:
        def distance(self, generated: Tensor, real: Tensor) -> Tensor:
            asked.extend((generated, real))
            return (generated - real).flatten(2).square().sum(2)

    both = Perceived(velocity_loss, Squares(), 0.5)(belief, clean, noise)
    assert torch.equal(asked[0], belief.clean)
    assert torch.equal(asked[1], clean)
    apart = (belief.clean - clean).square().sum((1, 2, 3, 4)) / 4
    torch.testing.assert_close(both, velocity_loss(belief, clean, noise) + 0.5 * apart)


def test_extra_channels_come_last() -> None:
    noisy, level, context, _, _ = drawn(SCHEDULES["cosine"])
    change, extra = FrameChange(noisy, level, context, 0.2), torch.randn(5, 4, 7, 4, 4)
    seen = change.stacked(extra)
    assert torch.equal(seen[:, :, :13], change.stacked())
    assert torch.equal(seen[:, :, 13:], extra)


def test_what_stands_still_in_a_drifting_picture_is_seen_to() -> None:
    context = drifting(2, -1)[:, :2].clone()
    context[:, :, :, 10:18, 10:18] = torch.randn(2, 1, 3, 8, 8)
    level = schedules.cosine().level(torch.tensor([200, 700]))
    seen = FrameChange(torch.zeros(2, 3, 3, 40, 40), level, context, 0.2, observed_drift(context)).stacked()
    told_apart = seen[:, :, 12]
    assert (told_apart[..., 12:16, 12:16] > 0).float().mean() > 0.9
    assert (told_apart[..., 20:35, 20:35] < 0).float().mean() > 0.9


def test_of_one_context_frame_nothing_is_known_to_stand_still() -> None:
    noisy, level, context, _, _ = drawn(SCHEDULES["cosine"])
    seen = FrameChange(noisy, level, context[:, -1:], 0.2).stacked()
    assert seen.shape[2] == FrameChange.seen_channels(3, 1)
    assert (seen[:, :, -1] == 0).all()


@pytest.mark.usefixtures("without_shape_types")
@pytest.mark.parametrize("shape", [(4, 2, 3, 4, 4), (5, 2, 1, 4, 4), (5, 2, 3, 8, 4)])
def test_a_context_of_another_batch_or_frame_is_refused(shape: tuple[int, ...]) -> None:
    noisy, level, _, _, _ = drawn(SCHEDULES["cosine"])
    with pytest.raises(ValueError, match="must agree in batch, channels and size"):
        FrameChange(noisy, level, torch.zeros(shape), 0.2)


@pytest.mark.parametrize("log_scale", [-2.0, 0.0, 1.0])
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_network_can_say_how_much_changes(name: str, log_scale: float) -> None:
    """Saying so is the same as having been built for that deviation."""
    noisy, level, context, _, _ = drawn(SCHEDULES[name])
    answer = torch.randn_like(noisy)
    said = FrameChange(noisy, level, context, 0.2).belief(told(answer, log_scale))
    built = FrameChange(noisy, level, context, 0.2 * math.exp(log_scale)).belief(told(answer))
    torch.testing.assert_close(said.tensor, built.tensor, rtol=1e-4, atol=1e-4)


def test_where_nothing_changes_the_last_frame_stays_without_noise() -> None:
    noisy, level, context, _, _ = drawn(SCHEDULES["cosine"])
    belief = FrameChange(noisy, level, context, 0.2).belief(told(torch.zeros_like(noisy), -6.0))
    early = level.sigma > 0.1
    assert early.any()
    last = context[:, -1:].expand_as(noisy)
    torch.testing.assert_close(belief.clean[early], last[early], rtol=0, atol=0.02)


def by_definition(frame: Tensor, right: float, down: float) -> Tensor:
    """One frame (channel, height, width), every pixel taken from a place beside it: four neighbours, by their areas."""
    _, height, width = frame.shape
    found = torch.zeros_like(frame)
    for y in range(height):
        for x in range(width):
            there_y, there_x = min(max(y + down, 0), height - 1), min(max(x + right, 0), width - 1)
            top, left = math.floor(there_y), math.floor(there_x)
            for row, share_y in ((top, 1 - there_y + top), (top + 1, there_y - top)):
                for column, share_x in ((left, 1 - there_x + left), (left + 1, there_x - left)):
                    if share_x * share_y > 0:
                        found[:, y, x] += share_y * share_x * frame[:, row, column]
    return found


@pytest.mark.parametrize(("right", "down"), [(0, 0), (1, 0), (0, -2), (3, 2), (0.5, 0.25), (-1.3, 0.7), (9, -9)])
def test_a_pixel_is_taken_from_its_displacement(right: float, down: float) -> None:
    frame = torch.randn(2, 1, 3, 5, 7)
    where = torch.tensor([right, down], dtype=torch.float32)[:, None, None].expand(2, 4, 2, 5, 7)
    found = displaced(frame, where)
    assert found.shape == (2, 4, 3, 5, 7)
    for sample in range(2):
        for time in range(4):
            expected = by_definition(frame[sample, 0], right, down)
            torch.testing.assert_close(found[sample, time], expected, rtol=1e-4, atol=1e-4)


def test_every_pixel_has_a_displacement_of_its_own() -> None:
    frame = torch.randn(1, 1, 2, 4, 4)
    where = torch.zeros(1, 2, 2, 4, 4)
    where[0, 1, 0, 2, 1] = 2.0
    where[0, 1, 1, 2, 1] = -1.0
    found = displaced(frame, where)
    expected = frame.repeat(1, 2, 1, 1, 1)
    expected[0, 1, :, 2, 1] = frame[0, 0, :, 1, 3]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_network_can_say_where_a_pixel_comes_from(name: str) -> None:
    """Saying so is the same as having been given the moved frame as the last."""
    noisy, level, context, _, _ = drawn(SCHEDULES[name])
    answer = torch.randn_like(noisy)
    moved = context.clone()
    moved[:, -1] = torch.stack([by_definition(frame, 1.5, -1.0) for frame in context[:, -1]])
    said = FrameChange(noisy, level, context, 0.2).belief(told(answer, 0.3, 1.5, -1.0))
    given = FrameChange(noisy, level, moved, 0.2).belief(told(answer, 0.3))
    torch.testing.assert_close(said.tensor, given.tensor, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(said.tensor, FrameChange(noisy, level, context, 0.2).belief(told(answer, 0.3)).tensor)


def test_what_is_put_in_the_last_frames_place_is_displaced_and_stands_aside_like_it() -> None:
    noisy, level, context, clean, _ = drawn(SCHEDULES["cosine"])
    change = FrameChange(noisy, level, context, 0.2)
    answer = told(torch.randn_like(noisy), 0.3, 1.0, 0.0, 0.1)
    same = context[:, -1:].expand_as(noisy)
    torch.testing.assert_close(change.belief(torch.cat([answer, same], dim=2)).tensor, change.belief(answer).tensor)
    found = change.belief(torch.cat([answer, clean], dim=2)).departs_from
    moved = torch.cat([clean[..., 1:], clean[..., -1:]], dim=-1)
    torch.testing.assert_close(found, 0.8 * moved + 0.2 * context[:, -1:])


def test_motion_adds_up_over_frames() -> None:
    """Steady motion is the same answer at every frame: frame k comes from k steps away."""
    noisy, level, context, _, _ = drawn(SCHEDULES["cosine"])
    answer = torch.cat([torch.randn_like(noisy), torch.zeros(5, 4, 1, 4, 4), torch.full((5, 4, 2, 4, 4), 0.25)], dim=2)
    answer = torch.cat([answer, torch.zeros(5, 4, 1, 4, 4)], dim=2)
    belief = FrameChange(noisy, level, context, 0.2).belief(answer)
    for frame in range(4):
        moved = context.clone()
        moved[:, -1] = torch.stack([by_definition(last, frame + 1, frame + 1) for last in context[:, -1]])
        alone = FrameChange(noisy[:, frame : frame + 1], level, moved, 0.2)
        expected = alone.belief(told(answer[:, frame : frame + 1, :3]))
        torch.testing.assert_close(belief.tensor[:, frame], expected.tensor[:, 0], rtol=1e-4, atol=1e-4)


def drifting(right: int, down: int, frames: int = 6, side: int = 40, batch: int = 2) -> Video:
    """Cuts from larger random pictures: a pixel of each frame comes from (right, down) away in the frame before."""
    picture = gaussian_noise((3, side + 60, side + 60), seed=3, step=0, samples=range(batch))
    cuts = [
        picture[:, :, 30 + down * k : 30 + down * k + side, 30 + right * k : 30 + right * k + side]
        for k in range(frames)
    ]
    return torch.stack(cuts, dim=1)


@pytest.mark.parametrize(("right", "down"), [(0, 0), (1, 0), (0, -2), (-3, 4), (4, 4), (-4, -4)])
def test_the_drift_of_a_picture_is_found(right: int, down: int) -> None:
    context = drifting(right, down)[:, :3]
    assert observed_drift(context).tolist() == [[right, down]] * 2
    assert observed_drift(context[:, -1:]).tolist() == [[0, 0]] * 2  # one frame does not tell


def test_the_drift_is_the_displacement_of_least_difference() -> None:
    """Against the definition, displacement by displacement, on pictures that drift and change."""
    context = drifting(2, -1, batch=4)[:, :2] + 0.7 * torch.randn(4, 2, 3, 40, 40)
    found = observed_drift(context)
    before, last = context[:, 0], context[:, 1]
    differences = {}
    for right in range(-4, 5):
        for down in range(-4, 5):
            here = last[:, :, max(0, -down) : 40 - max(0, down), max(0, -right) : 40 - max(0, right)]
            there = before[:, :, max(0, down) : 40 + min(0, down), max(0, right) : 40 + min(0, right)]
            differences[right, down] = (here - there).square().sum(1).mean((1, 2))
    for sample in range(4):
        best = min(differences, key=lambda key: differences[key][sample].item())
        enough = differences[best][sample] < 0.8 * differences[0, 0][sample]
        assert found[sample].tolist() == (list(best) if enough else [0, 0])


def test_what_moves_across_a_still_picture_is_no_drift() -> None:
    context = drifting(0, 0, batch=1)[:, :2].clone()
    for frame in range(2):
        context[:, frame, :, 10:18, 10 + 3 * frame : 18 + 3 * frame] = 2.0
    assert observed_drift(context).tolist() == [[0, 0]]


def test_a_picture_that_drifts_on_is_what_an_answer_of_zero_expects() -> None:
    """And the network sees it still: apart from the border, all frames alike and no change. The drift fades: of 2 pixels
    right, 2, 1.6 and 1.28 follow, and of 1 down, 1, 0.8 and 0.64, added up and rounded."""
    context = drifting(2, -1)[:, :2]
    places = torch.tensor([[2.0, -1.0], [4.0, -2.0], [5.0, -2.0]])[None, :, :, None, None].expand(2, -1, -1, -1, -1)
    clean = displaced(context[:, -1:], places)
    level = schedules.cosine().level(torch.tensor([200, 700]))
    noise = gaussian_noise(tuple(clean.shape[1:]), seed=0, step=0, samples=[0, 1])
    noisy = level.add_noise(clean, noise)
    change = FrameChange(noisy, level, context, 0.2, observed_drift(context))
    inner = (..., slice(10, -10), slice(10, -10))
    belief = change.belief(told(torch.zeros_like(noisy), -6.0))
    torch.testing.assert_close(belief.clean[inner], clean[inner], rtol=0, atol=0.02)
    seen, alpha_sigma = change.stacked(), level.broadcast()
    for channels in (slice(3, 6), slice(6, 9)):
        torch.testing.assert_close(seen[:, :, channels][inner], clean[inner], rtol=0, atol=1e-4)
    only_noise = alpha_sigma[1] * noise * torch.rsqrt((alpha_sigma[0] * 0.2) ** 2 + alpha_sigma[1] ** 2)
    torch.testing.assert_close(seen[:, :, :3][inner], only_noise[inner], rtol=0, atol=1e-3)


def test_a_pixel_that_drifts_or_stands_is_not_talked_into_doing_so_more() -> None:
    """Nothing pushes the share further beyond 0 and 1: what most pixels do does not drown what the few that differ say."""
    noisy, level, context, clean, noise = drawn(SCHEDULES["cosine"])
    for still, rises, falls in ((-0.1, True, False), (0.2, True, True), (0.6, False, True)):
        answer = told(torch.zeros_like(noisy), still=still).requires_grad_(True)
        drift = torch.tensor([[1.0, 0.0]]).expand(5, 2)
        change_loss(FrameChange(noisy, level, context, 0.2, drift).belief(answer), clean, noise).sum().backward()
        assert answer.grad is not None
        assert bool((answer.grad[:, :, -1] < 0).any()) == rises
        assert bool((answer.grad[:, :, -1] > 0).any()) == falls


def test_what_a_camera_follows_stands_still() -> None:
    """Half the picture says that it stands, and is believed to be as it was; the other half drifts."""
    context = drifting(2, -1)[:, :2]
    level = schedules.cosine().level(torch.tensor([200, 700]))
    clean = context[:, -1:].expand(-1, 3, -1, -1, -1)
    noisy = level.add_noise(clean, gaussian_noise(tuple(clean.shape[1:]), seed=0, step=0, samples=[0, 1]))
    change = FrameChange(noisy, level, context, 0.2, observed_drift(context))
    answer = told(torch.zeros_like(noisy), -6.0)
    answer[:, :, -1, :20] = 0.5
    belief = change.belief(answer).clean
    torch.testing.assert_close(belief[..., :20, :], clean[..., :20, :], rtol=0, atol=0.02)
    torch.testing.assert_close(belief[..., 20:, :], change.last[..., 20:, :], rtol=0, atol=0.02)


def test_the_displacement_is_learned_by_its_gradient() -> None:
    """From no displacement to the true one, on a smooth frame that has moved by two pixels."""
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    context = torch.sin(torch.stack([rows / 3, columns / 4]))[None, None]
    clean = displaced(context, torch.tensor([2.0, 0.0])[:, None, None].expand(1, 1, 2, 16, 16))
    level = NoiseLevel(torch.tensor([0.2]), torch.tensor([0.98]))
    noise = gaussian_noise((1, 2, 16, 16), seed=0, step=0, samples=[0])
    change = FrameChange(level.add_noise(clean, noise), level, context, 0.2)
    said = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.Adam([said], lr=0.02)
    for _ in range(150):
        silent = torch.tensor([0.0, 0.0, -0.5])
        answer = torch.cat([silent, said, torch.zeros(1)])[:, None, None].expand(1, 1, -1, 16, 16)
        belief = change.belief(answer)
        loss = (belief.clean - clean).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(said.detach() * 4, torch.tensor([2.0, 0.0]), rtol=0, atol=0.3)


def test_what_is_beyond_a_bound_learns_its_way_back_and_no_further_away() -> None:
    values = torch.tensor([-3.0, -3.0, 0.5, 0.5, 4.0, 4.0], requires_grad=True)
    found = clamped(values, 0.0, 1.0)
    torch.testing.assert_close(found, values.detach().clamp(0, 1))
    found.backward(torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0]))
    assert values.grad is not None
    assert values.grad.tolist() == [0.0, -1.0, 1.0, -1.0, 1.0, 0.0]  # descent goes against the gradient


def test_motion_is_learned_though_most_of_the_picture_stands_still() -> None:
    """From an answer that is beyond all bounds, as a training that sees little motion at first may leave it."""
    waves = torch.sin(torch.arange(16) / torch.tensor([[2.0], [3.0], [4.0]]))
    context = (waves[:, None, :] * waves[:, :, None].flip(0))[None, None]
    clean = context.clone()
    clean[..., 4:8, 4:8] = context[..., 4:8, 6:10]  # a piece that came from two pixels to the right
    level = schedules.cosine().level(torch.tensor([900]))
    noise = torch.randn_like(clean)
    noisy = level.add_noise(clean, noise)
    answer = torch.zeros(1, 1, 7, 16, 16)
    answer[:, :, 3], answer[:, :, 6] = -3.0, 2.0
    answer = answer.requires_grad_()
    optimizer = torch.optim.Adam([answer], lr=0.05)
    for _ in range(300):
        belief = FrameChange(noisy, level, context, 0.2).belief(answer)
        optimizer.zero_grad()
        change_loss(belief, clean, noise).sum().backward()
        optimizer.step()
    before, after = (some.square()[..., 4:8, 4:8].mean() for some in (context - clean, belief.clean.detach() - clean))
    assert after < 0.3 * before
