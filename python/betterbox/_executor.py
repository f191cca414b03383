"""`Executor`: the bus behind the interface of `concurrent.futures`."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor as BaseExecutor
from concurrent.futures import Future
from contextlib import suppress
from itertools import islice
from threading import get_ident
from time import monotonic
from typing import Any, NoReturn, TypeVar

from betterbox import _bus, _core, _end, _runners
from betterbox._callbacks import running_loop
from betterbox._errors import BusError, CallTimeoutError
from betterbox._functions import FunctionOptions, see_to_workers
from betterbox._options import DEFAULTS, Options
from betterbox._promise import Promise
from betterbox._submissions import Submitted

__tracebackhide__ = True  # pytest shows the user's lines

T = TypeVar("T")
_NOT_THERE: Any = object()
_ASK_SECONDS = 5.0  # for the bus to tell what has begun
_ASK_AGAIN_SECONDS = 0.005  # what it told is believed for so long: programs ask for each of many futures
_MOST_ASKED = 256  # at a time
_FETCH_ITEMS = 1024  # results that iteration takes at a time, if they are there
_executors: weakref.WeakSet[Executor] = weakref.WeakSet()
_interpreter_ends = False


class Executor(BaseExecutor):
    """A `concurrent.futures.Executor` whose work runs on the workers of the bus.

    Its futures behave as the standard's: what has begun is running and cannot be cancelled, and finishes. `running`, `cancel`
    and ``shutdown(cancel_futures=True)`` ask the bus what has begun, which takes a message there and back.

    Parameters
    ----------
    **options
        As in `betterbox.options`.

    Examples
    --------
    >>> import betterbox
    >>> with betterbox.Executor() as executor:  # doctest: +SKIP
    ...     executor.submit(pow, 2, 10).result()
    1024
    """

    @_end.way_in
    def __init__(self, **options: Any) -> None:
        self._functions = FunctionOptions(Options(options) if options else DEFAULTS)
        self._mapping = FunctionOptions(Options(options))
        self._lock = threading.Lock()
        self._pending: dict[_BusFuture[Any], None] = {}
        self._maps: dict[Future[Any], Promise[Any]] = {}
        self._shut_down = False
        self._asked_at = 0.0
        _end.prepare()
        _executors.add(self)

    def __repr__(self) -> str:
        with self._lock:
            pending, over = len(self._pending) + len(self._maps), ", shut down" if self._shut_down else ""
        return f"<Executor of betterbox.{self._functions._options!r}, {pending} pending{over}>"

    @property
    def _max_workers(self) -> int:
        """Slots on the bus now, at least 1: dask cuts the work that it gives an executor into this many parts."""
        connection = _bus.current()
        see_to_workers(connection)
        peers = connection.client.status(_ASK_SECONDS)["peers"]
        slots: int = sum(peer["slots"] for peer in peers if peer["role"] == "worker" and peer["connected"])
        return max(1, slots)

    @_end.way_in
    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Run ``fn(*args, **kwargs)`` on a worker.

        Returns
        -------
        concurrent.futures.Future
            A real one: `wait`, `as_completed` and `asyncio.wrap_future` take it.
        """
        with self._lock:
            if self._shut_down or _interpreter_ends:
                self._refuse()
        promise = self._functions.submit(fn, *args, **kwargs)
        future: _BusFuture[T] = _BusFuture(self, promise)
        with self._lock:
            self._pending[future] = None
        call = promise._call
        if isinstance(call, Submitted):
            promise._connection.when_done(call, lambda: self._finish(future, promise))
        else:
            promise._when_done(lambda: self._finish(future, promise))
        return future

    def _finish(self, future: _BusFuture[Any], promise: Promise[Any]) -> None:
        with self._lock:
            self._pending.pop(future, None)
        future.promise = None
        call = promise._call
        if isinstance(call, Submitted):
            value = call.value(_NOT_THERE)
            if value is not _NOT_THERE:
                if self._begin(future):
                    future.set_result(value)
                return
        if promise.cancelled():
            Future.cancel(future)
        if not self._begin(future):
            return
        try:
            value = promise.result(0)
        except BaseException as error:
            future.set_exception(error.with_traceback(None))
        else:
            future.set_result(value)

    # --- what has begun ---

    def _begin(self, future: _BusFuture[Any]) -> bool:
        """It is running from now on, if it was not before. Result: False if it was cancelled."""
        with self._lock:
            if future.begun is None:
                future.begun = future.set_running_or_notify_cancel()
            return future.begun

    def _look(self, future: _BusFuture[Any]) -> None:
        """Ask the bus whether this one has begun, and those that others may ask for next."""
        now = monotonic()
        if now - self._asked_at < _ASK_AGAIN_SECONDS:
            return
        self._asked_at = now
        with self._lock:
            waiting = list(islice((each for each in self._pending if each.begun is None), _MOST_ASKED))
        self._ask({*waiting, future}, withdraw=False)

    def _ask(self, futures: Iterable[_BusFuture[Any]], withdraw: bool) -> None:
        """Ask the bus which of these have begun. `withdraw`: those that have not are cancelled."""
        asked: dict[Any, list[tuple[_BusFuture[Any], Submitted]]] = {}
        for future in futures:
            promise = future.promise
            if promise is None:
                continue
            if isinstance(promise._call, Submitted):
                asked.setdefault(promise._connection.client, []).append((future, promise._call))
            elif withdraw and promise.cancel():  # it waits for others, or is one for several ranks
                Future.cancel(future)
        for client, pairs in asked.items():
            begun = _core.begun(client, [call for _, call in pairs], withdraw, _ASK_SECONDS)
            for (future, call), has_begun in zip(pairs, begun):
                if has_begun:
                    self._begin(future)
                elif withdraw and call.cancelled():
                    Future.cancel(future)

    @_end.way_in
    def map(
        self, fn: Callable[..., T], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1
    ) -> Iterator[T]:
        """Results of ``fn`` on each item (of several iterables: zipped, to the shortest), in order.

        Parameters
        ----------
        timeout : float, optional
            Seconds from now until the last result.
        chunksize : int
            Taken for compatibility: the bus cuts the work by itself.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        with self._lock:
            if self._shut_down or _interpreter_ends:
                self._refuse()
        deadline = None if timeout is None else monotonic() + timeout
        items = list(zip(*iterables))
        columns = [[item[i] for item in items] for i in range(len(items[0]))] if items else [[]]
        promise = self._mapping.map(fn, *columns)
        marker: Future[Any] = Future()
        with self._lock:
            self._maps[marker] = promise
        promise._when_done(lambda: self._forget(marker))
        return _results(promise, len(items), deadline)

    def _refuse(self) -> NoReturn:
        raise RuntimeError(_end.REFUSAL if _interpreter_ends else "cannot schedule new futures after shutdown")

    def _forget(self, marker: Future[Any]) -> None:
        with self._lock:
            self._maps.pop(marker, None)
        marker.set_result(None)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work; wait for what there is.

        Parameters
        ----------
        wait : bool
            Return when all is done.
        cancel_futures : bool
            Cancel what has not begun.
        """
        with self._lock:
            self._shut_down = True
            pending, maps = list(self._pending), dict(self._maps)
        if cancel_futures:
            self._ask(pending, withdraw=True)
            for promise in maps.values():
                _withdraw(promise)
        if wait and (pending or maps):
            from concurrent.futures import wait as wait_for

            wait_for([*pending, *maps])


