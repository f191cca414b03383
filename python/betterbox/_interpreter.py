"""Which interpreter this is, so that a worker can start slots of it: what a call tells of it.

`text` is what worker/interpreter.h reads: fields with a NUL behind each, lists with an empty field behind them.
"""

from __future__ import annotations

import functools
import os
import re
import sys

from betterbox._digest import blake2b
from betterbox._errors import BusError
from betterbox._printable import printable

_BEFORE_ALL = (b"PYTHON", b"LD_")
"""Variables that an interpreter reads before it can be told anything."""

_OF_NO_MATTER = frozenset(
    b"PYTHONPATH PYTHONSTARTUP PYTHONUNBUFFERED PYTHONDONTWRITEBYTECODE PYTHONBREAKPOINT PYTHONINSPECT "
    b"PYTHONEXECUTABLE PYTHON_HISTORY PYTHONCASEOK".split()
)

_ANSWER_TIMEOUT = 20.0  # seconds for another interpreter to say its version

_adopted: tuple[int, bytes] | None = None


def package_folder() -> str:
    """What must be on `sys.path` for this betterbox to be imported."""
    return os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def flags() -> list[str]:
    """The command-line options that this interpreter was started with, as child processes are to have them."""
    first = sys.orig_argv[1] if len(sys.orig_argv) > 1 else ""
    if not first.startswith("-") or first in ("-", "-c", "-m"):
        return []
    import subprocess

    return list(subprocess._args_from_interpreter_flags())  # type: ignore[attr-defined] # multiprocessing uses it, too


def version_of(program: str) -> str:
    """MAJOR.MINOR of another interpreter. Raises `BusError` if it is none."""
    import subprocess

    ask = [program, "-S", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    try:
        told = subprocess.run(ask, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_ANSWER_TIMEOUT)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BusError(f"--python {printable(program)} cannot be started: {printable(error)}") from None
    version = told.stdout.strip()
    if told.returncode != 0 or not re.fullmatch(r"\d+\.\d+", version):
        raise BusError(f"--python {printable(program)} is no Python: {printable(told.stderr.strip()[-200:] or version or 'it says nothing')}")
    return version


def identity() -> tuple[int, bytes]:
    """``(key, text)``; equal keys stand for one interpreter that was started alike. In a slot, its client's."""
    return _adopted or _own()


def adopt(told: tuple[int, bytes]) -> None:
    """In a slot: calls that it makes come from the interpreter of its client."""
    global _adopted
    _adopted = told


@functools.cache
def _own() -> tuple[int, bytes]:
    head = [os.fsencode(part) for part in (sys.executable or "", package_folder(), this_host())]
    options = [os.fsencode(flag) for flag in flags()]
    text = b"\0".join([*head, *options, b"", *_variables(), b"", b""])
    made_of = os.fsencode(f"{sys.version}\0{sys.prefix}\0{sys.base_prefix}\0") + text
    return int.from_bytes(blake2b(made_of, digest_size=8).digest(), "little"), text


def _variables() -> list[bytes]:
    """As the interpreter found them, whatever the script has set since."""
    try:
        with open("/proc/self/environ", "rb") as file:
            entries = file.read().split(b"\0")
    except OSError:
        entries = [name + b"=" + value for name, value in os.environb.items()]
    return sorted(
        entry for entry in entries if entry.startswith(_BEFORE_ALL) and entry.partition(b"=")[0] not in _OF_NO_MATTER
    )


@functools.cache
def this_host() -> str:
    """Equal for processes that see the same files under the same names."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return f"{file.read().strip()} {os.stat('/proc/self/ns/mnt').st_ino}"
    except OSError:
        return ""
