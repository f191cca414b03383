"""Who is compared: the libraries and limits, where each comes from, which adapter drives it."""

from __future__ import annotations

import sys
from dataclasses import dataclass

US = "betterbox"
HERE = "comparing.peers"


@dataclass(frozen=True)
class Spec:
    """A peer as the harness knows it.

    Attributes
    ----------
    target : str
        ``module:Class`` of its adapter.
    pypi : tuple of str
        What it needs in the virtual environment; empty: it comes with the system.
    stirs : bool
        It works while nobody asks it to: it is stopped while others are measured.
    limit : bool
        No library, but a limit.
    """

    name: str
    target: str
    pypi: tuple[str, ...] = ()
    stirs: bool = False
    limit: bool = False
    python: str = sys.executable


SYSTEM = (
    Spec(US, f"{HERE}.betterbox:BetterBox"),
    Spec("Pool", f"{HERE}.standard:Pool"),
    Spec("ProcessPool", f"{HERE}.standard:ProcessPool"),
    Spec("joblib", f"{HERE}.joblib:Joblib"),
    Spec("mpi4py", f"{HERE}.mpi:MpiFutures", stirs=True),
    Spec("dask", f"{HERE}.dask:Dask", stirs=True),
    Spec("ipyparallel", f"{HERE}.ipyparallel:IpyParallel", stirs=True),
    Spec("Pyro4", f"{HERE}.pyro4:Pyro4"),
    Spec("RPyC", f"{HERE}.rpyc:Rpyc"),
)

LIMITS = (
    Spec("zmq-native", f"{HERE}.limits:NativeZmq", limit=True),
    Spec("zmq-pickle", f"{HERE}.limits:PlainZmq", limit=True),
    Spec("socket-native", f"{HERE}.limits:NativeSocket", limit=True),
    Spec("loops", f"{HERE}.limits:Loops", limit=True),
    Spec("memory", f"{HERE}.limits:Memory", limit=True),
)

PYPI = (
    Spec("ray", f"{HERE}.ray:Ray", ("ray", "numpy"), stirs=True),
    Spec("dask-new", f"{HERE}.dask:Dask", ("distributed", "numpy"), stirs=True),
    Spec("parsl", f"{HERE}.parsl:Parsl", ("parsl", "numpy"), stirs=True),
    Spec("hyperqueue", f"{HERE}.hyperqueue:HyperQueue", ("hyperqueue", "numpy"), stirs=True),
    Spec("executorlib", f"{HERE}.executorlib:ExecutorLib", ("executorlib", "numpy"), stirs=True),
    Spec("Pyro5", f"{HERE}.pyro4:Pyro5", ("Pyro5", "numpy")),
)
