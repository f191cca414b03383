"""What slots run for test_nested_calls.py: light to import, since many processes do."""

from __future__ import annotations

import time

import betterbox
from betterbox import Box, RemoteBox


def leaf(x: int) -> int:
    return x + 1


def fib(n: int) -> int:
    if n < 2:
        return n
    first, second = betterbox.submit(fib, n - 1), betterbox.submit(fib, n - 2)
    return int(first.result()) + int(second.result())


def down(n: int) -> int:
    return 0 if n == 0 else 1 + int(betterbox.submit(down, n - 1).result())


def quicksort(values: list[int]) -> list[int]:
    if len(values) < 2:
        return values
    pivot, rest = values[0], values[1:]
    parts = [[x for x in rest if x < pivot], [x for x in rest if x >= pivot]]
    low, high = betterbox.map(quicksort, parts).result()
    return [*low, pivot, *high]


def polls_after_a_rest(seconds: float) -> int:
    """The thread of this process's client is at rest when the call is made, and nothing wakes it but the call."""
    betterbox.submit(leaf, 1).result()
    time.sleep(seconds)
    promise = betterbox.submit(leaf, 5)
    while not promise.done():
        time.sleep(0.001)
    return int(promise.result())


def waits_in(way: str, n: int) -> int:
    import asyncio
    import concurrent.futures

    promise = betterbox.map(leaf, range(n))
    if way == "result":
        return int(sum(promise.result()))
    if way == "all":
        return int(sum(promise.all()))
    if way == "compute":
        return int(promise.compute(sum))
    if way == "iteration":
        return int(sum(promise))
    if way == "as_completed":
        return int(sum(value for _, value in promise.as_completed()))
    if way == "submissions":
        return int(sum(p.result() for p in [betterbox.submit(leaf, x) for x in range(n)]))
    if way == "any":
        return int(sum(betterbox.map(leaf, [x]).any() for x in range(n)))
    if way == "executor":
        with betterbox.Executor() as pool:
            return sum(f.result() for f in concurrent.futures.as_completed([pool.submit(leaf, x) for x in range(n)]))
    if way == "polling":
        while not promise.done():
            time.sleep(0.001)
        return int(sum(promise.result()))
    assert way == "await"

    async def awaited() -> int:
        return sum(await promise)

    return asyncio.run(awaited())


class Mapper(Box):
    def total(self, n: int) -> int:
        return int(betterbox.map(leaf, range(n)).compute(sum))

    def item_of(self, n: int) -> int:
        return int(betterbox.submit(waits_in, "result", n).result())


class Selfish(Box):
    def leaf(self, x: int) -> int:
        return x + 1

    @betterbox.concurrent
    def beside(self, x: int) -> int:
        return x + 2

    async def later(self, x: int) -> int:
        return x + 3

    def call(self, port: int, method: str, *args: object) -> object:
        return getattr(RemoteBox.connect(port), method)(*args).result()

    def back(self, port: int) -> object:
        return betterbox.submit(lambda: RemoteBox.connect(port).leaf(1).result()).result()

    def back_by_a_future(self, port: int) -> object:
        return betterbox.Executor().submit(lambda: RemoteBox.connect(port).leaf(1).result()).result()
