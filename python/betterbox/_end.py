"""The end of the interpreter.

Python ends in stages, and each still runs code of the user's:

1. `threading._shutdown`, when the main thread has run off its end. Work of an `Executor` is waited for, as
   `concurrent.futures` does; from then on executors take no more. Scripts that serve wait before that (`_serving`).
2. Hooks of `atexit`, the last registered first. Ours closes the connections, which settles whatever waits. Hooks that run
   before it may use the bus; from then on every way in (`way_in`) refuses.
3. Finalisation: `__del__` methods run while the names of modules become None. A thread that is started now never begins, so
   whatever would start one is refused.
"""

from __future__ import annotations

import atexit
import sys
import threading
from collections.abc import Callable
from types import FunctionType
from typing import Any, NoReturn, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

REFUSAL = "cannot schedule new futures after interpreter shutdown"
_CALLBACKS_MAY_TAKE = 5.0  # seconds, in stage 2

_lock = threading.Lock()
_prepared = False
_over = False
_ways_in: list[FunctionType] = []


def way_in(fn: F) -> F:
    """Marks a function that begins something: after stage 2 it refuses.

    It costs nothing until then, and works in stage 3, too, where nothing that the function uses is left: it gets the body of
    `_refuse`.
    """
    function: Any = fn
    assert isinstance(function, FunctionType) and not function.__closure__
    _ways_in.append(function)
    return fn


def _refuse(*args: Any, **kwargs: Any) -> NoReturn:
    raise RuntimeError("cannot schedule new futures after interpreter shutdown")


def prepare() -> None:
    """Before anything is made that must be closed at the end.

    Raises
    ------
    RuntimeError
        If it is too late: nobody would close it.
    """
    global _prepared
    check()
    if _prepared:
        return
    with _lock:
        if not _prepared:
            at_threads_end(_finish_work)
            _prepared = True


def at_threads_end(hook: Callable[[], None]) -> None:
    """Run `hook` in stage 1, before those that were registered earlier.

    Raises
    ------
    RuntimeError
        If stage 1 has begun.
    """
    try:
        threading._register_atexit(hook)  # type: ignore[attr-defined]
    except RuntimeError:
        raise RuntimeError(REFUSAL) from None


def check() -> None:
    """Raise `RuntimeError` if the interpreter is past stage 2."""
    if _over or sys.is_finalizing():
        raise RuntimeError(REFUSAL)


def start(thread: threading.Thread) -> None:
    """Start a thread, unless it would never begin.

    Raises
    ------
    RuntimeError
        If it cannot be started.
    """
    if sys.is_finalizing():
        raise RuntimeError(REFUSAL)
    thread.start()


def _finish_work() -> None:
    executor = sys.modules.get("betterbox._executor")
    if executor is not None:
        executor.finish_all()


@atexit.register
def leave() -> None:
    """Stage 2. Idempotent."""
    global _over
    if _over:
        return
    _over = True
    for function in _ways_in:
        function.__code__ = _refuse.__code__
    bus = sys.modules.get("betterbox._bus")
    if bus is not None:
        bus.close_all()
    runners = sys.modules.get("betterbox._runners")
    if runners is not None:
        runners.starter.flush(_CALLBACKS_MAY_TAKE)
        runners.user.flush(_CALLBACKS_MAY_TAKE)
