"""Dask distributed: a scheduler in the client's process and a worker process per slot; an actor for calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from comparing import work
from comparing.adapter import Peer, chunks


class Actor:
    def noop(self, x: Any) -> Any:
        return x


class Dask(Peer):
    imports = "import distributed"

    def start(self) -> None:
        import distributed

        self.cluster = distributed.LocalCluster(
            n_workers=self.slots, threads_per_worker=1, processes=True, dashboard_address=None
        )
        self.client = distributed.Client(self.cluster)
        self.client.wait_for_workers(self.slots)

    def stop(self) -> None:
        self.client.close()
        self.cluster.close()

    def caller(self) -> Callable[[Any], Any]:
        actor = self.client.submit(Actor, actor=True).result()
        return lambda x: actor.noop(x).result()

    def submit_one(self, fn: Callable[..., Any], *args: Any) -> Any:
        return self.client.submit(fn, *args, pure=False).result()

    def submit_all(self, fn: Callable[[int], Any], count: int) -> list[Any]:
        submit = self.client.submit
        return list(self.client.gather([submit(fn, number, pure=False) for number in range(count)]))

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunk: int) -> list[Any]:
        futures = self.client.map(work.run_chunk, [fn] * -(-len(items) // chunk), chunks(items, chunk), pure=False)
        return [result for page in self.client.gather(futures) for result in page.results]

    def to_all(self, fn: Callable[[Any, int], Any], array: Any) -> list[Any]:
        there = self.client.scatter(array, broadcast=True, hash=False)
        workers = list(self.client.scheduler_info()["workers"])
        futures = [
            self.client.submit(fn, there, number, workers=[worker], pure=False) for number, worker in enumerate(workers)
        ]
        return list(self.client.gather(futures))
