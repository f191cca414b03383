"""Serving boxes from a script: `serve`, and what happens at the script's end.

A script has one agent per bus, and a thread per box. When the main thread has run off the end of the script it waits
for SIGINT or SIGTERM, with `threading._register_atexit`: that comes before executors are closed, so boxes may use
threads until they stop.
"""

from __future__ import annotations

import atexit
import itertools
import os
import signal
import sys
import threading

from time import monotonic
from types import FrameType, TracebackType
from typing import Any

from betterbox import _bus, _core, _end, _registry, _settings
from betterbox._decorators import check_servable
from betterbox._errors import BetterBoxError, BusError
from betterbox._printable import printable_lines

__tracebackhide__ = True  # pytest shows the user's lines

STOP_TIMEOUT = 10.0  # seconds for a box to finish its call and save
_WAIT_SLICE = 0.2  # seconds between looks at signals and at a box that is being made


class LocalBox:
    """A box of this script, between `serve` and its slot thread. `register`: it becomes the class's one instance."""

    def __init__(self, subject: Any, register: bool) -> None:
        self.subject = subject
        self.register = register
        self.box: Any = None
        self.error: BaseException | None = None


_local_boxes: dict[bytes, LocalBox] = {}
_numbers = itertools.count(1)
_lock = threading.RLock()
_agents: dict[str, _core.Agent] = {}
_servings: list[Serving] = []
_claims: set[Serving] = set()  # their objects have a thread here
_running: set[Serving] = set()  # those whose thread has not ended
_kept_agents: list[_core.Agent] = []  # never freed


def local_box(payload: bytes) -> LocalBox:
    """What a seat of this process is to serve."""
    return _local_boxes[payload]


def settle_box(local: LocalBox, box: Any) -> None:
    """`box` is what was made of `local`. A class may give the object that another thread serves: that is refused."""
    with _lock:
        _check_alone(local, box)
        local.box = box


def _check_alone(local: LocalBox, box: Any) -> None:
    """One object has one thread."""
    for serving in _claims:
        other = serving._local
        if other is not local and (other.subject is box or other.box is box):
            raise BetterBoxError(
                f"this {type(box).__qualname__} is served at port {serving.port} already, and the calls of one "
                f"object run on one thread: close that serving first, or serve another instance"
            )


