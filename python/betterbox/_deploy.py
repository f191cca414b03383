"""Boxes on workers: `deploy`, and the payload that says what a slot is to host."""

from __future__ import annotations

import importlib
import os
import pickle
import sys
from types import TracebackType
from typing import Any

from betterbox import _bus, _context, _end, _pickling, _registry, _surroundings
from betterbox._decorators import check_servable
from betterbox._errors import BetterBoxError, nearest

__tracebackhide__ = True  # pytest shows the user's lines


_open: set[Deployment] = set()  # they stay whether or not somebody keeps the object


class Deployment:
    """Boxes that `deploy` has put on workers; they stay until `close`, also when this process ends.

    Usable as a context manager, which closes it.
    """

    def __init__(self, connection: _bus.Connection, serial: int, cls: type, port: int, slots: int) -> None:
        self._connection = connection
        self._cls = cls
        self._serial: int | None = serial
        self.port = port
        self.slots = slots

    def close(self) -> None:
        """Stop the boxes. Idempotent."""
        serial, self._serial = self._serial, None
        _open.discard(self)
        if serial is not None:
            self._connection.client.undeploy(serial)

    def __enter__(self) -> Deployment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Deployment of {self.slots} {self._cls.__qualname__} at port {self.port}{'' if self._serial is not None else ', closed'}>"


@_end.way_in
def deploy(obj_or_class: Any, port: int, slots: int = 1, *, timeout: float = 30.0) -> Deployment:
    """Host a box on the workers that are there. On a bus that started itself, a worker is started if there is none.

    Parameters
    ----------
    obj_or_class : Box or class
        A class gets an instance in each slot; of an object each slot gets a copy.
    port : int
        1 to 65535. A class that was defined again replaces what this process deployed of it there (see `serve`).
    slots : int
        How many boxes.
    timeout : float
        Seconds until all must be up.

    Returns
    -------
    Deployment
        All its boxes are offered.

    Raises
    ------
    BusError
        If there is no worker, or the boxes are not up in time.
    SerializationError
        If the class or object cannot be pickled.
    Exception
        What the box's ``__init__`` raised.

    Examples
    --------
    >>> import betterbox
    >>> class ABox(betterbox.Box):
    ...     def name(self) -> str:
    ...         return "MyBox"
    >>> with betterbox.LocalCluster(slots=2), betterbox.deploy(ABox, 8090, slots=2):  # doctest: +SKIP
    ...     betterbox.GroupBox.connect(8090).name().result()
    ['MyBox', 'MyBox']
    """
    from betterbox import _functions

    _registry.check_port(port)
    if isinstance(slots, bool) or not isinstance(slots, int) or slots < 1:
        raise ValueError(f"slots must be a whole number from 1, not {slots!r}")
    cls = obj_or_class if isinstance(obj_or_class, type) else type(obj_or_class)
    check_servable(cls, "deploy")
    payload = make_payload(obj_or_class)
    connection = _bus.answered(_functions.with_worker)
    for old in list(_open):
        if old._connection is connection and _registry.takes_the_place_of(cls, port, old._cls, old.port):
            old.close()
    serial = connection.client.deploy(port, slots, cls.__qualname__, payload, timeout)
    deployment = Deployment(connection, serial, cls, port, slots)
    _open.add(deployment)
    return deployment


def make_payload(subject: Any) -> bytes:
    """What a slot is to host: a class, an object, or ``"module:Class"``, with the surroundings that it starts in."""
    inner = subject if isinstance(subject, str) else _pickling.dumps(subject, "the box")
    return _context.packed(inner)


def load_payload(payload: bytes) -> Any:
    """The other end of `make_payload`, in a slot: a class or an object."""
    wanted, rest = _surroundings.split(payload)
    _surroundings.settle(wanted)
    inner = pickle.loads(rest)
    if isinstance(inner, bytes):
        return _context.load_code(inner)
    return find_class(inner)


def find_class(target: str, on_slot: bool = True) -> type[Any]:
    """The class that ``module:Class`` names.

    Raises
    ------
    BetterBoxError, ImportError
        If it does not name one that can be served; says why, and where. An `ImportError` of a slot has advice for clients.
    """
    module_name, colon, class_name = target.partition(":")
    if not colon or not module_name or not class_name:
        raise BetterBoxError(f"{target!r} does not name a class: write module:Class")
    if "/" in module_name or module_name.startswith(".") or module_name.endswith(".py"):
        raise BetterBoxError(f"{module_name} is no name of a module: write it as import does, without folder and .py")
    try:
        found: Any = importlib.import_module(module_name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if on_slot and isinstance(error, ImportError):
            raise _context.import_error(error) from error
        raise _import_failure(module_name, error) from error
    for part in class_name.split("."):
        try:
            found = getattr(found, part)
        except Exception as error:
            advice = nearest(part, [name for name, value in vars(found).items() if isinstance(value, type)])
            where = vars(sys.modules[module_name]).get("__file__")
            raise BetterBoxError(f"module {module_name} ({where}) has no class {class_name!r}{advice}") from error
    try:
        check_servable(found, "betterbox serve")
    except TypeError as error:
        raise BetterBoxError(f"{target} cannot be served: {error}") from error
    return found  # type: ignore[no-any-return]


def init_failure(payload: bytes, error: BaseException) -> BaseException:
    """What is told where a slot could not make its box: of one that a command line names, which, why and where."""
    target = pickle.loads(_surroundings.split(payload)[1])
    if not isinstance(target, str) or isinstance(error, (BetterBoxError, ImportError)):
        return error
    text = f"{type(error).__name__}: {error}".rstrip(": ")
    return BetterBoxError(f"{target} cannot be served: {text}{_place_of(error)}")


def _place_of(error: BaseException) -> str:
    return "".join(f" ({frame.filename}, line {frame.lineno})" for frame in _frames_of_users(error)[-1:])


def _import_failure(module: str, error: BaseException) -> BetterBoxError:
    """Why a module could not be imported, and where."""
    if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
        return BetterBoxError(
            f"there is no module {error.name} in {os.getcwd()} nor elsewhere on sys.path; "
            f"run this where it can be imported from, or put its folder on PYTHONPATH"
        )
    where = _place_of(error)
    text = f"{type(error).__name__}: {error}".rstrip(": ")
    if isinstance(error, SyntaxError) and error.filename:
        text, where = f"{type(error).__name__}: {error.msg}", f" ({error.filename}, line {error.lineno})"
    if isinstance(error, SystemExit):
        return BetterBoxError(
            f"module {module} ended the program while it was imported{where}: SystemExit({error.code!r}); "
            f"what a script does when it is run belongs below: if __name__ == '__main__'"
        )
    return BetterBoxError(f"module {module} cannot be imported: {text}{where}")


def _frames_of_users(error: BaseException) -> list[Any]:
    from traceback import extract_tb

    own = os.path.dirname(os.path.abspath(__file__)) + os.sep
    frames = extract_tb(error.__traceback__)
    return [each for each in frames if not each.filename.startswith((own, "<frozen", importlib.__file__))]
