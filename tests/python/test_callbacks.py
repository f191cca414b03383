"""What waits for a call is settled always: by its outcome, or by an error that says what became of it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import signal
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import betterbox
import pytest
import work
from betterbox import BusError, Executor, LocalCluster, _bus
from helpers import LONG, wait_until

Register = Callable[[Callable[[Any], object]], Any]


def lines_of(error: BaseException) -> int:
    return len("".join(traceback.format_exception(error)).splitlines())


def raised_by(ask: Callable[[], object]) -> BaseException:
    with pytest.raises(BaseException) as caught:
        ask()
    return caught.value


@pytest.fixture
def gate(cluster: LocalCluster, tmp_path: Path) -> Path:
    """Calls that wait for this file hold until a test touches it."""
    return tmp_path / "gate"


# --- callbacks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["promise", "future"])
def test_a_callback_that_raises_anything_is_printed_and_the_next_ones_go_on(
    kind: str, gate: Path, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[str] = []

    def raising(error: type[BaseException]) -> Callable[[Any], object]:
        def callback(_: Any) -> None:
            heard.append(error.__name__)
            raise error("on purpose")

        return callback

    kinds = [SystemExit, KeyboardInterrupt, GeneratorExit, StopIteration, ValueError]
    call: Any = (betterbox.submit if kind == "promise" else Executor().submit)(work.wait_for_file, str(gate))
    for error in kinds:
        call.add_done_callback(raising(error))
    call.add_done_callback(lambda _: heard.append("last"))
    with caplog.at_level(logging.ERROR, "betterbox"):
        gate.touch()
        wait_until(lambda: "last" in heard, lambda: f"the last callback: {heard}")
    assert heard == [*(error.__name__ for error in kinds), "last"]
    assert len([record for record in caplog.records if record.exc_info]) == len(kinds)
    assert Executor().submit(work.double, 2).result(LONG) == 4


def test_a_callback_of_what_is_done_runs_at_once_and_is_printed_too(
    cluster: LocalCluster, caplog: pytest.LogCaptureFixture
) -> None:
    promise = betterbox.submit(work.double, 1)
    promise.result()

    def leave(_: object) -> None:
        raise SystemExit

    with caplog.at_level(logging.ERROR, "betterbox"):
        promise.add_done_callback(leave)
    assert len(caplog.records) == 1


def test_a_callback_may_submit_and_wait_in_every_way(gate: Path) -> None:
    executor = Executor()
    got: list[Any] = []

    async def awaited() -> int:
        return await betterbox.submit(work.double, 4)

    def callback(_: object) -> None:
        got.append(betterbox.submit(work.double, 1).result(LONG))
        got.append(executor.submit(work.double, 2).result(LONG))
        got.append(executor.submit(work.double, betterbox.submit(work.double, 3)).result(LONG))
        got.append(asyncio.run(awaited()))

    executor.submit(work.wait_for_file, str(gate)).add_done_callback(callback)
    gate.touch()
    wait_until(lambda: len(got) == 4, lambda: f"four results: {got}")
    assert got == [2, 4, 12, 8]


def test_a_callback_that_blocks_holds_up_other_callbacks_only(gate: Path) -> None:
    second = gate.with_name("second")
    release, begun = threading.Event(), threading.Event()

    def block(_: object) -> None:
        begun.set()
        release.wait(LONG)

    executor = Executor()
    try:
        betterbox.submit(work.wait_for_file, str(gate)).add_done_callback(block)
        gate.touch()
        assert begun.wait(LONG)
        late = executor.submit(len, betterbox.submit(work.wait_for_file, str(second)))
        heard = threading.Event()
        late.add_done_callback(lambda _: heard.set())
        second.touch()
        assert late.result(LONG) == len(str(second))
        assert len(list(concurrent.futures.as_completed([executor.submit(work.double, i) for i in range(4)], LONG))) == 4
        assert not heard.is_set()
    finally:
        release.set()
    assert heard.wait(LONG)


def test_a_callback_may_register_more_and_close_the_cluster() -> None:
    cluster = LocalCluster(slots=2)
    over = threading.Event()
    promise = betterbox.submit(work.wait_for_file, "/nowhere")
    promise.add_done_callback(lambda done: done.add_done_callback(lambda _: over.set()))
    betterbox.submit(work.double, 1).add_done_callback(lambda _: cluster.close())
    assert over.wait(LONG)
    assert isinstance(raised_by(promise.result), BusError)


def test_a_loop_that_was_closed_before_the_outcome_came_does_no_harm(gate: Path) -> None:
    promise = betterbox.submit(work.wait_for_file, str(gate))

    async def give_up() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(promise, 0.01)  # type: ignore[arg-type]

    asyncio.run(give_up())
    gate.touch()
    assert promise.result(LONG) == str(gate)
    assert Executor().submit(work.double, 1).result(LONG) == 2


# --- dependents -------------------------------------------------------------------------------------


def test_a_chain_of_promises_may_be_of_any_length(gate: Path) -> None:
    promise: Any = betterbox.submit(len, betterbox.submit(work.wait_for_file, str(gate)))
    failing: Any = betterbox.submit(work.raise_at, promise, len(str(gate)))
    for _ in range(2000):
        promise = betterbox.submit(work.add, promise, 1)
        failing = betterbox.submit(work.double, failing)
    heard = threading.Event()
    failing.add_done_callback(lambda _: heard.set())
    gate.touch()
    assert promise.result() == len(str(gate)) + 2000
    assert heard.wait(LONG)
    error = raised_by(failing.result)
    direct = raised_by(betterbox.submit(work.raise_at, 1, 1).result)
    assert type(error) is type(direct) and isinstance(error.__cause__, betterbox.RemoteError)
    assert lines_of(error) == lines_of(direct)


def test_an_error_does_not_grow_with_those_who_ask_for_it(cluster: LocalCluster) -> None:
    failed = betterbox.submit(work.raise_at, 1, 1)
    waiting = betterbox.submit(work.double, failed)
    future = Executor().submit(work.raise_at, 1, 1)
    many = betterbox.map(work.raise_at, [1], [1])
    asks: list[Callable[[], object]] = [failed.result, waiting.result, waiting.all, future.result, many.result, many.all]
    for ask in asks:
        sizes = {lines_of(raised_by(ask)) for _ in range(4)}
        assert len(sizes) == 1, ask


def test_ctrl_c_in_a_wait_for_a_chain_leaves_it_to_be_waited_for_again(gate: Path) -> None:
    last: Any = betterbox.submit(len, betterbox.submit(work.wait_for_file, str(gate)))
    interrupt = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    interrupt.start()
    with pytest.raises(KeyboardInterrupt):
        last.result()
    with pytest.raises(betterbox.CallTimeoutError):
        last.result(0)
    gate.touch()
    assert last.result(LONG) == len(str(gate))


# --- the end of a connection ------------------------------------------------------------------------


def test_closing_the_cluster_settles_everything_that_waits() -> None:
    cluster = LocalCluster(slots=1)
    executor = Executor()
    never = "/nowhere"
    promise = betterbox.submit(work.wait_for_file, never)
    several = betterbox.map(work.wait_for_file, [never] * 3)
    generated = betterbox.map(work.wait_for_file, (never for _ in range(3)))
    dependent = betterbox.submit(len, betterbox.submit(len, promise))
    mapped = executor.map(work.wait_for_file, [never])
    futures = [executor.submit(work.wait_for_file, never), executor.submit(len, dependent)]
    heard: list[object] = []
    for each in (promise, several, generated, dependent, *futures):
        each.add_done_callback(heard.append)  # type: ignore[attr-defined]

    async def awaited() -> Any:
        return await dependent

    waits: list[Callable[[], object]] = [
        promise.result,
        lambda: list(several),
        lambda: list(several.as_completed()),
        lambda: list(generated),
        several.any,
        dependent.result,
        lambda: asyncio.run(awaited()),
        lambda: list(mapped),
        futures[0].result,
    ]
    with concurrent.futures.ThreadPoolExecutor(len(waits) + 3) as threads:
        waiting = [threads.submit(wait) for wait in waits]
        quiet = [
            threads.submit(concurrent.futures.wait, futures),
            threads.submit(lambda: list(concurrent.futures.as_completed(futures))),
            threads.submit(executor.shutdown),
        ]
        wait_until(lambda: all(each.running() for each in (*waiting, *quiet)), "threads that wait")
        cluster.close()
        for each in waiting:
            with pytest.raises(BusError, match="closed its connection"):
                each.result(LONG)
        for one in quiet:
            one.result(LONG)
    wait_until(lambda: len(heard) == 6, lambda: f"each callback ran, but {len(heard)} of 6 did")
    promise.add_done_callback(heard.append)
    assert len(heard) == 7


def test_a_call_on_a_closed_connection_is_refused(cluster: LocalCluster) -> None:
    class ABox(betterbox.Box):
        def name(self) -> str:
            return "MyBox"

    with betterbox.serve(ABox, 8090, block=False):
        box = betterbox.RemoteBox.connect(8090)
        assert box.name().result() == "MyBox"
        _bus.close(cluster.bus)
        with pytest.raises(BusError, match="closed its connection"):
            box.name()


def test_what_waits_in_a_forked_child_fails_there_and_goes_on_in_its_parent(gate: Path) -> None:
    executor = Executor()
    heard: list[int] = []
    future = executor.submit(work.wait_for_file, str(gate))
    future.add_done_callback(lambda _: heard.append(os.getpid()))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            future.result(5)
        except BusError:
            executor.shutdown()
            code = len(heard)
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    gate.touch()
    assert future.result(LONG) == str(gate)
    wait_until(lambda: heard == [os.getpid()], "its callback")
