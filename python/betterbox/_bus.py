"""This process's connections: one client per bus, made when it is first used, closed at exit.

A background thread carries messages while nobody waits and runs callbacks of finished calls.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

from betterbox import _core, _settings
from betterbox._errors import BusError

__tracebackhide__ = True  # pytest shows the user's lines

_NEXT = 1 << 62  # groups of items: more than have landed
START_TIMEOUT = 10.0  # seconds for a bus to be found or started

_lock = threading.RLock()
_connections: dict[str, Connection] = {}
_forked = False
_hooked = False
ended: dict[str, str] = {}
"""Buses that will not come back, with the reason."""

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
        file = "" if _settings.is_address(bus) else bus
        endpoint = self.info["endpoint"]
        finder = None if endpoint.startswith("mpi://") else _finder(self)  # the scheduler of a job has no successor
        self.client = _core.Client(endpoint, _settings.peer_name(), background, finder, file)
        self._callbacks: dict[int, list[Callable[[], object]]] = {}
        self._guard = threading.Lock()
        self._thread = threading.Thread(target=self._drive, name="betterbox-client", daemon=True)
        self._thread.start()

    @property
    def self_started(self) -> bool:
        return not self.named and bool(self.info.get("self_started"))

    def _find_again(self) -> str:
        """Called when the scheduler was lost: where it is now (a bus that started itself is started again)."""
        self.info = find_bus(self.bus, self.named)
        return str(self.info["endpoint"])

    def when_done(self, call: _core.Call | _core.Submission, callback: Callable[[], object]) -> None:
        """Run `callback` on the background thread once the call is done."""
        with self._guard:
            waiting = self._callbacks.get(call.token)
            if waiting is not None:
                waiting.append(callback)
                return
            self._callbacks[call.token] = [callback]
        call.notify()

    def when_landed(self, call: Any, callback: Callable[[], object]) -> None:
        """Run `callback` on the background thread when more of the call has landed, or it is done."""
        with self._guard:
            self._callbacks.setdefault(call.landing_token, []).append(callback)
        call.notify_landing(_NEXT)

    def forget_when_done(self, call: Any, callback: Callable[[], object]) -> None:
        """Do not run `callback`."""
        with self._guard:
            waiting = self._callbacks.get(call.token, [])
            if callback in waiting:
                waiting.remove(callback)

    def _drive(self) -> None:
        for tokens in iter(self.client.drive, []):
            self._run_callbacks(tokens)

    def _run_callbacks(self, tokens: list[int]) -> None:
        """In a frame of its own: while nothing happens it keeps no callback, nor what that holds."""
        with self._guard:
            callbacks = [callback for token in tokens for callback in self._callbacks.pop(token, ())]
        for callback in callbacks:
            try:
                callback()
            except Exception:
                report_ignored("a callback of a promise")

    def close(self) -> None:
        self.client.close()
        if self._thread is not threading.current_thread():
            self._thread.join(5.0)


def report_ignored(where: str) -> None:
    """Print the exception that is being handled: nobody else will see it."""
    import logging

    logging.getLogger("betterbox").exception("exception in %s", where)


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
        found = _connections.get(bus)
        if found is not None and found.client.expendable() and not _is_where_it_was(found):
            del _connections[bus]
            found.close()
            found = None
        if found is None:
            _install_hooks()
            found = _connections[bus] = Connection(bus, named)
    return found


def _is_where_it_was(connection: Connection) -> bool:
    """False if the bus has gone or moved, so that this client will not find it again."""
    if _settings.is_address(connection.bus):
        return True
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
        atexit.register(_close_all)
        os.register_at_fork(after_in_child=_after_fork)


def _close_all() -> None:
    if _forked:
        return
    with _lock:
        connections = list(_connections.values())
        _connections.clear()
    for connection in connections:
        try:
            connection.close()
        except Exception as error:
            print(f"betterbox: closing the bus {connection.bus}: {error}", file=sys.stderr)


def _after_fork() -> None:
    global _forked, _lock
    _lock = threading.RLock()
    if _connections:
        _forked = True
