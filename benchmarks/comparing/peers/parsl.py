"""Parsl: the high-throughput executor with local workers; chunks as apps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from comparing import work
from comparing.adapter import Peer, chunks


class Parsl(Peer):
    imports = "import parsl"

    def start(self) -> None:
        import parsl
        from parsl.config import Config
        from parsl.executors import HighThroughputExecutor
        from parsl.providers import LocalProvider

        self.lib = parsl
        executor = HighThroughputExecutor(
            label="local",
            max_workers_per_node=self.slots,
            cores_per_worker=1,
            address="127.0.0.1",
            provider=LocalProvider(init_blocks=1, max_blocks=1),
        )
        parsl.load(Config(executors=[executor], run_dir="parsl", usage_tracking=0, strategy="none"))
        self.app = parsl.python_app(work.apply)

    def stop(self) -> None:
        self.lib.dfk().cleanup()

    def submit_one(self, fn: Callable[..., Any], *args: Any) -> Any:
        return self.app(fn, *args).result()

    def submit_all(self, fn: Callable[[int], Any], count: int) -> list[Any]:
        return [future.result() for future in [self.app(fn, number) for number in range(count)]]

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunk: int) -> list[Any]:
        futures = [self.app(work.run_chunk, fn, part) for part in chunks(items, chunk)]
        return [result for future in futures for result in future.result().results]

    def to_all(self, fn: Callable[[Any, int], Any], array: Any) -> list[Any]:
        futures = [self.app(partial(fn, array), number) for number in range(self.slots)]
        return [future.result() for future in futures]
