"""Short results travel as columns, and NumPy arrays as slices: what arrives is what was meant, of the same types."""

from __future__ import annotations

import math
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import betterbox


@pytest.fixture(scope="module")
def shared_cluster() -> Iterator[betterbox.LocalCluster]:
    with betterbox.LocalCluster(slots=2) as cluster:
        yield cluster


@pytest.fixture
def bus(home: Path, shared_cluster: betterbox.LocalCluster, monkeypatch: pytest.MonkeyPatch) -> betterbox.LocalCluster:
    monkeypatch.setenv("BETTERBOX_BUS", shared_cluster.bus)
    return shared_cluster


class Whole(int):
    """An int that is more than one."""


VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2**63 - 1, -(2**63), 2**63, -(2**63) - 1, 10**40, 0.0, -0.0, 1.5, math.inf, -math.inf,
    math.nan, "", "text", "é", b"", b"bytes", (1, 2), [], {"a": 1}, Whole(7), 1j,
    np.float64(2.5), np.float32(0.1), np.float16(3), np.int8(-3), np.uint8(200), np.int64(-(2**63)), np.uint64(2**64 - 1),
    np.bool_(True), np.complex64(1 + 2j), np.complex128(1 - 2j), np.longdouble(1.5), np.str_("s"),
    np.datetime64("2020-02-02"), np.arange(3), np.array(5),
]  # fmt: skip


def same(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if type(a) is np.ndarray:
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, (float, np.generic, np.ndarray)):
        return repr(a) == repr(b) and (not isinstance(a, np.generic) or a.dtype == b.dtype)
    return bool(a == b)


