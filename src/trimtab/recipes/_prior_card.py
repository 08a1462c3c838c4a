"""What the cards of priors share: whose card it is; measures nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trimtab.priors import pixel_unet
from trimtab.priors.pixel_unet import PixelUNet


def of_run(prior: str | None, run: Path) -> tuple[PixelUNet, dict[str, Any]]:
    """The prior that was trained in a run folder, or another one by name or path, and the settings of the run.

    Raises ValueError if nothing was trained there.
    """
    if not (run / "settings.json").is_file():
        raise ValueError(f"no prior was trained in {run}; train one first, or name its run folder by --run")
    settings: dict[str, Any] = json.loads((run / "settings.json").read_text())["settings"]
    return pixel_unet.load(prior or str(run / "prior.safetensors")), settings
