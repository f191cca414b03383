"""A slot's Python side: what worker/slot.cc calls while it runs a box or plain functions.

A slot is a thread: the only one of a slot process, or the thread of a box that a script serves. What a thread is a
slot of lies in `_states`; threads that work for a slot `adopt` its state.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any, NoReturn

from betterbox import _context, _registry, _serving, _surroundings
from betterbox._boxes import Box, RemoteBox, make_instance
from betterbox._described import DESCRIBE, describe
from betterbox._errors import BetterBoxError
from betterbox._exports import ASYNC, CONCURRENT, exports, find_method, is_sandbox
from betterbox._printable import printable_lines

FUNCTION_SLOT = 0xFFFFFFFF
_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_POOL_THREADS = 64
_TASK_GRACE = 1.0  # seconds for cancelled async calls of a box that stops


class State:
    """What one slot runs, and its helpers."""

    def __init__(self, in_process: bool) -> None:
        self.in_process = in_process
        self.box: Any = None
        self.exported: dict[str, int] = {}
        self.store: Any = None
        self.autosave: float | None = None
        self.due: float | None = None
        self._pool: Any = None
        self._loop: Any = None
        self._loop_thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self.stopping = False

    def offer(self, box: Any) -> None:
        self.box = box
        self.exported = dict(exports(box))
        if self.in_process and any(flags & ASYNC for flags in self.exported.values()):
            self.loop()  # Python 3.12.0 to 3.12.2 starts no thread once the script has ended, and waits

    def find(self, name: str) -> Callable[..., Any]:
        if name == DESCRIBE:
            return lambda: describe(self.box, self.exported)
        if self.box is None:
            raise AttributeError(f"this slot runs plain functions; there is no method {name!r}")
        return find_method(self.box, name, self.exported)

    def pool(self) -> Any:
        with self._lock:
            if self._pool is None:
                from concurrent.futures import ThreadPoolExecutor

                self._pool = ThreadPoolExecutor(_POOL_THREADS, "betterbox-concurrent")
            return self._pool

    def loop(self) -> Any:
        """The box's event loop, on a thread of its own."""
        import asyncio

        with self._lock:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                thread = threading.Thread(target=self._run_loop, args=(loop,), name="betterbox-loop", daemon=True)
                try:
                    thread.start()
                except BaseException:
                    loop.close()
                    raise
                self._loop, self._loop_thread = loop, thread
            return self._loop

    def _run_loop(self, loop: Any) -> None:
        import asyncio

        adopt(self)
        asyncio.set_event_loop(loop)
        loop.run_forever()

    def await_on_loop(self, coroutine: Any) -> Any:
        """The `concurrent.futures.Future` of a coroutine on the box's loop; None, and nothing is run, once it ends."""
        import asyncio

        loop = self.loop()
        with self._lock:  # behind it the loop may end, and a coroutine that was never awaited is a warning
            if self.stopping:
                coroutine.close()
                return None
            return asyncio.run_coroutine_threadsafe(coroutine, loop)

    def shut_down(self) -> None:
        with self._lock:
            self.stopping = True
        if self._loop is not None and self._loop_thread is not None:
            import asyncio

            ending = asyncio.run_coroutine_threadsafe(_end_tasks(), self._loop)
            try:
                ending.result(2 * _TASK_GRACE)
            except Exception:
                pass  # code on the loop does not let go of it
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._loop_thread.join(_TASK_GRACE)
            if not self._loop_thread.is_alive():
                self._loop.close()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)


async def _end_tasks() -> None:
    """Cancel what is on the running loop; what it says then is nobody's business any more."""
    import asyncio

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: None)
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=_TASK_GRACE)
    for task in tasks:
        if not task.done():
            task._log_destroy_pending = False  # type: ignore[attr-defined] # as asyncio.gather does
        elif not task.cancelled():
            task.exception()
    await loop.shutdown_asyncgens()


# By thread identifier, not threading.local: a native thread loses its locals whenever it leaves Python.
_states: dict[int, State] = {}


def _state() -> State:
    state = _states.get(threading.get_ident())
    if state is None:
        raise RuntimeError("this thread is no slot")
    return state


def current() -> State:
    """This slot's state, for a thread that will `adopt` it."""
    return _state()


def adopt(state: State) -> None:
    """Make this thread work for a slot."""
    _states[threading.get_ident()] = state


def _disown(state: State) -> None:
    for ident in [ident for ident, other in _states.items() if other is state]:
        del _states[ident]


# --- children that user code forks ---------------------------------------------------------------

_is_child = False