class _BusFuture(Future[T]):
    """Whether its call has begun is known on the bus: it is asked when somebody wants to know."""

    def __init__(self, executor: Executor, promise: Promise[T]) -> None:
        super().__init__()
        self.promise: Promise[T] | None = promise  # until it is done
        self.begun: bool | None = None  # False: it was cancelled
        self._executor = executor

    def running(self) -> bool:
        """True if the call has begun and is not done."""
        if self.begun is None:
            self._executor._look(self)
        return super().running()

    def cancel(self) -> bool:
        """Cancel the call, unless it has begun (or nobody can tell now)."""
        if self.begun is None:
            self._executor._ask([self], withdraw=True)
        return self.cancelled()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What the call raised. On an asyncio loop, whose futures refuse `StopIteration`, that is told by a `RuntimeError`."""
        error = super().exception(self._wait(timeout))
        if isinstance(error, StopIteration) and running_loop() is not None:
            told = RuntimeError("the call raised StopIteration")
            told.__cause__ = error
            return told
        return error

    def result(self, timeout: float | None = None) -> T:
        """As of any future; an error shows who asks now, not who asked before."""
        left = self._wait(timeout)
        try:
            return super().result(left)
        except BaseException as error:
            if error is self._exception:  # type: ignore[attr-defined]
                raise error.with_traceback(None)
            raise

    def _wait(self, timeout: float | None) -> float | None:
        """Wait as for a promise, which the bus is told: who waits for itself hears of it. Result: what is left of `timeout`."""
        promise = self.promise
        if promise is None or self.done():
            return timeout
        deadline = None if timeout is None else monotonic() + timeout
        with suppress(CallTimeoutError):
            promise._started_call(timeout, 0)
        return None if deadline is None else max(0.0, deadline - monotonic())

    def _invoke_callbacks(self) -> None:
        """Callbacks are the user's: they must hold up neither a thread of ours nor one that waits for a result, and settles
        the future itself where its call has begun late. Who cancels runs them, as everywhere."""
        if self.cancelled() and get_ident() not in _bus.settlers:
            super()._invoke_callbacks()  # type: ignore[misc]
        elif self._done_callbacks:  # type: ignore[attr-defined]
            _runners.user.run(self._run_callbacks)

    def _run_callbacks(self) -> None:
        for callback in self._done_callbacks:  # type: ignore[attr-defined]
            _runners.run_safely(lambda: callback(self), f"a callback of {self!r}")


def _withdraw(promise: Promise[Any]) -> None:
    """What has not begun is cancelled."""
    call = promise._call
    if isinstance(call, _core.Call):
        call.withdraw()
    else:
        promise.cancel()


def _results(promise: Promise[list[T]], count: int, deadline: float | None) -> Iterator[T]:
    """Keeps nothing that it has handed out."""
    ready: deque[T] = deque()
    try:
        for index in range(count):
            if not ready:
                left = None if deadline is None else max(0.0, deadline - monotonic())
                call = promise._started_call(left, index)
                ready.extend(call.values(index, _FETCH_ITEMS, True))
                if not ready:
                    ready.append(_taken(call, index))
            yield ready.popleft()
    finally:
        _withdraw(promise)


def _taken(call: Any, index: int) -> Any:
    ok, value = call.take(index)
    if ok:
        return value
    try:
        raise value
    finally:  # no cycle with the exception
        del value


# --- the end of the process, and forks of it --------------------------------------------------------


def finish_all() -> None:
    """At the end of the interpreter: take no more work, and wait for what there is, and for its callbacks; Ctrl-C ends the
    wait."""
    global _interpreter_ends
    from concurrent.futures import wait

    pending: list[Future[Any]] = []
    waited = False
    try:
        _interpreter_ends = True
        while pending := _pending():
            waited = True
            wait(pending)
        if waited:
            _runners.user.flush(None)
    except KeyboardInterrupt:
        print(f"betterbox: interrupted at the end, so {len(pending)} calls of executors are dropped", file=sys.stderr)


def _pending() -> list[Future[Any]]:
    return [future for executor in list(_executors) for future in (*list(executor._pending), *list(executor._maps))]


def _after_fork() -> None:
    """What was submitted is the parent's: here it fails, and its callbacks are not called."""
    for executor in list(_executors):
        executor._lock = threading.Lock()
        pending, executor._pending = executor._pending, {}
        maps, executor._maps = executor._maps, {}
        for future in pending:
            future.promise = None
        for each in (*pending, *maps):
            _fail_in_child(each)


def _fail_in_child(future: Future[Any]) -> None:
    future._condition = threading.Condition()  # type: ignore[attr-defined]  # another thread may have had it
    if future.cancelled() or future.done():
        return
    future._done_callbacks = []  # type: ignore[attr-defined]
    future._waiters = []  # type: ignore[attr-defined]
    future._state = "RUNNING"  # type: ignore[attr-defined]
    future.set_exception(BusError("this process was forked while the call was under way; its outcome goes to the parent"))


os.register_at_fork(after_in_child=_after_fork)
