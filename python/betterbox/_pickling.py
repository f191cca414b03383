"""Pickles: fast where the standard pickler is right, cloudpickle's where it is not, and good errors.

Plain pickle writes functions and classes by name. That is right for what lives in an importable module, and wrong
for ``__main__``, for what was made at run time, and for modules that are shipped by value: as soon as one of these
turns up, the whole object goes to cloudpickle.
"""

from __future__ import annotations

import io
import pickle
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from betterbox._errors import SerializationError

_IN_BAND_BYTES = 2048  # smaller buffers are cheaper inside the pickle
_SEARCH_SECONDS = 2.0
_SEARCH_OBJECTS = 5000
_SEARCH_DEPTH = 24
REFS = "betterbox._refs"
"""The module of `Ref`: while it has not been loaded, there are none to look for."""


class _NeedsCloudpickle(Exception):
    pass


_by_name: dict[int, Any] = {}  # id -> function or class known to be importable (kept, so that ids stay)
_shipped: dict[str, int] = {}
_ship_lock = threading.RLock()


def _is_importable(obj: Any) -> bool:
    """True if unpickling ``module.qualname`` elsewhere would find this very object."""
    if id(obj) in _by_name:
        return True
    module_name = getattr(obj, "__module__", None)
    name = getattr(obj, "__qualname__", None)
    if not isinstance(module_name, str) or not isinstance(name, str) or module_name == "__main__":
        return False
    if _shipped and any(module_name == ship or module_name.startswith(ship + ".") for ship in _shipped):
        return False
    found: Any = sys.modules.get(module_name)
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is not obj:
        return False
    if not _shipped and len(_by_name) < 10000:
        _by_name[id(obj)] = obj
    return True


def goes_by_name(fn: object) -> bool:
    """True for a function that is pickled by its name alone."""
    return isinstance(fn, (FunctionType, BuiltinFunctionType)) and not hasattr(fn, "__wrapped__") and _is_importable(fn)


class _PlainPickler(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, (type, FunctionType)) and not _is_importable(obj):
            raise _NeedsCloudpickle
        if isinstance(obj, BuiltinFunctionType) and obj.__module__ == "__main__":
            raise _NeedsCloudpickle
        return NotImplemented


@contextmanager
def shipping(modules: tuple[ModuleType, ...]) -> Iterator[None]:
    """Within, the functions and classes of `modules` are pickled by value."""
    if not modules:
        yield
        return
    import cloudpickle

    with _ship_lock:
        for module in modules:
            if module.__name__ not in _shipped:
                cloudpickle.register_pickle_by_value(module)
            _shipped[module.__name__] = _shipped.get(module.__name__, 0) + 1
        _by_name.clear()
    try:
        yield
    finally:
        with _ship_lock:
            for module in modules:
                _shipped[module.__name__] -= 1
                if _shipped[module.__name__] == 0:
                    del _shipped[module.__name__]
                    cloudpickle.unregister_pickle_by_value(module)


def _collect_into(buffers: list[pickle.PickleBuffer], least: int) -> Any:
    def collect(buffer: pickle.PickleBuffer) -> bool:
        try:
            size = buffer.raw().nbytes
        except BufferError:
            return True  # not contiguous: in the pickle
        if size < least:
            return True
        buffers.append(buffer)
        return False

    return collect


def _dump_plain(obj: Any, buffers: list[pickle.PickleBuffer] | None, least: int = _IN_BAND_BYTES) -> bytes:
    file = io.BytesIO()
    callback = None if buffers is None else _collect_into(buffers, least)
    _PlainPickler(file, protocol=5, buffer_callback=callback).dump(obj)
    return file.getvalue()


def _dump_cloud(obj: Any, buffers: list[pickle.PickleBuffer] | None, least: int = _IN_BAND_BYTES) -> bytes:
    import cloudpickle

    callback = None if buffers is None else _collect_into(buffers, least)
    data: bytes = cloudpickle.dumps(obj, protocol=5, buffer_callback=callback)
    return data


def _dump_either(obj: Any, buffers: list[pickle.PickleBuffer] | None, least: int = _IN_BAND_BYTES) -> bytes:
    try:
        return _dump_plain(obj, buffers, least)
    except Exception:  # whatever it was: cloudpickle may know how, and says it if not
        if buffers is not None:
            buffers.clear()
    return _dump_cloud(obj, buffers, least)


