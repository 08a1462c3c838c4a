"""What stands beside a module follows it to another device, of which torch's "meta" is one that every machine has."""

from typing import Any

import pytest
import torch

from trimtab.adapters.avid import AVID
from trimtab.adapters.controlnet import ControlNet
from trimtab.core.values import Clip, Conditioning
from trimtab.priors.pixel_unet import PixelUNet, PixelUNetSettings
from trimtab.priors.remembering import Remembering
from trimtab.recipes.procgen_prior import frames_task

SIZES = {"widths": (32, 32), "depths": (1, 1)}

pytestmark = pytest.mark.usefixtures("exact_products", "without_shape_types")


@pytest.mark.parametrize(
    "build",
    [
        lambda prior: AVID(prior, num_actions=3, **SIZES),
        lambda prior: AVID(Remembering(prior, 2), num_actions=3, **SIZES),
        lambda prior: ControlNet(prior, num_actions=3),
    ],
)
def test_a_training_step_moves_whole_to_another_device(build: Any) -> None:
    """Nothing that a loss asks stays behind, where every operation on two devices would be an error."""
    prior = PixelUNet(PixelUNetSettings(sizes=SIZES, num_frames=3, frame_shape=(3, 32, 32))).frozen()
    task = frames_task(build(prior), prior.schedule, seed=0)
    given = Conditioning(context=torch.rand(2, 2, 3, 32, 32), actions=torch.ones(2, 3, dtype=torch.long))
    clip = Clip(torch.rand(2, 3, 3, 32, 32), given)
    names = {name for name, _ in task.named_parameters()}
    assert task(clip, step=0, samples=[0, 1]).isfinite().all()
    task.to("meta")
    assert {value.device.type for value in prior.parameters()} == {"meta"}
    assert {value.device.type for loss in task.companions[:2] for value in loss.buffers()} == {"meta"}
    assert {name for name, _ in task.named_parameters()} == names  # which the companions are none of
    if not isinstance(task.denoiser.companions[0], Remembering):  # which looks at every value
        loss = task(clip.to("meta"), step=0, samples=[0, 1])
        loss.mean().backward()
        assert loss.device.type == "meta"
