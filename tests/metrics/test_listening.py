"""Models whose hearing is known: one that listens, a deaf one, one that takes actions the wrong way, one that cheats."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given as hypothesis_given
from hypothesis import settings
from hypothesis import strategies as some
from torch import Tensor, nn

from trimtab.core.values import Clip, Conditioning
from trimtab.metrics.actions import JudgeFile
from trimtab.metrics.frames import Lpips
from trimtab.metrics.intervals import Interval, mean_interval
from trimtab.metrics.listening import (
    WRONG,
    Imagine,
    Listening,
    measure_listening,
    under_every_action,
    under_every_dimension,
    wrong_actions,
)

NUM_CLIPS, NUM_STEPS, IDLE = 12, 4, 2


def paint(context: Tensor, actions: Tensor) -> Tensor:
    """The last frame, with the left half (action 0) or the right (1) brighter, or as it is (any other)."""
    video = context[:, -1:].repeat(1, actions.shape[1], 1, 1, 1)
    half = video.shape[-1] // 2
    video[..., :half] += 0.5 * (actions == 0)[..., None, None, None]
    video[..., half:] += 0.5 * (actions == 1)[..., None, None, None]
    return video


def blurred(video: Tensor) -> Tensor:
    """No model is perfect."""
    return 0.9 * video


def known(given: Conditioning) -> tuple[Tensor, Tensor]:
    assert given.context is not None
    return given.context, torch.full((len(given.context), NUM_STEPS), IDLE) if given.actions is None else given.actions


def listener(given: Conditioning) -> Tensor:
    return blurred(paint(*known(given)))


def deaf(given: Conditioning) -> Tensor:
    context, actions = known(given)
    return blurred(paint(context, torch.full_like(actions, IDLE)))


def contrary(given: Conditioning) -> Tensor:
    context, actions = known(given)
    return blurred(paint(context, torch.where(actions < IDLE, 1 - actions, actions)))


def make_clip(num_clips: int = NUM_CLIPS, size: int = 32) -> Clip:
    random = torch.Generator().manual_seed(0)
    context = 0.6 * torch.rand(num_clips, 2, 3, size, size, generator=random) - 0.4
    actions = torch.randint(2, (num_clips, NUM_STEPS), generator=random)
    actions[:, 0], actions[:, -1] = 0, 1  # every clip has both, and is another from last to first
    return Clip(paint(context, actions), Conditioning(context=context, actions=actions))


CLIP, LEVELS = make_clip(), torch.arange(NUM_CLIPS) // 2


def measure(imagine: Imagine, clip: Clip = CLIP, levels: Tensor = LEVELS, **options: Any) -> Listening:
    return measure_listening(imagine, clip, levels, **{"idle": IDLE, **options})


@pytest.fixture(scope="module")
def heard() -> Listening:
    return measure(listener, untold=True)


def test_a_listener_listens_and_its_figures_are_those_of_their_definition(heard: Listening) -> None:
    assert heard.listens
    assert heard.verdict().startswith("It listens to its actions: wrong ones raise its LPIPS by ")
    assert f"{100 * heard.score.mean:.1f}%" in heard.verdict()
    lpips, true = Lpips(), listener(CLIP.given)
    error = lpips(true, CLIP.video).mean(1).double()
    assert heard.error == mean_interval(error, LEVELS)
    assert CLIP.given.actions is not None
    backwards = listener(replace(CLIP.given, actions=CLIP.given.actions.flip(1)))
    response, cost = lpips(backwards, true).mean(1), lpips(backwards, CLIP.video).mean(1).double() - error
    assert heard.response["reversed"].mean == pytest.approx(response.mean().item(), rel=1e-5)
    assert heard.cost["reversed"].mean == pytest.approx(cost.mean().item(), rel=1e-5)
    assert heard.response.keys() == heard.cost.keys() == {*WRONG, "untold"}
    assert heard.left_out == {}


def test_the_score_is_the_mean_cost_of_wrong_actions_over_the_error() -> None:
    heard = measure(listener, levels=torch.arange(NUM_CLIPS))
    assert all(cost.num_clips == NUM_CLIPS for kind, cost in heard.cost.items() if kind != "swapped")
    clip = Clip(CLIP.video[:6], CLIP.given.map(lambda value: value[:6]))
    differing = torch.tensor([[0, 0, 0, 1], [0, 1, 1, 1]]).repeat(3, 1)  # neighbours always differ
    clip = Clip(paint(clip.given.context, differing), replace(clip.given, actions=differing))  # type: ignore[arg-type]
    heard = measure(listener, clip, torch.arange(6))
    costs = [cost.mean for cost in heard.cost.values()]
    assert {cost.num_clips for cost in heard.cost.values()} == {6}
    assert heard.score.mean == pytest.approx(sum(costs) / 4 / heard.error.mean)


def test_what_is_told_nothing_is_told_nothing(heard: Listening) -> None:
    """The listener takes no actions for idle ones, so that being untold costs what idle actions do."""
    assert heard.cost["untold"] == heard.cost["zeroed"]
    assert measure(listener).score == heard.score  # untold is no part of it


def test_a_deaf_model_has_response_exactly_0_and_does_not_listen() -> None:
    result = measure(deaf)
    assert result.listens is False
    assert {(value.mean, value.low, value.high) for value in (*result.response.values(), *result.cost.values())} == {
        (0.0, 0.0, 0.0)
    }
    assert result.score.mean == 0
    assert result.verdict() == "It does not listen to its actions: its videos are all but the same whatever they are."


def test_a_contrary_model_takes_actions_the_wrong_way() -> None:
    result = measure(contrary)
    assert result.listens is False
    assert result.score.high < 0
    assert min(response.low for response in result.response.values()) > 0
    assert "but takes them the wrong way" in result.verdict()


def interval(mean: float, low: float, high: float) -> Interval:
    return Interval(mean, low, high, 8, 4)


@pytest.mark.parametrize(
    ("score", "listens", "words"),
    [
        ((0.2, 0.001, 0.3), True, "It listens to its actions"),
        ((0.2, -0.1, 0.3), None, "It is not told apart from a model that does not listen"),
        ((0.001, -0.001, 0.009), False, "its videos change with them, but wrong ones raise its LPIPS by 0.1%"),
        ((-0.2, -0.3, -0.1), False, "takes them the wrong way"),
    ],
)
def test_the_verdict_is_read_off_the_interval(
    heard: Listening, score: tuple[float, float, float], listens: bool | None, words: str
) -> None:
    result = replace(heard, score=interval(*score))
    assert result.listens is listens
    assert words in result.verdict()


class Reader(nn.Module):
    """Reads the painted action off each frame without error."""

    def forward(self, context: Tensor, video: Tensor) -> Tensor:
        half = video.shape[-1] // 2
        left, right = (part.mean((2, 3, 4)) for part in (video[..., :half], video[..., half:]))
        return torch.stack([left - right, right - left, torch.full_like(left, 0.2), torch.full_like(left, -9)], dim=-1)


@dataclass(frozen=True)
class ReaderFile(JudgeFile):
    path: Path = Path("none")

    @property
    def card(self) -> dict[str, Any]:
        return {"game": "painted"}

    def load(self) -> Any:
        return Reader()


def test_a_judge_sees_who_follows() -> None:
    context, own = known(CLIP.given)
    told = measure(listener, judge_file=ReaderFile())
    assert told.follows is not None
    assert (told.follows.mean, told.follows.low, told.follows.high) == (1.0, 1.0, 1.0)
    assert told.follows_on_real == told.follows
    assert "it shows these rather than its own" in told.verdict()

    def cheat(given: Conditioning) -> Tensor:
        """Knows what really happened."""
        which = (context[:, None] == given.context).flatten(2).all(2).any(1)
        return blurred(paint(context[which], own[which]))

    told = measure(cheat, judge_file=ReaderFile(), chunk=NUM_CLIPS)
    assert told.follows is not None
    assert told.follows.mean == -1
    assert "it does not show these rather than its own: by −100.0%" in told.verdict()
    told = measure(deaf, judge_file=ReaderFile())
    assert told.follows is not None
    assert told.follows.mean == 0
    assert "it is not seen to show these" in told.verdict()


def test_figures_are_a_function_of_the_seed_alone_whatever_the_chunk(heard: Listening) -> None:
    assert measure(listener, untold=True) == heard
    in_fives = measure(listener, untold=True, chunk=5)
    for kind, cost in heard.cost.items():
        assert in_fives.cost[kind].mean == pytest.approx(cost.mean, rel=1e-4)
        assert in_fives.response[kind].mean == pytest.approx(heard.response[kind].mean, rel=1e-4)
    assert measure(listener, untold=True, seed=1).cost != heard.cost


def test_everything_is_plain_json_with_its_protocol(heard: Listening) -> None:
    written = json.loads(json.dumps(heard.to_dict(), allow_nan=False))
    assert written["verdict"] == heard.verdict()
    assert written["listens"] is True
    assert written["score"]["num_clusters"] == 6
    assert written["protocol"]["told"]["swapped"] == "those of another clip"
    assert written["protocol"]["idle"] == IDLE


def test_wrong_actions_that_are_the_true_ones_are_left_out() -> None:
    """Half the clips hold one action, so that no order of theirs is wrong; the first two clips have equal actions."""
    _, actions = known(CLIP.given)
    actions = actions.clone()
    actions[0], actions[1], actions[6:] = actions[-1], actions[-1], 1
    actions[-1] = 0
    actions[0] = actions[1]
    clip = Clip(paint(CLIP.given.context, actions), replace(CLIP.given, actions=actions))  # type: ignore[arg-type]
    result = measure(listener, clip)
    assert result.cost["reversed"].num_clips == result.cost["shuffled"].num_clips == 6
    assert result.cost["swapped"].num_clips < NUM_CLIPS
    assert result.cost["zeroed"].num_clips == result.score.num_clips == NUM_CLIPS
    held = torch.arange(NUM_CLIPS)[:, None].expand(-1, NUM_STEPS) % 2
    clip = Clip(paint(CLIP.given.context, held), replace(CLIP.given, actions=held))  # type: ignore[arg-type]
    result = measure(listener, clip, idle=None)
    assert result.cost.keys() == {"swapped"}
    assert result.left_out.keys() == {"zeroed", "shuffled", "reversed"}
    assert "pass its index as idle" in result.left_out["zeroed"]
    with pytest.raises(ValueError, match="no actions are wrong"):
        measure(listener, clip, idle=None, effects=(0, 0, 1))


def test_effects_decide_what_is_wrong() -> None:
    """Actions 2 and 3 both do nothing: told one instead of the other, a clip is told nothing wrong."""
    _, actions = known(CLIP.given)
    actions = torch.where(torch.arange(NUM_CLIPS)[:, None] < 4, torch.tensor([2, 2, 3, 3]), actions)
    clip = Clip(paint(CLIP.given.context, actions), replace(CLIP.given, actions=actions))  # type: ignore[arg-type]
    assert measure(listener, clip).cost["reversed"].num_clips == NUM_CLIPS
    merged = measure(listener, clip, effects=(0, 1, 2, 2), judge_file=ReaderFile())
    assert merged.cost["reversed"].num_clips == merged.cost["zeroed"].num_clips == NUM_CLIPS - 4
    assert merged.follows is not None
    assert merged.follows.mean == 1


def test_continuous_actions_are_zeroed_without_being_asked() -> None:
    random = torch.Generator().manual_seed(1)
    actions = torch.randn(NUM_CLIPS, NUM_STEPS, 2, generator=random)

    def brighten(given: Conditioning) -> Tensor:
        assert given.context is not None
        assert given.actions is not None
        change = given.actions.tanh().repeat_interleave(16, dim=-1)[:, :, None, None]
        return blurred((given.context[:, -1:] + 0.3 * change).clamp(-1, 1))

    given = replace(CLIP.given, actions=actions)
    clip = Clip((brighten(given) / 0.9).clamp(-1, 1), given)
    result = measure_listening(brighten, clip, LEVELS)
    assert result.listens
    assert result.cost.keys() == set(WRONG)
    assert measure_listening(brighten, clip, LEVELS, idle=torch.tensor([0.0, 0.0])).cost == result.cost
    with pytest.raises(ValueError, match="for discrete actions"):
        measure_listening(brighten, clip, LEVELS, judge_file=ReaderFile())
    with pytest.raises(ValueError, match="floats of shape"):
        measure_listening(brighten, clip, LEVELS, idle=torch.zeros(3))


@settings(max_examples=50, deadline=None)
@hypothesis_given(some.integers(1, 5), some.integers(1, 6), some.integers(1, 3), some.integers(0, 7))
def test_wrong_actions_keep_their_word(num_clips: int, num_steps: int, num_actions: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    actions = torch.randint(num_actions, (num_clips, num_steps), generator=random)
    told = wrong_actions(actions, idle=0, seed=seed)
    assert told.keys() == set(WRONG)
    assert all(wrong.shape == actions.shape and wrong.dtype == actions.dtype for wrong in told.values())
    for clip, own in enumerate(actions):
        assert torch.equal(told["swapped"][clip], actions[clip - 1])
        assert told["zeroed"][clip].eq(0).all()
        assert torch.equal(told["reversed"][clip].flip(0), own)
        shuffled = told["shuffled"][clip]
        assert torch.equal(shuffled.sort().values, own.sort().values)
        assert torch.equal(shuffled, own) == (len(own.unique()) == 1)
    torch.testing.assert_close(wrong_actions(actions, seed=seed)["shuffled"], told["shuffled"])
    alone = wrong_actions(actions[:1], seed=seed)["shuffled"]
    torch.testing.assert_close(alone[0], told["shuffled"][0])  # a clip's order has nothing to do with other clips


def test_the_same_start_under_every_action() -> None:
    context = CLIP.video[:2, :3]
    shown = under_every_action(listener, context, 3, NUM_STEPS)
    assert [*shown] == [0, 1, 2]
    for action, video in shown.items():
        torch.testing.assert_close(video, blurred(paint(context, torch.full((2, NUM_STEPS), action))))


def test_the_same_start_with_each_dimension_moved() -> None:
    asked = []

    def note(given: Conditioning) -> Tensor:
        assert given.actions is not None
        asked.append(given.actions)
        return torch.zeros(2, NUM_STEPS, 3, 32, 32)

    shown = under_every_dimension(note, CLIP.video[:2, :2], torch.tensor([1.0, 3.0]), 4, idle=torch.tensor([0.0, 5.0]))
    assert [*shown] == [(0, -1), (0, 1), (1, -1), (1, 1)]
    assert [actions[1, 3].tolist() for actions in asked] == [[-1.0, 5.0], [1.0, 5.0], [0.0, 2.0], [0.0, 8.0]]


def without_known_actions(clip: Clip) -> Clip:
    return Clip(clip.video, clip.given.forget("actions", torch.arange(NUM_CLIPS) == 3))


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda clip: Clip(clip.video, clip.given.without("actions")), {}, "must be known"),
        (without_known_actions, {}, "must be known"),
        (lambda clip: Clip(clip.video[:, :2], clip.given), {}, "one action a frame"),
        (lambda clip: Clip(clip.video, clip.given.without("context")), {"judge_file": ReaderFile()}, "their context"),
        (lambda clip: clip, {"idle": -1}, "idle must be one action"),
        (lambda clip: clip, {"idle": torch.tensor([0.0])}, "idle must be one action"),
        (lambda clip: clip, {"effects": (0,)}, "effect of every action"),
        (lambda clip: clip, {"chunk": 0}, "chunk >= 1"),
        (lambda clip: clip, {"levels": torch.arange(3)}, "as many levels"),
        (lambda clip: clip, {"levels": torch.zeros(NUM_CLIPS, dtype=torch.int64)}, "no actions are wrong"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    change: Callable[[Clip], Clip], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        measure(listener, change(CLIP), **options)


def test_models_that_break_the_contract_are_refused() -> None:
    random = torch.Generator().manual_seed(0)
    with pytest.raises(ValueError, match="two videos of the same clips"):
        measure(lambda given: (listener(given) + 0.1 * torch.randn(CLIP.video.shape, generator=random)).clamp(-1, 1))
    with pytest.raises(ValueError, match="must lie in"):
        measure(lambda given: 3 * listener(given))
    with pytest.raises(ValueError, match="are the real ones"):
        measure(lambda given: paint(*known(given)))
