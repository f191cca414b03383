"""What arguments of the command line may be; what they may not is usage, exit code 2."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any

from betterbox._errors import BetterBoxError

MOST_SLOTS = 4096
"""Of one worker: kMaxSlots in runtime/limits.h."""


class UsageError(BetterBoxError):
    """An argument that argparse has let pass."""


class Parser(argparse.ArgumentParser):
    """Of the program and, as argparse makes them alike, of its verbs."""

    def _print_message(self, message: str, file: Any = None) -> None:
        """argparse of Python 3.12 and newer passes over an output that takes nothing."""
        file = file or sys.stderr  # None: it was closed before we began
        if message and file is not None:
            file.write(message)
            file.flush()


def add_verb(verbs: Any, name: str, text: str, example: str) -> argparse.ArgumentParser:
    """A parser of its own for a verb, with examples, one a line."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog="examples:\n" + "\n".join(f"  {line}" for line in example.split("\n")),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def add_script(parser: argparse.ArgumentParser, verb: str, options: str = "") -> argparse.Action:
    """What runs as ``__main__``: ``SCRIPT ARGS...`` or ``-m MODULE ARGS...``; ``script``, ``args`` and ``module`` say it. Result: the first of them."""
    script = parser.add_argument("script", help="a Python script; it runs as __main__")
    parser.add_argument("args", nargs=argparse.REMAINDER, help="its arguments").required = False

    class Module(argparse.Action):
        """Takes all that follows, as ``python -m`` does."""

        def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
            if not values:
                parser.error("-m needs the name of a module")
            script.required = False
            namespace.script, namespace.args, namespace.module = values[0], values[1:], True

    parser.add_argument(
        "-m", action=Module, nargs=argparse.REMAINDER, dest="module", default=False, metavar="MODULE", help="a module instead of a script"
    )
    parser.usage = " ".join(filter(None, (f"betterbox {verb} [-h]", options, "(SCRIPT | -m MODULE) [ARGUMENT ...]")))
    return script


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """A whole number within bounds.

    Examples
    --------
    >>> whole(1, 9)("3")
    3
    """

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least or (most is not None and int(text) > most):
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least}" + (f" to {most}" if most else ""))
        return int(text)

    return parse


def seconds(least: float) -> Callable[[str], float]:
    """A number of seconds, at least so many."""

    def parse(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = -1.0
        if not least <= number <= 1e9:
            raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from {least:g}")
        return number

    return parse


def port(text: str) -> int:
    """1 to 65535."""
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: ports go from 1 to 65535")
    return int(text)


def network_port(text: str) -> int:
    """A port, or 0 for any."""
    return 0 if text == "0" else port(text)


def devices(text: str) -> int | list[str]:
    """How many, or which."""
    if text.isdecimal():
        return int(text)
    names = [device for device in text.split(",") if device]
    if not names or text.startswith("-"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of devices nor a list of them, as in 0,2")
    return names


def amount(text: str) -> tuple[str, float]:
    """``NAME=AMOUNT``, or ``NAME`` for one."""
    name, equals, number = text.partition("=")
    try:
        return name, float(number if equals else "1")
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=AMOUNT") from None


def filled(text: str) -> str:
    """Anything but nothing, which is what a variable gives that is not set."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty")
    return text


def check_script(path: str) -> None:
    """Raise `BetterBoxError` unless a script is there."""
    if not os.path.exists(path):
        raise BetterBoxError(f"there is no script {path}")
    if os.path.isdir(path):
        raise BetterBoxError(f"{path} is a folder; name the script in it")