def value_at(seed: int, longest: int, index: int) -> Any:
    """Runs of one type, of random lengths, some with an error in between."""
    draw = random.Random(seed * 1_000_003 + index // longest)
    kind = draw.randrange(8)
    if kind == 0 and index % longest == longest // 2:
        raise ValueError(f"item {index}")
    pools: list[Any] = [[None], [True, False], [index, -index], [index / 7], [np.float64(index)], [np.int16(index % 99)]]
    return random.Random(index).choice([*pools, VALUES, VALUES][kind])


@pytest.mark.parametrize("longest", [1, 3, 40, 1000])
def test_results_of_mixed_types_keep_their_types_and_places(bus: Any, longest: int) -> None:
    for seed in range(3):
        def run(index: int, seed: int = seed) -> Any:
            return value_at(seed, longest, index)

        got = betterbox.map(run, range(6000)).all(return_exceptions=True)
        for index, value in enumerate(got):
            try:
                wanted = value_at(seed, longest, index)
            except ValueError as error:
                assert isinstance(value, ValueError) and str(value) == str(error)
            else:
                assert same(value, wanted), (index, value, wanted)


def test_iterating_and_as_completed_give_the_same_as_the_list(bus: Any) -> None:
    def run(index: int) -> Any:
        if index % 1700 == 3:
            raise KeyError(index)
        return None if index % 5000 < 2500 else index

    def taken(iterator: Any, wrap: Any) -> list[Any]:
        got = []
        while True:
            try:
                got.append(next(iterator))
            except StopIteration:
                return got
            except KeyError as error:
                got.append(wrap(error.args[0]))

    wanted = [("error", i) if i % 1700 == 3 else None if i % 5000 < 2500 else i for i in range(20_000)]
    for items in (range(20_000), (i for i in range(20_000))):
        promise = betterbox.map(run, items)
        assert taken(iter(promise), lambda i: ("error", i)) == wanted
    for items in (range(20_000), (i for i in range(20_000))):
        promise = betterbox.map(run, items)
        pairs = taken(promise.as_completed(), lambda i: (i, ("error", i)))
        assert sorted(index for index, _ in pairs) == list(range(20_000))
        assert all(wanted[index] == value for index, value in pairs)
    again = betterbox.map(run, range(20_000))
    orders = [[index for index, _ in taken(again.as_completed(), lambda i: (i, None))] for _ in range(2)]
    assert orders[0] == orders[1]


def test_short_results_outlive_a_slot_that_is_killed_among_them(bus: Any, tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    def run(index: int) -> int:
        if index == 50_000:
            with ran.open("a") as file:
                file.write(f"{index}\n")
            os.kill(os.getpid(), signal.SIGKILL)
        if index > 50_000:
            time.sleep(0)
        return index

    promise = betterbox.map(run, range(60_000), retries=1)
    got = promise.all(return_exceptions=True)
    assert isinstance(got[50_000], betterbox.PoisonedItemError)
    assert [i for i, value in enumerate(got) if value is not got[50_000] and value != i] == []
    assert ran.read_text().split() == ["50000"] * 2  # the suspect was this item, each time


def test_no_item_but_the_suspect_runs_twice(bus: Any, tmp_path: Path) -> None:
    counts = tmp_path / "counts"
    counts.write_bytes(bytes(3000))

    def run(index: int) -> int:
        with counts.open("r+b") as file:
            file.seek(index)
            before = file.read(1)[0]
            file.seek(index)
            file.write(bytes([before + 1]))
        if index == 1500 and before == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return index

    assert betterbox.map(run, range(3000)).result() == list(range(3000))
    seen = counts.read_bytes()
    assert [i for i, count in enumerate(seen) if count != 1] == [1500]


def test_a_long_item_behind_short_ones_holds_no_others_back(bus: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    def run(index: int) -> int:
        while index == 5000 and not gate.exists():
            time.sleep(0.01)
        return index

    promise = betterbox.map(run, range(100_000))
    landed = promise.as_completed()
    first = [next(landed) for _ in range(99_999)]
    assert 5000 not in dict(first)
    gate.touch()
    assert next(landed) == (5000, 5000)


ARRAYS: list[Any] = [
    *[np.arange(-500, 500).astype(dtype) for dtype in ("i1", "u2", "i4", "u8", "f2", "f4", "f8", "c8", "c16", "?", "g")],
    np.arange(1000).astype(">i4"), np.arange(2000)[::2], np.arange(1000)[::-1],
    np.array(["a", "bc"]), np.array([1, None, "x"], dtype=object), np.array(["2020-01-01"], dtype="M8[D]"),
    np.zeros(3, dtype=[("a", "i4"), ("b", "f8")]), np.arange(12.0).reshape(4, 3), np.arange(24).reshape(2, 3, 4),
    np.arange(24).reshape(4, 6).T, np.zeros((5, 0)), np.zeros((0, 5)), np.arange(0), np.ones((3, 100_000), dtype="f4"),
    np.ma.masked_array([1, 2, 3], mask=[0, 1, 0]),
]  # fmt: skip


@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{type(a).__name__}-{a.dtype.str}-{a.shape}")
def test_items_of_an_array_are_what_iterating_it_gives(bus: Any, array: Any) -> None:
    def described(item: Any) -> Any:
        alone = getattr(item, "base", None) is None or item.nbytes >= 1 << 18  # a large one is a mapping of its own
        return type(item).__name__, str(getattr(item, "dtype", "")), repr(item), alone

    got = betterbox.map(described, array).result()
    wanted = [described(item) for item in array]
    assert [each[:3] for each in got] == [each[:3] for each in wanted]
    assert all(alone for *_, alone in got) or type(array) is not np.ndarray  # rows are nobody else's
    assert all(same(a, b) for a, b in zip(betterbox.map(lambda x: x, array).result(), array, strict=True))


def test_a_large_array_is_cut_anywhere_and_comes_back_in_order(bus: Any) -> None:
    array = np.random.default_rng(1).standard_normal(300_000)
    back = betterbox.map(lambda x: x, array).result()
    assert all(type(x) is np.float64 for x in back)
    assert np.array_equal(np.array(back), array)
    rows = array.reshape(-1, 3)
    assert np.array_equal(np.array(betterbox.map(lambda row: row * 2, rows).result()), rows * 2)
    sums = betterbox.map(lambda row: row.sum(), rows)
    assert sums.compute(sum) == pytest.approx(array.sum())


def test_an_array_changed_after_the_call_is_sent_as_it_was(bus: Any) -> None:
    array = np.arange(100_000)
    promise = betterbox.map(lambda x: x, array)
    array[:] = -1
    assert promise.result() == list(range(100_000))


def test_arrays_go_with_other_arguments_and_costs(bus: Any) -> None:
    a, b = np.arange(1000), np.arange(1000) / 2
    assert betterbox.map(lambda x, y: x + y, a, b).result() == list(a + b)
    assert betterbox.map(lambda x, y: x + y, a, range(1000)).result() == list(2 * a)
    assert betterbox.map(lambda x: x, a, cost=[1.0] * 1000).result() == list(a)
    assert betterbox.map(lambda x: x, a, cost=lambda x: float(x) + 1).result() == list(a)
    assert betterbox.map(lambda x: x, a, reduce=lambda x, y: x + y).result() == a.sum()
