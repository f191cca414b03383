"""Real slots: the same busy items under every policy, and under ProcessPoolExecutor."""

from __future__ import annotations

import os
import statistics
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Any

import betterbox
from balancing import items
from balancing.items import Ran, Slot

POOL = "ProcessPool"
ORDERS = ("up", "down", "shuffled")
SLOW_TIMES = 3


@dataclass
class Run:
    """One call: its items' runs; all times in seconds from the submission."""

    case: str
    policy: str
    makespan: float
    greedy: float
    ran: list[Ran]
    others: float = 0.0  # share of this machine's cores that was busy with something else than the items
    explained: dict[str, Any] = field(default_factory=dict)
    absent: float = 0.0  # seconds until slots that joined were there

    @property
    def ratio(self) -> float:
        return self.makespan / self.greedy

    @property
    def loss(self) -> dict[str, float]:
        """Where slots were idle: before their first item, between items, after their last; seconds, all together."""
        parts = {"startup_s": -self.absent, "gaps_s": 0.0, "tail_s": 0.0}
        for lane in lanes(self.ran):
            parts["startup_s"] += lane[0].begin
            parts["tail_s"] += self.makespan - lane[-1].end
            parts["gaps_s"] += sum(max(0.0, after.begin - before.end) for before, after in zip(lane, lane[1:]))
        return parts


def lanes(ran: list[Ran]) -> list[list[Ran]]:
    """Per slot its items in the order of time."""
    by_slot: dict[int, list[Ran]] = {}
    for one in sorted(ran, key=lambda r: r.begin):
        by_slot.setdefault(one.process, []).append(one)
    return [by_slot[process] for process in sorted(by_slot)]


