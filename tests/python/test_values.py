"""Large fixed arguments of a map: mapped from shared memory, as they were at the call, private to each slot."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import betterbox
import numpy as np
import pytest
from betterbox import _core

BIG = 1 << 17  # float64: a megabyte
RECORD = np.dtype([("a", "f8"), ("b", "i4")])


def segments() -> int:
    """Bytes in shared memory that this process made."""
    files = Path("/dev/shm").glob(f"{_core.segment_prefix()}*")
    return sum(file.stat().st_size for file in files)


def write_and_look(data: Any, item: float) -> tuple[float, float]:
    data[0] += item
    return float(data[0]), float(data[-1])


def give_back(data: Any, _: int) -> Any:
    return data


def run(fn: Any, data: Any, items: list[Any]) -> list[Any]:
    results: list[Any] = betterbox.map(functools.partial(fn, data), items).result(30)
    return results


@pytest.fixture
def workers(home: Path) -> Iterator[None]:
    with betterbox.LocalCluster(slots=2):
        yield


@pytest.mark.parametrize(
    "value",
    [
        np.arange(BIG, dtype="f8"),
        np.asfortranarray(np.arange(BIG, dtype="f4").reshape(256, -1)),
        np.arange(2 * BIG)[::2],
        np.zeros(BIG, RECORD),
        np.zeros((0, 5)),
        b"x" * BIG,
        bytearray(b"y" * BIG),
        [np.ones(BIG), {"inside": np.arange(BIG)}],
    ],
    ids=["plain", "fortran", "strided", "records", "empty", "bytes", "bytearray", "nested"],
)
def test_values_arrive_equal(workers: None, value: Any) -> None:
    [arrived] = run(give_back, value, [0])
    if isinstance(value, list):
        assert np.array_equal(arrived[0], value[0]) and np.array_equal(arrived[1]["inside"], value[1]["inside"])
    elif isinstance(value, np.ndarray):
        assert arrived.dtype == value.dtype and np.array_equal(arrived, value)
        assert arrived.flags.f_contiguous or not value.flags.f_contiguous
    else:
        assert arrived == value


def test_what_a_slot_writes_stays_with_it(workers: None) -> None:
    data = np.zeros(BIG)
    run(write_and_look, data, [1.0, 1.0])
    assert data[0] == 0.0
    assert run(write_and_look, data, [5.0]) == [(5.0, 0.0)]


def test_an_argument_is_as_it_was_at_the_call(workers: None) -> None:
    data = np.zeros(BIG)
    promise = betterbox.map(functools.partial(write_and_look, data), [1.0])
    data[:] = 7.0
    assert promise.result(30) == [(1.0, 0.0)]


def test_many_calls_do_not_grow_shared_memory(workers: None) -> None:
    data = np.zeros(BIG)
    before = segments()
    for round_ in range(20):
        data[-1] = round_
        assert run(write_and_look, data, [1.0]) == [(1.0, float(round_))]
    assert 0 < segments() <= before + 8 * data.nbytes


def test_without_room_the_bytes_travel_themselves(home: Path, scripts: Any) -> None:
    output = scripts.run(
        "inline.py",
        """
        import functools, glob, os
        os.environ["BETTERBOX_SHARED_BYTES"] = "0"
        import betterbox, numpy as np
        def write(data, item):
            data[0] += item
            return float(data[0] + data[-1])
        if __name__ == "__main__":
            with betterbox.LocalCluster(slots=1):
                print(betterbox.map(functools.partial(write, np.ones(1 << 17)), [1.0]).result(30))
                print(glob.glob(f"/dev/shm/{betterbox._core.segment_prefix()}*"))
        """,
    )
    assert output.splitlines() == ["[3.0]", "[]"]
