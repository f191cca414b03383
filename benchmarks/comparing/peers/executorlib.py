"""executorlib: an executor whose workers stay (block allocation), with ZeroMQ between."""

from __future__ import annotations

from concurrent.futures import Executor
from typing import Any

from comparing.peers.standard import Futures


class ExecutorLib(Futures):
    imports = "import executorlib; executorlib.SingleNodeExecutor"

    def make(self) -> Executor:
        import executorlib

        pool: Any = executorlib.SingleNodeExecutor(max_workers=self.slots, block_allocation=True)
        return pool  # type: ignore[no-any-return]
