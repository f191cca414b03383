"""Annotations as values. Since Python 3.14 they are code that runs when somebody looks, and that may fail: then they are
texts."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import inspect

_ARE_CODE = sys.version_info[:2] >= (3, 14)

MADE_BY_PYTHON = frozenset({"__annotate_func__", "__annotate__", "__annotations_cache__", "__conditional_annotations__"})
"""Where a class keeps that code, which refers to all of the class, and what it gave."""


def of_class(cls: type) -> dict[str, Any]:
    """What a class itself annotates."""
    return _evaluated(cls) if _ARE_CODE else vars(cls).get("__annotations__", {})


def evaluated(fn: types.FunctionType) -> types.FunctionType:
    """A function that is `fn`, but for its annotations, if these cannot be evaluated."""
    try:
        fn.__annotations__
        return fn
    except Exception:
        made = types.FunctionType(fn.__code__, fn.__globals__, fn.__name__, fn.__defaults__, fn.__closure__)
        made.__kwdefaults__, made.__module__, made.__doc__ = fn.__kwdefaults__, fn.__module__, fn.__doc__
        made.__qualname__ = fn.__qualname__
        made.__dict__.update(fn.__dict__)
        made.__annotations__ = _evaluated(fn)
        return made


def signature(fn: Callable[..., Any]) -> inspect.Signature:
    """As `inspect.signature`."""
    import inspect  # slow

    try:
        return inspect.signature(fn)
    except (NameError, AttributeError):
        if not _ARE_CODE:
            raise
        as_texts: Any = {"annotation_format": importlib.import_module("annotationlib").Format.STRING}
        return inspect.signature(fn, **as_texts)


def _evaluated(obj: Any) -> dict[str, Any]:
    try:
        found: dict[str, Any] = obj.__annotations__
    except Exception:
        library = importlib.import_module("annotationlib")
        found = library.get_annotations(obj, format=library.Format.STRING)
    return found
