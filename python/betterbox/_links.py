"""The client's side of boxes: which boxes a remote-like object stands for, and calls on them."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

from betterbox import _bus, _core, _end, _pickling, _surroundings
from betterbox._deferred import Deferred, has_promise
from betterbox._described import DESCRIBE, Described
from betterbox._errors import NoBoxFoundError, nearest
from betterbox._labels import label_of
from betterbox._options import DEFAULTS, Options, check_timeout
from betterbox._pickling import REFS
from betterbox._printable import printable
from betterbox._promise import FOLD, LIST, SINGLE, Promise
from betterbox._spread import Plan, has_spread, spread, without_repeats

__tracebackhide__ = True  # pytest shows the user's lines

BoxRow = tuple[tuple[int, int, int], str, bool, list[tuple[str, int]], str, int]
_FAIL_OVER_TIMEOUT = 3.0  # seconds for another box to respond
_DESCRIBE_TIMEOUT = 1.0  # seconds for a box to say what its methods are


class Link:
    """The boxes at a port, as one remote-like object sees them.

    Parameters
    ----------
    port : int
        Where the boxes are.
    kind : {"one", "group", "spread"}
        Which of them a call goes to.
    timeout : float
        Seconds to wait until `require` boxes have answered.
    require : int
        See `timeout`.
    """

    def __init__(self, port: int, kind: str, timeout: float, require: int) -> None:
        check_timeout(timeout)
        if isinstance(require, bool) or not isinstance(require, int) or require < 1:
            raise ValueError(f"require must be a whole number from 1, not {require!r}")
        self.port = port
        self.kind = kind
        self.connection = _bus.reached()
        self.client = self.connection.client
        self._lock = threading.Lock()
        self._row: BoxRow | None = None
        self._known: list[tuple[int, int, int]] = []  # targets that `_near` is about
        self._near = False
        self._exports: dict[str, int] = {}
        self._sandbox = False
        self._described: dict[str, Described] | None = None
        self.client.watch(port)
        try:
            self._find(timeout, require)
        except BaseException:
            self.client.unwatch(port)
            raise
        weakref.finalize(self, _unwatch, self.client, port).atexit = False

    def _find(self, timeout: float, require: int) -> None:
        if self.kind == "one":
            self._row = self.client.first_box(self.port, timeout)
            rows = [] if self._row is None else [self._row]
            if require > 1:
                rows = self.client.wait_boxes(self.port, require, timeout)
        else:
            rows = self.client.wait_boxes(self.port, require, timeout)
        if len(rows) < require:
            many = "no box answers" if not rows else f"only {len(rows)} of {require} boxes answer"
            raise NoBoxFoundError(
                f"{many} at port {self.port} of the bus {self.connection.bus} within {timeout:g} s; "
                f"start one (serve_box({self.port}), betterbox serve) or wait longer (timeout=...); "
                f"`betterbox status` lists what is there"
            )
        self._note(rows if self._row is None else [self._row])

    # --- what is there ---

    def _note(self, rows: list[BoxRow]) -> None:
        for row in rows:
            self._exports.update(method for method in row[3] if method[0] != DESCRIBE)
            self._sandbox = self._sandbox or row[2]

    def exports(self) -> list[tuple[str, int]]:
        """``(method, flags)`` of the boxes."""
        return sorted(self._exports.items())

    def described(self, name: str) -> Described:
        """Docstring and signature of a method, from one of the boxes, which are asked once.

        Nothing while none answers within a second, as one does that runs a long call.
        """
        if self._described is None:
            try:
                arguments = _core.encode_arguments((), {}, False, False)
                call = self.client.box_call(self.targets()[:1], DESCRIBE, arguments, timeout=_DESCRIBE_TIMEOUT)
                call.keep()
                asked: Promise[Any] = Promise(self.connection, DESCRIBE, SINGLE)
                found = asked.start(lambda: call).result(_DESCRIBE_TIMEOUT)
            except Exception:
                return None, None, None
            self._described = found if isinstance(found, dict) else {}
        return self._described.get(name, (None, None, None))

    def members(self) -> str:
        """Which boxes these are, for people."""
        try:
            rows = self.client.boxes(self.port)
        except Exception:
            rows = []
        if self.kind == "one" and self._row is not None:
            rows = [row for row in rows if row[0] == self._row[0]]
        where = f"at port {self.port} of {self.connection.bus}"
        if not rows:
            return f"no box any more {where}"
        names = ", ".join(sorted({printable(row[1]) for row in rows}))
        if self.kind == "one":
            return f"the box {names} (pid {rows[0][5]} on {printable(rows[0][4])}) {where}"
        return f"{len(rows)} box{'es' * (len(rows) != 1)} {names} {where}"

    @property
    def sandbox(self) -> bool:
        return self._sandbox

    def method(self, name: str) -> RemoteMethod:
        """The method `name` of the boxes.

        Raises
        ------
        AttributeError
            If they have none; suggests the nearest.
        """
        if name not in self._exports and not (self._sandbox and not name.startswith("_")):
            if not name.startswith("_"):
                self._note(self.client.boxes(self.port))
            if name not in self._exports and not (self._sandbox and not name.startswith("_")):
                private = " (private methods are not exported)" if name.startswith("_") else ""
                close = nearest(name, list(self._exports))
                raise AttributeError(f"the box at port {self.port} has no method {name!r}{private}{close}", name=name)
        return RemoteMethod(self, name, DEFAULTS)

    def targets(self) -> list[tuple[int, int, int]]:
        """The boxes that a call made now goes to."""
        rows = self.client.boxes(self.port)
        if self.kind != "one":
            if not rows:
                raise self._nobody_left()
            return [row[0] for row in rows]
        row = self._row
        if row is not None and any(there[0] == row[0] for there in rows):
            return [row[0]]
        with self._lock:
            if self._row is row:
                self._row = self.client.first_box(self.port, _FAIL_OVER_TIMEOUT)
                if self._row is not None:
                    self._exports = {}
                    self._described = None
                    self._note([self._row])
            if self._row is None:
                raise self._nobody_left()
            return [self._row[0]]

    def _nobody_left(self) -> NoBoxFoundError:
        return NoBoxFoundError(
            f"no box is left at port {self.port} of the bus {self.connection.bus}; start one, then call again"
        )

    # --- calls ---

    def call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], options: Options) -> Promise[Any]:
        """Call the method `name` of the boxes."""
        _bus.check_not_forked()
        options.refuse_ranks()
        if has_spread(args, kwargs):
            return self._spread(name, args, kwargs, options)
        options.refuse_for_one("put spread(...) around an argument")
        options.refuse_needs()
        shape = SINGLE if self.kind == "one" else LIST
        promise: Promise[Any] = Promise(self.connection, name, shape, progress=options.progress, name=options.name)
        if has_promise(args, kwargs):
            return promise.defer(Deferred(args, kwargs, lambda a, k: self._direct(name, a, k, options)))
        return promise.start(lambda: self._direct(name, args, kwargs, options))

    def _direct(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], options: Options) -> _core.Call:
        if REFS not in sys.modules:
            return self._call_now(name, args, kwargs, options)
        from betterbox._refs import taking

        with taking() as taken:
            call = self._call_now(name, *taken.arguments(args, kwargs), options)
        taken.until_done(self.connection, call)
        return call

    def _call_now(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], options: Options) -> _core.Call:
        targets = self.targets()
        if targets != self._known:
            self._near, self._known = self.client.near(targets), targets
        near = self._near
        broadcast = not near and self.client.can_broadcast
        if options.ship:
            from betterbox._pickling import shipping

            with shipping(options.ship):
                arguments = _core.encode_arguments(args, kwargs, near, broadcast)
        else:
            arguments = _core.encode_arguments(args, kwargs, near, broadcast)
        if not arguments.broadcast:
            call = self.client.box_call(targets, name, arguments, timeout=options.timeout)
            call.keep()
            return call
        self.client.broadcast(targets, arguments)  # ahead of the calls that need it
        try:
            call = self.client.box_call(targets, name, arguments, timeout=options.timeout)
        except BaseException:
            self.client.end_broadcast(arguments)
            raise
        call.keep()
        self.connection.when_done(call, lambda: self.client.end_broadcast(arguments))
        return call

    def _spread(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], options: Options) -> Promise[Any]:
        if self.kind != "spread":
            raise TypeError("spread(...) needs a SpreadBox: it divides the items of a call over all boxes of a port")
        return spread_call(self.connection, self.port, name, args, kwargs, options)


def spread_call(
    connection: _bus.Connection,
    port: int,
    target: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    options: Options,
) -> Promise[Any]:
    """A call with `spread` among its arguments, on the boxes of a port or (0) on plain function slots."""
    args, kwargs = without_repeats(args, kwargs)
    values = (*args, *kwargs.values())
    windowed = any(type(value) is spread and not hasattr(value.iterable, "__len__") for value in values)
    promise: Promise[Any] = Promise(
        connection,
        label_of(target),
        LIST if options.reduce is None else FOLD,
        windowed=windowed,
        progress=options.progress,
        name=options.name,
        folded=None if options.reduce is None else options.folded,
    )
    if has_promise(args, kwargs):
        kept, around = _as_it_is(target, options), _surroundings.current()
        return promise.defer(
            Deferred(args, kwargs, lambda a, k: Plan(kept, a, k, options, around).start(connection, port, promise))
        )
    plan = Plan(target, args, kwargs, options)
    return promise.start(lambda: plan.start(connection, port, promise))


def _as_it_is(target: str | Callable[..., Any], options: Options) -> str | Callable[..., Any]:
    """What is to be called later, as it is now."""
    if isinstance(target, str) or _pickling.goes_by_name(target):
        return target
    with _pickling.shipping(options.ship):
        return _pickling.snapshot(target, "fn")  # type: ignore[no-any-return]


def _unwatch(client: _core.Client, port: int) -> None:
    try:
        client.unwatch(port)
    except Exception:
        pass  # the bus is gone: nobody is told, nobody minds


class _Doc:
    """The docstring of a remote method is its method's; that of the class is told by the class."""

    def __init__(self, of_class: str) -> None:
        self._of_class = of_class

    def __get__(self, method: RemoteMethod | None, owner: type) -> str | None:
        return self._of_class if method is None else method._link.described(method.__name__)[0]


