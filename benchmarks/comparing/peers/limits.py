"""What no library can beat: the same work with nothing, or as little as there can be, around it."""

from __future__ import annotations

import json
import mmap
import os
import pickle
import socket
import statistics
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from comparing import cases, work
from comparing.adapter import NotOffered, Peer

PROGRAM = Path(__file__).resolve().parents[3] / "build" / "release" / "benchmarks" / "ping_pong"
HEAD = b"h" * 48  # as large as the first frame of a call and of its answer


class Native(Peer):
    """A native program that answers itself from a second process (benchmarks/ping_pong.cc)."""

    carrier = ""

    def case_call(self, size: dict[str, Any]) -> cases.Figures:
        if not PROGRAM.exists():
            raise RuntimeError(f"{PROGRAM} is not built")
        command = [str(PROGRAM), self.carrier, str(size["calls"] * 4)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=15, check=True)
        found: cases.Figures = json.loads(done.stdout)
        return found


class NativeZmq(Native):
    carrier = "zmq"


class NativeSocket(Native):
    carrier = "socket"


class Forked(Peer):
    """A second process that runs `serve` until its end of a socket pair closes."""

    def start(self) -> None:
        self.near, far = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            self.near.close()
            try:
                self.serve(far)
            finally:
                os._exit(0)
        far.close()

    def stop(self) -> None:
        self.near.close()
        os.waitpid(self.pid, 0)

    def serve(self, far: socket.socket) -> None:
        raise NotImplementedError


class PlainZmq(Forked):
    """The plain prototype: pyzmq, DEALER to ROUTER over ipc, arguments and results pickled."""

    imports = "import zmq"

    def start(self) -> None:
        import zmq

        self.address = f"ipc://{os.path.abspath('plain.sock')}"
        super().start()
        self.dealer = zmq.Context().socket(zmq.DEALER)
        self.dealer.linger = 0
        self.dealer.connect(self.address)

    def serve(self, far: socket.socket) -> None:
        import zmq

        router = zmq.Context().socket(zmq.ROUTER)
        router.bind(self.address)
        while True:
            peer, head, arguments = router.recv_multipart()
            if not head:
                return
            answer = work.noop(*pickle.loads(arguments))
            router.send_multipart([peer, HEAD, pickle.dumps(answer, 5)])

    def stop(self) -> None:
        self.dealer.send_multipart([b"", b""])
        super().stop()

    def caller(self) -> Callable[[Any], Any]:
        send, receive = self.dealer.send_multipart, self.dealer.recv_multipart

        def call(x: Any) -> Any:
            send([HEAD, pickle.dumps((x,), 5)])
            return pickle.loads(receive()[1])

        return call

    def wait_idle(self, seconds: float) -> None:
        time.sleep(seconds)


class Loops(Peer):
    """As many bare processes as slots, each with its equal part in a plain loop: no messages, no pickling."""

    def both(self, fn: Callable[[Any], Any], count: int) -> float:
        """Seconds from the word to start to the last one's word that it is done."""
        children = []
        for number in range(self.slots):
            near, far = socket.socketpair()
            pid = os.fork()
            if pid == 0:
                try:
                    near.close()
                    part = range(number * count // self.slots, (number + 1) * count // self.slots)
                    far.recv(1)
                    results = [fn(item) for item in part]
                    far.send(b"+" if len(results) == len(part) else b"-")
                finally:
                    os._exit(0)
            far.close()
            children.append((pid, near))
        begin = time.perf_counter()
        for _, near in children:
            near.send(b"!")
        done = [near.recv(1) for _, near in children]
        took = time.perf_counter() - begin
        for pid, near in children:
            near.close()
            os.waitpid(pid, 0)
        if done != [b"+"] * self.slots:
            raise RuntimeError("a loop failed")
        return took

    def case_map(self, size: dict[str, Any]) -> cases.Figures:
        return {"no-ops": self.both(work.noop, size["items"])}

    def case_items_1ms(self, size: dict[str, Any]) -> cases.Figures:
        return {"1 ms items": self.both(partial(work.busy, size["steps"]), size["items"])}

    def case_items_10us(self, size: dict[str, Any]) -> cases.Figures:
        return {"10 us items": self.both(partial(work.busy, size["steps"]), size["items"])}

    def case_import(self, size: dict[str, Any]) -> cases.Figures:
        raise NotOffered

    case_idle = case_start = case_import


class Memory(Peer):
    """One copy of the array: warm between two arrays; cold, into a fresh file of memory by write."""

    imports = "import numpy"

    def case_array(self, size: dict[str, Any]) -> cases.Figures:
        return {"array warm": self._copy(size)}

    def case_back(self, size: dict[str, Any]) -> cases.Figures:
        return {"array back": self._copy(size)}

    def case_start(self, size: dict[str, Any]) -> cases.Figures:
        array = cases.fresh_array(size)
        begin = time.perf_counter()
        fd = os.memfd_create("fresh")
        view = memoryview(array).cast("B")
        while len(view):
            view = view[os.write(fd, view) :]
        took = time.perf_counter() - begin
        mapped = mmap.mmap(fd, array.nbytes)
        mapped.close()
        os.close(fd)
        return {"array cold": 1e3 * took}

    def _copy(self, size: dict[str, Any]) -> float:
        import numpy

        source = cases.fresh_array(size, 0)
        target = cases.fresh_array(size, 1)
        times = []
        for _ in range(size["times"] + 1):
            begin = time.perf_counter()
            numpy.copyto(target, source)
            times.append(1e3 * (time.perf_counter() - begin))
        return statistics.median(times[1:])

    def case_idle(self, size: dict[str, Any]) -> cases.Figures:
        raise NotOffered