def _after_fork() -> None:
    """A child gets its SIGINT back: it is no slot (worker/slot_signals.h does the same for the other signals)."""
    global _is_child
    if not _states:
        return  # the template, or a slot that has just been forked
    _is_child = True
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.default_int_handler)


os.register_at_fork(after_in_child=_after_fork)


def end_forked(error: BaseException | None) -> NoReturn:
    """End a child that came back from the item of its parent: the outcome is its parent's to say.

    Parameters
    ----------
    error : BaseException or None
        What ended the item here: the exit code is what it would be at the end of a script.
    """
    code = 1
    try:
        if error is None:
            code = 0
        elif not isinstance(error, SystemExit):
            traceback.print_exception(error)
        elif error.code is None or isinstance(error.code, int):
            code = error.code or 0
        else:
            print(error.code, file=sys.stderr)
        _serving.flush_standard_streams()
    finally:
        os._exit(code & 0xFF)


# --- the life of a slot ---------------------------------------------------------------------------


def init(payload: bytes, in_process: bool, instance: int, several: bool) -> tuple[str, bool, list[tuple[str, int]]]:
    """Make what this slot serves.

    Parameters
    ----------
    payload : bytes
        What it is: see `_deploy.make_payload`; in a script, the key of a `_serving.LocalBox`.
    in_process : bool
        This is a thread of a script.
    instance : int
        The box's number among those of its deployment; `FUNCTION_SLOT` for plain functions.
    several : bool
        The deployment has more than one.

    Returns
    -------
    tuple
        The class name, whether it is a sandbox, and its exported methods with their flags, `DESCRIBE` among them.
    """
    state = State(in_process)
    adopt(state)
    if in_process:
        local = _serving.local_box(payload)
        try:
            _make_box(state, local.subject, "", local.register)
            _serving.settle_box(local, state.box)
        except BaseException as error:
            local.error = error
            _discard(state)
            raise
    else:
        _settle_process()
        if instance == FUNCTION_SLOT:
            if payload:  # of the first call: what it must be given before it imports anything
                with suppress(BetterBoxError):  # the call will be told
                    _surroundings.settle(_surroundings.split(payload)[0])
            return "SandBox", True, []
        try:
            _make_box(state, _hosted_subject(payload), f".{instance}" if several else "")
        except BaseException as error:
            _discard(state)
            from betterbox._deploy import init_failure

            raise init_failure(payload, error)
    # Where some methods run beside the others, a description does not wait for those either.
    methods = [*state.exported.items(), (DESCRIBE, CONCURRENT if any(state.exported.values()) else 0)]
    return type(state.box).__qualname__, is_sandbox(state.box), methods


def _settle_process() -> None:
    """Make a freshly forked process a slot."""
    from betterbox import _bus, _tracking

    _tracking.has_no_script = True
    _registry.recording = True
    _bus.background = True
    _surroundings.enter_slot()
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(line_buffering=True)
    if "random" in sys.modules:
        sys.modules["random"].seed()
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def _hosted_subject(payload: bytes) -> Any:
    from betterbox._deploy import load_payload

    return load_payload(payload)


def _make_box(state: State, subject: Any, suffix: str, register: bool = True) -> None:
    cls = subject if isinstance(subject, type) else type(subject)
    persistent = getattr(cls, "__betterbox_persist__", None)
    if persistent is not None:
        from betterbox._persist import Store

        state.store = Store(persistent[0] + suffix)
        state.autosave = persistent[1]
    if isinstance(subject, type):
        box = _registry.instances.get(subject)
        if box is None:
            box = make_instance(subject, register)
    else:
        box = subject
    if not isinstance(box, (Box, RemoteBox)):
        raise TypeError(f"{cls.__qualname__} derives neither from Box nor from RemoteBox")
    if state.store is not None:
        state.store.load_into(box)
        if state.autosave is not None:
            state.due = monotonic() + state.autosave
    state.offer(box)


def _discard(state: State) -> None:
    if state.store is not None:
        state.store.close()
    _disown(state)


def tick() -> float | None:
    """Do what is due between two calls; the seconds until something is due again, None if nothing will be."""
    state = _state()
    if state.due is None or state.autosave is None:
        return None
    now = monotonic()
    if now >= state.due:
        state.due = now + state.autosave
        try:
            state.store.save(state.box)
        except Exception as error:
            print(f"betterbox: autosave: {printable_lines(error)}", file=sys.stderr, flush=True)
    return max(0.0, state.due - monotonic())


