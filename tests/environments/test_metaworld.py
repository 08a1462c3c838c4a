"""MetaWorld is seeded bit for bit, a sound Gymnasium vector environment, solved by its experts, and recorded as it was."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from trimtab.data.clips import Clips
from trimtab.data.layout import TASKS_PATH
from trimtab.environments.looks import Look
from trimtab.environments.metaworld import CAMERAS, SCENES, SIMULATOR_RATE, TEXTS, MetaWorld, import_metaworld
from trimtab.recipes.planning.bench import scene
from trimtab.recipes.record_metaworld import ROBOT, metaworld_episodes, record_metaworld

pytestmark = pytest.mark.slow  # and needs libEGL, which not every machine has


def first_frame(task: str = "coffee-push", seed: int = 3, **options: Any) -> np.ndarray:
    environment = MetaWorld(task, **options)
    frames, _ = environment.reset(seed=seed)
    environment.close()
    return frames[0]


def test_every_task_has_a_text_an_environment_and_an_expert() -> None:
    environments, experts = import_metaworld()
    assert {f"{task}-v3" for task in TEXTS} <= set(environments) & set(experts)
    assert len(set(TEXTS.values())) == len(TEXTS) >= 15


def test_a_seed_gives_the_same_frames_whatever_was_played_before() -> None:
    def play(environment: MetaWorld) -> tuple[np.ndarray, list[np.ndarray]]:
        first, _ = environment.reset(seed=3)
        return first, [environment.step(environment.expert_actions())[0] for _ in range(10)]

    environment = MetaWorld(["coffee-push", "soccer"])
    first, film = play(environment)
    environment.reset(seed=8)
    for _ in range(5):
        environment.step(np.ones((2, 4)))
    again, same_film = play(environment)
    assert np.array_equal(first, again)
    assert np.array_equal(film, same_film)
    other, _ = environment.reset(seed=[3, 9])
    assert np.array_equal(other[0], first[0])
    assert not np.array_equal(other[1], first[1])
    environment.close()


@pytest.mark.parametrize(("action_repeat", "num_steps"), [(1, 125), (4, 35)])
def test_experts_succeed_when_each_action_is_taken_once_and_when_it_is_held_four_times(
    action_repeat: int, num_steps: int
) -> None:
    tasks = ["door-close", "drawer-open", "soccer"]
    environment = MetaWorld(tasks, action_repeat=action_repeat, max_episode_steps=num_steps)
    environment.reset(seed=0)
    succeeded, over = np.zeros(3, bool), np.zeros(3, bool)
    while not over.all():
        _, _, terminated, truncated, facts = environment.step(environment.expert_actions())
        assert np.array_equal(terminated, facts["success"])
        succeeded |= terminated & ~over
        over |= terminated | truncated
    assert succeeded.all()
    environment.close()


def test_success_ends_no_episode_if_it_shall_not() -> None:
    environment = MetaWorld("reach", action_repeat=4, end_at_success=False, max_episode_steps=20)
    environment.reset(seed=0)
    played = [environment.step(environment.expert_actions()) for _ in range(20)]
    assert any(facts["success"][0] for *_, facts in played)
    assert not any(terminated[0] for _, _, terminated, _, _ in played)
    assert [truncated[0] for _, _, _, truncated, _ in played] == [False] * 19 + [True]
    environment.close()


def test_the_experts_continuation_is_what_then_happens() -> None:
    environment = MetaWorld(["door-close", "basketball", "stick-pull"], action_repeat=4, max_episode_steps=60)
    environment.reset(seed=3)
    random = np.random.default_rng(0)
    for _ in range(3):
        environment.step(random.uniform(-1, 1, (3, 4)))
        frames, actions = environment.expert_continuation(5)
        some = environment.expert_continuation(2, [2, 0])
        assert np.array_equal(some[0], frames[[2, 0], :2])
        assert np.array_equal(some[1], actions[[2, 0], :2])
        for step in range(5):
            assert np.array_equal(environment.expert_actions(), actions[:, step])
            assert np.array_equal(environment.step(actions[:, step])[0], frames[:, step])
    for wrong in ((0,), (3, []), (3, [3]), (3, [-1])):
        with pytest.raises(ValueError, match=r"num_steps >= 1 and copies of 0 .. 2, got"):
            environment.expert_continuation(*wrong)
    environment.close()


def test_asking_for_the_experts_continuation_changes_nothing() -> None:
    environment = MetaWorld(["door-close", "basketball", "stick-pull", "drawer-open"], max_episode_steps=7)
    actions = np.random.default_rng(0).uniform(-1, 1, (10, 4, 4))  # an episode, and the beginning of the next

    def play(num_steps_foreseen: int) -> list[np.ndarray]:
        film: list[np.ndarray] = [environment.reset(seed=3)[0]]
        for step in range(10):
            for _ in range(num_steps_foreseen):
                environment.expert_continuation(num_steps_foreseen)  # beyond the end, at times
            chosen = actions[step] if step % 2 else environment.expert_actions()
            frames, *outcomes, facts = environment.step(chosen)
            film += [chosen, frames, *outcomes, facts["success"], facts["episode_number"]]
            for copy in environment._copies:
                own = copy.simulator
                film += [copy.observation.copy(), own.data.qacc_warmstart.copy(), own.data.time, own.curr_path_length]
                film += [own.np_random.bit_generator.state["state"]["state"]]
        return film

    undisturbed, disturbed = play(0), play(2)
    for one, other in zip(undisturbed, disturbed, strict=True):
        assert np.array_equal(one, other)
    environment.close()


def test_every_camera_is_upright_and_shows_another_view() -> None:
    views = set()
    for camera in CAMERAS:
        environment = MetaWorld("reach", camera=camera, size=128, action_repeat=8)
        views.add(environment.reset(seed=0)[0].tobytes())
        rows = {}
        for up in () if camera == "topview" else (-1.0, 1.0):
            for _ in range(4):
                frames, *_ = environment.step(np.array([[0.0, 0.0, up, -1.0]]))
            red, green, blue = frames[0].astype(int).transpose(2, 0, 1)
            rows[up] = np.nonzero((red < 90) & (green > red + 60) & (blue > red + 60))[0].mean()  # the cyan finger
        assert not rows or rows[1.0] < rows[-1.0] - 4
        environment.close()
    assert len(views) == len(CAMERAS)


def test_looks_differ_and_are_functions_of_their_seed() -> None:
    own = first_frame()
    assert np.array_equal(first_frame(look=Look.plain()), own)
    shown = [first_frame(look=Look(seed)) for seed in (0, 0, 1)]
    assert np.array_equal(shown[0], shown[1])
    apart = [np.abs(one.astype(float) - other).mean() for one, other in ((shown[0], own), (shown[2], shown[0]))]
    assert min(apart) > 10
    nothing = {"turn": 0.0, "tilt": 0.0, "distance": 0.0, "colours": 0.0, "lights": 0.0}
    assert np.array_equal(first_frame(look=Look(0, **nothing)), own)
    for change in ({"turn": 20.0}, {"tilt": 8.0}, {"distance": 0.2}, {"colours": 0.8}, {"lights": 0.5}):
        assert not np.array_equal(first_frame(look=Look(0, **{**nothing, **change})), own)


def test_success_and_what_the_expert_does_are_of_their_kinds() -> None:
    environment = MetaWorld("door-close", 2)
    _, facts = environment.reset(seed=0)
    assert facts["success"].dtype == bool
    assert facts["success"].shape == (2,)
    assert environment.action_space.contains(environment.expert_actions())
    environment.close()


def test_unknown_cameras_and_looks_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="cameras are close, corner"):
        MetaWorld("door-close", camera="corner9")
    for wrong in ({"seed": -1}, {"seed": 0, "turn": -1.0}, {"seed": 0, "colours": 1.5}):
        with pytest.raises(ValueError, match="a look has"):
            Look(**wrong)


def test_a_recorded_set_holds_what_was_played(tmp_path: Path) -> None:
    share, tasks = 0.3, ("door-close", "reach")
    settings: dict[str, Any] = {"tasks": tasks, "num_episodes": 2, "seed": 5, "random_share": share}
    settings |= {"action_repeat": 4, "max_episode_steps": 20}
    episodes = metaworld_episodes(**settings, output=tmp_path / "set")
    assert len(episodes) == 4
    assert episodes.frame_rate == SIMULATOR_RATE / 4
    assert episodes.levels.tolist() == [5, 6, 5, 6]
    assert pq.read_table(episodes.folder / TASKS_PATH).num_rows == 2
    clip = Clips(episodes, 2, 4).batch(np.arange(3))
    assert clip.given.actions is not None
    assert clip.given.actions.shape == (3, 4, 4)
    of_experts, succeeded = [], []
    environment = MetaWorld("door-close", action_repeat=4, max_episode_steps=20)
    for number in range(2):
        frames, actions = episodes.episode(number)
        first, facts = environment.reset(seed=5 + number)
        assert np.array_equal(first[0], frames[0])
        rows = slice(episodes.starts[number], episodes.starts[number] + len(frames))
        assert episodes.states is not None
        assert episodes.successes is not None
        assert not episodes.successes[rows][:-1].any()  # which would have ended it
        states = [facts["state"][0]]
        for action, frame in zip(actions[:-1], frames[1:], strict=True):
            of_experts.append(np.array_equal(environment.expert_actions()[0], action))
            following, *_, facts = environment.step(action[None])
            assert np.array_equal(following[0], frame)
            states.append(facts["state"][0])
        assert np.array_equal(np.stack(states), episodes.states[rows])
        assert episodes.successes[rows][-1] == facts["success"][0]
        succeeded.append(facts["success"][0])
    environment.close()
    assert episodes.ended[:2].tolist() == succeeded
    assert np.mean(of_experts) == pytest.approx(1 - share, abs=0.2)
    assert episodes.provenance["share_successful"]["door-close"] == np.mean(succeeded)

    again = metaworld_episodes(**settings, output=tmp_path / "again")
    assert np.array_equal(again.frames, episodes.frames)
    assert np.array_equal(again.actions, episodes.actions)


def test_an_episode_lingers_after_success_or_after_the_time_for_it(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"tasks": ("reach", "coffee-push"), "num_episodes": 2, "action_repeat": 4}
    short = metaworld_episodes(**settings, max_episode_steps=10, output=tmp_path / "short")
    whole = metaworld_episodes(**settings, max_episode_steps=10, linger=3, output=tmp_path / "whole")
    assert short.ended.tolist() == whole.ended.tolist()
    assert set(short.ended.tolist()) == {False, True}
    assert whole.successes is not None
    for number in range(4):
        frames, longer = (some.episode(number)[0] for some in (short, whole))
        assert len(longer) == len(frames) + 3
        assert np.array_equal(longer[: len(frames)], frames)
        done = whole.successes[whole.starts[number] :][: len(frames)]
        assert done.tolist() == [False] * (len(frames) - 1) + [whole.ended[number]]


def test_a_set_is_reused_when_asked_again_and_never_mixed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings: dict[str, Any] = {
        "tasks": ("reach",),
        "num_episodes": 3,
        "max_episode_steps": 3,
        "output": tmp_path / "set",
    }
    settings |= {"num_looks": 2, "random_share": 1.0}
    record_metaworld(**settings)
    record_metaworld(**settings)
    said = capsys.readouterr().out
    assert said.count("reusing") == 1
    assert said.count("successful") == 4
    with pytest.raises(ValueError, match=r"random_share 1.0, not 0.7"):
        record_metaworld(**{**settings, "random_share": 0.7})
    episodes = metaworld_episodes(**settings)
    first = {int(level): episodes.episode(number)[0][0] for number, level in enumerate(episodes.levels)}
    for level, look in ((0, Look(0)), (1, Look(1)), (2, Look(0))):
        assert np.array_equal(first[level], first_frame("reach", level, look=look))
    for wrong in ({"tasks": ()}, {"tasks": ("reach", "reach")}, {"tasks": ("reach", "fly")}, {"random_share": 1.2}):
        with pytest.raises(ValueError, match=r"got none|each once|no task 'fly'|random_share and astray in 0 .. 1"):
            metaworld_episodes(**{**settings, **wrong, "output": tmp_path / "wrong"})
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["set"]


def test_a_hue_turns_all_colours_alike_in_every_scene() -> None:
    k = 1 / np.sqrt(3)
    about = np.array([[0, -k, k], [k, 0, -k], [-k, k, 0]])
    rotation = about + 1 / 3  # by a right angle
    for task in ("window-open", "coffee-push"):
        plain, turned, back = (
            first_frame(task, 5, look=Look(None, hue=hue)).astype(float) for hue in (0.0, 90.0, 360.0)
        )
        assert np.array_equal(plain, first_frame(task, 5))
        assert np.abs(back - plain).mean() < 1
        assert np.abs(turned - plain).mean() > 5
        assert (
            np.abs(turned - (plain @ rotation.T).clip(0, 255)).mean() < 4
        )  # lights are white, and bright spots clipped


def test_the_robot_is_recorded_in_the_look_in_which_it_plans(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"tasks": ("reach", "soccer"), "num_episodes": 1, "seed": 5, "max_episode_steps": 2}
    episodes = metaworld_episodes(**settings, robot=True, output=tmp_path / "robot")
    plain = metaworld_episodes(**settings, output=tmp_path / "plain")
    for number, task in enumerate(settings["tasks"]):
        planned, _ = scene(task, 1, 2, 2, 64).reset(seed=5)
        first = episodes.episode(number)[0][0]
        assert np.array_equal(first, planned[0])
        assert np.array_equal(first, first_frame(task, 5, look=ROBOT))
        assert np.abs(first.astype(int) - plain.episode(number)[0][0]).mean() > 5
    with pytest.raises(ValueError, match="robot"):
        metaworld_episodes(**settings, output=tmp_path / "robot")


@pytest.mark.parametrize("scene", SCENES)
def test_two_opposite_tasks_follow_the_same_first_frame(scene: str) -> None:
    pair = SCENES[scene]
    done, first = np.zeros((2, 4), bool), []
    for number, task in enumerate(pair):
        environment = MetaWorld(
            task, 4, scene=scene, action_repeat=4, max_episode_steps=50, end_at_success=False, look=Look(7)
        )
        frames, facts = environment.reset(seed=11)
        first.append(frames)
        assert facts["text"][0] == TEXTS[task]
        for _ in range(45):
            *_, facts = environment.step(environment.expert_actions())
            done[number] |= facts["success"]
        again, _ = environment.reset(seed=11)
        assert np.array_equal(again, frames)
        environment.close()
    assert np.array_equal(*first)
    assert (done.mean(1) >= 0.75).all(), done


def test_a_scene_is_one_that_the_task_shares() -> None:
    with pytest.raises(ValueError, match="no scene 'soccer' is shared"):
        MetaWorld("soccer", scene="soccer")
    with pytest.raises(ValueError, match="there are door-close and door-open; got drawer-open"):
        MetaWorld("drawer-open", scene="door-close")


def test_halfway_sets_show_both_tasks_in_the_same_looks(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"num_episodes": 2, "num_looks": 2, "action_repeat": 8, "max_episode_steps": 4}
    both = ("drawer-close", "drawer-open")
    episodes = metaworld_episodes(tasks=("soccer", *both), halfway=True, output=tmp_path / "some", **settings)
    assert len(episodes) == 2 * 2 * 2
    shown: dict[tuple[int, bytes], set[str]] = {}
    for number, (level, task) in enumerate(zip(episodes.levels.tolist(), episodes.tasks, strict=True)):
        shown.setdefault((level, episodes.episode(number)[0][0].tobytes()), set()).add(task)
    assert len(shown) == 4
    assert all(tasks == {TEXTS[task] for task in both} for tasks in shown.values())
    with pytest.raises(ValueError, match="only tasks with an opposite"):
        metaworld_episodes(tasks=("soccer",), halfway=True, output=tmp_path / "none", **settings)
