"""The page of planning: rates, differences and blame are those of the cells, and cells of two protocols are refused."""

from pathlib import Path
from typing import Any

import pytest
import torch

from trimtab.metrics.intervals import Interval
from trimtab.networks import storage
from trimtab.recipes.planning.adaptations import PRIOR
from trimtab.recipes.planning.report import strips_of, write_report
from trimtab.recipes.planning.results import EXPERT, TRUE_VIDEO, Results, rate_of
from trimtab.recipes.planning.tables import ahead_table, blame_table, chance, findings, share_table, success_table

STARTS = [100, 101, 102, 103]


def cell(method: str, task: str, success: list[bool], *, seed: int = 0, share: float = 0.0) -> dict[str, Any]:
    return {
        "task": task,
        "method": method,
        "seed": seed,
        "random_share": share,
        "novel": task == "door-close",
        "starts": STARTS,
        "success": success,
        "protocol": {"prior": "1234", "horizon": 4, "own": {"guidance": len(method), "chosen": not seed}},
        "versions": {"trimtab": "0"},
    }


YES, NO = [True] * 4, [False] * 4
CELLS = [
    cell(EXPERT, "door-close", [True, True, True, False]),
    cell(EXPERT, "window-open", YES),
    cell(TRUE_VIDEO, "door-close", [True, True, False, False]),
    cell(TRUE_VIDEO, "window-open", YES),
    cell("in-domain only", "door-close", NO, seed=0),
    cell("in-domain only", "door-close", [True, False, False, False], seed=1),
    cell("in-domain only", "window-open", YES),
    cell("inverse probabilistic adaptation", "door-close", [True, True, False, False], seed=0),
    cell("inverse probabilistic adaptation", "door-close", [True, True, True, False], seed=1),
    cell("inverse probabilistic adaptation", "door-close", [True, False, False, False], share=0.7),
]


def test_rates_and_differences_are_those_of_the_cells() -> None:
    results = Results(CELLS)
    assert results.tasks == ["window-open", "door-close"]  # seen ones first
    rate = results.rate(method="in-domain only", novel=True)
    assert isinstance(rate, Interval)
    assert rate.mean == 1 / 8
    assert rate.num_clusters == 4  # start states, not plans
    above = results.against("in-domain only", "inverse probabilistic adaptation", novel=True, random_share=0.0)
    assert isinstance(above, Interval)
    assert above.mean == pytest.approx(5 / 8 - 1 / 8)
    assert results.against("in-domain only", "in-domain only", novel=True) == ""
    seeds = results.over_seeds(method="inverse probabilistic adaptation", novel=True, random_share=0.0)
    assert isinstance(seeds, Interval)
    assert seeds.mean == pytest.approx(5 / 8)
    assert seeds.high - seeds.mean == pytest.approx(12.706 * 0.25 / 2, rel=1e-3)  # Student's t for two seeds
    assert results.over_seeds(method=EXPERT, novel=True) == ""


def test_the_best_is_ahead_by_start_states_and_over_seeds() -> None:
    header, (best, other) = ahead_table(Results(CELLS))
    assert header[1:] == ["over seeds", "behind the best, by starts", "behind the best, over seeds"]
    assert best[0] == "inverse probabilistic adaptation"
    assert best[2:] == ["", ""]
    assert other[0] == "in-domain only"
    assert [some.mean for some in other[1:]] == pytest.approx([1 / 8, 1 / 2, 1 / 2])
    assert (other[3].low, other[3].high) == pytest.approx((0.5, 0.5))  # 2/4 - 0, and 3/4 - 1/4


def test_a_method_is_compared_at_the_seeds_that_both_have() -> None:
    late = cell("AVID", "door-close", [True, True, True, False], seed=1)
    results = Results([*CELLS, late])
    above = results.against("inverse probabilistic adaptation", "AVID", novel=True, random_share=0.0)
    assert isinstance(above, Interval)
    assert above.mean == 0  # 3/4 less 3/4 of seed 1, and not less 5/8 of both
    truth = results.against("in-domain only", EXPERT, novel=True, random_share=0.0)
    assert isinstance(truth, Interval)
    assert truth.mean == pytest.approx(3 / 4 - 1 / 8)  # the expert depends on no seed


