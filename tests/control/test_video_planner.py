"""A planner acts on what is imagined: it arrives with true parts, heeds nobody else in its batch, and asks for no more."""

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from points import LeastSquares, Oracle, Points
from torch import Tensor

from trimtab.control.episodes import Episode, run_episodes
from trimtab.control.video_planner import (
    Imagination,
    Present,
    VideoPlanner,
    Videos,
    as_pixels,
    as_video,
    medoid,
)
from trimtab.core.values import Conditioning, Video
from trimtab.diffusion.sampling import ddim, pairs
from trimtab.environments.metaworld import MetaWorld
from trimtab.priors import pixel_unet
from trimtab.priors.gaussian import GaussianPrior

TEXTS = ["bright", "dark"]


def encode(texts: Sequence[str]) -> Tensor:
    """A token that says 1, 0 for bright and 0, 1 for anything else."""
    return torch.tensor([[[1.0, 0.0] if text == "bright" else [0.0, 1.0]] for text in texts])


def prior_of(deviation: float) -> GaussianPrior:
    """Four frames that hold half the last of two context frames, brighter or darker as the text says."""
    shape = (4, 3, 8, 8)
    effect = torch.tensor([0.25, -0.25])[:, None, None, None].expand(2, 3, 8, 8)
    return GaussianPrior(
        torch.zeros(shape),
        torch.full(shape, deviation),
        text_effect=effect,
        context_weight=0.5,
        num_context=2,
    )


def imagination_of(deviation: float = 0.3, **options: Any) -> Imagination:
    prior = prior_of(deviation)
    return Imagination(prior, prior, partial(ddim, pairs=pairs(prior.schedule, 8)), encode=encode, **options)


def present_of(num: int = 3, step: int = 0, seed: int = 0) -> Present:
    frames = np.random.default_rng(seed).integers(0, 256, (num, 2, 8, 8, 3), dtype=np.uint8)
    texts = tuple(TEXTS[copy % 2] for copy in range(num))
    return Present(frames, tuple(range(num)), texts, tuple(range(10, 10 + num)), step)


def only(present: Present, copy: int) -> Present:
    """The same, of one copy, which is the first of its environment."""
    return replace(
        present,
        frames=present.frames[[copy]],
        copies=(0,),
        texts=None if present.texts is None else (present.texts[copy],),
        episodes=(present.episodes[copy],),
    )


def brightness(before: Tensor, after: Tensor) -> Tensor:
    """A reader: how much brighter each colour became, times ten, beyond -1 .. 1 at times."""
    return 10 * (after - before).mean((2, 3))


def play(points: Points, planner: VideoPlanner, seeds: Sequence[int] = (1, 2, 3)) -> list[Episode]:
    return run_episodes(points, planner, list(seeds), keep_frames=True)


# What is imagined


def test_the_last_frame_and_the_text_decide_what_is_imagined() -> None:
    present = present_of()
    videos = imagination_of(1e-4)(present)
    last = as_video(present.frames[:, 1])
    change = torch.tensor([0.25, -0.25, 0.25])[:, None, None, None]
    expected = (0.5 * last + change)[:, None, None].expand(-1, 1, 4, -1, -1, -1)
    torch.testing.assert_close(videos, expected, atol=2e-3, rtol=0.0)


@pytest.mark.parametrize("name", ["gaussian", "pixel_unet"])
def test_a_copy_is_imagined_for_alone_as_among_others(name: str) -> None:
    if name == "gaussian":
        imagine, present = imagination_of(num_plans=2), present_of()
    else:
        prior = pixel_unet.tiny()
        sampler = partial(ddim, pairs=pairs(prior.schedule, 4), clamp=(-1.0, 1.0))
        imagine = Imagination(prior, prior, sampler, num_plans=2, encode=encode if "text" in prior.uses else None)
        channels, height, width = prior.frame_shape
        assert channels == 3
        frames = np.random.default_rng(0).integers(0, 256, (3, prior.num_context, height, width, 3), dtype=np.uint8)
        present = replace(present_of(), frames=frames)
    together = imagine(present)
    assert together.shape == (3, 2, imagine.horizon, *imagine.prior.frame_shape)
    for copy in range(3):
        torch.testing.assert_close(imagine(only(present, copy)), together[[copy]], atol=1e-5, rtol=1e-5)


