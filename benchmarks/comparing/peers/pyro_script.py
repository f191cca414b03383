"""A script that serves an object by Pyro4 or Pyro5 (first argument) at a Unix socket (second)."""

import importlib
import sys
import time

pyro = importlib.import_module(sys.argv[1])


@pyro.expose
class NoOp:
    def noop(self, x: object) -> object:
        return x

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


with pyro.Daemon(unixsocket=sys.argv[2]) as daemon:
    daemon.register(NoOp(), "box")
    daemon.requestLoop()
