"""Spread calls: `spread`, and how the items get into a call."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count, cycle, islice, repeat
from operator import length_hint
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from betterbox import _bus, _context, _core, _end, _pickling, _surroundings
from betterbox._labels import label_of
from betterbox._options import Options, packed_costs
from betterbox._promise import FOLD, LIST, Promise, Shape
from betterbox._runners import report_ignored

__tracebackhide__ = True  # pytest shows the user's lines

if TYPE_CHECKING:
    from betterbox._refs import Taken

T = TypeVar("T")
_COSTED_PAGE = 1 << 18  # items of a page whose costs are known (kMaxCostsPerPage)


class spread(Generic[T]):
    """Marks an argument of a call whose items are divided over the boxes, one call per item.

    Parameters
    ----------
    iterable : iterable
        A sized one is taken as it is at the moment of the call; a generator is consumed as it is needed. An
        `itertools.repeat` beside others gives its one value to all items, a `count` or `cycle` as many as they need.

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


def has_spread(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """True if an argument is a `spread(...)`."""
    return any(type(value) is spread for value in args) or any(type(value) is spread for value in kwargs.values())


def without_repeats(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments, with the value itself in the place of a spread `itertools.repeat` that fits what is spread beside it.

    All items then share it, as a fixed argument.
    """
    iterables: list[Any] = [value.iterable for value in (*args, *kwargs.values()) if type(value) is spread]
    others = [each for each in iterables if type(each) is not repeat]
    if not others or len(others) == len(iterables):
        return args, kwargs
    lengths = {len(each) for each in others if hasattr(each, "__len__")}

    def fixed(value: Any) -> Any:
        if type(value) is not spread or type(value.iterable) is not repeat:
            return value
        times = length_hint(value.iterable, -1)  # of an endless one: none
        return next(value.iterable) if times < 0 or (times > 0 and lengths == {times}) else value

    return tuple(map(fixed, args)), {name: fixed(value) for name, value in kwargs.items()}


class Plan:
    """A spread call ready to go: its items encoded (or a generator to be fed), its context pickled."""

    def __init__(
        self,
        target: str | Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: Options,
        around: _surroundings.Surroundings | None = None,
    ) -> None:
        self.options = options
        self.around = around
        self.label = label_of(target)
        spreads: dict[_context.Place, Any] = {i: v.iterable for i, v in enumerate(args) if type(v) is spread}
        spreads.update({name: v.iterable for name, v in kwargs.items() if type(v) is spread})
        self.pages = _core.Pages()
        self.feed: Iterator[Any] | None = None
        self.strict = True
        spreads = self._without_endless(spreads)
        self.taken: Taken | None = None
        self.values: list[tuple[str, int, int, str]] = []
        if _pickling.REFS in sys.modules:
            from betterbox._refs import as_argument, as_items, taking

            spreads = {place: as_items(iterable) for place, iterable in spreads.items()}
            with taking() as self.taken:
                self._pickle(as_argument(target), *self.taken.arguments(args, kwargs), spreads)
        else:
            self._pickle(target, args, kwargs, spreads)

    def _without_endless(self, spreads: dict[_context.Place, Any]) -> dict[_context.Place, Any]:
        """The same, with an `itertools.count` or `cycle` cut to the length of what is spread beside it."""
        endless = {place for place, each in spreads.items() if type(each) in (count, cycle)}
        others = [each for place, each in spreads.items() if place not in endless]
        if not endless or not others:
            return spreads
        if not all(hasattr(each, "__len__") for each in others):
            self.strict = len(others) > 1
            return spreads
        items = max(map(len, others))
        return {place: list(islice(each, items)) if place in endless else each for place, each in spreads.items()}

    def _pickle(
        self,
        target: str | Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        spreads: dict[_context.Place, Any],
    ) -> None:
        options = self.options
        with _pickling.shipping(options.ship):
            self._encode(spreads)
            items = 0 if self.taken is None else len(self.taken.refs)
            fixed = tuple(None if type(v) is spread else v for v in args)
            named = {name: None if type(v) is spread else v for name, v in kwargs.items()}
            self.context, self.shared = _context.make(
                target, fixed, named, tuple(spreads), options.reduce, around=self.around
            )
            if self.taken is not None:
                self.values = self.taken.named(self.taken.refs[items:])

    def _encode(self, spreads: dict[_context.Place, Any]) -> None:
        iterables = list(spreads.values())
        places = list(spreads)
        if all(hasattr(iterable, "__len__") for iterable in iterables):
            lengths = [len(iterable) for iterable in iterables]
            if len(set(lengths)) > 1:
                named = ", ".join(f"{_path(place)} has {n}" for place, n in zip(spreads, lengths))
                raise ValueError(f"spread arguments must have the same length: {named}")
            cost = self.options.cost
            if callable(cost):  # looks at the very items that are sent
                iterables = [each if isinstance(each, Sequence) else list(each) for each in iterables]
            if len(iterables) > 1:
                self.pages.extend(zip(*iterables), _paths(places))
            elif not _extend_whole(self.pages, iterables[0], cost is not None):
                self.pages.extend(iterables[0], _paths(places))
            if callable(cost):
                cost = [_cost_of(cost, places, values) for values in zip(*iterables)]
            if cost is not None:
                self.pages.set_costs(packed_costs(cost, lengths[0]))
        else:
            if self.options.cost is not None and not callable(self.options.cost):
                raise ValueError("cost of a generator's items must be a function: how many come is not known")
            self.places = places
            self.feed = iter(iterables[0]) if len(iterables) == 1 else zip(*iterables, strict=self.strict)

    def start(self, connection: _bus.Connection, port: int, promise: Promise[Any]) -> _core.Call:
        """Open the call."""
        options = self.options
        call = connection.client.open_call(
            port,
            self.label,
            self.context,
            self.pages,
            self.feed is None,
            self.shared,
            fold=options.reduce is not None,
            window=self.feed is not None,
            values=self.values,
            **options.wire(port == 0),
        )
        self.shared = None  # the call keeps it
        call.keep()
        if self.taken is not None:
            self.taken.until_done(connection, call)
        if self.feed is not None:
            feeder = Feeder(connection, call, self.feed, self.places, options, weakref.ref(promise))
            _end.start(threading.Thread(target=feeder.run, name="betterbox-feeder", daemon=True))
        return call

    @property
    def shape(self) -> Shape:
        return FOLD if self.options.reduce is not None else LIST


def _path(place: _context.Place) -> str:
    return f"args[{place}]" if isinstance(place, int) else f"kwargs[{place!r}]"


def _paths(places: Iterable[_context.Place]) -> str:
    """What the items are called in errors, before their numbers."""
    return "|".join(_path(place) for place in places)


def _extend_whole(pages: _core.Pages, items: Any, costed: bool) -> bool:
    """Items that need not be encoded one by one. False: they must be."""
    if isinstance(items, range):
        return _extend_range(pages, items, costed)
    return pages.extend_array(items)


def _extend_range(pages: _core.Pages, numbers: range, costed: bool) -> bool:
    bound = 1 << 63
    if not all(-bound <= n < bound for n in (numbers.start, numbers.step, numbers.stop)):
        return False
    step = _COSTED_PAGE if costed else max(1, len(numbers))
    for first in range(0, len(numbers), step):
        part = numbers[first : first + step]
        pages.extend_range(part.start, part.step, len(part))
    return True


def _cost_of(cost: Callable[..., Any], places: list[_context.Place], values: Sequence[Any]) -> Any:
    """What the user expects of the item whose spread arguments are `values`."""
    args = [value for place, value in zip(places, values) if isinstance(place, int)]
    named = {place: value for place, value in zip(places, values) if isinstance(place, str)}
    return cost(*args, **named)


class Feeder:
    """Pulls items out of a generator into a call, as the call has room for them.

    Items go in chunks: a fast generator fills large ones, a slow one is not kept waiting.
    """

    LONGEST_CHUNK = 4096
    LARGEST_CHUNK = 64 << 20  # bytes
    SHORT_S, LONG_S = 0.001, 0.01

    def __init__(
        self,
        connection: _bus.Connection,
        call: _core.Call,
        items: Iterator[Any],
        places: list[_context.Place],
        options: Options,
        promise: weakref.ref[Promise[Any]],
    ) -> None:
        self.connection = connection
        self.call = call
        self.items = self._guarded(items)
        self.places = places
        self.options = options
        self.promise = promise
        self.error: BaseException | None = None
        self.ended = False
        self.nobody_takes = False
        self.fed = 0

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
                pages = self._next_pages(min(room, chunk))
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
                report_ignored("the feeder of a generator call")
        finally:  # they hold each other
            self.error, self.items = None, iter(())

    def _next_pages(self, most: int) -> _core.Pages:
        if _pickling.REFS not in sys.modules:
            return self._encoded(most)
        from betterbox._refs import taking

        with taking() as taken:
            pages = self._encoded(most)
        taken.until_done(self.connection, self.call)
        return pages

    def _encoded(self, most: int) -> _core.Pages:
        pages = _core.Pages()
        cost = self.options.cost
        with _pickling.shipping(self.options.ship):
            if cost is None:
                pages.extend(islice(self.items, most), _paths(self.places), self.LARGEST_CHUNK, self.fed)
                self.fed += len(pages)
                return pages
            items = list(islice(self.items, most))
            pages.extend(items, _paths(self.places), first=self.fed)
            self.fed += len(pages)
        rows = items if len(self.places) > 1 else zip(items)
        pages.set_costs(packed_costs([_cost_of(cost, self.places, row) for row in rows], len(items)))
        return pages

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
