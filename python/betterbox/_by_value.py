"""The pickler of what has no importable name: cloudpickle's, with reducers of our own for classes and their kin.

cloudpickle sends functions by value well. Its classes are another matter: a class that comes home is written over with
what it was when it left, subclass hooks and metaclasses run on empty classes, and what version 2.2 makes of dataclasses,
named tuples and enumerations is not what was sent. So classes are reduced here, for every version of cloudpickle alike.

A class travels as its identity (see `_tracking`), what it is built from, and its attributes. Where its identity is known,
the class that is there is taken. Its attributes are written only where it is built, and where a copy hears from home.
"""

from __future__ import annotations

import abc
import copyreg
import dis
import functools
import pickle
import sys
import threading
import types
import typing
import weakref
from collections.abc import Callable, Iterator, Mapping
from enum import EnumMeta
from typing import Any

import cloudpickle

from betterbox import _annotations, _pickling, _tracking
from betterbox._class_building import (
    build_class,
    build_enum,
    call_subclass_hook,
    change_class,
    is_written_in_python,
    write_attributes,
)
from betterbox._errors import SerializationError
from betterbox._failures import reduce_exception

__tracebackhide__ = True  # pytest shows the user's lines

_MADE_WITH_THE_CLASS = frozenset(
    "__dict__ __weakref__ __slots__ __slotnames__ __module__ __orig_bases__ _abc_impl".split()
)
_MADE_WITH_THE_MEMBER = frozenset({"_name_", "__objclass__", "_sort_order_", "_inverted_"})
_MADE_WITH_THE_ENUM = frozenset(
    "_member_names_ _member_map_ _value2member_map_ _unhashable_values_ _hashable_values_ _unhashable_values_map_ "
    "_member_type_ _boundary_ _inverted_ __members__".split()
)


class Pickler(cloudpickle.CloudPickler):  # type: ignore[misc]
    """Pickles by value what has no name that means the same elsewhere."""

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        reduce = _reducers.get(kind)
        if reduce is not None:
            return reduce(obj)
        if issubclass(kind, type):
            if _pickling._is_importable(obj):
                return NotImplemented
            if is_written_in_python(obj):
                return _reduce_class(obj)
        elif issubclass(kind, BaseException):
            return reduce_exception(obj)
        elif kind.__module__ == "dataclasses" and (name := _sentinel_name(obj)) is not None:
            return _found, ("dataclasses", name)
        elif _has_own_reducer(kind) and kind not in _known_to_cloudpickle:
            return _reduce_instance(obj)
        return super().reducer_override(obj)

    def _dynamic_function_reduce(self, func: types.FunctionType) -> Any:
        """cloudpickle looks for globals in the code of functions only, not in the bodies of classes within them."""
        reduced = super()._dynamic_function_reduce(_annotations.evaluated(func))
        used: dict[str, Any] = reduced[2][1]["__globals__"]
        names = (name for name in _names_in_class_bodies(func.__code__) if name in func.__globals__)
        used.update((name, func.__globals__[name]) for name in names)
        if not _is_of_script(func):
            return reduced
        return *reduced[:2], (reduced[5], reduced[2]), None, None, _complete


_CO_OPTIMIZED = 1  # of a code object: a function. (`inspect` has the name, and takes 5 ms to import.)


def _names_in_class_bodies(code: types.CodeType) -> Iterator[str]:
    """What bodies of classes within `code` read and have not assigned before."""
    for inner in code.co_consts:
        if not isinstance(inner, types.CodeType):
            continue
        if not inner.co_flags & _CO_OPTIMIZED:
            assigned = set()
            for step in dis.get_instructions(inner):
                if step.opname == "STORE_NAME":
                    assigned.add(step.argval)
                elif step.opname in ("LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS") and step.argval not in assigned:
                    yield step.argval
        yield from _names_in_class_bodies(inner)


def _complete(func: types.FunctionType, state: tuple[Callable[..., None], Any]) -> None:
    state[0](func, state[1])
    _give_name(func)


def _is_of_script(obj: Any) -> bool:
    name = obj.__qualname__
    return obj.__module__ == "__main__" and name.isidentifier() and _found("__main__", name) is obj


def _give_name(obj: Any) -> None:
    """`pickle` in user code, and children that it forks, look for what a script has by name in `__main__`."""
    if _tracking.has_no_script:
        setattr(sys.modules["__main__"], obj.__qualname__, obj)


