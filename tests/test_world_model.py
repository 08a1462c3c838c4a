"""The dream is a sound Gymnasium vector environment, and shows what the model says each action causes."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import batch_space
from gymnasium.wrappers.vector import DictInfoToList, FlattenObservation, RecordEpisodeStatistics, TransformReward

from trimtab.core.contracts import BoundDenoiser, Prior
from trimtab.core.values import Conditioning, Fact, NoiseLevel, Prediction, Video
from trimtab.diffusion.noise import gaussian_noise
from trimtab.diffusion.sampling import ddim, pairs
from trimtab.priors import gaussian, pixel_unet
from trimtab.world_model import Sampler, WorldModel

NUM_ACTIONS = 5


class Pushed:
    """A prior told the actions: each brightens or darkens the frame that it causes."""

    uses: frozenset[Fact] = frozenset({"context", "actions"})

    def __init__(self, prior: Prior) -> None:
        self.prior, self.space = prior, prior.space
        self.num_frames_asked: list[int] = []

    def bind(self, given: Conditioning) -> BoundDenoiser:
        assert given.actions is not None
        effect = torch.linspace(-0.4, 0.4, NUM_ACTIONS)[given.actions][..., None, None, None]
        believe = self.prior.bind(given.without("actions"))
        self.num_frames_asked.append(given.actions.shape[1])

        def denoise(noisy: Video, level: NoiseLevel) -> Prediction:
            belief = believe(noisy, level).as_kind("clean")
            return replace(belief, tensor=(0.5 * belief.tensor + effect).clamp(-1, 1))

        return denoise


def sampler_for(prior: Prior, num_steps: int = 4) -> Sampler:
    return partial(ddim, pairs=pairs(prior.schedule, num_steps), clamp=(-1.0, 1.0))  # type: ignore[arg-type]


def windows(prior: Prior, num: int = 6, seed: int = 0) -> np.ndarray:
    channels, height, width = prior.frame_shape
    return np.random.default_rng(seed).integers(
        0, 256, (num, prior.num_context, height, width, channels), dtype=np.uint8
    )


@pytest.fixture(scope="module")
def prior() -> Prior:
    return pixel_unet.tiny()


@pytest.fixture
def world(prior: Prior) -> Callable[..., WorldModel]:
    def build(num_envs: int = 2, **options: Any) -> WorldModel:
        options = {"num_actions": NUM_ACTIONS, "max_episode_steps": 5, **options}
        return WorldModel(Pushed(prior), prior, sampler_for(prior), windows(prior), num_envs=num_envs, **options)

    return build


def play(world: WorldModel, num_steps: int, seed: int = 0) -> np.ndarray:
    """Frames (num_envs, num_steps, ...) under actions that depend on the step alone."""
    actions = np.random.default_rng(seed).integers(0, NUM_ACTIONS, num_steps)
    return np.stack([world.step(np.full(world.num_envs, action))[0] for action in actions], axis=1)


def distance(first: np.ndarray, second: np.ndarray) -> int:
    assert first.shape == second.shape
    return int(np.abs(first.astype(int) - second.astype(int)).max())


class Counter(gymnasium.Env):
    """A real environment with the spaces of the dream and as long episodes, to compare protocols with."""

    observation_space = Box(0, 255, (16, 16, 3), np.uint8)
    action_space = gymnasium.spaces.Discrete(NUM_ACTIONS)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.count = 0
        return np.zeros((16, 16, 3), np.uint8), {"seed": 0, "episode_number": 0}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.count += 1
        return np.zeros((16, 16, 3), np.uint8), 0.0, False, self.count >= 5, {}


def test_it_keeps_the_protocol_of_gymnasium(world: Callable[..., WorldModel]) -> None:
    dream, real = world(3), SyncVectorEnv([Counter] * 3)
    assert dream.metadata["autoreset_mode"] is real.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    for name in ("observation_space", "action_space", "single_observation_space", "single_action_space"):
        assert getattr(dream, name) == getattr(real, name)
    assert dream.observation_space == batch_space(dream.single_observation_space, 3)
    assert dream.action_space == batch_space(dream.single_action_space, 3)
    dream.action_space.seed(0)
    shown, expected = dream.reset(seed=1), real.reset(seed=1)
    for _ in range(13):  # 5 steps, 1 reset, 5 steps, 1 reset, 1 step
        assert shown[0] in dream.observation_space
        for ours, theirs in zip(shown[:-1], expected[:-1], strict=True):
            assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        for ours, theirs in zip(shown[1:-1], expected[1:-1], strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert shown[-1].keys() == expected[-1].keys()
        for name, value in shown[-1].items():
            assert (value.dtype, value.shape) == (expected[-1][name].dtype, expected[-1][name].shape)
            if name.startswith("_"):
                assert value.all()
        actions = dream.action_space.sample()
        shown, expected = dream.step(actions), real.step(actions)
    assert dream.unwrapped is dream
    assert "num_envs=3" in repr(dream)


def test_what_it_returns_is_the_callers(world: Callable[..., WorldModel]) -> None:
    dream = world()
    first, information = dream.reset(seed=0)
    kept = dream.render()[0].copy()
    first[:], information["seed"][:] = 0, 9
    np.testing.assert_array_equal(dream.render()[0], kept)
    second = dream.step(np.array([0, 1]))[0]
    kept = dream.render()[0].copy()
    second[:] = 0
    np.testing.assert_array_equal(dream.render()[0], kept)
    assert dream.reset()[1]["seed"].tolist() == [0, 1]


def test_episodes_end_and_begin_anew(world: Callable[..., WorldModel], prior: Prior) -> None:
    dream = world(max_episode_steps=3)
    frames, information = dream.reset(seed=5)
    starts = windows(prior)[:, -1]
    assert all((start == starts).all((1, 2, 3)).any() for start in frames)
    assert information["episode_number"].tolist() == [0, 0]
    over, begun = [], []
    for _ in range(8):
        frames, _, terminated, truncated, information = dream.step(np.array([0, 4]))
        assert not terminated.any()
        over.append(truncated.tolist())
        begun.append(information["episode_number"].tolist() if information else [])
        assert all((start == starts).all((1, 2, 3)).any() for start in frames) == bool(information)
    end, not_end = [True, True], [False, False]
    assert over == [not_end, not_end, end, not_end, not_end, not_end, end, not_end]
    assert begun == [[], [], [], [1, 1], [], [], [], [2, 2]]


def test_a_seed_decides_everything(world: Callable[..., WorldModel]) -> None:
    def episodes(dream: WorldModel, seed: Any) -> np.ndarray:
        start = dream.reset(seed=seed)[0][:, None]
        return np.concatenate([start, play(dream, 9)], axis=1)

    first = episodes(world(), 3)
    np.testing.assert_array_equal(first, episodes(world(), 3))
    np.testing.assert_array_equal(first, episodes(world(), [3, 4]))
    np.testing.assert_array_equal(first[::-1], episodes(world(), [4, 3]))
    assert distance(first[0], first[1]) > 20
    assert distance(first, episodes(world(), 5)) > 20
    unseeded = world(4)
    assert distance(episodes(unseeded, None), episodes(world(4), None)) > 20
    assert len(set(unseeded.reset()[1]["seed"].tolist())) == 4


def test_reset_without_a_seed_goes_on_to_fresh_draws(world: Callable[..., WorldModel], prior: Prior) -> None:
    given = {"frames": windows(prior, 2)}

    def twice() -> tuple[np.ndarray, np.ndarray]:
        dream = world()
        dream.reset(seed=3, options=given)
        first = play(dream, 3)
        dream.reset(options=given)
        return first, play(dream, 3)

    (first, second), (again, second_again) = twice(), twice()
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(second, second_again)
    assert distance(first, second) > 5  # the same start and actions, but other noise


@pytest.mark.usefixtures("exact_products")
def test_the_rest_of_the_batch_changes_nothing(world: Callable[..., WorldModel]) -> None:
    small = pixel_unet.tiny()

    def build(num_envs: int) -> WorldModel:
        return WorldModel(
            Pushed(small), small, sampler_for(small), windows(small), num_envs=num_envs, num_actions=NUM_ACTIONS
        )

    alone, together = build(1), build(4)
    alone.reset(seed=9)
    together.reset(seed=[1, 9, 2, 3])
    assert distance(play(alone, 6)[0], play(together, 6)[1]) <= 1  # of 255: a value on the edge may round either way
    torch.testing.assert_close(alone._context[0], together._context[1], atol=1e-4, rtol=0)
    mixed = np.array([[0, 4], [4, 0], [2, 2], [3, 1]])
    plan = np.array([[1, 2]])
    own = alone.imagine(plan)
    mixed[1] = plan[0]
    assert distance(own[0], together.imagine(mixed)[1]) <= 1


def test_it_goes_beyond_the_trained_length(world: Callable[..., WorldModel], prior: Prior) -> None:
    dream = world(max_episode_steps=50)
    dream.reset(seed=0)
    frames = play(dream, 8 * prior.num_frames)
    assert all(distance(frames[:, k], frames[:, k + 1]) > 5 for k in range(frames.shape[1] - 1))
    assert set(dream.denoiser.num_frames_asked) == {1}  # and needs no future action
    tail = dream.imagine(np.zeros((2, 3 * prior.num_frames + 1), int))
    assert dream.denoiser.num_frames_asked[-4:] == [prior.num_frames] * 3 + [1]
    assert tail.shape == (2, 3 * prior.num_frames + 1, 16, 16, 3)


def test_imagine_shows_what_steps_would_and_changes_nothing(world: Callable[..., WorldModel], prior: Prior) -> None:
    dream = world(max_episode_steps=20)
    dream.reset(seed=2)
    play(dream, 2)
    actions = np.random.default_rng(1).integers(0, NUM_ACTIONS, (2, 7))
    by_one = dream.imagine(actions, chunk=1)
    by_clip = dream.imagine(actions)
    stepped = np.stack([dream.step(actions[:, k])[0] for k in range(7)], axis=1)
    np.testing.assert_array_equal(by_one, stepped)
    assert by_clip.shape == stepped.shape
    assert by_clip.dtype == np.uint8
    # The prior's frames of one chunk see each other, so only the noise is the same.
    assert distance(by_clip, stepped) > 0
    dream.reset(seed=2)
    play(dream, 2)
    np.testing.assert_array_equal(by_clip, dream.imagine(actions))


def test_candidates_differ_by_their_actions_alone(world: Callable[..., WorldModel]) -> None:
    dream = world()
    dream.reset(seed=0)
    actions = np.random.default_rng(0).integers(0, NUM_ACTIONS, (2, 3, 4))
    actions[:, 2] = actions[:, 0]
    frames = dream.imagine(actions)
    assert frames.shape == (2, 3, 4, 16, 16, 3)
    assert distance(frames[:, 0], frames[:, 2]) <= 1
    assert distance(frames[:, 0], frames[:, 1]) > 20
    assert np.abs(frames[:, 1].astype(int) - dream.imagine(actions[:, 1])).mean() < 0.5  # tells also the order


def gaussian_prior(num_context: int = 1, context_weight: float = 0.0) -> Any:
    """Frames whose mean the action alone decides, the same at every place of the clip, give or take 3 grey levels."""
    mean, effect = (
        scale * gaussian_noise((3, 8, 8), seed=0, step=0, samples=range(n)) for scale, n in ((0.1, 1), (0.2, 3))
    )
    return gaussian.GaussianPrior(
        mean.expand(4, -1, -1, -1).clone(),
        torch.full((4, 3, 8, 8), 0.01),
        action_effect=effect,
        num_context=num_context,
        context_weight=context_weight,
    )


def as_bytes(frames: torch.Tensor) -> np.ndarray:
    return ((frames.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).movedim(-3, -1).numpy()


def test_a_known_world_shows_the_known_frames() -> None:
    known = gaussian_prior(num_context=2, context_weight=0.5)
    start = windows(known, 3)
    dream = WorldModel(known, known, sampler_for(known, 50), start, num_envs=3, num_actions=3)
    shown = dream.reset(seed=0, options={"frames": start})[0]
    np.testing.assert_array_equal(shown, start[:, -1])
    last = torch.from_numpy(start[:, -1]).movedim(-1, -3) / 127.5 - 1
    for actions in ([0, 1, 2], [2, 1, 0], [1, 1, 1], [0, 0, 2], [2, 0, 1], [0, 1, 1]):
        shown = dream.step(np.array(actions))[0]
        last = (known.mean[0] + 0.5 * last + known.action_effect[actions]).clamp(-1, 1)
        assert distance(shown, as_bytes(last)) < 14  # 6 deviations of 0.01, and those of the frames before
        assert distance(shown, as_bytes(last)) > 0  # there is noise
        assert distance(shown, as_bytes(last.roll(1, 0))) > 50


def test_where_frames_do_not_see_each_other_a_clip_is_what_steps_give() -> None:
    known = gaussian_prior()
    dream = WorldModel(known, known, sampler_for(known), windows(known), num_envs=2, num_actions=3)
    dream.reset(seed=7)
    actions = np.random.default_rng(0).integers(0, 3, (2, 6))
    imagined = dream.imagine(actions)
    stepped = np.stack([dream.step(actions[:, k])[0] for k in range(6)], axis=1)
    assert distance(imagined, stepped) <= 1


def test_continuous_actions() -> None:
    known = gaussian_prior()
    box = Box(-1.0, 1.0, (3,), np.float32)
    dream = WorldModel(known, known, sampler_for(known, 50), windows(known), num_envs=2, action_box=box)
    assert dream.single_action_space == box
    assert dream.action_space == batch_space(box, 2)
    dream.reset(seed=0)
    actions = np.array([[1.0, -0.5, 0.0], [0.0, 0.25, -1.0]], np.float32)
    expected = known.mean[0] + torch.einsum("ba,achw->bchw", torch.from_numpy(actions), known.action_effect)
    assert distance(dream.step(actions)[0], as_bytes(expected)) < 14
    assert dream.imagine(np.zeros((2, 5, 3), np.float32)).shape == (2, 5, 8, 8, 3)
    assert dream.imagine(np.zeros((2, 4, 5, 3))).shape == (2, 4, 5, 8, 8, 3)
    for wrong in (np.zeros((2, 2)), np.zeros((2, 3), int), np.full((2, 3), 1.5), np.full((2, 3), np.nan), np.zeros(2)):
        with pytest.raises(ValueError, match=r"actions are \(num_envs, \.\.\.\).*Box.*got \("):
            dream.step(wrong)


def test_noise_starts_at_the_top_of_the_schedule() -> None:
    known = gaussian_prior()
    starts: list[Video] = []

    def sampler(denoiser: Any, noise: Video, given: Conditioning) -> Video:
        starts.append(noise)
        return noise.clamp(-1, 1)

    known.schedule = type(known.schedule)("exploding", torch.ones(3).double(), torch.tensor([0.1, 1.0, 30.0]).double())
    dream = WorldModel(known, known, sampler, windows(known), num_envs=4, num_actions=3)
    dream.reset(seed=0)
    dream.imagine(np.zeros((4, 4), int))
    for k in range(4):
        dream.step(np.zeros(4, int))
        torch.testing.assert_close(starts[-1], starts[0][:, k : k + 1])
    assert starts[0].std().item() == pytest.approx(30, rel=0.05)
    assert len(starts[0].flatten(0, 1).unique(dim=0)) == 16  # every environment and step its own


def test_a_codec_of_latents() -> None:
    class Halved(gaussian.Frames):
        """Latents of half the side and twice the values."""

        def encode(self, frames: Video) -> Video:
            return 2 * frames[..., ::2, ::2]

        def decode(self, latents: Video) -> Video:
            return latents.repeat_interleave(2, -1).repeat_interleave(2, -2) / 2

    known = gaussian_prior()
    contexts: list[Video] = []

    def sampler(denoiser: Any, noise: Video, given: Conditioning) -> Video:
        assert given.context is not None
        contexts.append(given.context)
        return torch.full_like(noise, 1.51)

    known.codec = Halved()
    channels, height, width = known.frame_shape
    start = np.random.default_rng(0).integers(
        256, size=(5, known.num_context, 2 * height, 2 * width, channels), dtype=np.uint8
    )
    with pytest.raises(ValueError, match="limits=None"):
        WorldModel(known, known, sampler, start, num_actions=3).reset(seed=0)
    dream = WorldModel(known, known, sampler, start, num_actions=3, limits=None)
    assert dream.single_observation_space.shape == (2 * height, 2 * width, channels)
    first = dream.reset(seed=0)[0]
    frames = dream.step(np.zeros(1, int))[0]
    assert frames.shape == (1, 2 * height, 2 * width, channels)
    assert (frames == round(1.755 * 127.5)).all()
    assert dream.imagine(np.zeros((1, 2), int)).shape == (1, 2, 2 * height, 2 * width, channels)
    dream.step(np.zeros(1, int))
    last = torch.from_numpy(first).movedim(-1, -3)[:, None] / 127.5 - 1
    torch.testing.assert_close(contexts[0][:, -1:], 2 * last[..., ::2, ::2])
    assert (contexts[-1][:, -1] == 1.51).all()  # the latent itself is handed on


def test_start_frames_may_be_a_function(prior: Prior) -> None:
    asked: list[np.random.Generator] = []

    def draw(random: np.random.Generator) -> np.ndarray:
        asked.append(random)
        return random.integers(0, 256, (prior.num_context, 16, 16, 3), dtype=np.uint8)

    dream = WorldModel(Pushed(prior), prior, sampler_for(prior), draw, num_envs=3, num_actions=NUM_ACTIONS)
    first = dream.reset(seed=0)[0]
    np.testing.assert_array_equal(first[1:], dream.reset(seed=1)[0][:2])
    assert distance(first[1:], dream.reset()[0][:2]) > 100  # the next episode
    assert len(asked) == 9
    wrong = WorldModel(
        Pushed(prior), prior, sampler_for(prior), lambda random: draw(random)[0], num_actions=NUM_ACTIONS
    )
    with pytest.raises(ValueError, match=r"are \(1, 2, 16, 16, 3\) uint8, got \(1, 16, 16, 3\)"):
        wrong.reset()


def test_wrappers_of_gymnasium(
    world: Callable[..., WorldModel], record_property: Callable[[str, object], None]
) -> None:
    dream = RecordEpisodeStatistics(world(2, max_episode_steps=4))
    dream.reset(seed=0)
    started = time.perf_counter()
    seen = [dream.step(np.array([0, 1]))[4].get("episode") for _ in range(9)]
    seconds = (time.perf_counter() - started) / 9
    assert [number for number, episode in enumerate(seen) if episode] == [3, 8]
    assert [episode["l"].tolist() for episode in seen if episode] == [[4, 4], [4, 4]]
    assert [episode["r"].tolist() for episode in seen if episode] == [[0, 0], [0, 0]]
    record_property("seconds_per_step", seconds)  # of 2 environments, 4 model calls and a toy model
    assert 0 < seen[3]["t"][0] / 4 < 1

    flat, information = DictInfoToList(FlattenObservation(world(2))).reset(seed=0)
    assert flat.shape == (2, 16 * 16 * 3)
    assert information == [{"seed": 0, "episode_number": 0}, {"seed": 1, "episode_number": 0}]
    rewarded = TransformReward(world(2), lambda rewards: rewards + 1)
    rewarded.reset(seed=0)
    assert rewarded.step(np.array([0, 1]))[1].tolist() == [1, 1]


def test_gymnasium_can_make_one(world: Callable[..., WorldModel], recwarn: pytest.WarningsRecorder) -> None:
    spec = EnvSpec("Dream-v0", vector_entry_point=world, max_episode_steps=2)
    dream = gymnasium.make_vec(spec, num_envs=3)
    dream.reset(seed=0)
    assert [dream.step(np.zeros(3, int))[3].all() for _ in range(3)] == [False, True, False]
    assert not recwarn.list


def test_render(world: Callable[..., WorldModel], prior: Prior) -> None:
    dream = world(2)
    frames, _ = dream.reset(seed=0)
    assert dream.render_mode in dream.metadata["render_modes"]
    assert dream.metadata["render_fps"] == prior.frame_rate
    np.testing.assert_array_equal(np.stack(dream.render()), frames)
    frames = dream.step(np.array([4, 0]))[0]
    np.testing.assert_array_equal(np.stack(dream.render()), frames)
    assert isinstance(dream.render(), tuple)


def test_wrong_actions_are_refused(world: Callable[..., WorldModel]) -> None:
    dream = world(2)
    dream.reset(seed=0)
    frames = dream.render()
    for wrong in ([0], [0, 5], [-1, 0], [0.0, 1.0], [True, False], [[0, 1]], 0, [], None):
        with pytest.raises(ValueError, match=r"\(num_envs, \.\.\.\), 2 environments, in Discrete\(5\); got \("):
            dream.step(np.array(wrong))
    for wrong in ([0, 1], [[0, 1]], [[0], [7]], [[0.0], [1.0]], [[], []], [[[[0]]], [[[0]]]]):
        with pytest.raises(
            ValueError, match=r"\(num_envs, \[candidate,\] time, \.\.\.\), 2 env.*Discrete\(5\); got \("
        ):
            dream.imagine(np.array(wrong))
    for chunk in (0, 4):
        with pytest.raises(ValueError, match=rf"chunk is 1 \.\. 3.*got {chunk}"):
            dream.imagine(np.zeros((2, 2), int), chunk=chunk)
    np.testing.assert_array_equal(frames, dream.render())
    assert not dream.step(np.array([0, 1]))[3].any()


def test_wrong_resets_are_refused(world: Callable[..., WorldModel], prior: Prior) -> None:
    dream, good = world(2), windows(prior, 2)
    for wrong in (good[:1], good[:, 1:], good.astype(float), good.tolist(), torch.from_numpy(good)):
        with pytest.raises(ValueError, match=r"are \(2, 2, 16, 16, 3\) uint8, got"):
            dream.reset(options={"frames": wrong})
    with pytest.raises(ValueError, match=r"option 'frames', not \['frame'\]"):
        dream.reset(options={"frame": good})
    for seed in (-1, [1], [1, 2, 3], [1, -2], 2**63):
        with pytest.raises(ValueError, match=r"seed is one whole number or a list of 2.*got"):
            dream.reset(seed=seed)
    with pytest.raises(ResetNeeded, match="call reset"):
        dream.step(np.array([0, 1]))  # no failed reset has begun an episode


def test_calls_out_of_order_are_refused(world: Callable[..., WorldModel]) -> None:
    dream, actions = world(2), np.array([0, 1])
    for call in (lambda: dream.step(actions), lambda: dream.imagine(actions[:, None]), dream.render):
        with pytest.raises(ResetNeeded, match="call reset"):
            call()
    dream.reset()
    dream.close()
    dream.close()
    for call in (lambda: dream.step(actions), lambda: dream.imagine(actions[:, None]), dream.render, dream.reset):
        with pytest.raises(ClosedEnvironmentError, match="closed"):
            call()


def test_parts_that_do_not_fit_are_refused(world: Callable[..., WorldModel], prior: Prior) -> None:
    with pytest.raises(ValueError, match=r"uses actions.*got one that uses \['context'\]"):
        WorldModel(prior, prior, sampler_for(prior), windows(prior), num_actions=3)
    known = gaussian_prior()
    with pytest.raises(ValueError, match="in space 'frames'"):
        WorldModel(known, prior, sampler_for(prior), windows(prior), num_actions=3)
    blind = gaussian_prior(num_context=0)
    with pytest.raises(ValueError, match="num_context >= 1"):
        WorldModel(blind, blind, sampler_for(blind), windows(prior), num_actions=3)
    for wrong in ({"num_envs": 0}, {"max_episode_steps": 0}):
        with pytest.raises(ValueError, match="at least 1, got"):
            world(**wrong)
    box = Box(-1, 1, (3,), np.float32)
    for wrong in ({"num_actions": None}, {"action_box": box}, {"num_actions": 0}):
        with pytest.raises(ValueError, match="one of them; got"):
            world(**wrong)
    with pytest.raises(ValueError, match="float32 action_box"):
        world(num_actions=None, action_box=Box(-1, 1, (3, 2), np.float32))


def test_a_sampler_that_breaks_is_noticed(prior: Prior) -> None:
    for answer in (lambda noise: noise * torch.nan, lambda noise: noise[:, :0]):
        dream = WorldModel(
            Pushed(prior),
            prior,
            lambda denoiser, noise, given, answer=answer: answer(noise),
            windows(prior),
            num_actions=3,
        )
        dream.reset(seed=0)
        with pytest.raises(ValueError, match="must answer a finite video"):
            dream.step(np.array([0]))


def test_what_is_handed_on_is_float_and_within_limits(prior: Prior) -> None:
    contexts: list[Video] = []

    def sampler(denoiser: Any, noise: Video, given: Conditioning) -> Video:
        assert given.context is not None
        contexts.append(given.context)
        return torch.full_like(noise, 0.1234 if len(contexts) == 1 else 3.0)

    dream = WorldModel(Pushed(prior), prior, sampler, windows(prior), num_actions=NUM_ACTIONS)
    dream.reset(seed=0)
    for _ in range(3):
        dream.step(np.array([0]))
    torch.testing.assert_close(contexts[1][:, 0], contexts[0][:, 1])  # the window moves on by one
    assert (contexts[1][:, 1] == 0.1234).all()  # not the nearest of 256 grey levels
    assert (contexts[2][:, 0] == 0.1234).all()
    assert (contexts[2][:, 1] == 1).all()
    before = len(contexts)
    dream.imagine(np.zeros((1, 4), int))
    assert len(contexts) == before + 2
    assert (contexts[-1] == 1).all()
