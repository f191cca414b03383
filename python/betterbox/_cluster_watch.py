"""The processes of a `LocalCluster`, and a thread that waits for their deaths."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import threading
from collections.abc import Callable
from time import monotonic

from betterbox import _end
from betterbox._errors import BusError

__tracebackhide__ = True  # pytest shows the user's lines

_START_TIMEOUT = 20.0  # seconds
_STOP_TIMEOUT = 5.0  # seconds for each process, then it is killed
_LOOK_SECONDS = 1.0  # between looks at processes where the kernel gives no descriptor for one


class Child:
    """A child process that ends when this process does: it holds the other end of a pipe.

    Parameters
    ----------
    passed : tuple of int
        Descriptors that it gets.
    output : str, optional
        The file for what it prints, which is shown if it does not come up. Default: where this process prints.
    """

    def __init__(
        self, name: str, role: str, command: list[str], env: dict[str, str], passed: tuple[int, ...], output: str | None
    ) -> None:
        self.name = name
        self.role = role
        self._errors = None if output is None else open(output, "w+b")
        die_fd, self._life = os.pipe()
        self._ready, ready_fd = os.pipe()
        try:
            self._process = subprocess.Popen(
                [*command, "--die-with-fd", str(die_fd), "--ready-fd", str(ready_fd)],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=self._errors,
                stderr=self._errors,
                pass_fds=(die_fd, ready_fd, *passed),
                start_new_session=True,  # the terminal's Ctrl-C is for us
            )
        except BaseException:
            os.close(self._life)
            os.close(self._ready)
            raise
        finally:
            os.close(die_fd)
            os.close(ready_fd)

    @property
    def pid(self) -> int:
        return self._process.pid

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def wait_ready(self) -> None:
        deadline = monotonic() + _START_TIMEOUT
        try:
            while True:
                readable, _, _ = select.select([self._ready], [], [], max(0.0, deadline - monotonic()))
                if not readable:
                    raise BusError(f"the {self.role} of the local cluster was not ready after {_START_TIMEOUT:g} s")
                said = os.read(self._ready, 4096).decode(errors="replace").strip()
                if said.startswith("error: "):
                    raise BusError(f"the {self.role} of the local cluster did not start: {said[7:]}")
                if said:
                    return
                raise BusError(f"the {self.role} of the local cluster ended at once{self._last_words()}")
        finally:
            os.close(self._ready)

    def _last_words(self) -> str:
        code = self._process.wait(_STOP_TIMEOUT)
        text = ""
        if self._errors is not None:
            self._errors.seek(0)
            text = self._errors.read().decode(errors="replace")[-2000:].strip()
        return f" (exit code {code})" + (f":\n{text}" if text else "; see what it printed")

    def how_it_ended(self) -> str:
        """``the worker local (pid 7) was killed by SIGKILL ...``. Only of one that has ended."""
        code = self._process.returncode
        named = f"worker {self.name}" if self.role == "worker" else self.role
        what = f"the {named} of the local cluster (pid {self.pid})"
        if code is None or code >= 0:
            return f"{what} ended with code {code}"
        try:
            number = signal.Signals(-code).name
        except ValueError:
            number = f"signal {-code}"
        return f"{what} was killed by {number}" + (
            " (often the kernel's answer to too little memory)" if number == "SIGKILL" else ""
        )

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


class Watch:
    """Calls `died` on a thread of its own, once for each watched child that has ended."""

    def __init__(self, died: Callable[[Child], None]) -> None:
        self._died = died
        self._lock = threading.Lock()
        self._children: dict[Child, int] = {}  # their descriptors; -1: the kernel gives none
        self._stopped = False
        self._woken, self._wake = os.pipe()
        self._thread = threading.Thread(target=self._run, name="betterbox-cluster", daemon=True)
        _end.start(self._thread)

    def add(self, child: Child) -> None:
        try:
            descriptor = os.pidfd_open(child.pid)
        except OSError:  # an old kernel, or a container's filter
            descriptor = -1
        with self._lock:
            if not self._stopped:
                self._children[child] = descriptor
                os.write(self._wake, b"x")
            elif descriptor >= 0:
                os.close(descriptor)

    def stop(self) -> None:
        """No call of `died` begins from here on."""
        with self._lock:
            if not self._stopped:
                self._stopped = True
                os.write(self._wake, b"x")

    def join(self) -> None:
        """Wait for the thread's end. REQUIRES: it was stopped."""
        if self._thread is not threading.current_thread():
            self._thread.join(_START_TIMEOUT)

    def _run(self) -> None:
        while not self._stopped:
            with self._lock:
                descriptors = [descriptor for descriptor in self._children.values() if descriptor >= 0]
                slices = len(descriptors) < len(self._children)
            poll = select.poll()
            for descriptor in (self._woken, *descriptors):
                poll.register(descriptor, select.POLLIN)
            if any(descriptor == self._woken for descriptor, _ in poll.poll(_LOOK_SECONDS * 1000 if slices else None)):
                os.read(self._woken, 4096)
            self._look()
        with self._lock:
            for descriptor in (self._woken, self._wake, *self._children.values()):
                if descriptor >= 0:
                    os.close(descriptor)

    def _look(self) -> None:
        for child in [child for child in self._children if child.has_ended()]:
            with self._lock:
                descriptor = self._children.pop(child)
                stopped = self._stopped
            if descriptor >= 0:
                os.close(descriptor)
            if not stopped:
                self._died(child)
