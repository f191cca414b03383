"""What a network between hosts costs: `./dev bench network [carrier|calls|demo]...`, all three unless named.

carrier  ZeroMQ alone, two processes on the loopback (pyzmq): 64 bytes there and back, and messages of 1 MB one way, over
         ipc, over TCP, and over TCP under CURVE as a bus has it (BetterBox itself has no TCP without)
calls    direct calls of a box: a no-op, and one with an argument of 1 MB; between processes of one host, and between two
         hosts (UTS namespaces on the loopback: they take each other for strangers, so all goes over TCP under CURVE)
demo     `./dev demo` over three hosts in network namespaces, `--latency` one way between any two, part `--loss` of the
         packets lost (tests/python/network.py): makespan over greedy. The client and the scheduler have a host, and two
         workers of one slot one each.

Prints medians of `--rounds`. The last two need root.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import zmq

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "python"))
from helpers import Scripts, wait_until  # noqa: E402
from network import Network, why_not  # noqa: E402

MEGABYTE = 1 << 20
PINGS = 5000
MESSAGES = 300
PORT = 8090

Keys = tuple[bytes, bytes]


def p50(function: Callable[[], object], calls: int) -> float:
    """In microseconds."""
    for _ in range(calls // 10):
        function()
    times = []
    for _ in range(calls):
        begin = time.perf_counter_ns()
        function()
        times.append(time.perf_counter_ns() - begin)
    return statistics.median(times) / 1e3


def print_medians(title: str, rounds: list[dict[str, dict[str, float]]], base: str, aim: str) -> None:
    """`rounds`: figures by case, by way. Each way beside the first one, and `aim` over `base`."""
    print(f"\n{title}, median of {len(rounds)} rounds")
    for case in rounds[0]:
        medians = {way: statistics.median(each[case][way] for each in rounds) for way in rounds[0][case]}
        cells = "".join(f"{way:>12} {value:9.4g}" for way, value in medians.items())
        print(f"  {case:24}{cells}   {aim} over {base}: {medians[aim] / medians[base]:.2f}")


# --- ZeroMQ alone ---------------------------------------------------------------------------------------


def echo(endpoint: str, keys: Keys | None) -> None:
    """Returns short messages, answers the last of the long ones."""
    with zmq.Context() as context, context.socket(zmq.PAIR) as socket:
        socket.linger, socket.rcvhwm = 0, 16
        if keys is not None:
            socket.curve_server = True
            socket.curve_publickey, socket.curve_secretkey = keys
        socket.bind(endpoint)
        while message := socket.recv():
            if len(message) < MEGABYTE or message[:1] == b"l":
                socket.send(message[:64])


def measure_carrier(endpoint: str, keys: Keys | None) -> tuple[float, float]:
    """Microseconds for 64 bytes there and back; MB/s of messages of 1 MB."""
    partner = get_context("spawn").Process(target=echo, args=(endpoint, keys), daemon=True)
    partner.start()
    with zmq.Context() as context, context.socket(zmq.PAIR) as socket:
        socket.linger, socket.sndhwm, socket.rcvtimeo = 0, 16, 30_000
        if keys is not None:
            socket.curve_serverkey = keys[0]
            socket.curve_publickey, socket.curve_secretkey = keys
        socket.connect(endpoint)
        small, large = b"p" * 64, b"m" * MEGABYTE

        def ping() -> None:
            socket.send(small)
            socket.recv()

        there_and_back = p50(ping, PINGS)
        begin = time.perf_counter()
        for _ in range(MESSAGES - 1):
            socket.send(large)
        socket.send(b"l" * MEGABYTE)
        socket.recv()
        rate = MESSAGES * MEGABYTE / 1e6 / (time.perf_counter() - begin)
        socket.send(b"")
    partner.join(10)
    return there_and_back, rate


def carrier_round(folder: str) -> dict[str, dict[str, float]]:
    keys: Keys = zmq.curve_keypair()
    latency, rate = {}, {}
    port = 20_000 + os.getpid() % 10_000
    for way, endpoint, with_keys in (
        ("ipc", f"ipc://{folder}/echo", None),
        ("TCP", f"tcp://127.0.0.1:{port}", None),
        ("CURVE", f"tcp://127.0.0.1:{port + 1}", keys),
    ):
        latency[way], rate[way] = measure_carrier(endpoint, with_keys)
    return {"64 bytes (us)": latency, "1 MB (MB/s)": rate}


# --- calls ----------------------------------------------------------------------------------------------

SERVER = f"""
from betterbox import Box, concurrent, serve_box

@serve_box({PORT})
class ABox(Box):
    @concurrent
    def noop(self):
        pass
    @concurrent
    def size(self, data):
        return len(data)
