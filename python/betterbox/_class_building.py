"""Building copies of classes that came from elsewhere: what `_by_value` sends is made into classes here.

Only what makes the class runs: neither the metaclasses of users, nor the subclass hooks of bases that came by value.
They have run at the class's home, on the class as it was written, and what they left in classes travels with these.
"""

from __future__ import annotations

import abc
import os
import sys
import threading
import types
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import EnumMeta
from typing import Any

from betterbox import _pickling

_HEAP_TYPE, _IMMUTABLE_TYPE = 1 << 9, 1 << 8  # Py_TPFLAGS_*
_HOOK = "__init_subclass__"

_hooks_lock = threading.RLock()


def _after_fork() -> None:
    global _hooks_lock
    _hooks_lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork)


def is_written_in_python(cls: type) -> bool:
    """True for classes whose attributes may be set."""
    return bool(cls.__flags__ & _HEAP_TYPE) and not cls.__flags__ & _IMMUTABLE_TYPE


def build_class(meta: type, name: str, bases: tuple[type, ...], first: dict[str, Any]) -> Any:
    """A class with the attributes that must be there from the beginning, and no others."""
    with _quiet_hooks(bases):
        if not _must_be_asked(meta):
            return _maker(meta)(meta, name, bases, dict(first))
        try:
            return types.new_class(name, bases, {"metaclass": meta}, lambda space: space.update(first))
        except Exception:  # it wants to see what comes later
            return _maker(meta)(meta, name, bases, dict(first))


def _must_be_asked(meta: type) -> bool:
    """True for the metaclasses of libraries, which may note their classes outside of them."""
    return meta is not type and not _is_of_python(meta) and _pickling._is_importable(meta) or _is_native(meta)


def _is_of_python(cls: type) -> bool:
    return cls.__module__.partition(".")[0] in ("typing", "abc", "enum", "builtins", "collections")


def _is_native(meta: type) -> bool:
    return meta is not type and not is_written_in_python(meta)


def _maker(meta: type) -> Any:
    return abc.ABCMeta.__new__ if issubclass(meta, abc.ABCMeta) else type.__new__


def build_enum(
    meta: type[EnumMeta],
    name: str,
    bases: tuple[type, ...],
    module: str,
    qualname: str,
    members: dict[str, tuple[type, tuple[Any, ...], Any, dict[str, Any]]],
    boundary: Any,
) -> Any:
    """An enumeration with its members as they were: their ``__new__`` and ``__init__`` do not run again."""

    def make(cls: Any, key: Any) -> Any:
        while isinstance(key, tuple):
            key = key[0]
        data, arguments, value, facts = members[key]
        member = data.__new__(cls, *arguments)
        member._value_ = value
        vars(member).update(facts)
        return member

    space = EnumMeta.__prepare__(name, bases)
    space.update({"__module__": module, "__qualname__": qualname, "__new__": make, "__init__": lambda *_: None})
    for member in members:
        space[member] = member
    options = {} if boundary is None else {"boundary": boundary}
    with _quiet_hooks(bases):
        made: Any = EnumMeta.__new__(meta, name, bases, space, **options)
    for name in ("__init__", "__new_member__"):  # enumerations derived from this one would run them
        type.__delattr__(made, name)
    return made


def write_attributes(cls: Any, attributes: dict[str, Any]) -> None:
    """Set attributes of a class past what its metaclass does about it."""
    for name, value in attributes.items():
        try:
            type.__setattr__(cls, name, value)
        except TypeError:  # a metaclass written in C
            _write_natively(cls, name, value)


def change_class(cls: Any, bases: tuple[type, ...], gone: Iterable[str]) -> None:
    """Give a copy the bases that its original has now, and take from it attributes that this has no more."""
    if cls.__bases__ != bases:
        type.__setattr__(cls, "__bases__", bases)
    for name in gone:
        if name in vars(cls):
            type.__delattr__(cls, name)


def _write_natively(cls: Any, name: str, value: Any) -> None:
    try:
        setattr(cls, name, value)
    except AttributeError:
        if name not in vars(cls):  # else it was written when the class was built, for good
            raise


def call_subclass_hook(cls: Any) -> bool:
    """Tell the base in a library that it has a subclass. True if it may have written into it.

    What the class statement gave to the hook besides the class is not known any more.
    """
    base = next((base for base in cls.__mro__[1:] if _HOOK in vars(base)), object)
    if not _is_quieted(base) or not _pickling._is_importable(base):
        return False
    try:
        super(cls, cls).__init_subclass__()
    except Exception:
        pass  # it wants more than the class: what it left in it at home has travelled
    return True


def _is_quieted(base: type) -> bool:
    of_python = base.__module__.partition(".")[0] in sys.stdlib_module_names
    return _HOOK in vars(base) and is_written_in_python(base) and not of_python


@contextmanager
def _quiet_hooks(bases: tuple[type, ...]) -> Iterator[None]:
    """Within, the subclass hooks of bases do nothing for classes that this thread makes."""
    hooked = {base for each in bases for base in each.__mro__ if _is_quieted(base)}
    if not hooked:
        yield
        return
    with _hooks_lock:
        before = {base: vars(base)[_HOOK] for base in hooked}
        try:
            for base, hook in before.items():
                type.__setattr__(base, _HOOK, _quieted(hook))
            yield
        finally:
            for base, hook in before.items():
                type.__setattr__(base, _HOOK, hook)


def _quieted(hook: Any) -> Any:
    thread = threading.get_ident()

    def call(cls: Any, **given: Any) -> None:
        if threading.get_ident() != thread:
            hook.__get__(None, cls)(**given)

    return classmethod(call)
