"""Values put once and used by many calls: `put` and `Ref`.

A large value lies in shared memory (docs/architecture.md, "Values"). Whoever has a `Ref` of it locks its file, so it
stays as long as any process has one; the kernel drops the locks of processes that die. A small value, or one for which
there is no room, travels inside of its `Ref`.

A call that takes a `Ref` holds it until it is done, also if the caller drops his.
"""

from __future__ import annotations

import os
import pickle
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from types import TracebackType
from typing import Any, Generic, NamedTuple, TypeVar

from betterbox import _bus, _core, _pickling
from betterbox._errors import ValueLostError

T = TypeVar("T")

_LINGER_SECONDS = 60.0  # a Ref that was pickled, but not into a call of ours, is held for this long


class Place(NamedTuple):
    """Where a value lies, and what is told of it."""

    label: str
    size: int
    owner: str
    name: str
    parts: tuple[tuple[int, int, int], ...]  # (serial, offset, size); the first is the pickle, the others its buffers
    inline: tuple[bytes, tuple[bytes, ...]] | None


class Ref(Generic[T]):
    """Stands for a value that `put` has stored. As an argument of a call it is replaced by the value.

    Inside of containers it arrives as a `Ref`. The value lives as long as a process has a `Ref` of it or a call
    under way takes one. ``with betterbox.put(...) as ref`` releases it at the end.

    Examples
    --------
    >>> import betterbox
    >>> with betterbox.LocalCluster(slots=2):  # doctest: +SKIP
    ...     ref = betterbox.put([1, 2, 3])
    ...     betterbox.submit(sum, ref).result()
    6
    """

    __slots__ = ("_place", "_hold", "_inner", "__weakref__")

    def __init__(self, place: Place, hold: Any, inner: list[Ref[Any]] | None = None) -> None:
        self._place: Place | None = place
        self._hold = hold
        self._inner = inner

    def get(self, timeout: float | None = None) -> T:
        """A copy of the value that is the caller's own: what is written to it is seen by nobody else.

        Parameters
        ----------
        timeout : float, optional
            Seconds that it may take to come here from another host.

        Raises
        ------
        ValueLostError
            If it was released here, or nobody has it any more.
        CallTimeoutError
            If it is not here in time.
        """
        place = self._checked()
        if self._hold is None:
            self._hold = _held(place)
        value: T = _loaded(place)
        return value

    def release(self) -> None:
        """Give the value up. Its memory is free when nobody else has it and no call under way takes it."""
        self._place = self._hold = self._inner = None

    def __enter__(self) -> Ref[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        if self._place is None:
            return "<Ref, released>"
        return f"<Ref of a {self._place.label}, {self._place.size} bytes>"

    def __reduce__(self) -> Any:
        return _restored, (tuple(self._take()),)

    def _take(self) -> Place:
        """It goes into a pickle: whatever the pickle is for holds it."""
        place = self._checked()
        if place.inline is None:
            holders = getattr(_pickling_now, "refs", None)
            if holders is None:
                _linger(self)
            else:
                holders.append(Ref(place, self._hold, self._inner))
        return place

    def _checked(self) -> Place:
        if self._place is None:
            raise ValueLostError("this Ref was released; take what you need before release(), or put the value again")
        return self._place


class _Argument:
    """A Ref at the top level of a call's arguments: unpickling gives the value."""

    __slots__ = ("ref",)

    def __init__(self, ref: Ref[Any]) -> None:
        self.ref = ref

    def __reduce__(self) -> Any:
        return _loaded, (tuple(self.ref._take()),)


def put(obj: T, replicas: int = 1) -> Ref[T]:
    """Store a value once, for any number of calls.

    Parameters
    ----------
    obj : object
        Anything that can be pickled, as it is now.
    replicas : int
        Copies to keep on workers; restored when a worker is lost.

    Returns
    -------
    Ref
        What any call takes in its place.

    Raises
    ------
    SerializationError
        If it cannot be pickled.
    BusError
        If there is no bus.

    Examples
    --------
    >>> import betterbox
    >>> ref = betterbox.put({"weights": [0.25, 0.75]})  # doctest: +SKIP
    >>> betterbox.map(len, [ref, ref]).result()  # doctest: +SKIP
    [1, 1]
    """
    if isinstance(replicas, bool) or not isinstance(replicas, int) or replicas < 1:
        raise ValueError(f"replicas must be a whole number from 1, not {replicas!r}")
    with taking() as inner:
        data, buffers = _pickling.dump(obj, "obj", _core.SHARED_MIN_BYTES)
    raw = [buffer.raw() for buffer in buffers]
    size = len(data) + sum(view.nbytes for view in raw)
    owner = f"process {os.getpid()} on {os.uname().nodename}"
    label = type(obj).__qualname__
    shared = _core.share([memoryview(data), *raw]) if size >= _core.SHARED_MIN_BYTES else None
    if shared is None:
        return Ref(Place(label, size, owner, "", (), (data, tuple(bytes(view) for view in raw))), None, inner.refs)
    refs = shared.refs
    parts = tuple((serial, offset, length) for _, serial, offset, length in refs)
    return Ref(Place(label, size, owner, refs[0][0], parts, None), shared, inner.refs)


def _restored(fields: tuple[Any, ...]) -> Ref[Any]:
    place = Place(*fields)
    return Ref(place, None if place.inline is not None else _first_part(place))


def _first_part(place: Place) -> Any:
    """A mapping of the pickle, which holds all of the value; None if it is not in this host's shared memory."""
    return _core.map_shared(place.name, *place.parts[0])


def _held(place: Place) -> Any:
    if place.inline is not None:
        return None
    hold = _first_part(place)
    if hold is None:
        raise _lost(place)
    return hold


def _lost(place: Place) -> ValueLostError:
    return ValueLostError(
        f"the value put by {place.owner} ({place.label}, {place.size} bytes) is gone: its owner has ended or has "
        f"released it, and nobody else has it; keep its Ref for as long as it is used, or put it again"
    )


def _loaded(fields: tuple[Any, ...]) -> Any:
    """A fresh object."""
    place = Place(*fields)
    if place.inline is not None:
        data, buffers = place.inline
        return pickle.loads(data, buffers=[bytearray(buffer) for buffer in buffers])
    mapped = [_held(place)]
    for part in place.parts[1:]:
        mapped.append(_core.map_shared(place.name, *part))
        if mapped[-1] is None:
            raise _lost(place)
    return pickle.loads(mapped[0], buffers=mapped[1:])


# --- who holds what is in a pickle ----------------------------------------------------------------

_pickling_now = threading.local()


class Taken:
    """What a call takes: the Refs in its pickles, which it holds until it is done."""

    def __init__(self) -> None:
        self.refs: list[Ref[Any]] = []

    def arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments, with values in the places of Refs."""
        return tuple(map(as_argument, args)), {name: as_argument(value) for name, value in kwargs.items()}

    def until_done(self, connection: _bus.Connection, call: Any) -> None:
        """Hold it all until the call is done."""
        if self.refs:
            connection.when_done(call, self.refs.clear)


@contextmanager
def taking() -> Iterator[Taken]:
    """Within, Refs that this thread pickles are noted."""
    before = getattr(_pickling_now, "refs", None)
    taken = Taken()
    _pickling_now.refs = taken.refs
    try:
        yield taken
    finally:
        _pickling_now.refs = before


def as_argument(value: Any) -> Any:
    """What stands for an argument in a pickle."""
    if not isinstance(value, Ref):
        return value
    value._checked()
    return _Argument(value)


def as_item(values: Any) -> Any:
    """The same for an item that is a tuple of arguments."""
    return tuple(map(as_argument, values))


def as_items(iterable: Any) -> Any:
    """What is spread, with values in the places of Refs."""
    if isinstance(iterable, (list, tuple)):
        return list(map(as_argument, iterable)) if any(isinstance(each, Ref) for each in iterable) else iterable
    return iterable if hasattr(iterable, "__len__") else map(as_argument, iterable)


_lingering: deque[tuple[float, Ref[Any]]] = deque()
_linger_lock = threading.Lock()
_linger_thread: threading.Thread | None = None


def _linger(ref: Ref[Any]) -> None:
    """Hold what went into a pickle that may be a result, until whoever gets it has had the time to take it."""
    global _linger_thread
    assert ref._place is not None
    with _linger_lock:
        _lingering.append((monotonic() + _LINGER_SECONDS, Ref(ref._place, ref._hold, ref._inner)))
        if _linger_thread is None or not _linger_thread.is_alive():
            _linger_thread = threading.Thread(target=_drop_lingering, name="betterbox-refs", daemon=True)
            _linger_thread.start()


def _drop_lingering() -> None:
    global _linger_thread
    import time

    while True:
        with _linger_lock:
            while _lingering and _lingering[0][0] <= monotonic():
                _lingering.popleft()
            if not _lingering:
                _linger_thread = None
                return
            pause = _lingering[0][0] - monotonic()
        time.sleep(max(pause, 0.0))


def _after_fork() -> None:
    global _linger_lock, _linger_thread
    _linger_lock = threading.Lock()
    _linger_thread = None


os.register_at_fork(after_in_child=_after_fork)
