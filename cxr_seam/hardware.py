"""Which device to use, and plain words where the installed PyTorch cannot use the one there is."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .errors import InputError


@dataclass(frozen=True)
class Hardware:
    """The device of this machine and the precision that pays on it.

    Attributes:
        device: "cuda" or "cpu".
        mixed_precision: "bf16" where the card computes it natively, "fp16" on other cards (T4), "no" on the CPU.
        name: for people.
    """

    device: str
    mixed_precision: str
    name: str


def is_supported(capability: tuple[int, int], architectures: list[str]) -> bool:
    """Whether a build with these architectures ("sm_75", "compute_90", ...) runs on a card of this capability.

    Binary code (sm_XY) runs on cards of the same major version and at least that minor one; intermediate code
    (compute_XY) is compiled for any card of at least that version.
    """
    major, minor = capability
    for architecture in architectures:
        kind, _, digits = architecture.rstrip("af").partition("_")
        own_major, own_minor = int(digits[:-1]), int(digits[-1])
        if kind == "sm" and own_major == major and own_minor <= minor:
            return True
        if kind == "compute" and (own_major, own_minor) <= (major, minor):
            return True
    return False


def find_hardware() -> Hardware:
    """Choose the device before anything heavy starts.

    Raises:
        InputError: there is a card that the installed PyTorch has no code for, such as a P100 with PyTorch 2.8 or
            later. `torch.cuda.is_available()` is True there and the first operation fails.
    """
    if not torch.cuda.is_available():
        return Hardware("cpu", "no", "the CPU (no GPU found; on Colab choose Runtime > Change runtime type > T4 GPU)")
    name = torch.cuda.get_device_name()
    capability = torch.cuda.get_device_capability()
    if not is_supported(capability, torch.cuda.get_arch_list()):
        raise InputError(
            f"the installed PyTorch {torch.__version__} has no code for this GPU ({name}, compute capability "
            f"{capability[0]}.{capability[1]}); on Colab choose Runtime > Change runtime type and take a T4, or keep "
            "the P100 and choose the runtime version 2025.07, whose PyTorch 2.6 still supports it"
        )
    native_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return Hardware("cuda", "bf16" if native_bf16 else "fp16", name)
