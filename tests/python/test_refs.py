"""Values put once: what a Ref gives, who holds it, and when its memory is free."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import signal
from pathlib import Path
from typing import Any

import betterbox
import numpy as np
import pytest
from betterbox import Box, GroupBox, RemoteBox, SpreadBox, spread
from helpers import wait_until

BIG = 1 << 17  # float64: a megabyte


class Adder(Box):
    """Its methods take values of Refs and Refs."""

    def total(self, data: Any) -> float:
        return float(np.sum(data))

    def scaled(self, data: Any, factor: float) -> float:
        return float(np.sum(data) * factor)

    def inside(self, box: dict[str, Any]) -> float:
        return float(np.sum(box["ref"].get()))


def total(data: Any) -> float:
    return float(np.sum(data))


def kind(value: Any) -> str:
    return type(value).__name__


def write_and_look(data: Any, item: float) -> tuple[float, float]:
    data[0] += item
    return float(data[0]), float(data[-1])


def inside(box: dict[str, Any]) -> float:
    return float(np.sum(box["ref"].get()))


def put_there(size: int) -> Any:
    return betterbox.put(np.ones(size))


def scaled(data: Any, factor: float) -> float:
    return float(np.sum(data) * factor)


def mapped(name: str) -> bool:
    return Path("/dev/shm", name).exists()


def file_of(ref: Any) -> str:
    name: str = ref._place.name
    assert mapped(name)
    return name


def files_here() -> set[str]:
    return {path.name for path in Path("/dev/shm").glob(f"betterbox-{os.getuid()}-*")}


def test_a_call_gets_the_value_in_the_place_of_a_ref(cluster: betterbox.LocalCluster) -> None:
    ref = betterbox.put(np.ones(BIG))
    assert betterbox.submit(total, ref).result(30) == BIG
    assert betterbox.submit(scaled, data=ref, factor=2.0).result(30) == 2 * BIG
    assert betterbox.map(scaled, [ref, ref, np.ones(2)], [1.0, 2.0, 3.0]).result(30) == [BIG, 2 * BIG, 6.0]
    assert betterbox.map(total, [ref, ref]).result(30) == [BIG, BIG]
    assert betterbox.map(total, (each for each in [ref, ref])).result(30) == [BIG, BIG]
    with betterbox.Executor() as executor:
        assert executor.submit(total, ref).result(30) == BIG
        assert list(executor.map(scaled, [ref], [2.0])) == [2 * BIG]


def test_inside_of_a_container_it_arrives_as_a_ref(cluster: betterbox.LocalCluster) -> None:
    ref = betterbox.put(np.ones(BIG))
    assert betterbox.submit(inside, {"ref": ref}).result(30) == BIG
    assert betterbox.map(inside, [{"ref": ref}]).result(30) == [BIG]
    assert betterbox.map(kind, [[ref]]).result(30) == ["list"]


def test_boxes_take_refs(cluster: betterbox.LocalCluster) -> None:
    ref = betterbox.put(np.ones(BIG))
    with betterbox.deploy(Adder, 4100, slots=2):
        one, group, many = RemoteBox.connect(4100), GroupBox.connect(4100), SpreadBox.connect(4100)
        for _ in range(3):  # over the link first, then through a lane
            assert one.total(ref).result(30) == BIG
        assert one.inside({"ref": ref}).result(30) == BIG
        assert group.total(ref).all(30) == [BIG, BIG]
        assert many.scaled(ref, spread([1.0, 2.0, 3.0])).all(30) == [BIG, 2 * BIG, 3 * BIG]
        assert many.total(spread([ref, ref])).all(30) == [BIG, BIG]


def test_every_get_gives_a_fresh_object_that_is_private(cluster: betterbox.LocalCluster) -> None:
    original = np.zeros(BIG)
    ref = betterbox.put(original)
    original[:] = 7.0
    mine = ref.get()
    mine[0] = 5.0
    assert ref.get()[0] == 0.0 and ref.get() is not ref.get()
    assert betterbox.submit(write_and_look, ref, 1.0).result(30) == (1.0, 0.0)
    assert betterbox.submit(write_and_look, ref, 2.0).result(30) == (2.0, 0.0)
    assert mine[0] == 5.0


@pytest.mark.parametrize("value", [None, 3, "text", {"a": [1, 2]}, b"x" * 10, lambda x: x + 1, np.arange(5)])
def test_small_values_travel_inside_of_their_ref(cluster: betterbox.LocalCluster, value: Any) -> None:
    before = files_here()
    ref = betterbox.put(value)
    assert files_here() == before
    assert betterbox.submit(kind, ref).result(30) == type(value).__name__
    assert type(pickle.loads(pickle.dumps(ref)).get()) is type(value)


def test_a_large_pickle_without_buffers_lies_in_shared_memory(cluster: betterbox.LocalCluster) -> None:
    ref = betterbox.put(list(range(50_000)))
    file_of(ref)
    assert betterbox.submit(sum, ref).result(30) == sum(range(50_000))


def test_memory_is_free_for_the_next_value_when_a_ref_is_gone(cluster: betterbox.LocalCluster) -> None:
    before = files_here()
    for _ in range(20):
        with betterbox.put(np.ones(BIG)) as ref:
            assert betterbox.submit(total, ref).result(30) == BIG
    made = files_here() - before
    assert sum(Path("/dev/shm", name).stat().st_size for name in made if mapped(name)) <= 8 * BIG * 8


def test_a_call_under_way_holds_what_it_takes(cluster: betterbox.LocalCluster) -> None:
    promises = [betterbox.submit(scaled, betterbox.put(np.full(BIG, float(i))), 1.0) for i in range(20)]
    gc.collect()
    betterbox.put(np.full(BIG, -1.0))
    assert [promise.result(30) for promise in promises] == [float(i) * BIG for i in range(20)]


def test_a_hundred_refs(cluster: betterbox.LocalCluster) -> None:
    refs = [betterbox.put(np.full(1 << 14, float(i))) for i in range(100)]
    assert betterbox.map(total, refs).result(60) == [float(i) * (1 << 14) for i in range(100)]


def test_a_function_may_return_a_ref_of_what_it_put(cluster: betterbox.LocalCluster) -> None:
    ref = betterbox.submit(put_there, BIG).result(30)
    assert isinstance(ref, betterbox.Ref)
    assert ref.get().sum() == BIG
    assert betterbox.submit(total, ref).result(30) == BIG


def test_a_released_ref_says_so(cluster: betterbox.LocalCluster) -> None:
    with betterbox.put(np.ones(BIG)) as ref:
        assert "ndarray" in repr(ref)
    assert "released" in repr(ref)
    with pytest.raises(betterbox.ValueLostError, match="released"):
        ref.get()
    with pytest.raises(betterbox.ValueLostError, match="released"):
        betterbox.submit(total, ref)


def test_a_forked_child_reads_a_ref_and_does_not_free_it(cluster: betterbox.LocalCluster) -> None:
    ref = pickle.loads(pickle.dumps(betterbox.put(np.ones(BIG))))
    child = multiprocessing.get_context("fork").Process(target=lambda: os._exit(int(ref.get()[0]) + 6))
    child.start()
    child.join(30)
    assert child.exitcode == 7
    assert ref.get().sum() == BIG


OWNER = """
    import sys, pickle, signal
    import betterbox, numpy as np
    if __name__ == "__main__":
        ref = betterbox.put(np.ones(1 << 17))
        with open("ref", "wb") as file:
            pickle.dump(ref, file)
        print(ref._place.name, "is there", flush=True)
        signal.pause() if sys.argv[1] == "wait" else None