def dump(obj: object, path: str, least: int = _IN_BAND_BYTES) -> tuple[bytes, list[pickle.PickleBuffer]]:
    """Pickle an object, its large buffers apart.

    Parameters
    ----------
    obj : object
        Anything.
    path : str
        What the object is called in an error: ``args[0]``.
    least : int
        Buffers of fewer bytes stay in the pickle.

    Returns
    -------
    tuple of bytes and list of PickleBuffer
        The pickle (protocol 5) and the buffers that belong to it.

    Raises
    ------
    SerializationError
        If it cannot be pickled; names the path to the culprit.

    Examples
    --------
    >>> dump([1, 2], "item")[1]
    []
    """
    buffers: list[pickle.PickleBuffer] = []
    try:
        return _dump_either(obj, buffers, least), buffers
    except Exception as error:
        raise _explained(obj, path, error) from error


def dumps(obj: object, path: str) -> bytes:
    """Like `dump`, everything in one pickle."""
    try:
        return _dump_either(obj, None)
    except Exception as error:
        raise _explained(obj, path, error) from error


def snapshot(obj: Any, path: str) -> Any:
    """A copy of `obj` as it is now, made through a pickle."""
    if REFS not in sys.modules:
        return pickle.loads(dumps(obj, path))
    from betterbox._refs import taking

    with taking():  # until the copy has its own
        return pickle.loads(dumps(obj, path))


# --- the path to the culprit ---------------------------------------------------------------------


def _explained(obj: object, path: str, error: Exception) -> SerializationError:
    if isinstance(error, RecursionError):
        return SerializationError(f"{path} cannot be pickled: it is nested too deeply ({error})")
    try:
        culprit_path, culprit = _Search().find(obj, path)
    except Exception:  # objects may do anything when looked at
        culprit_path, culprit = path, obj
    kind = type(culprit)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return SerializationError(
        f"{culprit_path} cannot be pickled ({name}: {error}); pass what it is made from instead, "
        f"or leave it out with __getstate__"
    )


class _Search:
    """Walks into what fails, part by part, until nothing inside fails; bounded in depth, objects and time."""

    def __init__(self) -> None:
        self.deadline = time.monotonic() + _SEARCH_SECONDS
        self.left = _SEARCH_OBJECTS
        self.seen: set[int] = set()

    def find(self, obj: Any, path: str) -> tuple[str, Any]:
        for _ in range(_SEARCH_DEPTH):
            self.seen.add(id(obj))
            found = next(((p, part) for p, part in _parts(obj, path) if self._is_culprit(part)), None)
            if found is None:
                break
            path, obj = found
        return path, obj

    def _is_culprit(self, part: Any) -> bool:
        if id(part) in self.seen or isinstance(part, (int, float, str, bytes, bool, type(None))):
            return False
        self.left -= 1
        if self.left < 0 or time.monotonic() > self.deadline:
            return False
        try:
            _dump_either(part, None)
        except Exception:
            return True
        return False


def _parts(obj: Any, path: str) -> Iterator[tuple[str, Any]]:
    """What a pickle of `obj` would contain, each with its path."""
    if isinstance(obj, dict):
        for key, value in obj.items():
            yield f"{path}[{key!r}]", value
            yield f"{path} (key {key!r:.40})", key
    elif isinstance(obj, (list, tuple)):
        for i, value in enumerate(obj):
            yield f"{path}[{i}]", value
    elif isinstance(obj, (set, frozenset)):
        for value in obj:
            yield f"{path} (element {value!r:.40})", value
    elif isinstance(obj, FunctionType):
        yield from _function_parts(obj, path)
        return
    if hasattr(obj, "__func__") and hasattr(obj, "__self__"):
        yield f"{path}.__self__", obj.__self__
        yield f"{path}.__func__", obj.__func__
    if isinstance(obj, type):
        return
    if type(obj).__module__ == "functools" and type(obj).__name__ == "partial":
        yield f"{path}.func", obj.func
        for i, value in enumerate(obj.args):
            yield f"{path}.args[{i}]", value
        for key, value in obj.keywords.items():
            yield f"{path}.keywords[{key!r}]", value
    yield from _state_parts(obj, path)


def _state_parts(obj: Any, path: str) -> Iterator[tuple[str, Any]]:
    state = None
    if getattr(type(obj), "__getstate__", None) is not getattr(object, "__getstate__", None):
        state = obj.__getstate__()
    if state is None:
        state = dict(getattr(obj, "__dict__", {}))
        for kind in type(obj).__mro__:
            slots = kind.__dict__.get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                if hasattr(obj, name):
                    state[name] = getattr(obj, name)
    if isinstance(state, dict):
        for name, value in state.items():
            yield f"{path}.{name}", value
    else:
        yield f"{path}.__getstate__()", state


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
