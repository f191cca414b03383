"""Which methods of an object its clients may call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from betterbox._boxes import SandBox, find_link
from betterbox._errors import nearest

CONCURRENT = 1
ASYNC = 2
_RESERVED = frozenset({"connect", "instance"})


def _function(member: Any) -> Any:
    return member.__func__ if isinstance(member, (classmethod, staticmethod)) else member


def _is_marked(member: Any, mark: str) -> bool:
    return bool(getattr(member, mark, False) or getattr(_function(member), mark, False))


def _is_method(member: Any) -> bool:
    function = _function(member)
    return callable(function) and not isinstance(function, type) or isinstance(function, _partial_method())


def _partial_method() -> type:
    import functools

    return functools.partialmethod


def _flags(member: Any) -> int:
    import inspect

    flags = CONCURRENT if _is_marked(member, "__betterbox_concurrent__") else 0
    return flags | (ASYNC if inspect.iscoroutinefunction(_function(member)) else 0)


def _static(cls: type, name: str) -> Any:
    """The attribute as it lies in the class or those above it; None if there is none."""
    import inspect  # boxes need it, plain functions do not

    return inspect.getattr_static(cls, name, None)


def _is_private(obj: Any, name: str) -> bool:
    """True if any class in the hierarchy marked the name private and no one below took it back."""
    member = _static(type(obj), name)
    return member is not None and _is_marked(member, "__betterbox_private__")


def exports(obj: Any) -> list[tuple[str, int]]:
    """``(name, flags)`` of all methods of `obj` that are exported; a relay's include those of the boxes it uses."""
    found: dict[str, int] = {}
    link = find_link(obj)
    if link is not None:
        found.update(link.exports())
    for name in dir(type(obj)):
        if name.startswith("_") or name in _RESERVED:
            continue
        member = _static(type(obj), name)
        if _is_method(member) and not _is_marked(member, "__betterbox_private__"):
            found[name] = _flags(member)
        else:
            found.pop(name, None)
    return sorted(found.items())


def is_sandbox(obj: Any) -> bool:
    """True if names that are not exported now may become methods."""
    link = find_link(obj)
    return isinstance(obj, SandBox) or (link is not None and link.sandbox)


def find_method(obj: Any, name: str, exported: dict[str, int]) -> Callable[..., Any]:
    """The bound method that a client asked for.

    Raises
    ------
    AttributeError
        If there is none, or it is private; suggests the nearest.
    """
    if name in exported:
        method: Callable[..., Any] = getattr(obj, name)
        return method
    kind = type(obj).__qualname__
    if name.startswith("_") or _is_private(obj, name):
        raise AttributeError(f"{kind}.{name} is private: only the box itself may call it", name=name)
    if is_sandbox(obj) and name not in _RESERVED:
        injected = getattr(obj, name, None) if find_link(obj) is not None else obj.__dict__.get(name)
        if callable(injected):
            return injected  # type: ignore[no-any-return]
    known = [*exported, *(n for n in getattr(obj, "__dict__", {}) if not n.startswith("_"))]
    raise AttributeError(f"{kind} has no method {name!r}{nearest(name, known)}", name=name)


