"""Errors that come from elsewhere: exceptions of user code, and outcomes that the system made.

`rebuild_error` and `lost_error` are called by the native half (python/src/object_codec.cc).
"""

from __future__ import annotations

import signal as signals

from betterbox import _errors, _failures
from betterbox._errors import RemoteError
from betterbox._printable import printable, printable_lines

__tracebackhide__ = True  # pytest shows the user's lines


def rebuild_error(type_name: str, message: str, traceback: str, pickled: bytes) -> BaseException:
    """The exception that was raised elsewhere.

    Returns the exception itself, with a `RemoteError` that holds its traceback as the cause. What cannot be rebuilt
    here comes as a `RemoteError`.
    """
    where = f"\n\n{traceback.rstrip()}" if traceback else ""
    cause = RemoteError(
        f"{type_name}: {message}{where}", type_name=type_name, message=message, traceback=traceback
    )
    if not pickled:
        return cause
    try:
        error = _failures.load(pickled)
        if not isinstance(error, BaseException):
            return cause
        _failures.set_cause(error, cause)
    except KeyboardInterrupt:
        raise
    except BaseException as problem:
        cause.args = (f"{cause.args[0]}\n\n(it could not be rebuilt here: {type(problem).__name__}: {problem})",)
        return cause
    return error


def _ending(signal: int, exit_code: int) -> str:
    if signal:
        try:
            name = signals.Signals(signal).name
        except ValueError:
            name = f"signal {signal}"
        hint = ""
        if name == "SIGKILL":
            hint = " (often the kernel's answer to too little memory)"
        return f"was killed by {name}{hint}"
    return f"exited with code {exit_code}"


def _poisoned(
    index: int, signal: int, exit_code: int, pid: int, peak_kib: int, host: str, stderr_tail: str, what: str
) -> BaseException:
    memory = f", peak memory {peak_kib / 1024:.0f} MiB" if peak_kib else ""
    tail = f"; its last words on stderr:\n{printable_lines(stderr_tail.rstrip())}" if stderr_tail.strip() else ""
    return _errors.PoisonedItemError(
        f"item {index} of {what} ended its process each time it was tried: the last one {_ending(signal, exit_code)} "
        f"(pid {pid} on {printable(host)}{memory}). Run the item alone to see why; `retries` allows more tries{tail}",
        index=index,
        signal=signal,
        exit_code=exit_code,
        host=host,
        pid=pid,
        peak_memory=peak_kib * 1024,
        stderr_tail=stderr_tail,
    )


_POISONED, _CANCELLED, _TIMEOUT, _BOX_LOST, _WORKER_LOST, _NO_BOX, _NO_METHOD, _BAD, _BUS, _TOO_MUCH, _DEADLOCK = range(
    1, 12
)


def lost_error(
    code: int,
    index: int,
    signal: int,
    exit_code: int,
    pid: int,
    peak_kib: int,
    host: str,
    stderr_tail: str,
    detail: str,
    method: str,
    port: int,
) -> BaseException:
    """The error for an outcome that the system made (`LostCode` in runtime/page.h)."""
    what = f"{printable(method) or 'the call'}()" + (f" on port {port}" if port else "")
    reason = f": {printable_lines(detail)}" if detail else ""
    if code == _POISONED:
        return _poisoned(index, signal, exit_code, pid, peak_kib, host, stderr_tail, what)
    if code == _CANCELLED:
        return _errors.CallCancelledError(f"{what} was cancelled{reason}")
    if code == _TIMEOUT:
        return _errors.CallTimeoutError(f"{what} did not end within its timeout{reason}")
    if code in (_BOX_LOST, _NO_BOX):
        at = f" (pid {pid} on {printable(host)} {_ending(signal, exit_code)})" if pid else ""
        return _errors.BoxLostError(
            f"the box that {what} was sent to is gone{at}{reason}. The call may have run; "
            f"the next call of a RemoteBox goes to another box if there is one"
        )
    if code == _WORKER_LOST:
        return _errors.WorkerLostError(f"the worker that ran {what} is gone{reason}")
    if code == _NO_METHOD:
        return AttributeError(detail or f"the box has no method {method!r}")
    if code == _BAD:
        return _errors.RemoteError(f"the arguments of {what} could not be read at the box{reason}")
    if code == _TOO_MUCH:
        return _errors.ResourceError(
            f"an item of {what} can never run{reason}. Ask for less (cpus=, memory=, gpus=, resources=), "
            f"or start a worker that has it (betterbox worker --cpus --memory --gpus --resource)"
        )
    if code == _DEADLOCK:
        return _errors.DeadlockError(f"{what} can never be answered{reason}")
    return _errors.BusError(
        f"the bus was lost while {what} was under way{reason}. `betterbox status` shows what is there now"
    )
