"""The shim: the part of BetterBox that calls MPI, compiled by a site's ``mpicc``, once for each MPI.

It lies in ``BETTERBOX_HOME/mpi/HASH`` (`cluster/mpi_shim.c` says what it is): the sources it was made of, `shim.so`, and `made`,
which tells by whom. A rank that finds one made by the compiler wrapper that is here now, of the sources that are here now,
runs no program. Where several processes need one that is not there, one for each host makes it, under another name; the first
that is done gives it its name, and the others take that.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from time import monotonic, sleep
from typing import NamedTuple, NoReturn

from betterbox import _core, _settings
from betterbox._errors import BusError
from betterbox._printable import printable

SHIM = "shim.so"
SOURCES = ("mpi_shim.c", "mpi_shim.h")
COMPILING = 120.0
"""Seconds that a compiler may take."""

WAITING = 180.0
"""Seconds that a process waits at most for another one of this host that compiles."""

_UNDER_WAY = ".making-"
_LEFT = 3600.0  # seconds after which nobody can still be at it
_LOOK = 0.02  # seconds between looks at what another process does
_MOST_TEXT = 4000  # bytes of a compiler's complaints that are told
_ELSEWHERE = (
    "load your site's MPI (module load openmpi), install one (Debian: libopenmpi-dev or libmpich-dev, and gcc), or name its "
    "compiler wrapper with BETTERBOX_MPICC or --mpicc; if this host is not to have one, run betterbox mpi --build on "
    "a host that does and shares BETTERBOX_HOME"
)


class AlreadyToldError(BusError):
    """Another process of this host has tried in vain, and has said why."""


class Compiler(NamedTuple):
    """A compiler wrapper of an MPI."""

    path: str
    identity: str  # changes when another program, or another version of it, lies there


def find(mpicc: str | None) -> str:
    """The path of the shim for an MPI, made if it is not there.

    Parameters
    ----------
    mpicc : str or None
        The compiler wrapper; None: ``BETTERBOX_MPICC``, else ``mpicc`` on the path.

    Raises
    ------
    BusError
        There is none and none can be made, or somebody else could have put it there.
    """
    compiler = find_compiler(mpicc)
    found = find_made(compiler, named(mpicc))
    return found or make(compiler or _no_compiler(mpicc))


def named(mpicc: str | None) -> str | None:
    """The compiler wrapper that somebody has named."""
    return mpicc or os.environ.get("BETTERBOX_MPICC") or None


def find_compiler(mpicc: str | None) -> Compiler | None:
    """The compiler wrapper, if there is one."""
    path = shutil.which(named(mpicc) or "mpicc")
    if path is None:
        return None
    path = os.path.abspath(path)
    real = os.path.realpath(path)
    about = os.stat(real)
    return Compiler(path, f"{real} {about.st_size} {int(about.st_mtime)} {os.uname().machine}")


def find_made(compiler: Compiler | None, wanted: str | None = None) -> str | None:
    """The path of a shim that is there and fits.

    Without a compiler on this host, the one that was made by `wanted`, or the only one that there is.
    """
    sources = read_sources()
    fitting = [shim for shim in all_made() if shim.sources == sources and shim.machine == os.uname().machine]
    if compiler is not None:
        fitting = [shim for shim in fitting if (shim.mpicc, shim.identity) == compiler]
    elif wanted is not None:
        fitting = [shim for shim in fitting if shim.mpicc == wanted]
    elif len(fitting) > 1:
        there = ", ".join(f"{shim.mpicc} ({shim.library})" for shim in fitting)
        raise BusError(
            f"there is no mpicc on the path of this host, and parts for several MPIs are made: name the one you mean in "
            f"BETTERBOX_MPICC: {there}"
        )
    return check(fitting[0].folder) if fitting else None


class Made(NamedTuple):
    """A shim that is there; `betterbox mpi --build` and `doctor` tell of it."""

    folder: str
    mpicc: str
    identity: str
    library: str
    sources: list[bytes]

    @property
    def machine(self) -> str:
        return self.identity.rpartition(" ")[2]


def all_made() -> Iterator[Made]:
    """All in the home folder, in order of their names."""
    above = os.path.join(_settings.home_path(), "mpi")
    try:
        names = sorted(os.listdir(above))
    except OSError:
        return
    for name in names:
        folder = os.path.join(above, name)
        try:
            lines = _read(os.path.join(folder, "made")).decode(errors="surrogateescape").split("\n")
            sources = [_read(os.path.join(folder, source)) for source in SOURCES]
        except OSError:
            continue  # under way, or none
        if len(lines) >= 3 and not name.startswith("."):
            yield Made(folder, lines[0], lines[1], lines[2], sources)


def maker(shim: str) -> str:
    """The compiler wrapper that has made a shim."""
    return next((each.mpicc for each in all_made() if each.folder == os.path.dirname(shim)), "mpicc")


def check(folder: str) -> str:
    """The path of the shim in a folder; `BusError` unless nobody else can have put it there."""
    _settings.own_folder("mpi", os.path.basename(folder))
    path = os.path.join(folder, SHIM)
    try:
        os.close(_core.open_own_file(path, os.O_RDONLY))
    except FileNotFoundError:
        raise BusError(f"{path} is missing: remove {folder}, so that it is made anew") from None
    return path


def read_sources() -> list[bytes]:
    """What the shim is made of, as it comes with the package."""
    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_shim")
    try:
        return [_read(os.path.join(folder, name)) for name in SOURCES]
    except OSError as error:
        raise BusError(f"{error.filename} is missing: BetterBox is not completely built or installed") from error


def _read(path: str) -> bytes:
    with open(path, "rb") as stream:
        return stream.read()


def _no_compiler(mpicc: str | None) -> NoReturn:
    name = named(mpicc)
    what = "there is no mpicc on the path" if name is None else f"there is no program {printable(name)}"
    raise BusError(
        f"{what}, and none has compiled the part of BetterBox that calls MPI yet, as a compiler wrapper of each MPI does once: "
        f"{_ELSEWHERE}"
    )


# --- making one -------------------------------------------------------------------------------------


def make(compiler: Compiler) -> str:
    """Make the shim, or wait for who does; its path."""
    import hashlib

    sources = read_sources()
    shown = _run([compiler.path, "-show"]) or _run([compiler.path, "--version"]) or ""
    parts = [os.fsencode(compiler.path), os.fsencode(compiler.identity), os.fsencode(shown), *sources]
    name = hashlib.sha256(b"".join(b"%d:%s" % (len(part), part) for part in parts)).hexdigest()[:16]
    folder = os.path.join(_settings.own_folder("mpi"), name)
    if not os.path.exists(folder):
        _make_once(folder, lambda: _make(compiler, shown, sources, folder))
    return check(folder)


def _make_once(folder: str, made: Callable[[], None]) -> None:
    """Call `made`, unless another process of this host does: then wait for it. Afterwards the folder is there.

    The lock lies on this host, where locks work; between hosts the name of the folder decides.
    """
    lock = os.path.join(_core.runtime_folder(), f"mpi-{os.path.basename(folder)}.lock")
    deadline = monotonic() + WAITING
    while not os.path.exists(folder):
        descriptor = _core.open_own_file(lock, os.O_RDWR | os.O_CREAT)
        try:
            _wait_for_lock(descriptor, deadline, lock)
            if not _is_at(descriptor, lock):  # who had it is done
                if told := os.pread(descriptor, _MOST_TEXT * 2, 0):
                    raise AlreadyToldError(os.fsdecode(told))
                continue
            os.ftruncate(descriptor, 0)
            try:
                made()
            except BusError as error:
                os.pwrite(descriptor, os.fsencode(str(error)), 0)
                raise
            finally:
                os.unlink(lock)
        finally:
            os.close(descriptor)


def _wait_for_lock(descriptor: int, deadline: float, lock: str) -> None:
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        if monotonic() > deadline:
            raise BusError(
                f"another process of this host has been compiling for {WAITING:.0f} s (it holds {lock}): see what it does, end it "
                f"and start the job again"
            )
        sleep(_LOOK)


def _is_at(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _make(compiler: Compiler, shown: str, sources: list[bytes], folder: str) -> None:
    import tempfile

    building = tempfile.mkdtemp(prefix=_UNDER_WAY, dir=os.path.dirname(folder))
    _sweep(building)
    try:
        for name, text in zip(SOURCES, sources, strict=True):
            _write(os.path.join(building, name), text)
        library = _compile(compiler, shown, building)
        about = "\n".join((compiler.path, compiler.identity, library, shown))
        _write(os.path.join(building, "made"), about.encode(errors="surrogateescape"))
        os.chmod(os.path.join(building, SHIM), 0o700)
        try:
            os.rename(building, folder)
        except OSError:
            if not os.path.exists(folder):  # else another host was quicker
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _sweep(own: str) -> None:
    """Remove what killed processes have left, here or on other hosts, by the clock of the file system."""
    now = os.stat(own).st_mtime
    for entry in os.scandir(os.path.dirname(own)):
        if entry.name.startswith(_UNDER_WAY):
            with contextlib.suppress(OSError):
                if now - entry.stat().st_mtime > _LEFT:
                    shutil.rmtree(entry.path)


def _write(path: str, text: bytes) -> None:
    with open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as stream:
        stream.write(text)


def _compile(compiler: Compiler, shown: str, folder: str) -> str:
    """Compile in a folder; what the MPI says about itself."""
    # Where the wrapper links from is looked in, too, though LD_LIBRARY_PATH may not have come to this host.
    places = dict.fromkeys(word[2:] for word in shown.split() if word.startswith("-L/"))
    paths = [f"-Wl,--enable-new-dtags,-rpath,{place}" for place in places]
    command = [compiler.path, "-shared", "-fPIC", "-O2", "-o", SHIM, SOURCES[0], *paths]
    said: list[str] = []
    if _run(command, folder, said) is None:
        raise BusError(
            f"{compiler.path} could not compile the part of BetterBox that calls MPI ({' '.join(command)}):\n{said[0]}\n"
            f"mend that (a C compiler and the headers of that MPI must be there), or: {_ELSEWHERE}"
        )
    try:
        return _core.mpi_library(os.path.join(folder, SHIM))
    except BusError as error:
        raise BusError(
            f"what {compiler.path} has compiled does not load: {error}; set LD_LIBRARY_PATH as that MPI needs it, and see that "
            f"{_settings.home_path()} is not on a file system mounted noexec"
        ) from error


def _run(command: list[str], folder: str | None = None, said: list[str] | None = None) -> str | None:
    """What a program prints; None if it fails, and why in `said`."""
    import subprocess

    said = [] if said is None else said
    try:
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=COMPILING, check=False
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        said.append(f"it took longer than {COMPILING:.0f} s")
        return None
    except OSError as error:
        said.append(f"it cannot be run: {error.strerror}")
        return None
    text = done.stdout.decode(errors="backslashreplace")
    if done.returncode == 0:
        return text
    how = f"exit code {done.returncode}" if done.returncode > 0 else f"ended by signal {-done.returncode}"
    said.append("\n".join(filter(None, (text[-_MOST_TEXT:].strip(), how))))
    return None


def build(mpicc: str | None) -> int:
    """``betterbox mpi --build``: make the shim beforehand, and tell what it is."""
    compiler = find_compiler(mpicc) or _no_compiler(mpicc)
    before = find_made(compiler)
    shim = make(compiler)
    how = "was there" if before == shim else "made"
    print(f"{shim}: {how}, by {compiler.path}, for {_core.mpi_library(shim)}")
    sys.stdout.flush()
    return 0
