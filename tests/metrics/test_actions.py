"""The judge looks at three frames only, figures follow their formulas, and the shipped judge reads real coinrun."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from trimtab.metrics.actions import (
    COINRUN_JUDGE,
    METAWORLD_JUDGE,
    ActionJudge,
    JudgeFile,
    action_accuracy_ratio,
    action_error_ratio,
    is_recognised,
    merge,
)


@pytest.fixture
def judge() -> ActionJudge:
    torch.manual_seed(0)
    return ActionJudge(num_actions=5, width=4).eval()


def random_video(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_each_answer_sees_its_frame_and_the_two_before(judge: ActionJudge) -> None:
    context, video = random_video(2, 3, 3, 64, 64), random_video(2, 6, 3, 64, 64, seed=1)
    before = judge(context, video)
    assert before.shape == (2, 6, 5)
    changed = video.clone()
    changed[0, 2] *= -1
    moved = (judge(context, changed) != before).any(-1)
    assert moved.tolist() == [[False, False, True, True, True, False], [False] * 6]
    changed = context.clone()
    changed[:, 0] *= -1  # older than the last two
    torch.testing.assert_close(judge(changed, video), before)
    changed[:, 1] *= -1
    assert (judge(changed, video) != before).any(-1)[0].tolist() == [True, False, False, False, False, False]


def test_answers_are_those_of_single_triples_in_order(judge: ActionJudge) -> None:
    context, video = random_video(1, 2, 3, 64, 64), random_video(1, 3, 3, 64, 64, seed=1)
    frames = torch.cat([context, video], dim=1)[0]
    alone = torch.cat([judge.score(judge.look(frames[None, k : k + 3])) for k in range(3)])
    torch.testing.assert_close(judge(context, video)[0], alone)


def test_a_trained_judge_reads_motion() -> None:
    """A square in the middle moves left, stays or moves right: after a short training the judge names the motion."""
    torch.manual_seed(0)
    judge, random = ActionJudge(num_actions=3, width=8), np.random.default_rng(0)

    def draw(num: int) -> tuple[Tensor, Tensor]:
        actions = torch.from_numpy(random.integers(0, 3, (num, 2)))
        frames = torch.full((num, 3, 3, 64, 64), -1.0)
        for row, moves in enumerate(actions.tolist()):
            left, top = random.integers(26, 34, 2)
            for step in range(3):
                x = left + sum(move - 1 for move in moves[:step]) * 2
                frames[row, step, :, top : top + 5, x : x + 5] = 1.0
        return frames, actions[:, 1]

    optimiser = torch.optim.Adam(judge.parameters(), 3e-3)
    for _ in range(60):
        frames, actions = draw(64)
        loss = functional.cross_entropy(judge.score(judge.look(frames)), actions)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    frames, actions = draw(200)
    right = is_recognised(judge(frames[:, :2], frames[:, 2:]), actions[:, None])
    assert right.double().mean() > 0.9


def test_merged_classes_pool_their_probability() -> None:
    logits = torch.tensor([[[0.4, 0.3, 0.3]]]).log()
    torch.testing.assert_close(merge(logits, (0, 1, 1)).exp(), torch.tensor([[[0.4, 0.6]]]))
    truth = torch.tensor([[2]])
    assert not is_recognised(logits, truth).item()
    assert is_recognised(logits, truth, (0, 1, 1)).item()
    assert not is_recognised(logits, truth, (0, 0, 1)).item()


def test_ratios_follow_their_formulas() -> None:
    generated, real = (torch.arange(10).reshape(2, 5) < count for count in (6, 8))  # accuracy 0.6 and 0.8
    assert action_error_ratio(generated, real) == pytest.approx(0.4 / 0.2)
    assert action_accuracy_ratio(generated, real) == pytest.approx(0.6 / 0.8)
    assert action_error_ratio(generated, torch.ones_like(real)) == float("inf")


@pytest.mark.usefixtures("without_shape_types")
@pytest.mark.parametrize(
    ("context", "video", "message"),
    [
        ((1, 1, 3, 64, 64), (1, 2, 3, 64, 64), "two context frames"),
        ((2, 2, 3, 64, 64), (1, 2, 3, 64, 64), "two context frames"),
        ((1, 2, 3, 32, 32), (1, 2, 3, 32, 32), "64 x 64"),
        ((1, 2, 3, 32, 32), (1, 2, 3, 64, 64), "64 x 64"),
    ],
)
def test_frames_that_the_judge_cannot_read_are_refused(
    judge: ActionJudge, context: tuple[int, ...], video: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        judge(torch.zeros(context), torch.zeros(video))


def test_wrong_actions_effects_and_ranges_are_refused(judge: ActionJudge) -> None:
    logits = torch.zeros(1, 2, 3)
    for actions in (torch.tensor([[0, 3]]), torch.tensor([[-1, 0]])):
        with pytest.raises(ValueError, match="must lie in"):
            is_recognised(logits, actions)
    for effects in ((0, 1), (0, 2, 2), (1, 1, 2)):
        with pytest.raises(ValueError, match="without a gap"):
            is_recognised(logits, torch.tensor([[0, 1]]), effects)
    with pytest.raises(ValueError, match="must lie in"):
        judge(torch.zeros(1, 2, 3, 64, 64), torch.full((1, 2, 3, 64, 64), 2.0))
    with pytest.raises(ValueError, match="multiple of 8"):
        ActionJudge(crop=30)


def test_judge_file_keeps_the_judge_and_guards_its_weights(judge: ActionJudge, tmp_path: Path) -> None:
    file = JudgeFile(tmp_path / "new" / "judge.safetensors")
    with pytest.raises(FileNotFoundError):
        file.load()
    file.save(judge, {"game": "none"})
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["judge.json", "judge.safetensors"]
    context, video = random_video(1, 2, 3, 64, 64), random_video(1, 2, 3, 64, 64, seed=1)
    torch.testing.assert_close(file.load()(context, video), judge(context, video), atol=2e-3, rtol=0)
    assert file.card["game"] == "none"
    data = bytearray(file.path.read_bytes())
    data[-1] ^= 1
    file.path.write_bytes(data)
    with pytest.raises(ValueError, match="not its card's"):
        file.load()


def test_shipped_judge_is_small_and_its_card_says_how_it_was_made() -> None:
    card = COINRUN_JUDGE.card
    assert COINRUN_JUDGE.path.stat().st_size < 2_000_000
    assert card["train_levels"] == "20000-29999"
    assert card["test_levels"] == "10000-10999"
    for figures in card["accuracy"].values():
        assert figures["interval"][0] > figures["commonest_class"] + 0.05
    assert json.loads(COINRUN_JUDGE.path.with_suffix(".json").read_text()) == card


def test_the_shipped_judge_of_vectors_says_how_good_it_is() -> None:
    card = METAWORLD_JUDGE.card
    assert METAWORLD_JUDGE.reads_vectors
    assert METAWORLD_JUDGE.path.stat().st_size < 2_000_000
    assert card["held_out_error"]["all"]["r_squared"]["low"] > 0.4
    frames = torch.rand(2, 3, 3, 64, 64) * 2 - 1
    assert METAWORLD_JUDGE.load()(frames[:, :2], frames[:, 2:]).shape == (2, 1, 4)


def test_shipped_judge_reads_new_coinrun_frames() -> None:
    """Levels of neither training nor test, played here: far better than the commonest class (0.5 and 0.25)."""
    from trimtab.data.clips import to_video
    from trimtab.environments.procgen import COINRUN_EFFECTS, COINRUN_WEIGHTS, Procgen, StickyPolicy
    from trimtab.recipes.domains.coinrun import COINRUN_TABLES

    environment, policy = Procgen("coinrun", 32, 40_000, 1_000, seed=0), StickyPolicy(0, COINRUN_WEIGHTS)
    frames, actions, first = [], [], []
    for _ in range(40):
        seen, begins, _ = environment.observe()
        frames.append(seen)
        first.append(begins)
        actions.append(policy.act(seen))
        environment.act(actions[-1])
    video = to_video(np.stack(frames, axis=1))
    same_level = ~torch.from_numpy(np.stack(first, axis=1))[:, 2:]
    same_level[:, 1:] &= same_level[:, :-1].clone()  # neither of the last two steps crossed into a new level
    took = torch.from_numpy(np.stack(actions, axis=1))[:, 1:-1]
    judge, blurred = COINRUN_JUDGE.load(), functional.avg_pool2d(video.flatten(0, 1), 3, 1, 1).unflatten(0, (32, 40))

    def accuracy(shown: Tensor, table: str) -> float:
        right = is_recognised(judge(video[:, :2], shown[:, 2:]), took, COINRUN_TABLES[table])
        return right[same_level].double().mean().item()

    assert accuracy(video, "horizontal") > 0.72
    assert accuracy(video, "effects") > 0.4
    assert accuracy(blurred, "horizontal") > 0.65  # blur alone must not read as wrong actions
    assert accuracy(video[:, :1].expand_as(video), "horizontal") < 0.6  # frames that never change show no action
    assert COINRUN_TABLES["effects"] == COINRUN_EFFECTS


def test_tables_only_merge_further() -> None:
    """Actions of one exact effect stay together in the coarser tables."""
    from trimtab.recipes.domains.coinrun import COINRUN_TABLES

    exact = COINRUN_TABLES["effects"]
    for table in COINRUN_TABLES.values():
        assert len(table) == 15
        assert all(table[a] == table[b] for a in range(15) for b in range(15) if exact[a] == exact[b])
