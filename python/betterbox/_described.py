"""Signatures and docstrings of a box's methods, for `help` and `inspect.signature` of remote ones.

A client asks a box for them, all at once, when somebody first looks at one: calls never need them, so they cost calls
nothing (so `inspect` is imported where it is used), and the scheduler does not keep them. They travel as texts and plain values, within bounds: to show a default or
an annotation nobody should have to import what the box imports.
"""

from __future__ import annotations

import builtins
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import inspect

from betterbox import _annotations

DESCRIBE = "__betterbox_describe__"
"""What a client calls; every slot with a box answers it."""

_MOST_METHODS = 1000
_MOST_DOC = 16_384  # characters of one docstring
_MOST_SHOWN = 200  # characters of one default or annotation
_PLAIN = (int, float, complex, bool, str, bytes, type(None))

# (doc or None, parameters or None, return annotation); a parameter: (name, kind, default, annotation)
Described = tuple[Any, Any, Any]

_NOTHING, _VALUE, _BUILTIN, _SHOWN = range(4)


class Shown:
    """Stands for a value elsewhere, of which only the text is here."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Shown) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


# --- at the box -------------------------------------------------------------------------------------


def describe(box: Any, exported: dict[str, int]) -> dict[str, Described]:
    """What clients may know of the methods of a box. Never raises for what a method is."""
    return {name: _describe_method(box, name) for name in list(exported)[:_MOST_METHODS]}


def _describe_method(box: Any, name: str) -> Described:
    import inspect

    try:
        method = getattr(box, name)
        doc = inspect.getdoc(method)
    except Exception:
        return None, None, None
    doc = doc[:_MOST_DOC] if isinstance(doc, str) else None
    try:
        signature = _annotations.signature(method)
        parameters = [
            (parameter.name, int(parameter.kind), _pack(parameter.default), _pack(parameter.annotation))
            for parameter in signature.parameters.values()
        ]
        return doc, parameters, _pack(signature.return_annotation)
    except Exception:
        return doc, None, None


def _pack(value: Any) -> tuple[int, Any]:
    import inspect

    if value is inspect.Parameter.empty:
        return _NOTHING, None
    if type(value) in _PLAIN and (not isinstance(value, (str, bytes)) or len(value) <= _MOST_SHOWN):
        return _VALUE, value
    if isinstance(value, type) and getattr(builtins, value.__name__, None) is value:
        return _BUILTIN, value.__name__
    text = inspect.formatannotation(value) if isinstance(value, type) or hasattr(value, "__origin__") else repr(value)
    return _SHOWN, text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 3] + "..."


# --- at the client ----------------------------------------------------------------------------------


def signature_of(described: Described) -> inspect.Signature | None:
    """The signature of a method that was described; None if it has none, or the description is none."""
    import inspect

    _, parameters, returned = described
    if parameters is None:
        return None
    return inspect.Signature(
        [
            inspect.Parameter(name, inspect._ParameterKind(kind), default=_unpack(default), annotation=_unpack(annotation))
            for name, kind, default, annotation in parameters
        ],
        return_annotation=_unpack(returned),
    )


def _unpack(packed: tuple[int, Any]) -> Any:
    import inspect

    kind, value = packed
    if kind == _NOTHING:
        return inspect.Parameter.empty
    if kind == _BUILTIN:
        return getattr(builtins, value)
    return Shown(value) if kind == _SHOWN else value
