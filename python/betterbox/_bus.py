"""This process's connections: one client per bus, made when it is first used, closed at exit.

A background thread carries messages while nobody waits, and settles what waits for finished calls (`_runners`).
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from betterbox import _core, _end, _settings
from betterbox._errors import BusError
from betterbox._runners import report_ignored, run_safely
from betterbox._printable import printable_lines

__tracebackhide__ = True  # pytest shows the user's lines

T = TypeVar("T")

_NEXT = 1 << 62  # groups of items: more than have landed
START_TIMEOUT = 10.0  # seconds for a bus to be found or started
_LEAVE_TIMEOUT = 2.0  # seconds for the thread of a connection that is closed; it may be looking for the bus
_MOST_TROUBLE = 10  # exceptions in a row that the thread of a connection takes before it gives the connection up

_lock = threading.RLock()
_connections: dict[str, Connection] = {}
_forked = False
_hooked = False
ended: dict[str, str] = {}
"""Buses that will not come back, with the reason."""

settlers: set[int] = set()
"""Threads that settle what waits, and so must not run callbacks of the user's."""
background = False
"""True in slots: their clients do not keep a self-started bus alive."""


class BusEnded(BusError):
    """The bus is gone for good: the native client looks for it no longer (python/src/client_bindings.cc)."""


def _finder(connection: Connection) -> Callable[[], str]:
    """What the native client calls when it has lost its scheduler; it does not keep the connection, which keeps it."""
    found = weakref.ref(connection)

    def find_again() -> str:
        alive = found()
        if alive is None:
            raise BusError("the connection is gone")
        return alive._find_again()

    return find_again


class Connection:
    """A client of one bus, with the thread that drives it."""

    def __init__(self, bus: str, named: bool) -> None:
        _settings.check_environment()
        self.bus = bus
        self.named = named
        self.info = find_bus(bus, named)
        self.client = self._make_client()
        self._callbacks: dict[int, list[Callable[[], object]]] = {}
        self._guard = threading.Lock()
        self._over = False  # nobody drives any more, and every call has its outcome
        self._thread = threading.Thread(target=self._drive, name="betterbox-client", daemon=True)
        try:
            _end.start(self._thread)
        except BaseException:
            self.client.close()
            raise

    def _make_client(self) -> _core.Client:
        """One that is on the bus. A bus that ends just now has a successor, if it is one that starts itself."""
        file = "" if _settings.is_address(self.bus) else self.bus
        while True:
            endpoint = self.info["endpoint"]
            finder = None if endpoint.startswith("mpi://") else _finder(self)  # the scheduler of a job has no successor
            try:
                return _core.Client(endpoint, _settings.peer_name(), background, finder, file)
            except BusError:
                if not self.self_started:
                    raise
                self.info = find_bus(self.bus, self.named)
                if self.info["endpoint"] == endpoint:  # it is there, and does not want this client
                    raise

    @property
    def self_started(self) -> bool:
        return not self.named and bool(self.info.get("self_started"))

    def _find_again(self) -> str:
        """Called when the scheduler was lost: where it is now (a bus that started itself is started again)."""
        self.info = find_bus(self.bus, self.named)
        return str(self.info["endpoint"])

    def reach(self) -> bool:
        """Wait while the successor of a lost scheduler is looked for. False if the bus was lost for good."""
        return self.client.connected() or self.client.wait_connected(None)

    def when_done(self, call: _core.Call | _core.Submission, callback: Callable[[], object]) -> None:
        """Run `callback` once the call is done, however that comes: on the background thread, so it must not block."""
        with self._guard:
            over = self._over
            if not over:
                waiting = self._callbacks.get(call.token)
                if waiting is not None:
                    waiting.append(callback)
                    return
                self._callbacks[call.token] = [callback]
        if over:
            run_safely(callback, "what waited for a call")
        else:
            call.notify()

    def when_landed(self, call: Any, callback: Callable[[], object]) -> None:
        """Run `callback` on the background thread when more of the call has landed, or it is done."""
        with self._guard:
            over = self._over
            if not over:
                self._callbacks.setdefault(call.landing_token, []).append(callback)
        if over:
            run_safely(callback, "what waited for a call")
        else:
            call.notify_landing(_NEXT)

    def forget_when_done(self, call: Any, callback: Callable[[], object]) -> None:
        """Do not run `callback`."""
        with self._guard:
            waiting = self._callbacks.get(call.token, [])
            if callback in waiting:
                waiting.remove(callback)

    def _drive(self) -> None:
        settlers.add(threading.get_ident())
        trouble = 0
        while trouble < _MOST_TROUBLE:
            try:
                tokens = self.client.drive()
                if not tokens:
                    break
                self._run_callbacks(tokens)
                trouble = 0
            except BaseException:  # thrown into this thread from outside, or no memory
                trouble += 1
                report_ignored("the thread of the bus")
        self.client.close()  # if it gave up
        self._settle_rest()
        settlers.discard(threading.get_ident())

    def _run_callbacks(self, tokens: list[int]) -> None:
        """In a frame of its own: while nothing happens it keeps no callback, nor what that holds."""
        with self._guard:
            callbacks = [callback for token in tokens for callback in self._callbacks.pop(token, ())]
        for callback in callbacks:
            run_safely(callback, "what waited for a call")

    def _settle_rest(self) -> None:
        """The client is closed, so every call has an outcome, also one that nobody was told of."""
        with self._guard:
            self._over = True
            tokens = list(self._callbacks)
        self._run_callbacks(tokens)

    def close(self) -> None:
        """Every call that is under way gets its outcome: that the bus was lost. Idempotent."""
        self.client.close()
        if self._thread is threading.current_thread():
            return
        self._thread.join(_LEAVE_TIMEOUT)
        me = threading.get_ident()
        settlers.add(me)
        try:
            self._settle_rest()
        finally:
            settlers.discard(me)


