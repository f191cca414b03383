"""`LocalCluster`: a private scheduler and workers on this machine, for as long as a ``with`` block."""

from __future__ import annotations

import atexit
import os
import select
import shutil
import subprocess
import tempfile
import threading
import weakref
from time import monotonic
from types import TracebackType
from typing import Any

from betterbox import _resources, _settings
from betterbox._errors import BusError

_START_TIMEOUT = 20.0  # seconds
_STOP_TIMEOUT = 5.0  # seconds for each process, then it is killed

_open: weakref.WeakSet[LocalCluster] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """While modules are still there: `__del__` would come too late."""
    for cluster in list(_open):
        cluster.close()


class LocalCluster:
    """A private bus with workers, current for this process while it is open.

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
        slots = _settings.cpu_count() if slots is None else slots
        for option, count in (("slots", slots), ("workers", workers)):
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise ValueError(f"{option} must be a whole number from 1, not {count!r}")
        self.slots = slots
        self.workers = workers
        self._capacity = _resources.worker_arguments(cpus, memory, gpus, resources)
        self._folder = tempfile.mkdtemp(prefix="cluster-", dir=_runtime_folder())
        self.bus = os.path.join(self._folder, "bus.json")
        self._children: list[_Child] = []
        self._closing = threading.Lock()
        self._closed = False
        self._pid = os.getpid()
        self._previous = os.environ.get("BETTERBOX_BUS")
        try:
            self._start()
        except BaseException:
            self._closed = True
            self._end_children()
            raise
        os.environ["BETTERBOX_BUS"] = self.bus
        _open.add(self)

    def _start(self) -> None:
        command = [_settings.program("betterbox-scheduler"), "--bus", self.bus, "--ephemeral", "--interface", "none"]
        self._run("scheduler", [*command, "--python", _settings.python_version()])
        for number in range(self.workers):
            self._start_worker("local" if self.workers == 1 else f"local-{number}")

    def _start_worker(self, name: str) -> None:
        command = _settings.worker_command(self.bus, slots=self.slots, name=name)
        self._run("worker", [*command, *self._capacity, "--echo", "--ignore-sigint"])

    def add_worker(self) -> None:
        """One more worker like the others; returns when it is ready."""
        with self._closing:
            if self._closed:
                raise BusError("the cluster is closed")
            self._start_worker(f"local-{self.workers}")
            self.workers += 1

    def _run(self, name: str, command: list[str]) -> None:
        child = _Child(name, command, {**os.environ, "BETTERBOX_BUS": self.bus})
        self._children.append(child)
        child.wait_ready()

    def close(self) -> None:
        """End the workers and the scheduler; the bus that was current before is current again. Idempotent.

        In a forked child it does nothing: the cluster is its parent's.
        """
        if os.getpid() != self._pid:
            return
        with self._closing:
            if self._closed:
                return
            self._closed = True
            _open.discard(self)
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

    def _end_children(self) -> None:
        for child in reversed(self._children):
            child.end()
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


class _Child:
    """A child process that ends when this process does: it holds the other end of a pipe."""

    def __init__(self, name: str, command: list[str], env: dict[str, str]) -> None:
        self.name = name
        die_fd, self._life = os.pipe()
        self._ready, ready_fd = os.pipe()
        # What the scheduler says is shown only if it does not come up; a worker speaks for the slots.
        self._errors = tempfile.TemporaryFile() if name == "scheduler" else None
        try:
            self._process = subprocess.Popen(
                [*command, "--die-with-fd", str(die_fd), "--ready-fd", str(ready_fd)],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=self._errors,
                stderr=self._errors,
                pass_fds=(die_fd, ready_fd),
                process_group=0,  # the terminal's Ctrl-C is for us
            )
        finally:
            os.close(die_fd)
            os.close(ready_fd)

    def wait_ready(self) -> None:
        deadline = monotonic() + _START_TIMEOUT
        try:
            while True:
                readable, _, _ = select.select([self._ready], [], [], max(0.0, deadline - monotonic()))
                if not readable:
                    raise BusError(f"the {self.name} of the local cluster was not ready after {_START_TIMEOUT:g} s")
                said = os.read(self._ready, 4096).decode(errors="replace").strip()
                if said.startswith("error: "):
                    raise BusError(f"the {self.name} of the local cluster did not start: {said[7:]}")
                if said:
                    return
                raise BusError(f"the {self.name} of the local cluster ended at once{self._last_words()}")
        finally:
            os.close(self._ready)

    def _last_words(self) -> str:
        code = self._process.wait(_STOP_TIMEOUT)
        text = ""
        if self._errors is not None:
            self._errors.seek(0)
            text = self._errors.read().decode(errors="replace")[-2000:].strip()
        return f" (exit code {code})" + (f":\n{text}" if text else "; see what it printed")

    def end(self) -> None:
        if self._life < 0:
            return
        os.close(self._life)
        self._life = -1
        self._process.terminate()
        try:
            self._process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._errors is not None:
            self._errors.close()


def _runtime_folder() -> str:
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    folder = os.path.join(base, "betterbox") if base and os.path.isdir(base) else f"/tmp/betterbox-{os.getuid()}"
    os.makedirs(folder, mode=0o700, exist_ok=True)
    if os.stat(folder).st_uid != os.getuid():
        raise BusError(f"the runtime folder {folder} belongs to somebody else; set XDG_RUNTIME_DIR to a folder of yours")
    return folder
