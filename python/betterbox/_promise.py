"""`Promise`: what every call returns at once."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, TypeVar, Union, cast

from betterbox import _bus, _core
from betterbox._deferred import Deferred, FailedCall
from betterbox._errors import CallTimeoutError

if TYPE_CHECKING:
    from betterbox._explanation import Explanation
    from betterbox._progress import Bar
    from betterbox._submissions import Submitted

T = TypeVar("T")
R = TypeVar("R")

Shape = str
SINGLE: Shape = "single"
LIST: Shape = "list"
FOLD: Shape = "fold"

_NOT_THERE = object()

AnyCall = Union[_core.Call, FailedCall, "Submitted"]

_FETCH_ITEMS = 1024  # values that iteration takes at a time, if they are there
_LOOK_SECONDS = 5.0  # a wait that lasts longer looks whether anybody works


_making = threading.Lock()
_LAZY: dict[str, Callable[[], Any]] = {
    "_lock": threading.Lock,
    "_ready": deque,  # values of a generator call: taken, not handed out yet
    "_landing": lambda: Landing(),  # of a generator call: each item is handed out once
}


class Promise(Generic[T]):
    """The responses of a call: there, on their way, or never to come.

    Promises are made by calls on `RemoteBox` and its kin, by `submit` and by `map`. A promise that is dropped does not
    cancel its call.

    Examples
    --------
    >>> import betterbox
    >>> with betterbox.LocalCluster(slots=2):  # doctest: +SKIP
    ...     betterbox.map(abs, [-1, 2, -3]).compute(sum)
    6
    """

    # Most promises need none of these: they cost nothing until they are set.
    _shape = SINGLE
    _windowed = False
    _progress = False
    _folded: Callable[[list[Any]], Any] | None = None
    _call: AnyCall | None = None
    _deferred: Deferred | None = None
    _cursor = 0  # the next item that iteration hands out (generator calls)
    _consumed = False
    _feed_error: BaseException | None = None  # what the generator of the items raised
    _first: tuple[Any] | None = None
    _bar: Bar | None = None
    _explains: Callable[[], dict[str, Any]] | None = None  # fields that the scheduler does not know

    def __init__(
        self,
        connection: _bus.Connection,
        label: str,
        shape: Shape,
        *,
        windowed: bool = False,
        progress: bool = False,
        folded: Callable[[list[Any]], Any] | None = None,
    ) -> None:
        self._connection = connection
        self._label = label
        self._shape = shape
        self._windowed = windowed
        self._progress = progress
        self._folded = folded

    @classmethod
    def of_submission(cls, connection: _bus.Connection, call: Submitted) -> Promise[Any]:
        """The promise of a single submission: as little as possible."""
        promise: Promise[Any] = cls.__new__(cls)
        promise._connection = connection
        promise._call = call
        return promise

    def __getattr__(self, name: str) -> Any:
        """Made when first used: what only some promises need."""
        if name == "_label" and self._call is not None:
            return self._call.method
        if name not in _LAZY:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        with _making:
            return self.__dict__.setdefault(name, _LAZY[name]())

    # --- values ---

    def result(self, timeout: float | None = None) -> T:
        """The natural value: the response of one box, the list of a group or a spread, the fold of a reduction.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait at most.

        Raises
        ------
        CallTimeoutError
            If it is not there in time; the call goes on.
        Exception
            What the call raised; of several, the error of the lowest index.
        """
        if self._shape == SINGLE:
            call = self._call
            if isinstance(call, _core.Submission):
                value = call.value(_NOT_THERE)
                if value is not _NOT_THERE:
                    return cast(T, value)
            if timeout is None and type(call) is _core.Call and not self._progress:
                ok, value = self._answer(call)
            else:
                ok, value = self._started_call(timeout, 0).get(0)
            if not ok:
                raise value
            return cast(T, value)
        values = self._all_values(timeout)
        return cast(T, values[0] if self._shape == FOLD else values)

    def all(self, timeout: float | None = None, return_exceptions: bool = False) -> list[Any]:
        """All responses: one per box in join order, or one per item in item order.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait at most.
        return_exceptions : bool
            Put errors into the list instead of raising the one of the lowest index (after the others have finished).
        """
        return self._all_values(timeout, return_exceptions)

    def any(self, timeout: float | None = None) -> Any:
        """The first successful response to arrive; asked again, the same one.

        Raises
        ------
        ValueError
            If the call has no items.
        Exception
            If all have failed: the error of the lowest index.
        """
        with self._lock:
            if self._first is not None:
                return self._first[0]
        if self._shape == FOLD:
            return self.result(timeout)
        call = self._started_call(timeout, _core.ANY)
        index = call.first_success()
        if index is None:
            if call.total == 0:
                raise ValueError(f"{self._label}() was called for no items, so there is no first response")
            call.results()  # raises
            raise AssertionError("a call without success has an error")
        ok, value = call.get(index)
        assert ok
        with self._lock:
            if self._first is None:
                self._first = (value,)
            return self._first[0]

    def compute(self, fn: Callable[[list[Any]], R], timeout: float | None = None) -> R:
        """``fn(responses)``: a single value out of all of them.

        Examples
        --------
        >>> box.energy(spread(molecules)).compute(sum)  # doctest: +SKIP
        -76.4
        """
        return fn(self._all_values(timeout))

    def _all_values(self, timeout: float | None, return_exceptions: bool = False) -> list[Any]:
        if self._consumed:
            raise RuntimeError(
                "the results of this generator call were handed out by iterating it, and are gone; "
                "collect them where you iterate"
            )
        call = self._started_call(timeout, _core.ALL, freely=self._windowed)
        if self._folded is not None:
            try:
                return [self._folded(call.folds())]
            except Exception as error:
                if return_exceptions:
                    return [error]
                raise
        return call.outcomes() if return_exceptions else call.results()

    # --- waiting ---

    def _answer(self, call: _core.Call) -> tuple[bool, Any]:
        """What `call.get(0)` gives, after waiting for it."""
        while (answer := call.answer(_LOOK_SECONDS)) is None:
            self._look_after(call)
        return answer

    def _started_call(self, timeout: float | None, until: int, freely: bool = False) -> AnyCall:
        """The call, after waiting for `until` (see `_core.Call.wait`)."""
        deadline = None if timeout is None else monotonic() + timeout
        call = self._call
        if call is None:
            assert self._deferred is not None
            call = self._deferred.wait(deadline)
            if call is None:
                raise self._too_late(timeout)
        if freely:
            call.free_running(True)
        try:
            if not self._wait(call, until, deadline):
                raise self._too_late(timeout)
        finally:
            if freely:
                call.free_running(False)
        return call

    def _too_late(self, timeout: float | None) -> CallTimeoutError:
        return CallTimeoutError(
            f"{self._label}() had not finished after {timeout:g} s; it goes on: wait again, ask explain(), or cancel()"
        )

    def _wait(self, call: AnyCall, until: int, deadline: float | None) -> bool:
        if not self._progress:
            while True:
                left = _LOOK_SECONDS if deadline is None else min(_LOOK_SECONDS, max(0.0, deadline - monotonic()))
                there = call.wait(until, left)
                if there or (deadline is not None and monotonic() >= deadline):
                    return there
                self._look_after(call)
        if self._bar is None:
            from betterbox._progress import Bar

            self._bar = Bar(self._label)
        while True:
            left = 0.1 if deadline is None else min(0.1, max(0.0, deadline - monotonic()))
            there = call.wait(until, left)
            self._bar.show(call.settled, call.total, call.done())
            if there or (deadline is not None and monotonic() >= deadline):
                return there

    def _look_after(self, call: AnyCall) -> None:
        """A long wait for plain functions: the worker of a bus that started itself may have died."""
        if call.for_functions:
            from betterbox._functions import see_to_workers

            see_to_workers(self._connection)

    # --- one by one ---

    def __iter__(self) -> Iterator[Any]:
        """Values in order, each as soon as it is there.

        Of a generator call each is handed out once, and results not taken hold the generator back.
        """
        if self._folded is not None:
            return iter(self._all_values(None))
        return InOrder(self)

    def as_completed(self) -> Iterator[tuple[int, Any]]:
        """``(index, value)`` of each item as it lands."""
        if self._folded is not None:
            return iter([(0, self._all_values(None)[0])])
        return AsLanded(self)

    # --- the state ---

    def done(self) -> bool:
        """True once every item has an outcome."""
        return self._call is not None and self._call.done()

    def cancelled(self) -> bool:
        """True if `cancel` stopped something."""
        return self._call is not None and self._call.cancelled()

    def cancel(self) -> bool:
        """Drop what has no outcome yet; those items get `CallCancelledError`.

        Returns
        -------
        bool
            False if everything had an outcome already.
        """
        if self._call is None and self._deferred is not None:
            self._deferred.cancel(self._label)
        assert self._call is not None
        return self._call.cancel()

    def add_done_callback(self, fn: Callable[[Promise[T]], object]) -> None:
        """Call ``fn(promise)`` once it is done, on a background thread; at once if it is done now."""
        call = self._call
        if call is None:
            assert self._deferred is not None
            self._deferred.when_started(lambda: self.add_done_callback(fn))
        elif call.done() or isinstance(call, FailedCall):
            self._call_back(fn)
        else:
            self._connection.when_done(call, lambda: self._call_back(fn))

    def _call_back(self, fn: Callable[[Promise[T]], object]) -> None:
        try:
            fn(self)
        except Exception:
            _bus.report_ignored("a callback of a promise")

    def progress(self) -> tuple[int, int | None]:
        """``(done, total)``; the total is None while a generator still runs."""
        if self._call is None:
            return 0, None
        return self._call.settled, self._call.total

    def explain(self) -> Explanation:
        """Who did what: per worker items, busy time, retries and steals, makespan over ideal; and why what waits is
        waiting."""
        from betterbox._explanation import Explanation

        if self._call is None:
            return Explanation({"waiting": "for the promises among its arguments", "agents": []})
        more = self._explains() if self._explains is not None and not self.done() else {}
        return Explanation({**self._call.explain(5.0), **more})

    def __await__(self) -> Generator[Any, None, T]:
        import asyncio

        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not future.done():
                future.set_result(None)

        def landed(_: object) -> None:
            try:
                loop.call_soon_threadsafe(wake)
            except RuntimeError:
                pass  # the loop has been closed meanwhile

        if self._windowed and self._call is not None:
            self._call.free_running(True)
        self.add_done_callback(landed)
        yield from future
        return self.result(0)

    def __repr__(self) -> str:
        done, total = self.progress()
        state = "done" if self.done() else "waits for its arguments" if self._call is None else "pending"
        return f"<Promise of {self._label}(): {state}, {done} of {'?' if total is None else total}>"

    def __reduce__(self) -> Any:
        raise TypeError(
            "a Promise does not travel, except as an argument of a call itself: pass its result(), "
            "or pass it at the top level of the arguments"
        )

    # --- how they are made ---

    def start(self, make_call: Callable[[], AnyCall]) -> Promise[T]:
        """Begin the call now."""
        self._call = make_call()
        return self

    def defer(self, deferred: Deferred) -> Promise[T]:
        """Begin the call when the promises among its arguments are there."""
        self._deferred = deferred
        deferred.begin(self._set_call)
        return self

    def _set_call(self, call: AnyCall) -> None:
        self._call = call


class Landing:
    """Where somebody is who takes items as they land."""

    def __init__(self) -> None:
        self.arrivals = 0  # groups of items before
        self.items = 0  # of the group: before
        self.ready: deque[tuple[int, Any]] = deque()  # fetched, not handed out yet


class InOrder:
    """Iterates over a promise's values in item order. Goes on after an item that raised."""

    def __init__(self, promise: Promise[Any]) -> None:
        self._promise = promise
        self._call: AnyCall | None = None
        self._next = 0
        self._told = False
        self._ready: deque[Any] = promise._ready if promise._windowed else deque()

    def __iter__(self) -> InOrder:
        return self

    def __next__(self) -> Any:
        try:
            return self._ready.popleft()
        except IndexError:
            return self._fetch()

    def _fetch(self) -> Any:
        """The next value; further ones that are there wait in `_ready`."""
        promise = self._promise
        call = self._call
        if call is None:
            call = self._call = promise._call or promise._started_call(None, 0)
        index = promise._cursor if promise._windowed else self._next
        total = call.total
        if total is not None and index >= total:
            if promise._progress:
                promise._wait(call, _core.ALL, None)
            raise self._ending()
        promise._wait(call, index, None)
        if total is None:
            total = call.total
            if total is not None and index >= total:
                raise self._ending()
        values = call.values(index, _FETCH_ITEMS, promise._windowed)
        step = max(1, len(values))
        if promise._windowed:
            promise._consumed = True
            promise._cursor = index + step
        else:
            self._next = index + step
        if values:
            self._ready.extend(values[1:])
            return values[0]
        ok, value = call.take(index) if promise._windowed else call.get(index)
        if ok:
            return value
        raise value

    def _ending(self) -> BaseException:
        """What ends the iteration: what the generator raised, once, else StopIteration."""
        error = None if self._told else self._promise._feed_error
        self._told = True
        return error or StopIteration()


