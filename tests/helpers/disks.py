"""Disks that come and go, for tests: real mounts, which need root and a kernel that allows them."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


def mount(*words: str) -> None:
    """Run mount, or skip the test where this machine allows none."""
    if os.geteuid() or subprocess.run(["mount", *words], capture_output=True, check=False).returncode:
        pytest.skip("a disk can be mounted by root only, where the machine allows it")


def unmount(place: Path) -> None:
    """Remove a disk, even if processes still use it."""
    subprocess.run(["umount", "--lazy", str(place)], check=True)


class Disk:
    """A disk at `place`; its content stays while the disk is removed."""

    def __init__(self, place: Path, behind: Path) -> None:
        """Mount it."""
        self.place, self.behind = place, behind
        behind.mkdir()
        place.mkdir()
        mount("-t", "tmpfs", "tmpfs", str(behind))
        self.come()

    def come(self) -> None:
        """Mount the folder `behind` at `place`."""
        mount("--bind", str(self.behind), str(self.place))

    def go(self) -> None:
        """Leave the empty folder that it was mounted on."""
        unmount(self.place)

    def die(self) -> None:
        """Leave a mount without a file system, as after a crash of Drive: every access gives errno 107."""
        self.go()
        device = os.open("/dev/fuse", os.O_RDWR) if os.access("/dev/fuse", os.W_OK) else pytest.skip("no /dev/fuse")
        options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
        libc = ctypes.CDLL(None, use_errno=True)
        failed = libc.mount(b"dead", os.fsencode(self.place), b"fuse", 0, options)
        os.close(device)  # nobody answers any more
        if failed:
            pytest.skip("no FUSE mount is allowed here")
        with pytest.raises(OSError, match="Errno 107"):
            self.place.stat()

    def end(self) -> None:
        """Unmount everything."""
        for place in (self.place, self.behind):
            with suppress(subprocess.CalledProcessError):
                unmount(place)


@contextmanager
def disk(folder: Path) -> Iterator[Disk]:
    """A disk mounted at `folder`/drive."""
    made = None
    try:
        made = Disk(folder / "drive", folder / "behind")
        yield made
    finally:
        if made is not None:
            made.end()
