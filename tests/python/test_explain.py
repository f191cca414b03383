"""What `Promise.explain` says."""

from __future__ import annotations

import time
from typing import Any

import betterbox
import pytest
import work
from betterbox._explanation import Explanation
from helpers import wait_until


def seat(number: int, **fields: Any) -> dict[str, Any]:
    return {"slot": number, "items": 4, "busy_s": 8.0, "longest_s": 3.0, "first_s": 3.0, "last_s": 9.5, **fields}


def agent(seats: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    items = sum(each["items"] for each in seats)
    busy = sum(each["busy_s"] for each in seats)
    whole = {"name": "w", "host": "h", "pid": 1, "slots": 2, "items": items, "busy_s": busy, "retries": 1, "steals": 2}
    return {**whole, "outstanding": 0, "seats": seats, **fields}


def explanation(agents: list[dict[str, Any]], **fields: Any) -> Explanation:
    busy = sum(each["busy_s"] for each in agents)
    counts = {"total": 8, "known": 8, "settled": 8, "pending": 0, "waiting": "", "policy": "auto"}
    times = {"makespan_s": 10.0, "busy_s": busy, "longest_s": 3.0, "wasted_s": 0.0, "ideal_s": 0.0, "greedy_s": 0.0}
    return Explanation({**counts, **times, "agents": agents, **fields})


def test_all_time_of_slots_is_busy_or_lost_somewhere() -> None:
    report = explanation([agent([seat(0), seat(1, first_s=1.0, items=2, busy_s=6.0, last_s=10.0)]), agent([seat(0)])])
    assert report.loss["startup_s"] == pytest.approx(1 + 0 + 1)
    assert report.loss["tail_s"] == pytest.approx(0.5 + 0 + 0.5)
    assert report.loss["gaps_s"] == pytest.approx(0.5 + 4 + 0.5)
    assert report.loss["unused_s"] == pytest.approx(10)
    assert report.loss["total_s"] == pytest.approx(report.slots * 10 - report.busy_s)


def test_items_that_came_at_once_are_no_loss() -> None:
    report = explanation([agent([seat(0, items=100, first_s=10.0, last_s=10.0, busy_s=9.9)], slots=1)])
    assert report.loss["total_s"] == pytest.approx(0.1)
    assert min(report.loss.values()) >= 0


def test_wasted_work_is_part_of_the_gaps() -> None:
    report = explanation([agent([seat(0)], slots=1)], wasted_s=0.25)
    assert (report.loss["gaps_s"], report.loss["wasted_s"]) == (pytest.approx(0.25), pytest.approx(0.25))
    assert report.loss["total_s"] == pytest.approx(2)


def test_a_worker_without_a_list_of_its_slots_counts_as_a_whole() -> None:
    whole = agent([], items=400, busy_s=900.0, slots=100, first_s=3.0, last_s=9.5)
    report = explanation([whole])
    assert report.agents[0]["share"] == pytest.approx(0.9)
    assert report.loss["total_s"] == pytest.approx(100)


def test_a_report_reads_well_and_gives_its_fields() -> None:
    report = explanation([agent([seat(0), seat(1)])], greedy_s=8.0, leases=5, splits=2, copies=3, copies_won=1, pending=4)
    assert report.makespan_over_greedy == report["makespan_over_greedy"] == pytest.approx(1.25)
    assert report["makespan_over_ideal"] == pytest.approx(10 / 8)
    text = str(report)
    assert "8 of 8 items settled, policy auto" in text
    assert "makespan 10.000 s: 1.250 of greedy self-scheduling (8.000 s), 1.250 of the ideal (8.000 s)" in text
    assert "slots busy 80.0 % of 20.000 s; lost: start-up 2.000 s, gaps 1.000 s, tail 1.000 s" in text
    assert "5 leases, 2 of them split, 2 steals, 1 retry, 3 copies, 1 of them first, 4 items waiting" in text
    assert "  slot 1: 4 items, busy 8.000 s (80.0 %)" in text
    with pytest.raises(AttributeError, match="it has total, known"):
        report.anything  # noqa: B018


def test_a_report_of_a_large_bus_stays_short() -> None:
    report = explanation([agent([seat(i) for i in range(128)], slots=128) for _ in range(1000)])
    assert "and 980 more" in str(report) and len(str(report).splitlines()) < 400


@pytest.mark.usefixtures("cluster")
def test_a_finished_call_is_explained() -> None:
    promise = betterbox.map(time.sleep, [0.02] * 20)
    promise.result()
    report = promise.explain()
    assert (report.total, report.settled, report.pending, report.waiting) == (20, 20, 0, "")
    assert [each["items"] for each in report.agents] == [20]
    assert sum(each["items"] for each in report.agents[0]["seats"]) == 20
    assert report.makespan_s >= report.ideal_s >= 0.2
    assert report.loss["total_s"] == pytest.approx(report.slots * report.makespan_s - report.busy_s, abs=1e-3)
    assert report.leases >= 1


@pytest.mark.usefixtures("cluster")
def test_a_waiting_call_says_why() -> None:
    blocking = betterbox.map(time.sleep, [60, 60])
    wait_until(lambda: blocking.explain().agents, lambda: "the slots are busy")
    waiting = betterbox.map(work.noop, range(100))
    wait_until(lambda: waiting.explain().waiting, lambda: str(waiting.explain()))
    assert f"waiting: {waiting.explain().waiting}" in str(waiting.explain())
    blocking.cancel()
    assert waiting.result() == list(range(100))
    assert waiting.explain().waiting == ""


def sleep_at_the_last(x: int) -> int:
    if x == 20_000:
        time.sleep(0.3)
    return x


@pytest.mark.usefixtures("cluster")
def test_a_long_item_behind_short_ones_is_counted() -> None:
    call = betterbox.map(sleep_at_the_last, range(20_001))  # no other item ends behind it
    call.result()
    assert call.explain().longest_s > 0.2
