"""Runs of `two_phases` in one and in several processes, some of them killed and gone on with.

    python together.py TABLES STORE OUT

Leaves a folder for each run in OUT. All are forked from one process, so that PyTorch is imported once.
"""

from __future__ import annotations

import os
import socket
import sys
import traceback
from pathlib import Path

import torch
import two_phases

RUNS = {"alone": (1,), "two": (2,), "three": (3,), "two_then_one": (2, 1), "one_then_two": (1, 2)}
"""By name, the numbers of processes; all but the last are killed after three updates."""


def in_processes(count: int, *words: object) -> list[int]:
    """Run `two_phases.main` in so many processes that know of one another; returns their exit statuses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(count):
        child = os.fork()
        if child:
            children.append(child)
            continue
        status = 1
        try:
            torch.set_num_threads(1)
            if count > 1:
                told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
                told |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
                os.environ.update({key: str(value) for key, value in told.items()})
            two_phases.main(*words)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)
    return [os.waitpid(child, 0)[1] for child in children]


def main(tables: Path, cache: Path, out: Path) -> int:
    """Run all; status 1 where one failed that was not to be killed."""
    for name, counts in RUNS.items():
        for place, count in enumerate(counts):
            killed = place + 1 < len(counts)
            statuses = in_processes(count, tables, cache, out / name, *([3] if killed else []))
            if any(statuses) != killed:
                return 1
            if killed and not list((out / name).glob("*.state.pt")):
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
