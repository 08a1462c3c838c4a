"""Planning end to end at toy size: every method is trained, plays MetaWorld, and stands in the table; once is enough."""

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tiny import tabletop
from trimtab.adapters.composition import Composition
from trimtab.control import inverse_dynamics
from trimtab.control.inverse_dynamics import InverseDynamics
from trimtab.control.video_planner import Imagination
from trimtab.core.values import Conditioning, Video
from trimtab.data.episodes import Episodes, EpisodeWriter
from trimtab.diffusion import sampling
from trimtab.environments.looks import Look
from trimtab.environments.metaworld import MetaWorld
from trimtab.metrics.intervals import Interval
from trimtab.networks.encoders import MiniLM
from trimtab.networks.vision_transformer import VisionTransformer
from trimtab.recipes import record_metaworld
from trimtab.recipes._held import Held
from trimtab.recipes.domains import metaworld
from trimtab.recipes.domains.metaworld import FIRST_VALIDATION, PLAYED, SEEN, UNPLAYED, VALIDATION, encoder
from trimtab.recipes.domains.tabletop import astray_episodes, halfway_episodes, tabletop_episodes
from trimtab.recipes.metaworld_planning import metaworld_planning, pieces_of
from trimtab.recipes.planning import bench as planning
from trimtab.recipes.planning import continuations
from trimtab.recipes.planning.adaptations import (
    ADAPTATIONS,
    AS_WRITTEN,
    IN_DOMAIN,
    INVERSE,
    LATE,
    NORMALISED,
    PAPER,
    PRIOR,
    TRAININGS,
    learning,
)
from trimtab.recipes.planning.bench import Bench
from trimtab.recipes.planning.cells import cells_in
from trimtab.recipes.planning.reader import reading
from trimtab.recipes.planning.results import EXPERT, TRUTHS
from trimtab.recipes.planning.scales import SCALES, Scale, chosen
from trimtab.recipes.record_metaworld import ROBOT, metaworld_episodes


def alike(imagined: Video, held: Held, cache: Path) -> Interval:
    """In place of FVD, which needs more clips, and minutes: the mean difference."""
    mean = (imagined - held.clip.video).abs().mean().item()
    return Interval(mean, mean, mean, len(imagined), 1)


METHODS = (*TRUTHS, *NORMALISED, AS_WRITTEN[1])
COUNTS = ("num_starts", "num_clips", "num_steps", "num_plans")


