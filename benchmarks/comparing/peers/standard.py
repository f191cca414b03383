"""The standard library's pools."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial
from typing import Any

from comparing.adapter import Peer


class Pool(Peer):
    """multiprocessing.Pool."""

    imports = "import multiprocessing.pool"

    def start(self) -> None:
        self.pool = multiprocessing.Pool(self.slots)

    def stop(self) -> None:
        self.pool.terminate()
        self.pool.join()

    def submit_one(self, fn: Callable[..., Any], *args: Any) -> Any:
        return self.pool.apply(fn, args)

    def submit_all(self, fn: Callable[[int], Any], count: int) -> list[Any]:
        return [waiting.get() for waiting in [self.pool.apply_async(fn, (number,)) for number in range(count)]]

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunk: int) -> list[Any]:
        return self.pool.map(fn, items, chunk)

    def to_all(self, fn: Callable[[Any, int], Any], array: Any) -> list[Any]:
        return self.pool.map(partial(fn, array), range(self.slots), 1)


class Futures(Peer):
    """What every ``concurrent.futures.Executor`` does the same way; `make` starts one."""

    def make(self) -> Executor:
        raise NotImplementedError

    def start(self) -> None:
        self.pool = self.make()

    def stop(self) -> None:
        self.pool.shutdown(cancel_futures=True)

    def submit_one(self, fn: Callable[..., Any], *args: Any) -> Any:
        return self.pool.submit(fn, *args).result()

    def submit_all(self, fn: Callable[[int], Any], count: int) -> list[Any]:
        return [future.result() for future in [self.pool.submit(fn, number) for number in range(count)]]

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunk: int) -> list[Any]:
        return list(self.pool.map(fn, items, chunksize=chunk))

    def to_all(self, fn: Callable[[Any, int], Any], array: Any) -> list[Any]:
        return list(self.pool.map(partial(fn, array), range(self.slots)))


class ProcessPool(Futures):
    """concurrent.futures.ProcessPoolExecutor."""

    imports = "import concurrent.futures.process"

    def make(self) -> Executor:
        return ProcessPoolExecutor(self.slots)
