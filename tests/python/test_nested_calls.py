"""Functions, maps and boxes that make calls and wait for them, on one slot and two."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import betterbox
import nested_work
import pytest
from betterbox import DeadlockError, LocalCluster, RemoteBox, deploy
from helpers import LONG, wait_until


@pytest.fixture
def one_slot(home: Path) -> Iterator[LocalCluster]:
    with LocalCluster(slots=1) as made:
        yield made


@pytest.fixture(params=[1, 2])
def slots(home: Path, request: pytest.FixtureRequest) -> Iterator[LocalCluster]:
    with LocalCluster(slots=request.param) as made:
        yield made


WAYS = ["result", "all", "compute", "iteration", "as_completed", "submissions", "any", "executor", "polling", "await"]


def test_a_call_that_finds_its_client_at_rest_is_seen_to_be_waited_for() -> None:
    with LocalCluster(slots=1):
        assert betterbox.submit(nested_work.polls_after_a_rest, 0.2).result(LONG) == 6


def test_items_wait_for_their_own_calls_in_every_way(slots: LocalCluster) -> None:
    sums = betterbox.map(nested_work.waits_in, WAYS, [3] * len(WAYS)).result(LONG)
    assert dict(zip(WAYS, sums)) == dict.fromkeys(WAYS, 6)


def test_recursions_end(slots: LocalCluster) -> None:
    assert betterbox.submit(nested_work.fib, 4).result(LONG) == 3
    assert betterbox.submit(nested_work.down, 8).result(LONG) == 8
    assert betterbox.submit(nested_work.quicksort, [2, 1, 3]).result(LONG) == [1, 2, 3]


def test_a_value_that_a_nested_call_returns_is_taken(one_slot: LocalCluster) -> None:
    def outer() -> int:
        ref = betterbox.put(list(range(50_000)))
        return int(betterbox.submit(sum, ref).result())

    assert betterbox.submit(outer).result(LONG) == sum(range(50_000))


def test_a_module_may_make_calls_when_a_slot_imports_it(
    one_slot: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "calls_at_import"
    (tmp_path / f"{name}.py").write_text(
        "import betterbox, math\n"
        "ROOT = betterbox.submit(math.sqrt, 16.0).result() if betterbox._bus.background else 0\n"
        "def root(x):\n    return x + ROOT\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    module = __import__(name)
    assert betterbox.map(module.root, [1, 2]).result(LONG) == [5.0, 6.0]
    sys.modules.pop(name)


def test_a_box_and_an_item_that_waits_for_it_get_on(one_slot: LocalCluster) -> None:
    def outer(n: int) -> int:
        return int(RemoteBox.connect(8101).total(n).result())

    with deploy(nested_work.Mapper, 8101, slots=1):
        assert RemoteBox.connect(8101).item_of(3).result(LONG) == 6
        assert betterbox.map(outer, [1, 2, 3]).result(LONG) == [1, 3, 6]


def test_explain_tells_of_items_that_wait(one_slot: LocalCluster) -> None:
    def outer() -> None:
        betterbox.submit(time.sleep, 3600).result()

    promise = betterbox.map(lambda _: outer(), range(4))
    wait_until(lambda: "own" in str(promise.explain()), lambda: str(promise.explain()))
    assert "calls of" in promise.explain().waiting
    promise.cancel()


# --- cycles -----------------------------------------------------------------------------------------


def test_a_box_that_waits_for_itself_is_an_error_that_shows_it(one_slot: LocalCluster) -> None:
    with deploy(nested_work.Selfish, 8102, slots=1):
        box = RemoteBox.connect(8102)
        for _ in range(2):  # over the link, and through the lane
            with pytest.raises(DeadlockError, match=r"Selfish at port 8102 .* waits for itself"):
                box.call(8102, "leaf", 1).result(LONG)
        assert box.call(8102, "beside", 1).result(LONG) == 3
        assert box.call(8102, "later", 1).result(LONG) == 4
        for way in box.back, box.back_by_a_future:
            with pytest.raises(DeadlockError, match=r"8102 .* waits for an item of|8102 .*, which waits for an item of"):
                way(8102).result(LONG)
        assert box.leaf(1).result(LONG) == 2


def test_a_cycle_of_boxes_is_an_error_that_shows_it(one_slot: LocalCluster) -> None:
    with deploy(nested_work.Selfish, 8103, slots=1), deploy(nested_work.Selfish, 8104, slots=1):
        box = RemoteBox.connect(8103)
        with pytest.raises(DeadlockError, match=r"port 810[34].* waits for .*port 810[34]"):
            box.call(8104, "call", 8103, "leaf", 1).result(LONG)
        assert box.call(8104, "call", 8103, "beside", 1).result(LONG) == 3
