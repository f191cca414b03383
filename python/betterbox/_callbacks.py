"""Callbacks of promises, as futures have them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from betterbox import _runners

if TYPE_CHECKING:
    from betterbox._promise import Promise


class Callbacks:
    """What is to be called once a promise is done, each on its asyncio loop or on the thread for callbacks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[tuple[Callable[[Any], object], Any, Any]] = []
        self._asked = False
        self._over = False

    def add(self, promise: Promise[Any], fn: Callable[[Any], object], context: Any) -> None:
        """Call ``fn(promise)`` once it is done."""
        loop = running_loop()
        over = promise.done()
        with self._lock:
            over = over or self._over
            asked = self._asked
            if not over:
                self._asked = True
                self._waiting.append((fn, loop, context))
        if over:
            _call(promise, fn, loop, context)
        elif not asked:
            promise._when_done(lambda: self._run(promise))

    def remove(self, fn: Callable[[Any], object]) -> int:
        """Do not call `fn`."""
        with self._lock:
            kept = [each for each in self._waiting if each[0] != fn]
            removed = len(self._waiting) - len(kept)
            self._waiting = kept
        return removed

    def _run(self, promise: Promise[Any]) -> None:
        with self._lock:
            self._over = True
            waiting, self._waiting = self._waiting, []
        for each in waiting:
            _pass_on(promise, *each)


def running_loop() -> Any:
    """The asyncio loop that runs on this thread, or None."""
    events = sys.modules.get("asyncio.events")
    return None if events is None else events._get_running_loop()


def _pass_on(promise: Promise[Any], fn: Callable[[Any], object], loop: Any, context: Any) -> None:
    """Call it elsewhere: this may be a thread that must not be held up."""
    if loop is None:
        _runners.user.run(lambda: fn(promise))
    else:
        _call(promise, fn, loop, context)


def _call(promise: Promise[Any], fn: Callable[[Any], object], loop: Any, context: Any) -> None:
    if loop is not None:
        try:
            loop.call_soon_threadsafe(fn, promise, context=context)
            return
        except RuntimeError:
            pass  # it has been closed meanwhile
    try:
        fn(promise)
    except BaseException:
        _runners.report_ignored("a callback of a promise")
