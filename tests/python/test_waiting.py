"""Waiting for promises: as futures of the standard library are waited for, and what an interrupted wait means."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import betterbox
import pytest
import work
from betterbox import CallCancelledError, CallTimeoutError, _waiting
from helpers import wait_until

TIMEOUTS = TimeoutError, asyncio.TimeoutError, concurrent.futures.TimeoutError  # one class from Python 3.11 on

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """What `work.wait_for_file` waits for; opened at the end."""
    path = tmp_path / "gate"
    yield path
    path.touch()


# --- several promises ---------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [betterbox, concurrent.futures])
def test_promises_come_as_they_are_done(module: Any, gate: Path) -> None:
    slow = betterbox.submit(work.wait_for_file, str(gate))
    fast = betterbox.map(work.noop, range(3))
    bad = betterbox.submit(work.raise_at, 1, 1)
    bad.exception()
    done, not_done = module.wait([slow, fast, fast, bad], return_when="FIRST_EXCEPTION")
    assert bad in done and not_done - {fast} == {slow}
    done, not_done = module.wait([slow, fast], return_when="FIRST_COMPLETED")
    assert done == {fast} and not_done == {slow}
    done, not_done = module.wait([slow, fast], timeout=0.05)
    assert done == {fast} and not_done == {slow}
    values = module.as_completed([slow, fast, slow, bad], timeout=60)
    assert {next(values), next(values)} == {fast, bad}
    gate.touch()
    assert list(values) == [slow]
    assert module.wait([slow, fast, bad]) == ({slow, fast, bad}, set())
    with pytest.raises(TIMEOUTS):
        list(module.as_completed([betterbox.submit(work.touch_and_wait, f"{gate}2")], timeout=0.01))


def test_a_cancelled_promise_is_done() -> None:
    for module in (betterbox, concurrent.futures):
        promise = betterbox.submit(work.touch_and_wait, os.devnull)
        threading.Timer(0.05, promise.cancel).start()
        assert module.wait([promise], return_when="FIRST_EXCEPTION").done == {promise}
        assert promise.cancelled() and list(module.as_completed([promise])) == [promise]
        with pytest.raises(concurrent.futures.CancelledError):
            promise.exception()


def test_thousands_of_promises_may_be_waited_for() -> None:
    promises = [betterbox.submit(work.noop, n) for n in range(5000)]
    assert sum(promise.result() for promise in betterbox.as_completed(promises)) == sum(range(5000))
    promises = [betterbox.submit(work.noop, n) for n in range(5000)]
    assert len(concurrent.futures.wait(promises, timeout=60).done) == 5000


def test_futures_and_promises_may_be_mixed() -> None:
    with betterbox.Executor() as executor:
        both = [executor.submit(work.noop, 1), betterbox.submit(work.noop, 2)]
        assert {each.result() for each in betterbox.as_completed(both)} == {1, 2}
        assert betterbox.wait(both).done == set(both)
    with pytest.raises(TypeError, match="promises"):
        betterbox.as_completed([3])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="return_when"):
        betterbox.wait([], return_when="SOON")


def test_exception_waits_and_tells(gate: Path) -> None:
    slow = betterbox.submit(work.wait_for_file, str(gate))
    with pytest.raises(CallTimeoutError):
        slow.exception(0.01)
    gate.touch()
    assert slow.exception() is None
    assert betterbox.map(work.noop, range(3)).exception() is None
    assert str(betterbox.map(lambda x: work.raise_at(x, 1), range(3)).exception()) == "bad 1"
    assert betterbox.map(work.noop, range(3), reduce=work.add).exception() is None


def test_callbacks_can_be_removed(gate: Path) -> None:
    promise = betterbox.submit(work.wait_for_file, str(gate))
    called: list[Any] = []
    kept = threading.Event()
    promise.add_done_callback(called.append)
    promise.add_done_callback(called.append)
    promise.add_done_callback(lambda _: kept.set())
    assert promise.remove_done_callback(called.append) == 2
    assert promise.remove_done_callback(called.append) == 0
    gate.touch()
    assert kept.wait(60) and called == []


# --- on an asyncio loop -------------------------------------------------------------------------------


def test_asyncio_waits_for_promises_as_for_its_futures(gate: Path) -> None:
    async def main() -> None:
        slow = betterbox.submit(work.wait_for_file, str(gate))
        fast, more = betterbox.submit(work.noop, 1), betterbox.map(work.noop, range(3))
        if sys.version_info >= (3, 11):  # before, asyncio.wait gives tasks that wait for what it was given
            done, pending = await asyncio.wait([slow, fast], return_when=asyncio.FIRST_COMPLETED)
            assert done == {fast} and pending == {slow}
            done, pending = await asyncio.wait([slow, betterbox.submit(work.raise_at, 1, 1)], return_when="FIRST_EXCEPTION")
            assert pending == {slow}
        assert await asyncio.gather(fast, more) == [1, [0, 1, 2]]
        with pytest.raises(TIMEOUTS):
            await asyncio.wait_for(slow, 0.01)
        with pytest.raises(TIMEOUTS):
            await asyncio.wait_for(asyncio.shield(slow), 0.01)
        assert not slow.done(), "it is kept, so it goes on"
        for first in asyncio.as_completed([slow, more]):
            assert await first == [0, 1, 2]
            gate.touch()
            break
        assert await slow == str(gate)
        on_loop = asyncio.get_running_loop().create_future()
        more.add_done_callback(on_loop.set_result)
        assert await asyncio.wait_for(on_loop, 60) is more

    asyncio.run(main())


def test_a_callback_of_a_loop_that_is_closed_runs(gate: Path) -> None:
    promise = betterbox.submit(work.wait_for_file, str(gate))
    called = threading.Event()

    async def main() -> None:
        promise.add_done_callback(lambda _: called.set())

    asyncio.run(main())
    gate.touch()
    assert called.wait(60)


def test_async_for_gives_values_as_they_land(tmp_path: Path) -> None:
    gates = [tmp_path / f"gate{n}" for n in range(3)]

    async def main() -> None:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        ticking = asyncio.ensure_future(tick())
        gates[0].touch()
        paths = [str(path) for path in gates]
        seen = []
        async for value in betterbox.map(work.wait_for_file, paths):
            before = ticks
            seen.append(value)
            if len(seen) < len(gates):
                gates[len(seen)].touch()
            await asyncio.sleep(0)
            assert ticks > before, "the loop goes on"
        assert seen == paths
        assert [value async for value in betterbox.map(work.double, iter(range(3000)))] == list(range(0, 6000, 2))
        pairs = [pair async for pair in betterbox.map(work.double, range(100)).as_completed()]
        assert sorted(pairs) == [(n, 2 * n) for n in range(100)]
        assert [value async for value in betterbox.map(work.noop, range(4), reduce=work.add)] == [6]
        assert [value async for value in betterbox.submit(work.noop, betterbox.submit(work.noop, 3))] == [3]
        ticking.cancel()

    asyncio.run(main())


# --- cancelling ---------------------------------------------------------------------------------------


def ways_to_spread(gate: Path) -> dict[str, Callable[[], Any]]:
    paths = [os.devnull] * 3 + [str(gate)] * 3
    return {
        "map": lambda: betterbox.map(work.wait_for_file, paths),
        "of a generator": lambda: betterbox.map(work.wait_for_file, iter(paths)),
    }


def test_cancelling_keeps_what_has_landed(gate: Path) -> None:
    for way, make in ways_to_spread(gate).items():
        promise = make()
        wait_until(lambda: promise.progress()[0] >= 3, "three have landed")
        assert promise.cancel() and promise.done() and not promise.cancel()
        outcomes = promise.all(return_exceptions=True)
        assert outcomes[:3] == [os.devnull] * 3, way
        assert len(outcomes) > 3 and all(isinstance(error, CallCancelledError) for error in outcomes[3:]), way
        with pytest.raises(CallCancelledError):
            promise.all()
        assert promise.any() == os.devnull
        values = iter(promise)
        assert [next(values) for _ in range(3)] == [os.devnull] * 3
        with pytest.raises(CallCancelledError):
            next(values)


def test_a_generator_call_that_was_cut_short_is_not_taken_for_a_whole_one() -> None:
    def endless() -> Iterator[int]:
        while True:
            yield 1

    promise = betterbox.map(work.noop, endless())
    wait_until(lambda: promise.progress()[0] >= 3, "some have landed")
    promise.cancel()
    with pytest.raises(CallCancelledError):
        promise.result()
    with pytest.raises(CallCancelledError):
        list(promise)


def interrupt(call: Callable[[], Any]) -> None:
    """Ctrl-C once `call` waits for something `noticed`."""
    waiting.clear()

    def send() -> None:
        waiting.wait()
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        call()
    except KeyboardInterrupt:
        sys.last_traceback = sys.exc_info()[2]  # as an interactive Python does
    else:
        pytest.fail("nothing was interrupted")
    finally:
        thread.join()


class Queue(_waiting.SimpleQueue[int]):
    """Of `betterbox.wait` and `as_completed`: notes that somebody waits, in pieces, for the signal may come just before."""

    def get(self, block: bool = True, timeout: float | None = None) -> int:
        waiting.set()
        return super().get(block, 0.01)


def test_ctrl_c_in_a_wait_cancels_what_nobody_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_waiting, "SimpleQueue", Queue)

    def make() -> Any:
        return noticed(betterbox.map(work.wait_for_file, [str(tmp_path / "never")] * 4))

    ways: dict[str, Callable[[], Any]] = {
        "result": lambda: make().result(),
        "all": lambda: make().all(),
        "compute": lambda: make().compute(sum),
        "exception": lambda: make().exception(),
        "any": lambda: make().any(),
        "iteration": lambda: list(make()),
        "as_completed": lambda: list(make().as_completed()),
        "wait of several": lambda: betterbox.wait([make()]),
        "as_completed of several": lambda: list(betterbox.as_completed([make()])),
        "arguments": lambda: betterbox.submit(len, make()).result(),
    }
    for way, wait in ways.items():
        before = len(cancelled)
        interrupt(wait)
        wait_until(lambda: len(cancelled) == before + 1, way)
    del sys.last_traceback


cancelled: list[bool] = []
waiting = threading.Event()


class Noticed:
    """Stands for a call, and notes that it is waited for and that it was cancelled."""

    def __init__(self, call: Any) -> None:
        self.call = call

    def __getattr__(self, name: str) -> Any:
        return getattr(self.call, name)

    def wait(self, until: int, timeout: float | None) -> bool:
        waiting.set()
        return bool(self.call.wait(until, timeout))

    def cancel(self) -> bool:
        cancelled.append(True)
        return bool(self.call.cancel())


def noticed(promise: Any) -> Any:
    promise._call = Noticed(promise._call)
    return promise


def test_ctrl_c_leaves_a_promise_that_is_kept(gate: Path) -> None:
    promise = noticed(betterbox.submit(work.wait_for_file, str(gate)))
    interrupt(promise.result)
    gate.touch()
    assert promise.result() == str(gate)


def test_a_cancelled_await_cancels_what_nobody_keeps() -> None:
    async def main() -> None:
        with pytest.raises(TIMEOUTS):
            await asyncio.wait_for(noticed(betterbox.submit(work.touch_and_wait, os.devnull)), 0.1)

    before = len(cancelled)
    asyncio.run(main())
    assert len(cancelled) == before + 1


def test_a_loop_that_is_left_early_draws_no_more() -> None:
    betterbox.put(1)  # from here on generators are looked through for Refs
    closed = threading.Event()

    def endless() -> Iterator[bytes]:
        try:
            while True:
                yield b"x"
        finally:
            closed.set()

    for value in betterbox.map(work.noop, endless()):
        assert value == b"x"
        break
    assert closed.wait(60), "the generator is closed"
    closed.clear()
    promise = betterbox.map(work.noop, endless())
    for value in promise:
        break
    assert not closed.is_set() and next(iter(promise)) == b"x", "it is kept: another loop goes on"
    del promise
    assert closed.wait(60)


def test_a_call_that_was_never_waited_for_runs_on(tmp_path: Path) -> None:
    betterbox.submit(Path.touch, tmp_path / "there")
    betterbox.map(Path.touch, iter([tmp_path / "there2"]))
    wait_until((tmp_path / "there").exists, "it has run")
    wait_until((tmp_path / "there2").exists, "it has run")


def test_the_promise_of_a_generator_is_never_silently_empty() -> None:
    few = betterbox.map(work.double, iter(range(3)))
    assert list(few) == list(few) == [0, 2, 4]
    assert sorted(few.as_completed()) == [(0, 0), (1, 2), (2, 4)]
    failed = betterbox.map(work.add, iter(range(3)), b=betterbox.submit(work.raise_at, 1, 1))
    for _ in range(2):
        with pytest.raises(ValueError, match="bad 1"):
            list(failed)
    many = betterbox.map(work.noop, (b"x" * 10_000 for _ in range(300)))
    assert len(list(many)) == 300
    for again in (lambda: list(many), lambda: list(many.as_completed()), many.result):
        with pytest.raises(RuntimeError, match="handed out"):
            again()
