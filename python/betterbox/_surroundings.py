"""What a call carries of its client's process: what a child process of the client would inherit.

`current` reads it: once made it is used for all calls until something changes. A slot makes itself match with `settle`:
before it unpickles a call, and again before items of a call if something is not as that call's client has it. What is the
worker's own stays (docs/decisions/0023-a-call-carries-its-surroundings.md).

On the wire it is named by its content, and opens a context and the definition of a box (`split`)::

    u64 birth, u64 key of the interpreter, u32 size of its text, u32 size of the body,
    the text (betterbox._interpreter), the body: 8 bytes of the name, then a compressed pickle

`birth` stands for what a process must be given before it imports anything: its interpreter, some variables, and the family
whose code it sees: a client, and all the slots and boxes that work for it and make calls themselves. The agent forks a slot
afresh where it differs, from a process of that interpreter (worker/context_head.h).
"""

from __future__ import annotations

import importlib
import os
import pickle
import resource
import struct
import sys
import zlib
from time import tzset
from typing import Any, NamedTuple

from betterbox import _core, _interpreter
from betterbox._digest import blake2b
from betterbox._errors import BetterBoxError

_HEAD = struct.Struct("<QQII")
_NAME_BYTES = 8
_MOST_KNOWN = 64  # that a slot keeps unpickled

_LIMITS = (resource.RLIMIT_AS, resource.RLIMIT_CORE, resource.RLIMIT_DATA, resource.RLIMIT_STACK)

THREAD_COUNTS = (b"OMP_NUM_THREADS", b"OPENBLAS_NUM_THREADS", b"MKL_NUM_THREADS")
"""1 in a slot unless somebody says otherwise: slots are the parallelism."""

# Read when a library or the interpreter starts, and never again.
_OF_BIRTH = tuple(
    prefix.encode()
    for prefix in (
        "OMP_ GOMP_ KMP_ MKL_ OPENBLAS_ GOTO_ BLIS_ VECLIB_ NUMEXPR_ NUMBA_ RAYON_ POLARS_ ARROW_ CUDA_ NVIDIA_ NCCL_ "
        "HIP_ ROCR_ ROCM_ HSA_ GPU_ ZE_ SYCL_ ONEAPI_ XLA_ JAX_ TF_ TORCH_ PYTORCH_ PYTHON LD_ MALLOC_ GLIBC_ "
        "VIRTUAL_ENV CONDA_"
    ).split()
)
# Of whoever started the worker, and of its rank, if it is one: never the client's.
_OF_WORKER = tuple(
    prefix.encode() for prefix in "BETTERBOX_ PMI PMIX_ OMPI_ OPAL_ ORTE_ PRTE_ I_MPI_ HYDRA_ HYDI_ MPI_LOCAL MPIR_CVAR_ MV2_ MPIEXEC_".split()
)
# Of the worker's host, job, login and devices, if it was started by hand.
_OF_PLACE = tuple(
    prefix.encode()
    for prefix in "SLURM SBATCH_ SRUN_ PBS_ LSB_ SGE_ FLUX_ PALS_ XDG_ SSH_ DBUS_ CUDA_VISIBLE_DEVICES NVIDIA_VISIBLE_DEVICES "
    "HIP_VISIBLE_DEVICES ROCR_VISIBLE_DEVICES GPU_DEVICE_ORDINAL ZE_AFFINITY_MASK".split()
)
_NAMES_OF_PLACE = frozenset(
    "HOME USER LOGNAME SHELL HOST HOSTNAME TMPDIR TMP TEMP DISPLAY WAYLAND_DISPLAY XAUTHORITY PWD OLDPWD SHLVL MAIL TTY "
    "TERM JOB_ID _".encode().split()
)


class Interpreter(NamedTuple):
    executable: str
    version: str
    prefix: str
    base_prefix: str


class Facts(NamedTuple):
    """One reading of this process."""

    environ: dict[bytes, bytes]
    path: list[str]
    folder: str  # "": it has been removed
    umask: int
    nice: int
    cpus: tuple[int, ...]
    limits: tuple[int, ...]
    interpreter: Interpreter
    host: str


class Surroundings:
    """Facts of a process of a family, and how they travel. Equal ones that a process knows are one object."""

    __slots__ = ("family", "facts", "wire", "interpreter")

    def __init__(self, family: bytes, facts: Facts, wire: bytes, interpreter: tuple[int, bytes]) -> None:
        self.family = family
        self.facts = facts
        self.wire = wire
        self.interpreter = interpreter


# --- the client's side ----------------------------------------------------------------------------


