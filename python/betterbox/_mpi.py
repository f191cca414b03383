"""One rank of ``mpirun -n N betterbox mpi script.py``: rank 0 runs the script, the others are workers of one slot.

The process that ``mpirun`` has started, the user's interpreter, is the rank. MPI is up before the script begins, and ends after
Python has ended (cluster/mpi_rank.h); mpi4py, where it is used, leaves an MPI alone that is up.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import sys
import threading
from time import monotonic, sleep
from types import ModuleType
from typing import Any, NamedTuple

from betterbox import _core, _mpi_build
from betterbox._arguments import check_script
from betterbox._errors import BetterBoxError
from betterbox._printable import printable_lines
from betterbox._script import Program

STUCK = 2.0
"""Seconds that a rank's slot has to end once the job is over."""

COMING = 30.0
"""Seconds that the script waits at most for the other ranks to be on the bus."""

TOLD = 2.0
"""Seconds that a rank waits to be ended by the launcher when another one has said why the job cannot be."""

_ALONE = """\
betterbox mpi: this job has one rank, which would run the script; its workers are the others: \
mpirun -n 4 betterbox mpi script.py (if that is what was said, mpirun belongs to another MPI than {mpicc}, \
{library}: name the mpicc of that one in BETTERBOX_MPICC, or use the mpirun of this one)"""

_RANKS = ("PMIX_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK", "SLURM_PROCID")


class Job(NamedTuple):
    """What this process is in the job."""

    shim: str
    rank: int
    size: int
    scheduler: str


job: Job | None = None
_agent: _core.Agent | None = None
_left = threading.Event()


def launched_as() -> int:
    """The rank that a launcher of some MPI has given to this process, before MPI is up; 0 without one."""
    given = (os.environ.get(name, "") for name in _RANKS)
    return next((int(rank) for rank in given if rank.isdecimal()), 0)


def main(script: str, arguments: list[str], module: bool, mpicc: str | None) -> int:
    """Run this rank; the exit code."""
    shim = _prepare(None if module else script, mpicc)
    if shim is None:
        return 1
    code = 1
    try:
        code = _run_rank(shim, script, arguments, module)
    finally:
        _core.rank_ends_with(code)
    return code


def _prepare(script: str | None, mpicc: str | None) -> str | None:
    """What can go wrong before MPI is up: the path of the shim, or None once it is told."""
    try:
        if script is not None and launched_as() == 0:
            check_script(script)  # only rank 0 reads it
        return _mpi_build.find(mpicc)
    except _mpi_build.AlreadyToldError:
        sleep(TOLD)  # whoever says why should be the first to end: then the launcher ends the others
    except BetterBoxError as error:
        print(f"betterbox mpi: {printable_lines(error)}", file=sys.stderr, flush=True)
        _end_launched()
    return None


def _end_launched() -> None:
    """Have MPICH's launcher end the others, which wait for this rank where they start MPI; others do that by themselves."""
    launcher = os.environ.get("PMI_FD", "")
    if launcher.isdecimal():
        with contextlib.suppress(OSError):
            os.write(int(launcher), b"cmd=abort exitcode=1\n")


def _run_rank(shim: str, script: str, arguments: list[str], module: bool) -> int:
    global job
    job = Job(shim, *_core.start_rank(shim))
    if job.size < 2:
        print(_ALONE.format(mpicc=_mpi_build.maker(shim), library=_core.mpi_library(shim)), file=sys.stderr)
        return 2
    os.environ["BETTERBOX_BUS"] = job.scheduler
    sys.argv = ["-m", script, *arguments] if module else [script, *arguments]
    sys.path[0:1] = [os.getcwd() if module else os.path.dirname(os.path.abspath(script))]
    if job.rank != 0:
        sys.modules["__main__"] = ModuleType("__main__")  # not the program betterbox
        _serve(job)
        return 0
    _wait_for_ranks(job.size)
    code = _run(script, arguments, module)
    gangs = sys.modules.get("betterbox._gangs")
    if gangs is not None and gangs.end():
        _abort(code)
    return code


def _abort(code: int) -> None:
    """End the job though ranks are stuck in MPI calls that nobody will answer: finishing MPI would wait for them."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    _core.abort_job(code)


def _wait_for_ranks(ranks: int) -> None:
    """Until all are on the bus: what the script deploys and spreads first is for all of them, not for the quickest."""
    from betterbox import _bus

    deadline = monotonic() + COMING
    while monotonic() < deadline:
        with contextlib.suppress(BetterBoxError):  # the script will tell, if it uses the bus
            if _bus.current().client.status(5.0)["counters"]["sessions_begun"] >= ranks:  # workers, and this client
                return
        sleep(0.01)


def _run(name: str, arguments: list[str], module: bool) -> int:
    """Run rank 0's program; its exit code."""
    try:
        program = Program(name, arguments, module)
    except BetterBoxError as error:
        print(f"betterbox mpi: {printable_lines(error)}", file=sys.stderr)
        return 1
    try:
        program.run()
    except SystemExit as end:
        return _exit_code(end.code)
    except BaseException as error:
        program.show_error(error)
        return 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    return 0


def _exit_code(code: Any) -> int:
    """What the interpreter makes of the argument of `sys.exit`."""
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    print(code, file=sys.stderr)
    return 1


def leave() -> None:
    """Take this rank off the bus: what its slot runs will not end, and the job will be aborted at its end."""
    if _agent is not None:
        _left.set()
        _agent.stop()


def _serve(job: Job) -> None:
    """Be a worker until the job ends: plain functions run on the main thread, each box on one of its own."""
    global _agent
    agent = _agent = _core.Agent(job.scheduler, "", f"rank-{job.rank}", function_slots=1)
    seats: queue.SimpleQueue[_core.Seat | None] = queue.SimpleQueue()

    def take_seats() -> None:
        while (seat := agent.next_seat()) is not None:
            if seat.for_functions:
                seats.put(seat)
            else:
                threading.Thread(target=seat.run, args=(False,), name="betterbox-box", daemon=True).start()
        seats.put(None)
        if not _left.is_set() and not over.wait(STUCK):
            _core.end_rank(0)  # what the slot runs will not come back

    over = threading.Event()
    threading.Thread(target=take_seats, name="betterbox-seats", daemon=True).start()
    while (seat := seats.get()) is not None:
        seat.run(False)
    if _left.is_set():
        threading.Event().wait()  # for the job's end: it will be aborted
    over.set()
    agent.stop()