def test_each_episode_step_plan_and_seed_has_its_own_noise() -> None:
    present = only(present_of(), 0)
    first, second = imagination_of(num_plans=2)(present)[0]
    torch.testing.assert_close(imagination_of()(present)[0, 0], first)
    others = [
        second,
        imagination_of(seed=1)(present)[0, 0],
        imagination_of()(replace(present, step=1))[0, 0],
        imagination_of()(replace(present, episodes=(11,)))[0, 0],
    ]
    for number, other in enumerate(others):
        for another in [first, *others[:number]]:
            assert (other - another).abs().mean() > 0.1


def test_low_temperature_makes_plans_alike() -> None:
    present = only(present_of(), 0)
    still, half, full = (imagination_of(num_plans=2, temperature=t)(present)[0] for t in (0.0, 0.5, 1.0))
    assert torch.equal(full, imagination_of(num_plans=2)(present)[0])
    assert torch.equal(still[0], still[1])
    inside = (full.abs() < 1) & (half.abs() < 1)  # else clamped
    torch.testing.assert_close((half - still)[inside], ((full - still) / 2)[inside], rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="a temperature is 0"):
        imagination_of(temperature=1.5)


def test_fewer_frames_are_imagined_if_asked() -> None:
    present, asked = present_of(), []

    def sampler(denoiser: GaussianPrior, noise: Video, known: Conditioning) -> Video:
        asked.append(tuple(noise.shape))
        return denoiser.destination(noise, denoiser.schedule.level(torch.full((len(noise),), 999)), known)

    prior = prior_of(0.3)
    imagine = Imagination(prior, prior, sampler, encode=encode, horizon=3, num_plans=2)
    assert imagine(present).shape == (3, 2, 3, 3, 8, 8)
    assert asked == [(6, 3, 3, 8, 8)]


def test_imaginations_that_do_not_fit_are_refused() -> None:
    prior = prior_of(0.3)
    sampler = partial(ddim, pairs=pairs(prior.schedule, 8))
    for options in ({"horizon": 0}, {"horizon": 5}, {"num_plans": 0}):
        with pytest.raises(ValueError, match=r"horizon is 1 .. 4, the clip length of the prior, and num_plans"):
            imagination_of(**options)
    with pytest.raises(ValueError, match=r"uses text; pass encode, such as networks.encoders.MiniLM\(\)"):
        Imagination(prior, prior, sampler)
    blind = GaussianPrior(prior.mean, prior.deviation)
    with pytest.raises(ValueError, match=r"num_context >= 1 and frames_per_latent 1, got 0 and 1"):
        Imagination(blind, blind, sampler)
    elsewhere = SimpleNamespace(uses=frozenset(), space="latents", bind=prior.bind)
    with pytest.raises(ValueError, match="expected a denoiser in space 'frames', got one in 'latents'"):
        Imagination(elsewhere, prior, sampler)
    with pytest.raises(ValueError, match="nobody said what to do; pass reset the text"):
        imagination_of()(replace(present_of(), texts=None))
    for wrong in (lambda denoiser, noise, known: noise[:, 1:], lambda denoiser, noise, known: noise / 0):
        with pytest.raises(ValueError, match=r"must answer a finite video \(3, 4, 3, 8, 8\)"):
            Imagination(prior, prior, wrong, encode=encode)(present_of())


# What is done with it


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), replan_every=st.integers(1, 8))
def test_it_arrives_if_what_it_imagines_and_reads_is_true(seed: int, replan_every: int) -> None:
    points = Points(2)
    for one in play(points, VideoPlanner(Oracle(points), LeastSquares(), replan_every=replan_every), (seed, seed + 1)):
        assert one.success
        assert one.num_steps <= 9
        assert [plan.step for plan in one.plans] == list(range(0, one.num_steps, replan_every))
        for plan in one.plans:
            assert np.abs(plan.actions).max() <= 1
            seen = one.frames[plan.step + 1 :][:replan_every].astype(int)
            assert np.abs(plan.frames[: len(seen)] - seen).max() < 8


def test_the_closed_loop_corrects_what_the_open_one_cannot_foresee() -> None:
    points, read = Points(drift=(0.4, -0.4), max_episode_steps=8), LeastSquares()
    closed = play(points, VideoPlanner(Oracle(points), read))
    opened = play(points, VideoPlanner(Oracle(points), read, replan_every=8))
    assert [one.success for one in closed] == [True] * 3
    assert [one.success for one in opened] == [False] * 3
    calm = Points(max_episode_steps=8)
    assert all(one.success for one in play(calm, VideoPlanner(Oracle(calm), read, replan_every=8)))


