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
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from time import monotonic
from types import TracebackType
from typing import Any, Generic, NamedTuple, TypeVar

from betterbox import _bus, _core, _end, _pickling
from betterbox._errors import BusError, CallTimeoutError, ValueLostError
from betterbox._labels import host_name

__tracebackhide__ = True  # pytest shows the user's lines

T = TypeVar("T")

_TRIES = 500  # looks for a value that another process of this host is getting
_LOOK_SECONDS = 0.02
_MOST_NAMED = 200  # values that a call names (kMaxCallValues)
_LINGER_SECONDS = 60.0  # a Ref that was pickled, but not into a call of ours, is held for this long


class Place(NamedTuple):
    """Where a value lies, and what is told of it."""

    label: str
    size: int
    owner: str
    name: str
    parts: tuple[tuple[int, int, int], ...]  # (serial, offset, size); the first is the pickle, the others its buffers
    store: str  # the shared memory where it was put
    replicas: int
    inline: tuple[bytes, tuple[bytes, ...]] | None


class _Hold:
    """Keeps a value in this store, and tells the bus that this process has a reference."""

    __slots__ = ("mapped", "name", "client")

    def __init__(self, place: Place, mapped: Any, client: _core.Client | None) -> None:
        self.mapped = mapped
        self.name = place.name
        self.client: _core.Client | None = None
        if client is not None:
            client.hold(*_identity(place), place.store, place.label, place.replicas)
            self.client = client

    def __del__(self) -> None:
        if self.client is not None:
            try:
                self.client.drop(self.name)
            except Exception:
                pass  # the bus is gone: nobody is told, nobody minds


class Ref(Generic[T]):
    """Stands for a value that `put` has stored. As an argument of a call it is replaced by the value, also one that a
    `functools.partial` fixes.

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
        value: T = _load(place, timeout)
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


@_end.way_in
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
    client = _bus.current().client
    with taking() as inner:
        data, buffers = _pickling.dump(obj, "obj", _core.SHARED_MIN_BYTES)
    raw = [buffer.raw() for buffer in buffers]
    size = len(data) + sum(view.nbytes for view in raw)
    owner = f"process {os.getpid()} on {host_name()}"
    label = type(obj).__qualname__
    shared = _core.share([memoryview(data), *raw]) if size >= _core.SHARED_MIN_BYTES else None
    if shared is None:
        inline = data, tuple(bytes(view) for view in raw)
        return Ref(Place(label, size, owner, "", (), "", replicas, inline), None, inner.refs)
    parts = tuple((serial, offset, length) for _, serial, offset, length in shared.refs)
    place = Place(label, size, owner, shared.refs[0][0], parts, _core.store_id(), replicas, None)
    return Ref(place, _Hold(place, shared, client), inner.refs)


def _restored(fields: tuple[Any, ...]) -> Ref[Any]:
    place = Place(*fields)
    if place.inline is not None:
        return Ref(place, None)
    mapped = _core.map_shared(place.name, *place.parts[0])
    client = None
    if mapped is None or place.replicas > 1:
        try:
            client = _bus.current().client
        except BusError:
            pass  # get() says it
    return Ref(place, _Hold(place, mapped, client))


def _identity(place: Place) -> tuple[str, int, int]:
    serial, offset, size = place.parts[-1]
    return place.name, serial, offset + size


def _loaded(fields: tuple[Any, ...]) -> Any:
    """A fresh object."""
    return _load(Place(*fields), None)


def _load(place: Place, timeout: float | None) -> Any:
    if place.inline is not None:
        data, buffers = place.inline
        return pickle.loads(data, buffers=[bytearray(buffer) for buffer in buffers])
    _, last, bytes_ = _identity(place)
    what = f"put by {place.owner} ({place.label}, {place.size} bytes)"
    mapped: list[Any] = [
        mapped_part(place.name, *part, place.store, last, bytes_, what, timeout) for part in place.parts
    ]
    return pickle.loads(mapped[0], buffers=mapped[1:])


def mapped_part(
    name: str,
    serial: int,
    offset: int,
    size: int,
    store: str,
    value_serial: int,
    value_bytes: int,
    what: str,
    timeout: float | None = None,
) -> _core.MappedBuffer:
    """A part of a value, which is brought into this host's shared memory first if it is not there.

    Raises
    ------
    ValueLostError
        If nobody on the bus has it.
    CallTimeoutError
        If it is not here in time.
    """
    mapped = _core.map_shared(name, serial, offset, size)
    if mapped is not None:
        return mapped
    deadline = None if timeout is None else monotonic() + timeout
    reason = "no host on the bus has it"
    for _ in range(_TRIES):
        left = None if deadline is None else max(0.0, deadline - monotonic())
        try:
            client = _bus.current().client
        except BusError as error:
            reason = str(error)
            break
        here, busy, reason, hold = client.obtain(name, value_serial, value_bytes, store, left)
        if not here and not busy and not reason:
            raise CallTimeoutError(f"the value {what} did not come to this host within {timeout:g} s")
        if not here and not busy:
            break
        if busy:
            time.sleep(_LOOK_SECONDS)
        mapped = _core.map_shared(name, serial, offset, size)
        if mapped is not None:
            return mapped
    raise ValueLostError(
        f"the value {what} is gone: its owner has ended or has released it, and {reason}; "
        f"keep its Ref for as long as it is used, or put it again"
    )


# --- who holds what is in a pickle ----------------------------------------------------------------

_pickling_now = threading.local()


class Taken:
    """What a call takes: the Refs in its pickles, which it holds until it is done."""

    def __init__(self) -> None:
        self.refs: list[Ref[Any]] = []

    def arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments, with values in the places of Refs."""
        return tuple(map(as_argument, args)), {name: as_argument(value) for name, value in kwargs.items()}

    def named(self, refs: list[Ref[Any]] | None = None) -> list[tuple[str, int, int, str]]:
        """What the bus is told of values that a call needs: placement goes by it, and they travel ahead."""
        values: dict[str, tuple[str, int, int, str]] = {}
        for ref in self.refs if refs is None else refs:
            place = ref._place
            if place is not None and place.inline is None and len(values) < _MOST_NAMED:
                values[place.name] = (*_identity(place), place.store)
        return sorted(values.values())

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
    """What stands for an argument (or a function) in a pickle."""
    if type(value) is partial:
        return _as_partial(value)
    if not isinstance(value, Ref):
        return value
    value._checked()
    return _Argument(value)


def _as_partial(value: partial[Any]) -> Any:
    """What it fixes is arguments of a call, too."""
    if not any(isinstance(each, Ref) for each in (*value.args, *value.keywords.values())):
        return value
    args, kwargs = map(as_argument, value.args), {name: as_argument(v) for name, v in value.keywords.items()}
    return partial(value.func, *args, **kwargs)


def as_items(iterable: Any) -> Any:
    """What is spread, with values in the places of Refs."""
    if isinstance(iterable, (list, tuple)):
        refs = any(isinstance(each, (Ref, partial)) for each in iterable)
        return list(map(as_argument, iterable)) if refs else iterable
    return iterable if hasattr(iterable, "__len__") else _as_arguments(iterable)


def _as_arguments(items: Any) -> Iterator[Any]:
    """Closed early, it closes what it draws from."""
    try:
        for each in items:
            yield as_argument(each)
    except GeneratorExit:
        if hasattr(items, "close"):
            items.close()
        raise


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
            try:
                _end.start(_linger_thread)
            except RuntimeError:
                pass  # the interpreter ends, and with it the hold


def _drop_lingering() -> None:
    global _linger_thread
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