def current() -> Surroundings:
    """Those of this process."""
    global _current
    facts = look()
    made = _current
    if made is None or made.facts != facts:
        made = _current = Surroundings(_family, facts, _wire(_family, facts), _interpreter.identity())
    return made


_current: Surroundings | None = None
_family = os.urandom(8)


def changed() -> bool:
    """True if what `current` gave last is not so any more. Called by the native submitter now and then."""
    return _current is None or _current.facts != look()


def look() -> Facts:
    """Read what a child process would inherit."""
    try:
        folder = os.getcwd()
    except FileNotFoundError:
        folder = ""
    return Facts(
        _core.environment(),
        _absolute_path(folder),
        folder,
        _umask(),
        os.getpriority(os.PRIO_PROCESS, 0),
        tuple(sorted(os.sched_getaffinity(0))),
        tuple([resource.getrlimit(which)[0] for which in _LIMITS]),
        Interpreter(sys.executable or "", sys.version, sys.prefix, sys.base_prefix),
        _interpreter.this_host(),
    )


_path: tuple[list[str], str, list[str]] = [], "", []


def _absolute_path(folder: str) -> list[str]:
    """`sys.path` as another process with another working folder needs it."""
    global _path
    seen, where, made = _path
    if seen != sys.path or where != folder:
        if folder:
            made = [os.path.join(folder, entry) for entry in sys.path]
        else:
            made = [entry for entry in sys.path if os.path.isabs(entry)]
        _path = list(sys.path), folder, made
    return made


