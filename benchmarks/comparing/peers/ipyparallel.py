"""ipyparallel: a controller and an engine per slot; calls go to one engine directly, the rest by the balanced view."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from comparing import work
from comparing.adapter import Peer


class IpyParallel(Peer):
    imports = "import ipyparallel"

    def start(self) -> None:
        os.environ["IPYTHONDIR"] = os.path.abspath("ipython")
        import ipyparallel

        self.cluster = ipyparallel.Cluster(n=self.slots)
        self.client = self.cluster.start_and_connect_sync()
        self.client.wait_for_engines(self.slots, timeout=40)
        self.direct = self.client[:]
        self.balanced = self.client.load_balanced_view()

    def stop(self) -> None:
        self.client.close()
        self.cluster.stop_cluster_sync()

    def caller(self) -> Callable[[Any], Any]:
        engine = self.client[0]
        return lambda x: engine.apply_sync(work.noop, x)

    def submit_one(self, fn: Callable[..., Any], *args: Any) -> Any:
        return self.balanced.apply_sync(fn, *args)

    def submit_all(self, fn: Callable[[int], Any], count: int) -> list[Any]:
        submit = self.balanced.apply_async
        return [waiting.get() for waiting in [submit(fn, number) for number in range(count)]]

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunk: int) -> list[Any]:
        return list(self.balanced.map_sync(fn, items, chunksize=chunk))

    def to_all(self, fn: Callable[[Any, int], Any], array: Any) -> list[Any]:
        return list(self.direct.apply_sync(fn, array, 0))
