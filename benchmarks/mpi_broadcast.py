"""A large fixed argument over the ranks of an MPI job, beside `MPI_Bcast` alone between the same ranks.

`mpirun --oversubscribe -n 3 betterbox mpi benchmarks/mpi_broadcast.py` (rank 0 has the script, so the argument goes to
the others); with `--stores` each rank gets a /dev/shm of its own first, as if it were another host (needs root, and is
started as `mpirun ... benchmarks/mpi_broadcast.sh RANKS --stores`). Prints medians of rounds in turns.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from betterbox import Box, GroupBox, SpreadBox, deploy, spread
from mpi4py import MPI


class Receiver(Box):
    """One in each rank."""

    def __init__(self) -> None:
        self.buffer: Any = None

    def store(self) -> int:
        return os.stat("/dev/shm").st_dev

    def raw(self, bytes_: int) -> float:
        """Takes part in MPI_Bcast."""
        if self.buffer is None:
            self.buffer = np.zeros(bytes_, dtype=np.uint8)
        MPI.COMM_WORLD.Barrier()
        MPI.COMM_WORLD.Bcast(self.buffer)
        MPI.COMM_WORLD.Barrier()
        return float(self.buffer[-1])

    def ends(self, data: Any) -> float:
        return float(data[0]) + float(data[-1])

    def ends_for(self, data: Any, _: int) -> float:
        return float(data[0]) + float(data[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    ranks = MPI.COMM_WORLD.Get_size() - 1
    data = np.ones(options.megabytes << 20, dtype=np.uint8)
    copy = np.zeros_like(data)

    def raw(boxes: Any) -> float:
        done = boxes.raw(data.nbytes)
        MPI.COMM_WORLD.Barrier()
        began = time.perf_counter()
        MPI.COMM_WORLD.Bcast(data)
        MPI.COMM_WORLD.Barrier()
        taken = time.perf_counter() - began
        done.all(60)
        return taken

    def timed(step: Callable[[], Any]) -> float:
        began = time.perf_counter()
        step()
        return time.perf_counter() - began

    with deploy(Receiver, 8090, slots=ranks):
        group = GroupBox.connect(8090, require=ranks)
        every = SpreadBox.connect(8090, require=ranks)
        items = list(range(ranks))
        steps: dict[str, Callable[[], float]] = {
            "MPI_Bcast": lambda: raw(group),
            "memcpy": lambda: timed(lambda: np.copyto(copy, data)),
            "spread call": lambda: timed(lambda: every.ends_for(data, spread(items)).all(60)),
            "group call": lambda: timed(lambda: group.ends(data).all(60)),
            "no-op group call": lambda: timed(lambda: group.store().all(60)),
        }
        stores = len({os.stat("/dev/shm").st_dev, *group.store().all(60)})
        times: dict[str, list[float]] = {name: [] for name in steps}
        for step in list(steps.values()) * 3:
            step()
        for _ in range(options.rounds):
            for name, step in steps.items():
                times[name].append(step())
    base = statistics.median(times["MPI_Bcast"])
    print(f"{options.megabytes} MB to {ranks} ranks, {stores} stores")
    for name, taken in times.items():
        median = statistics.median(taken)
        print(f"{name:18} {median * 1e3:8.2f} ms  {median / base:5.2f}  (from {min(taken) * 1e3:.2f} to {max(taken) * 1e3:.2f})")


if __name__ == "__main__":
    main()