def stop() -> None:
    """End the slot: its helpers first, then its state is saved.

    Raises
    ------
    StateError, SerializationError
        If it could not be saved.
    """
    state = _state()
    state.shut_down()
    try:
        if state.store is not None:
            state.store.save(state.box)
    finally:
        _discard(state)


# --- calls ------------------------------------------------------------------------------------------


def surroundings_of(context: bytes) -> _surroundings.Surroundings | None:
    """What this process must match while it runs items of a call. None: it keeps its own, as boxes and scripts do."""
    state = _state()
    wanted, _ = _surroundings.split(context)
    if state.box is None:
        return wanted
    if not state.in_process:
        _surroundings.widen_path(wanted)
    return None


settle = _surroundings.settle


def load_call(context: bytes) -> _context.Loaded:
    """What the items of a spread call run (see `_context.make`). REQUIRES: the process is as they expect it."""
    return _context.load(context, _state().find)


def direct(method: str) -> Callable[..., Any]:
    """The bound method for a direct call; raises `AttributeError` if it is missing or private."""
    return _state().find(method)


def finish(value: Any) -> Any:
    """The value that a promise or an awaitable stands for."""
    import inspect

    if inspect.isawaitable(value) and not _is_promise(value):
        import asyncio

        ok, outcome = asyncio.run_coroutine_threadsafe(_awaited(value), _state().loop()).result()
        if ok:
            return outcome
        try:
            raise outcome
        finally:  # no cycle with the exception
            del outcome
    return value.result() if _is_promise(value) else value


def _is_promise(value: Any) -> bool:
    module = sys.modules.get("betterbox._promise")
    return module is not None and isinstance(value, module.Promise)


async def _plain(value: Any) -> Any:
    """What an async method gives. Of a relay, and of methods that call other boxes, that may be a promise."""
    if hasattr(value, "__await__"):
        value = await value
    return await value if _is_promise(value) else value


async def _awaited(value: Any) -> tuple[bool, Any]:
    """(True, value) or (False, exception). Raised on the loop, some exceptions would end it or change their type."""
    try:
        outcome = True, await _plain(value)
    except BaseException as error:
        outcome = False, error
    if _is_child:
        end_forked(None if outcome[0] else outcome[1])
    return outcome


def express(
    method: str, args: tuple[Any, ...], kwargs: dict[str, Any], reply: Callable[[bool, object], None]
) -> None:
    """Run a concurrent or async method next to what the box is doing; `reply` is called from there."""
    state = _state()
    fn = state.find(method)
    if state.exported.get(method, 0) & ASYNC:
        state.await_on_loop(_express_async(state, fn, args, kwargs, reply))
    else:
        state.pool().submit(_express_thread, state, fn, args, kwargs, reply)


def _express_thread(
    state: State,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    reply: Callable[[bool, object], None],
) -> None:
    adopt(state)
    try:
        value = fn(*args, **kwargs)
        if _is_promise(value):
            value = value.result()
    except BaseException as error:
        if _is_child:
            end_forked(error)
        reply(False, error)
    else:
        reply(True, value)


async def _express_async(
    state: State,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    reply: Callable[[bool, object], None],
) -> None:
    try:
        value = await _plain(fn(*args, **kwargs))
    except BaseException as error:
        if _is_child:
            end_forked(error)
        if not state.stopping:  # else the box is lost to the caller, who is told so
            reply(False, error)
    else:
        reply(True, value)


# --- errors -----------------------------------------------------------------------------------------


def describe_error(error: BaseException) -> tuple[str, str, str, bytes]:
    """``(type name, message, traceback, pickle)`` of an exception. Never raises; no pickle if it has none."""
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    try:
        message = str(error)
    except BaseException:
        message = "(its message cannot be shown)"
    try:
        trace = _traceback_text(error)
    except BaseException:
        trace = ""
    from betterbox import _failures

    pickled, left = _failures.dump(error)
    if left:
        trace += f"\n(left behind, because it cannot be pickled: {', '.join(left)})\n"
    return _encodable(name), _encodable(message), _encodable(trace), pickled


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _traceback_text(error: BaseException) -> str:
    from traceback import TracebackException

    described = TracebackException.from_exception(error)
    _drop_own_frames(described, set())
    return "".join(described.format())


def _drop_own_frames(described: Any, seen: set[int]) -> None:
    if described is None or id(described) in seen:
        return
    seen.add(id(described))
    kept = [frame for frame in described.stack if not frame.filename.startswith(_PACKAGE)]
    described.stack[:] = kept
    _drop_own_frames(described.__cause__, seen)
    _drop_own_frames(described.__context__, seen)
    for part in getattr(described, "exceptions", None) or ():
        _drop_own_frames(part, seen)


