"""CPU time of Python code in a slot over its CPU time in the script: the same function, in turns.

    ./dev bench slot_speed [--rounds N] [--cases A,B]

One slot of a `LocalCluster`. Below 1 the slot is faster: what its interpreter has imported is frozen for the collector.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import betterbox


def loop() -> int:
    total = 0
    for i in range(600_000):
        total += i * i & 7
    return total


def _fibonacci(n: int) -> int:
    return n if n < 2 else _fibonacci(n - 1) + _fibonacci(n - 2)


def recursion() -> int:
    return _fibonacci(23)


def containers() -> int:
    found: dict[str, list[tuple[int, str]]] = {}
    for i in range(40_000):
        found.setdefault(f"k{i % 1000}", []).append((i, str(i)))
    return sum(len(" ".join(text for _, text in entries)) for entries in found.values())


def exceptions() -> int:
    caught = 0
    for i in range(100_000):
        try:
            if i & 1:
                raise ValueError(i)
        except ValueError:
            caught += 1
    return caught


class _Counter:
    def __init__(self) -> None:
        self.value = 0

    def more(self) -> _Counter:
        self.value += 1
        return self


def attributes() -> int:
    counter = _Counter()
    for _ in range(200_000):
        counter.more().value
    return counter.value


def numpy() -> float:
    import numpy as np

    numbers = np.arange(40_000, dtype=float)
    total = 0.0
    for i in range(60):
        total += float(np.sqrt(numbers * 1.5 + i).sum())
        [np.zeros(10) for _ in range(300)]
    return total


CASES: tuple[Callable[[], object], ...] = (loop, recursion, containers, exceptions, attributes, numpy)


def cpu_seconds(run: Callable[[], object]) -> float:
    begun = time.thread_time()
    run()
    return time.thread_time() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="turns per case (default: 15)")
    parser.add_argument("--cases", default="", metavar="A,B", help="of " + ", ".join(case.__name__ for case in CASES))
    args = parser.parse_args()
    wanted = [name for name in args.cases.split(",") if name]
    print(f"{'case':12}{'script ms':>11}{'slot ms':>9}{'median ratio':>14}{'least over least':>18}")
    with betterbox.LocalCluster(slots=1):
        for case in CASES:
            if wanted and case.__name__ not in wanted:
                continue
            cpu_seconds(case)
            betterbox.submit(cpu_seconds, case).result()
            script, slot = [], []
            for _ in range(args.rounds):
                script.append(cpu_seconds(case))
                slot.append(betterbox.submit(cpu_seconds, case).result())
            ratio = statistics.median(there / here for here, there in zip(script, slot))
            least = min(slot) / min(script)
            here, there = statistics.median(script) * 1e3, statistics.median(slot) * 1e3
            print(f"{case.__name__:12}{here:11.2f}{there:9.2f}{ratio:14.3f}{least:18.3f}", flush=True)


if __name__ == "__main__":
    main()