def test_tasks_that_a_seed_was_not_measured_at_are_left_out_on_both_sides() -> None:
    def some(name: str, task: str, seed: int, success: list[bool]) -> dict[str, Any]:
        return {**cell(name, task, success, seed=seed), "novel": True}

    ours = [some("AVID", task, seed, [task == "door-close"] * 4) for task in ("door-close", "hard") for seed in (0, 1)]
    theirs = [{**one, "method": "in-domain only"} for one in ours]
    for one in theirs:
        one["protocol"] = {**one["protocol"], "own": {"guidance": 1.0}}
    results = Results([*ours, *theirs[:3]])  # the hard task with one of two seeds
    above = results.against("in-domain only", "AVID", novel=True, random_share=0.0)
    assert isinstance(above, Interval)
    assert (above.mean, above.low, above.high) == (0, 0, 0)
    over = results.over_seeds("AVID", "in-domain only", novel=True, random_share=0.0)
    assert isinstance(over, Interval)
    assert over.mean == 0
    alone = results.over_seeds("in-domain only", novel=True, random_share=0.0)
    assert isinstance(alone, Interval)
    assert alone.mean == 1  # of the easy task, which both seeds have


def test_a_lead_that_is_none_is_said_to_be_none() -> None:
    behind = [cell("AVID", "door-close", [True, True, True, True], seed=2), cell("AVID", "door-close", NO, seed=0)]
    mine = cell("inverse probabilistic adaptation", "door-close", [True] * 3 + [False], seed=0)
    said = findings(Results([*behind, mine]))
    assert said[1].endswith("by 0.75 [0.25, 1].")  # at seed 0, and not 3/4 less 1/2
    worse = [cell("AVID", "door-close", YES, seed=2), cell("AVID", "door-close", [True] * 3 + [False], seed=0)]
    said = findings(Results([*worse, cell("in-domain only", "door-close", YES, seed=0), CELLS[5]]))
    assert "AVID" in said[0]
    assert ", which is within the interval" in said[1]
    assert chance(Interval(-0.5, -0.75, -0.25, 4, 4)) == ", so that it is behind with the seeds of both"


def test_without_a_place_that_all_have_each_share_has_its_own() -> None:
    name = "inverse probabilistic adaptation"
    cells = [
        cell(name, "door-close", YES), cell(name, "door-close", NO, share=0.3),
        cell("AVID", "door-close", YES), cell("AVID", "door-close", NO, share=0.7), cell(PRIOR, "door-close", YES),
    ]  # fmt: skip
    _, rows = share_table(Results(cells))
    found = {row[0]: [one if isinstance(one, str) else one.mean for one in row[1:]] for row in rows}
    assert found == {name: [1, 0, ""], "AVID": [1, "", 0], PRIOR: [1, 1, 1]}


def test_easy_tasks_alone_make_no_method_the_best() -> None:
    hard = [{**cell(name, "window-close", NO), "novel": True} for name in ("in-domain only", "AVID")]
    easy = cell("inverse probabilistic adaptation", "door-close", YES)
    done = cell("AVID", "door-close", [True, False, False, False])
    results = Results([easy, done, CELLS[4], *hard])
    assert results.group("inverse probabilistic adaptation", 0.0, novel=True) == ""
    said = findings(results)
    assert said[0].startswith("Most success on novel tasks: AVID, 0.125 [")
    assert "Measured at some of the novel tasks only, and not compared there: inverse probabilistic adaptation." in said
    whole = Results([*CELLS[4:6], hard[0]]).group("in-domain only", 0.0, novel=True)
    assert isinstance(whole, Interval)
    assert (whole.mean, whole.num_clips) == (0, 8)  # of the seed that has both tasks


def test_what_is_kept_has_an_interval_of_its_own() -> None:
    name = "inverse probabilistic adaptation"
    kept = Results([cell(name, "door-close", YES), cell(name, "door-close", [True] * 3 + [False], share=0.7)])
    part = kept.kept(name, 0.7)
    assert isinstance(part, Interval)
    assert part.mean == 3 / 4
    assert part.low < 0.7 < part.high
    said = next(one for one in findings(kept) if "random actions" in one)
    assert said.endswith("of it, at least the 70% asked for, which is within the interval.")
    assert "keeps 75% [" in said