class AsLanded:
    """Iterates over ``(index, value)`` as they land. Goes on after an item that raised."""

    def __init__(self, promise: Promise[Any]) -> None:
        self._promise = promise
        self._place: Landing = promise._landing if promise._windowed else Landing()
        self._told = False

    def __iter__(self) -> AsLanded:
        return self

    def __next__(self) -> tuple[int, Any]:
        try:
            return self._place.ready.popleft()
        except IndexError:
            return self._fetch()

    def _fetch(self) -> tuple[int, Any]:
        """The next one; further ones that are there wait in `ready`."""
        promise = self._promise
        place = self._place
        call = promise._call or promise._started_call(None, _core.LANDED)
        while True:
            over = call.done()  # before the look: what lands until then is seen
            with promise._lock:
                if place.ready:  # of a generator call: another thread has been here
                    return place.ready.popleft()
                pairs, place.arrivals, place.items, failed = call.landed(
                    place.arrivals, place.items, _FETCH_ITEMS, promise._windowed
                )
                place.ready.extend(pairs[1:])
            if promise._windowed and (pairs or failed is not None):
                promise._consumed = True
            if pairs:
                return pairs[0]
            if failed is not None:
                ok, value = call.take(failed) if promise._windowed else call.get(failed)
                if ok:
                    return failed, value
                raise value
            if over:
                break
            promise._wait(call, _core.LANDED - place.arrivals, None)
        promise._wait(call, _core.ALL, None)
        error = None if self._told else promise._feed_error
        self._told = True
        raise error or StopIteration()
