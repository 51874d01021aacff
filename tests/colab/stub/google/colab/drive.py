"""Google Drive as a plain folder, which outlives a runtime as Drive does."""

from __future__ import annotations

from pathlib import Path


def mount(mountpoint: str, force_remount: bool = False) -> None:
    """Make the folder that Colab shows after the user has agreed."""
    Path(mountpoint, "MyDrive").mkdir(parents=True, exist_ok=True)
    print(f"Mounted at {mountpoint}")