def _has_own_reducer(kind: type) -> bool:
    own = any(getattr(kind, name) is not getattr(object, name) for name in ("__reduce__", "__reduce_ex__"))
    return own and is_written_in_python(kind)


_known_to_cloudpickle: Mapping[type, Any] = cloudpickle.CloudPickler.dispatch_table


# --- code -----------------------------------------------------------------------------------------

_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def _reduce_code(code: types.CodeType) -> tuple[Any, ...]:
    """Byte code is of one minor version of Python; another would crash on it."""
    make, parts = _known_to_cloudpickle[types.CodeType](code)
    return _code, (_PYTHON, make, *parts)


def _code(python: str, make: Callable[..., types.CodeType], *parts: Any) -> types.CodeType:
    if python != _PYTHON:
        raise SerializationError(
            f"code that travels by value is of Python {python}, and what it came to runs Python {_PYTHON}: put the function or "
            f"class into a module that both can import, or use the same Python for both"
        )
    return make(*parts)


# --- classes --------------------------------------------------------------------------------------


def _reduce_class(cls: type) -> tuple[Any, ...]:
    name, at_home, _ = _tracking.identify(cls)
    if isinstance(cls, EnumMeta):
        made: tuple[Any, ...] = _enum, (name, type(cls), cls.__name__, cls.__bases__, *_enum_parts(cls))
    else:
        made = _class, (name, _metaclass(cls), cls.__name__, cls.__bases__, _first_attributes(cls))
    state = name, at_home, _is_of_script(cls), cls.__bases__, _attributes(cls), _virtual_subclasses(cls)
    return *made, state, None, None, _fill


def _metaclass(cls: type) -> type | None:
    """None for one that has no name: that of the first base."""
    meta = type(cls)
    return None if type(cls.__bases__[0]) is meta and not is_written_in_python(meta) and meta is not type else meta


