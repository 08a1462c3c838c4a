"""How what MuJoCo draws becomes a frame."""

import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import block_reduce

from trimtab.environments._mujoco import SAMPLES, pixels
from trimtab.environments.metaworld import MetaWorld


def test_a_pixel_is_the_rounded_mean_of_what_is_drawn_in_it() -> None:
    drawn = np.random.default_rng(0).integers(0, 256, (4 * SAMPLES, 2 * SAMPLES, 3), dtype=np.uint8)
    found = pixels(drawn)
    assert found.dtype == np.uint8
    assert np.array_equal(found, np.floor(block_reduce(drawn.astype(float), (SAMPLES, SAMPLES, 1), np.mean) + 0.5))


@pytest.mark.slow  # and needs libEGL, which not every machine has
def test_the_arm_has_no_holes() -> None:
    environment = MetaWorld("reach")
    environment.reset(seed=0)
    copy = environment._copies[0]
    copy.view.renderer.enable_segmentation_rendering()
    copy.view.renderer.update_scene(copy.view.data, copy.view.camera)
    drawn, model = copy.view.renderer.render()[..., 0], copy.simulator.model
    bodies = [model.body(f"right_l{number}").id for number in range(7)]
    arm = (drawn >= 0) & np.isin(model.geom_bodyid[drawn.clip(0)], bodies)
    environment.close()
    assert arm.mean() > 0.02
    assert ndimage.label(~arm)[1] <= 2  # what is left of it, and right of it
