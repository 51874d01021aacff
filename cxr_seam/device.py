"""Select the device and its precision, and recognise a GPU whose memory is full."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import torch

from . import __version__
from .errors import InputError


@dataclass(frozen=True)
class Hardware:
    """The device of this machine and the fastest precision that it supports.

    Attributes:
        device: "cuda" or "cpu".
        mixed_precision: "bf16" if the GPU computes it natively, "fp16" on other GPUs (T4), "no" on the CPU.
        name: of the device, for messages.
    """

    device: str
    mixed_precision: str
    name: str


def is_supported(capability: tuple[int, int], architectures: list[str]) -> bool:
    """Return whether a PyTorch build for `architectures` ("sm_75", "compute_90", ...) runs on a GPU.

    Binary code (sm_XY) runs on GPUs of the same major version and at least that minor version; intermediate code
    (compute_XY) is compiled for any GPU of at least that version.
    """
    major, minor = capability
    for architecture in architectures:
        kind, _, digits = architecture.rstrip("af").partition("_")
        built_major, built_minor = int(digits[:-1]), int(digits[-1])
        if kind == "sm" and built_major == major and built_minor <= minor:
            return True
        if kind == "compute" and (built_major, built_minor) <= (major, minor):
            return True
    return False


def select_device() -> Hardware:
    """Select the GPU if there is one, else the CPU.

    Raises:
        InputError: the installed PyTorch has no code for the GPU, such as PyTorch 2.8 for a P100.
            `torch.cuda.is_available()` is True then, and the first operation fails.
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


OOM_ADVICE = "close other programs that use it, or choose a smaller model or image size"


def is_oom(error: RuntimeError) -> bool:
    """Return whether the error means that a GPU's memory is full; cuBLAS, cuDNN and the driver have their own words."""
    words = ("CUDA out of memory", "CUDA error: out of memory", "_STATUS_ALLOC_FAILED")
    return isinstance(error, torch.cuda.OutOfMemoryError) or any(word in str(error) for word in words)


@contextmanager
def oom_as_input_error() -> Iterator[None]:
    """Raise InputError with advice in place of PyTorch's error if the GPU's memory is full."""
    try:
        yield
    except RuntimeError as error:
        if not is_oom(error):
            raise
        raise InputError(f"the GPU's memory is too small for this training ({error}); {OOM_ADVICE}") from error


PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "scipy",
    "pandas",
    "opencv-python",
    "scikit-learn",
    "safetensors",
)
"""Packages that results depend on."""


def installed_versions() -> dict[str, str | None]:
    """Return the versions of this program, of Python and of `PACKAGES` (None: not installed), and the device."""
    versions: dict[str, str | None] = {"cxr_seam": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    gpu = torch.cuda.is_available()
    return versions | {"device": torch.cuda.get_device_name() if gpu else f"CPU ({platform.machine()})"}