@pytest.mark.slow
def test_every_method_is_trained_and_plays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    prior = tabletop.prior()
    prior.save(tmp_path / "prior.safetensors")
    InverseDynamics(width=4).save(tmp_path / "reader.safetensors")
    few = metaworld_episodes(
        tasks=("drawer-close",), num_episodes=10, action_repeat=4, max_episode_steps=50, output=tmp_path / "few"
    )
    monkeypatch.setattr(planning, "demonstrations", lambda share, datasets, **pace: few)
    monkeypatch.setattr(continuations, "metaworld_episodes", lambda **settings: few)
    monkeypatch.setattr(planning, "video_distance", alike)
    monkeypatch.setattr("trimtab.recipes.planning.adaptations.NUM_PRESERVED", 4)
    monkeypatch.setattr("trimtab.recipes.planning.adaptations.NUM_STILLS", 4)

    run = partial(
        metaworld_planning, methods=METHODS, tasks=("window-open", "door-open"), num_starts=2, num_clips=20, num_steps=1,
        teraflops=0.02, choices=tmp_path / "choices.json",
        prior=str(tmp_path / "prior.safetensors"), reader=tmp_path / "reader.safetensors", output=tmp_path / "run",
    )  # fmt: skip

    swept = Scale(num_steps=1)
    asked = {"prior": prior.fingerprint, "look": asdict(ROBOT), **swept.pace, **swept.sampled}
    chosen_for = {**asked, "form": ADAPTATIONS[INVERSE].form()}
    choice = {"guidance": 3.0, "strength": 1.5, "protocol": chosen_for}
    (tmp_path / "choices.json").write_text(json.dumps({INVERSE: choice}))
    run()
    paths = sorted((tmp_path / "run" / "cells").glob("*.json"))
    cells = [json.loads(path.read_text()) for path in paths]
    assert {(cell["method"], cell["task"]) for cell in cells} == {
        (m, t) for m in METHODS for t in ("window-open", "door-open")
    }
    assert all(cell["success"] == [True, True] for cell in cells if cell["method"] == "the expert")
    assert all(cell["steps"] == [50, 50] for cell in cells if not any(cell["success"]))
    assert all(cell["training"]["steps"] > 0 for cell in cells if cell["method"] == "in-domain only")
    assert {cell["task"]: cell["novel"] for cell in cells} == {"window-open": False, "door-open": True}
    own = {cell["method"]: cell["protocol"]["own"] for cell in cells}
    assert own[INVERSE] == {
        "guidance": 3.0, "strength": 1.5, "naming": "", "negative": None, "normalise": True, "off_above": None,
        "chosen": True,
    }  # fmt: skip
    assert not own["in-domain only"]["chosen"]
    assert {cell["protocol"]["reader"] for cell in cells} == {reading(tmp_path / "reader.safetensors", 4)[1]}
    (losses,) = [json.loads(path.read_text()) for path in (tmp_path / "run" / "cells" / "losses").glob("*.json")]
    before, after, ratio = (losses[name]["mean"] for name in ("the prior", "in-domain", "the prior / in-domain"))
    assert ratio == pytest.approx(before / after)
    videos = [json.loads(path.read_text()) for path in (tmp_path / "run" / "cells" / "videos").glob("*.json")]
    assert {cell["method"] for cell in videos} == {*METHODS} - {*TRUTHS}
    assert all(cell["FVD with given frames"]["mean"] > 0 for cell in videos)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "inverse probabilistic adaptation, imagined" in page
    written = [path.stat().st_mtime_ns for path in paths]
    paths[0].unlink()
    run()
    again = [path.stat().st_mtime_ns for path in paths]
    assert [old == new for old, new in zip(written, again, strict=True)] == [False] + [True] * (len(paths) - 1)
    bench = Bench(prior, Scale(teraflops=2.0), tmp_path / "reader.safetensors", 0.0, tmp_path, tmp_path / "run")
    with pytest.raises(ValueError, match=r"was trained for 0\.\d+ teraflops, not 2; ask for as many"):
        bench.train("in-domain", 0)
    fresh = {"first_start": 700_000, "planning": tmp_path / "run", "output": tmp_path / "fresh"}
    run(methods=("in-domain only",), tasks=("window-open",), **fresh)
    assert not (tmp_path / "fresh" / "trainings").exists()
    (cell,) = [json.loads(path.read_text()) for path in (tmp_path / "fresh" / "cells").glob("*.json")]
    assert cell["starts"] == [700_000, 700_001]


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no methods"):
        metaworld_planning(methods=("telepathy",), output=tmp_path / "one")
    with pytest.raises(ValueError, match="no tasks"):
        metaworld_planning(tasks=("laundry",), output=tmp_path / "two")
    with pytest.raises(ValueError, match="train them first"):
        reading(tmp_path / "nothing", 4)
    InverseDynamics(width=2, encoder=None).save(tmp_path / "fast.safetensors", action_repeat=2)
    assert reading(tmp_path / "fast.safetensors", 2)
    with pytest.raises(ValueError, match="in 2 steps of the simulator, and here an action is held for 4"):
        reading(tmp_path / "fast.safetensors", 4)
    with pytest.raises(ValueError, match="hears no text"):
        metaworld_planning(prior="procgen", output=tmp_path / "three")


def test_a_dry_run_counts_what_is_missing_and_binds_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tabletop.prior().save(tmp_path / "prior.safetensors")
    few = tabletop.dots(tmp_path / "dots")
    monkeypatch.setattr(planning, "demonstrations", lambda share, datasets, **pace: few)
    run = partial(
        metaworld_planning, methods=(PRIOR, IN_DOMAIN, INVERSE), seeds=(1, 2, 3), teraflops=0.02, output=tmp_path / "run",
        prior=str(tmp_path / "prior.safetensors"),
    )  # fmt: skip
    done = tmp_path / "run" / "trainings" / "in-domain-2-0"
    done.mkdir(parents=True)
    (done / "config.json").write_text('{"facts": {}}')
    run(dry_run=True)
    said = capsys.readouterr().out
    assert said.count("will need") == 2
    assert "2 trainings, one after another" in said
    for seed in (1, 3):
        (tmp_path / "run" / "trainings" / f"in-domain-{seed}-0").mkdir(exist_ok=True)
        (tmp_path / "run" / "trainings" / f"in-domain-{seed}-0" / "config.json").write_text('{"facts": {}}')
    run(dry_run=True, num_starts=3)
    assert "all trainings are done" in capsys.readouterr().out
    run(dry_run=True, planning=tmp_path / "run", output=tmp_path / "fresh")
    assert "all trainings are done" in capsys.readouterr().out
    assert not (tmp_path / "run" / "settings.json").exists()


