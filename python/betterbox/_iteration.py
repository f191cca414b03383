"""Iterating a promise: values in item order, or pairs as they land, in loops with ``for`` and ``async for``.

An item that raises `StopIteration` or `StopAsyncIteration` would end the loop in silence: it raises a `RuntimeError`
whose cause it is, as generators do (PEP 479).

A promise that was iterated cancels its call when it is dropped together with its iterators: a loop that is left early
stops what it does not want any more.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from betterbox import _core
from betterbox._waiting import started, until

__tracebackhide__ = True  # pytest shows the user's lines

if TYPE_CHECKING:
    from betterbox._promise import AnyCall, Promise

_FETCH_ITEMS = 1024  # values that are taken at a time, if they are there
GONE = (
    "the results of this generator call were handed out by iterating it, and are gone; collect them where you iterate"
)


class Landing:
    """Where somebody is who takes items as they land."""

    def __init__(self) -> None:
        self.arrivals = 0  # groups of items before
        self.items = 0  # of the group: before
        self.ready: deque[tuple[int, Any]] = deque()  # fetched, not handed out yet


def begin(promise: Promise[Any]) -> bool:
    """Somebody iterates. Result: what is handed out is taken, which a generator call's results are once."""
    promise._cancel_if_dropped()
    call = promise._call
    if not promise._windowed:
        return False
    if call is None or not _is_handed_out(promise, call):
        return True
    if not call.keeps_all():
        raise RuntimeError(GONE)
    return False


def _is_handed_out(promise: Promise[Any], call: AnyCall) -> bool:
    """Nothing is left of a generator call; its last item may have ended the loop by its error."""
    if promise._ended or promise._ready:
        return promise._ended
    total = call.total
    return total is not None and 0 < total <= promise._cursor


def loop_error(error: BaseException, promise: Promise[Any]) -> BaseException:
    """What a loop raises for an item's error."""
    if not isinstance(error, (StopIteration, StopAsyncIteration)):
        return error
    told = RuntimeError(f"an item of {promise._label}() raised {type(error).__name__}")
    told.__cause__ = error
    return told


class _Loop:
    """What both ways to iterate have in common."""

    def __init__(self, promise: Promise[Any]) -> None:
        self._promise = promise
        self._take = begin(promise)
        self._told = False
        self._ready: deque[Any] = deque()  # fetched, not handed out yet

    def __iter__(self) -> _Loop:
        return self

    def __aiter__(self) -> _Loop:
        return self

    def __next__(self) -> Any:
        try:
            return self._ready.popleft()
        except IndexError:
            pass
        try:
            return self._fetch()
        except KeyboardInterrupt as interrupt:
            self._promise._interrupted(interrupt)
            raise interrupt
        finally:
            del self

    async def __anext__(self) -> Any:
        if not self._ready:
            call = await started(self._promise)
            await until(self._promise, call, lambda: self._is_there(call))
        try:
            return next(self)
        except StopIteration:
            raise StopAsyncIteration from None

    def _is_there(self, call: AnyCall) -> bool:
        """`_fetch` will not wait."""
        raise NotImplementedError

    def _fetch(self) -> Any:
        """The next one; further ones that are there wait in `_ready`."""
        raise NotImplementedError

    def _ending(self) -> BaseException:
        """What ends the iteration: what the generator raised, once, else StopIteration."""
        error = None if self._told else self._promise._feed_error
        self._told = True
        self._promise._ended = True
        return StopIteration() if error is None else loop_error(error, self._promise)


class InOrder(_Loop):
    """Iterates over a promise's values in item order. Goes on after an item that raised."""

    def __init__(self, promise: Promise[Any]) -> None:
        super().__init__(promise)
        self._call: AnyCall | None = None
        self._next = 0
        if self._take:
            self._ready = promise._ready

    @property
    def _index(self) -> int:
        """The next item to be fetched."""
        return self._promise._cursor if self._take else self._next

    def _went_on(self, count: int) -> None:
        if self._take:
            self._promise._consumed = True
            self._promise._cursor += count
        else:
            self._next += count

    def _is_there(self, call: AnyCall) -> bool:
        total = call.total
        return (total is not None and self._index >= total) or call.wait(self._index, 0.0)

    def _fetch(self) -> Any:
        promise = self._promise
        value: Any = None
        try:
            call = self._call
            if call is None:
                call = self._call = promise._call or promise._started_call(None, 0)
            while True:
                total = call.total
                if total is None or self._index < total:
                    promise._wait(call, self._index, None)
                    total = call.total
                if total is not None and self._index >= total:
                    if promise._progress:
                        promise._wait(call, _core.ALL, None)
                    value = self._ending()
                    break
                values = call.values(self._index, _FETCH_ITEMS, self._take)
                if values:
                    self._went_on(len(values))
                    self._ready.extend(values)
                    return self._ready.popleft()
                index = self._index
                self._went_on(1)
                try:
                    ok, value = call.take(index) if self._take else call.get(index)
                except IndexError:  # another iterator of a generator call has handed it out
                    continue
                if ok:
                    return value
                value = loop_error(value, promise)
                break
            raise value
        finally:  # no cycles with the exception; nothing that was handed out stays
            del self, promise, value


class AsLanded(_Loop):
    """Iterates over ``(index, value)`` as they land. Goes on after an item that raised."""

    def __init__(self, promise: Promise[Any]) -> None:
        super().__init__(promise)
        self._place = promise._landing if self._take else Landing()
        self._ready = self._place.ready

    def _is_there(self, call: AnyCall) -> bool:
        return call.wait(_core.LANDED - self._place.arrivals, 0.0)

    def _fetch(self) -> Any:
        promise = self._promise
        place = self._place
        value: Any = None
        try:
            call = promise._call or promise._started_call(None, _core.LANDED)
            while True:
                over = call.done()  # before the look: what lands until then is seen
                with promise._lock:
                    if place.ready:  # of a generator call: another thread has been here
                        return place.ready.popleft()
                    pairs, place.arrivals, place.items, failed = call.landed(
                        place.arrivals, place.items, _FETCH_ITEMS, self._take
                    )
                    place.ready.extend(pairs)
                    if self._take and (pairs or failed is not None):
                        promise._consumed = True
                    if pairs:
                        return place.ready.popleft()
                if failed is not None:
                    ok, value = call.take(failed) if self._take else call.get(failed)
                    if ok:
                        return failed, value
                    value = loop_error(value, promise)
                    break
                if over:
                    promise._wait(call, _core.ALL, None)
                    value = self._ending()
                    break
                promise._wait(call, _core.LANDED - place.arrivals, None)
            raise value
        finally:
            del self, promise, value
