"""Waiting for several promises at once (`as_completed`, `wait`), and for one of them on an asyncio loop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from queue import Empty, SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from betterbox._errors import CallTimeoutError

__tracebackhide__ = True  # pytest shows the user's lines

if TYPE_CHECKING:
    from betterbox._promise import AnyCall, Promise

_LOOK_SECONDS = 5.0  # a wait that lasts longer looks whether anybody works
FIRST_COMPLETED, FIRST_EXCEPTION, ALL_COMPLETED = "FIRST_COMPLETED", "FIRST_EXCEPTION", "ALL_COMPLETED"


class DoneAndNotDone(NamedTuple):
    """What `wait` gives: two sets."""

    done: set[Any]
    not_done: set[Any]


class _Group:
    """Promises (and futures) that somebody waits for; `next` gives each once it is done.

    Callbacks hold a number, not the promise: nothing that was handed out stays.
    """

    def __init__(self, promises: Iterable[Any]) -> None:
        self.waiting: dict[int, Any] = dict(enumerate(dict.fromkeys(promises)))
        self._done: SimpleQueue[int] = SimpleQueue()
        self._callbacks: dict[int, Callable[..., None]] = {}
        for number, each in self.waiting.items():
            self._callbacks[number] = callback = _Tell(self._done, number)
            _when_done(each, callback)

    def next(self, deadline: float | None) -> Any:
        """One more that is done; raises `queue.Empty` at the deadline (of `time.monotonic`)."""
        try:
            return self._next(deadline)
        except KeyboardInterrupt as interrupt:
            interrupt.__traceback__ = None  # the frames of the wait would keep what it waited for
            self._give_up()
            raise interrupt

    def _next(self, deadline: float | None) -> Any:
        while True:
            left = _LOOK_SECONDS if deadline is None else min(_LOOK_SECONDS, max(0.0, deadline - monotonic()))
            try:
                number = self._done.get(timeout=left)
            except Empty:
                if deadline is not None and monotonic() >= deadline:
                    raise
                for each in self.waiting.values():
                    _look_after(each)
                    break
                continue
            self._callbacks.pop(number, None)
            return self.waiting.pop(number)

    def _give_up(self) -> None:
        """Who does not keep what was waited for does not want it any more."""
        self.leave()
        for each in self.waiting.values():
            cancel_if_dropped = getattr(each, "_cancel_if_dropped", None)
            if cancel_if_dropped is not None:
                cancel_if_dropped()
        self.waiting.clear()

    def leave(self) -> None:
        """Nobody waits any more."""
        for number, callback in self._callbacks.items():
            forget = getattr(self.waiting.get(number), "_forget_when_done", None)
            if forget is not None:
                forget(callback)


class _Tell:
    __slots__ = ("_queue", "_number")

    def __init__(self, queue: SimpleQueue[int], number: int) -> None:
        self._queue = queue
        self._number = number

    def __call__(self, *_: object) -> None:
        self._queue.put(self._number)


def _when_done(each: Any, callback: Callable[..., None]) -> None:
    when_done = getattr(each, "_when_done", None) or getattr(each, "add_done_callback", None)
    if when_done is None:
        raise TypeError(f"promises (or futures) are needed, not {each!r}")
    when_done(callback)


def _look_after(each: Any) -> None:
    call = getattr(each, "_call", None)
    if call is not None and hasattr(each, "_look_after"):
        each._look_after(call)


def as_completed(promises: Iterable[Promise[Any]], timeout: float | None = None) -> Iterator[Promise[Any]]:
    """The promises, each once it is done: those that are done first come first.

    Parameters
    ----------
    promises : iterable of Promise
        What is given twice comes once. Futures of an `Executor` may be among them.
    timeout : float, optional
        Seconds from now until the last one.

    Raises
    ------
    CallTimeoutError
        By the iteration, if they are not all done in time. The calls go on.

    Examples
    --------
    >>> import betterbox
    >>> promises = [betterbox.submit(pow, 2, n) for n in range(3)]  # doctest: +SKIP
    >>> sorted(promise.result() for promise in betterbox.as_completed(promises))  # doctest: +SKIP
    [1, 2, 4]
    """
    deadline = None if timeout is None else monotonic() + timeout
    return _completed(_Group(promises), timeout, deadline)


def _completed(group: _Group, timeout: float | None, deadline: float | None) -> Iterator[Any]:
    total = len(group.waiting)
    try:
        while group.waiting:
            try:
                yield group.next(deadline)
            except Empty:
                raise CallTimeoutError(
                    f"{len(group.waiting)} of {total} promises were not done after {timeout:g} s; they go on"
                ) from None
    finally:
        group.leave()


def wait(
    promises: Iterable[Promise[Any]], timeout: float | None = None, return_when: str = ALL_COMPLETED
) -> DoneAndNotDone:
    """Wait until promises are done.

    Parameters
    ----------
    promises : iterable of Promise
        Futures of an `Executor` may be among them.
    timeout : float, optional
        Seconds to wait at most; what is done then is told without an error.
    return_when : {"ALL_COMPLETED", "FIRST_COMPLETED", "FIRST_EXCEPTION"}
        As in `concurrent.futures.wait`.

    Returns
    -------
    tuple
        Two sets: ``done``, ``not_done``.

    Examples
    --------
    >>> import betterbox
    >>> promises = [betterbox.submit(pow, 2, n) for n in range(3)]  # doctest: +SKIP
    >>> done, not_done = betterbox.wait(promises, return_when="FIRST_COMPLETED")  # doctest: +SKIP
    """
    if return_when not in (FIRST_COMPLETED, FIRST_EXCEPTION, ALL_COMPLETED):
        raise ValueError(f"return_when must be ALL_COMPLETED, FIRST_COMPLETED or FIRST_EXCEPTION, not {return_when!r}")
    deadline = None if timeout is None else monotonic() + timeout
    promises = list(promises)
    done = {each for each in promises if each.done()}
    waiting = set(promises) - done
    if not waiting or _is_enough(done, return_when):
        return DoneAndNotDone(done, waiting)
    group = _Group(waiting)
    del promises, waiting  # who interrupts the wait drops what nobody else has
    try:
        while group.waiting:
            fresh = group.next(deadline)
            done.add(fresh)
            if _is_enough({fresh}, return_when):
                break
    except Empty:
        pass
    finally:
        group.leave()
    return DoneAndNotDone(done, set(group.waiting.values()))


def _is_enough(done: set[Any], return_when: str) -> bool:
    if return_when == FIRST_COMPLETED:
        return bool(done)
    return return_when == FIRST_EXCEPTION and any(not each.cancelled() and each.exception() is not None for each in done)


# --- on an asyncio loop -----------------------------------------------------------------------------


def waker(loop: Any, future: Any) -> Callable[..., None]:
    """Ends the wait for a future of an asyncio loop, from any thread."""

    def wake() -> None:
        if not future.done():
            future.set_result(None)

    def call(*_: object) -> None:
        try:
            loop.call_soon_threadsafe(wake)
        except RuntimeError:
            pass  # the loop has been closed meanwhile

    return call


async def started(promise: Promise[Any]) -> AnyCall:
    """The call, once what it waits for is there."""
    import asyncio

    if promise._call is None:
        assert promise._deferred is not None
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        promise._deferred.when_started(waker(loop, future))
        await future
    assert promise._call is not None
    return promise._call


async def until(promise: Promise[Any], call: AnyCall, is_there: Callable[[], bool]) -> None:
    """Wait until `is_there()`, which may change when something of the call lands."""
    if is_there():
        return
    import asyncio

    loop = asyncio.get_running_loop()
    while True:
        future = loop.create_future()
        promise._connection.when_landed(call, waker(loop, future))
        if is_there():  # it has landed in between
            return
        await future


# --- what concurrent.futures.wait and as_completed look at -------------------------------------------


def stand_in(promise: Promise[Any]) -> None:
    """Give a promise `_condition`, `_waiters` and `_state`, as `concurrent.futures` looks for in any future."""
    import weakref

    condition = threading.Condition()
    fields = {"_waiters": [], "_state": "PENDING", "_condition": condition}
    with promise._lock:
        if "_condition" in promise.__dict__:
            return
        promise.__dict__.update(fields)
    found = weakref.ref(promise)
    promise._when_done(lambda *_: _tell_waiters(found()))


def _tell_waiters(promise: Promise[Any] | None) -> None:
    if promise is None:
        return
    with promise._condition:
        cancelled = promise.cancelled()
        promise._state = "CANCELLED_AND_NOTIFIED" if cancelled else "FINISHED"
        for waiter in promise._waiters:
            if cancelled:
                waiter.add_cancelled(promise)
            elif getattr(waiter, "stop_on_exception", False) and promise.exception() is not None:
                waiter.add_exception(promise)
            else:
                waiter.add_result(promise)
        promise._condition.notify_all()
