"""`LocalCluster`: a private scheduler and workers on this machine, for as long as a ``with`` block."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from time import monotonic
from types import TracebackType
from typing import Any

from betterbox import _core, _end, _resources, _settings
from betterbox._cluster_watch import Child, Watch
from betterbox._errors import BusError

__tracebackhide__ = True  # pytest shows the user's lines

_MOST_RESTARTS = 5  # of workers; one that dies again and again would take its calls with it each time
_RESTART_SECONDS = 60.0  # in which so many are too many

_open: weakref.WeakSet[LocalCluster] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """While modules are still there: `__del__` would come too late."""
    for cluster in list(_open):
        cluster.close()


class LocalCluster:
    """A private bus with workers, current for this process while it is open.

    A worker that dies is replaced, and its items run again as their ``retries`` allow; boxes on it are lost. If the scheduler dies, or workers
    go on dying, calls fail with a `BusError` that says why.

    Parameters
    ----------
    slots : int
        Slots of each worker; default: one per CPU.
    workers : int
        How many workers.
    cpus : float, optional
        Cores that items may take at a time on each worker; default: one per slot.
    memory : int or str, optional
        Bytes of memory for the items of each worker, or a text such as "8G"; default: what the machine has.
    gpus : int or sequence of str, optional
        How many devices each worker has, or which.
    resources : dict, optional
        Amounts of other things that items may ask for: ``{"licence": 1}``.

    Attributes
    ----------
    bus : str
        The bus file, as for ``BETTERBOX_BUS``.

    Raises
    ------
    BusError
        If it does not come up.

    Examples
    --------
    >>> import betterbox
    >>> with betterbox.LocalCluster(slots=2) as cluster:  # doctest: +SKIP
    ...     betterbox.map(abs, [-1, -2]).result()
    [1, 2]
    """

    @_end.way_in
    def __init__(
        self,
        slots: int | None = None,
        workers: int = 1,
        *,
        cpus: float | None = None,
        memory: int | str | None = None,
        gpus: Any = None,
        resources: dict[str, float] | None = None,
    ) -> None:
        _end.prepare()
        slots = _settings.cpu_count() if slots is None else slots
        for option, count in (("slots", slots), ("workers", workers)):
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise ValueError(f"{option} must be a whole number from 1, not {count!r}")
        self.slots = slots
        self.workers = workers
        self._capacity = _resources.worker_arguments(cpus, memory, gpus, resources)
        self._folder = _make_folder()
        self.bus = os.path.join(self._folder, "bus.json")
        self._children: list[Child] = []
        self._restarts: list[float] = []
        self._closing = threading.Lock()
        self._closed = False
        self._pid = os.getpid()
        self._previous = os.environ.get("BETTERBOX_BUS")
        self._watch = Watch(_Mourner(self))
        try:
            self._start()
        except BaseException:
            self._closed = True
            self._watch.stop()
            self._end_children()
            raise
        os.environ["BETTERBOX_BUS"] = self.bus
        _open.add(self)

    def _start(self) -> None:
        command = [_settings.program("betterbox-scheduler"), "--bus", self.bus, "--ephemeral", "--interface", "none"]
        command += ["--python", _settings.python_version()]
        names = ["local"] if self.workers == 1 else [f"local-{number}" for number in range(self.workers)]
        bus_is_up, tell_workers = os.pipe()
        try:
            scheduler = self._launched("scheduler", "local", command)
            workers = [self._launched_worker(name, bus_is_up) for name in names]  # they start meanwhile
            self._run(scheduler)
            os.write(tell_workers, b"x" * len(workers))
        finally:
            os.close(bus_is_up)
            os.close(tell_workers)
        from betterbox import _by_value, _functions  # noqa: F401 - what the first call needs, while Python starts

        for worker in workers:
            self._run(worker)

    def _launched_worker(self, name: str, bus_is_up: int | None = None) -> Child:
        command = _settings.worker_command(self.bus, slots=self.slots, name=name)
        command += [*self._capacity, "--follow-client", "--echo", "--ignore-sigint"]
        if bus_is_up is None:
            return self._launched("worker", name, command)
        return self._launched("worker", name, [*command, "--await-bus-fd", str(bus_is_up)], bus_is_up)

    @_end.way_in
    def add_worker(self) -> None:
        """One more worker like the others; returns when it is ready."""
        with self._closing:
            if self._closed:
                raise BusError("the cluster is closed")
            self._run(self._launched_worker(f"local-{self.workers}"))
            self.workers += 1

    def _launched(self, role: str, name: str, command: list[str], *passed: int) -> Child:
        # A worker prints what its slots do.
        output = os.path.join(self._folder, "scheduler.log") if role == "scheduler" else None
        child = Child(name, role, command, {**os.environ, "BETTERBOX_BUS": self.bus}, passed, output)
        self._children.append(child)
        return child

    def _run(self, child: Child) -> None:
        child.wait_ready()
        self._watch.add(child)

    # --- processes that die ---

    def _died(self, child: Child) -> None:
        """On the watch's thread: a worker is started again; without a scheduler, or if workers go on dying, it is over."""
        from betterbox import _bus

        if child.role == "scheduler" or self.bus in _bus.ended:
            return self._give_up(f"{child.how_it_ended()}; make a new LocalCluster")
        now = monotonic()
        self._restarts = [when for when in self._restarts if now - when < _RESTART_SECONDS] + [now]
        if len(self._restarts) > _MOST_RESTARTS:
            return self._give_up(
                f"{child.how_it_ended()}, and {_MOST_RESTARTS} others before it within {_RESTART_SECONDS:g} s, so no "
                f"more are started; see what it printed, then make a new LocalCluster (with fewer slots if memory is short)"
            )
        import logging

        logging.getLogger("betterbox").warning("%s; another takes its place", child.how_it_ended())
        try:
            with self._closing:
                if self._closed:
                    return
                self._children.remove(child)
                child.end()
                replacement = self._launched_worker(child.name)
            self._run(replacement)
        except (BusError, OSError) as error:  # OSError: no memory, processes or descriptors for it
            if not self._closed:
                self._give_up(f"{child.how_it_ended()}, and its successor did not start: {error}")

    def _give_up(self, reason: str) -> None:
        """End the bus: what waits for it fails with `reason`, at once."""
        from betterbox import _bus

        with self._closing:
            if self._closed or self.bus in _bus.ended:
                return
            _bus.ended[self.bus] = reason
            for child in self._children:
                child.end()

    def close(self) -> None:
        """End the workers and the scheduler; the bus that was current before is current again. Idempotent.

        In a forked child it does nothing: the cluster is its parent's.
        """
        over_or_not_ours = self._closed or os.getpid() != self._pid
        if over_or_not_ours:
            return
        with self._closing:
            if self._closed:
                return
            self._closed = True
            _open.discard(self)
        self._watch.stop()
        if os.environ.get("BETTERBOX_BUS") == self.bus:
            if self._previous is None:
                del os.environ["BETTERBOX_BUS"]
            else:
                os.environ["BETTERBOX_BUS"] = self._previous
        try:
            self._leave_bus()
        finally:
            self._end_children()

    def _leave_bus(self) -> None:
        import sys

        serving = sys.modules.get("betterbox._serving")
        if serving is not None:
            serving.stop_on(self.bus)
        bus = sys.modules.get("betterbox._bus")
        if bus is not None:
            bus.close(self.bus)
            bus.ended.pop(self.bus, None)

    def _end_children(self) -> None:
        for child in reversed(self._children):
            child.end()
        self._watch.join()
        import shutil

        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> LocalCluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_children", None) and not self._closed:
            self.close()

    def __repr__(self) -> str:
        size = f"{self.slots} slots" if self.workers == 1 else f"{self.workers} workers of {self.slots} slots"
        return f"<LocalCluster of {size} at {self.bus}{', closed' if self._closed else ''}>"


class _Mourner:
    """Tells a cluster of deaths without keeping it: one that nobody refers to closes itself."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._cluster = weakref.ref(cluster)

    def __call__(self, child: Child) -> None:
        cluster = self._cluster()
        if cluster is not None:
            cluster._died(child)


def _make_folder() -> str:
    runtime = _core.runtime_folder()
    folder = os.path.join(runtime, f"cluster-{os.urandom(8).hex()}")
    try:
        os.mkdir(folder, 0o700)
        return folder
    except OSError as error:
        raise BusError(
            f"no folder for the local cluster can be made in {runtime}: {error.strerror}; "
            f"make room there, or set XDG_RUNTIME_DIR to another folder of yours"
        ) from error
