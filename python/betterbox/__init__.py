"""BetterBox: Python objects served on a bus, called one by one, all at once, or with work spread over them.

A bus starts by itself when a script needs one; ``LocalCluster()`` makes a private one.

Functions
    ``submit(fn, *args)``           one call on a worker; a `Promise` of its value
    ``map(fn, items)``              one call per item, spread over the workers; a `Promise` of the list
    ``options(...)``                what may be said about calls: retries, timeout, cpus, priority, ...
    ``Executor()``                  the same behind the interface of `concurrent.futures`
    ``put(value)``                  a `Ref`: what many calls use travels once

Boxes
    ``Box``, ``SandBox``            what is served: a class whose public methods others call
    ``serve``, ``@serve_box(port)`` serve a box from this script
    ``deploy``                      host boxes on workers
    ``RemoteBox``, ``@use_box``     stands for one box elsewhere
    ``GroupBox``                    stands for all boxes at a port
    ``SpreadBox``, ``spread``       divides the items of a call over the boxes, by load
    ``@persist``, ``@concurrent``, ``@private``   about a box and its methods

Promises
    ``result()``, ``all()``, ``any()``, ``compute(fn)``, iteration, ``await``, ``cancel()``, ``explain()``
    ``as_completed(promises)``, ``wait(promises)``

Errors derive from `BetterBoxError`. ``help(betterbox.submit)``, or of any other name, says more.

>>> import betterbox
>>> with betterbox.LocalCluster(slots=2):  # doctest: +SKIP
...     betterbox.map(abs, [-1, 2, -3]).compute(sum)
6

Every name is loaded when it is first used, so ``import betterbox`` costs next to nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from betterbox._boxes import Box, GroupBox, RemoteBox, SandBox, SpreadBox
    from betterbox._cluster import LocalCluster
    from betterbox._decorators import concurrent, persist, private, serve_box, use_box
    from betterbox._deploy import Deployment, deploy
    from betterbox._errors import (
        BetterBoxError,
        BoxLostError,
        BusError,
        CallCancelledError,
        CallTimeoutError,
        DeadlockError,
        LargeCaptureWarning,
        NestingError,
        NoBoxFoundError,
        PoisonedItemError,
        RemoteError,
        ResourceError,
        SerializationError,
        StateError,
        ValueLostError,
        WorkerLostError,
    )
    from betterbox._executor import Executor
    from betterbox._functions import map, options, submit
    from betterbox._promise import Promise
    from betterbox._refs import Ref, put
    from betterbox._serving import Serving, serve
    from betterbox._spread import spread
    from betterbox._waiting import as_completed, wait

__version__ = "0.1.0"

_HOMES = {
    "_boxes": ("Box", "GroupBox", "RemoteBox", "SandBox", "SpreadBox"),
    "_cluster": ("LocalCluster",),
    "_decorators": ("concurrent", "persist", "private", "serve_box", "use_box"),
    "_deploy": ("Deployment", "deploy"),
    "_errors": (
        "BetterBoxError",
        "BoxLostError",
        "BusError",
        "CallCancelledError",
        "CallTimeoutError",
        "DeadlockError",
        "LargeCaptureWarning",
        "NestingError",
        "NoBoxFoundError",
        "PoisonedItemError",
        "RemoteError",
        "ResourceError",
        "SerializationError",
        "StateError",
        "ValueLostError",
        "WorkerLostError",
    ),
    "_executor": ("Executor",),
    "_functions": ("map", "options", "submit"),
    "_promise": ("Promise",),
    "_refs": ("Ref", "put"),
    "_serving": ("Serving", "serve"),
    "_spread": ("spread",),
    "_waiting": ("as_completed", "wait"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [  # noqa: F822 - loaded by __getattr__
    "BetterBoxError",
    "Box",
    "BoxLostError",
    "BusError",
    "CallCancelledError",
    "CallTimeoutError",
    "DeadlockError",
    "Deployment",
    "Executor",
    "GroupBox",
    "LargeCaptureWarning",
    "LocalCluster",
    "NestingError",
    "NoBoxFoundError",
    "PoisonedItemError",
    "Promise",
    "Ref",
    "RemoteBox",
    "RemoteError",
    "ResourceError",
    "SandBox",
    "SerializationError",
    "Serving",
    "SpreadBox",
    "StateError",
    "ValueLostError",
    "WorkerLostError",
    "as_completed",
    "concurrent",
    "deploy",
    "map",
    "options",
    "persist",
    "private",
    "put",
    "serve",
    "serve_box",
    "spread",
    "submit",
    "use_box",
    "wait",
]


def __getattr__(name: str) -> object:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'betterbox' has no attribute {name!r}")
    try:
        import importlib
    except ImportError:  # the interpreter is being taken down
        raise RuntimeError("cannot schedule new futures after interpreter shutdown") from None

    value = getattr(importlib.import_module(f"betterbox.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
