#!/usr/bin/python3
"""The load-balancing benchmark: every distribution by every policy.

Two parts. The simulation runs the real scheduler and worker cores on simulated clocks and slots, for several sizes of
bus. The real slots run busy items on this machine: 400 Pareto(1.5) items of 2 to 200 ms in three orders, with
ProcessPoolExecutor beside them; a worker that becomes three times slower midway; a worker that joins midway. Both are
measured against greedy self-scheduling at no cost: whenever a slot is free it takes the next item, no message, no
latency; on real slots of the item times that were measured in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from balancing import picture, simulation, slots  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
POLICIES = ("auto", "static", "ss", "gss", "tss", "fac2", "awf", "af")
SIZES = (4, 64, 1024, 10_000)

# Items per slot and seeds by the number of workers; named policies get fewer seeds where a run takes long.
QUICK = {4: (100, 5, 5), 64: (100, 3, 3), 1024: (50, 1, 1), 10_000: (10, 1, 1)}
FULL = {4: (1000, 20, 20), 64: (1000, 20, 20), 1024: (1000, 20, 5), 10_000: (1000, 5, 1)}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./dev bench balance", description=(__doc__ or "").split("\n\n")[0])
    depth = parser.add_mutually_exclusive_group()
    depth.add_argument("--quick", action="store_true", help="a few minutes (default)")
    depth.add_argument("--full", action="store_true", help="1,000 items per slot and up to 20 seeds: hours")
    parser.add_argument("--part", choices=("all", "simulation", "slots"), default="all")
    parser.add_argument("--policies", type=_names(POLICIES), default=list(POLICIES), metavar="A,B")
    parser.add_argument(
        "--dists", type=_names(simulation.DISTRIBUTIONS), default=list(simulation.DISTRIBUTIONS), metavar="A,B"
    )
    parser.add_argument("--workers", type=_numbers, default=list(SIZES), metavar="N,M", help="sizes to simulate")
    parser.add_argument("--items-per-slot", type=int, metavar="N", help="in the simulation")
    parser.add_argument("--seeds", type=int, metavar="N", help="in the simulation")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="simulations at a time (default: 2)")
    parser.add_argument("--items", type=int, default=400, metavar="N", help="on real slots (default: 400)")
    parser.add_argument("--slots", type=int, default=2, metavar="N", help="real slots (default: 2)")
    parser.add_argument("--rounds", type=int, metavar="N", help="on real slots (default: 3; with --full 10)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured there")
    parser.add_argument("--png", type=Path, metavar="FILE", help="draw slots over time there")
    return parser.parse_args(argv)


def _names(known: tuple[str, ...]) -> Any:
    def names(text: str) -> list[str]:
        for name in text.split(","):
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return text.split(",")

    return names


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def cases(args: argparse.Namespace) -> list[simulation.Case]:
    """What to simulate."""
    plan = FULL if args.full else QUICK
    found = []
    for workers in args.workers:
        # As much as for the largest size in the plan that is not larger.
        items, seeds_auto, seeds_named = plan[max(size for size in plan if size <= max(workers, min(plan)))]
        for dist in args.dists:
            for policy in args.policies:
                seeds = args.seeds or (seeds_auto if policy == "auto" else seeds_named)
                found.append(simulation.Case(workers, dist, policy, args.items_per_slot or items, seeds))
    return found


def simulate(args: argparse.Namespace, program: Path) -> list[dict[str, Any]]:
    every = cases(args)
    rows = []
    for row in simulation.run_all(program, every, args.jobs):
        rows.append(row)
        ratio = row.get("makespan_over_greedy")
        text = f"{ratio:.3f}" if ratio else "failed"
        print(
            f"\r[{len(rows)}/{len(every)}] {row['workers']} {row['dist']} {row['policy']} {text}      ",
            end="",
            file=sys.stderr,
        )
    print(file=sys.stderr)
    print("\n".join(simulation.table(rows)))
    return rows


def measure(args: argparse.Namespace) -> list[slots.Run]:
    rounds = args.rounds or (10 if args.full else 3)
    print(f"\n{args.slots} real slots, {args.items} busy items of 2 to 200 ms; load {os.getloadavg()[0]:.2f}")
    runs = slots.sorted_and_shuffled(args.policies, args.items, args.slots, rounds, seed=1)
    runs += slots.worker_slowed(args.policies, args.items, rounds, seed=1)
    runs += slots.worker_joins(args.policies, args.items, rounds, seed=1)
    print("\n".join(slots.table(runs)))
    return runs


def columns(args: argparse.Namespace, program: Path, runs: list[slots.Run]) -> dict[str, dict[str, picture.Bars]]:
    """What the picture shows: the median run of each case, and one simulated bus of four workers."""
    shown: dict[str, dict[str, picture.Bars]] = {}
    for case, by_policy in slots.medians(runs).items():
        shown[f"real slots: {case}"] = {
            f"{policy} {run.ratio:.3f}": [
                (lane, one.begin, one.end) for lane, ran in enumerate(slots.lanes(run.ran)) for one in ran
            ]
            for policy, run in by_policy.items()
        }
    if args.part != "slots":
        with tempfile.TemporaryDirectory() as folder:
            shown["simulated: 4 workers, speeds 1 to 3.5, Pareto"] = {
                policy: simulation.trace(program, policy, Path(folder)) for policy in args.policies
            }
    return shown


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    program = ROOT / "build" / "release" / "bin" / "betterbox-sim"
    rows = simulate(args, program) if args.part != "slots" else []
    runs = measure(args) if args.part != "simulation" else []
    if args.json:
        args.json.write_text(json.dumps({"simulation": rows, "slots": slots.rows(runs)}, indent=1) + "\n")
    if args.png:
        picture.draw(args.png, columns(args, program, runs))
    return 1 if any("error" in row for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