def find_bus(bus: str, named: bool) -> dict[str, Any]:
    """Where the bus is; starts it if nobody named it and nobody answers.

    Raises
    ------
    BusError
        If no scheduler answers and none may be started.
    """
    if bus in ended:
        raise BusEnded(f"the bus {bus} has ended: {ended[bus]}")
    if _settings.is_address(bus):
        if bus.startswith("tcp://"):
            raise BusError(f"BETTERBOX_BUS={bus}: over the network a bus is reached with its keys, so name its bus file")
        folder = os.path.dirname(bus.partition("://")[2]) if bus.startswith("ipc://") else ""
        return {"endpoint": bus, "socket_folder": folder, "self_started": False}
    if named:
        return _core.find_or_start_bus(bus, [], "", START_TIMEOUT)
    log = os.path.join(_settings.log_folder(), "scheduler.log")
    return _core.find_or_start_bus(bus, _settings.scheduler_command(bus), log, START_TIMEOUT)


def check_not_forked() -> None:
    """Raise `BusError` in a process that was forked from one that uses a bus."""
    if _forked:
        raise BusError(
            "this process was forked from one that uses a bus, and cannot share its connection; "
            "start it with the multiprocessing start method 'spawn' or 'forkserver' instead"
        )


def current() -> Connection:
    """The connection to the current bus."""
    check_not_forked()
    bus, named = _settings.bus_name()
    found = _connections.get(bus)
    if found is not None and found.client.connected():
        return found
    with _lock:
        _end.prepare()
        found = _connections.get(bus)
        if found is not None and _is_of_no_use(found):
            del _connections[bus]
            found.close()
            found = None
        if found is None:
            _install_hooks()
            found = Connection(bus, named)
            _keep(bus, found)
    return found


def _keep(bus: str, connection: Connection) -> None:
    try:
        _end.check()  # the end may have come while it was made
    except RuntimeError:
        connection.close()
        raise
    _connections[bus] = connection


def reached() -> Connection:
    """The connection to the current bus, for what its scheduler must answer at once.

    While the successor of a lost scheduler is looked for this waits, as calls under way do.
    """
    connection = current()
    return connection if connection.reach() else current()


def answered(ask: Callable[[Connection, bool], T]) -> T:
    """What ``ask(connection, new)`` gives for the connection to the current bus.

    A scheduler that is lost before it answers is asked again as its successor (`new`), whom workers may still be on
    their way to.
    """
    connection, new = current(), False
    while True:
        if not connection.client.connected():
            connection, new = reached(), True
        info = connection.info
        try:
            return ask(connection, new)
        except BusError:
            if connection.client.connected() and connection.info is info:
                raise  # it is there, and this is what it says
            new = True


def find_known_bus(bus: str, named: bool) -> dict[str, Any]:
    """`find_bus`; a process that is on the bus already waits for the successor of a lost scheduler, as its calls do."""
    try:
        return find_bus(bus, named)
    except BusError:
        if bus not in _connections:
            raise
        answered(lambda connection, new: connection.client.status(START_TIMEOUT))
        return find_bus(bus, named)


def _is_of_no_use(connection: Connection) -> bool:
    """True if the bus was lost for good. While it is lost, calls wait for its successor; only a bus that starts itself may be
    looked for anew at once, if nothing is under way here and it is not where it was."""
    if connection.client.ended():
        return True
    return not connection.named and connection.client.expendable() and not _is_where_it_was(connection)


def _is_where_it_was(connection: Connection) -> bool:
    try:
        info = _core.read_bus_file(connection.bus)
    except BusError:
        return False
    return info is not None and info["incarnation"] == connection.info["incarnation"]


def close(bus: str) -> None:
    """Close the connection to a bus, if there is one."""
    with _lock:
        connection = _connections.pop(bus, None)
    if connection is not None:
        connection.close()


def _install_hooks() -> None:
    global _hooked
    if not _hooked:
        _hooked = True
        os.register_at_fork(after_in_child=_after_fork)


def close_all() -> None:
    """Close all connections, at the end of the interpreter."""
    if _forked:
        return
    locked = _lock.acquire(timeout=_LEAVE_TIMEOUT)  # a thread that connects may have it; its connection is refused
    try:
        connections = list(_connections.values())
        _connections.clear()
    finally:
        if locked:
            _lock.release()
    for connection in connections:
        try:
            connection.close()
        except Exception as error:
            print(f"betterbox: closing the bus {connection.bus}: {printable_lines(error)}", file=sys.stderr)

def _after_fork() -> None:
    global _forked, _lock
    _lock = threading.RLock()
    if _connections:
        _forked = True
