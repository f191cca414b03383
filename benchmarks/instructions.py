#!/usr/bin/python3
"""Hot paths in instructions, which other work on the machine does not change: a baseline, and what changed since.

Each benchmark runs under callgrind twice, so and so many times and then thrice as many times; the difference of the
counts over the difference of the times is what one iteration costs, without start-up.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = ROOT / "build" / "release" / "benchmarks" / "counted_bench"
BASELINE = ROOT / "benchmarks" / "baseline.json"
ALLOWED = 1.05  # times the baseline
RUN_LIMIT = 90.0  # seconds for one run under callgrind

# Benchmark -> iterations of the shorter run: some 10 million instructions.
HOT_PATHS = {
    "claim_item": 200_000,
    "settle_out_of_order/1024": 50,
    "record_through_outbox/48": 20_000,
    "record_through_outbox/1024": 20_000,
    "call_there_and_back": 3_000,
    "call_through_lane/48": 10_000,
    "write_warm_segment/65536": 500,
    "map_segment/65536": 500,
    "digest_bytes/4096": 3_000,
    "encode_outcomes/16": 3_000,
    "decode_outcomes/16": 2_000,
    "build_and_slice_page/200": 300,
    "BM_SingleItemCall/10": 1_000,
    "BM_SingleItemCall/1000": 1_000,
    "BM_OutcomeAndGrant/1000": 1_000,
    "single_items/self_scheduling/128": 2_000,
    "single_items/auto/128": 2_000,
}


class CannotCount(Exception):
    """There is no count, and why."""


def count(name: str, iterations: int) -> int:
    """Instructions of the whole program that runs one benchmark so many times."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out", str(PROGRAM)]
        try:
            done = subprocess.run(
                [*command, f"--benchmark_filter=^{re.escape(name)}/iterations:"],
                capture_output=True,
                text=True,
                timeout=RUN_LIMIT,
                env={**os.environ, "COUNTED_ITERATIONS": str(iterations)},
            )
        except FileNotFoundError:
            raise CannotCount("valgrind is not there: apt-get install valgrind") from None
        except subprocess.TimeoutExpired:
            raise CannotCount(f"{name}: not done after {RUN_LIMIT:g} s") from None
        found = re.search(r"Collected : (\d+)", done.stderr)
        if done.returncode != 0 or found is None or f"{name}/iterations" not in done.stdout:
            words = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
            raise CannotCount(f"{name}: no count: {words}")
        return int(found.group(1))


def per_iteration(name: str, iterations: int) -> float:
    return (count(name, 3 * iterations) - count(name, iterations)) / (2 * iterations)


def measure(names: list[str], jobs: int) -> dict[str, float]:
    if not PROGRAM.exists():
        raise CannotCount(f"{PROGRAM} is not built")
    with ThreadPoolExecutor(jobs) as pool:
        counts = pool.map(lambda name: per_iteration(name, HOT_PATHS[name]), names)
        return {name: round(found, 1) for name, found in zip(names, counts)}


def compiler() -> str:
    """What compiled: counts of another one are no comparison."""
    try:
        done = subprocess.run(["g++", "--version"], capture_output=True, text=True, timeout=10)
    except OSError:
        return "unknown"
    return (done.stdout.splitlines() or ["unknown"])[0]


def compare(old: dict[str, float], new: dict[str, float]) -> tuple[list[str], list[str]]:
    """Lines of a table, and the names of what grew by more than is allowed or has no baseline any more."""
    lines = [f"{'instructions per iteration':34} {'baseline':>12} {'now':>12} {'ratio':>7}"]
    grown = []
    for name, now in new.items():
        before = old.get(name)
        if not before:
            lines.append(f"{name:34} {'-':>12} {now:12,.1f} {'-':>7}")
            continue
        ratio = now / before
        worse = ratio > ALLOWED
        lines.append(f"{name:34} {before:12,.1f} {now:12,.1f} {ratio:7.3f}{'  more' if worse else ''}")
        grown += [name] if worse else []
    return lines, grown


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("what", choices=("baseline", "compare"), help="write the baseline, or compare with it")
    parser.add_argument("--only", metavar="REGEX", default="", help="only benchmarks whose name matches")
    parser.add_argument("--file", type=Path, default=BASELINE, help="the baseline (default: benchmarks/baseline.json)")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="runs at a time (default: 2)")
    args = parser.parse_args(argv)
    names = [name for name in HOT_PATHS if re.search(args.only, name)]
    stored = json.loads(args.file.read_text()) if args.file.exists() else {}
    if args.what == "compare" and not stored:
        print(f"there is no baseline {args.file}: ./dev bench baseline writes one", file=sys.stderr)
        return 1
    try:
        new = measure(names, args.jobs)
    except CannotCount as error:
        print(error, file=sys.stderr)
        return 1
    lines, grown = compare(stored.get("instructions", {}), new)
    print("\n".join(lines))
    if args.what == "baseline":
        whole = {"compiler": compiler(), "instructions": {**(stored.get("instructions", {}) if args.only else {}), **new}}
        args.file.write_text(json.dumps(whole, indent=1) + "\n")
        return 0
    if stored.get("compiler") != compiler():
        print(f"the baseline was compiled by {stored.get('compiler')}, this by {compiler()}")
    if grown:
        print(f"more than {100 * (ALLOWED - 1):.0f} % above the baseline: {', '.join(grown)}")
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
