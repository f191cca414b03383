"""What large values a function drags along into each call by accident: one warning.

Nothing is kept over from call to call: a call means its values as they are at its moment, and whether a large value
is still the same can only be told by reading all of it, which takes as long as copying it. `betterbox.put` is how the
user says that it stays.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

from betterbox import _culprit, _pickling
from betterbox._errors import LargeCaptureWarning

LARGE_BYTES = 1 << 20
_MOST_KNOWN = 1000  # functions
_DEPTH = 6
_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_PLAIN = (type(None), bool, int, float, complex)

_looked_at: set[Any] = set()


def look(fn: Any) -> None:
    """A context with `fn` is large: warn, once per function, of what `fn` brings along, if anything is large."""
    key = _key_of(fn)
    if key in _looked_at:
        return
    if len(_looked_at) >= _MOST_KNOWN:
        _looked_at.clear()
    _looked_at.add(key)
    found = list(_large_parts(fn, "", _DEPTH, set()))
    if not found:
        return
    named = ", ".join(f"{path} ({type(value).__name__}, {_in_mb(size)})" for path, value, size in found[:5])
    _warn(
        f"{_name_of(fn)} drags large values along, which are pickled and sent again with each call: {named}. "
        f"Send each once, ref = betterbox.put(value), and pass the ref as an argument"
    )


def _key_of(fn: Any) -> Any:
    while isinstance(fn, partial):
        fn = fn.func
    code = getattr(fn, "__code__", None)
    if code is not None:
        return code.co_filename, code.co_firstlineno, code.co_name
    return type(fn).__module__, type(fn).__qualname__, getattr(fn, "__qualname__", "")


def _name_of(fn: Any) -> str:
    while isinstance(fn, partial):
        fn = fn.func
    name: str = getattr(fn, "__qualname__", type(fn).__qualname__)
    return name


def _in_mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _quick_size(value: Any) -> int:
    """A lower bound of what a pickle of `value` takes, found without making one."""
    size = getattr(value, "nbytes", None)
    if type(size) is int:
        return size
    if isinstance(value, (bytes, bytearray, str)):
        return len(value)
    return len(value) if isinstance(value, (list, tuple, dict, set, frozenset)) else 0


def _pickled_size(value: Any) -> int:
    quick = _quick_size(value)
    if quick > LARGE_BYTES:
        return quick
    try:
        data, buffers = _pickling.dump(value, "")
    except Exception:
        return 0
    return len(data) + sum(buffer.raw().nbytes for buffer in buffers)


def _large_parts(obj: Any, path: str, depth: int, seen: set[int]) -> Iterator[tuple[str, Any, int]]:
    """The variables below a function that are large, by the names that the user gave them."""
    if depth == 0 or id(obj) in seen:
        return
    seen.add(id(obj))
    if isinstance(obj, FunctionType) and _pickling.goes_by_name(obj):
        return
    if isinstance(obj, partial):  # its arguments were given on purpose
        yield from _large_parts(obj.func, path, depth - 1, seen)
        return
    for name, value in _culprit.parts(obj, path):
        if id(value) in seen or isinstance(value, (type, ModuleType, *_PLAIN)):
            continue
        if _is_opened(value):
            yield from _large_parts(value, name, depth - 1, seen)
        elif (size := _pickled_size(value)) > LARGE_BYTES:
            seen.add(id(value))
            yield name.lstrip("."), value, size


def _is_opened(value: Any) -> bool:
    """True for what is named by its own parts: functions, and objects of the user's classes."""
    if isinstance(value, (FunctionType, MethodType, partial)):
        return True
    return hasattr(value, "__dict__") and not hasattr(value, "nbytes") and not callable(getattr(value, "__len__", None))


def _warn(text: str) -> None:
    """In the name of the line that called BetterBox."""
    level = 2  # the frame of whoever called this
    frame: Any = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
        level += 1
    warnings.warn(text, LargeCaptureWarning, stacklevel=level)
