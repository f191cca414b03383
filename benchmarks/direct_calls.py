"""Direct calls against what they cost at least: `./dev bench direct_calls`.

A no-op call to a box that another script serves, and a raw ZeroMQ ping-pong (DEALER to ROUTER over ipc, pyzmq, frames of the
same size) with another process, in turns. Prints p50 and p99 of both and the ratio of the medians, round by round.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

PORT = 8090


def serve_box() -> None:
    import betterbox

    class Target(betterbox.Box):
        def noop(self) -> None: ...

    with betterbox.serve(Target, PORT, block=False):
        print("up", flush=True)
        sys.stdin.read()


def serve_zmq(endpoint: str) -> None:
    import zmq

    socket = zmq.Context().socket(zmq.ROUTER)
    socket.bind(endpoint)
    print("up", flush=True)
    while True:
        frames = socket.recv_multipart()
        socket.send_multipart(frames)
        if frames[-1] == b"end":
            return


def measure(function: Callable[[], object], calls: int) -> tuple[float, float]:
    """p50 and p99 in microseconds."""
    for _ in range(200):
        function()
    times = []
    for _ in range(calls):
        begin = time.perf_counter_ns()
        function()
        times.append((time.perf_counter_ns() - begin) / 1e3)
    times.sort()
    return times[calls // 2], times[calls * 99 // 100]


def start(*args: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, __file__, *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"up\n"
    return process


def compare(calls: int, rounds: int) -> None:
    import betterbox
    import zmq

    with tempfile.TemporaryDirectory() as folder, betterbox.LocalCluster(slots=1):
        endpoint = f"ipc://{folder}/ping"
        served, echoing = start("--serve-box"), start("--serve-zmq", endpoint)
        socket = zmq.Context().socket(zmq.DEALER)
        socket.connect(endpoint)
        box = betterbox.RemoteBox.connect(PORT)

        def ping() -> None:
            socket.send_multipart([b"x" * 60, b"y" * 30])
            socket.recv_multipart()

        ratios = []
        print("  zmq p50   p99    call p50   p99   (us)  ratio")
        for _ in range(rounds):
            zmq_50, zmq_99 = measure(ping, calls)
            call_50, call_99 = measure(lambda: box.noop().result(), calls)
            ratios.append(call_50 / zmq_50)
            print(f"{zmq_50:9.1f}{zmq_99:6.1f}{call_50:12.1f}{call_99:6.1f}{ratios[-1]:14.2f}")
        print(f"median ratio {statistics.median(ratios):.2f}")
        socket.send_multipart([b"end"])
        socket.recv_multipart()
        socket.close()
        for process in (echoing, served):
            process.communicate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--calls", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve-box", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--serve-zmq", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve_box:
        serve_box()
    elif options.serve_zmq:
        serve_zmq(options.serve_zmq)
    else:
        os.environ.setdefault("PYTHONUNBUFFERED", "1")
        compare(options.calls, options.rounds)


if __name__ == "__main__":
    main()
