"""Pickles: fast where the standard pickler is right, cloudpickle's where it is not, and good errors.

Plain pickle writes functions and classes by name. That is right for what lives in an importable module, and wrong
for ``__main__``, for what was made at run time, and for modules that are shipped by value: as soon as one of these
turns up, the whole object goes to cloudpickle.
"""

from __future__ import annotations

import functools
import io
import pickle
import sys
import threading
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from betterbox import _failures
from betterbox._errors import SerializationError

__tracebackhide__ = True  # pytest shows the user's lines

_IN_BAND_BYTES = 2048  # smaller buffers are cheaper inside the pickle
_APART_BYTES = 256 << 10  # of bytes and texts that become buffers: they are copied once more where they arrive
REFS = "betterbox._refs"
"""The module of `Ref`: while it has not been loaded, there are none to look for."""


class _NeedsCloudpickle(Exception):
    pass


_by_name: dict[int, Any] = {}  # id -> function or class known to be importable (kept, so that ids stay)
_shipped: dict[str, int] = {}
_ship_lock = threading.RLock()


def _is_importable(obj: Any) -> bool:
    """True if unpickling ``module.qualname`` elsewhere would find this very object."""
    if id(obj) in _by_name:
        return True
    module_name = getattr(obj, "__module__", None)
    name = getattr(obj, "__qualname__", None) or getattr(obj, "__name__", None)
    if not isinstance(module_name, str) or not isinstance(name, str) or is_by_value(module_name):
        return False
    found: Any = sys.modules.get(module_name)
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is not obj:
        return False
    if not _shipped and len(_by_name) < 10000:
        _by_name[id(obj)] = obj
    return True


def is_by_value(module: str) -> bool:
    """True for a module whose names mean nothing in other processes."""
    if module == "__main__":
        return True
    return bool(_shipped) and any(module == ship or module.startswith(ship + ".") for ship in _shipped)


def goes_by_name(fn: object) -> bool:
    """True for a function that is pickled by its name alone."""
    return isinstance(fn, (FunctionType, BuiltinFunctionType)) and not hasattr(fn, "__wrapped__") and _is_importable(fn)


_NAMED = (type, FunctionType, functools._lru_cache_wrapper, typing.NewType, typing.TypeVar, typing.ParamSpec)
_SPECIAL = (*_NAMED, BuiltinFunctionType, BaseException)


class _PlainPickler(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, _SPECIAL):
            return NotImplemented
        if isinstance(obj, BaseException):
            return _failures.reduce_exception(obj)
        if isinstance(obj, BuiltinFunctionType):
            if obj.__module__ == "__main__":
                raise _NeedsCloudpickle
        elif not _is_importable(obj):
            raise _NeedsCloudpickle
        return NotImplemented


def _is_doubtful(data: bytes) -> bool:
    """True if a pickle may name something in a module that only this process has, or hold a sentinel of dataclasses."""
    if data.find(b"__main__") >= 0 or data.find(b"dataclasses") >= 0:  # `in` is slow: it tries to make them integers
        return True
    if "multiprocessing.managers" in sys.modules and data.find(b"RebuildProxy") >= 0:
        return True
    return bool(_shipped) and any(name.encode() in data for name in _shipped)


@contextmanager
def shipping(modules: tuple[ModuleType, ...]) -> Iterator[None]:
    """Within, the functions and classes of `modules` are pickled by value."""
    if not modules:
        yield
        return
    import cloudpickle

    with _ship_lock:
        for module in modules:
            if module.__name__ not in _shipped:
                cloudpickle.register_pickle_by_value(module)
            _shipped[module.__name__] = _shipped.get(module.__name__, 0) + 1
        _by_name.clear()
    try:
        yield
    finally:
        with _ship_lock:
            for module in modules:
                _shipped[module.__name__] -= 1
                if _shipped[module.__name__] == 0:
                    del _shipped[module.__name__]
                    cloudpickle.unregister_pickle_by_value(module)


# --- what a pickler writes --------------------------------------------------------------------------
#
# The pieces that a pickler hands to its file are kept as they are: no copy for small pickles, and large bytes and texts,
# which come as pieces of their own, become buffers beside the pickle. In it stands a call that makes them of the buffer.

_Pieces = list[Any]
"""Bytes, and buffers at their places among them."""

_LENGTHS = {b"B": 4, b"\x8e": 8, b"X": 4, b"\x8d": 8, b"\x96": 8}  # by the opcode of what follows them
_NEXT_BUFFER = b"\x97\x85R"  # NEXT_BUFFER, TUPLE1, REDUCE
_MAKERS = {
    b"B": b"cbuiltins\nbytes\n" + _NEXT_BUFFER,
    b"X": b"cbetterbox._pickling\ntext_of\n" + _NEXT_BUFFER,
    b"\x96": b"cbuiltins\nbytearray\n" + _NEXT_BUFFER,
}
_MAKERS[b"\x8e"], _MAKERS[b"\x8d"] = _MAKERS[b"B"], _MAKERS[b"X"]


