"""Single submissions: what is made once per function, so that one submission is one call of the native module.

A context is a pickle of a function. It may be used again only while pickling it again would give the same: for
functions that go by name always; for others while nothing that the pickle holds has changed. `watched` says what that
is, and the native `Submitter` looks at it before each submission.
"""

from __future__ import annotations

import builtins
import functools
import os
import sys
from collections.abc import Callable, Sequence
from types import CodeType, FunctionType, ModuleType, NoneType
from typing import Any, NamedTuple, Union, get_args, get_origin

from betterbox import _bus, _captures, _context, _core, _pickling
from betterbox._options import DEFAULTS, Options

__tracebackhide__ = True  # pytest shows the user's lines

_LOOK_SECONDS = 5.0  # how long a submitter is used before the long way looks whether anybody works
_MOST_SUBMITTERS = 1000
_KEPT_BYTES = 64 << 10  # of a context that is kept for further calls
_MOST_WATCHED = 200  # names; beyond these, pickling is as quick
_ATOMS = (type(None), bool, int, float, complex, str, bytes)
_MODULE_FACTS = ("__name__", "__package__", "__path__", "__file__")

submitters: dict[Callable[..., Any], tuple[_core.Submitter[Submitted], _bus.Connection]] = {}
"""By function, with default options."""

os.register_at_fork(after_in_child=submitters.clear)  # the long way refuses to go on


class Submitted(_core.Submission):
    """A single submission with the interface of a `_core.Call` of one item."""

    __slots__ = ()

    port = 0
    for_functions = True
    total = 1
    known = 1

    @property
    def settled(self) -> int:
        return 1 if self.done() else 0

    @property
    def landing_token(self) -> int:
        return self.token

    def notify_landing(self, arrivals: int) -> None:
        self.notify()

    def keeps_all(self) -> bool:
        return True

    def free_running(self, on: bool) -> None:
        pass

    def take(self, index: int) -> tuple[bool, Any]:
        return self.get(index)

    def values(self, first: int, limit: int, take: bool) -> list[Any]:
        if first != 0 or limit < 1 or not self.done():
            return []
        ok, value = self.get(0)
        return [value] if ok else []

    def results(self) -> list[Any]:
        ok, value = self.get(0)
        if not ok:
            raise value
        return [value]

    folds = results

    def outcomes(self) -> list[Any]:
        return [self.get(0)[1]]

    def landed(
        self, arrivals: int, items: int, limit: int, take: bool
    ) -> tuple[list[tuple[int, Any]], int, int, int | None]:
        if arrivals > 0 or not self.done():
            return [], arrivals, 0, None
        ok, value = self.get(0)
        return ([(0, value)], 1, 0, None) if ok else ([], 1, 0, 0)

    def first_success(self) -> int | None:
        return 0 if self.done() and self.get(0)[0] else None


class Prepared(NamedTuple):
    """A function as it was when it was submitted, for a call that begins later."""

    context: bytes
    refs: list[Any]
    """What is in it and must live until the call is done."""


def prepare(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: Options) -> Prepared:
    """Pickle the function, and what is around it now."""
    _captures.look_at_arguments(fn, args, kwargs)
    refs: list[Any] = []
    with _pickling.shipping(options.ship):
        if _pickling.REFS not in sys.modules:
            context, _ = _context.make(fn, (), {}, (), None, may_share=False)
        else:
            from betterbox._refs import as_argument, taking

            with taking() as taken:
                context, _ = _context.make(as_argument(fn), (), {}, (), None, may_share=False)
            refs = taken.refs
    return Prepared(_kept_once(context) if len(context) <= _KEPT_BYTES else context, refs)


@functools.lru_cache(maxsize=64)
def _kept_once(context: bytes) -> bytes:
    """Many calls that wait have the same."""
    return context


