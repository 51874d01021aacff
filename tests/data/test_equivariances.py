import math
from dataclasses import replace

import pytest
import torch

from cxr_seam.data.transforms import draw_rotation
from cxr_seam.recipes import SeamStage


def test_rotation_is_uniform_within_the_phases_angle():
    phase = replace(SeamStage(), rotation_degrees=20.0)
    motion = draw_rotation(4000, phase, generator=torch.Generator().manual_seed(0))
    assert motion.degrees.abs().max() <= 20
    assert abs(motion.degrees.mean()) < 1 and motion.degrees.std().item() == pytest.approx(20 / math.sqrt(3), rel=0.05)
