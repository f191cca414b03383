"""Calls that wait for promises among their arguments, without blocking whoever made them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, Union

from betterbox import _core, _pickling

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
        self.error = error
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

    def get(self, index: int) -> tuple[bool, Any]:
        return False, self.error

    take = get

    def values(self, first: int, limit: int, take: bool) -> list[Any]:
        return []

    def results(self) -> list[Any]:
        raise self.error

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
        self._left = len(self._waiting_for)
        self._lock = threading.Lock()
        self._starting = threading.RLock()
        self._on_start: list[Callable[[], None]] = []
        self._set_call: Callable[[Any], None] = lambda call: None
        self._call: Any = None

    def begin(self, set_call: Callable[[Any], None]) -> None:
        self._set_call = set_call
        for promise in self._waiting_for:
            if promise._windowed and promise._call is not None:
                promise._call.free_running(True)
        for promise in list(self._waiting_for):
            promise._when_done(self._one_done)

    def _one_done(self) -> None:
        with self._lock:
            self._left -= 1
            if self._left > 0:
                return
        self._start()

    def wait(self, deadline: float | None) -> Any:
        """The call once it has begun, or None after the deadline (of `time.monotonic`)."""
        from betterbox._errors import CallTimeoutError

        for promise in list(self._waiting_for):
            try:
                promise._started_call(None if deadline is None else max(0.0, deadline - monotonic()), _core.ALL)
            except CallTimeoutError:
                if deadline is not None and monotonic() >= deadline:
                    return None
            except Exception:
                pass  # _start finds it again, and it becomes this call's error
        return self._start()

    def cancel(self, label: str) -> None:
        """Do not begin the call."""
        from betterbox._errors import CallCancelledError

        with self._starting:
            if self._call is None:
                self._began(FailedCall(CallCancelledError(f"{label}() was cancelled before it began"), True))

    def when_started(self, callback: Callable[[], None]) -> None:
        """Run `callback` when the call has begun; at once if it has."""
        with self._lock:
            if self._call is None:
                self._on_start.append(callback)
                return
        callback()

    def _start(self) -> Any:
        with self._starting:
            if self._call is None:
                try:
                    args = tuple([_resolved(value) for value in self._args])  # a generator would change StopIteration
                    kwargs = {name: _resolved(value) for name, value in self._kwargs.items()}
                    self._began(self._make_call(args, kwargs))
                except BaseException as error:  # an item may have raised anything
                    self._began(FailedCall(error))
            assert self._call is not None
            return self._call

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
