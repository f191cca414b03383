"""`Promise`: what every call returns at once."""

from __future__ import annotations

import functools
import threading
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from time import monotonic
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, Union, cast

from betterbox import _bus, _core
from betterbox._callbacks import Callbacks
from betterbox._deferred import Deferred, FailedCall
from betterbox._errors import CallTimeoutError
from betterbox._iteration import GONE, AsLanded, InOrder, Landing
from betterbox._printable import printable
from betterbox._waiting import stand_in, waker

__tracebackhide__ = True  # pytest shows the user's lines

if TYPE_CHECKING:
    from betterbox._explanation import Explanation
    from betterbox._progress import Bar
    from betterbox._submissions import Submitted

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")

Shape = str
SINGLE: Shape = "single"
LIST: Shape = "list"
FOLD: Shape = "fold"

_NOT_THERE = object()

AnyCall = Union[_core.Call, FailedCall, "Submitted"]

_LOOK_SECONDS = 5.0  # a wait that lasts longer looks whether anybody works


def _interruptible(wait: Callable[Concatenate[Promise[Any], P], R]) -> Callable[Concatenate[Promise[Any], P], R]:
    """A wait that may be interrupted (`result`, which is called most, has the same inside)."""

    @functools.wraps(wait)
    def interruptible(self: Promise[Any], /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return wait(self, *args, **kwargs)
        except KeyboardInterrupt as interrupt:
            self._interrupted(interrupt)
            raise interrupt  # `raise` alone brings the frames back in Python 3.10
        finally:
            del self

    return interruptible


_making = threading.Lock()
_LAZY: dict[str, Callable[[], Any]] = {
    "_lock": threading.Lock,
    "_ready": deque,  # values of a generator call: taken, not handed out yet
    "_landing": Landing,  # of a generator call: each item is handed out once
    "_callbacks": Callbacks,
}
_STAND_IN = ("_condition", "_waiters", "_state")

_SHOWN_ITEMS = 16  # that `repr` looks at


class Promise(Generic[T]):
    """The responses of a call: there, on their way, or never to come.

    Promises are made by calls on `RemoteBox` and its kin, by `submit` and by `map`. A promise that is dropped does not
    cancel its call, unless it was iterated, or a wait for it was interrupted (Ctrl-C, an ``await`` that was cancelled):
    nobody can want the rest then. One that is kept goes on, and can be waited for again.

    `concurrent.futures.wait` and `as_completed`, and what asyncio has for awaitables and futures, take promises, too.

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
    _name: str | None = None  # that the user gave the call
    _folded: Callable[[list[Any]], Any] | None = None
    _call: AnyCall | None = None
    _deferred: Deferred | None = None
    _cursor = 0  # the next item that iteration hands out (generator calls)
    _consumed = False
    _ended = False  # iteration of a generator call came to the end
    _feed_error: BaseException | None = None  # what the generator of the items raised
    _first: tuple[Any] | None = None
    _bar: Bar | None = None
    _explains: Callable[[], dict[str, Any]] | None = None  # fields that the scheduler does not know
    _callbacks: Callbacks
    _guard: Guard
    _condition: threading.Condition  # these three: see `stand_in`
    _waiters: list[Any]
    _state: str

    def __init__(
        self,
        connection: _bus.Connection,
        label: str,
        shape: Shape,
        *,
        windowed: bool = False,
        progress: bool = False,
        folded: Callable[[list[Any]], Any] | None = None,
        name: str | None = None,
    ) -> None:
        self._connection = connection
        self._label = label
        self._shape = shape
        self._windowed = windowed
        self._progress = progress
        self._folded = folded
        if name is not None:
            self._name = name

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
        if name in _STAND_IN:
            stand_in(self)
            return self.__dict__[name]
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
        value: Any = None
        try:
            if self._shape != SINGLE:
                value = self._all_values(timeout)
                return cast(T, value[0] if self._shape == FOLD else value)
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
                raise value.with_traceback(None)  # raised anew: it shows the caller, not who asked before
            return cast(T, value)
        except KeyboardInterrupt as interrupt:
            self._interrupted(interrupt)
            raise interrupt  # `raise` alone brings the frames back in Python 3.10
        finally:  # no cycles with an exception
            del self, value

    @_interruptible
    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What `result` raises once the call is done, or None.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait at most.

        Raises
        ------
        CallTimeoutError
            If it is not done in time; the call goes on.
        CallCancelledError
            If it was cancelled.
        """
        self._finished_call(timeout)
        try:
            self.result()
        except BaseException as error:
            if self.cancelled():
                raise
            return error
        return None

    @_interruptible
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

    @_interruptible
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

    @_interruptible
    def compute(self, fn: Callable[[list[Any]], R], timeout: float | None = None) -> R:
        """``fn(responses)``: a single value out of all of them.

        Examples
        --------
        >>> box.energy(spread(molecules)).compute(sum)  # doctest: +SKIP
        -76.4
        """
        return fn(self._all_values(timeout))

    def _all_values(self, timeout: float | None, return_exceptions: bool = False) -> list[Any]:
        call = self._finished_call(timeout)
        if self._folded is None:
            if return_exceptions:
                return call.outcomes()
            try:
                return call.results()
            except BaseException as error:
                raise error.with_traceback(None)
        try:
            parts = call.folds()
        except BaseException as error:
            if return_exceptions:
                return [error]
            raise
        try:
            return [self._folded(parts)]
        except Exception as error:
            if return_exceptions:
                return [error]
            raise

    def _finished_call(self, timeout: float | None) -> AnyCall:
        """The call, after waiting for all of it."""
        if self._consumed:
            raise RuntimeError(GONE)
        return self._started_call(timeout, _core.ALL, freely=self._windowed)

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

            self._bar = Bar(self._name or self._label)
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

    def _interrupted(self, interrupt: KeyboardInterrupt) -> None:
        """A wait was interrupted. Who does not keep this promise does not want the call any more."""
        interrupt.__traceback__ = None  # the frames of the wait would keep it
        self._cancel_if_dropped()

    def _cancel_if_dropped(self) -> None:
        """From now on the call is cancelled when nobody has this promise any more, and so are those that it waits for."""
        left: list[Promise[Any]] = [self]
        while left:
            promise = left.pop()
            if "_guard" in promise.__dict__:
                continue
            call, deferred = promise._call, promise._deferred
            promise._guard = Guard(call, deferred if call is None else None, promise._label)
            if call is None and deferred is not None:
                left.extend(deferred._waiting_for)

    # --- one by one ---

    def __iter__(self) -> Iterator[Any]:
        """Values in order, each as soon as it is there.

        Of a generator call each is handed out once, and results not taken hold the generator back. If they were few
        (1 MiB), a second loop gets them again; else it raises `RuntimeError`.
        """
        if self._folded is not None:
            return iter(self._all_values(None))
        return InOrder(self)

    def __aiter__(self) -> AsyncIterator[Any]:
        """The same for ``async for``."""
        return self._folded_later() if self._folded is not None else InOrder(self)

    async def _folded_later(self) -> AsyncIterator[Any]:
        yield await self

    def as_completed(self) -> Any:
        """``(index, value)`` of each item as it lands, for ``for`` and ``async for``."""
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

    def add_done_callback(self, fn: Callable[[Promise[T]], object], *, context: Any = None) -> None:
        """Call ``fn(promise)`` once it is done; at once if it is done now.

        Else it runs on a thread for callbacks, one after the other. It may block, and use the bus. What it raises is printed,
        whatever it is, and the next ones go on.

        If the caller runs on an asyncio loop, `fn` is called on that loop, in `context`, as those of asyncio's futures
        are.
        """
        self._callbacks.add(self, fn, context)

    def remove_done_callback(self, fn: Callable[[Promise[T]], object]) -> int:
        """Do not call `fn`. Returns how many times it had been added."""
        return self._callbacks.remove(fn)

    def _when_done(self, callback: Callable[[], object]) -> None:
        """Call it, which must not block, once the call is done: where messages are carried; at once if it is done now."""
        call = self._call
        if call is None:
            assert self._deferred is not None
            self._deferred.when_started(lambda: self._when_done(callback))
        elif call.done() or isinstance(call, FailedCall):
            callback()
        else:
            self._connection.when_done(call, callback)

    def _forget_when_done(self, callback: Callable[[], object]) -> None:
        if self._call is not None and not isinstance(self._call, FailedCall):
            self._connection.forget_when_done(self._call, callback)

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
        return Explanation({"name": self._name or f"{self._label}()", **self._call.explain(5.0), **more})

    def __await__(self) -> Generator[Any, None, T]:
        import asyncio

        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        if self._windowed and self._call is not None:
            self._call.free_running(True)
        self._when_done(waker(loop, future))
        try:
            yield from future
            return self.result(0)
        except (asyncio.CancelledError, GeneratorExit):
            if not self.done():
                self._cancel_if_dropped()
            raise
        finally:
            del self

    def __repr__(self) -> str:
        done, total = self.progress()
        state = self._outcome() if self.done() else "waits for its arguments" if self._call is None else "pending"
        return f"<Promise of {printable(self._label)}(): {state}, {done} of {'?' if total is None else total}>"

    def _outcome(self) -> str:
        """What has become of it. Of more than a few items that is not looked for: each would be unpickled."""
        call = self._call
        if call is None or self.cancelled():
            return "cancelled"
        for index in range(call.total or 0 if (call.total or 0) <= _SHOWN_ITEMS else 0):
            try:
                ok, value = call.get(index)
            except IndexError:
                break  # it was taken
            if not ok:
                return f"failed with {type(value).__name__}"
        return "done"

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
        found = weakref.WeakMethod(self._set_call)

        def set_call(call: AnyCall) -> None:
            alive = found()
            if alive is not None:  # else nobody wants to know
                alive(call)

        deferred.begin(set_call)
        return self

    def _set_call(self, call: AnyCall) -> None:
        self._call = call
        if "_guard" in self.__dict__:
            self._guard.call = call


class Guard:
    """Cancels a call when the promise is gone that has this guard."""

    __slots__ = ("call", "_deferred", "_label")

    def __init__(self, call: AnyCall | None, deferred: Deferred | None, label: str) -> None:
        self.call = call
        self._deferred = deferred
        self._label = label

    def __del__(self) -> None:
        try:
            if self.call is not None:
                if not self.call.done():
                    self.call.cancel()
            elif self._deferred is not None:
                self._deferred.drop(self._label)
        except Exception:
            pass  # the bus is gone, or the interpreter ends
