"""Who runs what when: priorities, resources, copies of slow items."""

from __future__ import annotations

import os
from pathlib import Path

import betterbox
import pytest
import work
from betterbox import LocalCluster, ResourceError, _bus
from helpers import wait_until

# --- priorities ---------------------------------------------------------------------------------------


def test_a_later_urgent_call_overtakes(home: Path, tmp_path: Path) -> None:
    gate, log = tmp_path / "gate", tmp_path / "log"
    with LocalCluster(slots=1):
        slow = betterbox.map(work.log_after, [(f"slow {i}", str(log), str(gate)) for i in range(2000)])
        wait_until(lambda: log.exists(), lambda: "the first item has begun")
        urgent = betterbox.map(work.log_after, [(f"urgent {i}", str(log), str(gate)) for i in range(20)], priority=1)
        wait_until(lambda: urgent.explain().known == 20, lambda: str(urgent.explain()))
        gate.touch()
        urgent.result()
        slow.result()
    order = log.read_text().splitlines()
    assert len(order) == 2020 and max(i for i, line in enumerate(order) if line.startswith("urgent")) < 1000


def test_calls_of_one_priority_share(home: Path, tmp_path: Path) -> None:
    gate, log = tmp_path / "gate", tmp_path / "log"
    with LocalCluster(slots=1):
        one = betterbox.map(work.log_after, [(f"one {i}", str(log), str(gate)) for i in range(2000)])
        wait_until(lambda: log.exists(), lambda: "the first item has begun")
        other = betterbox.map(work.log_after, [(f"other {i}", str(log), str(gate)) for i in range(2000)])
        wait_until(lambda: other.explain().known == 2000, lambda: str(other.explain()))
        gate.touch()
        one.result()
        other.result()
    order = [line.split()[0] for line in log.read_text().splitlines()]
    assert "other" in order[: order.index("one", 1500) + 1] and len(order) == 4000


# --- idle workers -------------------------------------------------------------------------------------


def test_what_waits_behind_another_call_moves_to_a_worker_that_joins(home: Path, tmp_path: Path) -> None:
    gate, log = tmp_path / "gate", tmp_path / "log"
    with LocalCluster(slots=1) as cluster:
        slow = betterbox.submit(work.log_after, ("slow", str(log), str(gate)))
        wait_until(log.exists, lambda: "the slow one has begun")
        quick = betterbox.submit(work.noop, 1)
        wait_until(lambda: quick.explain().agents, lambda: "both are at the only worker")
        cluster.add_worker()
        assert quick.result(20) == 1 and not slow.done()
        gate.touch()
        slow.result(20)


# --- resources ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("cluster")
def test_items_that_need_all_cores_of_a_worker_run_one_at_a_time(tmp_path: Path) -> None:
    alone = str(tmp_path / "alone")
    assert betterbox.map(work.alone, [alone] * 30, cpus=2).result() == [True] * 30
    assert all(betterbox.options(cpus=2).submit(work.alone, alone).result() for _ in range(5))


@pytest.mark.usefixtures("cluster")
def test_what_no_worker_can_give_is_an_error_that_names_it() -> None:
    for options, need in (
        ({"cpus": 3}, "3 cpus"),
        ({"gpus": 1}, "1 gpu"),
        ({"memory": "900T"}, "900 TiB of memory"),
        ({"resources": {"licence": 1}}, "1 licence"),
    ):
        with pytest.raises(ResourceError, match=f"needs .*{need}.*worker"):
            betterbox.options(**options).submit(work.noop, 1).result(20)
        with pytest.raises(ResourceError, match=need):
            betterbox.map(work.noop, range(100), **options).result(20)
    assert betterbox.map(work.noop, [1]).result(20) == [1]


def test_what_a_worker_was_given_can_be_asked_for(home: Path, tmp_path: Path) -> None:
    alone = str(tmp_path / "alone")
    with LocalCluster(slots=2, cpus=4, memory="4G", resources={"licence": 1}):
        licensed = betterbox.options(resources={"licence": 1}, memory="1G", cpus=0.5)
        assert licensed.map(work.alone, [alone] * 20).result() == [True] * 20
        assert licensed.submit(work.noop, 7).result() == 7
        with pytest.raises(ResourceError, match="2 licence"):
            betterbox.options(resources={"licence": 2}).submit(work.noop, 1).result(20)
        with pytest.raises(ResourceError, match="5 GiB"):
            betterbox.options(memory="5G").submit(work.noop, 1).result(20)


def test_each_slot_sees_devices_of_its_own(home: Path) -> None:
    with LocalCluster(slots=4, gpus=["3", "5"]):
        promise = betterbox.map(work.devices_after_a_moment, range(40), gpus=1)
        assert {devices for devices, _ in promise.result()} == {"3", "5"}
        assert betterbox.options(gpus=2).submit(work.devices_after_a_moment, 0).result()[0] == "3,5"
        halves = betterbox.map(work.devices_after_a_moment, range(40), gpus=0.5).result()
        assert {devices for devices, _ in halves} == {"3", "5"}
        assert betterbox.submit(work.devices_after_a_moment, 0).result()[0] in ("3", "5")  # an even share


# --- copies -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("cluster")
def test_an_idempotent_item_that_hangs_is_run_a_second_time(tmp_path: Path) -> None:
    items = [(x, str(tmp_path / "hung")) for x in range(400)]
    promise = betterbox.map(work.hang_once_at_399, items, idempotent=True)
    assert promise.result(60) == list(range(400))
    report = promise.explain()
    assert report.copies >= 1 and report.copies_won >= 1


@pytest.mark.usefixtures("cluster")
def test_what_is_not_idempotent_runs_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    betterbox.map(work.log_after, [(f"item {i}", str(log), "/") for i in range(300)]).result()
    assert len(log.read_text().splitlines()) == 300
    assert sorted(set(os.listdir(tmp_path))) == ["log"]


# --- load ---------------------------------------------------------------------------------------------


def pauses() -> bool:
    peers = _bus.current().client.status(5.0)["peers"]
    return any(peer["load"]["paused"] for peer in peers if peer["slots"] > 0)


def test_a_worker_whose_memory_is_taken_starts_nothing_until_it_has_some_again(home: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with LocalCluster(slots=2, memory="300M"):
        holder = betterbox.submit(work.hold_memory, 295, str(gate))
        wait_until(pauses, "the worker pauses")
        later = betterbox.map(work.double, range(100))
        wait_until(lambda: "paused" in later.explain().waiting, lambda: str(later.explain()))
        assert later.progress() == (0, 100) and not holder.done()
        gate.touch()
        assert holder.result() == 295
        assert later.result() == [2 * x for x in range(100)]
