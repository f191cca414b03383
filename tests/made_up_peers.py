"""Peers for comparing_test.py, loaded by the runner like those of libraries."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Sequence
from typing import Any

from comparing import work
from comparing.adapter import Peer


class Alone(Peer):
    """Does everything itself."""

    imports = "pass"

    def submit_one(self, fn: Callable[..., Any], *args: Any) -> Any:
        return fn(*args)

    def submit_all(self, fn: Callable[[int], Any], count: int) -> list[Any]:
        return [fn(number) for number in range(count)]

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunk: int) -> list[Any]:
        return [fn(item) for item in items]

    def array_to_all(self, array: Any) -> list[tuple[int, float]]:
        return [(number, work.touch(array)) for number in range(self.slots)]


class Works(Alone):
    pass


class Fails(Alone):
    def submit_all(self, fn: Callable[[int], Any], count: int) -> list[Any]:
        raise RuntimeError("it broke\nin two lines")


class Dies(Alone):
    def submit_all(self, fn: Callable[[int], Any], count: int) -> list[Any]:
        os._exit(3)


class Hangs(Alone):
    """With a process in a session of its own that lets itself not be asked to end."""

    def submit_all(self, fn: Callable[[int], Any], count: int) -> list[Any]:
        subprocess.Popen(["sh", "-c", "trap '' TERM; while :; do sleep 60; done"], start_new_session=True)
        threading.Event().wait()
        return []


class Hides(Alone):
    """With a daemon that has neither the environment nor the session nor the parent that it came from, and never listens."""

    def start(self) -> None:
        daemon = "trap '' TERM; echo up; while :; do sleep 60; done"
        started = f'env -i setsid sh -c "{daemon}" &'
        with subprocess.Popen(["sh", "-c", started], stdout=subprocess.PIPE) as parent:
            assert parent.stdout is not None and parent.stdout.readline() == b"up\n"


class HidesAndDies(Hides):
    def submit_all(self, fn: Callable[[int], Any], count: int) -> list[Any]:
        os._exit(3)


class Absent(Alone):
    def start(self) -> None:
        import nobody_has_this  # type: ignore[import-not-found]  # noqa: F401