@pytest.mark.parametrize(
    ("option", "because"),
    [
        ({"temperature": 1.5}, "a temperature is 0 .* got 1.5"),
        ({"random_share": 0.705}, "a whole percentage, as files are named by it, got 0.705"),
        ({"random_share": 1.5}, "random_share is 0 .* to 1 .* got 1.5"),
        ({"replan_every": 5}, "1 to 4 actions can be played, got replan_every 5"),
        ({"replan_every": 0}, "1 to 4 actions can be played, got replan_every 0"),
        ({"horizon": 3}, "1 to 3 actions can be played, got replan_every 4"),
        ({"horizon": 9}, "imagines up to 8 frames, got a horizon of 9"),
        ({"teraflops": 0.0}, "teraflops are above 0 and finite, got 0.0"),
        ({"teraflops": float("inf")}, "teraflops are above 0 and finite, got inf"),
        ({"first_start": 1000}, "first_start is 600000 or more, got 1000"),
        *(({name: 0}, f"{name} is at least 1, got 0") for name in COUNTS),
        ({"num_clips": 19}, "num_clips of 20 or more, got 19"),
        ({"tasks": ("door-close", "faucet-open")}, r"\['faucet-open'\] is kept for choosing"),
    ],
)
def test_what_has_no_sense_is_refused_before_it_is_recorded(
    option: dict[str, Any], because: str, tmp_path: Path
) -> None:
    tabletop.prior().save(tmp_path / "prior.safetensors")
    with pytest.raises(ValueError, match=because):
        metaworld_planning(**option, prior=str(tmp_path / "prior.safetensors"), output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_more_frames_may_be_imagined_than_are_played() -> None:
    size = SCALES["smoke"].but({"horizon": 8, "replan_every": 6})
    assert (size.horizon, size.replan_every) == (8, 6)


def test_of_random_demonstrations_only_what_learns_from_them_is_planned_with() -> None:
    assert learning(SCALES["tiny"].methods, 0.0) == [*TRUTHS, *NORMALISED]
    assert learning(SCALES["tiny"].methods, 0.7) == [name for name in NORMALISED if name != PRIOR]
    assert pieces_of([*TRUTHS, PRIOR, IN_DOMAIN], [0, 1]) == [
        *((name, 0) for name in TRUTHS),  # of which no model imagines anything
        *((name, seed) for name in (PRIOR, IN_DOMAIN) for seed in (0, 1)),
    ]
    assert pieces_of([EXPERT, PRIOR], [2]) == [(EXPERT, 0), (PRIOR, 2)]  # the truth is needed whichever the seed


def test_the_reader_that_ships_fits_the_robot_and_says_how_good_it_is(tmp_path: Path) -> None:
    bench = Bench(tabletop.prior(), SCALES["tiny"], None, 0.0, tmp_path, tmp_path)
    act, fingerprint = bench.reading()
    frames = torch.rand(2, 3, 64, 64) * 2 - 1
    assert act(frames, frames).shape == (2, 4)
    assert inverse_dynamics.METAWORLD.stat().st_size < 3_000_000
    cells = cells_in(Path(__file__).parents[2] / "docs" / "planning")
    assert {cell["protocol"]["reader"] for cell in cells} == {fingerprint}  # so that they can be continued
    card = json.loads(inverse_dynamics.METAWORLD.with_suffix(".json").read_text())
    assert card["held_out_error"]["all"]["r_squared"]["low"] > 0.6
    assert not {"door-close", "window-close", "handle-press"} & set(card["data"][0]["tasks"])  # there it only roamed


def test_a_reader_of_several_paces_or_of_one_that_is_not_told(tmp_path: Path) -> None:
    reader = InverseDynamics(width=2, encoder=None)
    reader.save(tmp_path / "several.safetensors", action_repeat=None)
    with pytest.raises(ValueError, match=r"on sets of different paces.*on sets of one pace: .*--action-repeat 4"):
        reading(tmp_path / "several.safetensors", 4)
    reader.save(tmp_path / "silent.safetensors")
    assert reading(tmp_path / "silent.safetensors", 4)


def test_a_reader_that_never_saw_the_robot_in_its_look_is_refused(tmp_path: Path) -> None:
    reader, ours, other = InverseDynamics(width=2, encoder=None), asdict(ROBOT), {**asdict(ROBOT), "hue": 30.0}
    for name, looks in (("both", [None, ours]), ("others", [None, other])):
        reader.save(tmp_path / f"{name}.safetensors", action_repeat=4, looks=looks)
    assert reading(tmp_path / "both.safetensors", 4)
    with pytest.raises(ValueError, match="never saw the robot as plans show it"):
        reading(tmp_path / "others.safetensors", 4)


def test_a_reader_is_told_the_weights_of_its_encoder(tmp_path: Path) -> None:
    weights, path = tmp_path / "weights.safetensors", tmp_path / "reader.safetensors"
    save_file(VisionTransformer(64, 1, 16).state_dict(), weights)
    model = InverseDynamics(width=2, encoder="vc1", weights=weights).eval()
    model.save(path)
    told = Bench(tabletop.prior(), Scale(), path, 0.0, tmp_path, tmp_path, weights)
    before, after = torch.rand(2, 1, 3, 64, 64) * 2 - 1
    torch.testing.assert_close(told.reading()[0](before, after), model.act(before, after))
    assert told.protocol["reader"] == told.reading()[1]
    with pytest.raises(ValueError, match=r"sees by vc1, whose weights no package carries.* --reader-weights"):
        Bench(tabletop.prior(), Scale(), path, 0.0, tmp_path, tmp_path).reading()
    InverseDynamics(width=2, encoder=None).save(tmp_path / "stem.safetensors")
    with pytest.raises(ValueError, match="names no encoder that needs weights; leave out --reader-weights"):
        reading(tmp_path / "stem.safetensors", 4, weights=weights)


def test_what_is_recorded_and_played_is_as_large_as_what_the_prior_imagines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Mapping[str, Any]] = []

    def recorded(**settings: Any) -> Episodes:
        asked.append(settings)
        return tabletop.dots(tmp_path / "dots")

    def built(task: str, num_envs: int, *, size: int, **pace: int) -> MetaWorld:
        raise LookupError(f"{num_envs} of {size} pixels")

    for module in (metaworld, continuations):
        monkeypatch.setattr(module, "metaworld_episodes", recorded)
    prior = tabletop.prior(frame_shape=(3, 128, 128))
    bench = Bench(prior, Scale(), tmp_path / "reader.safetensors", 0.0, tmp_path, tmp_path)
    monkeypatch.setattr(planning, "scene", built)
    with pytest.raises(LookupError, match="3 of 128 pixels"):
        bench.scene("door-close", 3)
    bench.demonstrations()
    bench.clips("validation", VALIDATION, FIRST_VALIDATION, 2)
    metaworld.play(tmp_path, size=128)
    assert [(settings["size"], settings["robot"]) for settings in asked] == [(128, True)] * 5
    folders = ["seen-0", "others-0", "validation", "roam", "play"]
    assert [settings["output"].name for settings in asked] == [f"metaworld-{name}-128px" for name in folders]
    usual, other = metaworld.place(tmp_path, "play", 4, 50), metaworld.place(tmp_path, "play", 2, 200, 128)
    assert (usual.name, other.name) == ("metaworld-play", "metaworld-play-2x200-128px")
    InverseDynamics(width=2, encoder=None).save(bench.reader)
    with pytest.raises(ValueError, match=r"reads frames of 64 x 64, and the prior's are 128 x 128.*--size 128"):
        bench.reading()
    for shape, because in (
        ((3, 32, 32), r"frames have \(64, 128, 256, 512\) pixels a side, got 32"),
        ((3, 64, 128), "square"),
    ):
        with pytest.raises(ValueError, match=because):
            Bench(tabletop.prior(frame_shape=shape), Scale(), Path(), 0.0, tmp_path, tmp_path)


