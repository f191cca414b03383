"""joblib with loky: the processes are kept from one call to the next; large arrays travel as files of /dev/shm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from comparing.adapter import Peer


class Joblib(Peer):
    imports = "import joblib"

    def start(self) -> None:
        import joblib

        self.lib = joblib

    def stop(self) -> None:
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor().shutdown(wait=True, kill_workers=True)

    def submit_one(self, fn: Callable[..., Any], *args: Any) -> Any:
        return self.lib.Parallel(n_jobs=self.slots, batch_size=1)([self.lib.delayed(fn)(*args)])[0]

    def submit_all(self, fn: Callable[[int], Any], count: int) -> list[Any]:
        return self.map(fn, range(count), 1)

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunk: int) -> list[Any]:
        one = self.lib.delayed(fn)
        return list(self.lib.Parallel(n_jobs=self.slots, batch_size=chunk)(one(item) for item in items))

    def to_all(self, fn: Callable[[Any, int], Any], array: Any) -> list[Any]:
        one = self.lib.delayed(fn)
        return list(self.lib.Parallel(n_jobs=self.slots, batch_size=1)(one(array, n) for n in range(self.slots)))
