"""Tightly coupled calls: ``options(ranks=k)`` runs an item on k ranks of an MPI job at once, with a communicator of theirs.

Rank 0 has a desk. Each item of such a call goes to one of its attendants, a box of the script's process, which has k
members run as items of a plain call of its own. Members enlist at the desk's register as their ranks come to them, and begin
together once all k are there. Only one gang assembles at a time, in order of arrival: no two hold ranks that
the other waits for, and a large gang is not overtaken by small ones. What a rank reports decides: the value of gang rank 0
once all have ended well, else the first error; ranks that then stay in the function beyond `GRACE` are given up.
"""

from __future__ import annotations

import importlib.util
import inspect
import itertools
import sys
import threading
import weakref
from collections.abc import Callable
from time import monotonic
from typing import Any

from betterbox import _annotations, _bus, _context, _core, _mpi, _mpi_build, _pickling, _remote
from betterbox._boxes import Box, RemoteBox
from betterbox._deferred import has_promise
from betterbox._errors import BetterBoxError, CallCancelledError, CallTimeoutError, ResourceError
from betterbox._labels import label_of
from betterbox._options import Options
from betterbox._promise import LIST, SINGLE, Promise
from betterbox._spread import Plan, spread

__tracebackhide__ = True  # pytest shows the user's lines

GRACE = 5.0
"""Seconds that the other ranks of a gang have to end once one of them has raised."""

ATTENDANT_PORT = 65535
REGISTER_PORT = 65534
_MOST_AT_ONCE = 16  # gangs that run; further items wait for them
_LOOK = 0.5  # seconds between looks at what nobody tells
_MOST_TAG = 32767  # that any MPI has

Described = tuple[str, str, str, bytes]


class Gang:
    """One item under way: who has come, and what they said. Guarded by the desk's lock."""

    def __init__(self, number: int, call: int, size: int) -> None:
        self.number = number
        self.call = call
        self.size = size
        self.waiting: dict[int, Any] = {}  # the future of each member, by its rank
        self.reported: set[int] = set()
        self.value: Any = None
        self.error: Described | None = None
        self.over = False
        self.watching: dict[int, Any] = {}  # the futures that tell a rank whether it is given up

    def tell_watchers(self, lost: set[int]) -> None:
        for rank, future in self.watching.items():
            future.get_loop().call_soon_threadsafe(_settle, future, rank in lost)

    @property
    def full(self) -> bool:
        return len(self.waiting) == self.size

    @property
    def stuck(self) -> set[int]:
        return set(self.waiting) - self.reported


class Starting:
    """In the place of a promise that is being made."""

    def done(self) -> bool:
        return False


