"""The context of a spread call: what runs, and the arguments that all its items share.

A context is made by a client once per call and loaded once per call and slot. It has two layers: what a slot must be
before the rest can be unpickled (`_surroundings`), and the code and arguments themselves.
"""

from __future__ import annotations

import io
import os
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any

from betterbox import _core, _pickling, _surroundings
from betterbox._changeable import is_changeable
from betterbox._errors import SerializationError
from betterbox._labels import host_name

__tracebackhide__ = True  # pytest shows the user's lines

Place = int | str
Loaded = tuple[
    Callable[..., Any],
    tuple[Any, ...],
    dict[str, Any],
    tuple[Place, ...],
    Callable[..., Any] | None,
    bool,
]

_PATHS = "fn|args|kwargs|places|reduce"
_LARGE_BYTES = 1 << 20  # of a pickle: beyond it travels through shared memory


def make(
    target: str | Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    places: tuple[Place, ...],
    fold: Callable[..., Any] | None,
    may_share: bool = True,
    around: _surroundings.Surroundings | None = None,
) -> tuple[bytes, _core.SharedBuffers | None]:
    """Pickle a context; its large buffers, and a large pickle, go into shared memory.

    Slots on the client's host map them; on another they are brought there first (see `_refs.mapped_part`).

    Parameters
    ----------
    target : str or callable
        The name of a method of the box, or a function.
    args, kwargs : tuple, dict
        The arguments; what is spread has any value in its place.
    places : tuple of int or str
        Which arguments are spread.
    fold : callable or None
        `reduce=`.
    may_share : bool
        What is large may go into shared memory.
    around : Surroundings, optional
        What a slot must be. Default: as this process is now.

    Returns
    -------
    tuple
        The context, and what keeps its buffers in shared memory: it must live until the call is over. None if there
        are none, or no room for them (they are then part of the context).

    Raises
    ------
    SerializationError
        Names the path to what cannot be pickled.
    """
    given = target, args, kwargs
    if isinstance(target, partial) and places and not target.__dict__:
        target, args, kwargs, places = _flat(target, args, kwargs, places)
    code, apart = _divided(target, args, kwargs, places)
    try:
        layers = [_pickling.dump((*code, places, fold), _PATHS, _core.SHARED_MIN_BYTES)]
        if apart:
            layers.append(_pickling.dump(apart, "args", _core.SHARED_MIN_BYTES))
    except SerializationError:
        _pickling.dump((*given, places, fold), _PATHS)  # says it by the names that the caller knows
        raise
    raw: list[Any] = [buffer.raw() for _, buffers in layers for buffer in buffers]
    if sum(len(inner) for inner, _ in layers) + sum(view.nbytes for view in raw) > _LARGE_BYTES:
        from betterbox import _captures

        if not isinstance(given[0], str):
            _captures.look(given[0])
        _captures.look_at_arguments(*given)
        if may_share:
            raw.extend(memoryview(inner) for inner, _ in layers if len(inner) > _LARGE_BYTES)
    shared = _core.share(raw) if raw and may_share else None
    carried: list[Any]
    if shared is None:
        carried = [bytearray(view) for view in raw]
    else:
        name, serial, offset, size = shared.refs[-1]
        about = _core.store_id(), serial, offset + size, f"of {size} bytes among the arguments of a call"
        carried = [(*ref, *about) for ref in shared.refs]
    large = _LARGE_BYTES if may_share else sys.maxsize  # these pickles come last among what is carried
    described = [(b"" if len(inner) > large else inner, len(buffers)) for inner, buffers in layers]
    return packed((described, carried, _core.store_id()), around), shared


def _flat(
    target: partial[Any], args: tuple[Any, ...], kwargs: dict[str, Any], places: tuple[Place, ...]
) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], tuple[Place, ...]]:
    """The same call without the partial: what that holds are arguments like others."""
    held = target.args
    moved: tuple[Place, ...] = tuple([place + len(held) if isinstance(place, int) else place for place in places])
    return target.func, held + args, {**target.keywords, **kwargs}, moved


