"""Calls that wait for promises among their arguments, without blocking whoever made them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, Union

from betterbox import _core, _pickling, _runners

__tracebackhide__ = True  # pytest shows the user's lines

if TYPE_CHECKING:
    from betterbox._promise import Promise

_SIMPLE = (int, float, str, bytes, bool, type(None))


class FailedCall:
    """Stands for a call that could not begin: one item, and its error."""

    token = 0
    port = 0
    method = ""
    for_functions = False
    total = 1
    known = 1
    settled = 1

    def __init__(self, error: BaseException, cancelled: bool = False) -> None:
        self.error = error.with_traceback(None)  # where it passed through here helps nobody
        self._cancelled = cancelled

    def free_running(self, on: bool) -> None:
        pass

    def wait(self, until: int, timeout: float | None) -> bool:
        return True

    def done(self) -> bool:
        return True

    def cancelled(self) -> bool:
        return self._cancelled

    def cancel(self) -> bool:
        return self._cancelled

    def keeps_all(self) -> bool:
        return True

    def get(self, index: int) -> tuple[bool, Any]:
        return False, self.error

    take = get

    def values(self, first: int, limit: int, take: bool) -> list[Any]:
        return []

    def results(self) -> list[Any]:
        raise self.error.with_traceback(None)

    folds = results

    def outcomes(self) -> list[Any]:
        return [self.error]

    def landed(
        self, arrivals: int, items: int, limit: int, take: bool
    ) -> tuple[list[tuple[int, Any]], int, int, int | None]:
        return [], 1, 0, 0 if arrivals == 0 else None

    def first_success(self) -> int | None:
        return None

    def explain(self, timeout: float) -> dict[str, Any]:
        return {"total": 1, "known": 1, "settled": 1, "agents": [], "waiting": ""}


class Deferred:
    """A call to be made when the promises among its arguments are done.

    Parameters
    ----------
    args, kwargs : tuple, dict
        With promises at the top level. The rest is copied now: a call sees its arguments as they were when it was made.
    make_call : callable
        ``make_call(args, kwargs)`` begins the call, with values in the promises' places.
    """

    def __init__(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        make_call: Callable[[tuple[Any, ...], dict[str, Any]], Any],
    ) -> None:
        from betterbox._promise import Promise

        self._args = tuple(_copied(value, f"args[{i}]") for i, value in enumerate(args))
        self._kwargs = {name: _copied(value, f"kwargs[{name!r}]") for name, value in kwargs.items()}
        self._make_call = make_call
        values = (*self._args, *self._kwargs.values())
        self._waiting_for: list[Promise[Any]] = [value for value in values if isinstance(value, Promise)]
        self._left = len(self._waiting_for) + 1  # `begin` itself counts, too
        self._lock = threading.Lock()
        self._starting = threading.RLock()
        self._on_start: list[Callable[[], object]] = []
        self._set_call: Callable[[Any], None] = lambda call: None
        self._call: Any = None

    def begin(self, set_call: Callable[[Any], None]) -> None:
        self._set_call = set_call
        for promise in self._waiting_for:
            if promise._windowed and promise._call is not None:
                promise._call.free_running(True)
        for promise in list(self._waiting_for):
            promise._when_done(self._one_done)
        if self._count_down():  # all were done before
            self._start(None)

    def _one_done(self) -> None:
        if self._count_down():
            _runners.starter.run(lambda: self._start(None))

    def _count_down(self) -> bool:
        with self._lock:
            self._left -= 1
            return self._left == 0

    def wait(self, deadline: float | None) -> Any:
        """The call once it has begun, or None after the deadline (of `time.monotonic`).

        Whoever waits carries the messages of the calls before it, and begins these, in a loop: a chain of promises may
        be of any length.
        """
        chain = [self]
        while chain:
            last = chain[-1]
            before = last._first_not_done()
            if before is None:
                if not last._start(deadline):
                    return None
                chain.pop()
            elif before._call is None:
                assert before._deferred is not None
                chain.append(before._deferred)
            elif not _await_done(before, deadline):
                return None
        return self._call

    def _first_not_done(self) -> Promise[Any] | None:
        if self._call is not None:
            return None
        return next((promise for promise in list(self._waiting_for) if not promise.done()), None)

    def cancel(self, label: str) -> None:
        """Do not begin the call."""
        from betterbox._errors import CallCancelledError

        with self._starting:
            if self._call is None:
                self._began(FailedCall(CallCancelledError(f"{label}() was cancelled before it began"), True))

    def drop(self, label: str) -> None:
        """Nobody wants the call any more: it is cancelled, elsewhere (this may be any thread, in a destructor)."""

        def cancel() -> None:
            self.cancel(label)
            self._call.cancel()

        _runners.starter.run(cancel)

    def when_started(self, callback: Callable[[], object]) -> None:
        """Run `callback`, which must not block, when the call has begun; at once if it has."""
        with self._lock:
            if self._call is None:
                self._on_start.append(callback)
                return
        callback()

    def _start(self, deadline: float | None) -> bool:
        """Begin the call, if nobody has. False if another thread is at it until after the deadline."""
        if not self._starting.acquire(timeout=-1 if deadline is None else max(0.0, deadline - monotonic())):
            return False
        try:
            if self._call is None:
                self._began(self._made_call())
            return True
        finally:
            self._starting.release()

    def _made_call(self) -> Any:
        try:
            args = tuple([_resolved(value) for value in self._args])  # a generator would change StopIteration
            kwargs = {name: _resolved(value) for name, value in self._kwargs.items()}
            return self._make_call(args, kwargs)
        except KeyboardInterrupt as error:
            if threading.current_thread() is threading.main_thread():
                raise  # Ctrl-C in a wait: it can be waited for again
            return FailedCall(error)
        except BaseException as error:  # an item may have raised anything
            return FailedCall(error)

    def _began(self, call: Any) -> None:
        self._set_call(call)
        with self._lock:
            self._call = call
            callbacks, self._on_start = self._on_start, []
        self._args, self._kwargs = (), {}
        self._waiting_for = []
        for callback in callbacks:
            callback()


def has_promise(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """True if a promise is among the arguments."""
    import sys

    module = sys.modules.get("betterbox._promise")
    if module is None:
        return False
    kind = module.Promise
    for value in args:
        if isinstance(value, kind):
            return True
    return any(isinstance(value, kind) for value in kwargs.values())


def _await_done(promise: Promise[Any], deadline: float | None) -> bool:
    """False after the deadline. That the bus was lost is an outcome, too."""
    call = promise._call
    assert call is not None
    try:
        return promise._wait(call, _core.ALL, deadline)
    except Exception:
        if not promise.done():
            raise
        return True


def _resolved(value: Any) -> Any:
    from betterbox._promise import Promise

    return value.result() if isinstance(value, Promise) else value


def _copied(value: Any, path: str) -> Any:
    from betterbox._promise import Promise
    from betterbox._spread import spread

    if isinstance(value, (Promise, *_SIMPLE)):
        return value
    if isinstance(value, spread):
        items = value.iterable
        if not hasattr(items, "__len__"):
            return value
        return spread([_pickling.snapshot(item, f"{path}[{i}]") for i, item in enumerate(items)])
    return _pickling.snapshot(value, path)
