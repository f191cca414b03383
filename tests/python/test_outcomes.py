"""What an item raises arrives as what it is, everywhere, and never ends a loop in silence."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import sys
import weakref
from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Any

import betterbox
import pytest
import work
from betterbox import Box, CallTimeoutError, GroupBox, RemoteBox, SpreadBox, deploy, spread

pytestmark = pytest.mark.usefixtures("cluster")

KINDS = {
    "StopIteration": StopIteration(7),
    "StopAsyncIteration": StopAsyncIteration(7),
    "GeneratorExit": GeneratorExit(7),
    "SystemExit": SystemExit(7),
    "KeyboardInterrupt": KeyboardInterrupt(7),
    "asyncio's CancelledError": asyncio.CancelledError(7),
    "futures' CancelledError": concurrent.futures.CancelledError(7),
    "a wait's own": CallTimeoutError("7"),
    "a bus's": betterbox.BusError("7"),
    "a plain one": ValueError(7),
}
if sys.version_info >= (3, 11):
    KINDS["a group"] = BaseExceptionGroup("several", [KeyboardInterrupt(7), ValueError(8)])


def throw(kind: str) -> None:
    raise KINDS[kind]


def throw_at_2(x: int, kind: str) -> int:
    if x == 2:
        raise KINDS[kind]
    return x


class Thrower(Box):
    def throw(self, kind: str) -> None:
        raise KINDS[kind]

    def throw_at_2(self, x: int, kind: str) -> int:
        return throw_at_2(x, kind)

    async def throw_later(self, kind: str) -> None:
        await asyncio.sleep(0)
        raise KINDS[kind]

    @betterbox.concurrent
    def throw_beside(self, kind: str) -> None:
        raise KINDS[kind]


async def throw_later(kind: str) -> None:
    await asyncio.sleep(0)
    raise KINDS[kind]


def caught(call: Callable[[], Any]) -> BaseException:
    try:
        value = call()
    except BaseException as error:
        return error
    raise AssertionError(f"nothing was raised, but {value!r} came")


def is_like(error: BaseException, kind: str) -> bool:
    return type(error) is type(KINDS[kind]) and error.args[:1] == KINDS[kind].args[:1]


def test_calls_raise_it() -> None:
    fold = betterbox.options(reduce=work.add)
    with betterbox.Executor() as executor:
        for kind in KINDS:
            ways = {
                "result": lambda: betterbox.submit(throw, kind).result(),
                "any": lambda: betterbox.submit(throw, kind).any(),
                "map": lambda: betterbox.map(throw_at_2, range(4), kind=kind).result(),
                "compute": lambda: betterbox.map(throw_at_2, range(4), kind=kind).compute(sum),
                "compute's own": lambda: betterbox.map(work.noop, range(2)).compute(lambda values: throw(kind)),
                "fold": lambda: fold.map(throw_at_2, range(4), kind=kind).result(),
                "folding": lambda: betterbox.map(work.noop, [kind] * 4, reduce=lambda a, b: throw(a)).result(),
                "executor": lambda: executor.submit(throw, kind).result(),
                "a call that waits for it": lambda: betterbox.submit(work.add, betterbox.submit(throw, kind), 1).result(),
                "a generator's": lambda: betterbox.map(throw_at_2, iter(range(4)), kind=kind).result(),
            }
            wrong = {way: error for way, call in ways.items() if not is_like(error := caught(call), kind)}
            assert wrong == {}, kind
            outcomes = betterbox.map(throw_at_2, range(4), kind=kind).all(return_exceptions=True)
            assert is_like(outcomes.pop(2), kind) and outcomes == [0, 1, 3]
            error = betterbox.submit(throw, kind).exception()
            assert error is not None and is_like(error, kind) and "throw" in str(error.__cause__)
        later = caught(lambda: betterbox.submit(throw_later, "asyncio's CancelledError").result())
        assert is_like(later, "asyncio's CancelledError")


def test_boxes_raise_it_and_serve_on() -> None:
    with deploy(Thrower, 8090, slots=1):
        box, group, boxes = (kind.connect(8090) for kind in (RemoteBox, GroupBox, SpreadBox))
        for kind in KINDS:
            assert is_like(caught(box.throw(kind).result), kind)
            assert is_like(caught(box.throw_beside(kind).result), kind)
            assert is_like(group.throw(kind).all(return_exceptions=True)[0], kind)
            assert is_like(boxes.throw_at_2(spread(range(4)), kind).all(return_exceptions=True)[2], kind)
            if kind != "StopIteration":  # Python makes a RuntimeError of one that leaves a coroutine
                assert is_like(caught(box.throw_later(kind).result), kind)
        assert isinstance(caught(box.throw_later("StopIteration").result), RuntimeError)


def loops(promise: Callable[[], Any]) -> dict[str, Iterator[Any]]:
    async def collect(values: Any) -> list[Any]:
        seen = []
        while True:
            try:
                seen.append(await anext(values))
            except StopAsyncIteration:
                return seen
            except BaseException as error:
                seen.append(error)

    def run(values: Callable[[], Any]) -> Iterator[Any]:
        return iter(asyncio.run(collect(values())))

    return {
        "for": iter(promise()),
        "as_completed": iter(promise().as_completed()),
        "async for": run(lambda: aiter(promise())),
        "async as_completed": run(lambda: aiter(promise().as_completed())),
    }


def test_no_loop_ends_in_silence() -> None:
    for kind in KINDS:
        for items in (lambda: range(4), lambda: iter(range(4))):
            for way, values in loops(lambda: betterbox.map(throw_at_2, items(), kind=kind)).items():
                seen = []
                while True:
                    try:
                        value = next(values)
                    except StopIteration:
                        break
                    except BaseException as error:
                        value = error
                    seen.append(value[1] if isinstance(value, tuple) else value)
                errors = [value for value in seen if isinstance(value, BaseException)]
                assert sorted(value for value in seen if isinstance(value, int)) == [0, 1, 3], (kind, way)
                assert len(errors) == 1, (kind, way, seen)
                if "Stop" in kind:
                    assert isinstance(errors[0], RuntimeError) and kind in str(errors[0]), (kind, way)
                    assert isinstance(errors[0].__cause__, type(KINDS[kind]))
                else:
                    assert is_like(errors[0], kind), (kind, way)


def test_executors_map_raises_it() -> None:
    with betterbox.Executor() as executor:
        for kind in KINDS:
            error = caught(lambda: list(executor.map(throw_at_2, range(4), [kind] * 4)))
            assert isinstance(error, RuntimeError) if kind == "StopIteration" else is_like(error, kind), kind


def test_the_generator_of_the_items_may_raise_it() -> None:
    class Items:
        def __init__(self, kind: str) -> None:
            self.kind, self.left = kind, 2

        def __iter__(self) -> Items:
            return self

        def __next__(self) -> int:
            self.left -= 1
            if self.left < 0:
                raise KINDS[self.kind]
            return self.left

    for kind in set(KINDS) - {"StopIteration"}:
        assert is_like(caught(betterbox.map(work.noop, Items(kind)).result), kind)
        values = iter(betterbox.map(work.noop, Items(kind)))
        assert [next(values), next(values)] == [1, 0]
        error = caught(lambda: next(values))
        assert isinstance(error, RuntimeError) if "Stop" in kind else is_like(error, kind), kind


def test_callbacks_may_raise_it() -> None:
    for kind in KINDS:
        betterbox.submit(work.noop, 1).add_done_callback(lambda _: throw(kind))
    called: concurrent.futures.Future[int] = concurrent.futures.Future()
    betterbox.submit(work.noop, 5).add_done_callback(lambda promise: called.set_result(promise.result()))
    assert called.result(30) == 5


class Thing:
    pass


def make(x: int) -> Thing:
    if x == 3:
        raise ValueError(x)
    return Thing()


def test_loops_keep_nothing_that_they_have_handed_out() -> None:
    gc.disable()
    try:
        with betterbox.Executor() as executor:
            promises = [betterbox.submit(make, 0) for _ in range(4)]
            ways: dict[str, Iterator[Any]] = {
                "Executor.map": executor.map(make, [0] * 8),
                "for": iter(betterbox.map(make, range(8))),
                "for, of a generator": iter(betterbox.map(make, iter(range(8)))),
                "as_completed": map(itemgetter(1), betterbox.map(make, [0] * 8).as_completed()),
                "betterbox.as_completed": map(betterbox.Promise.result, betterbox.as_completed(promises)),
            }
            for way, things in ways.items():
                while True:
                    try:
                        thing = next(things)
                    except StopIteration:
                        break
                    except ValueError as error:
                        thing = error
                    gone = weakref.ref(thing) if isinstance(thing, Thing) else None
                    del thing
                    assert gone is None or gone() is None, way
            waiting = betterbox.as_completed(promises)
            del promises
            gone = weakref.ref(next(waiting))
            assert gone() is None
    finally:
        gc.enable()
