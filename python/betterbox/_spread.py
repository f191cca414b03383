"""Spread calls: `spread`, the options of a call, and how the items get into it."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from types import ModuleType
from typing import Any, Generic, TypeVar

from betterbox import _bus, _context, _core, _pickling
from betterbox._errors import nearest
from betterbox._promise import FOLD, LIST, Promise, Shape

T = TypeVar("T")
_MISSING: Any = object()


class spread(Generic[T]):
    """Marks an argument of a call whose items are divided over the boxes, one call per item.

    Parameters
    ----------
    iterable : iterable
        A sized one is taken as it is at the moment of the call; a generator is consumed as it is needed.

    Examples
    --------
    >>> spread([1, 2, 3])
    spread([1, 2, 3])
    """

    __slots__ = ("iterable",)

    def __init__(self, iterable: Iterable[T]) -> None:
        if not hasattr(iterable, "__iter__") and not hasattr(iterable, "__getitem__"):
            raise TypeError(f"spread() takes an iterable, not {type(iterable).__name__}")
        self.iterable = iterable

    def __repr__(self) -> str:
        return f"spread({self.iterable!r:.60})"

    def __reduce__(self) -> Any:
        raise TypeError("spread(...) must itself be an argument of the call, not lie inside of one")


class Options:
    """What may be said about a call, checked.

    Parameters
    ----------
    policy : {"auto", "guided"}
        How ranges are cut.
    retries : int
        How many deaths of its process an item may cause before it counts as poisoned.
    timeout : float, optional
        Seconds from the call to its last outcome.
    progress : bool
        Show a progress bar on stderr while somebody waits.
    reduce : callable, optional
        ``reduce(a, b)``, associative: folds the results on the workers.
    initial : object, optional
        The value of an empty fold, and its first operand.
    name : str, optional
        What `betterbox status` calls it.
    detach : bool
        Only False: this version has no calls that outlive their client.
    idempotent : bool
        Running an item twice does no harm.
    ship : sequence of modules
        These travel by value with the call.
    """

    __slots__ = ("policy", "retries", "timeout", "progress", "reduce", "initial", "name", "detach", "idempotent", "ship")
    policy: str
    retries: int
    timeout: float | None
    progress: bool
    reduce: Callable[[Any, Any], Any] | None
    initial: Any
    name: str | None
    detach: bool
    idempotent: bool
    ship: tuple[ModuleType, ...]

    def __init__(self, given: dict[str, Any]) -> None:
        for option in given:
            if option not in self.__slots__:
                close = nearest(option, list(self.__slots__))
                raise TypeError(f"unknown option {option!r}{close or ';'} the options are {', '.join(self.__slots__)}")
        self.policy = given.get("policy", "auto")
        self.retries = given.get("retries", 2)
        self.timeout = given.get("timeout")
        self.progress = bool(given.get("progress", False))
        self.reduce = given.get("reduce")
        self.initial = given.get("initial", _MISSING)
        self.name = given.get("name")
        self.detach = bool(given.get("detach", False))
        self.idempotent = bool(given.get("idempotent", False))
        self.ship = _modules(given.get("ship", ()))
        self._check()

    def _check(self) -> None:
        if self.policy not in ("auto", "guided"):
            raise ValueError(f"policy {self.policy!r} is not known; there are 'auto' and 'guided'")
        if self.detach:
            raise ValueError("detach=True is not in this version: a call ends with its client; keep the client running")
        if not isinstance(self.retries, int) or isinstance(self.retries, bool) or self.retries < 0:
            raise ValueError(f"retries must be a whole number from 0, not {self.retries!r}")
        check_timeout(self.timeout)
        if self.reduce is not None and not callable(self.reduce):
            raise TypeError(f"reduce must be a function of two values, not {self.reduce!r}")
        if self.initial is not _MISSING and self.reduce is None:
            raise TypeError("initial= is the start of a fold: it needs reduce=")
        if self.name is not None and not isinstance(self.name, str):
            raise TypeError(f"name must be a string, not {self.name!r}")

    def folded(self, parts: list[Any]) -> Any:
        """The value of a fold call, from the folds of its ranges in item order."""
        assert self.reduce is not None
        if self.initial is not _MISSING:
            parts = [self.initial, *parts]
        if not parts:
            raise TypeError("reduce of an empty spread with no initial value")
        value = parts[0]
        for part in parts[1:]:
            value = self.reduce(value, part)
        return value


def _modules(ship: Any) -> tuple[ModuleType, ...]:
    modules = (ship,) if isinstance(ship, ModuleType) else tuple(ship)
    for module in modules:
        if not isinstance(module, ModuleType):
            raise TypeError(f"ship= takes modules, not {module!r}")
    return modules


def check_timeout(timeout: Any) -> None:
    """Raise unless `timeout` is None or a number of seconds from 0."""
    if timeout is None:
        return
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout >= 0:
        raise ValueError(f"timeout must be a number of seconds from 0, or None, not {timeout!r}")


DEFAULTS = Options({})


def has_spread(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """True if an argument is a `spread(...)`."""
    return any(type(value) is spread for value in args) or any(type(value) is spread for value in kwargs.values())


class Plan:
    """A spread call ready to go: its items encoded (or a generator to be fed), its context pickled."""

    def __init__(
        self, target: str | Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: Options
    ) -> None:
        self.options = options
        self.label = target if isinstance(target, str) else getattr(target, "__name__", type(target).__name__)
        spreads: dict[_context.Place, Any] = {i: v.iterable for i, v in enumerate(args) if type(v) is spread}
        spreads.update({name: v.iterable for name, v in kwargs.items() if type(v) is spread})
        self.pages = _core.Pages()
        self.feed: Iterator[Any] | None = None
        with _pickling.shipping(options.ship):
            self._encode(spreads)
            fixed = tuple(None if type(v) is spread else v for v in args)
            named = {name: None if type(v) is spread else v for name, v in kwargs.items()}
            self.context = _context.make(target, fixed, named, tuple(spreads), options.reduce)

    def _encode(self, spreads: dict[_context.Place, Any]) -> None:
        iterables = list(spreads.values())
        if all(hasattr(iterable, "__len__") for iterable in iterables):
            lengths = [len(iterable) for iterable in iterables]
            if len(set(lengths)) > 1:
                named = ", ".join(f"{_path(place)} has {n}" for place, n in zip(spreads, lengths))
                raise ValueError(f"spread arguments must have the same length: {named}")
            if len(iterables) > 1:
                self.pages.extend(zip(*iterables), "spread item ")
            elif not (isinstance(iterables[0], range) and _extend_range(self.pages, iterables[0])):
                self.pages.extend(iterables[0], _path(next(iter(spreads))))
        else:
            self.feed = iter(iterables[0]) if len(iterables) == 1 else zip(*iterables, strict=True)

    def start(self, connection: _bus.Connection, port: int, promise: Promise[Any]) -> _core.Call:
        """Open the call."""
        options = self.options
        call = connection.client.open_call(
            port,
            self.label,
            self.context,
            self.pages,
            self.feed is None,
            retries=options.retries,
            idempotent=options.idempotent,
            fold=options.reduce is not None,
            timeout=options.timeout,
            name=options.name or "",
            window=self.feed is not None,
        )
        call.keep()
        if self.feed is not None:
            feeder = Feeder(call, self.feed, options, weakref.ref(promise))
            threading.Thread(target=feeder.run, name="betterbox-feeder", daemon=True).start()
        return call

    @property
    def shape(self) -> Shape:
        return FOLD if self.options.reduce is not None else LIST


def _path(place: _context.Place) -> str:
    return f"args[{place}]" if isinstance(place, int) else f"kwargs[{place!r}]"


def _extend_range(pages: _core.Pages, numbers: range) -> bool:
    bound = 1 << 63
    if not all(-bound <= n < bound for n in (numbers.start, numbers.step, numbers.stop)):
        return False
    pages.extend_range(numbers.start, numbers.step, len(numbers))
    return True


class Feeder:
    """Pulls items out of a generator into a call, as the call has room for them.

    Items go in chunks: a fast generator fills large ones, a slow one is not kept waiting.
    """

    LONGEST_CHUNK = 4096
    SHORT_S, LONG_S = 0.001, 0.01

    def __init__(
        self, call: _core.Call, items: Iterator[Any], options: Options, promise: weakref.ref[Promise[Any]]
    ) -> None:
        self.call = call
        self.items = self._guarded(items)
        self.options = options
        self.promise = promise
        self.error: BaseException | None = None
        self.ended = False
        self.nobody_takes = False

    def _guarded(self, items: Iterator[Any]) -> Iterator[Any]:
        try:
            yield from items
        except BaseException as error:  # the generator is user code: what it raises is the call's failure
            self.error = error
        self.ended = True

    def _ended_well(self) -> bool:
        return self.ended and self.error is None

    def run(self) -> None:
        from time import monotonic

        chunk = 1
        try:
            while not self.ended:
                room = self.call.feed_room(0.5)
                if room == 0:
                    if self.call.done():
                        return self._close_generator()
                    self._check_promise()
                    continue
                began = monotonic()
                pages = _core.Pages()
                with _pickling.shipping(self.options.ship):
                    pages.extend(islice(self.items, min(room, chunk)), "spread item ")
                took = monotonic() - began
                self.call.feed(pages, closed=self._ended_well())
                if took < self.SHORT_S:
                    chunk = min(chunk * 2, self.LONGEST_CHUNK)
                elif took > self.LONG_S:
                    chunk = max(chunk // 2, 1)
            if self.error is not None:
                self._fail(self.error)
        except BaseException as error:  # an item that cannot be pickled, a bus that is gone
            try:
                self._fail(error)
            except Exception:
                _bus.report_ignored("the feeder of a generator call")

    def _fail(self, error: BaseException) -> None:
        promise = self.promise()
        if promise is not None:
            promise._feed_error = error  # for who iterates; the other waits learn it from the call
        self.call.fail_feed(error)

    def _check_promise(self) -> None:
        if not self.nobody_takes and self.promise() is None:
            self.nobody_takes = True
            self.call.free_running(True)  # nobody will take results: run to the end

    def _close_generator(self) -> None:
        close = getattr(self.items, "close", None)
        if close is not None:
            close()
