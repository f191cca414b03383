"""`Executor` behaves as concurrent.futures says."""

from __future__ import annotations

import asyncio
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, as_completed, wait
from pathlib import Path

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
    with Executor() as executor, pytest.raises(TimeoutError):
        list(executor.map(work.wait_for_file, [str(tmp_path / "never")], timeout=0.1))


def test_a_future_can_be_cancelled(tmp_path: Path) -> None:
    with Executor() as executor:
        started = tmp_path / "started"
        future = executor.submit(work.touch_and_wait, str(started))
        wait_until(started.exists, "it runs")
        assert future.cancel() and future.cancelled()
        with pytest.raises(CancelledError):
            future.result()


def test_shutdown_can_cancel_what_is_pending(tmp_path: Path) -> None:
    executor = Executor()
    futures = [executor.submit(work.wait_for_file, str(tmp_path / "never")) for _ in range(5)]
    executor.shutdown(cancel_futures=True)
    assert all(future.cancelled() for future in futures)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(work.noop, 1)


def test_asyncio_takes_it_as_an_executor() -> None:
    async def main(executor: Executor) -> int:
        loop = asyncio.get_running_loop()
        with pytest.raises(RuntimeError, match="StopIteration"):  # which asyncio's futures cannot hold
            await loop.run_in_executor(executor, next, iter(()))
        return await loop.run_in_executor(executor, work.double, 4)

    with Executor() as executor:
        assert asyncio.run(main(executor)) == 8
