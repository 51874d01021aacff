"""Run `two_stages` in one and in several processes; some runs are killed and continued.

    python together.py TABLES CACHE OUT

Writes a folder for each run into OUT. All processes are forked from one process, so that PyTorch is imported once.
"""

from __future__ import annotations

import os
import socket
import sys
import traceback
from pathlib import Path

import torch
import two_stages

RUNS = {"alone": (1,), "two": (2,), "three": (3,), "two_then_one": (2, 1), "one_then_two": (1, 2)}
"""By name, the numbers of processes; all but the last are killed after three updates."""


def in_processes(count: int, *words: object) -> list[int]:
    """Run `two_stages.main` in `count` processes of one group; return their exit statuses."""
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
                environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
                environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
                os.environ.update({key: str(value) for key, value in environment.items()})
            two_stages.main(*words)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)
    return [os.waitpid(child, 0)[1] for child in children]


def main(tables: Path, cache: Path, out: Path) -> int:
    """Run all; return 1 if a run fails that should not be killed."""
    for name, counts in RUNS.items():
        for k, count in enumerate(counts):
            killed = k + 1 < len(counts)
            statuses = in_processes(count, tables, cache, out / name, *([3] if killed else []))
            if any(statuses) != killed:
                return 1
            if killed and not list((out / name).glob("*.state.pt")):
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
