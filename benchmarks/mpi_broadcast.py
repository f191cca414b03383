"""A large fixed argument over the ranks of an MPI job, beside `MPI_Bcast` alone between the same ranks.

`mpirun --oversubscribe -n 3 betterbox mpi benchmarks/mpi_broadcast.py` (rank 0 has the script, so the argument goes to
the others). Ranks with a /dev/shm of their own are as ranks on different hosts: see docs/performance.md. Prints medians
of rounds in turns, beside `MPI_Bcast` of NumPy's memory and of memory in small pages.
"""

from __future__ import annotations

import argparse
import mmap
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from betterbox import Box, GroupBox, SpreadBox, deploy, spread
from mpi4py import MPI


def memory(bytes_: int, small_pages: bool) -> Any:
    """NumPy asks for huge pages where it can; shared memory mostly has none."""
    data = np.frombuffer(mmap.mmap(-1, bytes_), dtype=np.uint8) if small_pages else np.empty(bytes_, dtype=np.uint8)
    data[:] = 1
    return data


class Receiver(Box):
    """One in each rank."""

    def __init__(self) -> None:
        self.buffers: dict[bool, Any] = {}

    def store(self) -> int:
        return os.stat("/dev/shm").st_dev

    def raw(self, bytes_: int, small_pages: bool) -> float:
        """Takes part in MPI_Bcast."""
        if small_pages not in self.buffers:
            self.buffers[small_pages] = memory(bytes_, small_pages)
        MPI.COMM_WORLD.Barrier()
        MPI.COMM_WORLD.Bcast(self.buffers[small_pages])
        MPI.COMM_WORLD.Barrier()
        return float(self.buffers[small_pages][-1])

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
    data, small = (memory(options.megabytes << 20, small_pages) for small_pages in (False, True))
    copy = np.zeros_like(data)

    def raw(boxes: Any, small_pages: bool) -> float:
        done = boxes.raw(data.nbytes, small_pages)
        MPI.COMM_WORLD.Barrier()
        began = time.perf_counter()
        MPI.COMM_WORLD.Bcast(small if small_pages else data)
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
            "MPI_Bcast": lambda: raw(group, False),
            "MPI_Bcast, small pages": lambda: raw(group, True),
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
        spread_of = f"(from {min(taken) * 1e3:.2f} to {max(taken) * 1e3:.2f})"
        print(f"{name:24} {median * 1e3:8.2f} ms  {median / base:5.2f}  {spread_of}")


if __name__ == "__main__":
    main()