def _umask() -> int:
    """Without setting it, which another thread would see."""
    try:
        status = os.open("/proc/thread-self/status", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1
    try:
        text = os.read(status, 512)
    finally:
        os.close(status)
    at = text.find(b"\nUmask:")
    return int(text[at + 7 : text.index(b"\n", at + 1)], 8) if at >= 0 else -1


def _wire(family: bytes, facts: Facts) -> bytes:
    key, text = _interpreter.identity()
    body = pickle.dumps((family, *facts), protocol=5)
    name = blake2b(body, digest_size=_NAME_BYTES, key=key.to_bytes(8, "little")).digest()
    body = name + zlib.compress(body, 1)
    return _HEAD.pack(_birth(family, facts.environ, key), key, len(text), len(body)) + text + body


def _birth(family: bytes, environ: dict[bytes, bytes], interpreter: int) -> int:
    given = _place.assigned if _place is not None else {}
    mine = sorted(
        (name, value)
        for name, value in environ.items()
        if name.startswith(_OF_BIRTH) and name not in given and not (name in THREAD_COUNTS and value == b"1")
    )
    made_of = repr((mine, interpreter)).encode()
    return int.from_bytes(blake2b(made_of, digest_size=8, salt=family).digest(), "little")


# --- the slot's side --------------------------------------------------------------------------------

_known: dict[bytes, Surroundings] = {}


def split(data: bytes) -> tuple[Surroundings, memoryview]:
    """The surroundings that `data` begins with, and the rest."""
    _, key, text_size, body_size = _HEAD.unpack_from(data)
    body_at = _HEAD.size + text_size
    end = body_at + body_size
    name = data[body_at : body_at + _NAME_BYTES]
    found = _known.get(name)
    if found is None:
        family, *fields = pickle.loads(zlib.decompress(data[body_at + _NAME_BYTES : end]))
        found = Surroundings(family, Facts._make(fields), data[:end], (key, data[_HEAD.size : body_at]))
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        _known[name] = found
    return found, memoryview(data)[end:]


class Place:
    """What a slot has of its worker."""

    def __init__(self, interpreter: int, follows: bool) -> None:
        self.environ = _core.environment()
        self.interpreter = interpreter  # as calls name it; 0: not told
        self.follows = follows  # slots take all of a client's environment and limits, if it is on this host
        self.assigned: dict[bytes, bytes] = {}
        self.path = list(sys.path)
        try:
            self.folder = os.getcwd()
        except OSError:
            self.folder = "/"

    def note_assigned(self) -> None:
        """What the worker has given this very slot, as devices."""
        environ = _core.environment()
        self.assigned = {name: value for name, value in environ.items() if self.environ.get(name) != value}

    def check_interpreter(self, wanted: Surroundings) -> None:
        """Raise `BetterBoxError` if the client's interpreter is another than this one: a worker that could not start it."""
        key, _ = wanted.interpreter
        if key == self.interpreter or 0 in (key, self.interpreter):
            return
        theirs = wanted.facts.interpreter
        raise BetterBoxError(
            f"the call comes from {theirs.executable} (Python {theirs.version.partition(' ')[0]} of {theirs.prefix}), which the "
            f"worker on {os.uname().nodename} could not start (its log says why: `betterbox status` names it), and here is "
            f"{sys.executable} (Python {sys.version.partition(' ')[0]} of {sys.prefix})"
        )

    def environ_for(self, facts: Facts, follows: bool) -> dict[bytes, bytes]:
        """The client's variables and the worker's, each where it belongs."""
        merged = {} if follows else dict(self.environ)
        for name, value in facts.environ.items():
            if name.startswith(_OF_WORKER) or not follows and self._is_mine(name):
                continue
            merged[name] = value
        for name in THREAD_COUNTS:
            merged.setdefault(name, b"1")
        merged.update((name, value) for name, value in self.environ.items() if name.startswith(_OF_WORKER))
        merged.update(self.assigned)
        return merged

    def _is_mine(self, name: bytes) -> bool:
        if name in THREAD_COUNTS:
            return bool(self.environ.get(name, b"1") != b"1")
        return name in _NAMES_OF_PLACE or name.startswith(_OF_PLACE)


_place: Place | None = None


def begin(interpreter: int, follows: bool) -> None:
    """In the template, before anything changes: what is here is the worker's. `interpreter`: see `_interpreter.identity`."""
    global _place
    _place = Place(interpreter, follows)


def enter_slot() -> None:
    """In a slot, once the worker's variables are set."""
    if _place is not None:
        _place.note_assigned()


def settle(wanted: Surroundings) -> None:
    """Make this slot's process what a call, or a box at its start, expects.

    Raises
    ------
    BetterBoxError
        If the client has another interpreter, which this process cannot become.
    """
    place = _place
    if place is None:
        return
    global _family, _current
    if _family != wanted.family:
        _family, _current = wanted.family, None
    facts = wanted.facts
    follows = place.follows and facts.host == _interpreter.this_host() != ""
    if follows:
        place.check_interpreter(wanted)
    _interpreter.adopt(wanted.interpreter)
    _set_environ(place.environ_for(facts, follows))
    path = facts.path if follows else facts.path + [entry for entry in place.path if entry not in facts.path]
    if getattr(sys, "path", None) != path:
        sys.path = list(path)
        importlib.invalidate_caches()
    _enter_folder(facts.folder, place.folder)
    if follows:
        _take_limits(facts)


def widen_path(wanted: Surroundings) -> None:
    """In a box, which keeps its own state: let it unpickle what comes from where its client finds modules."""
    more = [entry for entry in wanted.facts.path if entry not in sys.path]
    if more:
        sys.path += more
        importlib.invalidate_caches()


_environ, _environb = os.environ, os.environb


def _set_environ(wanted: dict[bytes, bytes]) -> None:
    os.environ, os.environb = _environ, _environb  # an item may have put others there
    kept = _environ._data  # type: ignore[attr-defined]
    there = _core.environment()
    _core.set_environment(wanted)
    kept.clear()
    kept.update(wanted)
    if there.get(b"TZ") != wanted.get(b"TZ"):
        tzset()
    if any(there.get(name) != wanted.get(name) for name in (b"TMPDIR", b"TEMP", b"TMP")) and "tempfile" in sys.modules:
        setattr(sys.modules["tempfile"], "tempdir", None)


def _enter_folder(folder: str, otherwise: str) -> None:
    for place in (folder, otherwise):
        try:
            if place:
                return os.chdir(place)
        except OSError:
            pass  # another machine: what needs the folder will say so


def _take_limits(facts: Facts) -> None:
    if facts.umask >= 0:
        os.umask(facts.umask)
    try:
        if os.getpriority(os.PRIO_PROCESS, 0) != facts.nice:
            os.setpriority(os.PRIO_PROCESS, 0, facts.nice)
    except OSError:
        pass  # lower than the worker's, which needs a privilege
    try:
        os.sched_setaffinity(0, facts.cpus)
    except OSError:
        pass  # none of them is the worker's
    for which, soft in zip(_LIMITS, facts.limits):
        now, hard = resource.getrlimit(which)
        if hard != resource.RLIM_INFINITY and (soft == resource.RLIM_INFINITY or soft > hard):
            soft = hard
        if now != soft:
            resource.setrlimit(which, (soft, hard))


def _after_fork() -> None:
    global _current, _family
    _current = None  # another thread may have been making it
    _family = os.urandom(8)


os.register_at_fork(after_in_child=_after_fork)