def test_nothing_is_imagined_for_an_episode_that_is_over() -> None:
    points = Points()
    oracle = Oracle(points)
    played = play(points, VideoPlanner(oracle, LeastSquares(), replan_every=2), (4, 5, 6))
    lengths = [one.num_steps for one in played]
    assert len(set(lengths)) > 1
    for present in oracle.asked:
        assert present.copies == tuple(copy for copy in range(3) if present.step < lengths[copy])
        assert present.episodes == tuple(4 + copy for copy in present.copies)
        assert present.texts == tuple(f"go to mark {copy % 2}" for copy in present.copies)
    assert [present.step for present in oracle.asked] == list(range(0, max(lengths), 2))


def test_the_first_action_leads_from_the_real_frame_and_all_are_clamped() -> None:
    imagine = imagination_of(1e-4)
    planner = VideoPlanner(imagine, brightness, replan_every=2)
    planner.reset(["bright", "bright"])
    frames = np.full((2, 8, 8, 3), 128, np.uint8)
    frames[1] = 255
    first = planner.act(frames)
    np.testing.assert_array_equal(first, [[1.0, 1.0, 1.0], [-1.0, -1.0, -1.0]])  # to 0.25 from 0, and to 0.75 from 1
    np.testing.assert_allclose(planner.act(frames), 0.0, atol=0.02)  # from one imagined frame to an equal one
    assert {copy: plan.step for copy, plan in planner.plans.items()} == {0: 0, 1: 0}
    waiting = planner.act(frames, np.array([False, True]))
    np.testing.assert_array_equal(waiting, [[0.0, 0.0, 0.0], first[1]])
    assert {copy: plan.step for copy, plan in planner.plans.items()} == {0: 0, 1: 2}
    planner.act(frames)
    assert {copy: plan.step for copy, plan in planner.plans.items()} == {0: 3, 1: 2}


def test_as_many_frames_are_shown_as_asked_for_and_the_first_is_repeated_before_there_are() -> None:
    seen: list[np.ndarray] = []

    class Watching(Oracle):
        """Asks for three frames."""

        num_context = 3

        def __call__(self, present: Present) -> Videos:
            seen.append(present.frames[0])
            return super().__call__(present)

    points = Points()
    played = play(points, VideoPlanner(Watching(points), LeastSquares()))
    frames = played[0].frames
    assert frames is not None
    for step, shown in enumerate(seen[: played[0].num_steps]):
        np.testing.assert_array_equal(shown, frames[[max(0, step - 2), max(0, step - 1), step]])


def test_plans_are_repeated_and_are_those_of_a_copy_alone() -> None:
    def acting(texts: list[str], episodes: list[int], frames: np.ndarray) -> np.ndarray:
        planner = VideoPlanner(imagination_of(num_plans=5), brightness, replan_every=2)
        planner.reset(["dark"] * len(texts))
        planner.act(frames[0])
        planner.reset(texts, episodes)
        return np.stack([planner.act(shown) for shown in frames], axis=1)

    frames = np.random.default_rng(0).integers(0, 256, (4, 3, 8, 8, 3), dtype=np.uint8)
    texts, episodes = ["bright", "dark", "bright"], [5, 9, 2]
    together = acting(texts, episodes, frames)
    np.testing.assert_array_equal(acting(texts, episodes, frames), together)
    for copy in range(3):
        alone = acting([texts[copy]], [episodes[copy]], frames[:, [copy]])
        np.testing.assert_allclose(alone[0], together[copy], atol=1e-4)