def test_hours_count_a_training_once_however_many_cells_it_has() -> None:
    def trained(seconds: float, task: str, seed: int, share: float = 0.0) -> dict[str, Any]:
        facts = {"steps": 10, "seconds": seconds}
        return {**cell("in-domain only", task, YES, seed=seed, share=share), "training": facts}

    cells = [*CELLS[:4], trained(3600.0, "door-close", 2), trained(3600.0, "window-open", 2)]
    results = Results([*cells, trained(3600.0, "door-close", 3), trained(900.0, "door-close", 2, 0.7)])
    assert (results.hours(0.0), results.hours(0.7)) == (2.0, 0.25)
    assert "The trainings took 2.0 hours, one after another." in findings(results)


def test_it_is_said_whether_what_was_hoped_for_came_true() -> None:
    ratio = {"low": 1.0, "high": 2.0, "num_clips": 8, "num_clusters": 4}
    losses = [
        {
            **CELLS[4],
            "seed": seed,
            **{key: {"mean": mean, **ratio} for key in ("the prior", "in-domain", "the prior / in-domain")},
        }
        for seed, mean in ((0, 1.5), (1, 1.2))
    ]
    best, ahead, bar, kept, loss = findings(Results(CELLS, (), losses))
    assert best.startswith("Most success on novel tasks: inverse probabilistic adaptation, 0.625 [")
    assert ahead.startswith("It is ahead of in-domain only, 0.125 [")
    assert "], by 0.5 [" in ahead
    assert ahead.endswith("; over training seeds by 0.5 [0.5, 0.5].")
    assert bar == "inverse probabilistic adaptation succeeds from more than 50% of the start states of door-close."
    assert kept.endswith("keeps 50% of it, less than the 70% asked for.")  # 1 of 4, of seed 0, where it were 2
    assert loss.endswith("is 1.50, 1.20 times the in-domain model's, less than 1.3, so that there is little to adapt.")
    (*_, loss) = findings(Results(CELLS, (), losses[:1]))
    assert loss.endswith("is 1.50 times the in-domain model's, enough to adapt.")


def test_a_failure_is_blamed_on_the_first_part_whose_swap_restores_success() -> None:
    header, rows = blame_table(Results(CELLS))
    found = {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in rows}
    assert found["in-domain only"] == {
        "failed": 7,
        "the video": 3,
        "the inverse dynamics": 2,
        "the expert": 2,
        "not known": 0,
    }
    _, rows = blame_table(Results([cell(EXPERT, "door-close", NO), *CELLS[1:]]))
    assert rows[0][1:] == [7, 3, 0, 4, 0]  # the true video is swapped in first
    without = [some for some in CELLS if some["method"] != TRUE_VIDEO]
    header, rows = blame_table(Results(without))
    assert dict(zip(header, rows[0], strict=True))["not known"] == 7


def test_cells_of_two_protocols_are_refused() -> None:
    other = cell("vanilla prior", "door-close", NO)
    other["protocol"] = {**other["protocol"], "horizon": 8}
    with pytest.raises(ValueError, match=r"differ in horizon \(8, not 4\)"):
        Results([*CELLS, other])
    other["protocol"] = {**other["protocol"], "horizon": 4, "reader": "abcd"}
    with pytest.raises(ValueError, match="differ in reader"):
        Results([*CELLS, other])
    again = cell("in-domain only", "window-open", YES, seed=1)
    again["protocol"] = {**again["protocol"], "own": {"guidance": 7.5, "chosen": True}}
    with pytest.raises(ValueError, match=r"in-domain only, seed 1, window-open .* differ in guidance"):
        Results([*CELLS, again])
    again["random_share"] = 0.7  # for which it may be chosen anew
    Results([*CELLS, again])
    with pytest.raises(ValueError, match="no finished cell"):
        Results([])


