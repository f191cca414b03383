"""HyperQueue: a local server and worker; tasks are processes, so it is measured by submissions and start-up only."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from comparing.adapter import Peer


class HyperQueue(Peer):
    imports = "import hyperqueue"

    def start(self) -> None:
        from hyperqueue import Job, LocalCluster
        from hyperqueue.cluster import WorkerConfig

        self.job = Job
        self.cluster = LocalCluster()
        self.cluster.start_worker(WorkerConfig(cores=self.slots))
        self.client = self.cluster.client()

    def stop(self) -> None:
        self.cluster.stop()

    def submit_one(self, fn: Callable[..., Any], *args: Any) -> Any:
        """A task gives no value back: its result is written to a file, as its documentation does."""
        return self._run(fn, [args])[0]

    def submit_all(self, fn: Callable[[int], Any], count: int) -> list[Any]:
        return self._run(fn, [(number,) for number in range(count)])

    def _run(self, fn: Callable[..., Any], every: list[tuple[Any, ...]]) -> list[Any]:
        import pickle
        import tempfile

        with tempfile.TemporaryDirectory(dir=".") as folder:
            places = [os.path.abspath(f"{folder}/{number}") for number in range(len(every))]
            job = self.job()
            for place, args in zip(places, every):
                job.function(keep, args=(place, fn, args))
            self.client.wait_for_jobs([self.client.submit(job)])
            results = []
            for place in places:
                with open(place, "rb") as stream:
                    results.append(pickle.load(stream))
            return results


def keep(place: str, fn: Callable[..., Any], args: tuple[Any, ...]) -> None:
    import pickle

    with open(place, "wb") as stream:
        pickle.dump(fn(*args), stream)
