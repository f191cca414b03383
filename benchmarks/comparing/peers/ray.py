"""Ray: a task for each submission, chunks as tasks, an actor for calls, large arrays put into its store."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from comparing import work
from comparing.adapter import Peer, chunks


class NoOp:
    def noop(self, x: Any) -> Any:
        return x


class Ray(Peer):
    imports = "import ray"

    def start(self) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        import ray

        self.lib = ray
        ray.init(
            num_cpus=self.slots,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=4 * 2**30,
            runtime_env={"env_vars": {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}},
        )
        self.tasks: dict[int, Any] = {}

    def stop(self) -> None:
        self.lib.shutdown()

    def _task(self, fn: Callable[..., Any]) -> Any:
        """A function becomes a task once."""
        return self.tasks.setdefault(id(fn), (fn, self.lib.remote(num_cpus=1)(_plain(fn))))[1]

    def caller(self) -> Callable[[Any], Any]:
        actor = self.lib.remote(num_cpus=0)(NoOp).remote()
        get, noop = self.lib.get, actor.noop
        return lambda x: get(noop.remote(x))

    def submit_one(self, fn: Callable[..., Any], *args: Any) -> Any:
        return self.lib.get(self._task(fn).remote(*args))

    def submit_all(self, fn: Callable[[int], Any], count: int) -> list[Any]:
        task = self._task(fn)
        return list(self.lib.get([task.remote(number) for number in range(count)]))

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunk: int) -> list[Any]:
        task = self._task(work.run_chunk)
        pages = self.lib.get([task.remote(fn, part) for part in chunks(items, chunk)])
        return [result for page in pages for result in page.results]

    def to_all(self, fn: Callable[[Any, int], Any], array: Any) -> list[Any]:
        there = self.lib.put(array)
        task = self._task(_call_with)
        return list(self.lib.get([task.remote(fn, there, number) for number in range(self.slots)]))


def _call_with(fn: Callable[[Any, int], Any], array: Any, number: int) -> Any:
    return fn(array, number)


def _plain(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A function of its own: Ray takes no partial objects for tasks."""

    def call(*args: Any) -> Any:
        return fn(*args)

    return call
