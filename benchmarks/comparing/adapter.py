"""What a peer is to the harness: started, asked to do the common work, stopped.

An adapter overrides what its library offers; what it does not offer raises `NotOffered` and shows as such. A limit,
which is no library, defines ``case_NAME`` instead and measures that case by itself.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from comparing import work


class NotOffered(Exception):
    """The library has nothing for this case."""


class Peer:
    """A library with `slots` processes that work; everything single-threaded.

    Attributes
    ----------
    imports : str
        The statement that its user writes first; timed by the case "import".
    """

    imports = ""

    def __init__(self, slots: int) -> None:
        self.slots = slots

    def start(self) -> None:
        """Bring it up; called once."""

    def stop(self) -> None:
        """End it with all its processes."""

    def caller(self) -> Callable[[Any], Any]:
        """A function that calls the no-op of an object in another process and waits for its answer."""
        raise NotOffered

    def submit_one(self, fn: Callable[..., Any], *args: Any) -> Any:
        """One call to a slot, waited for."""
        raise NotOffered

    def submit_all(self, fn: Callable[[int], Any], count: int) -> list[Any]:
        """`count` single calls, then all their results in order."""
        raise NotOffered

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunk: int) -> list[Any]:
        """`fn` of every item, in order; `chunk` for libraries that do not choose it themselves."""
        raise NotOffered

    def to_all(self, fn: Callable[[Any, int], Any], array: Any) -> list[Any]:
        """``fn(array, number)`` once on every slot."""
        raise NotOffered

    def wait_idle(self, seconds: float) -> None:
        """A client that waits for a result while nothing happens."""
        self.submit_one(work.sleep, seconds)

    def array_to_all(self, array: Any) -> list[tuple[int, float]]:
        folder = tempfile.mkdtemp(prefix="meeting-", dir=".")
        try:
            import os

            return self.to_all(partial(work.meet, os.path.abspath(folder), self.slots), array)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def chunks(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[first : first + size] for first in range(0, len(items), size)]