@settings(max_examples=50, deadline=None)
@given(num_plans=st.integers(3, 6), outlier=st.integers(0, 5), seed=st.integers(0, 2**31))
def test_the_plan_in_the_middle_is_followed_and_never_the_one_far_out(num_plans: int, outlier: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    actions = 0.1 * torch.randn(3, num_plans, 4, 2, generator=random)
    videos = torch.zeros(3, num_plans, 4, 1, 1, 1)
    chosen = medoid(videos, actions)
    far = (actions - actions.mean(1, keepdim=True)).flatten(2).norm(dim=2)
    assert torch.equal(far.gather(1, chosen[:, None])[:, 0], far.min(1).values)
    order = torch.randperm(num_plans, generator=random)
    assert torch.equal(order[medoid(videos, actions[:, order])], chosen)
    actions[:, outlier % num_plans] += 5
    assert (medoid(videos, actions) != outlier % num_plans).all()


def test_another_choice_may_be_made() -> None:
    def brightest(videos: Videos, actions: Tensor) -> Tensor:
        return videos.mean((2, 3, 4, 5)).argmax(1)

    imagine = imagination_of(num_plans=6)
    planner = VideoPlanner(imagine, brightness, choose=brightest)
    frames = present_of().frames[:, 0]
    planner.reset(["dark"] * 3)
    planner.act(frames)
    videos = imagine(Present(frames[:, None].repeat(2, 1), (0, 1, 2), ("dark",) * 3, (0, 1, 2), 0))
    for copy in range(3):
        best = max(videos[copy], key=lambda video: video.mean().item())
        np.testing.assert_array_equal(planner.plans[copy].frames, as_pixels(best))


def test_loops_and_parts_that_do_not_fit_are_refused() -> None:
    points, read = Points(2), LeastSquares()
    for replan_every in (0, 9):
        with pytest.raises(ValueError, match=f"replan_every is 1 .. 8, the frames imagined, got {replan_every}"):
            VideoPlanner(Oracle(points), read, replan_every=replan_every)
    frames, _ = points.reset(seed=0)
    for wrong in (frames[0], frames[..., :2], frames.astype(np.float32)):
        with pytest.raises(ValueError, match=r"frames are \(num_envs, height, width, 3\) uint8"):
            VideoPlanner(Oracle(points), read).act(wrong)
    planner = VideoPlanner(Oracle(points), read)
    with pytest.raises(ValueError, match="no copy is active"):
        planner.act(frames, np.zeros(2, bool))
    with pytest.raises(ValueError, match="active has one entry for each of 2 copies, got 3"):
        planner.act(frames, np.ones(3, bool))
    planner.reset(["go"])
    with pytest.raises(ValueError, match="texts has one entry for each of 2 copies, got 1"):
        planner.act(frames)
    planner.reset()
    planner.act(frames)
    with pytest.raises(ValueError, match=r"frames were \(2, 24, 24, 3\), got \(1, 24, 24, 3\); call reset"):
        planner.act(frames[:1])
    for change in (lambda video, now: video[:, :, 1:], lambda video, now: video[..., :8], lambda video, now: 3 * video):
        with pytest.raises(ValueError, match=r"here \(2, 1, 8, 3, 24, 24\), in \[-1, 1\], got"):
            VideoPlanner(Oracle(points, change=change), read).act(frames)
    for misread in (lambda before, after: read(before, after)[1:], lambda before, after: read(before, after) / 0):
        with pytest.raises(ValueError, match=r"finite actions \(16, dim\), one a pair of frames, got \(1[56], 2\)"):
            VideoPlanner(Oracle(points), misread).act(frames)


# In MetaWorld


class Cheating:
    """Imagines the expert's continuation, and reads off it what the expert did."""

    num_context, horizon = 1, 4

    def __init__(self, environment: MetaWorld) -> None:
        self.environment = environment

    def __call__(self, present: Present) -> Videos:
        frames, self.actions = self.environment.expert_continuation(self.horizon, present.copies)
        return as_video(frames)[:, None]

    def read(self, before: Tensor, after: Tensor) -> Tensor:
        return torch.tensor(self.actions).flatten(0, 1)


@pytest.mark.slow
def test_with_the_experts_foresight_it_succeeds_in_metaworld_and_sees_what_it_foresaw() -> None:
    tasks = ["door-close", "drawer-open", "button-press"]
    environment = MetaWorld(tasks, action_repeat=4, max_episode_steps=50)
    cheating = Cheating(environment)
    begun = time.perf_counter()
    played = play(environment, VideoPlanner(cheating, cheating.read, replan_every=4))
    seconds = time.perf_counter() - begun
    print(f"{[one.num_steps for one in played]} steps, {seconds / len(played):.1f} s an episode")
    assert all(one.success for one in played)
    for one in played:
        for plan in one.plans:
            seen = one.frames[plan.step + 1 :][:4]
            np.testing.assert_array_equal(plan.frames[: len(seen)], seen)
    environment.close()