class Serving:
    """A box that this process serves. A context manager: it stops at the end of the ``with``.

    Attributes
    ----------
    box : object
        The instance.
    port : int
        Where it is.
    """

    def __init__(self, subject: Any, port: int, block: bool, register: bool = False) -> None:
        self.port = port
        self.block = block
        if isinstance(subject, type):
            subject = _registry.instances.get(subject, subject)
        self._local = LocalBox(subject, register)
        self._bus, named = _settings.bus_name()
        self._replace()
        self._agent = _agent(self._bus, named)
        self._key = f"local:{next(_numbers)}".encode()
        self._closing = threading.Lock()
        self._closed = False
        _local_boxes[self._key] = self._local
        self._thread = threading.Thread(target=self._run, name=f"betterbox-box-{port}", daemon=True)
        self._claim()
        try:
            self._seat = self._agent.open_seat(port, self._key)
            _end.start(self._thread)
        except BaseException:
            _claims.discard(self)
            raise
        try:
            self._wait_offered()
        except BaseException:
            self._withdraw()
            raise
        with _lock:
            _servings.append(self)

    def _replace(self) -> None:
        """A class that was defined again replaces what it served: that stops and saves before this begins."""
        subject = self._local.subject
        cls = subject if isinstance(subject, type) else type(subject)
        for old in list(_servings):
            if old._bus == self._bus and _registry.takes_the_place_of(cls, self.port, type(old.box), old.port):
                old.close()

    def _run(self) -> None:
        _running.add(self)
        try:
            self._seat.run()
        finally:
            _running.discard(self)
            _claims.discard(self)

    def in_call(self) -> bool:
        """True while the box's thread runs code of the box, other than to save it."""
        inner, frame = None, sys._current_frames().get(self._thread.ident or 0)
        while frame is not None and frame.f_code is not Serving._run.__code__:
            inner, frame = frame, frame.f_back
        if inner is None or frame is None:
            return False
        return not (inner.f_globals.get("__name__") == "betterbox._slot" and inner.f_code.co_name in ("stop", "tick"))

    def _claim(self) -> None:
        """Its object has a thread from here on, also while a call goes on that did not end when the box was closed."""
        with _lock:
            if not isinstance(self._local.subject, type):
                _check_alone(self._local, self._local.subject)
            _claims.add(self)

    def _wait_offered(self) -> None:
        while not self._agent.wait_offered(self._seat, _WAIT_SLICE):
            if self._local.error is not None:
                raise self._local.error
            if not self._thread.is_alive():
                raise BusError(f"the box for port {self.port} ended before it was offered")
            if not self._agent.connected():
                raise BusError(f"the bus {self._bus} was lost while the box for port {self.port} was being offered")

    @property
    def box(self) -> Any:
        return self._local.box

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Finish the running call, save, and leave the bus. Idempotent.

        Raises
        ------
        StateError, SerializationError
            If a persistent box could not be saved.
        """
        with self._closing:
            if self._closed:
                return
            self._closed = True
            with _lock:
                if self in _servings:
                    _servings.remove(self)
            outcome = self._withdraw()
        if outcome is not None:
            raise outcome[1]

    def _withdraw(self) -> tuple[bool, Any] | None:
        try:
            outcome = self._agent.close_seat(self._seat, STOP_TIMEOUT)
        finally:
            _local_boxes.pop(self._key, None)
        if self._thread is not threading.current_thread():
            self._thread.join(1.0)
            if self._thread.is_alive():  # a call that does not end: its thread still uses what the agent owns
                _kept_agents.append(self._agent)
        return outcome

    def __enter__(self) -> Serving:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Serving of {type(self.box).__qualname__} at port {self.port}{', closed' if self._closed else ''}>"


@_end.way_in
def serve(obj_or_class: Any, port: int, *, block: bool = True) -> Serving:
    """Serve an object, or a new instance of a class, on the bus.

    Parameters
    ----------
    obj_or_class : Box or class
        A class is instantiated on the box's own thread; if a decorator has made its one instance, that is served. The
        calls of one object run on one thread, so an object is served at one port at a time.
    port : int
        1 to 65535. A class that is defined again at the top level of its module (a cell of a notebook that runs again, a
        module that is reloaded) replaces what it served there, and what it served anywhere under the same `persist` name:
        that box finishes its call, saves and stops before the new one begins.
    block : bool
        Whether the end of the script waits for SIGINT or SIGTERM while the box is served.

    Returns
    -------
    Serving
        The box is on the bus. ``with serve(...):`` serves for a block of code.

    Raises
    ------
    TypeError
        If the class derives neither from `Box` nor from `RemoteBox`.
    BusError
        If there is no bus.
    BetterBoxError
        If the object is served already.
    Exception
        What ``__init__`` raised.

    Examples
    --------
    >>> from betterbox import Box, RemoteBox, serve
    >>> class ABox(Box):
    ...     def name(self) -> str:
    ...         return "MyBox"
    >>> with serve(ABox, 8090):  # doctest: +SKIP
    ...     RemoteBox.connect(8090).name().result()
    'MyBox'
    """
    return start(obj_or_class, port, block, register=False)


def start(obj_or_class: Any, port: int, block: bool, register: bool) -> Serving:
    """`serve`; with `register` what is made of a class becomes its one instance, as `serve_box` has it."""
    _registry.check_port(port)
    check_servable(obj_or_class if isinstance(obj_or_class, type) else type(obj_or_class), "serve")
    _bus.check_not_forked()
    _prepare_end(block)
    return Serving(obj_or_class, port, block, register)


def _agent(bus: str, named: bool) -> _core.Agent:
    agent = _agents.get(bus)
    if agent is not None and agent.connected():
        return agent
    info = _bus.find_known_bus(bus, named)  # it may wait
    with _lock:
        agent = _agents.get(bus)
        if agent is not None and agent.connected():
            return agent
        bus_file = "" if _settings.is_address(bus) else bus
        agent = _core.Agent(
            info["endpoint"],
            info["socket_folder"],
            _settings.peer_name(),
            _bus.background,
            bus_file,
            _settings.interface(),
        )
        _agents[bus] = agent
        return agent


# --- the end of the script --------------------------------------------------------------------------

_SAME_MOMENT = 1.0  # seconds: signals that come together are one wish (`timeout`, launchers and terminals send several)

_prepared = False
_exit_code = 0
_terminated = False
_interrupted = False  # in the last line of the script: the interpreter would end by SIGINT
_asked_at: float | None = None  # when the first signal to stop came
_main_frame: FrameType | None = None


def _prepare_end(block: bool) -> None:
    global _prepared, _main_frame
    if _registry.recording:
        return
    _end.prepare()  # its hook, and that of executors, must be registered before ours
    if _prepared:
        return
    try:
        import concurrent.futures.thread  # noqa: F401 - its hook, too
    except RuntimeError:  # the first import, and too late for that hook
        raise RuntimeError(_end.REFUSAL) from None
    _end.at_threads_end(_at_end)
    _prepared = True
    atexit.register(_leave_with_code)
    os.register_at_fork(before=_hold_back, after_in_parent=_let_through, after_in_child=_after_fork)
    _main_frame = _outermost_frame()
    if block and not _interactive():
        _catch_end_by_interrupt()
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminate)


def _catch_end_by_interrupt() -> None:
    """A SIGINT in the last line of the script (its own code, nothing that it calls) may come a moment before the wait, or
    that line is a wait of the script's own: it stops the boxes as in the wait.
    """
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        global _interrupted
        at_end = kind is KeyboardInterrupt and trace is not None and trace.tb_frame is _main_frame
        if at_end and trace is not None and trace.tb_next is None and any(s.block for s in _servings):
            lines = [line for _, _, line in trace.tb_frame.f_code.co_lines() if line is not None]
            if trace.tb_lineno == max(lines):
                _interrupted = True
                _note_signal()
                _hold_signals(_asked_again)
                return
        previous(kind, error, trace)

    sys.excepthook = hook


def _outermost_frame() -> FrameType | None:
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None and frame.f_back is not None:
        frame = frame.f_back
    return frame


def _note_signal() -> bool:
    """True if this is the first signal to stop, or came with it."""
    global _asked_at
    now = monotonic()
    if _asked_at is None:
        _asked_at = now
    return now - _asked_at < _SAME_MOMENT


def _terminate(number: int, frame: FrameType | None) -> None:
    global _terminated
    if _note_signal() and _terminated:
        return
    _terminated = True  # what is raised may get lost: the interpreter flushes streams and ignores what that raises
    raise SystemExit(0)


def _script_ran_off_its_end() -> bool:
    """False if the script raised or called `sys.exit`: then its outermost frame did not end with a return."""
    import opcode

    frame = _main_frame
    if frame is None or frame.f_lasti < 0:
        return True
    return opcode.opname[frame.f_code.co_code[frame.f_lasti]].startswith("RETURN")


def _interactive() -> bool:
    return (
        hasattr(sys, "ps1")
        or bool(sys.flags.interactive)
        or bool(os.environ.get("PYTHONINSPECT"))
        or "ipykernel" in sys.modules
        or ("IPython" in sys.modules and sys.modules["IPython"].get_ipython() is not None)
    )


def _at_end() -> None:
    """Wait if the script wants it, then stop all boxes. Runs in the main thread before any shutdown of threads."""
    try:
        waits = not _terminated and _script_ran_off_its_end() and not _interactive()
        flush_standard_streams()
        if waits:
            wait_for_stop()
    except (KeyboardInterrupt, SystemExit):
        pass  # a signal between the end of the script and the wait: there is nothing to wait for
    _take_signals()
    try:
        stop_all()
    except (KeyboardInterrupt, SystemExit):
        _end_at_once()


def _take_signals() -> None:
    """From here on `_asked_again` decides; what comes before it is in place means what the first signal meant."""
    while True:
        try:
            _hold_signals(_asked_again)
            return
        except (KeyboardInterrupt, SystemExit):
            _note_signal()


def _end_at_once() -> None:
    """A second signal: whoever sends it does not want to wait for the running call."""
    print("betterbox: asked twice to stop, so the running call and unsaved state are lost", file=sys.stderr)
    flush_standard_streams()
    os._exit(1)


def wait_for_stop() -> None:
    """Wait for SIGINT or SIGTERM, or until no box is served any more that asks to be waited for."""
    global _exit_code
    if not any(serving.block for serving in _servings):
        return
    gate = threading.Lock()
    gate.acquire()

    def stop(number: int, frame: FrameType | None) -> None:
        _note_signal()
        _hold_signals(_asked_again)
        if gate.locked():
            gate.release()

    previous = _hold_signals(stop)
    try:
        while any(serving.block for serving in list(_servings)):
            if gate.acquire(timeout=_WAIT_SLICE * 5):
                return
            if not all(agent.connected() for agent in list(_agents.values())):
                print("betterbox: the bus is gone, so nobody can reach the boxes of this process", file=sys.stderr)
                _exit_code = 1
                return
    except (KeyboardInterrupt, SystemExit):
        pass  # a handler of the user's own
    finally:
        for number, handler in previous.items():
            if signal.getsignal(number) is stop:  # nobody asked: there is nothing left to wait for
                signal.signal(number, handler)


def _hold_signals(handler: Any) -> dict[int, Any]:
    """Let `handler` have SIGINT and SIGTERM, except where the user handles them; who had them before."""
    previous = {}
    for number, defaults in (
        (signal.SIGINT, (signal.default_int_handler,)),
        (signal.SIGTERM, (signal.SIG_DFL, _terminate)),
    ):
        holder = signal.getsignal(number)
        if holder in defaults or getattr(holder, "__module__", "") == __name__:
            previous[int(number)] = signal.signal(number, handler)
    return previous


def _asked_again(number: int, frame: FrameType | None) -> None:
    """A signal while boxes stop. One that came with the first means nothing more, unless a call keeps its box from stopping."""
    if not _note_signal() or any(serving.in_call() for serving in list(_running)):
        raise KeyboardInterrupt


def ports_of(box: Any) -> list[int]:
    """Where this process serves an object."""
    return [serving.port for serving in list(_servings) if serving.box is box]


def stop_all() -> None:
    """Stop all boxes that this process serves, then its agents. What fails is printed, and the exit code becomes 1."""
    global _exit_code
    while _servings:
        serving = _servings[-1]
        try:
            serving.close()
        except Exception as error:
            print(f"betterbox: the box at port {serving.port}: {printable_lines(error)}", file=sys.stderr)
            _exit_code = 1
    with _lock:
        agents = list(_agents.values())
        _agents.clear()
    for agent in agents:
        agent.stop()


def stop_on(bus: str) -> None:
    """Stop what this process serves on one bus."""
    for serving in [serving for serving in _servings if serving._bus == bus]:
        serving.close()
    with _lock:
        agent = _agents.pop(bus, None)
    if agent is not None:
        agent.stop()


def _leave_with_code() -> None:
    # Registered early, so it runs last; the interpreter would end with 0 whatever happened in the hooks.
    stop_all()  # does nothing, unless a signal came before `_at_end` could begin, or cut it short
    if _asked_at is not None:
        _hold_signals(signal.SIG_IGN)  # the interpreter is about to give signals their defaults: one that comes late would kill
    if _exit_code or _interrupted:
        _end.leave()
        flush_standard_streams()
        os._exit(_exit_code)


_mask = threading.local()  # of a thread that forks: the signals that it had blocked before


def _hold_back() -> None:
    """A signal that reaches a child before it has its defaults back waits for them."""
    _mask.before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))


def _let_through() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _mask.before)


def _after_fork() -> None:
    global _lock
    _lock = threading.RLock()
    defaults: list[tuple[int, Any]] = [(signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)]
    for number, default in defaults:
        if getattr(signal.getsignal(number), "__module__", "") == __name__:
            signal.signal(number, default)  # how a script that serves is stopped is not how its children are
    _servings.clear()
    _kept_agents.extend(_agents.values())  # a forked child must not end its parent's
    _agents.clear()
    _let_through()


def flush_standard_streams() -> None:
    """Flush stdout and stderr; a closed pipe is nobody's problem here."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass


