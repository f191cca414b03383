"""The cases: what is measured, how much of it, and how long it may take before it counts as failed.

Every figure is a time or a share where less is better, so that a ratio below one always means that BetterBox is ahead.
"""

from __future__ import annotations

import gc
import os
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from balancing import items
from comparing import processes, work
from comparing.adapter import Peer

Figures = dict[str, Any]  # by metric; "detail" is for the JSON only
clock = time.perf_counter


@dataclass(frozen=True)
class Case:
    """One case.

    Attributes
    ----------
    metrics : dict
        Unit by metric that it gives.
    limit : float
        Seconds for one run of it, then the peer is ended and the case has failed there.
    sizes, quick : dict
        How much work, in full and with ``--quick``.
    fresh : bool
        Runs in a peer started for it.
    rounds : int
        At most so many rounds.
    """

    name: str
    what: str
    metrics: dict[str, str]
    limit: float
    run: Callable[[Peer, dict[str, Any]], Figures]
    sizes: dict[str, Any]
    quick: dict[str, Any]
    fresh: bool = False
    rounds: int = 1000


# --- calls --------------------------------------------------------------------------------------------


def quantiles(latencies: list[float], name: str) -> Figures:
    latencies = sorted(latencies)
    return {
        f"{name} p50": 1e6 * statistics.median(latencies),
        f"{name} p99": 1e6 * latencies[min(len(latencies) - 1, len(latencies) * 99 // 100)],
    }


def timed_calls(call: Callable[[Any], Any], count: int, seconds: float) -> list[float]:
    """Latencies of calls that are each waited for: `count`, or fewer if that takes too long."""
    warm = clock() + seconds / 4
    for number in range(min(count, 200)):
        call(number)
        if clock() > warm:
            break
    took = []
    stop = clock() + seconds
    for number in range(count):
        begin = clock()
        answer = call(number)
        end = clock()
        took.append(end - begin)
        if answer != number:
            raise RuntimeError(f"asked {number}, answered {answer!r}")
        if end > stop:
            break
    return took


def call(peer: Peer, size: dict[str, Any]) -> Figures:
    return quantiles(timed_calls(peer.caller(), size["calls"], size["seconds"]), "call")


def round_trip(peer: Peer, size: dict[str, Any]) -> Figures:
    one = partial(peer.submit_one, work.noop)
    return quantiles(timed_calls(one, size["calls"], size["seconds"]), "round trip")


def submissions(peer: Peer, size: dict[str, Any]) -> Figures:
    count = size["calls"]
    peer.submit_all(work.noop, 50)
    begin = clock()
    results = peer.submit_all(work.noop, count)
    took = clock() - begin
    _check(results, count)
    return {"per submission": 1e6 * took / count}


# --- many items ---------------------------------------------------------------------------------------


def map_items(metric: str, peer: Peer, size: dict[str, Any]) -> Figures:
    count = size["items"]
    fn = partial(work.busy, size["steps"]) if size.get("steps") else work.noop
    chunk = -(-count // (4 * peer.slots))  # as multiprocessing.Pool.map chooses
    peer.map(fn, range(100), 10)
    begin = clock()
    results = peer.map(fn, range(count), chunk)
    took = clock() - begin
    _check(results, count)
    return {metric: took}


def pareto(peer: Peer, size: dict[str, Any]) -> Figures:
    """Makespan over greedy self-scheduling at no cost, of the item times measured in this very run."""
    todo = items.pareto_items(size["items"], "shuffled", 1, size["quantum_s"])
    peer.map(work.pareto, [(number, 20) for number in range(10 * peer.slots)], 1)
    begin = time.monotonic()
    ran = sorted(peer.map(work.pareto, todo, 1), key=lambda one: one.index)
    if len(ran) != len(todo):
        raise RuntimeError(f"{len(ran)} results of {len(todo)}")
    makespan = max(one.end for one in ran) - begin
    best = items.greedy([one.base for one in ran], [items.Slot(0.0) for _ in range(peer.slots)])
    return {"pareto": makespan / best, "detail": {"makespan_s": makespan, "greedy_s": best}}


def small_results(peer: Peer, size: dict[str, Any]) -> Figures:
    count = size["items"]
    peer.map(work.blob, range(10), 1)
    begin = clock()
    results = peer.map(work.blob, range(count), -(-count // (4 * peer.slots)))
    took = clock() - begin
    if len(results) != count or results[-1] != work.blob(count - 1):
        raise RuntimeError("wrong results")
    return {"10 kB results": took}


def _check(results: list[Any], count: int) -> None:
    if len(results) != count or results[0] != 0 or results[-1] != count - 1:
        raise RuntimeError(f"wrong results: {len(results)} of {count}")


# --- large values -------------------------------------------------------------------------------------

_arrays: list[Any] = []


def fresh_array(size: dict[str, Any], serial: int = 0) -> Any:
    """An array whose contents no call has seen; two blocks of memory are used in turn."""
    import numpy

    count = size["megabytes"] * 2**20 // 8
    while len(_arrays) < 2:
        _arrays.append(numpy.zeros(count))
    array = _arrays[serial % 2]
    array += serial + 1.0
    return array


def _to_all(peer: Peer, array: Any) -> float:
    expected = work.touch(array)
    begin = clock()
    seen = peer.array_to_all(array)
    took = clock() - begin
    if len({pid for pid, _ in seen}) != peer.slots or any(total != expected for _, total in seen):
        raise RuntimeError(f"not the array, or not every slot: {seen}")
    return 1e3 * took


def array_warm(peer: Peer, size: dict[str, Any]) -> Figures:
    times = [_to_all(peer, fresh_array(size, serial)) for serial in range(size["times"] + 1)]
    _arrays.clear()
    gc.collect()
    return {"array warm": statistics.median(times[1:])}


def result_back(peer: Peer, size: dict[str, Any]) -> Figures:
    count = size["megabytes"] * 2**20 // 8
    times = []
    for _ in range(size["times"] + peer.slots):
        begin = clock()
        array = peer.submit_one(work.produce, count)
        total = work.touch(array)
        times.append(1e3 * (clock() - begin))
        if len(array) != count or total <= 0:
            raise RuntimeError("wrong array")
        del array
    return {"array back": statistics.median(times[peer.slots :])}


# --- standing -----------------------------------------------------------------------------------------


def start(peer: Peer, size: dict[str, Any]) -> Figures:
    """From nothing to the first result, and the first array right after it."""
    array = fresh_array(size)
    begin = clock()
    peer.start()
    if peer.submit_one(work.noop, 1) != 1:
        raise RuntimeError("wrong result")
    started = 1e3 * (clock() - begin)
    peer.array_to_all(array[:512])  # every slot is there and has imported what it needs
    return {"start-up": started, "array cold": _to_all(peer, array)}


def idle(peer: Peer, size: dict[str, Any]) -> Figures:
    """Cores used, in per cent of one, by all processes of the peer while a client waits for a call that sleeps."""
    seconds = size["seconds"]
    seen: dict[str, float] = {}

    def look() -> None:
        time.sleep(1.0)
        pids = processes.marked(os.environ.get(processes.MARK, ""))
        titles = {pid: "client" if pid == os.getpid() else processes.title(pid) for pid in pids}
        time.sleep(0.2)
        before = processes.cpu_seconds(pids)
        begin = clock()
        time.sleep(seconds)
        took = clock() - begin
        after = processes.cpu_seconds(pids)
        for pid in pids:
            if pid in before and pid in after:
                seen[f"{titles[pid]} ({pid})"] = 100 * (after[pid] - before[pid]) / took

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        peer.wait_idle(seconds + 1.6)
    finally:
        watcher.join()
    return {"idle": sum(seen.values()), "detail": seen}


def nothing(peer: Peer, size: dict[str, Any]) -> Figures:
    """For cases that the harness measures itself."""
    return {}


def _case(name: str, what: str, metrics: dict[str, str], limit: float, run: Any, sizes: Any, quick: Any, **more: Any) -> Case:
    return Case(name, what, metrics, limit, run, sizes, {**sizes, **quick}, **more)


CASES = {
    case.name: case
    for case in (
        _case("call", "no-op call of an object in another process, waited for", {"call p50": "us", "call p99": "us"}, 20,
              call, {"calls": 5000, "seconds": 1.0}, {"calls": 2000, "seconds": 0.4}),
        _case("roundtrip", "one submission to a slot, waited for", {"round trip p50": "us", "round trip p99": "us"}, 20,
              round_trip, {"calls": 2000, "seconds": 1.0}, {"calls": 500, "seconds": 0.3}),
        _case("submissions", "single submissions, all gathered; per submission", {"per submission": "us"}, 30,
              submissions, {"calls": 5000}, {"calls": 1000}),
        _case("map", "map of no-ops", {"no-ops": "s"}, 60,
              partial(map_items, "no-ops"), {"items": 1_000_000}, {"items": 200_000}, rounds=5),
        _case("items-1ms", "items of 1 ms", {"1 ms items": "s"}, 30,
              partial(map_items, "1 ms items"), {"items": 1000, "item_s": 1e-3}, {"items": 400}),
        _case("items-10us", "items of 10 us", {"10 us items": "s"}, 30,
              partial(map_items, "10 us items"), {"items": 100_000, "item_s": 1e-5}, {"items": 40_000}),
        _case("pareto", "Pareto items of 2 to 200 ms, makespan over greedy", {"pareto": "x"}, 30,
              pareto, {"items": 200}, {"items": 60}),
        _case("array", "256 MB array to all slots, store warm", {"array warm": "ms"}, 40,
              array_warm, {"megabytes": 256, "times": 3}, {"times": 1}, rounds=5),
        _case("back", "256 MB result back", {"array back": "ms"}, 40,
              result_back, {"megabytes": 256, "times": 3}, {"times": 1}, rounds=5),
        _case("results", "10,000 results of 10 kB", {"10 kB results": "s"}, 40,
              small_results, {"items": 10_000}, {"items": 3_000}),
        _case("start", "start-up to the first result; then the first 256 MB array to all slots",
              {"start-up": "ms", "array cold": "ms"}, 60, start, {"megabytes": 256}, {}, fresh=True, rounds=3),
        _case("import", "import, over bare Python", {"import": "ms"}, 30, nothing, {"times": 3}, {"times": 1}),
        _case("idle", "cores while a client waits and nothing happens", {"idle": "%"}, 30,
              idle, {"seconds": 3.0}, {"seconds": 1.0}, rounds=1),
    )
}
