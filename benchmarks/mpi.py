"""The same work over MPI, over ZeroMQ and with mpi4py.futures: `./dev bench mpi`.

Each of the three runs in turns, round by round, in processes of its own: one that asks, and as many slots (ranks beside
rank 0) as `--slots`. MPI yields when idle on both sides (`mpi_yield_when_idle`). Prints the median of the rounds and the
ratios between them.

call    p50 of a no-op: RemoteBox (through its lane), mpi4py.futures submit().result()
direct  p50 of a no-op of a `concurrent` method: a call that no lane takes, so the carrier itself
submit  single submissions, all their results taken: per second
map     map of N no-ops: seconds (mpi4py.futures with the best of some chunk sizes)
spread  spread of 1 M no-ops, the median of five: seconds (not with mpi4py.futures)

ZeroMQ has as many workers of one slot as MPI has ranks beside rank 0.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

SUBMISSIONS = 10_000
ITEMS = 20_000
SPREAD = 1_000_000
CHUNKS = (1, 16, 128, 1024)


def nothing(_: object = None) -> None: ...


def p50(function: Callable[[], object], calls: int = 3000) -> float:
    """In microseconds."""
    for _ in range(200):
        function()
    times = []
    for _ in range(calls):
        begin = time.perf_counter_ns()
        function()
        times.append(time.perf_counter_ns() - begin)
    return statistics.median(times) / 1e3


def seconds(function: Callable[[], object]) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def with_betterbox(spread_items: int) -> dict[str, float]:
    import betterbox

    class Target(betterbox.Box):
        def noop(self) -> None: ...

        @betterbox.concurrent
        def aside(self) -> None: ...

    def submit_all() -> None:
        for promise in [betterbox.submit(nothing) for _ in range(SUBMISSIONS)]:
            promise.result(60)

    figures = {}
    with betterbox.deploy(Target, 8090, slots=1):
        box = betterbox.RemoteBox.connect(8090, timeout=20)
        figures["call"] = p50(lambda: box.noop().result(20))
        figures["direct"] = p50(lambda: box.aside().result(20))
    betterbox.map(nothing, range(1000)).result(60)
    figures["submit"] = SUBMISSIONS / seconds(submit_all)
    figures["map"] = seconds(lambda: betterbox.map(nothing, range(ITEMS)).result(60))
    figures["spread"] = statistics.median(
        seconds(lambda: betterbox.map(nothing, range(spread_items)).result(100)) for _ in range(5)
    )
    return figures


def with_mpi4py() -> dict[str, float]:
    from mpi4py.futures import MPIPoolExecutor

    with MPIPoolExecutor() as pool:

        def submit_all() -> None:
            for future in [pool.submit(nothing) for _ in range(SUBMISSIONS)]:
                future.result()

        figures = {"call": p50(lambda: pool.submit(nothing).result(), 1000)}
        figures["submit"] = SUBMISSIONS / seconds(submit_all)
        figures["map"] = min(
            seconds(lambda chunk=chunk: list(pool.map(nothing, range(ITEMS), chunksize=chunk))) for chunk in CHUNKS
        )
    return figures


def run(who: str, slots: int, spread_items: int) -> dict[str, float]:
    """The figures of one of them, from processes of its own."""
    ranks = [
        "mpirun", "--oversubscribe", "--mca", "mpi_yield_when_idle", "1", "--mca", "btl_base_warn_component_unused", "0",
        "-n", str(slots + 1),
    ]  # fmt: skip
    part = [__file__, "--part", who, "--slots", str(slots), "--spread", str(spread_items)]
    command = {
        "mpi": [*ranks, sys.executable, "-m", "betterbox", "mpi", *part],
        "zeromq": [sys.executable, *part],
        "mpi4py": [*ranks, sys.executable, "-m", "mpi4py.futures", *part],
    }[who]
    env = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, timeout=120, check=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def compare(slots: int, rounds: int, spread_items: int) -> None:
    taken: dict[str, list[dict[str, float]]] = {who: [] for who in ("mpi", "zeromq", "mpi4py")}
    for _ in range(rounds):
        for who, figures in taken.items():
            figures.append(run(who, slots, spread_items))
    medians = {
        who: {case: statistics.median(each[case] for each in figures) for case in figures[0]}
        for who, figures in taken.items()
    }
    print(f"{slots} slots, median of {rounds} rounds")
    print(f"{'':8}{'MPI':>12}{'ZeroMQ':>12}{'mpi4py':>12}   MPI/ZeroMQ  MPI/mpi4py")
    for case, unit in (("call", "us"), ("direct", "us"), ("submit", "/s"), ("map", "s"), ("spread", "s")):
        row = [medians[who].get(case) for who in taken]
        ours = medians["mpi"][case]
        cells = "".join(f"{value:12.4g}" if value is not None else f"{'':12}" for value in row)
        ratios = "".join(f"{ours / value:13.3g}" if value is not None else f"{'':13}" for value in row[1:])
        print(f"{case:8}{cells}{ratios}  {unit}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--spread", type=int, default=SPREAD, help="items of the spread")
    parser.add_argument("--part", choices=["mpi", "zeromq", "mpi4py"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part == "zeromq":
        import betterbox

        with betterbox.LocalCluster(slots=1, workers=options.slots):
            print(json.dumps(with_betterbox(options.spread)))
    elif options.part is not None:
        print(json.dumps(with_betterbox(options.spread) if options.part == "mpi" else with_mpi4py()))
    elif shutil.which("mpirun") is None:
        sys.exit("there is no mpirun: install openmpi-bin")
    else:
        compare(options.slots, options.rounds, options.spread)


if __name__ == "__main__":
    main()
