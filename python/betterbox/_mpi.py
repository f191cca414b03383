"""One rank of ``mpirun -n N betterbox mpi script.py``: rank 0 runs the script, the others are workers of one slot.

This module runs inside the program betterbox-mpi (cluster/mpi_main.cc), which has started MPI.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import queue
import sys
import threading
from time import monotonic, sleep
from typing import Any

from betterbox import _core, _settings
from betterbox._errors import BetterBoxError
from betterbox._printable import printable_lines
from betterbox._script import Program

STUCK = 2.0
"""Seconds that a rank's slot has to end once the job is over."""

COMING = 30.0
"""Seconds that the script waits at most for the other ranks to be on the bus."""

_ALONE = """\
betterbox mpi: this job has one rank, which would run the script; its workers are the others: \
mpirun -n 4 betterbox mpi script.py (if that is what was said, mpirun belongs to another MPI than the one BetterBox was built with)"""

_agent: _core.Agent | None = None
_left = threading.Event()


def main() -> int:
    """Run this rank; the exit code."""
    job = importlib.import_module("_betterbox_mpi")  # of the program
    if job.size < 2:
        print(_ALONE, file=sys.stderr)
        return 2
    _core.use_carrier(job.carrier)
    os.environ["BETTERBOX_BUS"] = job.scheduler
    _leave_mpi_to_us()
    as_module = sys.argv[0] == "-m"
    script, arguments = sys.argv[as_module], sys.argv[as_module + 1 :]
    sys.path.insert(0, os.getcwd() if as_module else os.path.dirname(os.path.abspath(script)))
    if job.rank == 0:
        _wait_for_ranks(job.size)
        code = _run(script, arguments, as_module)
        gangs = sys.modules.get("betterbox._gangs")
        if gangs is not None and gangs.end():
            _abort(code)
        return code
    _serve(job)
    return 0


def _abort(code: int) -> None:
    """End the job though ranks are stuck in MPI calls that nobody will answer: finishing MPI would wait for them."""
    from mpi4py import MPI

    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    MPI.COMM_WORLD.Abort(code)


def _leave_mpi_to_us() -> None:
    """MPI is up, and ends when the job does: mpi4py, where it is used, must do neither."""
    try:
        import mpi4py
    except ImportError:
        return
    mpi4py.rc.initialize = False
    mpi4py.rc.finalize = False


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


def _serve(job: Any) -> None:
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
            job.end(0)  # what the slot runs will not come back

    over = threading.Event()
    threading.Thread(target=take_seats, name="betterbox-seats", daemon=True).start()
    while (seat := seats.get()) is not None:
        seat.run(False)
    if _left.is_set():
        threading.Event().wait()  # for the job's end: it will be aborted
    over.set()
    agent.stop()