def busy_seconds() -> float:
    """What all cores of this machine have worked so far."""
    with open("/proc/stat", encoding="ascii") as stream:
        user, nice, system, _, _, irq, softirq, steal = (int(word) for word in stream.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def measure(case: str, policy: str, run: Map, fn: Callable[..., Ran], work: list[Any], slots: list[Slot]) -> Run:
    """One call; times from the submission on; greedy with the measured times of the items, in item order."""
    busy, submitted = busy_seconds(), monotonic()
    ran, explained = run(fn, work)
    busy, took = busy_seconds() - busy, monotonic() - submitted
    result = finish(case, policy, submitted, ran, slots)
    result.explained = explained
    result.absent = sum(slot.free for slot in slots)
    own = sum(one.cpu for one in ran)
    result.others = max(0.0, (busy - own) / (took * len(os.sched_getaffinity(0))))
    return result


def finish(case: str, policy: str, submitted: float, ran: list[Ran], slots: list[Slot]) -> Run:
    for one in ran:
        one.begin -= submitted
        one.end -= submitted
    ran.sort(key=lambda r: r.index)
    makespan = max(one.end for one in ran)
    return Run(case, policy, makespan, items.greedy([one.base for one in ran], slots), ran)


# --- who runs them ------------------------------------------------------------------------------------

Map = Callable[[Callable[..., Ran], list[Any]], tuple[list[Ran], dict[str, Any]]]


def bus_map(policy: str) -> Map:
    def run(fn: Callable[..., Ran], work: list[Any]) -> tuple[list[Ran], dict[str, Any]]:
        promise = betterbox.map(fn, work, policy=policy)
        return promise.result(), dict(promise.explain())

    return run


@contextmanager
def pool_map(slots: int) -> Iterator[Map]:
    with ProcessPoolExecutor(slots) as pool:
        yield lambda fn, work: (list(pool.map(fn, work)), {})


def sorted_and_shuffled(policies: list[str], count: int, slots: int, rounds: int, seed: int) -> list[Run]:
    """Pareto items in three orders; the rounds are interleaved, so that other load meets all of them."""
    quantum = items.seconds_per_quantum()
    work = {order: items.pareto_items(count, order, seed, quantum) for order in ORDERS}
    runs = []
    with betterbox.LocalCluster(slots=slots), pool_map(slots) as pool:
        maps = {policy: bus_map(policy) for policy in policies} | {POOL: pool}
        for one in maps.values():  # processes have started, code has been imported
            one(partial(items.busy, {}), [(i, 20) for i in range(10 * slots)])
        for _ in range(rounds):
            for order in ORDERS:
                for policy, one in maps.items():
                    fresh = [Slot(0.0) for _ in range(slots)]
                    runs.append(measure(order, policy, one, partial(items.busy, {}), work[order], fresh))
    return runs


def worker_slowed(policies: list[str], count: int, rounds: int, seed: int) -> list[Run]:
    """Two workers of one slot; halfway through the work everything takes three times as long on one of them."""
    quantum = items.seconds_per_quantum()
    work = items.pareto_items(count, "shuffled", seed, quantum)
    half = sum(quanta for _, quanta in work) * quantum / 4  # of the makespan of two slots
    runs = []
    with betterbox.LocalCluster(slots=1, workers=2):
        warm = betterbox.map(partial(items.busy, {}), [(i, 20) for i in range(100)]).result()
        workers = sorted({one.worker for one in warm})
        for _ in range(rounds):
            for policy in policies:
                slowed = {workers[0]: (monotonic() + half, SLOW_TIMES)}
                slots = [Slot(0.0, half, SLOW_TIMES), Slot(0.0)]
                runs.append(measure("slowed", policy, bus_map(policy), partial(items.busy, slowed), work, slots))
    return runs


def worker_joins(policies: list[str], count: int, rounds: int, seed: int) -> list[Run]:
    """One worker of one slot; a second one joins halfway through what then remains for both."""
    quantum = items.seconds_per_quantum()
    work = items.pareto_items(count, "shuffled", seed, quantum)
    whole = sum(quanta for _, quanta in work) * quantum
    runs = []
    for _ in range(rounds):
        for policy in policies:
            with betterbox.LocalCluster(slots=1) as cluster:
                plain = partial(items.busy, {})
                betterbox.map(plain, [(i, 20) for i in range(10)]).result()
                slots = [Slot(0.0)]

                def join(cluster: betterbox.LocalCluster = cluster, slots: list[Slot] = slots) -> None:
                    cluster.add_worker()
                    slots.append(Slot(monotonic() - submitted))

                submitted = monotonic()
                timer = threading.Timer(whole / 3, join)
                timer.start()
                runs.append(measure("joining", policy, joined(bus_map(policy), timer), plain, work, slots))
    return runs


def joined(run: Map, timer: threading.Timer) -> Map:
    """`run`, after which the timer's work is done, too."""

    def both(fn: Callable[..., Ran], work: list[Any]) -> tuple[list[Ran], dict[str, Any]]:
        result = run(fn, work)
        timer.join()
        return result

    return both


# --- what came out ------------------------------------------------------------------------------------


def medians(runs: list[Run]) -> dict[str, dict[str, Run]]:
    """By case and policy the run with the median ratio."""
    grouped: dict[str, dict[str, list[Run]]] = {}
    for run in runs:
        grouped.setdefault(run.case, {}).setdefault(run.policy, []).append(run)
    return {
        case: {
            policy: sorted(some, key=lambda r: r.ratio)[(len(some) - 1) // 2] for policy, some in by_policy.items()
        }
        for case, by_policy in grouped.items()
    }


def rows(runs: list[Run]) -> list[dict[str, Any]]:
    """For JSON: one row per run."""
    return [
        {
            "case": run.case,
            "policy": run.policy,
            "makespan_s": run.makespan,
            "greedy_s": run.greedy,
            "makespan_over_greedy": run.ratio,
            "others": run.others,
            **run.loss,
            "leases": run.explained.get("leases"),
            "splits": run.explained.get("splits"),
            "steals": run.explained.get("steals"),
        }
        for run in runs
    ]


def table(runs: list[Run]) -> list[str]:
    """Medians of makespan over greedy; below, where the time of `auto` went."""
    best = medians(runs)
    policies = list(dict.fromkeys(run.policy for run in runs))
    lines = ["makespan over greedy of the measured item times (median of the rounds)"]
    lines.append("  ".join([f"{'order':10}", *[f"{policy:>11}" for policy in policies]]))
    for case, by_policy in best.items():
        cells = [f"{by_policy[p].ratio:11.3f}" if p in by_policy else f"{'-':>11}" for p in policies]
        lines.append("  ".join([f"{case:10}", *cells]))
    lines.append("")
    lines.append("idle time of all slots, ms: before the first item, between items, after the last one")
    for case, by_policy in best.items():
        for policy, run in by_policy.items():
            loss = run.loss
            ratios = [one.ratio for one in runs if (one.case, one.policy) == (case, policy)]
            lines.append(
                f"{case:10} {policy:>11}: {1000 * loss['startup_s']:7.1f} {1000 * loss['gaps_s']:7.1f} "
                f"{1000 * loss['tail_s']:7.1f}   makespan {run.makespan:6.3f} s, ratios {min(ratios):.3f} to "
                f"{max(ratios):.3f}, mean {statistics.mean(ratios):.3f}; other work on the cores {100 * run.others:.0f} %"
            )
    return lines