def test_no_task_that_is_measured_or_chosen_on_is_played_at_any_scale() -> None:
    measured = {task for size in SCALES.values() for task in size.novel}
    assert {*UNPLAYED} == measured | {*VALIDATION} - {*SEEN}
    assert {"door-open", "coffee-push", "soccer"} <= {*UNPLAYED}
    assert not {*PLAYED} & {*UNPLAYED}
    assert {*SEEN} <= {*PLAYED}


def test_play_of_other_tasks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as that which was recorded before the tasks of the paper were left out."""

    def recorded(folder: Path, request: Mapping[str, Any], write: Callable[[], None]) -> Episodes:
        provenance = {**request, "tasks": [*request["tasks"], "soccer"]}
        with EpisodeWriter(folder, frame_rate=20.0, action_dim=4, provenance=provenance) as writer:
            writer.add_episode(np.zeros((2, 64, 64, 3), np.uint8), np.zeros((2, 4), np.float32))
        return Episodes.open(folder)

    with monkeypatch.context() as patch:
        patch.setattr(record_metaworld, "recorded_once", recorded)
        metaworld.at_play(tmp_path / "play", seed=1000, num_episodes=24)
    with pytest.raises(ValueError, match=r"holds another set \(tasks .*'soccer'\], not .*delete that folder"):
        metaworld.at_play(tmp_path / "play", seed=1000, num_episodes=24)


def test_choices_are_taken_for_the_same_prior_pace_and_sampling(tmp_path: Path) -> None:
    prior, size, path = tabletop.prior(), Scale(), tmp_path / "choices.json"
    form = ADAPTATIONS[INVERSE].form()
    asked = {"prior": prior.fingerprint, "look": asdict(ROBOT), **size.pace, **size.sampled}
    protocol = {**asked, "teraflops": 1.0, "num_clips": 3, "form": form}
    path.write_text(json.dumps({INVERSE: {"guidance": 3.0, "strength": 1.5, "protocol": protocol}}))
    found = chosen(path, prior, size)[INVERSE]
    assert (found.guidance, found.strength, found.chosen) == (3.0, 1.5, True)
    assert chosen(path, prior, size, random_share=0.7)[INVERSE] == found  # where nothing was chosen with this share
    spoiled = {"guidance": 2.0, "strength": 0.1, "protocol": {**protocol, "random_share": 0.7}}
    with_both = {**json.loads(path.read_text()), f"{INVERSE}, 70% random actions": spoiled}
    (tmp_path / "both.json").write_text(json.dumps(with_both))
    taken = {share: chosen(tmp_path / "both.json", prior, size, share)[INVERSE].strength for share in (0.0, 0.3, 0.7)}
    assert taken == {0.0: 1.5, 0.3: 1.5, 0.7: 0.1}
    for own in ({"teraflops": 9.0}, {"num_clips": 2}, {"num_starts": 1}, {"num_plans": 3}):
        assert chosen(path, prior, size.but(own))[INVERSE].chosen
    pace = {"max_steps": 9}, {"action_repeat": 2}
    sampled = {"temperature": 1.0}, {"num_steps": 5}, {"sample": sampling.ddim}
    for own in (*pace, *sampled):
        with pytest.raises(ValueError, match="holds no choice for this"):
            chosen(path, prior, size.but(own))
        assert chosen(None, prior, size.but(own)) == ADAPTATIONS
    with pytest.raises(ValueError, match="holds no choice for this"):
        chosen(path, tabletop.prior({**tabletop.SIZES, "widths": (64,)}), size)
    assert chosen(None, prior, size) == ADAPTATIONS  # those of the package are of the prior that ships
    with pytest.raises(ValueError, match=r"no choices in .*metaworld-sweep makes them"):
        chosen(tmp_path / "none.json", prior, size)
    path.write_text(path.read_text().replace('"off_above": null', '"off_above": 250'))
    with pytest.raises(ValueError, match="holds no choice for this"):
        chosen(path, prior, size)  # of another form of the method


def test_what_cannot_be_composed_around_a_prior_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    short = tabletop.prior(schedule="cosine", num_levels=200)  # to nearly pure noise
    bench = Bench(short, SCALES["smoke"], tmp_path / "none", 0.0, tmp_path, tmp_path)
    bench.check(NORMALISED)
    heard = ADAPTATIONS[LATE].denoiser(short, short)
    assert isinstance(heard, Composition)
    for index, last in ((100, True), (101, False)):  # half of its levels
        assert bool(heard.weights(short.schedule.level(torch.tensor([index]))).values[-1]) is last
    with pytest.raises(ValueError, match=r"as written, beside this prior: .* ends at alpha >= 0\.03.*other --methods"):
        bench.check([AS_WRITTEN[0]])
    short.save(tmp_path / "prior.safetensors")
    with pytest.raises(ValueError, match="as written"):
        metaworld_planning(
            prior=str(tmp_path / "prior.safetensors"), methods=AS_WRITTEN, dry_run=True, output=tmp_path / "run"
        )


def test_each_share_of_random_actions_is_recorded(tmp_path: Path) -> None:
    tabletop.prior().save(tmp_path / "prior.safetensors")
    InverseDynamics(4, 64, 4).save(tmp_path / "reader.safetensors", action_repeat=4, looks=[asdict(ROBOT)])
    (tmp_path / "cells").mkdir()
    options: dict[str, Any] = {"prior": str(tmp_path / "prior.safetensors"), "reader": tmp_path / "reader.safetensors"}
    for share in (0.0, 0.7):  # of one folder
        with pytest.raises(ValueError, match="there is no finished cell to report"):
            metaworld_planning(random_share=share, methods=(), output=tmp_path, **options)
    paths = (tmp_path / "settings.json", tmp_path / "random-70" / "settings.json")
    assert [json.loads(path.read_text())["settings"]["random_share"] for path in paths] == [0.0, 0.7]


def test_the_papers_scale_is_the_papers() -> None:
    paper = SCALES["paper"]
    assert paper.sample is sampling.ddim
    assert (paper.num_steps, paper.action_repeat, paper.max_steps, paper.replan_every) == (25, 2, 200, 1)
    assert {"door-open", "soccer"} <= set(paper.novel)
    assert set(paper.novel).isdisjoint(SEEN)
    assert set(paper.methods) & {*NORMALISED, *AS_WRITTEN} == {*NORMALISED[:4], *AS_WRITTEN}
    assert (paper.temperature, paper.lengths) == (1.0, (8,))
    guidances = {name: how.guidance for name, how in paper.adaptations.items() if how.guidance != 2.5}
    assert guidances == {"vanilla prior": 7.5, "direct finetuning": 8.0, "subject customization": 7.5}
    negative = {name for name, how in paper.adaptations.items() if how.negative == "bad quality, worse quality"}
    assert negative == {*guidances, INVERSE, LATE, AS_WRITTEN[1]}  # the prior is untold there
    assert paper.adaptations.keys() == ADAPTATIONS.keys()


def test_a_text_stands_where_the_prior_would_be_untold() -> None:
    prior, encode = tabletop.prior(), encoder()
    given = Conditioning(context=torch.rand(1, 1, 3, 64, 64) * 2 - 1, text=encode(["open the drawer"]))
    noisy, level = torch.randn(1, 4, 3, 64, 64), prior.schedule.level(torch.tensor([500]))
    instead = Conditioning(context=given.context, text=encode([PAPER[PRIOR].negative or ""]))
    told, negative = (prior.bind(some)(noisy, level).noise for some in (given, instead))
    for name, trained in ((PRIOR, None), ("direct finetuning", prior)):
        how = PAPER[name]
        found = how.denoiser(prior, trained).bind(given)(noisy, level).noise
        torch.testing.assert_close(found, negative + how.guidance * (told - negative), rtol=1e-3, atol=1e-3)


def test_stills_are_learned_in_fewer_steps_than_videos(tmp_path: Path) -> None:
    bench = Bench(tabletop.prior(), Scale(teraflops=200.0), Path(), 0.0, tmp_path, tmp_path)
    assert bench.steps(TRAININGS["in-domain"], 0.1) == 2000
    assert bench.steps(TRAININGS["dreambooth"], 0.1) == 1000
    assert bench.steps(TRAININGS["dreambooth"], 1.0) == 200


def test_of_several_plans_one_is_followed(tmp_path: Path) -> None:
    bench = Bench(tabletop.prior(), Scale(num_plans=3), tmp_path / "reader.safetensors", 0.0, tmp_path, tmp_path)
    InverseDynamics(width=4).save(bench.reader)
    imagine = bench.planner(bench.prior, 0).imagine
    assert isinstance(imagine, Imagination)
    assert imagine.num_plans == 3
    assert bench.protocol["num_plans"] == 3


def test_plans_are_sampled_with_less_noise_and_clamped_where_weights_sum_to_one(tmp_path: Path) -> None:
    def sample(denoiser: object, noise: torch.Tensor, given: object, **options: object) -> Video:
        told.append(options["clamp"])
        return noise

    told: list[object] = []
    bench = Bench(tabletop.prior(), Scale(sample=sample, temperature=0.5), Path(), 0.0, tmp_path, tmp_path)
    for name in (INVERSE, AS_WRITTEN[1]):
        video = bench.sampler(ADAPTATIONS[name])(bench.prior, torch.ones(1, 4, 3, 64, 64), Conditioning())
        assert torch.equal(video, torch.full((1, 4, 3, 64, 64), 0.5))
    assert told == [(-1.0, 1.0), None]


def test_as_written_weights_sum_to_more_than_one() -> None:
    prior = tabletop.prior()
    given = Conditioning(context=torch.rand(2, 1, 3, 64, 64) * 2 - 1, text=torch.randn(2, 24, MiniLM.dim))
    noisy, level = torch.randn(2, 4, 3, 64, 64), prior.schedule.level(torch.tensor([200, 800]))
    told, untold = (prior.bind(some)(noisy, level).noise for some in (given, given.without("text")))
    raw = ADAPTATIONS[AS_WRITTEN[1]].denoiser(prior, prior).bind(given)(noisy, level)
    torch.testing.assert_close(raw.noise, untold + 2.5 * (told + 0.5 * told - untold), atol=1e-4, rtol=1e-4)
    normalised = ADAPTATIONS[INVERSE].denoiser(prior, prior).bind(given)(noisy, level)
    torch.testing.assert_close(raw.noise, 2.25 * normalised.noise, atol=1e-4, rtol=1e-4)


def test_cells_of_another_reader_are_refused_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prior, reader = tabletop.prior(), tmp_path / "reader.safetensors"
    prior.save(tmp_path / "prior.safetensors")
    InverseDynamics(width=4).save(reader)
    record = Bench(prior, SCALES["smoke"], reader, 0.0, tmp_path, tmp_path).record(INVERSE)
    cells = tmp_path / "cells"
    cells.mkdir()

    def refused(because: str, **protocol: object) -> None:
        starts = protocol.pop("starts", None) or Bench(prior, SCALES["smoke"], reader, 0.0, tmp_path, tmp_path).starts
        made = {**record["protocol"], **protocol}
        facts = {"method": INVERSE, "task": "door-close", "seed": 0, "random_share": 0.0}
        cell = {**facts, "starts": starts, "protocol": made}
        (cells / "one.json").write_text(json.dumps(cell))
        with pytest.raises(ValueError, match=because):
            metaworld_planning(
                prior=str(tmp_path / "prior.safetensors"), reader=reader, datasets=tmp_path,
                tasks=("button-press", "drawer-open", "soccer"), output=tmp_path / "run", cells=cells,
            )  # fmt: skip

    refused("differ in reader", reader="abcd")
    refused("differ in strength", own={**record["protocol"]["own"], "strength": 9.0})
    refused("differ in start states", starts=[600_000])
    assert not (tmp_path / "run").exists()
    assert not list(tmp_path.glob("metaworld-*"))  # nothing was recorded, either
    assert "chosen by no sweep of a run like this" in " ".join(capsys.readouterr().out.split())


def test_the_robot_looks_as_nothing_that_the_prior_saw(tmp_path: Path) -> None:
    assert abs(ROBOT.hue) >= 60
    assert "hue" not in Look.ranges()
    with pytest.raises(ValueError, match="the robot has one look, its own; ask for it, or for num_looks, here 2"):
        metaworld_episodes(num_looks=2, robot=True, output=tmp_path / "none")


def test_no_start_that_is_planned_from_was_seen_by_the_prior_or_in_play() -> None:
    """A start state is a function of the seed, whatever it looks like and whichever of two tasks follows."""
    sets = (tabletop_episodes, astray_episodes, halfway_episodes)
    learned = [inspect.signature(record).parameters["seed"].default for record in sets]
    firsts = [*learned, 0, 1000, FIRST_VALIDATION, metaworld.FIRST_CLIP, metaworld.FIRST_CHECK, metaworld.FIRST_LOSS]
    assert min(abs(metaworld.FIRST_START - first) for first in firsts) > 10_000


@pytest.mark.parametrize("text", ["{", "[]", '{"figures": 1}', '{"method": "unheard", "seed": 0}'])
def test_a_file_among_the_cells_that_is_none_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(ValueError, match=r"other.json is no cell of planning .*--cells"):
        cells_in(tmp_path)


def test_a_refused_command_can_be_mended_in_the_same_folder(tmp_path: Path) -> None:
    tabletop.prior().save(tmp_path / "prior.safetensors")
    options: dict[str, Any] = {"prior": str(tmp_path / "prior.safetensors"), "output": tmp_path / "run"}
    with pytest.raises(ValueError, match="train them first"):
        metaworld_planning(reader=tmp_path / "mistyped", **options)
    assert not (tmp_path / "run" / "settings.json").exists()


def test_choices_that_are_for_nothing_here_are_refused(tmp_path: Path) -> None:
    prior, size = tabletop.prior(), SCALES["smoke"]
    (path := tmp_path / "choices.json").write_text('{"AVID": {"tried": 3}}')
    with pytest.raises(ValueError, match="holds no choices of `trimtab metaworld-sweep`"):
        chosen(path, prior, size)
    path.write_text("{}")
    with pytest.raises(ValueError, match="holds no choice for this"):
        chosen(path, prior, size)
    bench = Bench(prior, size, tmp_path, 0.0, tmp_path, tmp_path)
    ours = json.loads(json.dumps({"prior": prior.fingerprint, "look": asdict(ROBOT), **size.pace, **size.sampled}))
    own = {"guidance": 9.0, "strength": None, "protocol": {**ours, "form": bench.adaptations[IN_DOMAIN].form()}}
    path.write_text(json.dumps({IN_DOMAIN: own}))
    assert chosen(path, prior, size)[IN_DOMAIN].guidance == 9.0
    own["protocol"]["look"] = {**ours["look"], "hue": 12.0}
    path.write_text(json.dumps({IN_DOMAIN: own}))
    with pytest.raises(ValueError, match="holds no choice for this"):
        chosen(path, prior, size)


def test_what_was_trained_by_another_rate_is_not_taken_for_this(tmp_path: Path) -> None:
    bench = Bench(tabletop.prior(), SCALES["smoke"], tmp_path, 0.0, tmp_path, tmp_path)
    folder = bench.folder("in-domain", 0)
    folder.mkdir(parents=True)
    training = bench.size.trainings["in-domain"]
    facts = {
        **training.how(bench.prior),
        "steps": bench.steps(training, 0.1),
        "teraflops a step": 0.1,
        "learning_rate": 0.5,
    }
    (folder / "config.json").write_text(json.dumps({"facts": facts}))
    with pytest.raises(ValueError, match=r"was trained with learning_rate 0.5, not 0.004; move it away"):
        bench.train("in-domain", 0)


def test_the_papers_scale_trains_as_long_as_the_paper_at_its_size(tmp_path: Path) -> None:
    size, prior = SCALES["paper"], tabletop.prior()
    training = size.trainings["in-domain"]
    assert training.learning_rate == 1e-4
    assert (size.batch_size, Bench(prior, size, tmp_path, 0.0, tmp_path, tmp_path).steps(training, 500.0)) == (
        16,
        60_000,
    )
    model = training.made(prior)
    assert 20e6 < sum(value.numel() for value in model.parameters()) < 200e6  # the paper's has 109 million
