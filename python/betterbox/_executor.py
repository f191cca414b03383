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
from threading import get_ident
from time import monotonic
from typing import Any, NoReturn, TypeVar

from betterbox import _bus, _end, _runners
from betterbox._callbacks import running_loop
from betterbox._errors import BusError
from betterbox._functions import FunctionOptions
from betterbox._options import DEFAULTS, Options
from betterbox._labels import label_of
from betterbox._pickling import REFS
from betterbox._promise import Promise
from betterbox._submissions import Submitted

__tracebackhide__ = True  # pytest shows the user's lines

T = TypeVar("T")
_NOT_THERE: Any = object()
_FETCH_ITEMS = 1024  # results that iteration takes at a time, if they are there
_executors: weakref.WeakSet[Executor] = weakref.WeakSet()
_interpreter_ends = False


class Executor(BaseExecutor):
    """A `concurrent.futures.Executor` whose work runs on the workers of the bus.

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
        if callable(options.get("cost")):  # map gives each item as one tuple of arguments
            options = {**options, "cost": _Starred(options["cost"])}
        self._mapping = FunctionOptions(Options(options))
        self._lock = threading.Lock()
        self._promises: dict[Future[Any], Promise[Any]] = {}
        self._shut_down = False
        _end.prepare()
        _executors.add(self)

    def __repr__(self) -> str:
        with self._lock:
            pending, over = len(self._promises), ", shut down" if self._shut_down else ""
        return f"<Executor of betterbox.{self._functions._options!r}, {pending} pending{over}>"

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
        future: Future[T] = _BusFuture(promise)
        with self._lock:
            self._promises[future] = promise
        call = promise._call
        if isinstance(call, Submitted):
            promise._connection.when_done(call, lambda: self._finish(future, promise))
        else:
            promise._when_done(lambda: self._finish(future, promise))
        return future

    def _finish(self, future: Future[Any], promise: Promise[Any]) -> None:
        with self._lock:
            self._promises.pop(future, None)
        call = promise._call
        if isinstance(call, Submitted):
            value = call.value(_NOT_THERE)
            if value is not _NOT_THERE:
                if future.set_running_or_notify_cancel():
                    future.set_result(value)
                return
        if promise.cancelled():
            future.cancel()
            future.set_running_or_notify_cancel()
            return
        if not future.set_running_or_notify_cancel():
            return
        try:
            value = promise.result(0)
        except BaseException as error:
            future.set_exception(error.with_traceback(None))
        else:
            future.set_result(value)

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
        if REFS in sys.modules:
            from betterbox._refs import as_argument, as_item

            items = list(map(as_item, items))
            fn = as_argument(fn)
        promise = self._mapping.map(_Starred(fn), items)
        with self._lock:
            marker: Future[Any] = Future()
            self._promises[marker] = promise
        promise._when_done(lambda: self._forget(marker))
        return _results(promise, len(items), deadline)

    def _refuse(self) -> NoReturn:
        raise RuntimeError(_end.REFUSAL if _interpreter_ends else "cannot schedule new futures after shutdown")

    def _forget(self, marker: Future[Any]) -> None:
        with self._lock:
            self._promises.pop(marker, None)
        marker.set_result(None)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work; wait for what there is, or cancel it."""
        with self._lock:
            self._shut_down = True
            pending = dict(self._promises)
        if cancel_futures:
            for promise in pending.values():
                promise.cancel()
        if wait and pending:
            from concurrent.futures import wait as wait_for

            wait_for(pending)


class _BusFuture(Future[T]):
    """A future that can be cancelled until its call has an outcome."""

    def __init__(self, promise: Promise[T]) -> None:
        super().__init__()
        self._promise = promise

    def cancel(self) -> bool:
        if not super().cancel():
            return False
        self._promise.cancel()
        return True

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What the call raised. On an asyncio loop, whose futures refuse `StopIteration`, that is told by a `RuntimeError`."""
        error = super().exception(timeout)
        if isinstance(error, StopIteration) and running_loop() is not None:
            told = RuntimeError("the call raised StopIteration")
            told.__cause__ = error
            return told
        return error

    def result(self, timeout: float | None = None) -> T:
        """As of any future; an error shows who asks now, not who asked before."""
        try:
            return super().result(timeout)
        except BaseException as error:
            if error is self._exception:  # type: ignore[attr-defined]
                raise error.with_traceback(None)
            raise

    def _invoke_callbacks(self) -> None:
        """Callbacks are the user's: they must not hold up the thread that settles futures."""
        if get_ident() not in _bus.settlers:
            super()._invoke_callbacks()  # type: ignore[misc]
        elif self._done_callbacks:  # type: ignore[attr-defined]
            _runners.user.run(self._run_callbacks)

    def _run_callbacks(self) -> None:
        for callback in self._done_callbacks:  # type: ignore[attr-defined]
            _runners.run_safely(lambda: callback(self), f"a callback of {self!r}")


class _Starred:
    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn = fn
        self.__name__ = label_of(fn)

    def __call__(self, item: tuple[Any, ...]) -> Any:
        return self.fn(*item)


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
        promise.cancel()


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
    return [future for executor in list(_executors) for future in list(executor._promises)]


def _after_fork() -> None:
    """What was submitted is the parent's: here it fails, and its callbacks are not called."""
    for executor in list(_executors):
        executor._lock = threading.Lock()
        pending, executor._promises = executor._promises, {}
        for future in pending:
            _fail_in_child(future)


def _fail_in_child(future: Future[Any]) -> None:
    future._condition = threading.Condition()  # type: ignore[attr-defined]  # another thread may have had it
    if future.cancelled() or future.done():
        return
    future._done_callbacks = []  # type: ignore[attr-defined]
    future._waiters = []  # type: ignore[attr-defined]
    future._state = "RUNNING"  # type: ignore[attr-defined]
    future.set_exception(BusError("this process was forked while the call was under way; its outcome goes to the parent"))


os.register_at_fork(after_in_child=_after_fork)
