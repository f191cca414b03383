"""The classes that users derive from: `Box`, `SandBox`, `RemoteBox`, `GroupBox`, `SpreadBox`."""

from __future__ import annotations

import types
from abc import ABCMeta

from betterbox import _end, _registry

__tracebackhide__ = True  # pytest shows the user's lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from betterbox._links import Link, RemoteMethod

    Self = TypeVar("Self", bound="Box | RemoteBox")
    RemoteSelf = TypeVar("RemoteSelf", bound="RemoteBox")


class BoxMeta(ABCMeta):
    """Makes ``ABox()`` give the one instance that a decorator has made, if there is one."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        instance = _registry.instances.get(cls)
        return super().__call__(*args, **kwargs) if instance is None else instance


def _instance(cls: type[Self]) -> Self:
    instance = _registry.instances.get(cls)
    if instance is None:
        from betterbox._errors import BetterBoxError

        raise BetterBoxError(
            f"{cls.__qualname__} has no instance in this process; @serve_box or @use_box makes one"
        )
    return instance  # type: ignore[no-any-return]


class Box(metaclass=BoxMeta):
    """The base of objects that are served: exports its public methods to whoever uses it.

    Not exported are names with a leading underscore and methods marked `private`. Calls run one at a time, in order of
    arrival, on the box's own thread.

    Examples
    --------
    >>> from betterbox import Box, serve_box
    >>> @serve_box(8090)  # doctest: +SKIP
    ... class Greeter(Box):
    ...     def greet(self, name: str) -> str:
    ...         return f"Hello {name}"
    """

    @classmethod
    def instance(cls: type[Self]) -> Self:
        """The one instance that `serve_box` or `use_box` has made.

        Raises
        ------
        BetterBoxError
            If there is none in this process.
        """
        return _instance(cls)

    def __repr__(self) -> str:
        import sys

        serving = sys.modules.get("betterbox._serving")
        ports = serving.ports_of(self) if serving is not None else []
        where = f" served at port {', '.join(map(str, ports))}" if ports else ""
        return f"<box {type(self).__qualname__}{where}>"


class SandBox(Box):
    """A box that takes code from its clients.

    Examples
    --------
    >>> from betterbox import RemoteBox
    >>> box = RemoteBox.connect(8090)  # doctest: +SKIP
    >>> box.run(sum, [1, 2, 3]).result()  # doctest: +SKIP
    6
    """

    def inject(self, fn: Callable[..., Any], name: str | None = None) -> None:
        """Add a method: ``fn(self, ...)`` under its own name or `name`.

        Raises
        ------
        ValueError
            If the name is no public method name.
        """
        name = fn.__name__ if name is None else name
        if not name.isidentifier() or name.startswith("_"):
            raise ValueError(f"{name!r} cannot be a method's name here: give a public one with inject(fn, name=...)")
        setattr(self, name, types.MethodType(fn, self))

    def run(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run ``fn(*args, **kwargs)`` once and return what it returns."""
        return fn(*args, **kwargs)


class RemoteBox(metaclass=BoxMeta):
    """Stands for one box elsewhere: of all that answer at a port, the first to respond.

    The methods of the box are attributes here; each call returns a `Promise`. Only the names `connect` and `instance`
    are taken. When the box dies, the next call goes to the first to respond of those left.

    Examples
    --------
    >>> from betterbox import RemoteBox
    >>> box = RemoteBox.connect(8090)  # doctest: +SKIP
    >>> box.name().result()  # doctest: +SKIP
    'MyBox'
    """

    @classmethod
    def instance(cls: type[Self]) -> Self:
        """The one instance that `use_box` has made.

        Raises
        ------
        BetterBoxError
            If there is none in this process.
        """
        return _instance(cls)

    @classmethod
    @_end.way_in
    def connect(cls: type[RemoteSelf], port: int, *, timeout: float = 3.0, require: int = 1) -> RemoteSelf:
        """An instance whose boxes are at `port`.

        Parameters
        ----------
        port : int
            1 to 65535.
        timeout : float
            Seconds to wait for boxes to answer.
        require : int
            How many boxes must answer.

        Raises
        ------
        NoBoxFoundError
            If fewer answer in time.
        BusError
            If there is no bus.
        """
        return make_remote(cls, port, timeout, require)

    def __getattr__(self, name: str) -> RemoteMethod:
        if name.startswith("__"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return _link_of(self).method(name)

    def __repr__(self) -> str:
        link = self.__dict__.get(_LINK)
        name = type(self).__qualname__
        return f"<{name}, not connected>" if link is None else f"<{name} of {link.members()}>"

    def __dir__(self) -> list[str]:
        link = self.__dict__.get(_LINK)
        return sorted({*object.__dir__(self), *(name for name, _ in link.exports())} - {_LINK} if link else ())

    def __reduce__(self) -> Any:
        raise TypeError(
            f"a {type(self).__name__} does not travel: connect where you need it, with {type(self).__name__}.connect(port)"
        )


class GroupBox(RemoteBox):
    """Keeps all boxes at a port: every call goes to all of them.

    The members are those at the moment of the call, in join order; one that dies puts a `BoxLostError` in its place.
    """


class SpreadBox(GroupBox):
    """A `GroupBox` that also spreads the items of a call over the boxes, by load.

    Examples
    --------
    >>> from betterbox import SpreadBox, spread
    >>> boxes = SpreadBox.connect(8090)  # doctest: +SKIP
    >>> boxes.energy(spread(molecules), temperature=300.0).compute(sum)  # doctest: +SKIP
    -76.4
    """


_LINK = "_betterbox_link"


def _link_of(box: RemoteBox) -> Link:
    link: Link | None = box.__dict__.get(_LINK)
    if link is None:
        raise AttributeError(
            f"this {type(box).__name__} is not connected to any box: decorate the class with @use_box(port) "
            f"or make it with {type(box).__name__}.connect(port)"
        )
    return link


def find_link(box: object) -> Link | None:
    """The link of a remote-like instance, None for any other object."""
    return box.__dict__.get(_LINK) if isinstance(box, RemoteBox) else None


def make_remote(
    cls: type[RemoteSelf], port: int, timeout: float, require: int, register: bool = False
) -> RemoteSelf:
    """An instance of a remote-like class: connected first, then its ``__init__`` runs."""
    from betterbox._links import Link

    kind = "spread" if issubclass(cls, SpreadBox) else "group" if issubclass(cls, GroupBox) else "one"
    link = Link(_registry.check_port(port), kind, timeout, require)
    instance = cls.__new__(cls)
    instance.__dict__[_LINK] = link
    if register:
        _registry.register(cls, instance)
    try:
        instance.__init__()  # type: ignore[misc]
    except BaseException:
        if register:
            _registry.instances.pop(cls, None)
        raise
    return instance


def make_instance(cls: type[Any], register: bool = True) -> Any:
    """A new instance of a class that is to be served here, as its decorators say; `register`: the one of the class."""
    use = cls.__dict__.get("__betterbox_use__")
    if use is not None:
        port, timeout, require = use
        return make_remote(cls, port, timeout, require, register)
    instance = cls()
    if register:
        _registry.register(cls, instance)
    return instance
