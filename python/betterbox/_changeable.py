"""Which arguments an item could change: those are made anew for each item of a call that shares them."""

from __future__ import annotations

import enum
import sys
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

_MOST_LOOKED_AT = 1000  # objects; what holds more is taken to be changeable
_ATOMS = (type(None), bool, int, float, complex, str, bytes, range, type(Ellipsis), type(NotImplemented))
_CODE = (type, FunctionType, ModuleType)
_MODULES_OF_VALUES = frozenset(("datetime", "decimal", "fractions", "uuid", "pathlib", "zoneinfo", "re", "operator"))


def is_changeable(*objects: Any) -> bool:
    """False if none of them can be changed: numbers, texts, functions, and tuples and the like of these.

    What a function reads besides its arguments (globals, defaults, closures) is code: it is made once per call and slot.
    """
    waiting = list(objects)
    for looked_at, obj in enumerate(_each(waiting)):
        if looked_at > _MOST_LOOKED_AT or not _is_fixed(obj, waiting):
            return True
    return False


def _each(waiting: list[Any]) -> Any:
    while waiting:
        yield waiting.pop()


def _is_fixed(obj: Any, waiting: list[Any]) -> bool:
    """True if `obj` cannot be changed itself; its parts are added to `waiting`."""
    kind = type(obj)
    if kind in _ATOMS or isinstance(obj, _CODE) or isinstance(obj, enum.Enum):
        return True
    if kind is BuiltinFunctionType:  # of a module, or a method of an object
        waiting.append(obj.__self__)
        return True
    if kind in (tuple, frozenset):
        waiting.extend(obj)
        return True
    if kind is partial:
        waiting.extend((obj.func, obj.args, *obj.keywords.values()))
        return not obj.__dict__
    if kind is MethodType:
        waiting.append(obj.__self__)
        return True
    if kind.__module__.partition(".")[0] in _MODULES_OF_VALUES and kind.__name__ != "Context":
        return True
    if kind.__module__ == "functools" and kind.__name__ == "_lru_cache_wrapper":
        return True
    if kind.__module__ == "betterbox._refs":  # whoever puts a value means one copy for many items
        return True
    if isinstance(obj, tuple) and not getattr(obj, "__dict__", None):  # a named tuple
        waiting.extend(obj)
        return True
    params = getattr(kind, "__dataclass_params__", None)
    if params is not None and params.frozen:
        waiting.extend(getattr(obj, name, None) for name in kind.__dataclass_fields__)
        return True
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(obj, (numpy.generic, numpy.dtype))
