"""Pyro4: an object of a script, over a Unix socket, the fastest that it offers on one machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from comparing.adapter import Peer

LIMIT = 10.0  # seconds for the script to serve


class Pyro4(Peer):
    imports = "import Pyro4"
    module = "Pyro4"

    def start(self) -> None:
        __import__(self.module)
        socket = os.path.abspath(f"{self.module}.sock")
        self.script = subprocess.Popen([sys.executable, "-m", "comparing.peers.pyro_script", self.module, socket])
        wait_for_socket(socket, self.script)
        self.proxy = sys.modules[self.module].Proxy(f"PYRO:box@./u:{socket}")

    def stop(self) -> None:
        self.proxy._pyroRelease()
        self.script.terminate()
        self.script.wait(5)

    def caller(self) -> Callable[[Any], Any]:
        noop: Callable[[Any], Any] = self.proxy.noop
        return noop

    def wait_idle(self, seconds: float) -> None:
        self.proxy.sleep(seconds)


class Pyro5(Pyro4):
    imports = "import Pyro5.api"
    module = "Pyro5.api"


def wait_for_socket(path: str, script: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + LIMIT
    while not os.path.exists(path):
        if script.poll() is not None:
            raise RuntimeError(f"its script ended with {script.returncode}")
        if time.monotonic() > deadline:
            raise RuntimeError("its script does not serve")
        time.sleep(0.005)