def test_cells_of_other_start_states_are_refused() -> None:
    other = {**cell("vanilla prior", "door-close", NO[:2]), "starts": STARTS[:2]}
    with pytest.raises(ValueError, match=r"differ in start states \('2 from 100', not '4 from 100'\)"):
        Results([*CELLS, other])


def test_shares_are_compared_where_all_were_measured_alone() -> None:
    name = "inverse probabilistic adaptation"
    alone = [cell(name, "door-close", YES, share=0.7)]
    assert not any("random actions" in said for said in findings(Results(alone)))  # beside nothing
    hard = {**cell(name, "window-close", NO), "novel": True}
    kept = next(said for said in findings(Results([*CELLS, hard])) if "random actions" in said)
    assert "keeps 50% of it" in kept  # not of the task that was done by the experts' demonstrations alone


def test_pictures_of_what_was_never_finished_are_left_out(tmp_path: Path) -> None:
    frames = torch.randint(256, (5, 16, 16, 3), dtype=torch.uint8)
    for method in ("AVID", "in-domain only"):
        facts = {"task": "door-close", "method": method, "seed": 0, "random_share": 0.0}
        path = tmp_path / f"door-close--{method}--0--0.safetensors"
        storage.write(path, {"executed 0": frames, "imagined 0": frames.flip(0)}, facts)
    for done, said in ((True, "done"), (False, "not done")):
        cells = [{**one, "success": [done, not done, done, done]} for one in CELLS]
        found = strips_of(Results(cells), "door-close", tmp_path)
        assert list(found) == ["in-domain only, imagined", f"in-domain only, executed: {said}"]


def test_the_page_shows_what_was_imagined_above_what_happened(tmp_path: Path) -> None:
    frames = torch.randint(256, (5, 16, 16, 3), dtype=torch.uint8)
    facts = {"task": "door-close", "method": "in-domain only", "seed": 0, "random_share": 0.0}
    pictures = {"executed 0": frames, "imagined 0": frames.flip(0)}
    storage.write(tmp_path / "pictures" / "door-close--in-domain-only--0--0.safetensors", pictures, facts)
    loss = {"mean": 1.5, "low": 1.25, "high": 1.75, "num_clips": 8, "num_clusters": 4}
    figures = dict.fromkeys(("the prior", "in-domain", "the prior / in-domain"), loss)
    losses = [{**CELLS[4], **figures}]
    videos = [
        {**CELLS[4], "seed": seed, "FVD with given frames": {**loss, "mean": mean}}
        for seed, mean in ((0, 4.0), (1, 5.0))
    ]
    results = Results([*CELLS, cell(PRIOR, "door-close", NO)], videos, losses)
    page = write_report(tmp_path / "report.html", results, pictures=tmp_path / "pictures").read_text()
    assert page.index("in-domain only, imagined") < page.index("in-domain only, executed")
    assert (
        'aria-label="success against share of random actions: inverse probabilistic adaptation, vanilla prior"' in page
    )
    header, rows = success_table(results)
    text = (tmp_path / "table.md").read_text()
    assert (tmp_path / "door-close.png").stat().st_size > 1000
    table = text.split("\n\n")[1].splitlines()
    assert len(table) == 2 + len(rows)
    assert table[0].count("|") == len(header) + 1
    assert "0.625 [" in table[2 + [row[0] for row in rows].index("inverse probabilistic adaptation")]
    assert "4.5 [" in table[2 + [row[0] for row in rows].index("in-domain only")]  # both seeds
    assert "| 0 | 1.5 [1.25, 1.75] | 1.5 [1.25, 1.75] | 1.5 [1.25, 1.75] |" in text
    assert "What failed" in text
    _, rows = share_table(results)
    assert [row[0] for row in rows] == ["inverse probabilistic adaptation", PRIOR]
    assert rows[1][1] == rows[1][2]  # it saw no demonstrations
    assert [rate.mean for rate in rows[0][1:]] == [2 / 4, 1 / 4]  # of the one seed that has both shares


def test_a_single_start_has_a_share_and_no_interval() -> None:
    assert rate_of(torch.tensor([1.0, 0.0]), torch.tensor([5, 5])) == "50% of one start"
    assert rate_of(torch.zeros(0), torch.zeros(0)) == ""
