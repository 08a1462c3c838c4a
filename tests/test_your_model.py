"""The script of docs/your_model.md runs: a model of diffusers is steered, with its own latents and continuous actions."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from trimtab.core.contracts import Prior
from trimtab.networks import storage

PAGE = Path(__file__).parents[1] / "docs" / "your_model.md"


def test_the_script_runs_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (script,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    torch.manual_seed(0)
    names: dict[str, object] = {}
    exec(compile(script, "your_model.md", "exec"), names)
    first, _ = storage.read(tmp_path / "runs/mine/adapter.safetensors")
    torch.manual_seed(0)  # another model would be another prior
    exec(compile(script, "your_model.md", "exec"), names)
    second, _ = storage.read(tmp_path / "runs/mine/adapter.safetensors")
    torch.testing.assert_close(second, first, rtol=0, atol=0)  # it went on from the end
    frames, plans = names["frames"], names["plans"]
    assert isinstance(names["prior"], Prior)
    assert isinstance(frames, np.ndarray)
    assert isinstance(plans, np.ndarray)
    assert frames.shape == (2, 16, 16, 3)
    assert plans.shape == (2, 3, 4, 16, 16, 3)
    assert np.ptp(frames) > 0
