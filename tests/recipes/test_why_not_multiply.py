"""The divergences against closed forms and a way taken step by step, by hand."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from trimtab.adapters.composition import product_of_experts
from trimtab.recipes import why_not_multiply as experiment


@pytest.fixture(scope="module")
def given() -> experiment.Conditioning:
    target, _ = experiment.worlds()
    return experiment.TargetClips(target).batch(np.arange(3)).given


def test_the_target_does_not_differ_from_itself(given: experiment.Conditioning) -> None:
    target, _ = experiment.worlds()
    steps = experiment.sampling.pairs(target.schedule, 100)
    exact = experiment.exact_divergence(target, target, given, steps)
    assert len(exact) == 10
    assert max(exact) < 1e-3  # on the whole way
    assert all(
        0 < value < 0.03 for value in experiment.sampled_divergence(target, target, given, steps, seed=0, num=64)
    )


def test_the_expert_without_actions_believes_the_mean_over_them(given: experiment.Conditioning) -> None:
    target, _ = experiment.worlds()
    told = [
        target.mean_given(experiment.Conditioning(context=given.context, actions=torch.full((3, 3), action)))
        for action in range(3)
    ]
    untold = target.mean_given(given.without("actions"))
    torch.testing.assert_close(torch.stack(told).mean(0), untold.expand_as(told[0]), atol=1e-5, rtol=0)


def test_the_priors_divergence_is_the_closed_form(given: experiment.Conditioning) -> None:
    target, prior = experiment.worlds()
    means, spreads = (
        (target.mean_given(given).double(), prior.mean_given(given).double()),
        (target.deviation, prior.deviation),
    )
    total = 0.0
    for sample, frame, row, column in np.ndindex(3, 3, 8, 8):
        ours, theirs = (mean[sample, frame, 0, row, column].item() for mean in means)
        narrow, wide = (spread[frame, 0, row, column].item() for spread in spreads)
        total += math.log(wide / narrow) + (narrow**2 + (ours - theirs) ** 2) / (2 * wide**2) - 0.5
    found = experiment.exact_divergence(prior, target, given, experiment.sampling.pairs(target.schedule, 200))
    assert found[-1] == pytest.approx(total / (3 * 3 * 64), rel=0.01)
    assert found == sorted(found)  # hidden under noise at first


def test_where_a_product_ends_is_found_by_following_one_pixel(given: experiment.Conditioning) -> None:
    """The deterministic sampler of a product, written out for one pixel in numpy, from two starts."""
    target, prior = experiment.worlds()
    place = (1, 2, 0, 3, 4)
    mean, of_prior = target.mean_given(given)[place].item(), prior.mean_given(given)[place].item()
    narrow, wide = target.deviation[place[1:]].item(), prior.deviation[place[1:]].item()
    steps = experiment.sampling.pairs(target.schedule, 100)
    ends = []
    for x in (0.0, 1.0):
        for here, there in steps:
            beliefs = []
            for center, spread in ((of_prior, wide), (mean, narrow)):
                surprise = (x - here.alpha * center) / ((here.alpha * spread) ** 2 + here.sigma**2)
                beliefs.append((center + here.alpha * spread**2 * surprise, here.sigma * surprise))
            clean, noise = (0.7 * first + 0.3 * second for first, second in zip(*beliefs, strict=True))
            x = there.alpha * clean + there.sigma * noise
        ends.append(x)
    sample = experiment.partial(experiment.sampling.ddim, pairs=steps)
    composed = product_of_experts(prior, target, 0.3)
    for start, end in zip((0.0, 1.0), ends, strict=True):
        found = sample(composed, torch.full((3, *experiment.SHAPE), start), given)
        assert found[place].item() == pytest.approx(end, rel=1e-3, abs=1e-4)


def test_the_command_writes_what_it_found(tmp_path: Path) -> None:
    experiment.why_not_multiply(weights=(0.0, 0.5, 1.0), minutes=0.03, num_steps=100, num_samples=4, output=tmp_path)
    found = json.loads((tmp_path / "why_not_multiply.json").read_text())
    product = found["divergence"]["product of experts"]
    assert product[0] > 0.3
    assert found["best weight"]["product of experts"] == 1.0  # which is the expert alone
    ways = found["divergence on the way"]
    assert set(ways) >= {"prior alone", "product of experts, weight 0.5", "AVID, trained", experiment.FLOOR}
    for weight in (0.5, 0.8):  # whatever the machine's speed: an expert that had to learn is worse than the exact one
        exact, learned = (
            ways[f"product {of}, weight {weight:g}"][-1] for of in ("of experts", "with a trained expert")
        )
        assert learned > exact
    assert {len(way) for way in ways.values()} == {10} == {len(found["noise"])}
    assert found["noise"][-1] == 0
    assert ways["prior alone"][-1] == product[0]
    assert ways["AVID, trained"][-1] == found["divergence"]["AVID, trained"][0]
    assert (tmp_path / "why_not_multiply.png").stat().st_size > 10_000


def test_a_dry_run_trains_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    experiment.why_not_multiply(minutes=1.0, dry_run=True, output=tmp_path)
    assert capsys.readouterr().out.count("will need: memory") == 2
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["forecast.json"] * 2
