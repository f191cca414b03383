"""Which part of what cannot be pickled is to blame, by the path that the caller would write: ``args[0].model._lock``.

The objects that are looked at may raise whatever they are asked: one whose own code ends the search is the culprit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from types import FunctionType, MethodType
from typing import Any

from betterbox._errors import SerializationError

__tracebackhide__ = True  # pytest shows the user's lines

_SEARCH_SECONDS = 2.0
_SEARCH_OBJECTS = 5000
_SEARCH_DEPTH = 24
_ATOMS = (int, float, str, bytes, bool, type(None))


def explained(
    obj: object, path: str, error: BaseException, fails: Callable[[Any], bool], by_name: Callable[[Any], bool]
) -> SerializationError:
    """The error for `obj`, whose pickling has raised `error`.

    `fails` says whether a part cannot be pickled, `by_name` whether a class is pickled by its name. A path may name the
    parts of a tuple, joined by bars: ``args|kwargs``.
    """
    if isinstance(error, RecursionError):
        return SerializationError(f"{path} cannot be pickled: it is nested too deeply ({error})")
    path, culprit = _Search(fails, by_name).find(obj, path)
    kind = type(culprit)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    if isinstance(culprit, type):
        name = f"class {culprit.__module__}.{culprit.__qualname__}"
    return SerializationError(
        f"{path} cannot be pickled ({name}: {_reason(error)}); pass what it is made from instead, "
        f"or leave it out with __getstate__"
    )


def shown(obj: Any, most: int = 40) -> str:
    """The `repr` of any object, at most so long; what raises there is shown by its type."""
    try:
        text = repr(obj)
    except Exception:
        return f"<{type(obj).__qualname__}>"
    return text if len(text) <= most else text[:most]


def _reason(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:
        text = ""
    kind = type(error).__name__
    return text if text and kind in ("TypeError", "PicklingError", "AttributeError") else f"{kind}: {text}".rstrip(": ")


class _Search:
    """Walks into what fails, part by part, until nothing inside fails; bounded in depth, objects and time."""

    def __init__(self, fails: Callable[[Any], bool], by_name: Callable[[Any], bool]) -> None:
        self.fails = fails
        self.by_name = by_name
        self.deadline = time.monotonic() + _SEARCH_SECONDS
        self.left = _SEARCH_OBJECTS
        self.seen: set[int] = set()

    def find(self, obj: Any, path: str) -> tuple[str, Any]:
        for _ in range(_SEARCH_DEPTH):
            self.seen.add(id(obj))
            found = self._failing_part(obj, path)
            if found is None:
                break
            path, obj = found
        return path.replace("|", " or "), obj

    def _failing_part(self, obj: Any, path: str) -> tuple[str, Any] | None:
        if isinstance(obj, type) and self.by_name(obj):
            return None
        return next(((name, part) for name, part in parts(obj, path) if self._is_culprit(part)), None)

    def _is_culprit(self, part: Any) -> bool:
        if id(part) in self.seen or type(part) in _ATOMS:
            return False
        self.left -= 1
        if self.left < 0 or time.monotonic() > self.deadline:
            return False
        return self.fails(part)


def parts(obj: Any, path: str) -> Iterator[tuple[str, Any]]:
    """What a pickle of `obj` would contain, each with its path, as far as `obj` lets itself be asked."""
    try:
        yield from _parts(obj, path)
    except Exception:
        pass


def _parts(obj: Any, path: str) -> Iterator[tuple[str, Any]]:
    if "|" in path:
        yield from zip(path.split("|"), obj)
        return
    if isinstance(obj, dict):
        for key, value in obj.items():
            yield f"{path}[{shown(key)}]", value
            yield f"{path} (key {shown(key)})", key
    elif isinstance(obj, (list, tuple)):
        for i, value in enumerate(obj):
            yield f"{path}[{i}]", value
    elif isinstance(obj, (set, frozenset)):
        for value in obj:
            yield f"{path} (element {shown(value)})", value
    if type(obj) in (dict, list, tuple, set, frozenset):
        return
    if isinstance(obj, FunctionType):
        yield from _function_parts(obj, path)
    elif isinstance(obj, MethodType):
        yield f"{path}.__self__", obj.__self__
        yield f"{path}.__func__", obj.__func__
    elif isinstance(obj, type):
        yield from ((f"{path}.{name}", value) for name, value in vars(obj).items() if not name.startswith("__"))
    elif isinstance(obj, (staticmethod, classmethod)):
        yield f"{path}.__func__", obj.__func__
    elif isinstance(obj, property):
        yield from ((f"{path}.{name}", getattr(obj, name)) for name in ("fget", "fset", "fdel"))
    else:
        if type(obj) is partial:
            yield f"{path}.func", obj.func
            yield from parts(obj.args, f"{path}.args")
            yield from parts(obj.keywords, f"{path}.keywords")
        yield from _reduced_parts(obj, path)


def _reduced_parts(obj: Any, path: str) -> Iterator[tuple[str, Any]]:
    """What an object says that it is made of."""
    reduced = obj.__reduce_ex__(5)
    if isinstance(reduced, str):
        return
    state = reduced[2] if len(reduced) > 2 else None
    own, slots = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
    if isinstance(own, (dict, type(None))) and isinstance(slots, (dict, type(None))):
        for name, value in {**(own or {}), **(slots or {})}.items():
            yield f"{path}.{name}", value
    else:
        yield f"{path}.__getstate__()", state
    attributes = {id(value): name for name, value in getattr(obj, "__dict__", {}).items()}
    for i, value in enumerate(reduced[1]):
        if value is type(obj):
            yield f"{path}.__class__", value
        elif id(value) in attributes:
            yield f"{path}.{attributes[id(value)]}", value
        else:
            yield f"{path}.__reduce__()[1][{i}]", value
    if len(reduced) > 3 and reduced[3] is not None and not isinstance(obj, list):
        yield from ((f"{path}[{i}]", value) for i, value in enumerate(reduced[3]))


def _function_parts(obj: FunctionType, path: str) -> Iterator[tuple[str, Any]]:
    name = f"{path}<{obj.__qualname__}>" if path else obj.__qualname__
    if obj.__closure__:
        for variable, cell in zip(obj.__code__.co_freevars, obj.__closure__):
            try:
                yield f"{name}.{variable} (closed over)", cell.cell_contents
            except ValueError:
                pass
    for i, value in enumerate(obj.__defaults__ or ()):
        yield f"{name}.__defaults__[{i}]", value
    for key, value in (obj.__kwdefaults__ or {}).items():
        yield f"{name}.__kwdefaults__[{key!r}]", value
    codes = [obj.__code__]
    used: set[str] = set()
    while codes:
        code = codes.pop()
        used.update(code.co_names)
        codes.extend(const for const in code.co_consts if hasattr(const, "co_names"))
    for variable in sorted(used):
        if variable in obj.__globals__:
            yield f"{name}.{variable} (global)", obj.__globals__[variable]
    for variable, value in vars(obj).items():
        yield f"{name}.{variable}", value
