"""What large values a function drags along into each call by accident: one warning.

Nothing is kept over from call to call: a call means its values as they are at its moment, and whether a large value
is still the same can only be told by reading all of it, which takes as long as copying it. `betterbox.put` is how the
user says that it stays.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

from betterbox import _culprit, _pickling, _warned
from betterbox._errors import LargeCaptureWarning
from betterbox._printable import printable_lines

__tracebackhide__ = True  # pytest shows the user's lines

LARGE_BYTES = 1 << 20
GIVEN_BYTES = 4 << 20  # of what is given on purpose: arguments that come again, and those of partials
_MOST_KNOWN = 1000  # functions
_DEPTH = 6
_PLAIN = (type(None), bool, int, float, complex)

_looked_at: set[Any] = set()
_given: dict[tuple[Any, str], Any] = {}
"""By function and argument: a mark of the large value that it was last, or None once that has been told."""


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


def look_at_arguments(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Warn, once per function and argument, of a large value that comes a second time."""
    named = [(f"args[{i}]", value) for i, value in enumerate(args)]
    named += [(f"kwargs[{name!r}]", value) for name, value in kwargs.items()]
    for path, value in named:
        if isinstance(value, _PLAIN) or (size := _quick_size(value)) < GIVEN_BYTES:
            continue
        key = _key_of(target), path
        if key not in _given:
            if len(_given) >= _MOST_KNOWN:
                _given.clear()
            _given[key] = _Mark(value, size)
        elif _given[key] is not None and _given[key].is_of(value, size):
            _given[key] = None
            _warn(
                f"{_name_of(target)} is given the same large value again, which is pickled and sent with each call: "
                f"{path} ({type(value).__name__}, {_in_mb(size)}). "
                f"Send it once, ref = betterbox.put(value), and pass the ref instead"
            )
        elif _given[key] is not None:
            _given[key] = _Mark(value, size)


class _Mark:
    """Tells whether a value is the one that was seen before, without keeping it."""

    def __init__(self, value: Any, size: int) -> None:
        self.facts = id(value), size, _sample(value)
        try:
            self.alive: Any = weakref.ref(value)
        except TypeError:
            self.alive = None

    def is_of(self, value: Any, size: int) -> bool:
        if self.alive is not None:
            return self.alive() is value
        return self.facts == (id(value), size, _sample(value))


def _sample(value: Any) -> Any:
    """A few parts of what has no weak references: another value at the same place differs in them, or is as good."""
    if isinstance(value, (bytes, bytearray, str)):
        return value[:: max(1, len(value) // 64)]
    if isinstance(value, (list, tuple)):
        return [id(each) for each in value[:: max(1, len(value) // 64)]]
    return None


def _key_of(fn: Any) -> Any:
    if isinstance(fn, str):
        return fn
    if isinstance(fn, partial):
        return "partial", _key_of(fn.func)
    code = getattr(fn, "__code__", None)
    if code is not None:
        return code.co_filename, code.co_firstlineno, code.co_name
    return type(fn).__module__, type(fn).__qualname__, getattr(fn, "__qualname__", "")


def _name_of(fn: Any) -> str:
    if isinstance(fn, str):
        return fn
    while isinstance(fn, partial):
        fn = fn.func
    name: str = getattr(fn, "__qualname__", type(fn).__qualname__)
    return name


def _in_mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _quick_size(value: Any) -> int:
    """A lower bound of what a pickle of `value` takes, found without making one."""
    try:
        size = getattr(value, "nbytes", None)
    except Exception:  # its own code
        return 0
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
    if isinstance(obj, partial):
        for name, value in (*_culprit.parts(obj.args, "args"), *_culprit.parts(obj.keywords, "keywords")):
            if not isinstance(value, _PLAIN) and (size := _quick_size(value)) >= GIVEN_BYTES:
                yield name, value, size
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
    _warned.warn(printable_lines(text), LargeCaptureWarning)
