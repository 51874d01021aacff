"""Which device to use, and plain words where the installed PyTorch cannot use the one there is."""

from __future__ import annotations

import math
import platform
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TypeVar

import torch
from torch import Tensor

from . import __version__
from .errors import InputError

Result = TypeVar("Result")


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


def select_device() -> Hardware:
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


ADVICE = "close what else uses it, or choose a smaller model or image size"


def is_oom(error: RuntimeError) -> bool:
    """Whether a GPU's memory was too small; cuBLAS, cuDNN and the driver say so in words of their own."""
    words = ("CUDA out of memory", "CUDA error: out of memory", "_STATUS_ALLOC_FAILED")
    return isinstance(error, torch.cuda.OutOfMemoryError) or any(part in str(error) for part in words)


@contextmanager
def oom_as_input_error() -> Iterator[None]:
    """End in a sentence where nothing can be done about a memory that is too small.

    Raises:
        InputError: in place of PyTorch's error.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_oom(error):
            raise
        raise InputError(f"the GPU's memory is too small for this training ({error}); {ADVICE}") from error


class Pieces:
    """In how many pieces a process computes its part of a batch.

    Attributes:
        count: more where memory was too small.
        name: of the recipe, for people.
        processes: that share a batch; several cannot tell one another of a new count.
    """

    def __init__(self, name: str, *, processes: int) -> None:
        """Begin with the part as a whole."""
        self.count, self.name, self.processes = 1, name, processes

    def split(self, images: Tensor, part: slice, *, generator: torch.Generator) -> Iterator[tuple[slice, Tensor]]:
        """The pieces of this process's part of a batch, and the images of each.

        Each piece finds the generator as it was, so that it can draw for the whole batch. A part without films is one
        piece without any.
        """
        state, films = generator.get_state(), len(images)
        pieces = max(1, min(self.count, films))
        bounds = [films * place // pieces for place in range(pieces + 1)]
        for start, stop in zip(bounds, bounds[1:], strict=False):
            generator.set_state(state)
            yield slice(part.start + start, part.start + stop), images[start:stop]

    def until_they_fit(self, work: Callable[[], Result], *, films: int, generator: torch.Generator) -> Result:
        """Do `work`, anew in smaller pieces where memory runs out.

        Args:
            work: splits what it computes; leaves no trace where it fails.
            films: of this process's part of a batch.
            generator: is set back before each new try.

        Raises:
            InputError: a single film is too much, or several processes share the work.
        """
        state = generator.get_state()
        while True:
            try:
                return work()
            except RuntimeError as error:  # the exception holds the frames that hold the memory: it ends here
                if not is_oom(error):
                    raise
            generator.set_state(state)
            self._halve(films)

    def _halve(self, films: int) -> None:
        """Compute in pieces half as large from now on, `films` being this process's part of a batch."""
        if self.processes > 1:
            raise InputError(
                f"the GPU's memory is too small for {self.name} with {films} films at once, and where several "
                "processes share a batch they cannot change that in mid-run; launch more processes or fewer pixels"
            )
        if self.count >= films:
            raise InputError(f"the GPU's memory is too small for a single film of {self.name}; {ADVICE}")
        torch.cuda.empty_cache()
        self.count *= 2
        warnings.warn(
            f"the GPU's memory is too small for {math.ceil(2 * films / self.count)} films at once; {self.name} goes on "
            f"with {math.ceil(films / self.count)} and accumulates {self.count} times as often, so that the batch and "
            "its class weights stay the recipe's",
            stacklevel=4,
        )


def step(optimiser: torch.optim.Optimizer) -> None:
    """Update the weights, at a second try with the memory that the gradients' computation has left over.

    The first update makes the optimiser's moments, as much again as twice the weights. Nothing is updated before all of
    them are there, so those that a failed try has made are thrown away and no weight is moved twice.

    Raises:
        InputError: the memory is too small for them.
    """
    known = set(optimiser.state)
    try:
        optimiser.step()
        return
    except RuntimeError as error:
        if not is_oom(error):
            raise
    for made in set(optimiser.state) - known:
        del optimiser.state[made]
    torch.cuda.empty_cache()
    optimiser.step()


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
