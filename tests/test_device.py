"""Which GPUs the installed PyTorch has code for."""

from cxr_seam.device import is_supported


def test_gpus_and_builds():
    recent = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]
    assert not is_supported((6, 0), recent)  # P100
    assert is_supported((7, 5), recent)  # T4
    assert is_supported((8, 9), recent)  # L4 runs sm_86 code
    assert is_supported((9, 0), ["sm_90a"]) and not is_supported((8, 0), ["sm_86"])
    assert is_supported((6, 0), ["sm_50", "sm_60", "sm_70"])
    assert is_supported((13, 0), recent)  # compiled from the intermediate code
