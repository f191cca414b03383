"""Threads that run what waits for calls: callbacks of the user's, and calls whose arguments are promises.

The thread of a connection carries messages and settles what waits; it must never be held up. So it runs only our own
short callbacks. The user's go to the thread of `user`, one after the other: they may block, use the bus, close it, and raise
whatever they like. Calls that begin because promises are done go to the thread of `starter`: beginning one pickles
arguments, which is user code, too. One finished promise starts its dependents from this queue, never by recursion.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

from betterbox import _end

Job = Callable[[], object]


def report_ignored(where: str) -> None:
    """Print the exception that is being handled: nobody else will see it."""
    try:
        import logging

        logging.getLogger("betterbox").exception("exception in %s", where)
    except BaseException:
        pass  # there is nowhere to print to


def run_safely(job: Job, where: str) -> None:
    """Run it; whatever it raises is printed."""
    try:
        job()
    except BaseException:
        report_ignored(where)


class Runner:
    """A queue of jobs and the thread that runs them, which begins with the first job and which no job can end.

    Parameters
    ----------
    name : str
        Of the thread.
    what : str
        What a job is, where one raises.
    """

    def __init__(self, name: str, what: str) -> None:
        self._name = name
        self._what = what
        self._reset()

    def _reset(self) -> None:
        self._jobs: SimpleQueue[Job] = SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._working_here = False

    def run(self, job: Job) -> None:
        """Add a job. Never blocks; if there can be no thread any more, it is run here."""
        self._jobs.put(job)
        if self._thread is None:
            self._begin()

    def flush(self, timeout: float | None) -> bool:
        """Wait until the jobs so far have run. False if that took too long, or if a job asks."""
        if self._thread is None or self._thread is threading.current_thread():
            return False
        done = threading.Event()
        self._jobs.put(done.set)
        return done.wait(timeout)

    def _begin(self) -> None:
        with self._lock:
            if self._thread is not None:
                return
            thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            try:
                _end.start(thread)
                self._thread = thread
                return
            except RuntimeError:  # the interpreter ends, or the system has no more threads
                if self._working_here:
                    return
                self._working_here = True
        try:
            self._work_off()
        finally:
            self._working_here = False

    def _work(self) -> None:
        while True:
            try:
                self._work_on()
            except BaseException:  # thrown into this thread from outside, between two jobs
                report_ignored(f"the thread {self._name}")

    def _work_on(self) -> None:
        while True:
            run_safely(self._jobs.get(), self._what)

    def _work_off(self) -> None:
        try:
            while True:
                run_safely(self._jobs.get_nowait(), self._what)
        except Empty:
            pass


user = Runner("betterbox-callbacks", "a callback")
starter = Runner("betterbox-starter", "a call that waited for promises")


def _after_fork() -> None:
    user._reset()  # what waited there is the parent's
    starter._reset()


os.register_at_fork(after_in_child=_after_fork)
