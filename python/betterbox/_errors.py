"""What can go wrong, by name. Every message says what happened, where, and what to do next."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from betterbox._cancelled import CallCancelledError as CallCancelledError


class BetterBoxError(Exception):
    """The base of all errors that BetterBox itself raises."""

    __module__ = "betterbox"


class LargeCaptureWarning(UserWarning):
    """A function drags large values along: each call sends them anew."""

    __module__ = "betterbox"


class BusError(BetterBoxError):
    """The bus cannot be used: no scheduler, a wrong version, a connection that is over."""

    __module__ = "betterbox"


class DeadlockError(BetterBoxError):
    """A wait that can never end: of a box for itself, round a cycle of boxes, or of every slot there is."""

    __module__ = "betterbox"


class NestingError(BetterBoxError, RecursionError):
    """Calls made by calls made by calls, deeper than the bus allows: a recursion without an end."""

    __module__ = "betterbox"


class NoBoxFoundError(BetterBoxError):
    """No box answers at a port (or fewer than were required)."""

    __module__ = "betterbox"


class BoxLostError(BetterBoxError):
    """The box that ran a call is gone: its process ended, or it was withdrawn."""

    __module__ = "betterbox"


class WorkerLostError(BetterBoxError):
    """The worker that held an item is gone and the item may not be run again."""

    __module__ = "betterbox"


class PoisonedItemError(BetterBoxError):
    """An item whose process died more often than `retries` allows.

    Attributes
    ----------
    index : int
        The item's place in its call.
    signal : int
        The signal that ended the process the last time; 0 if it exited.
    exit_code : int
        The exit code the last time, if it exited.
    host, pid : str, int
        Where the process ran.
    peak_memory : int
        Its peak resident memory, in bytes; 0 if unknown.
    stderr_tail : str
        The last lines that it wrote to stderr.
    """

    __module__ = "betterbox"

    def __init__(
        self,
        message: str = "",
        *,
        index: int = 0,
        signal: int = 0,
        exit_code: int = 0,
        host: str = "",
        pid: int = 0,
        peak_memory: int = 0,
        stderr_tail: str = "",
    ) -> None:
        super().__init__(message)
        self.index = index
        self.signal = signal
        self.exit_code = exit_code
        self.host = host
        self.pid = pid
        self.peak_memory = peak_memory
        self.stderr_tail = stderr_tail


class CallTimeoutError(BetterBoxError, TimeoutError):
    """A call, or a wait for it, took longer than its timeout. Also a `TimeoutError`."""

    __module__ = "betterbox"


class ResourceError(BetterBoxError):
    """No worker can ever give what an item needs; the message says what that is, and what there is."""

    __module__ = "betterbox"


class SerializationError(BetterBoxError):
    """Something cannot be pickled; the message names the path to the culprit (``args[0].model._lock``)."""

    __module__ = "betterbox"


class StateError(BetterBoxError):
    """A persistent box's state cannot be loaded, saved or owned."""

    __module__ = "betterbox"


class ValueLostError(BetterBoxError):
    """The value of a `Ref` is gone: it was released, or no process that had it is left."""

    __module__ = "betterbox"


class RemoteError(BetterBoxError):
    """An exception elsewhere, as text: the cause of an error that was raised in a box, or the error itself where
    it cannot be rebuilt here.

    Attributes
    ----------
    type_name, message : str
        What was raised.
    traceback : str
        Where, as Python prints it.
    """

    __module__ = "betterbox"

    def __init__(self, text: str = "", *, type_name: str = "", message: str = "", traceback: str = "") -> None:
        super().__init__(text)
        self.type_name = type_name
        self.message = message
        self.traceback = traceback


def __getattr__(name: str) -> object:
    # CallCancelledError derives from concurrent.futures.CancelledError, whose module is slow to import.
    if name == "CallCancelledError":
        from betterbox._cancelled import CallCancelledError

        globals()[name] = CallCancelledError
        return CallCancelledError
    raise AttributeError(f"module 'betterbox._errors' has no attribute {name!r}")


def nearest(name: str, known: list[str]) -> str:
    """The text ``; did you mean 'x'?`` if something close to `name` is known, else nothing."""
    import difflib

    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
