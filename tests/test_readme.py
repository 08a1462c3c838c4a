"""What the README shows is run, and what it promises of itself holds."""

import re
from pathlib import Path

import numpy as np
import pytest

from trimtab import checkpoints
from trimtab.adapters.avid import AVID
from trimtab.cli import commands
from trimtab.priors import pixel_unet

README = Path(__file__).parents[1] / "README.md"


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prior = pixel_unet.load("procgen")
    checkpoints.save(tmp_path / "runs/demo/avid", AVID(prior, num_actions=15), prior)
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), names)
    frames, plans = names["frames"], names["plans"]
    assert isinstance(frames, np.ndarray)
    assert isinstance(plans, np.ndarray)
    assert frames.shape == (8, 64, 64, 3)
    assert plans.shape == (8, 5, 8, 64, 64, 3)


def test_the_table_of_commands_is_complete() -> None:
    cells = re.findall(r"^\| (`trimtab .*?) \|", README.read_text(), flags=re.MULTILINE)
    named = [name for cell in cells for name in re.findall(r"`trimtab ([a-z0-9-]+)`", cell)]
    assert sorted(named) == sorted(commands())


def test_it_is_short_and_its_links_lead_somewhere() -> None:
    text = README.read_text()
    assert len(text.splitlines()) <= 150
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert target.startswith("https://") or (README.parent / target).exists(), target
