"""What real slots run: busy items that note when they ran, and greedy self-scheduling of the same items.

All times are of CLOCK_MONOTONIC, which the processes of a machine share.
"""

from __future__ import annotations

import heapq
import os
import random
from dataclasses import dataclass
from time import monotonic, process_time

QUANTUM = 2000  # steps between two looks at the clock: a fraction of a millisecond


@dataclass
class Ran:
    """One item's run."""

    index: int
    process: int  # the slot
    worker: int  # the parent of its processes: the template of its worker (or, of a pool, the client)
    begin: float
    end: float
    base: float  # seconds, had its worker not been slowed
    cpu: float  # seconds of a core


def steps(count: int) -> int:
    """So much work."""
    x = 1
    for _ in range(count):
        x = x * 1103515245 + 12345 & 0x7FFFFFFF
    return x


def busy(slowed: dict[int, tuple[float, int]], item: tuple[int, int]) -> Ran:
    """Does the counted work of an item.

    Parameters
    ----------
    slowed : dict
        By worker: from when on it is slow, and how many times as long work takes there: it does each quantum of its
        work so many times, so that a slow worker needs more of a core and not just more time.
    item : tuple of int
        Its index and its quanta.
    """
    index, quanta = item
    worker = os.getppid()
    since, times = slowed.get(worker, (float("inf"), 1))
    cpu = process_time()
    begin = now = monotonic()
    base = 0.0
    for _ in range(quanta):
        steps(QUANTUM)
        once = monotonic()
        base += once - now
        now = once
        if now >= since:
            for _ in range(times - 1):
                steps(QUANTUM)
            now = monotonic()
    return Ran(index, os.getpid(), worker, begin, now, base, process_time() - cpu)


def seconds_per_quantum() -> float:
    """Measured now; the fastest of several runs, which other load has disturbed least."""
    best = float("inf")
    for _ in range(20):
        begin = monotonic()
        for _ in range(20):
            steps(QUANTUM)
        best = min(best, (monotonic() - begin) / 20)
    return best


def pareto_items(count: int, order: str, seed: int, quantum_s: float) -> list[tuple[int, int]]:
    """Items of 2 to 200 ms, Pareto with shape 1.5, sorted ``up`` or ``down``, or ``shuffled``."""
    draw = random.Random(seed)
    times = [min(0.2, 0.002 * (1 - draw.random()) ** (-1 / 1.5)) for _ in range(count)]
    if order != "shuffled":
        times.sort(reverse=order == "down")
    return [(index, max(1, round(seconds / quantum_s))) for index, seconds in enumerate(times)]


@dataclass
class Slot:
    """A slot of greedy self-scheduling."""

    free: float  # when it takes its first item
    slow_since: float = float("inf")
    times: int = 1

    def end_of(self, begin: float, base: float) -> float:
        """When an item ends that begins at `begin` and takes `base` seconds at full speed."""
        fast = min(base, max(0.0, self.slow_since - begin))
        return begin + fast + (base - fast) * self.times


def greedy(bases: list[float], slots: list[Slot]) -> float:
    """When the last item ends if every slot takes the next one as soon as it is free, at no cost."""
    free = [(slot.free, number) for number, slot in enumerate(slots)]
    heapq.heapify(free)
    last = 0.0
    for base in bases:
        begin, number = free[0]
        end = slots[number].end_of(begin, base)
        heapq.heapreplace(free, (end, number))
        last = max(last, end)
    return last