class RemoteMethod:
    __slots__ = ("_link", "__name__", "_options")
    __doc__ = _Doc("A method of boxes elsewhere. Calling it returns a `Promise`.")  # type: ignore[assignment]

    def __init__(self, link: Link, name: str, options: Options) -> None:
        self._link = link
        self.__name__ = name
        self._options = options

    @_end.way_in
    def __call__(self, *args: Any, **kwargs: Any) -> Promise[Any]:
        return self._link.call(self.__name__, args, kwargs, self._options)

    def options(self, **options: Any) -> RemoteMethod:
        """The same method, called with these options (see `betterbox.options`).

        Examples
        --------
        >>> self.energy.options(retries=0, progress=True)(spread(xs))  # doctest: +SKIP
        """
        return RemoteMethod(self._link, self.__name__, Options(options))

    @property
    def __signature__(self) -> Any:
        """The signature of the method; of one that says none, that it takes anything."""
        import inspect

        from betterbox._described import signature_of

        found = signature_of(self._link.described(self.__name__))
        kinds = inspect.Parameter
        return found or inspect.Signature([kinds("args", kinds.VAR_POSITIONAL), kinds("kwargs", kinds.VAR_KEYWORD)])

    def __get__(self, instance: object, owner: type | None = None) -> RemoteMethod:
        """It is bound already; that it says so makes `help` show it as a routine."""
        return self

    def __repr__(self) -> str:
        return f"<method {self.__name__} of {self._link.members()}>"

    def __reduce__(self) -> Any:
        raise TypeError("a method of a remote box does not travel: connect to the box where you need it")
