"""`Executor` behaves as concurrent.futures says."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, as_completed, wait
from pathlib import Path
from typing import Any

import betterbox
import pytest
import work
from betterbox import Executor
from helpers import wait_until

pytestmark = pytest.mark.usefixtures("cluster")


def test_submit_gives_real_futures() -> None:
    with Executor() as executor:
        futures = [executor.submit(work.double, x) for x in range(10)]
        assert all(isinstance(future, Future) for future in futures)
        assert sorted(future.result() for future in as_completed(futures)) == [2 * x for x in range(10)]


def test_map_keeps_order_and_stops_at_the_shortest() -> None:
    with Executor() as executor:
        assert list(executor.map(work.add, range(5), [10, 20, 30])) == [10, 21, 32]


def test_errors_are_raised_by_result() -> None:
    with Executor() as executor:
        future = executor.submit(work.raise_at, 1, 1)
        assert isinstance(future.exception(), ValueError)
        with pytest.raises(ValueError):
            list(executor.map(lambda x: work.raise_at(x, 1), range(3)))


def test_wait_sees_the_first_to_finish(tmp_path: Path) -> None:
    with Executor() as executor:
        slow = executor.submit(work.wait_for_file, str(tmp_path / "gate"))
        fast = executor.submit(work.noop, 1)
        done, pending = wait([slow, fast], return_when=FIRST_COMPLETED)
        assert done == {fast} and pending == {slow}
        (tmp_path / "gate").touch()


def test_map_has_a_timeout(tmp_path: Path) -> None:
    with Executor() as executor:
        with pytest.raises(TimeoutError):
            list(executor.map(work.wait_for_file, [str(tmp_path / "gate")], timeout=0.1))
        (tmp_path / "gate").touch()  # what runs is waited for


def begin_and_wait(item: tuple[str, str]) -> str:
    """Leaves a mark when it begins; ends when there is a file `gate`, with another mark."""
    mark, gate = item
    Path(mark + ".began").touch()
    work.wait_for_file(gate)
    Path(mark + ".ended").touch()
    return mark


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[Executor, list[Future[str]], Callable[[str], int], Path]]:
    """Eight futures on two slots, two of which have begun; how many marks there are; and what ends those that run."""
    gate = tmp_path / "gate"
    count = lambda kind: len(list(tmp_path.glob(f"*.{kind}")))  # noqa: E731
    executor = Executor()
    futures = [executor.submit(begin_and_wait, (str(tmp_path / str(n)), str(gate))) for n in range(8)]
    wait_until(lambda: count("began") == 2, "two run")
    yield executor, futures, count, gate
    gate.touch()
    executor.shutdown(cancel_futures=True)


def test_a_future_is_running_once_its_call_has_begun(running: Any) -> None:
    _, futures, _, gate = running
    assert sorted(future.running() for future in futures) == [False] * 6 + [True] * 2
    assert not any(future.done() for future in futures)
    gate.touch()
    assert len(wait(futures).done) == 8
    assert not any(future.running() or future.cancel() for future in futures)


def test_only_what_has_not_begun_is_cancelled(running: Any) -> None:
    _, futures, count, gate = running
    begun = [future for future in futures if future.running()]
    others = [future for future in futures if not future.running()]
    outcomes = {future: future.cancel() for future in (*begun, *others[:2])}
    assert list(outcomes.values()) == [False, False, True, True]
    for future, cancelled in outcomes.items():
        assert future.cancelled() == cancelled == (not future.running()) == future.cancel()
    assert {future for future, cancelled in outcomes.items() if cancelled} == wait(outcomes, 0.05).done
    for future, cancelled in outcomes.items():
        if cancelled:
            with pytest.raises(CancelledError):
                future.result()
    gate.touch()
    assert len(wait(futures).done) == 8
    assert count("began") == count("ended") == 6


def test_shutdown_cancels_what_waits_and_waits_for_what_runs(running: Any) -> None:
    executor, futures, count, gate = running
    executor.shutdown(wait=False, cancel_futures=True)
    wait_until(lambda: sum(future.cancelled() for future in futures) == 6, "the others are cancelled")
    assert sum(future.running() for future in futures) == 2 and count("ended") == 0
    gate.touch()
    executor.shutdown()
    assert count("began") == count("ended") == 2
    assert sum(not future.cancelled() and future.exception() is None for future in futures) == 2
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(work.noop, 1)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.map(work.noop, [1])


def test_a_map_that_is_left_early_finishes_what_runs(tmp_path: Path) -> None:
    gate, first = tmp_path / "gate", tmp_path / "first"
    first.touch()
    items = [(str(tmp_path / str(n)), str(first if n == 0 else gate)) for n in range(8)]
    with Executor() as executor:
        for value in executor.map(begin_and_wait, items):
            assert value == items[0][0]
            wait_until(lambda: len(list(tmp_path.glob("*.began"))) == 3, "two more run")
            break
        (promise,) = executor._maps.values()
        wait_until(lambda: promise.progress()[0] == 6, "the others are cancelled")
        gate.touch()
    assert len(list(tmp_path.glob("*.began"))) == len(list(tmp_path.glob("*.ended"))) == 3


def test_shutdown_cancels_what_waits_of_a_map(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    executor = Executor()
    values = executor.map(begin_and_wait, [(str(tmp_path / str(n)), str(gate)) for n in range(8)])
    wait_until(lambda: len(list(tmp_path.glob("*.began"))) == 2, "two run")
    executor.shutdown(wait=False, cancel_futures=True)
    (promise,) = executor._maps.values()
    wait_until(lambda: promise.progress()[0] == 6, "the others are cancelled")
    gate.touch()
    executor.shutdown()
    assert len(list(tmp_path.glob("*.began"))) == len(list(tmp_path.glob("*.ended"))) == 2
    with pytest.raises(CancelledError):
        list(values)


def test_a_future_whose_arguments_are_promises_is_cancelled(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with Executor() as executor:
        future = executor.submit(work.add, betterbox.submit(work.wait_for_file, str(gate)), "!")
        assert not future.running() and future.cancel() and future.cancelled()
        gate.touch()


def test_nothing_is_kept_of_what_was_submitted() -> None:
    class Thing:
        def method(self) -> None: ...

    with Executor() as executor:
        thing = Thing()
        gone = weakref.ref(thing)
        future = executor.submit(thing.method)
        del thing
        future.result()
        wait_until(lambda: gone() is None, "the object is gone")


def test_thousands_of_futures_are_cancelled_at_once(running: Any) -> None:
    executor, futures, count, gate = running
    more = [executor.submit(work.noop, n) for n in range(5000)]
    gate.touch()
    executor.shutdown(cancel_futures=True)
    assert all(future.done() for future in (*futures, *more))
    assert all(future.cancelled() or future.exception() is None for future in more)


def test_asyncio_takes_it_as_an_executor() -> None:
    async def main(executor: Executor) -> int:
        loop = asyncio.get_running_loop()
        with pytest.raises(RuntimeError, match="StopIteration"):  # which asyncio's futures cannot hold
            await loop.run_in_executor(executor, next, iter(()))
        return await loop.run_in_executor(executor, work.double, 4)

    with Executor() as executor:
        assert asyncio.run(main(executor)) == 8


def test_it_tells_the_slots_of_the_bus_to_programs_that_cut_their_work_by_them() -> None:
    with betterbox.LocalCluster(slots=3):
        assert betterbox.Executor()._max_workers == 3