def _first_attributes(cls: type) -> dict[str, Any]:
    """What must be there when a class is built."""
    own = vars(cls)
    first: dict[str, Any] = {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
    if "__slots__" in own:
        slots = own["__slots__"]
        first["__slots__"] = slots if isinstance(slots, (str, list, tuple, dict)) else _slot_names(cls)
    if "__orig_bases__" in own:
        first["__orig_bases__"] = own["__orig_bases__"]
    first.update((name, own[name]) for name in _hidden_by_type(cls))
    return first


def _hidden_by_type(cls: type) -> Iterator[str]:
    """Attributes like a property `__name__`, which cannot be set: the type has a meaning of its own for the name."""
    for name in _OF_TYPE & vars(cls).keys():
        if not isinstance(vars(cls)[name], types.GetSetDescriptorType):
            yield name


_SETTABLE = {"__module__", "__doc__", "__annotations__", "__abstractmethods__", "__type_params__"}
_OF_TYPE = {name for name, value in vars(type).items() if hasattr(type(value), "__set__")} - _SETTABLE


def _slot_names(cls: type) -> tuple[str, ...]:
    """For a class whose `__slots__` was an iterator, which has been used up."""
    return tuple(name for name, value in vars(cls).items() if isinstance(value, types.MemberDescriptorType))


def _attributes(cls: type) -> dict[str, Any]:
    """The attributes that are written into a class after it was built."""
    is_enum = isinstance(cls, EnumMeta)
    members: Any = cls.__members__ if isinstance(cls, EnumMeta) else {}
    made_first = set(_hidden_by_type(cls))
    found = {
        name: value
        for name, value in vars(cls).items()
        if name not in _MADE_WITH_THE_CLASS
        and name not in _annotations.MADE_BY_PYTHON
        and name not in members
        and name not in made_first
        and not (is_enum and name in _MADE_WITH_THE_ENUM)
        and not _is_made_anew(cls, name, value)
    }
    hints = _annotations.of_class(cls)
    if hints:
        found["__annotations__"] = hints
    return found


def _is_made_anew(cls: type, name: str, value: Any) -> bool:
    """True for what building the class makes: places of slots and fields, and what `typing.Protocol` puts there."""
    if isinstance(value, (types.MemberDescriptorType, types.GetSetDescriptorType)):
        return value.__objclass__ is cls
    if type(value).__name__ == "CField":
        return True
    made_by_typing = name in ("__init__", "__subclasshook__") and "_is_protocol" in vars(cls)
    return made_by_typing and getattr(getattr(value, "__func__", value), "__module__", "") == "typing"


def _virtual_subclasses(cls: type) -> tuple[type, ...]:
    if not isinstance(cls, abc.ABCMeta):
        return ()
    try:
        registered = abc._get_dump(cls)[0]  # type: ignore[attr-defined]
    except Exception:
        return ()
    return tuple(sub for sub in (reference() for reference in registered) if sub is not None)


def _class(name: str, meta: type | None, class_name: str, bases: tuple[type, ...], first: dict[str, Any]) -> Any:
    found = _tracking.find(name) or _found_again(first["__module__"], first["__qualname__"])
    if found is None:
        found = build_class(meta or type(bases[0]), class_name, bases, first)
        _unfilled.add(name)
        _tracking.keep(name, found)
    return found


def _enum_parts(cls: EnumMeta) -> tuple[str, str, dict[str, Any], Any]:
    """Module, qualified name, members (by name, aliases too) and boundary of an enumeration."""
    members = {}
    member: Any
    data = next(base for base in cls.__mro__ if not is_written_in_python(base))
    for name, member in cls.__members__.items():
        facts = {k: v for k, v in vars(member).items() if k not in _MADE_WITH_THE_MEMBER}
        members[name] = data, _arguments_of_new(data, member), member._value_, facts
    return cls.__module__, cls.__qualname__, members, getattr(cls, "_boundary_", None)


def _arguments_of_new(data: Any, member: Any) -> tuple[Any, ...]:
    """What `data` makes the native part of a member from."""
    if data is object:
        return ()
    if hasattr(data, "__getnewargs__"):
        return data.__getnewargs__(member)  # type: ignore[no-any-return]
    return data.__reduce__(member)[1]  # type: ignore[no-any-return]


def _enum(name: str, *parts: Any) -> Any:
    found = _tracking.find(name) or _found_again(parts[3], parts[4])
    if found is None:
        found = build_enum(*parts)
        _unfilled.add(name)
        _tracking.keep(name, found)
    return found


def loads_of_an_earlier_run(data: bytes) -> Any:
    """Unpickle what an earlier run of this script has kept: its classes are those that have their names now."""
    _loading.earlier = True
    try:
        return pickle.loads(data)
    finally:
        _loading.earlier = False


_loading = threading.local()


def _found_again(module: str, qualname: str) -> Any:
    if module != "__main__" or not getattr(_loading, "earlier", False):
        return None
    found = _found(module, qualname)
    return found if isinstance(found, type) else None


_unfilled: set[str] = set()
"""Identities of classes that were built here and have no attributes yet."""


def _fill(cls: Any, state: tuple[str, bool, bool, tuple[type, ...], dict[str, Any], tuple[type, ...]]) -> None:
    name, from_home, has_name, bases, attributes, subclasses = state
    if has_name:
        _give_name(cls)
    is_new = name in _unfilled
    known = _tracking.identify(cls)
    if not is_new and (not from_home or known.at_home):
        return
    write_attributes(cls, attributes)
    change_class(cls, bases, known.told - attributes.keys())
    known.told.clear()
    known.told.update(attributes)
    for sub in subclasses:
        cls.register(sub)
    if is_new:
        if call_subclass_hook(cls):
            write_attributes(cls, attributes)
        _unfilled.discard(name)


# --- what is kept once per process, as classes are --------------------------------------------------


def _tracked(obj: Any, make: Callable[..., Any], args: tuple[Any, ...], state: Any = None) -> tuple[Any, ...]:
    return _once, (_tracking.identify(obj).name, make, args), state


def _once(name: str, make: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    found = _tracking.find(name)
    if found is None:
        found = make(*args)
        _tracking.keep(name, found)
    return found


def _by_name_or(reduce: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda obj: obj.__reduce__() if _pickling._is_importable(obj) else reduce(obj)


def _reduce_new_type(obj: Any) -> tuple[Any, ...]:
    return _tracked(obj, _new_type, (obj.__name__, obj.__supertype__, obj.__module__, obj.__qualname__))


def _new_type(name: str, supertype: Any, module: str, qualname: str) -> Any:
    made: Any = typing.NewType(name, supertype)  # type: ignore[misc]
    made.__module__, made.__qualname__ = module, qualname
    return made


_PARAMETER_FACTS = {
    "bound": "__bound__",
    "covariant": "__covariant__",
    "contravariant": "__contravariant__",
    "infer_variance": "__infer_variance__",
    "default": "__default__",
}


def _reduce_type_parameter(obj: Any) -> tuple[Any, ...]:
    facts = {word: getattr(obj, name) for word, name in _PARAMETER_FACTS.items() if getattr(obj, name, None)}
    facts = {word: fact for word, fact in facts.items() if fact is not getattr(typing, "NoDefault", None)}
    constraints = getattr(obj, "__constraints__", ())
    return _tracked(obj, _type_parameter, (type(obj), obj.__name__, constraints, facts, obj.__module__))


def _type_parameter(kind: Any, name: str, constraints: tuple[Any, ...], facts: dict[str, Any], module: str) -> Any:
    made = kind(name, *constraints, **facts)
    try:
        made.__module__ = module
    except AttributeError:
        pass
    return made


def _reduce_alias(obj: Any) -> tuple[Any, ...]:
    """Not tracked: nothing can refer to it weakly."""
    return _alias, (type(obj), obj.__name__, obj.__value__, obj.__type_params__)


def _alias(kind: Any, name: str, value: Any, parameters: tuple[Any, ...]) -> Any:
    return kind(name, value, type_params=parameters)


def _reduce_cached(obj: Any) -> tuple[Any, ...]:
    facts = {name: value for name, value in vars(obj).items() if name not in ("__wrapped__", "cache_parameters")}
    parameters = obj.cache_parameters()
    return _cached, (obj.__wrapped__, parameters["maxsize"], parameters["typed"]), facts


def _cached(fn: Any, maxsize: int | None, typed: bool) -> Any:
    return functools.lru_cache(maxsize, typed)(fn)


def _reduce_cached_property(obj: Any) -> tuple[Any, ...]:
    facts = {name: value for name, value in vars(obj).items() if name not in ("func", "lock")}
    return type(obj), (obj.func,), facts


def _reduce_partial_method(obj: Any) -> tuple[Any, ...]:
    """From Python 3.14 on it cannot be made without its function, which its own pickle does."""
    return _partial_method, (obj.func, obj.args, obj.keywords)


def _partial_method(fn: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    return functools.partialmethod(fn, *args, **keywords)


def _reduce_weak_dict(obj: Any) -> tuple[Any, ...]:
    return type(obj), (), None, None, iter(list(obj.items()))


# --- objects whose own reducer gives a name ---------------------------------------------------------


def _reduce_instance(obj: Any) -> Any:
    """A name in a module that only this process has means nothing elsewhere: the object goes by value, once."""
    reduced = obj.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
    if not isinstance(reduced, str):
        managers = sys.modules.get("multiprocessing.managers")
        if managers is None or reduced[0] is not managers.RebuildProxy:
            return reduced
        from betterbox._proxies import reduce_proxy

        return reduce_proxy(obj, reduced)
    module = getattr(obj, "__module__", None) or "__main__"
    if not _pickling.is_by_value(module) and _found(module, reduced) is obj:
        return reduced
    return _tracked(obj, copyreg.__newobj__, (type(obj),), _plain_state(obj))  # type: ignore[attr-defined]


def _plain_state(obj: Any) -> Any:
    """What `object.__getstate__` gives, which Python 3.10 does not have."""
    values = getattr(obj, "__dict__", None) or None
    names = copyreg._slotnames(type(obj))  # type: ignore[attr-defined]
    slots = {name: getattr(obj, name) for name in names if hasattr(obj, name)}
    return (values, slots) if slots else values


def _found(module: str, name: str) -> Any:
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def _sentinel_name(obj: Any) -> str | None:
    """`dataclasses` compares its sentinels by identity, and their own pickles forget it."""
    return next((name for name, value in vars(sys.modules["dataclasses"]).items() if value is obj), None)


_reducers: dict[type, Callable[[Any], Any]] = {
    types.CodeType: _reduce_code,
    typing.NewType: _by_name_or(_reduce_new_type),
    functools._lru_cache_wrapper: _by_name_or(_reduce_cached),
    functools.cached_property: _reduce_cached_property,
    functools.partialmethod: _reduce_partial_method,
    weakref.WeakValueDictionary: _reduce_weak_dict,
    weakref.WeakKeyDictionary: _reduce_weak_dict,
}
for _kind in ("TypeVar", "ParamSpec", "TypeVarTuple"):
    if hasattr(typing, _kind):
        _reducers[getattr(typing, _kind)] = _by_name_or(_reduce_type_parameter)
if hasattr(typing, "TypeAliasType"):
    _reducers[typing.TypeAliasType] = _by_name_or(_reduce_alias)