def submit_now(
    connection: _bus.Connection,
    label: str,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    options: Options,
    prepared: Prepared | None = None,
) -> Submitted:
    """The long way: pickles the function, and leaves a submitter behind if others may use the pickle."""
    if _pickling.REFS not in sys.modules:
        return _submit_now(connection, label, fn, args, kwargs, options, (), prepared)
    from betterbox._refs import Ref, as_argument, taking

    with taking() as taken:
        needed = taken.named([value for value in (*args, *kwargs.values()) if isinstance(value, Ref)])
        args, kwargs = taken.arguments(args, kwargs)
        call = _submit_now(connection, label, as_argument(fn), args, kwargs, options, needed, prepared)
    if prepared is not None:
        taken.refs.extend(prepared.refs)
    taken.until_done(connection, call)
    return call


def _submit_now(
    connection: _bus.Connection,
    label: str,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    options: Options,
    values: Sequence[tuple[str, int, int, str]],
    prepared: Prepared | None,
) -> Submitted:
    with _pickling.shipping(options.ship):
        by_name = _pickling.goes_by_name(fn)
        names = None
        functions: list[FunctionType] = []
        if prepared is not None:
            context = prepared.context
        else:
            if options is DEFAULTS and not _pickling._shipped and not values:
                names = [] if by_name else watched(fn, functions)
            context, _ = _context.make(fn, (), {}, (), None, may_share=False)
        wire = options.wire(True)
        submitter = _core.make_submitter(connection.client, Submitted, label, context, values=values, **wire)
        if names is not None:
            submitter.watch(functions, names, _LOOK_SECONDS)
            if len(submitters) >= _MOST_SUBMITTERS:
                submitters.clear()
            submitters[fn] = submitter, connection
        if prepared is None:  # else they are copies
            _captures.look_at_arguments(fn, args, kwargs)
        return submitter.submit_now(args, kwargs)


def watched(fn: Callable[..., Any], functions: list[FunctionType]) -> list[tuple[Any, ...]] | None:
    """What a pickle by value of `fn` depends on: names in dicts with their values (absent: without one), and (added
    to `functions`) functions whose own parts must stay. None if something may change unseen."""
    names: dict[tuple[int, str], tuple[Any, ...]] = {}
    return list(names.values()) if _watch(fn, functions, names) else None


def _watch(fn: Any, functions: list[FunctionType], names: dict[tuple[int, str], tuple[Any, ...]]) -> bool:
    if type(fn) is not FunctionType or fn.__closure__ or fn.__kwdefaults__ or fn.__dict__:
        return False
    if any(fn is known for known in functions):
        return True
    if not all(type(value) in _ATOMS for value in fn.__defaults__ or ()):
        return False
    try:
        hints = fn.__annotations__
    except Exception:
        return False  # of names that are not there yet
    if not all(_is_constant_hint(hint) for hint in hints.values()):
        return False
    names.update(((id(hints), name), (hints, name, hint)) for name, hint in hints.items())
    functions.append(fn)
    used = set(_MODULE_FACTS)
    codes = [fn.__code__]
    while codes:
        code = codes.pop()
        used.update(code.co_names)
        codes.extend(const for const in code.co_consts if isinstance(const, CodeType))
    for name in used:
        key = id(fn.__globals__), name
        if key in names:
            continue
        if len(names) >= _MOST_WATCHED:
            return False
        if name not in fn.__globals__:
            names[key] = fn.__globals__, name
            continue
        value = fn.__globals__[name]
        names[key] = fn.__globals__, name, value
        if not _stays(value) and not _watch(value, functions, names) and name not in _MODULE_FACTS:
            return False
    return True


def _is_constant_hint(hint: Any) -> bool:
    """True for annotations that always give the same pickle: such, and what is made of them by brackets and bars."""
    if _stays(hint) or hint is Ellipsis or hint is NoneType or hint is Any:
        return True
    origin, parts = get_origin(hint), get_args(hint)
    return bool(parts) and (origin is Union or _stays(origin)) and all(_is_constant_hint(part) for part in parts)


def _stays(value: Any) -> bool:
    """True for what always gives the same pickle."""
    if type(value) in _ATOMS or value is builtins:
        return True
    if type(value) is ModuleType:
        return sys.modules.get(value.__name__) is value and value.__name__ != "__main__"
    return isinstance(value, type) and _pickling._is_importable(value) or _pickling.goes_by_name(value)