"""


def time_calls() -> dict[str, float]:
    """In the process that calls."""
    from betterbox import RemoteBox

    box: Any = RemoteBox.connect(PORT, timeout=20)
    data = b"d" * MEGABYTE
    return {
        "no-op call (us)": p50(lambda: box.noop().result(20), 2000),
        "call with 1 MB (us)": p50(lambda: box.size(data).result(20), 200),
    }


@contextmanager
def processes() -> Iterator[Scripts]:
    """They end with the block; what they leave is in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="bb-network-") as folder:
        os.environ["BETTERBOX_HOME"] = folder
        os.environ.pop("BETTERBOX_BUS", None)
        scripts = Scripts(Path(folder))
        try:
            yield scripts
        finally:
            scripts.end()


def name_bus(scripts: Scripts) -> None:
    """Wait for the scheduler that was started; from now on its bus is the one."""
    file = scripts.folder / "bus.json"
    wait_until(file.exists, "a bus file")
    os.environ["BETTERBOX_BUS"] = str(file)


def calls_round() -> dict[str, dict[str, float]]:
    figures: dict[str, dict[str, float]] = {}
    with processes() as scripts:
        scripts.cli("scheduler", "--interface", "lo")
        name_bus(scripts)
        server = scripts.start("server.py", SERVER)
        for way, host in (("one host", []), ("two hosts", ["unshare", "--uts", "sh", "-c", 'hostname far; exec "$@"', "-"])):
            command = [*host, sys.executable, __file__, "--time-calls"]
            done = subprocess.run(command, stdout=subprocess.PIPE, timeout=100, check=True)
            for case, value in json.loads(done.stdout).items():
                figures.setdefault(case, {})[way] = value
        assert server.process.poll() is None, server.output
    return figures


# --- the demo -------------------------------------------------------------------------------------------


def workers(hosts: Network, scripts: Scripts) -> list[Any]:
    status = hosts.start(0, scripts, "-m", "betterbox", "status", "--json")
    return [peer for peer in json.loads(status.output)["peers"] if peer["role"] == "worker"] if status.wait() == 0 else []


def demo_round(latency: float, loss: float) -> dict[str, Any]:
    with processes() as scripts:
        hosts = Network(3, delay=latency, loss=loss)
        try:
            hosts.start(0, scripts, "-m", "betterbox", "scheduler")
            name_bus(scripts)
            for i in (1, 2):
                hosts.start(i, scripts, "-m", "betterbox", "worker", "--slots", "1")
            wait_until(lambda: len(workers(hosts, scripts)) == 2, "two workers")
            found = scripts.folder / "demo.json"
            demo = hosts.start(0, scripts, str(ROOT / "examples/demo.py"), "--slots", "2", "--json", str(found))
            if demo.wait(170) != 0:
                sys.exit(f"the demo failed:\n{demo.output}")
            scripts.end()  # while they reach each other
            result: dict[str, Any] = json.loads(found.read_text())
            return result
        finally:
            hosts.close()


def run_demo(rounds: int, latency: float, loss: float) -> None:
    print(f"\nthe demo over three hosts, {1000 * latency:g} ms one way, {100 * loss:g} % of packets lost")
    ratios = []
    for _ in range(rounds):
        found = demo_round(latency, loss)
        ratios.append(found["makespan_over_greedy"])
        print(f"  {found['files']} files, items per slot {found['items_per_slot']}, same as serial: {found['matches_serial']}, "
              f"makespan over greedy {ratios[-1]:.3f}")  # fmt: skip
    print(f"  median {statistics.median(ratios):.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="./dev bench network", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("what", nargs="*", metavar="carrier|calls|demo", default=["carrier", "calls", "demo"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency", type=float, default=0.02, help="seconds one way (default: 0.02)")
    parser.add_argument("--loss", type=float, default=0.01, help="part of the packets (default: 0.01)")
    parser.add_argument("--time-calls", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.time_calls:
        print(json.dumps(time_calls()))
        return
    for what in options.what:
        if what not in ("carrier", "calls", "demo"):
            parser.error(f"there is no part {what}")
        if what == "carrier":
            with tempfile.TemporaryDirectory() as folder:
                figures = [carrier_round(folder) for _ in range(options.rounds)]
            print_medians("ZeroMQ alone", figures, "TCP", "CURVE")
        elif problem := why_not():
            print(f"\n{what}: not measured, {problem}")
        elif what == "calls":
            print_medians("calls", [calls_round() for _ in range(options.rounds)], "one host", "two hosts")
        else:
            run_demo(options.rounds, options.latency, options.loss)


if __name__ == "__main__":
    main()
