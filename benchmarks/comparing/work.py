"""What the slots of every peer run: the same functions, importable by name, free of any peer."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from balancing import items

MEETING_LIMIT = 10.0  # seconds that one slot waits for the others

_kept: dict[int, Any] = {}


def noop(x: Any) -> Any:
    return x


def busy(count: int, item: int) -> int:
    """Counted work, so that an item is as long wherever it runs."""
    items.steps(count)
    return item


def pareto(item: tuple[int, int]) -> items.Ran:
    return items.busy({}, item)


def blob(index: int) -> bytes:
    """10 kB, other bytes for each index."""
    return index.to_bytes(8, "little") * 1250


def touch(array: Any) -> float:
    """Reads every page of a float64 array once."""
    return float(array[::512].sum())


def meet(folder: str, slots: int, array: Any, number: int) -> tuple[int, float]:
    """Touches the array, then waits until every other slot has it too: no slot can take two of these items."""
    total = touch(array)
    place = Path(folder)
    (place / f"{os.getpid()}").touch()
    deadline = time.monotonic() + MEETING_LIMIT
    while len(os.listdir(place)) < slots:
        if time.monotonic() > deadline:
            raise RuntimeError("not every slot got the array: two items went to one slot")
        time.sleep(0.0005)
    return os.getpid(), total


def produce(count: int) -> Any:
    """An array of `count` doubles, made at the first call: later ones pay for its way back only."""
    if count not in _kept:
        import numpy

        _kept[count] = numpy.arange(count, dtype=numpy.float64)
    return _kept[count]


class Page:
    """Results of a chunk, which travel as one: Dask would take a bare list apart, a message part for each item."""

    def __init__(self, results: list[Any]) -> None:
        self.results = results


def run_chunk(fn: Callable[[Any], Any], chunk: Iterable[Any]) -> Page:
    """For peers that have no chunks of their own."""
    return Page([fn(item) for item in chunk])


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def apply(fn: Callable[..., Any], *args: Any) -> Any:
    """For peers that make one task of one function, known beforehand."""
    return fn(*args)
