#!/usr/bin/python3
"""BetterBox beside its peers: the same work, the same number of processes, in one run, round by round in turn.

Peers come from the system's packages and, with --with-pypi, from a virtual environment of their own under build/.
Limits (a bare ZeroMQ or socket ping-pong, a plain loop, one copy of the memory) show what is left to gain. A peer that
is not there is named as absent, one that fails as failed; neither stops the run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from comparing import environment, harness, registry, report  # noqa: E402
from comparing.cases import CASES  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]


def parse(argv: list[str] | None) -> argparse.Namespace:
    known = [spec.name for spec in (*registry.SYSTEM, *registry.LIMITS, *registry.PYPI)]
    parser = argparse.ArgumentParser(
        prog="./dev bench peers",
        description=(__doc__ or "").split("\n\n")[0],
        epilog=f"Cases: {', '.join(CASES)}. Peers: {', '.join(known)}; 'limits' stands for all limits.",
    )
    parser.add_argument("--cases", type=_names([*CASES]), default=[*CASES], metavar="A,B", help="only these cases")
    parser.add_argument("--peers", type=_names([*known, "limits"]), metavar="A,B", help="only these, and BetterBox")
    parser.add_argument("--rounds", type=int, metavar="N", help="of each case (default: 3; with --quick 1)")
    parser.add_argument("--slots", type=int, default=2, metavar="N", help="processes that work (default: 2)")
    parser.add_argument("--quick", action="store_true", help="less of everything: at most two minutes")
    parser.add_argument("--with-pypi", action="store_true", help="also peers that the system's packages do not hold")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured there")
    return parser.parse_args(argv)


def _names(known: list[str]) -> Any:
    def names(text: str) -> list[str]:
        for name in text.split(","):
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return text.split(",")

    return names


def chosen(args: argparse.Namespace) -> list[registry.Spec]:
    every = [*registry.SYSTEM, *(registry.PYPI if args.with_pypi else ()), *registry.LIMITS]
    if not args.peers:
        return every
    wanted = {registry.US, *args.peers}
    return [spec for spec in every if spec.name in wanted or (spec.limit and "limits" in wanted)]


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that peers end first
    specs, missing = chosen(args), {}
    if args.with_pypi:
        specs, missing = environment.prepare(ROOT / "build" / "peers-venv", specs)
    rounds = args.rounds or (1 if args.quick else 3)
    cases = [case for name, case in CASES.items() if name in args.cases]
    speed, begin, load = harness.calibrate(), time.monotonic(), os.getloadavg()[0]
    results: report.Results = {}
    with harness.Harness(specs, args.slots, harness.say) as run:
        run.absent.update(missing)
        for case in cases:
            if not sys.stderr.isatty():
                print(f"{time.monotonic() - begin:4.0f} s: {case.name}", file=sys.stderr, flush=True)
            results[case.name] = run.run(case, harness.sized(case, args.quick, speed), rounds)
    harness.say("")
    every = report.rows(results, cases, specs)
    print("\n".join(report.table(every, cases, specs)))
    took = time.monotonic() - begin
    print(f"\n{args.slots} slots, {rounds} rounds, {took:.0f} s; load before {load:.2f}, after {os.getloadavg()[0]:.2f}")
    if args.json:
        machine = {"python": platform.python_version(), "kernel": platform.release(), "cores": os.cpu_count()}
        whole = {"slots": args.slots, "rounds": rounds, "seconds": took, "load": load, **speed, "machine": machine}
        args.json.write_text(json.dumps({**whole, "results": every}, indent=1) + "\n")
    ours = [row for row in every if row["peer"] == registry.US]
    return 1 if any(row["status"] == "failed" for row in ours) else 0


if __name__ == "__main__":
    sys.exit(main())