def _divided(
    target: str | Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], places: tuple[Place, ...]
) -> tuple[tuple[Any, tuple[Any, ...], dict[str, Any]], dict[Place | None, Any]]:
    """What all items may share, and what is made anew for each, by its place (None: the function)."""
    named: list[tuple[Place | None, Any]] = [*enumerate(args), *kwargs.items()]
    apart = {place: value for place, value in named if is_changeable(value)}
    if is_changeable(target):
        apart[None] = target
        target = ""
    if apart:
        args = tuple([None if place in apart else value for place, value in enumerate(args)])
        kwargs = {name: None if name in apart else value for name, value in kwargs.items()}
    return (target, args, kwargs), apart


def packed(content: Any, around: _surroundings.Surroundings | None = None) -> bytes:
    """`content`, with surroundings in front of it: this process's."""
    file = io.BytesIO()
    file.write((around or _surroundings.current()).wire)
    pickle.dump(content, file, protocol=5)
    return file.getvalue()


def load(context: bytes, find_method: Callable[[str], Callable[..., Any]]) -> Loaded:
    """The other end of `make`, in a slot. The last of the result: this slot shares its memory with the client.

    REQUIRES: the process has settled in the context's surroundings.
    """
    described, carried, store = pickle.loads(_surroundings.split(context)[1])
    layers = list(_layers(described, carried))
    target, args, kwargs, places, fold = load_code(layers[0][0], map(_buffer, layers[0][1]))
    callable_: Any = find_method(target) if isinstance(target, str) and target else target
    if len(layers) > 1:
        callable_ = _Renewed(callable_, *layers[1])
    return callable_, args, kwargs, places, fold, store != "" and store == _core.store_id()


def _layers(described: list[tuple[bytes, int]], carried: list[Any]) -> Iterator[tuple[Any, list[Any]]]:
    """``(pickle, what is carried for it)`` of each layer; pickles that are carried come behind all buffers."""
    buffers, pickles = iter(carried), iter(carried[sum(count for _, count in described) :])
    for inner, count in described:
        yield inner or _buffer(next(pickles)), list(islice(buffers, count))


class _Renewed:
    """Calls a function with what an item could change, each time as it was at the moment of the call."""

    def __init__(self, callable_: Any, data: Any, carried: list[Any]) -> None:
        self._callable = callable_
        self._data = data
        self._carried = carried

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        buffers = [bytearray(each) if isinstance(each, bytearray) else _buffer(each) for each in self._carried]
        apart = load_code(self._data, buffers)
        fn = apart.pop(None, self._callable)
        if apart:
            args = tuple([apart.pop(place, value) for place, value in enumerate(args)])
            kwargs.update(apart)
        return fn(*args, **kwargs)


def _buffer(carried: Any) -> Any:
    if isinstance(carried, bytearray):
        return carried
    mapped = _core.map_shared(*carried[:4])
    if mapped is None:  # another host
        from betterbox._refs import mapped_part

        mapped = mapped_part(*carried)
    return mapped


def load_code(data: Any, buffers: Iterable[Any] = ()) -> Any:
    """Unpickle code from elsewhere; an import error says what would help."""
    try:
        return pickle.loads(data, buffers=buffers)
    except ImportError as error:
        raise import_error(error) from error


def import_error(error: ImportError) -> ImportError:
    """`error` with advice: `sys.path`, ``ship=`` or installing."""
    module = (error.name or "the module").partition(".")[0]
    return type(error)(
        f"{error} on the slot (pid {os.getpid()} on {host_name()}, {sys.executable}). Either put the folder "
        f"of {module} on sys.path before the call (a call carries the client's sys.path), or send the module itself "
        f"with options(ship=[{module}]), or install it for that Python",
        name=error.name,
        path=error.path,
    )
