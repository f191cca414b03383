"""What tests of the Python package share: running scripts, waiting for things."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import betterbox
import pytest

LONG = 30.0  # seconds: longer than anything takes that works


def _own_store_works() -> bool:
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"]
    try:
        return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0
    except OSError:
        return False


needs_own_store = pytest.mark.skipif(
    not _own_store_works(), reason="a /dev/shm of its own needs root (unshare --mount, mount)"
)


def wait_until(condition: Callable[[], object], what: str | Callable[[], str], timeout: float = LONG) -> None:
    """Wait for a condition; fail with `what` if it does not come."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"timed out: {what if isinstance(what, str) else what()}")
        time.sleep(0.01)


def processes_of(home: Path) -> dict[int, str]:
    """Processes (but this one) that have `home` as their BETTERBOX_HOME, with their command lines.

    A sweeper that has swept its bus is none: while values of other buses wait in /dev/shm it stays for a minute.
    """
    found = {}
    mark = f"BETTERBOX_HOME={home}\0".encode()
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            if mark in Path(f"/proc/{entry}/environ").read_bytes():
                command = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if command and Path(f"/proc/{entry}/comm").read_bytes() != b"betterbox-rest\n":  # nor a zombie
                    found[int(entry)] = command
        except OSError:
            pass
    return found


class Running:
    """A script in a process of its own, its output in a file."""

    def __init__(self, command: list[str], output: Path, env: dict[str, str], cwd: Path) -> None:
        self.output_file = output
        with open(output, "wb") as stream:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, env=env, cwd=cwd
            )
        self.pid = self.process.pid

    @property
    def output(self) -> str:
        return self.output_file.read_text()

    def wait_for(self, text: str) -> None:
        def there() -> bool:
            if text in self.output:
                return True
            if self.process.poll() is not None and text not in self.output:
                pytest.fail(f"ended with {self.process.returncode} before it printed {text!r}:\n{self.output}")
            return False

        wait_until(there, f"{text!r} in:\n{self.output}")

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait; the exit code."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self, timeout: float = LONG) -> int:
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            pytest.fail(f"did not end; it printed:\n{self.output}")


class Scripts:
    """Starts scripts in a folder; ends them all at teardown."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: list[Running] = []

    def command(self, *args: str, python: str = sys.executable, **env: str) -> Running:
        """Start ``python ARGS``."""
        package = str(Path(betterbox.__file__).parent.parent)
        path = os.pathsep.join([package, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        full = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **env}
        output = self.folder / f"output-{len(self.running)}"
        running = Running([python, *args], output, full, self.folder)
        self.running.append(running)
        return running

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(textwrap.dedent(text))
        return path

    def start(self, name: str, text: str, *args: str, **env: str) -> Running:
        """Write a script and start it."""
        return self.command(str(self.write(name, text)), *args, **env)

    def run(self, name: str, text: str, *args: str, **env: str) -> str:
        """Write a script, run it to its end, and return what it printed."""
        running = self.start(name, text, *args, **env)
        code = running.wait()
        assert code == 0, running.output
        return running.output

    def cli(self, *args: str, **env: str) -> Running:
        """Start ``betterbox ARGS``."""
        return self.command("-m", "betterbox", *args, **env)

    def cli_output(self, *args: str, **env: str) -> str:
        """Run ``betterbox ARGS`` to its end, and return what it printed."""
        running = self.cli(*args, **env)
        assert running.wait() == 0, running.output
        return running.output

    def end(self) -> None:
        """Stop those still running with SIGTERM."""
        for running in self.running:
            if running.process.poll() is None:
                running.process.terminate()
        for running in self.running:
            running.wait()
