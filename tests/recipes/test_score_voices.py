"""Voices left out: the table says what the methods do; figures, cells and bars; and once from end to end at toy size."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tiny import tabletop
from trimtab.adapters.from_scratch import FromScratch
from trimtab.control.inverse_dynamics import InverseDynamics
from trimtab.core.values import Clip, Conditioning
from trimtab.networks.encoders import MiniLM
from trimtab.recipes._held import Held
from trimtab.recipes.planning import bench as planning
from trimtab.recipes.planning import continuations
from trimtab.recipes.planning.adaptations import ADAPTATIONS, IN_DOMAIN, INVERSE, PROBABILISTIC
from trimtab.recipes.planning.figures import bars, keep, kept, likeness, share, table
from trimtab.recipes.planning.scales import Scale
from trimtab.recipes.record_metaworld import metaworld_episodes
from trimtab.recipes.score_voices import PARTS, composed, score_voices, weights_of_voices


def asked(num: int) -> Conditioning:
    return Conditioning(context=torch.rand(num, 1, 3, 64, 64) * 2 - 1, text=torch.randn(num, 24, MiniLM.dim))


def test_the_table_of_weights_is_what_the_methods_do() -> None:
    prior = tabletop.prior()
    trained = FromScratch(prior, text_dim=MiniLM.dim, patch=8).eval()
    for parameter in trained.parameters():  # what begins at zero would say nothing
        torch.nn.init.normal_(parameter, std=0.05)
    names = {
        INVERSE: INVERSE,
        PROBABILISTIC: PROBABILISTIC,
        "prior, guided": "vanilla prior",
        "in-domain, guided": IN_DOMAIN,
    }
    given, noisy, level = asked(2), torch.randn(2, 4, 3, 64, 64), prior.schedule.level(torch.tensor([200, 800]))
    for ours, theirs in names.items():
        method = ADAPTATIONS[theirs]
        expected = method.denoiser(prior, trained).bind(given)(noisy, level)
        found = composed(prior, trained, weights_of_voices()[ours]).bind(given)(noisy, level)
        torch.testing.assert_close(found.clean, expected.clean, atol=1e-4, rtol=1e-4)
        assert found.weights_sum_to_one


def test_a_voice_alone_is_heard_alone() -> None:
    weights = weights_of_voices()
    for number, name in enumerate(PARTS):
        assert weights[name] == tuple(float(other == number) for other in range(4))
    prior = tabletop.prior()
    given, noisy, level = asked(1), torch.randn(1, 4, 3, 64, 64), prior.schedule.level(torch.tensor([500]))
    for name, heard in (("prior, untold", given.without("text")), ("prior, told", given)):
        voices = composed(prior, prior, weights[name])
        torch.testing.assert_close(voices.bind(given)(noisy, level).tensor, prior.bind(heard)(noisy, level).tensor)
    assert "text" not in composed(prior, prior, weights["prior, untold"]).uses
    with pytest.raises(ValueError, match="zip"):
        composed(prior, prior, (1.0, 1.0))


def test_a_set_is_at_no_distance_from_itself_and_small_ones_are_not_compared() -> None:
    video, context = torch.rand(24, 2, 3, 64, 64) * 2 - 1, torch.rand(24, 1, 3, 64, 64) * 2 - 1

    def held(num: int) -> Held:
        given = Conditioning(context=context[:num], text=torch.ones(num, 1, 1))
        return Held(np.arange(num), Clip(video[:num], given), context[:num], torch.zeros(num, 2, 4), torch.arange(num))

    def features() -> object:
        return lambda video, context: video.flatten(1)[:, :5] + context.flatten(1)[:, :5]

    figures = likeness(video, held(24), features)
    assert figures["LPIPS"].mean == pytest.approx(0, abs=1e-6)
    assert figures["FVD with given frames"].mean == pytest.approx(0, abs=1e-6)
    assert likeness(-video, held(24), features)["FVD with given frames"].mean > 0.1
    assert list(likeness(video[:19], held(19), features)) == ["LPIPS"]


def test_shares_are_kept_and_drawn(tmp_path: Path) -> None:
    half = share(torch.tensor([True, False, True, False]))
    assert (half.mean, half.num_clusters) == (0.5, 4)
    assert 0 <= half.low < 0.5 < half.high <= 1
    assert share(torch.tensor([True, True, False, False]), torch.tensor([0, 0, 1, 1])).num_clusters == 2
    keep(tmp_path / "cell.json", {"success": half}, {"prior": "1", "reader": "2"})
    assert kept(tmp_path / "cell.json", {"prior": "1", "reader": "2"}) == {"success": half}
    with pytest.raises(ValueError, match=r"differ in reader \('2', not '3'\)"):
        kept(tmp_path / "cell.json", {"prior": "1", "reader": "3"})
    bars({"one": {"success": half, "FVD": half}, "two": {"success": half}}, tmp_path / "picture.png")
    assert Image.open(tmp_path / "picture.png").width > 500
    rows = table({"one": {"success": half, "FVD": half}, "two": {"success": half}})
    assert [column.header for column in rows.columns] == ["", "success", "FVD"]
    assert [list(column.cells) for column in rows.columns[1:]] == [[str(half)] * 2, [str(half), ""]]


@pytest.mark.slow
def test_voices_plan_and_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tabletop.prior().save(tmp_path / "prior.safetensors")
    InverseDynamics(width=4).save(tmp_path / "reader.safetensors")
    few = metaworld_episodes(
        tasks=("drawer-close",), num_episodes=3, action_repeat=4, max_episode_steps=50, output=tmp_path / "few"
    )
    monkeypatch.setattr(planning, "demonstrations", lambda share, datasets, **pace: few)
    monkeypatch.setattr(continuations, "metaworld_episodes", lambda **settings: few)
    monkeypatch.setitem(planning.SCALES, "smoke", Scale(teraflops=0.02, num_steps=1))
    for _ in range(2):
        score_voices(
            num_starts=1, num_clips=3, prior=str(tmp_path / "prior.safetensors"), reader=tmp_path / "reader.safetensors",
            datasets=tmp_path, planning=tmp_path / "planning", output=tmp_path / "out",
        )  # fmt: skip
    written = json.loads((tmp_path / "out" / "score_voices.json").read_text())
    assert list(written["figures"]) == list(weights_of_voices())
    assert all(0 <= of["success"]["mean"] <= 1 < 1 + of["LPIPS"]["mean"] for of in written["figures"].values())
    assert (tmp_path / "out" / "score_voices.png").stat().st_size > 1000
