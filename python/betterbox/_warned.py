"""Warnings in the name of the user's line: the innermost one that is neither BetterBox's nor a thread's beginning."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any, NamedTuple

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep


class Line(NamedTuple):
    """A line of a program."""

    file: str
    number: int
    space: dict[str, Any]
    """The names of its module, where Python notes which warnings have been shown."""


def users_line() -> Line:
    """The line that called BetterBox; on a thread of BetterBox's own, where that called."""
    frame: Any = sys._getframe(1)
    own = frame
    while frame is not None:
        file = frame.f_code.co_filename
        if file == threading_file():
            break
        if not file.startswith((_PACKAGE, "<frozen ")):
            return Line(file, frame.f_lineno, frame.f_globals)
        frame = frame.f_back
    return Line(own.f_code.co_filename, own.f_lineno, own.f_globals)


def threading_file() -> str:
    """The file of `threading`, whose frames are at the beginning of each thread."""
    return str(getattr(sys.modules.get("threading"), "__file__", ""))


def warn(text: str, kind: type[Warning], line: Line | None = None) -> None:
    """As `warnings.warn`, at `line` (default: the user's line that led here)."""
    at = users_line() if line is None else line
    registry = at.space.setdefault("__warningregistry__", {})
    module = at.space.get("__name__") or "<unknown>"
    warnings.warn_explicit(text, kind, at.file, at.number, module, registry)
