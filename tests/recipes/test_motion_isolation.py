"""Motion isolation: maps of change and their correlation against closed forms; and once from end to end at toy size."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tiny import tabletop
from trimtab import forecast
from trimtab.data.clips import Clips
from trimtab.recipes._held import Held
from trimtab.recipes.domains.metaworld import encoder
from trimtab.recipes.motion_isolation import (
    OF_CLASS,
    WITH,
    WITHOUT,
    changes,
    correlation,
    motion,
    motion_isolation,
    retold,
)
from trimtab.recipes.planning import adaptations, continuations
from trimtab.recipes.planning import bench as planning
from trimtab.recipes.planning.adaptations import PRIOR
from trimtab.recipes.planning.scales import Scale


@pytest.fixture
def held(tmp_path: Path) -> Held:
    clips = Clips(tabletop.dots(tmp_path / "dots"), 1, 8, encode=encoder())
    return Held.of(clips, clips.evenly(4, per_level=4))


def test_a_step_changes_where_it_happens(held: Held) -> None:
    found = changes(held.clip.video, held.context)
    assert found.shape == (4, 8, 64, 64)
    # a bright dot of 8 x 8 that goes by 2 leaves 2 columns dark and lights 2, each by 2
    torch.testing.assert_close(found.sum((2, 3)), torch.full((4, 8), 2 * 8 * 2 * 2.0))


def test_correlation_is_numpys_and_zero_for_what_stands_still() -> None:
    first, second = torch.rand(3, 2, 4, 4), torch.rand(3, 2, 4, 4)
    expected = [np.corrcoef(a.flatten().numpy(), b.flatten().numpy())[0, 1] for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(correlation(first, second).numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(correlation(first, 2 * first + 1).numpy(), 1.0, atol=1e-6)
    assert (correlation(first, torch.ones_like(second)) == 0).all()


def test_motion_is_kept_where_only_looks_change(held: Held) -> None:
    real = held.clip.video
    paler = Held(held.indices, held.clip, held.context / 2, held.actions, held.levels)
    same, faded = motion(real, real, held), motion(real / 2, real / 2, paler)
    assert same["change / experts'"].mean == pytest.approx(1)
    assert same["correlation with the prior's change"].mean == pytest.approx(1)
    assert same["LPIPS to the prior's clip"].mean == pytest.approx(0, abs=1e-6)
    assert faded["change a frame"].mean == pytest.approx(same["change a frame"].mean / 2)
    still = motion(held.context.expand_as(real).contiguous(), real, held)
    assert still["change a frame"].mean == still["correlation with the prior's change"].mean == 0
    assert still["LPIPS to the prior's clip"].mean > 0


def test_a_word_is_added_to_each_text(held: Held) -> None:
    again = retold(held, tabletop.prior(), "")
    torch.testing.assert_close(again.texts, held.texts)
    named = retold(held, tabletop.prior(), " with a [D] robot arm")
    assert (named.texts != held.texts).flatten(1).any(1).all()
    torch.testing.assert_close(named.clip.video, held.clip.video)


def test_clips_are_compared_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prior = tabletop.prior()
    prior.save(tmp_path / "prior.safetensors")
    few = tabletop.dots(tmp_path / "dots")
    monkeypatch.setattr(forecast, "TRIED", 1)
    monkeypatch.setattr(planning, "demonstrations", lambda share, datasets, **pace: few)
    monkeypatch.setattr(continuations, "metaworld_episodes", lambda **settings: few)
    monkeypatch.setitem(planning.SCALES, "smoke", Scale(teraflops=0.02, num_steps=1, batch_size=2))
    for name in ("NUM_PRESERVED", "NUM_STILLS", "STILL_STEPS"):
        monkeypatch.setattr(adaptations, name, 2)
    motion_isolation(
        num_clips=4, prior=str(tmp_path / "prior.safetensors"), datasets=tmp_path, planning=tmp_path / "planning",
        output=tmp_path / "out",
    )  # fmt: skip
    written = json.loads((tmp_path / "out" / "motion_isolation.json").read_text())
    assert written["naming"] == " with a [D] robot arm"
    figures = written["figures"]
    assert list(figures) == [PRIOR, OF_CLASS[0], WITHOUT, OF_CLASS[1], WITH]
    assert figures[OF_CLASS[1]] not in (figures[WITH], figures[WITHOUT])
    assert figures[PRIOR]["correlation with the prior's change"]["mean"] == pytest.approx(1)
    assert figures[PRIOR]["LPIPS to the prior's clip"]["mean"] == pytest.approx(0, abs=1e-6)
    assert figures[WITH]["LPIPS to the prior's clip"]["mean"] > 0
    assert figures[WITH] != figures[WITHOUT]
    assert (tmp_path / "out" / "motion_isolation.png").stat().st_size > 1000
