"""RPyC: a service of a script, over a Unix socket, the fastest that it offers on one machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from comparing.adapter import Peer
from comparing.peers.pyro4 import wait_for_socket


class Rpyc(Peer):
    imports = "import rpyc"

    def start(self) -> None:
        import rpyc

        socket = os.path.abspath("rpyc.sock")
        self.script = subprocess.Popen([sys.executable, "-m", "comparing.peers.rpyc_script", socket])
        wait_for_socket(socket, self.script)
        self.connection = rpyc.utils.factory.unix_connect(socket, config={"sync_request_timeout": None})

    def stop(self) -> None:
        self.connection.close()
        self.script.terminate()
        self.script.wait(5)

    def caller(self) -> Callable[[Any], Any]:
        noop: Callable[[Any], Any] = self.connection.root.noop
        return noop

    def wait_idle(self, seconds: float) -> None:
        self.connection.root.sleep(seconds)
