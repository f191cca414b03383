"""Plain functions on workers: `submit`, `map`, `options`."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterable
from functools import partial
from time import monotonic, sleep
from typing import Any, TypeVar

from betterbox import _bus, _core, _end, _settings, _warned
from betterbox._deferred import Deferred, has_promise
from betterbox._errors import BusError
from betterbox._labels import host_name, label_of
from betterbox._links import spread_call
from betterbox._options import DEFAULTS, OPTION_NAMES, Options
from betterbox._printable import printable
from betterbox._promise import SINGLE, Promise
from betterbox._spread import has_spread, spread
from betterbox._submissions import prepare, submit_now
from betterbox._submissions import submitters as _submitters

__tracebackhide__ = True  # pytest shows the user's lines

R = TypeVar("R")

_WORKER_TIMEOUT = 20.0  # seconds for a worker to start
_RETURN_SECONDS = 5.0  # for workers to find the successor of a lost scheduler (kReconnectGrace)
_CHECK_SECONDS = 5.0  # how long what was seen of workers is believed; also when the warning comes


class FunctionOptions:
    """`submit` and `map` with options (made by `options`)."""

    def __init__(self, options: Options) -> None:
        self._options = options

    def __repr__(self) -> str:
        return f"betterbox.{self._options!r}"

    @_end.way_in
    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> Promise[R]:
        """Run ``fn(*args, **kwargs)`` on a worker (see `betterbox.submit`)."""
        if self._options is DEFAULTS:
            return submit(fn, *args, **kwargs)
        return _submit(fn, args, kwargs, self._options)

    @_end.way_in
    def map(self, fn: Callable[..., R], /, *iterables: Iterable[Any], **fixed: Any) -> Promise[list[R]]:
        """Run ``fn`` on each item (see `betterbox.map`). All keywords are arguments of `fn`, the same for each item."""
        for name in fixed:
            if not takes_keyword(fn, name):
                label = getattr(fn, "__name__", type(fn).__name__)
                hint = f"; it is an option: betterbox.options({name}=...)" if name in OPTION_NAMES else ""
                raise TypeError(f"{label}() takes no argument {name!r}{hint}")
        return _map(fn, iterables, fixed, self._options)


def options(**given: Any) -> FunctionOptions:
    """Options for `submit` and `map`.

    Parameters
    ----------
    **given
        ``policy="auto"``, ``retries=2``, ``timeout=None`` (seconds), ``progress=False``, ``reduce=None``, ``initial``,
        ``name=None``, ``idempotent=False``, ``ship=()`` (modules that travel by value), ``priority=0`` (higher ones are
        served first), ``cpus=1``, ``memory=0`` (bytes, or "2G"), ``gpus=0``, ``resources={}`` (what an item takes while
        it runs), ``cost=None`` (a function of an item or one number per item), ``copies=0.05`` (of idempotent calls:
        extra work that copies of running items may add near the end) and ``ranks=None`` (under MPI: an item runs on so
        many ranks at once, and the function gets their mpi4py communicator as the keyword argument `comm`).

    Raises
    ------
    TypeError, ValueError
        If an option is not known (suggests the nearest), or its value is wrong.

    Examples
    --------
    >>> import betterbox
    >>> betterbox.options(retries=0).submit(abs, -3).result()  # doctest: +SKIP
    3
    """
    return FunctionOptions(Options(given) if given else DEFAULTS)


@_end.way_in
def submit(fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> Promise[R]:
    """Run ``fn(*args, **kwargs)`` on a worker.

    Raises
    ------
    SerializationError
        If the function or an argument cannot be pickled.
    BusError
        If there is no bus.

    Examples
    --------
    >>> import betterbox
    >>> betterbox.submit(pow, 2, 10).result()  # doctest: +SKIP
    1024
    """
    try:
        known = _submitters.get(fn)
    except Exception:  # it cannot be hashed or compared
        known = None
    if known is not None:
        call = known[0].submit(args, kwargs)
        if call is not None:
            return Promise.of_submission(known[1], call)
    return _submit(fn, args, kwargs, DEFAULTS)


@_end.way_in
def map(fn: Callable[..., R], /, *iterables: Iterable[Any], **options: Any) -> Promise[list[R]]:
    """Run ``fn`` on each item of an iterable (of several: zipped), spread over the workers.

    Parameters
    ----------
    fn : callable
        Takes one item of each iterable.
    *iterables : iterable
        Sized ones are taken as they are now and must have the same length; generators are consumed as needed. An
        `itertools.repeat` beside others gives its one value to all items, a `count` or `cycle` as many as they need.
    **options
        As in `betterbox.options`. A keyword that is no option is an argument of `fn`, the same for each item; one that is
        both is the option (``betterbox.options().map(fn, items, timeout=3)`` gives `timeout` to `fn`).

    Returns
    -------
    Promise
        Of the list of results, in item order.

    Examples
    --------
    >>> import betterbox
    >>> betterbox.map(pow, [2, 3], [5, 2]).result()  # doctest: +SKIP
    [32, 9]
    >>> betterbox.map(sorted, [[1, 2], [3, 4]], reverse=True).result()  # doctest: +SKIP
    [[2, 1], [4, 3]]
    """
    if not options:
        return _map(fn, iterables, {}, DEFAULTS)
    fixed = {name: options.pop(name) for name in list(options) if name not in OPTION_NAMES and takes_keyword(fn, name)}
    return _map(fn, iterables, fixed, Options(options) if options else DEFAULTS)


def takes_keyword(fn: Any, name: str) -> bool:
    """True if `fn` has an argument of that name, takes any, or does not tell."""
    from betterbox import _annotations  # slow to import

    try:
        parameters = _annotations.signature(fn).parameters
    except (TypeError, ValueError):
        return True
    parameter = parameters.get(name)
    if parameter is not None and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
        return True
    return any(each.kind is each.VAR_KEYWORD for each in parameters.values())


def _unwrapped(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """Promises that a `functools.partial` fixes are arguments of the call, too."""
    if isinstance(fn, partial) and has_promise(fn.args, fn.keywords):
        return fn.func, (*fn.args, *args), {**fn.keywords, **kwargs}
    return fn, args, kwargs


def _check_callable(fn: Any) -> None:
    if not callable(fn):
        raise TypeError(f"a function is needed, not {fn!r}")


def _submit(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: Options) -> Promise[Any]:
    _check_callable(fn)
    if has_spread(args, kwargs):
        raise TypeError("submit runs one call; betterbox.map(fn, iterable) spreads many")
    options.refuse_for_one("use betterbox.map")
    fn, args, kwargs = _unwrapped(fn, args, kwargs)
    if options.ranks is not None:
        from betterbox import _gangs

        return _gangs.call(fn, args, kwargs, options, single=True)
    connection = _bus.current()
    see_to_workers(connection)
    label = label_of(fn)
    promise: Promise[Any] = Promise(connection, label, SINGLE, progress=options.progress, name=options.name)
    if has_promise(args, kwargs):
        prepared = prepare(fn, args, kwargs, options)
        return promise.defer(
            Deferred(args, kwargs, lambda a, k: submit_now(connection, label, fn, a, k, options, prepared))
        )
    return promise.start(lambda: submit_now(connection, label, fn, args, kwargs, options))


def _map(
    fn: Callable[..., Any], iterables: tuple[Iterable[Any], ...], fixed: dict[str, Any], options: Options
) -> Promise[Any]:
    _check_callable(fn)
    if not iterables:
        raise TypeError("map needs at least one iterable")
    for iterable in iterables:
        if not hasattr(iterable, "__iter__") and not hasattr(iterable, "__getitem__"):
            kind = type(iterable).__name__
            raise TypeError(f"map takes iterables after the function, not {kind}; for one call: betterbox.submit(fn, x)")
    fn, args, kwargs = _unwrapped(fn, tuple(spread(iterable) for iterable in iterables), fixed)
    if options.ranks is not None:
        from betterbox import _gangs

        return _gangs.call(fn, args, kwargs, options, single=False)
    connection = _bus.current()
    see_to_workers(connection)
    return spread_call(connection, 0, fn, args, kwargs, options)


# --- somebody must do the work ----------------------------------------------------------------------

_seen: dict[str, float] = {}
_warning: set[str] = set()


def see_to_workers(connection: _bus.Connection) -> None:
    """On a bus that started itself: start a worker if there is none. On another: warn if none comes."""
    seen = _seen.get(connection.bus)
    if seen is not None and monotonic() - seen < _CHECK_SECONDS:
        return
    _seen[connection.bus] = monotonic()
    try:
        if _has_worker(connection):
            return
    except BusError:
        return  # cut off, or the scheduler is being replaced: whether calls wait or fail is theirs to know
    if connection.self_started:
        _start_worker(connection)
    elif connection.bus not in _warning:
        _warning.add(connection.bus)
        timer = threading.Timer(_CHECK_SECONDS, _warn_if_nobody_works, (connection, _warned.users_line()))
        timer.daemon = True
        _end.start(timer)


def with_worker(connection: _bus.Connection, new: bool) -> _bus.Connection:
    """On a bus that started itself: a worker is there when this returns. `new`: see `_bus.answered`."""
    if new:
        _await_worker(connection)
    if connection.self_started and not _has_worker(connection):
        _start_worker(connection)
    return connection


def _await_worker(connection: _bus.Connection) -> None:
    """The scheduler is new: workers of the one before are on their way to it, as this process was."""
    deadline = monotonic() + _RETURN_SECONDS
    while not _has_worker(connection) and monotonic() < deadline:
        sleep(0.02)


def _has_worker(connection: _bus.Connection) -> bool:
    report = connection.client.status(5.0)
    return any(peer["slots"] > 0 and peer["connected"] for peer in report["peers"])


def _start_worker(connection: _bus.Connection) -> None:
    name = connection.bus + ".worker.lock"
    try:
        lock = _core.open_own_file(name, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise BusError(f"no worker can be started: its lock {printable(name)} cannot be opened: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _has_worker(connection):
            return  # somebody else has started one meanwhile
        _launch_worker(connection.bus)
    finally:
        os.close(lock)


def _launch_worker(bus: str) -> None:
    slots = _core.daemon_cpus()
    command = _settings.worker_command(bus, slots=slots, name=f"auto-{host_name()}")
    log = os.path.join(_settings.log_folder(), "worker.log")
    _core.start_daemon([*command, "--background", "--follow-client"], log, _WORKER_TIMEOUT, _import_the_rest)


def _import_the_rest() -> None:
    """What the call behind a start needs, and takes as long as a worker to start."""
    from betterbox import _by_value  # noqa: F401


def _warn_if_nobody_works(connection: _bus.Connection, line: _warned.Line) -> None:
    try:
        if _bus._connections.get(connection.bus) is connection and not _has_worker(connection):
            _warned.warn(
                f"the bus {connection.bus} has no worker, so plain functions wait; "
                f"start one: BETTERBOX_BUS={connection.bus} betterbox worker",
                RuntimeWarning,
                line,
            )
    except Exception:
        pass  # the bus is gone: those who wait will hear of it
    finally:
        _warning.discard(connection.bus)
