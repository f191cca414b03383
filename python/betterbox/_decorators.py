"""Decorators: `serve_box`, `use_box`, `persist` for classes, `private` and `concurrent` for methods."""

from __future__ import annotations

from betterbox import _registry
from betterbox._boxes import Box, RemoteBox, make_remote

__tracebackhide__ = True  # pytest shows the user's lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    C = TypeVar("C", bound="type[Any]")
    F = TypeVar("F", bound="Callable[..., Any]")


def serve_box(port: int, *, block: bool = True) -> Callable[[C], C]:
    """Serve the one instance of a class on the bus.

    The instance is made at once, on the box's own thread, and offered before the decorator returns. At the end of the
    script the main thread waits for SIGINT or SIGTERM, then the box stops and the process exits with 0.

    Parameters
    ----------
    port : int
        1 to 65535. Any number of boxes may serve the same port.
    block : bool
        False: the script's end does not wait.

    Raises
    ------
    TypeError
        If the class derives neither from `Box` nor from `RemoteBox`.
    BusError
        If there is no bus.
    Exception
        What the class's ``__init__`` raised.

    Examples
    --------
    >>> from betterbox import Box, serve_box
    >>> @serve_box(8090)  # doctest: +SKIP
    ... class ABox(Box):
    ...     def name(self) -> str:
    ...         return "MyBox"
    """
    _registry.check_port(port)

    def decorate(cls: C) -> C:
        check_servable(cls)
        cls.__betterbox_serve__ = port
        if not _registry.recording:
            from betterbox._serving import start

            start(cls, port, block, register=True)
        return cls

    return decorate


def use_box(port: int, timeout: float = 3.0, require: int = 1) -> Callable[[C], C]:
    """Make the one instance of a remote-like class, connected to the boxes at a port.

    Parameters
    ----------
    port : int
        1 to 65535.
    timeout : float
        Seconds to wait for boxes to answer.
    require : int
        How many must answer.

    Raises
    ------
    TypeError
        If the class does not derive from `RemoteBox`.
    NoBoxFoundError
        If fewer than `require` boxes answer in time.
    BusError
        If there is no bus.

    Examples
    --------
    >>> from betterbox import RemoteBox, use_box
    >>> @use_box(8090)  # doctest: +SKIP
    ... class OtherBox(RemoteBox):
    ...     def __init__(self):
    ...         print(self.name().any())
    """
    _registry.check_port(port)

    def decorate(cls: Any) -> Any:
        if not isinstance(cls, type) or not issubclass(cls, RemoteBox):
            raise TypeError(
                f"use_box needs a class derived from RemoteBox, GroupBox or SpreadBox; {_name(cls)} is none"
            )
        cls.__betterbox_use__ = (port, timeout, require)  # type: ignore[attr-defined]
        if not _registry.recording:
            make_remote(cls, port, timeout, require, register=True)
        return cls

    return decorate


def persist(name: str, autosave: float | None = None) -> Callable[[C], C]:
    """Keep a served box's state under a name: loaded before it is served, saved when it stops.

    The state (``__getstate__`` or ``__dict__``) lies in ``$BETTERBOX_HOME/boxes/NAME/``. One live process owns a name.

    Parameters
    ----------
    name : str
        Letters, digits, ``.``, ``-`` and ``_``.
    autosave : float, optional
        Also save every so many seconds, between calls.

    Examples
    --------
    >>> from betterbox import Box, persist, serve_box
    >>> @serve_box(8090)  # doctest: +SKIP
    ... @persist("abox")
    ... class ABox(Box):
    ...     data: str
    """
    from betterbox._persist import check_name

    check_name(name)
    if autosave is not None and (isinstance(autosave, bool) or not isinstance(autosave, (int, float)) or autosave <= 0):
        raise ValueError(f"autosave must be a number of seconds above 0, not {autosave!r}")

    def decorate(cls: C) -> C:
        check_servable(cls, "persist")
        cls.__betterbox_persist__ = (name, autosave)
        return cls

    return decorate


def private(fn: F) -> F:
    """Keep a public method of a box from being exported.

    Examples
    --------
    >>> from betterbox import Box, private
    >>> class ABox(Box):
    ...     @private
    ...     def helper(self) -> None: ...
    """
    fn.__betterbox_private__ = True  # type: ignore[attr-defined]
    return fn


def concurrent(fn: F) -> F:
    """Let calls of a method run at any time, on threads of their own, next to whatever the box is doing.

    Examples
    --------
    >>> from betterbox import Box, concurrent
    >>> class ABox(Box):
    ...     @concurrent
    ...     def progress(self) -> float:
    ...         return self.share
    """
    fn.__betterbox_concurrent__ = True  # type: ignore[attr-defined]
    return fn


def check_servable(cls: object, what: str = "serve_box") -> None:
    """Raise `TypeError` unless `cls` is a class that can be served."""
    if not isinstance(cls, type) or not issubclass(cls, (Box, RemoteBox)):
        raise TypeError(f"{what} needs a class derived from Box or SandBox (or RemoteBox, for a relay); {_name(cls)} is none")


def _name(cls: object) -> str:
    return cls.__qualname__ if isinstance(cls, type) else repr(cls)
