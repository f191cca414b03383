"""The simulation: every distribution by every policy, several sizes of bus, by `betterbox-sim`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DISTRIBUTIONS = (
    "constant",
    "uniform",
    "gaussian",
    "exponential",
    "gamma",
    "bimodal",
    "pareto",
    "ramp-up",
    "ramp-down",
    "mandelbrot",
)
COMMON = ["--slots", "1", "--speed-spread", "3.5", "--latency-us", "100", "--mean-us", "10000"]


@dataclass(frozen=True)
class Case:
    """One run of the simulator."""

    workers: int
    dist: str
    policy: str
    items_per_slot: int
    seeds: int

    def command(self, program: Path) -> list[str]:
        items = str(self.workers * self.items_per_slot)
        given = ["--workers", str(self.workers), "--items", items, "--dist", self.dist, "--policy", self.policy]
        return [str(program), *COMMON, *given, "--seeds", f"1-{self.seeds}"]


def run_case(program: Path, case: Case) -> dict[str, Any]:
    """The simulator's JSON object, with the case's own fields."""
    done = subprocess.run(case.command(program), capture_output=True, text=True)
    own = {"workers": case.workers, "dist": case.dist, "policy": case.policy, "items_per_slot": case.items_per_slot}
    if done.returncode != 0:
        return {**own, "error": (done.stderr or done.stdout).strip()[-500:]}
    return {**json.loads(done.stdout.strip().splitlines()[-1]), **own}


def run_all(program: Path, cases: list[Case], jobs: int) -> Iterator[dict[str, Any]]:
    """Results in the order of the cases, so many processes at a time."""
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(lambda case: run_case(program, case), cases)


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Makespan over greedy, one block per size; beside it `auto` over the best named policy."""
    lines = []
    for workers in dict.fromkeys(row["workers"] for row in rows):
        here = [row for row in rows if row["workers"] == workers]
        policies = list(dict.fromkeys(row["policy"] for row in here))
        lines += ["", f"{workers:,} workers, {here[0]['items_per_slot']} items each: makespan over greedy"]
        lines.append("  ".join([f"{'':12}", *[f"{policy:>7}" for policy in policies], "auto/best named"]))
        for dist in dict.fromkeys(row["dist"] for row in here):
            ratio = {row["policy"]: row.get("makespan_over_greedy") for row in here if row["dist"] == dist}
            cells = [f"{ratio[p]:7.3f}" if ratio.get(p) else f"{'failed':>7}" for p in policies]
            named = [value for policy, value in ratio.items() if policy != "auto" and value]
            auto = ratio.get("auto")
            against = f"{auto / min(named):7.3f}" if auto and named else ""
            lines.append("  ".join([f"{dist:12}", *cells, against]))
    for row in rows:
        if "error" in row:
            lines.append(f"failed: {row['workers']} workers, {row['dist']}, {row['policy']}: {row['error']}")
    return lines


def trace(program: Path, policy: str, folder: Path, workers: int = 4) -> list[tuple[int, float, float]]:
    """What each slot ran when, in seconds: (slot, begin, end), for the picture."""
    file = folder / f"{policy}.jsonl"
    case = Case(workers, "pareto", policy, 50, 1)
    subprocess.run([*case.command(program)[:-2], "--seed", "1", "--trace-out", str(file)], check=True, capture_output=True)
    ran = [json.loads(line) for line in file.read_text().splitlines()]
    return [(one["slot"], one["start_us"] / 1e6, one["end_us"] / 1e6) for one in ran]
