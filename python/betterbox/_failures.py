"""Exceptions on their way: they arrive as their class, with their state, whatever their ``__init__`` takes.

Python pickles an exception as a call of its class with `args`, which fails for most classes with an ``__init__`` of
their own. Such an exception is made without calling it: `args`, attributes, and what its native base keeps are set.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

_MOST_BEFORE = 10  # exceptions that led to one, which travel with it
_HEAP_TYPE, _IMMUTABLE_TYPE = 1 << 9, 1 << 8  # Py_TPFLAGS_*


def _native_base(cls: type) -> Any:
    """The first base that Python itself defines: `OSError` of a class that derives from it."""
    return next(base for base in cls.__mro__ if not base.__flags__ & _HEAP_TYPE or base.__flags__ & _IMMUTABLE_TYPE)


def _says_how(cls: Any) -> bool:
    """True for a class that has a reducer of its own, or arguments for ``__new__``."""
    native = _native_base(cls)
    own = any(getattr(cls, name) is not getattr(native, name) for name in ("__reduce__", "__reduce_ex__"))
    return own or hasattr(cls, "__getnewargs__") or hasattr(cls, "__getnewargs_ex__")


def _is_made_as_usual(cls: Any) -> bool:
    native = _native_base(cls)
    return cls.__init__ is native.__init__ and cls.__new__ is native.__new__


def reduce_exception(error: BaseException) -> Any:
    """A reducer for pickles: `NotImplemented` where Python's own is right."""
    cls = type(error)
    if _says_how(cls) or _is_made_as_usual(cls):
        return NotImplemented
    return _reduced(error, error.args, dict(vars(error)), _slots(error))


def _reduced(error: BaseException, args: Any, own: dict[str, Any], slots: dict[str, Any]) -> tuple[Any, ...]:
    cls = type(error)
    native = _native_base(cls)
    made_from = native.__reduce__(error)
    others = made_from[2] if len(made_from) > 2 and isinstance(made_from[2], dict) else {}
    native_args = args if made_from[1] == error.args else made_from[1]
    fields = {**{name: value for name, value in others.items() if name not in vars(error)}, **slots}
    return _made, (cls, native, native_args, args), (own, fields), None, None, _set_state


def _slots(error: BaseException) -> dict[str, Any]:
    names = []
    for cls in type(error).__mro__:
        slots = vars(cls).get("__slots__", ())
        names += [slots] if isinstance(slots, str) else list(slots)
    return {name: getattr(error, name) for name in names if name != "__dict__" and hasattr(error, name)}


def _made(cls: type, native: Any, native_args: tuple[Any, ...], args: tuple[Any, ...]) -> BaseException:
    error: BaseException = native.__new__(cls, *native_args)
    native.__init__(error, *native_args)
    _set(error, "args", args)
    return error


def _set_state(error: BaseException, state: tuple[dict[str, Any], dict[str, Any]]) -> None:
    own, fields = state
    vars(error).update(own)
    for name, value in fields.items():
        object.__setattr__(error, name, value)


# --- failures: what was raised, and what led to it ------------------------------------------------


def dump(error: BaseException) -> tuple[bytes, list[str]]:
    """A pickle of an exception, its notes, and those that led to it, and what of it had to stay behind.

    Never raises; no bytes if there is no way.
    """
    left: list[str] = []
    data = _dump_one(error, left)
    if not data:
        return b"", left
    notes = [note for note in vars(error).get("__notes__") or () if isinstance(note, str)]
    return pickle.dumps((data, notes, [_dump_one(each, []) for each in _before(error)]), protocol=5), left


def load(data: bytes) -> Any:
    """The other end of `dump`; what led to the exception is its ``__context__``."""
    first, notes, others = pickle.loads(data)
    error: BaseException = pickle.loads(first)
    if notes and "__notes__" not in vars(error):
        vars(error)["__notes__"] = notes
    after = error
    for each in others:
        try:
            before = pickle.loads(each)
        except Exception:
            break  # its class cannot be had here: the text of the traceback tells of it
        _set(after, "__context__", before)
        after = before
    return error


def set_cause(error: BaseException, cause: BaseException) -> None:
    """As ``error.__cause__ = cause``, whatever the class makes of its attributes."""
    _set(error, "__cause__", cause)


def _set(error: BaseException, name: str, value: Any) -> None:
    vars(BaseException)[name].__set__(error, value)


def _before(error: BaseException) -> list[BaseException]:
    from betterbox._errors import RemoteError

    found: list[BaseException] = []
    now: BaseException | None = error
    while now is not None and len(found) < _MOST_BEFORE:
        now = now.__cause__ if now.__cause__ is not None or now.__suppress_context__ else now.__context__
        if now is None or now is error or now in found or isinstance(now, RemoteError):
            break
        found.append(now)
    return found


def _dump_one(error: BaseException, left: list[str]) -> bytes:
    from betterbox import _pickling

    ways: list[Callable[[], bytes]] = [lambda: _pickling.dumps(error, "the exception"), lambda: _forced(error, left)]
    for way in ways:
        try:
            data = way()
            if type(pickle.loads(data)) is type(error):  # some can be pickled and not be rebuilt
                return data
        except BaseException:
            pass
    return b""


def _forced(error: BaseException, left: list[str]) -> bytes:
    import io

    from betterbox._by_value import Pickler

    class Forced(Pickler):
        """Takes of each exception what can be pickled, past its own reducer."""

        def reducer_override(self, obj: Any) -> Any:
            if not isinstance(obj, BaseException):
                return super().reducer_override(obj)
            args = tuple(arg if travels(arg) else _shown(arg) for arg in obj.args)
            own = {name: value for name, value in vars(obj).items() if travels(value)}
            slots = {name: value for name, value in _slots(obj).items() if travels(value)}
            left.extend(name for name in (*vars(obj), *_slots(obj)) if name not in own and name not in slots)
            left.extend(f"args[{i}]" for i, arg in enumerate(obj.args) if args[i] is not arg)
            return _reduced(obj, args, own, slots)

    def travels(part: Any) -> bool:
        try:
            pickle.loads(dumped(part))
        except Exception:
            return False
        return True

    def dumped(obj: Any) -> bytes:
        file = io.BytesIO()
        Forced(file, protocol=5).dump(obj)
        return file.getvalue()

    return dumped(error)


def _shown(obj: Any) -> str:
    try:
        return f"{obj!r:.200}"
    except Exception:
        return f"<{type(obj).__qualname__}>"
