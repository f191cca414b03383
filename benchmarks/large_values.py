"""Large fixed arguments against copying them: `./dev py benchmarks/large_values.py`.

Shares one array (256 MB), and hands it to both slots with `map(partial(f, a))`, in turns with a `memcpy`
between warm buffers of the same size. Prints medians and their ratios to the median copy.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import betterbox
import numpy as np
from betterbox import _core


def first(data: Any, _: int) -> float:
    return float(data[0])


def total(data: Any, _: int) -> float:
    return float(data.sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    data = np.ones(options.megabytes << 17)
    copy = np.zeros_like(data)

    def call(fn: Callable[..., float]) -> None:
        betterbox.map(functools.partial(fn, data), [0, 1]).result()

    steps: dict[str, Callable[[], Any]] = {
        "memcpy": lambda: ctypes.memmove(copy.ctypes.data, data.ctypes.data, data.nbytes),
        "sum": lambda: data.sum(),
        "share": lambda: _core.share([data.data.cast("B")]),
        "map to two slots, first element": lambda: call(first),
        "map to two slots, sum": lambda: call(total),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    with betterbox.LocalCluster(slots=2):
        for step in list(steps.values()) * 2:  # the second write of a segment maps it
            step()
        for _ in range(options.rounds):
            data.sum()  # meanwhile the slots unmap what they had in the round before
            for name, step in steps.items():
                began = time.perf_counter()
                step()
                times[name].append(time.perf_counter() - began)
    base = statistics.median(times["memcpy"])
    for name, taken in times.items():
        median = statistics.median(taken)
        print(f"{name:32} {median * 1e3:8.1f} ms  {median / base:5.2f}")


if __name__ == "__main__":
    main()
