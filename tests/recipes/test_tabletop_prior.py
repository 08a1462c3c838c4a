"""The text-to-video prior and its card from end to end at toy size; a drawn dot stands for the robot."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trimtab import forecast
from trimtab.data.episodes import Episodes, EpisodeWriter
from trimtab.environments.metaworld import TEXTS
from trimtab.priors import pixel_unet
from trimtab.priors.pixel_unet import PixelUNet, PixelUNetSettings
from trimtab.recipes import tabletop_prior as recipe
from trimtab.recipes import tabletop_prior_card as card
from trimtab.recipes.domains import tabletop
from trimtab.recipes.tabletop_prior import TABLETOP, tabletop_prior
from trimtab.recipes.tabletop_prior_card import opposite, tabletop_prior_card
from trimtab.training import Budget

SMALL = PixelUNetSettings(
    **{**vars(TABLETOP), "sizes": {**TABLETOP.sizes, "widths": (32,), "depths": (1,), "patch": 8}}
)
TASKS = ("door-close", "door-open", "soccer")


def dots(
    *, folder: Path, num_episodes: int = 0, first_look: int = 0, seed: int = 0, tasks: tuple[str, ...] = TASKS
) -> Episodes:
    """Two episodes of each task: a dot that goes right, left, or stays."""
    if not folder.exists():
        with EpisodeWriter(folder, frame_rate=20.0, action_dim=4, provenance={"environment": "dots"}) as writer:
            for number, task in enumerate(tasks * 2):
                frames = np.zeros((12, 64, 64, 3), np.uint8)
                for time, frame in enumerate(frames):
                    x = 30 + (2, -2, 0)[TASKS.index(task)] * time
                    frame[20:28, x : x + 8] = 255
                writer.add_episode(frames, np.zeros((12, 4), np.float32), level=number, task=TEXTS[task])
    return Episodes.open(folder)


def dots_of_two(**settings: Any) -> Episodes:
    """Twice as many without those that stay."""
    return dots(**settings, tasks=TASKS[:2] * 2)


@pytest.fixture(autouse=True)
def _toy_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "TABLETOP", SMALL)
    for name in ("tabletop_episodes", "astray_episodes", "halfway_episodes"):
        monkeypatch.setattr(tabletop, name, dots)
    monkeypatch.setattr(card, "tabletop_episodes", dots)
    monkeypatch.setattr(card, "halfway_episodes", dots_of_two)
    monkeypatch.setattr(forecast, "TRIED", 1)


def test_training_leaves_a_prior_with_a_card(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "Budget", lambda seconds: Budget(steps=8))  # enough to hear words on any machine
    PixelUNet(SMALL).save(first := tmp_path / "first.safetensors")
    run = partial(tabletop_prior, batch_size=2, initial=str(first), datasets=tmp_path, output=tmp_path / "run")
    run(dry_run=True)
    assert "will need" in capsys.readouterr().out
    with pytest.raises(ValueError, match="where this training has"):
        run(initial="procgen")
    run(learning_rate=1e-2)
    prior = pixel_unet.load(tmp_path / "run" / "prior.safetensors")
    assert prior.settings == SMALL
    assert prior.uses == {"context", "text"}
    assert prior.num_context == 1
    assert prior.schedule.level(torch.tensor([prior.schedule.num_levels - 1])).alpha.item() > 0.03
    tabletop_prior_card(
        run=tmp_path / "run", num_clips=6, num_steps=1, matching_steps=2, datasets=tmp_path,
        matcher=tmp_path / "match" / "judge.safetensors",
    )  # fmt: skip
    written = json.loads((tmp_path / "run" / "card" / "tabletop.json").read_text())
    assert written["fingerprint"] == prior.fingerprint
    assert written["evaluation"]["num_texts"] == len(card.WORDS)
    figures = written["evaluation"]["figures"]
    assert all(0 <= figures[name]["mean"] <= 1 for name in figures if name.endswith("_of_two"))
    assert figures["loss_of_other_words"]["mean"] != 0
    text = (tmp_path / "run" / "card" / "tabletop.md").read_text()
    assert prior.fingerprint in text
    assert str(first) in text
    assert (tmp_path / "run" / "card" / "tabletop.png").stat().st_size > 1000


def test_the_card_of_a_prior_that_was_not_trained_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no prior was trained in .*; train one first"):
        tabletop_prior_card(run=tmp_path / "none")


def test_an_opposite_undoes_what_is_asked() -> None:
    tasks = list(TEXTS)
    asked = torch.tensor([tasks.index(task) for task in ("door-open", "handle-press", "door-close")])
    assert [tasks[number] for number in opposite(asked, tasks)] == ["door-close", "handle-pull", "door-open"]
    with pytest.raises(ValueError, match="opposite of hammer"):
        opposite(torch.tensor([tasks.index("hammer")]), tasks)
