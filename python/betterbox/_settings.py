"""Where things are: the home folder, the bus, the programs that come with the package."""

from __future__ import annotations

import math
import os
import sys

from betterbox import _interpreter
from betterbox._errors import BusError
from betterbox._printable import printable

__tracebackhide__ = True  # pytest shows the user's lines


def home_path() -> str:
    """Where the home folder is: ``BETTERBOX_HOME`` (default ``~/.betterbox``)."""
    return os.path.abspath(os.environ.get("BETTERBOX_HOME") or os.path.expanduser("~/.betterbox"))


def home() -> str:
    """The home folder, made with mode 0700 if it is not there.

    Raises
    ------
    BusError
        If it cannot be made, or others could have put something into it.
    """
    path = home_path()
    make_own_folder(path, f"the home folder {path} cannot be used", "set BETTERBOX_HOME to a folder of yours")
    return path


def own_folder(*names: str) -> str:
    """A folder in the home folder, made with mode 0700 if it is not there; each on the way to it is checked."""
    path = home()
    for name in names:
        path = os.path.join(path, name)
        make_own_folder(path, f"the folder {path} cannot be used", "set BETTERBOX_HOME to another folder of yours")
    return path


def make_own_folder(path: str, what: str, advice: str) -> None:
    """Make a folder and its parents with mode 0700, unless it is there; raise `BusError` unless it is safely this user's."""
    from betterbox import _core

    try:
        _core.make_own_folder(path)
    except BusError as error:
        raise BusError(f"{what}: {error}; or {advice}") from None
    except OSError as error:
        raise BusError(f"{what}: {error.strerror}; {advice}") from None


def log_folder() -> str:
    """``logs`` in the home folder."""
    return own_folder("logs")


def bus_name() -> tuple[str, bool]:
    """The current bus (a file or an address), and whether somebody named it."""
    named = os.environ.get("BETTERBOX_BUS", "")
    if named:
        return (named if is_address(named) else os.path.abspath(named)), True
    return os.path.join(home_path(), "bus.json"), False


def is_address(bus: str) -> bool:
    """True for ``ipc://...`` and ``mpi://...``, false for a bus file."""
    return "://" in bus


def program(name: str) -> str:
    """The path of a program that comes with the package."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_bin", name)
    if not os.path.exists(path):
        raise BusError(f"the program {path} is missing: BetterBox is not completely built or installed")
    return path


def python_version() -> str:
    """MAJOR.MINOR of this interpreter."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def cpu_count() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) or 1


def peer_name() -> str:
    """What this process is called in `betterbox status`."""
    script = sys.argv[0] if sys.argv else ""
    return os.path.basename(script) or "python"


def interface() -> str:
    """``BETTERBOX_INTERFACE``: the interface or address that other hosts are to use; "": chosen by the routes."""
    return os.environ.get("BETTERBOX_INTERFACE", "")


def check_environment() -> None:
    """Raise `BusError` for what the native part would have to ignore."""
    idle_timeout()
    given = os.environ.get("BETTERBOX_SHARED_BYTES", "")
    if given and not (given.isascii() and given.isdecimal() and len(given) < 20):
        raise BusError(
            f"BETTERBOX_SHARED_BYTES={printable(given)} is not a number of bytes: set it to one, as in "
            f"BETTERBOX_SHARED_BYTES=1000000000 (0: large values travel as bytes), or unset it"
        )


def idle_timeout() -> float | None:
    """``BETTERBOX_IDLE_TIMEOUT`` in seconds; None: not set. Raises `BusError` for what is no time."""
    given = os.environ.get("BETTERBOX_IDLE_TIMEOUT", "").strip()
    if not given:
        return None
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= 1e9:  # also what is no number
        raise BusError(
            f"BETTERBOX_IDLE_TIMEOUT={printable(given)} is no number of seconds from 0 to 1000000000: set it to one, or unset it"
        )
    return seconds


def scheduler_command(bus_file: str) -> list[str]:
    """Arguments of a scheduler that starts and ends by itself; it serves its own host unless told an interface."""
    command = [program("betterbox-scheduler"), "--bus", bus_file, "--self-started", "--python", python_version()]
    command += ["--interface", interface() or "none"]
    idle = idle_timeout()
    if idle is not None:
        command += ["--idle-timeout", f"{idle:.9f}"]
    return command


def worker_command(bus_file: str, *, slots: int, name: str, python: str | None = None) -> list[str]:
    """Arguments of a worker with plain function slots, as far as they do not depend on who starts it.

    Parameters
    ----------
    python : str, optional
        The interpreter that slots are; ``"embedded"``: the one that was built with the package. Default: this one.
    """
    check_environment()
    command = [program("betterbox-worker"), "--bus", bus_file, "--slots", str(slots), "--name", name]
    if interface():
        command += ["--interface", interface()]
    command += ["--log-folder", log_folder(), "--python-path", _interpreter.package_folder()]
    if python is not None:
        chosen = program("betterbox-python") if python == "embedded" else python
        return [*command, "--python", chosen, "--python-version", _interpreter.version_of(chosen)]
    key, _ = _interpreter.identity()
    command += ["--python", sys.executable or "python3", "--python-version", python_version(), "--interpreter", str(key)]
    return [*command, *(f"--python-flag={flag}" for flag in _interpreter.flags())]


def _open_standard_descriptors() -> None:
    """Put /dev/null where a process was started without standard input, output or error.

    Else pipes and sockets get the numbers 0 to 2, and whoever prints writes into them.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest number that is free


_open_standard_descriptors()
