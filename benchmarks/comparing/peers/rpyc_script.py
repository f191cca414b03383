"""A script that serves an object by RPyC at a Unix socket (first argument)."""

import sys
import time

import rpyc
from rpyc.utils.server import ThreadedServer


class NoOp(rpyc.Service):  # type: ignore[misc]
    def exposed_noop(self, x: object) -> object:
        return x

    def exposed_sleep(self, seconds: float) -> None:
        time.sleep(seconds)


ThreadedServer(NoOp, socket_path=sys.argv[1]).start()
