"""BetterBox: a private scheduler and a worker; for calls a box in a script of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from comparing.adapter import Peer

PORT = 8090


class BetterBox(Peer):
    imports = "import betterbox; betterbox.map, betterbox.RemoteBox"

    def start(self) -> None:
        import betterbox

        self.lib = betterbox
        self.cluster = betterbox.LocalCluster(slots=self.slots)
        self.script: subprocess.Popen[bytes] | None = None
        self.box: Any = None

    def stop(self) -> None:
        if self.script is not None:
            self.script.terminate()
            self.script.wait(5)
        self.cluster.close()

    def caller(self) -> Callable[[Any], Any]:
        if self.box is None:
            self.script = subprocess.Popen([sys.executable, "-m", "comparing.peers.betterbox_script"])
            self.box = self.lib.RemoteBox.connect(PORT, timeout=15)
        noop = self.box.noop
        return lambda x: noop(x).result()

    def submit_one(self, fn: Callable[..., Any], *args: Any) -> Any:
        return self.lib.submit(fn, *args).result()

    def submit_all(self, fn: Callable[[int], Any], count: int) -> list[Any]:
        submit = self.lib.submit
        return [promise.result() for promise in [submit(fn, number) for number in range(count)]]

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunk: int) -> list[Any]:
        return list(self.lib.map(fn, items).result())

    def to_all(self, fn: Callable[[Any, int], Any], array: Any) -> list[Any]:
        return list(self.lib.map(partial(fn, array), range(self.slots)).result())
