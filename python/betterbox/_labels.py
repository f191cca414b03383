"""What functions are called in `status`, logs and messages."""

from __future__ import annotations

from typing import Any


def label_of(target: Any) -> str:
    """The name of a function, method or callable object, as text that can be sent; never raises."""
    if isinstance(target, str):
        return sendable(target)
    try:
        name = target.__name__
    except Exception:  # it has none, or its __getattr__ raises
        name = type(target).__name__
    return sendable(name) if isinstance(name, str) else type(target).__name__


def sendable(text: str) -> str:
    """Text as UTF-8 can carry it: what was no UTF-8 in a name of the system is shown as ``\\udce9``."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
    return text