class _File:
    """What a pickler writes to."""

    __slots__ = ("write",)

    def __init__(self, pieces: _Pieces) -> None:
        self.write = pieces.append


def _collect_into(pieces: _Pieces, least: int) -> Any:
    def collect(buffer: pickle.PickleBuffer) -> bool:
        try:
            size = buffer.raw().nbytes
        except BufferError:
            return True  # not contiguous: in the pickle
        if size < least:
            return True
        pieces.append(buffer)
        return False

    return collect


def _joined(pieces: _Pieces, buffers: list[pickle.PickleBuffer] | None) -> bytes:
    """The pickle of its pieces, which are used up on the way; what is large goes to `buffers`."""
    file = io.BytesIO()
    before = b""
    pieces.reverse()
    while pieces:
        piece = pieces.pop()
        if type(piece) is pickle.PickleBuffer:
            if buffers is None:  # a large one that the pickler has put into the pickle
                file.write(piece.raw())
            else:
                buffers.append(piece)
            continue
        header = b"" if buffers is None or len(piece) < _APART_BYTES else _header_of(before, len(piece))
        if header:
            assert buffers is not None
            file.seek(-len(header), io.SEEK_CUR)
            file.truncate()
            file.write(_MAKERS[header[:1]])
            buffers.append(pickle.PickleBuffer(piece))
        else:
            file.write(piece)
        before = piece
    return file.getvalue()


def _header_of(before: bytes, size: int) -> bytes:
    """The opcode and length at the end of `before` that announce so many bytes; nothing if they do not."""
    for opcode, digits in _LENGTHS.items():
        header = before[-1 - digits :]
        if header[:1] == opcode and int.from_bytes(header[1:], "little") == size:
            return header
    return b""


def text_of(buffer: Any) -> str:
    """The text that a buffer holds (named in pickles)."""
    return str(buffer, "utf-8", "surrogatepass")


def _dump_plain(obj: Any, buffers: list[pickle.PickleBuffer] | None, least: int = _IN_BAND_BYTES) -> bytes:
    pieces: _Pieces = []
    callback = None if buffers is None else _collect_into(pieces, least)
    _PlainPickler(_File(pieces), protocol=5, buffer_callback=callback).dump(obj)
    data: bytes = pieces[0] if len(pieces) == 1 else _joined(pieces, buffers)
    if _is_doubtful(data):  # cloudpickle's pickler looks closer
        raise _NeedsCloudpickle
    return data


def _dump_cloud(obj: Any, buffers: list[pickle.PickleBuffer] | None, least: int = _IN_BAND_BYTES) -> bytes:
    from betterbox._by_value import Pickler

    pieces: _Pieces = []
    callback = None if buffers is None else _collect_into(pieces, least)
    Pickler(_File(pieces), protocol=5, buffer_callback=callback).dump(obj)
    return _joined(pieces, buffers)


def _dump_either(obj: Any, buffers: list[pickle.PickleBuffer] | None, least: int = _IN_BAND_BYTES) -> bytes:
    try:
        return _dump_plain(obj, buffers, least)
    except Exception:  # whatever it was: cloudpickle may know how, and says it if not
        if buffers is not None:
            buffers.clear()
    return _dump_cloud(obj, buffers, least)


def dump(obj: object, path: str, least: int = _IN_BAND_BYTES) -> tuple[bytes, list[pickle.PickleBuffer]]:
    """Pickle an object, its large buffers apart.

    Parameters
    ----------
    obj : object
        Anything.
    path : str
        What the object is called in an error: ``args[0]``; of a tuple, names of its parts: ``args|kwargs``.
    least : int
        Buffers of fewer bytes stay in the pickle.

    Returns
    -------
    tuple of bytes and list of PickleBuffer
        The pickle (protocol 5) and the buffers that belong to it.

    Raises
    ------
    SerializationError
        If it cannot be pickled; names the path to the culprit.

    Examples
    --------
    >>> dump([1, 2], "item")[1]
    []
    """
    buffers: list[pickle.PickleBuffer] = []
    try:
        return _dump_either(obj, buffers, least), buffers
    except Exception as error:
        raise _explained(obj, path, error) from error


def dumps(obj: object, path: str) -> bytes:
    """Like `dump`, everything in one pickle."""
    try:
        return _dump_either(obj, None)
    except Exception as error:
        raise _explained(obj, path, error) from error


def snapshot(obj: Any, path: str) -> Any:
    """A copy of `obj` as it is now, made through a pickle."""
    if REFS not in sys.modules:
        return pickle.loads(dumps(obj, path))
    from betterbox._refs import taking

    with taking():  # until the copy has its own
        return pickle.loads(dumps(obj, path))


def _explained(obj: object, path: str, error: Exception) -> SerializationError:
    from betterbox import _culprit

    return _culprit.explained(obj, path, error, _fails, _is_importable)


def _fails(part: object) -> bool:
    try:
        _dump_either(part, None)
    except Exception:
        return True
    return False