class Desk:
    """What rank 0 knows of the gangs of its job."""

    def __init__(self, ranks: int) -> None:
        self.ranks = ranks  # that work
        self.lost: set[int] = set()  # stuck in functions whose items have failed
        self.ending = False
        self._changed = threading.Condition()
        self._gangs: dict[int, Gang] = {}
        self._tickets = itertools.count()
        self._queue: list[Gang] = []  # the first assembles
        self._servings: list[Any] = []
        self._calls: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()  # promises; gone: nobody can cancel

    def open(self) -> None:
        from betterbox._serving import serve

        self._servings.append(serve(Register(), REGISTER_PORT, block=False))
        for _ in range(min(self.ranks, _MOST_AT_ONCE)):
            self._servings.append(serve(Attendant(), ATTENDANT_PORT, block=False))

    def end(self) -> None:
        """The script has ended: nobody waits for gangs any more."""
        with self._changed:
            self.ending = True
            self._changed.notify_all()

    def know_call(self, promise: Any, number: int | None = None) -> int:
        """The number of a call: once its promise is done, no item of it waits for ranks any more."""
        number = next(self._tickets) if number is None else number
        self._calls[number] = promise
        return number

    def check(self, ranks: int) -> None:
        """Raise if a gang of `ranks` can never be."""
        usable = self.ranks - len(self.lost)
        if ranks <= usable:
            return
        lost = f"; ranks {sorted(self.lost)} are stuck in functions whose items have failed" if self.lost else ""
        raise ResourceError(
            f"ranks={ranks}, but this job has {usable} that work (rank 0 runs the script{lost}): "
            f"ask for at most {usable}, or start the job with more, mpirun -n {ranks + 1 + len(self.lost)}"
        )

    def describe(self, call: int) -> dict[str, Any]:
        """What `Promise.explain` tells of a call beside what the scheduler knows."""
        with self._changed:
            gangs = [gang for gang in self._gangs.values() if gang.call == call]
            told: dict[str, Any] = {"gangs": [{"size": gang.size, "ranks": sorted(gang.waiting)} for gang in gangs]}
            if any(gang.call == call for gang in self._queue):
                first = self._queue[0]
                whose = "" if first.call == call else ", of another call,"
                told["waiting"] = (
                    f"gangs assemble one by one; the one that does{whose} has {len(first.waiting)} of {first.size} ranks"
                )
            return told

    # --- an attendant's side ---

    def run(self, options: Options, call: int, deadline: float | None, payload: bytes, args: tuple[Any, ...]) -> Any:
        """Run one item of the call; its value."""
        number = next(self._tickets)
        try:
            gang, promise = self._assemble(number, options, call, deadline, payload, args)
            return self._outcome(gang, promise)
        finally:
            with self._changed:
                gone = self._gangs.pop(number, None)
                if gone is not None:
                    gone.tell_watchers(self.lost)

    def _assemble(
        self, number: int, options: Options, call: int, deadline: float | None, payload: bytes, args: tuple[Any, ...]
    ) -> tuple[Gang, Promise[Any]]:
        gang = Gang(number, call, options.ranks or 1)
        promise: Promise[Any] | None = None
        with self._changed:
            self._queue.append(gang)
        try:
            with self._changed:
                self._check_wanted(call, deadline)
                while self._queue[0] is not gang:
                    self._changed.wait(_LOOK)
                    self._check_wanted(call, deadline)
                self.check(gang.size)
                self._gangs[number] = gang
            promise = _start_members(gang, options, payload, args)
            with self._changed:
                try:
                    while not gang.full and gang.error is None and not promise.done():
                        self._check_wanted(call, deadline)
                        self.check(gang.size)  # another gang may have lost ranks meanwhile
                        self._changed.wait(_LOOK)
                except BaseException:
                    gang.over = True  # who comes from now on begins nothing
                    raise
                return gang, promise
        except BaseException:
            self._dismiss(gang, promise)
            raise
        finally:
            with self._changed:
                self._queue.remove(gang)
                self._changed.notify_all()

    def _outcome(self, gang: Gang, promise: Promise[Any]) -> Any:
        grace: float | None = None
        with self._changed:
            while gang.full and gang.stuck and not (grace is not None and monotonic() >= grace):
                if promise.done():
                    break
                if gang.error is not None and grace is None:
                    grace = monotonic() + GRACE
                self._changed.wait(_LOOK if grace is None else max(0.0, min(_LOOK, grace - monotonic())))
                self._check_going()
            if gang.full and gang.error is None and not gang.stuck:
                return gang.value
        self._dismiss(gang, promise)
        if gang.error is not None:
            raise _remote.rebuild_error(*gang.error)
        for outcome in promise.all(return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome
        raise BetterBoxError(f"a gang of {gang.size} ranks ended without a result; run the item again")

    def _check_going(self) -> None:
        if self.ending:
            raise CallCancelledError("the script has ended while a gang was under way")

    def _check_wanted(self, call: int, deadline: float | None) -> None:
        """Raise if an item that waits for ranks need not wait any more."""
        self._check_going()
        promise = self._calls.get(call)
        if promise is not None and promise.done():
            raise CallCancelledError("the call was over before the ranks of a gang had come")
        if deadline is not None and monotonic() >= deadline:
            raise CallTimeoutError("the ranks of a gang did not come free within the timeout of its call")

    def _dismiss(self, gang: Gang, promise: Promise[Any] | None) -> None:
        """Send home who still waits for others, and give up who does not come back."""
        if promise is not None:
            promise.cancel()
        with self._changed:
            gang.over = True
            if gang.full:
                self.lost |= gang.stuck
                self._changed.notify_all()
                return
            for future in gang.waiting.values():
                future.get_loop().call_soon_threadsafe(_settle, future, None)

    # --- the register's side ---

    def enlist(self, number: int, rank: int, future: Any) -> None:
        with self._changed:
            gang = self._gangs.get(number)
            if gang is None or gang.over or gang.error is not None or rank in gang.waiting:
                return _settle(future, None)
            gang.waiting[rank] = future
            if gang.full:
                members = sorted(gang.waiting)
                for waiting in gang.waiting.values():
                    _settle(waiting, members)
                self._changed.notify_all()

    def watch(self, number: int, rank: int, future: Any) -> None:
        with self._changed:
            gang = self._gangs.get(number)
            if gang is None:
                return _settle(future, rank in self.lost)
            gang.watching[rank] = future

    def report(self, number: int, rank: int, error: Described | None, value: Any) -> None:
        with self._changed:
            gang = self._gangs.get(number)
            if gang is None:
                return
            gang.reported.add(rank)
            if error is not None and gang.error is None:
                gang.error = error
            if gang.full and rank == min(gang.waiting):
                gang.value = value
            self._changed.notify_all()


def _settle(future: Any, value: Any) -> None:
    if not future.done():
        future.set_result(value)


_desk: Desk | None = None
_opening = threading.Lock()


def _the_desk() -> Desk:
    assert _desk is not None
    return _desk


class Attendant(Box):
    """Sees to one item at a time."""

    def run(self, options: dict[str, Any], call: int, deadline: float | None, payload: bytes, *args: Any) -> Any:
        return _the_desk().run(Options(options), call, deadline, payload, args)


class Register(Box):
    """Where members enlist and report."""

    async def enlist(self, number: int, rank: int) -> list[int] | None:
        """The ranks of the gang once all are there; None: it is not to be."""
        import asyncio

        future: Any = asyncio.get_running_loop().create_future()
        _the_desk().enlist(number, rank, future)
        members: list[int] | None = await future
        return members

    async def is_given_up(self, number: int, rank: int) -> bool:
        """Once the item is over: the rank is still in the function, and will not be waited for."""
        import asyncio

        future: Any = asyncio.get_running_loop().create_future()
        _the_desk().watch(number, rank, future)
        return bool(await future)

    async def report(self, number: int, rank: int, error: Described | None, value: Any) -> None:
        _the_desk().report(number, rank, error, value)


def end() -> bool:
    """The script has ended. True if ranks are stuck in functions: then MPI cannot be finished, only aborted."""
    if _desk is None:
        return False
    _desk.end()
    return bool(_desk.lost)


# --- a member's side, on its rank -------------------------------------------------------------------

_register: Any = None


def _member(number: int, size: int, payload: bytes, args: tuple[Any, ...], index: int) -> None:
    global _register
    job = _mpi.job
    assert job is not None
    if _register is None:
        _register = RemoteBox.connect(REGISTER_PORT)
    try:
        check_mpi4py(job)
        from mpi4py import MPI
    except ImportError as error:
        return _report_error(number, job.rank, size, _no_mpi4py(f"rank {job.rank}", error))
    except BetterBoxError as error:
        return _report_error(number, job.rank, size, error)
    members = _register.enlist(number, job.rank).result()
    if members is None:
        return
    watch = _register.is_given_up(number, job.rank)
    watch.add_done_callback(_leave_if_given_up)
    try:
        fn, kwargs = _context.load_code(payload)
        world = MPI.COMM_WORLD
        group = world.Get_group()
        ours = group.Incl(members)
        comm = world.Create_group(ours, number % _MOST_TAG)
        ours.Free()
        group.Free()
        value = fn(*args, **kwargs, comm=comm)
        comm.Free()
        _register.report(number, job.rank, None, value if job.rank == members[0] else None).result()
    except BaseException as error:
        _report_error(number, job.rank, size, error)


def _leave_if_given_up(watch: Promise[bool]) -> None:
    if watch.result():
        threading.Thread(target=_mpi.leave, name="betterbox-leave", daemon=True).start()


def _report_error(number: int, rank: int, size: int, error: BaseException) -> None:
    from betterbox._slot import describe_error

    name, message, trace, pickled = describe_error(error)
    trace = f"{trace.rstrip()}\n(on rank {rank} of the job, in a gang of {size})"
    _register.report(number, rank, (name, message, trace, pickled), None).result()


def _start_members(gang: Gang, options: Options, payload: bytes, args: tuple[Any, ...]) -> Promise[Any]:
    connection = _bus.current()
    promise: Promise[Any] = Promise(connection, "gang", LIST)
    plan = Plan(_member, (gang.number, gang.size, payload, args, spread(range(gang.size))), {}, options)
    return promise.start(lambda: plan.start(connection, 0, promise))


# --- a caller's side --------------------------------------------------------------------------------


def call(
    fn: Callable[..., Any], iterables: tuple[Any, ...], kwargs: dict[str, Any], options: Options, single: bool
) -> Promise[Any]:
    """Run `fn` on gangs: once per item of `iterables`, or `single`: once, with these as arguments."""
    ranks = options.ranks
    assert ranks is not None
    desk = _open_desk(ranks)
    desk.check(ranks)
    _check_takes_comm(fn)
    if has_promise(iterables, kwargs):
        raise TypeError(f"a function with ranks={ranks} takes values, not promises: pass promise.result()")
    with _pickling.shipping(options.ship):
        payload = _pickling.dumps((fn, kwargs), "fn|kwargs")
    label = options.name or f"{label_of(fn)} on {ranks} ranks"
    deadline = None if options.timeout is None else monotonic() + options.timeout
    starting = Starting()
    call_number = desk.know_call(starting)
    fixed = (_of_members(options, label), call_number, deadline, payload)
    outer = {name: getattr(options, name) for name in ("timeout", "progress", "reduce", "cost", "priority", "ship")}
    if options.reduce is not None and options.has_initial:
        outer["initial"] = options.initial
    desk_options = Options({**outer, "policy": "ss", "retries": 0, "name": label})
    promise = _call_attendants(fixed, iterables, desk_options, label, single)
    desk.know_call(promise, call_number)
    promise._explains = lambda: desk.describe(call_number)
    return promise


def _call_attendants(
    fixed: tuple[Any, ...], iterables: tuple[Any, ...], options: Options, label: str, single: bool
) -> Promise[Any]:
    connection = _bus.current()
    if not single:
        from betterbox._links import spread_call

        return spread_call(connection, ATTENDANT_PORT, "run", (*fixed, *iterables), {}, options)
    promise: Promise[Any] = Promise(connection, label, SINGLE, progress=options.progress)
    first = spread([fixed[0]])  # a call of one item, whether or not the function takes any
    plan = Plan("run", (first, *fixed[1:], *iterables), {}, options)
    return promise.start(lambda: plan.start(connection, ATTENDANT_PORT, promise))


def _of_members(options: Options, label: str) -> dict[str, Any]:
    """A gang that assembles keeps ranks idle, so its members go first."""
    needs = {name: getattr(options, name) for name in ("ranks", "cpus", "memory", "gpus", "resources")}
    return {**needs, "policy": "ss", "retries": 0, "priority": min(options.priority + 1, (1 << 31) - 1), "name": label}


def _open_desk(ranks: int) -> Desk:
    global _desk
    job = _mpi.job
    if job is None:
        raise BetterBoxError(
            f"ranks={ranks} needs an MPI job, and this bus has none: start the script with "
            f"mpirun -n {ranks + 1} betterbox mpi script.py, or leave ranks= out and use spread or map"
        )
    if job.rank != 0:
        raise BetterBoxError(
            f"ranks={ranks} in a function that runs on rank {job.rank}: only the script (rank 0) starts gangs; "
            f"return what is to be done, and call from there"
        )
    check_mpi4py(job)
    with _opening:
        if _desk is None:
            desk = Desk(job.size - 1)
            _desk = desk
            desk.open()
        return _desk


def check_mpi4py(job: _mpi.Job) -> None:
    """Raise unless mpi4py is there and calls the MPI of this job: another one would take its communicators for something else.

    What mpi4py's module is linked with is looked at before it is imported, since it calls MPI at once.
    """
    spec = importlib.util.find_spec("mpi4py")
    module = importlib.util.find_spec("mpi4py.MPI") if spec is not None else None
    if module is None or module.origin is None:
        raise _no_mpi4py(f"rank {job.rank}", None)
    try:
        import ctypes

        places = [
            ctypes.cast(ctypes.CDLL(path).MPI_Get_library_version, ctypes.c_void_p).value for path in (job.shim, module.origin)
        ]
    except ImportError:
        return  # a Python without ctypes: nothing can be told
    except OSError as error:
        raise _no_mpi4py(f"rank {job.rank}", error) from None
    if places[0] != places[1]:
        raise BetterBoxError(
            f"a function with ranks= gets an mpi4py communicator, but mpi4py here ({module.origin}) is linked with another MPI "
            f"than this job's ({_core.mpi_library(job.shim)}): install one that is built for it (MPICC={_mpi_build.maker(job.shim)} "
            f"{sys.executable} -m pip install --no-binary=mpi4py mpi4py), or start the job with the mpirun and the mpicc of the "
            f"MPI that mpi4py has"
        )


def _no_mpi4py(where: str, error: Exception | None) -> BetterBoxError:
    said = f" ({error})" if error is not None else ""
    return BetterBoxError(
        f"a function with ranks= gets an mpi4py communicator, but {where} cannot import mpi4py{said}: install it for "
        f"{sys.executable}, built for the same MPI (Debian: python3-mpi4py)"
    )


def _check_takes_comm(fn: Callable[..., Any]) -> None:
    try:
        parameters = _annotations.signature(fn).parameters.values()
    except (TypeError, ValueError):
        return
    kinds = inspect.Parameter
    if any(p.kind == kinds.VAR_KEYWORD or (p.name == "comm" and p.kind != kinds.POSITIONAL_ONLY) for p in parameters):
        return
    raise TypeError(
        f"a function with ranks= gets its communicator as the keyword argument comm; "
        f"{label_of(fn)} takes none: def {label_of(fn)}(..., *, comm)"
    )
