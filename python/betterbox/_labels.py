"""What functions and hosts are called in `status`, logs and messages."""

from __future__ import annotations

import os
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


def host_name() -> str:
    """This machine's name, as `host_name` in runtime/bus_file.cc has it: what is no plain ASCII is a question mark."""
    return "".join(chr(each) if 0x20 < each < 0x7F else "?" for each in os.fsencode(os.uname().nodename))