"""


def test_a_value_outlives_its_killed_owner_while_somebody_has_it(
    cluster: betterbox.LocalCluster, scripts: Any
) -> None:
    owner = scripts.start("owner.py", OWNER, "wait", BETTERBOX_BUS=cluster.bus)
    owner.wait_for("is there")
    name = owner.output.split()[0]
    ref = pickle.loads((scripts.folder / "ref").read_bytes())
    owner.end(signal.SIGKILL)
    assert betterbox.submit(total, ref).result(30) == BIG
    assert ref.get().sum() == BIG and mapped(name)
    ref.release()
    wait_until(lambda: not mapped(name), "the last user has removed the file")


def test_a_value_that_nobody_has_any_more_is_lost_with_a_clear_error(
    cluster: betterbox.LocalCluster, scripts: Any
) -> None:
    owner = scripts.start("owner.py", OWNER, "end", BETTERBOX_BUS=cluster.bus)
    assert owner.wait() == 0
    assert not mapped(owner.output.split()[0])
    ref = pickle.loads((scripts.folder / "ref").read_bytes())
    with pytest.raises(betterbox.ValueLostError, match="put by process .* is gone.*put it again"):
        ref.get()
    with pytest.raises(betterbox.ValueLostError, match="is gone"):
        betterbox.submit(total, ref).result(30)
    assert betterbox.submit(total, [1.0]).result(30) == 1.0


def test_without_room_in_shared_memory_refs_carry_their_values(home: Path, scripts: Any) -> None:
    output = scripts.run(
        "inline.py",
        """
        import betterbox, numpy as np
        def total(data):
            data[0] += 1
            return float(data.sum())
        if __name__ == "__main__":
            with betterbox.LocalCluster(slots=1):
                ref = betterbox.put(np.ones(1 << 17))
                print(betterbox.submit(total, ref).result(30), ref.get().sum())
        """,
        BETTERBOX_SHARED_BYTES="100000",
    )
    assert output.split() == ["131073.0", "131072.0"]


@pytest.mark.parametrize("given", ["lots", "1e9", "-1", "10 MB", "²"])
def test_a_bound_of_shared_memory_that_is_no_number_is_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv("BETTERBOX_SHARED_BYTES", given)
    with pytest.raises(betterbox.BusError, match=f"BETTERBOX_SHARED_BYTES={given} is not a number of bytes: set it"):
        betterbox.put(1)
    with pytest.raises(betterbox.BusError, match="is not a number of bytes"):
        betterbox.LocalCluster(slots=1).__enter__()


@pytest.mark.parametrize("replicas", [0, -1, 1.5, True, "2"])
def test_replicas_are_whole_numbers_from_one(cluster: betterbox.LocalCluster, replicas: Any) -> None:
    with pytest.raises(ValueError, match="whole number from 1"):
        betterbox.put(1, replicas=replicas)
