"""Large results, replies, items and arguments through shared memory: equal, private, freed, and lost without harm."""

from __future__ import annotations

import functools
import gc
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import betterbox
import numpy as np
import pytest
from betterbox import _core

BIG = 1 << 17  # float64: a megabyte
RECORD = np.dtype([("a", "f8"), ("b", "i4")])


class Keeper(betterbox.RemoteBox):
    def __init__(self) -> None:
        self.order: list[int] = []
        self.kept: Any = None

    def give(self, value: float) -> Any:
        return np.full(BIG, value)

    def echo(self, value: Any) -> Any:
        return value

    def note(self, number: int, ballast: Any) -> int:
        self.order.append(number)
        return len(ballast)

    def noted(self) -> list[int]:
        return self.order

    def keep(self, value: Any) -> float:
        self.kept = value
        return float(value[0])

    def kept_sum(self) -> float:
        return float(self.kept.sum())


def full(value: float) -> Any:
    return np.full(BIG, value)


def echo(value: Any) -> Any:
    return value


def first(value: Any) -> float:
    return float(value[0])


def mapped_files() -> set[str]:
    """Names of files of others in shared memory that this process maps or has open."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    names = {line.rpartition("/")[2].removesuffix(" (deleted)") for line in lines if "/dev/shm/betterbox-" in line}
    return {name for name in names if not name.startswith(_core.segment_prefix())}


def size_of_files(prefix: str) -> int:
    size = 0
    for path in Path("/dev/shm").glob(prefix + "*"):
        try:
            size += path.stat().st_size
        except FileNotFoundError:
            pass  # renamed or removed meanwhile
    return size


def pids_of_slots(count: int) -> list[int]:
    return sorted(set(betterbox.map(lambda _: os.getpid(), range(count * 8)).result(30)))


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        gc.collect()
        time.sleep(0.01)


@pytest.fixture
def workers(home: Path) -> Iterator[None]:
    with betterbox.LocalCluster(slots=2):
        yield


VALUES = {
    "plain": np.arange(BIG, dtype="f8"),
    "fortran": np.asfortranarray(np.arange(BIG, dtype="f4").reshape(256, -1)),
    "strided": np.arange(2 * BIG)[::2],
    "records": np.zeros(BIG, RECORD),
    "bytes": b"x" * (1 << 20),
    "bytearray": bytearray(b"y" * (1 << 20)),
    "nested": [np.ones(BIG), {"inside": np.arange(BIG)}, b"small", np.arange(3)],
    "scalar shape": np.ones((1, 1, BIG)),
}


def assert_equal(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, list):
        for a, b in zip(one, other, strict=True):
            assert_equal(a, b)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    else:
        assert one == other


@pytest.mark.parametrize("value", VALUES.values(), ids=list(VALUES))
def test_values_come_back_equal(workers: None, value: Any) -> None:
    assert_equal(betterbox.submit(echo, value).result(30), value)
    for back in betterbox.map(echo, [value, value]).result(30):
        assert_equal(back, value)


def test_a_result_is_mapped_not_copied(workers: None) -> None:
    result = betterbox.submit(full, 3.0).result(30)
    assert len(mapped_files()) == 1
    assert result.flags.writeable
    del result
    eventually(lambda: not mapped_files())


def test_a_value_fetched_twice_is_two_values(workers: None) -> None:
    promise = betterbox.submit(full, 1.0)
    value = promise.result(30)
    value[:] = 9.0
    call = betterbox.map(full, [1.0, 1.0])
    call.any(30)[:] = 9.0
    assert [float(array[5]) for array in call.result(30)] == [1.0, 1.0]


def test_results_outlive_the_slots_that_made_them(home: Path) -> None:
    with betterbox.LocalCluster(slots=2):
        promise = betterbox.map(full, [1.0, 2.0, 3.0])
        results = promise.result(30)
    assert [float(array.sum()) for array in results] == [BIG, 2.0 * BIG, 3.0 * BIG]


def test_results_not_yet_decoded_outlive_their_slots(home: Path) -> None:
    with betterbox.LocalCluster(slots=2):
        promise = betterbox.map(full, [1.0, 2.0, 3.0])
        eventually(promise.done)
    assert [float(array[0]) for array in promise.result(30)] == [1.0, 2.0, 3.0]


def test_a_slot_killed_after_it_has_sent_leaves_its_values(workers: None) -> None:
    promise = betterbox.map(full, [1.0, 2.0, 3.0])
    eventually(promise.done)
    pids = pids_of_slots(2)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    arrays = promise.result(30)
    assert [float(array[-1]) for array in arrays] == [1.0, 2.0, 3.0]
    names = mapped_files()
    del arrays, promise
    eventually(lambda: not any(Path("/dev/shm", name).exists() for name in names))


def test_promises_dropped_unread_free_their_values(workers: None) -> None:
    for round_ in range(40):
        promise = betterbox.map(full, [float(round_)] * 4)
        eventually(promise.done)
        del promise
    prefixes = set(betterbox.map(lambda _: _core.segment_prefix(), range(16)).result(30))

    assert sum(map(size_of_files, prefixes)) <= 24 * 8 * BIG


def test_generators_of_large_arrays_run_in_bounded_memory(workers: None) -> None:
    seen = []

    def arrays() -> Iterator[Any]:
        for i in range(300):
            yield np.full(4 * BIG, float(i))
            seen.append(size_of_files(_core.segment_prefix()))

    assert sum(betterbox.map(first, arrays()).result(120)) == sum(range(300))
    assert max(seen) <= 600 << 20


def test_folds_of_arrays_come_back(workers: None) -> None:
    total = betterbox.options(reduce=np.add).map(full, [1.0] * 20).result(30)
    assert float(total.sum()) == 20.0 * BIG


def test_direct_calls_take_and_give_large_values(home: Path) -> None:
    with betterbox.LocalCluster(slots=1), betterbox.deploy(Keeper, 8090):
        box: Any = betterbox.RemoteBox.connect(8090)
        for value in VALUES.values():
            assert_equal(box.echo(value).result(30), value)
        promises = [box.note(i, np.ones(BIG) if i % 3 == 0 else [i]) for i in range(60)]
        assert [promise.result(30) for promise in promises] == [BIG if i % 3 == 0 else 1 for i in range(60)]
        assert box.noted().result(30) == list(range(60))


def test_an_argument_that_a_box_keeps_stays_as_it_was(home: Path) -> None:
    with betterbox.LocalCluster(slots=1), betterbox.deploy(Keeper, 8090):
        box: Any = betterbox.RemoteBox.connect(8090)
        assert box.keep(np.full(BIG, 2.0)).result(30) == 2.0
        for _ in range(10):
            box.echo(np.full(BIG, 7.0)).result(30)
        assert box.kept_sum().result(30) == 2.0 * BIG


def test_retries_find_their_items(workers: None, tmp_path: Path) -> None:
    def die_once(value: Any) -> float:
        mark = tmp_path / str(int(value[0]))
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return float(value.sum())

    results = betterbox.map(die_once, [np.full(BIG, float(i)) for i in range(4)]).result(60)
    assert results == [float(i) * BIG for i in range(4)]


def test_boxes_of_a_script_take_and_give_large_values(home: Path) -> None:
    with betterbox.serve(Keeper(), 8090, block=False):
        box: Any = betterbox.RemoteBox.connect(8090)
        for value in VALUES.values():
            assert_equal(box.echo(value).result(30), value)
        given = box.give(3.0).result(30)
        given[:] = 0.0
        assert float(box.give(3.0).result(30).sum()) == 3.0 * BIG


def test_cancelled_calls_leave_nothing_mapped(workers: None) -> None:
    for _ in range(10):
        promise = betterbox.map(full, [1.0] * 50)
        promise.cancel()
    assert float(betterbox.submit(full, 4.0).result(30)[0]) == 4.0
    del promise
    eventually(lambda: not mapped_files())


def test_many_values_are_held_with_few_descriptors(workers: None) -> None:
    before = len(os.listdir("/proc/self/fd"))
    arrays = betterbox.map(functools.partial(np.full, BIG // 2), [float(i) for i in range(600)]).result(120)
    assert len(os.listdir("/proc/self/fd")) < before + 300
    assert [float(array[0]) for array in arrays] == [float(i) for i in range(600)]


def test_a_large_argument_of_a_submission_is_not_carried(workers: None) -> None:
    values = [np.full(BIG, float(i)) for i in range(20)]
    promises = [betterbox.submit(first, value) for value in values]
    assert [promise.result(30) for promise in promises] == [float(i) for i in range(20)]
    assert size_of_files(_core.segment_prefix()) > 0


def test_nothing_goes_through_shared_memory_where_it_is_turned_off(home: Path, scripts: Any) -> None:
    output = scripts.run(
        "inline_results.py",
        """
        import glob, os
        os.environ["BETTERBOX_SHARED_BYTES"] = "0"
        import betterbox, numpy as np
        def double(data):
            return data * 2
        if __name__ == "__main__":
            with betterbox.LocalCluster(slots=1):
                data = betterbox.submit(double, np.ones(1 << 17)).result(30)
                print(float(data.sum()), type(data.base).__name__)
                print(float(betterbox.map(double, [np.ones(1 << 17)]).result(30)[0][5]))
                print(glob.glob(f"/dev/shm/{betterbox._core.segment_prefix()}*"))
        """,
    )
    assert output.splitlines() == ["262144.0 NoneType", "2.0", "[]"]
