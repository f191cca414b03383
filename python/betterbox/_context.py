"""The context of a spread call: what runs, and the arguments that all its items share.

A context is made by a client once per call and loaded once per call and slot. It has two layers: plain facts that
must be applied before the rest can be unpickled (the client's `sys.path` and working folder), and the code and
arguments themselves.
"""

from __future__ import annotations

import importlib
import os
import pickle
import sys
from collections.abc import Callable, Iterable
from typing import Any

from betterbox import _core, _pickling, _settings
from betterbox._labels import host_name

__tracebackhide__ = True  # pytest shows the user's lines

Place = int | str
Loaded = tuple[
    Callable[..., Any], tuple[Any, ...], dict[str, Any], tuple[Place, ...], Callable[..., Any] | None, bool
]

_LARGE_BYTES = 1 << 20  # of a pickle: beyond it travels through shared memory
_applied: tuple[list[str], str] | None = None


def surroundings() -> tuple[list[str], str]:
    """This process's `sys.path` and working folder, for others to apply."""
    try:
        return _settings.absolute_sys_path(), os.getcwd()
    except FileNotFoundError:  # the working folder has been removed
        return [entry for entry in sys.path if os.path.isabs(entry)], ""


def make(
    target: str | Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    places: tuple[Place, ...],
    fold: Callable[..., Any] | None,
    may_share: bool = True,
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
    call = (target, args, kwargs, places, fold)
    inner, buffers = _pickling.dump(call, "fn|args|kwargs|places|reduce", _core.SHARED_MIN_BYTES)
    raw = [buffer.raw() for buffer in buffers]
    if len(inner) + sum(view.nbytes for view in raw) > _LARGE_BYTES:
        from betterbox import _captures

        if not isinstance(target, str):
            _captures.look(target)
        _captures.look_at_arguments(target, args, kwargs)
        if may_share and len(inner) > _LARGE_BYTES:
            raw.append(memoryview(inner))
    shared = _core.share(raw) if raw and may_share else None
    carried: list[Any]
    if shared is None:
        carried = [bytearray(view) for view in raw]
    else:
        name, serial, offset, size = shared.refs[-1]
        about = _core.store_id(), serial, offset + size, f"of {size} bytes among the arguments of a call"
        carried = [(*ref, *about) for ref in shared.refs]
    if len(raw) > len(buffers):
        inner = b""  # it is the last that is carried
    return pickle.dumps((surroundings(), inner, carried, _core.store_id()), protocol=5), shared


def apply(where: tuple[list[str], str]) -> None:
    """Make this process look for modules and files where the client does."""
    global _applied
    if where == _applied:
        return
    path, folder = where
    sys.path[:] = path + [entry for entry in sys.path if entry not in path]
    importlib.invalidate_caches()
    if folder:
        try:
            os.chdir(folder)
        except OSError:
            pass  # another machine: what needs the folder will say so
    _applied = where


def load(context: bytes, find_method: Callable[[str], Callable[..., Any]], in_process: bool) -> Loaded:
    """The other end of `make`, in a slot. The last of the result: this slot shares its memory with the client."""
    where, inner, carried, store = pickle.loads(context)
    if not in_process:
        apply(where)
    parts = [_buffer(each) for each in carried]
    target, args, kwargs, places, fold = load_code(inner or parts.pop(), parts)
    callable_ = find_method(target) if isinstance(target, str) else target
    near = store != "" and store == _core.store_id()
    return callable_, args, kwargs, places, fold, near


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
