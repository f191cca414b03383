"""Hosts with network interfaces of their own, on this machine.

Each host is a network and a UTS namespace with one TUN interface; a router process carries packets between them, late or
not at all. So no module of the kernel (netem, bridge) is needed, and nothing of the machine's network is touched.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import os
import random
import select
import shutil
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from time import monotonic

from helpers import LONG, Running, Scripts

_CLONE_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_IFF_TUN_NO_PI = 0x1001


def why_not() -> str:
    """Why there can be no such hosts here; empty if there can."""
    for program in ("ip", "unshare"):
        if shutil.which(program) is None:
            return f"{program} is not installed (Debian: iproute2, util-linux)"
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not Path("/dev/net/tun").exists():
        return "there is no /dev/net/tun"
    name = f"bbtry{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode != 0:
        return "network namespaces cannot be made here"
    # A host is entered by mounting over /sys, and a container has mounts of its own: neither can be where / is no mount
    # point, as in a plain chroot.
    entered = subprocess.run(
        ["ip", "netns", "exec", name, "unshare", "--mount", "--uts", "true"], capture_output=True, text=True
    )
    subprocess.run(["ip", "netns", "del", name], check=True)
    if entered.returncode != 0:
        return f"network namespaces cannot be entered here: {entered.stderr.strip()}"
    return ""


class Network:
    """Hosts h0, h1, ... at 10.99.0.1, 10.99.0.2, ...

    Parameters
    ----------
    hosts : int
        How many.
    delay : float
        Seconds from one host to another, one way.
    loss : float
        Part of the packets that get lost.
    """

    def __init__(self, hosts: int, delay: float = 0.0, loss: float = 0.0) -> None:
        self.names = [f"bb{os.getpid()}-{id(self) & 0xFFFF:x}-{i}" for i in range(hosts)]
        self._router: subprocess.Popen[str] | None = None
        try:
            for name in self.names:
                _run("ip", "netns", "add", name)
                _run("ip", "-n", name, "link", "set", "lo", "up")
            command = [sys.executable, __file__, str(delay), str(loss), *self.names]
            self._router = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            self._answer()
            for i, name in enumerate(self.names):
                _run("ip", "-n", name, "address", "add", f"{self.address(i)}/24", "dev", "eth0")
                _run("ip", "-n", name, "link", "set", "eth0", "up")
        except BaseException:
            self.close()
            raise

    @staticmethod
    def address(i: int) -> str:
        return f"10.99.0.{i + 1}"

    def cut_off(self, i: int) -> None:
        """Nothing comes or goes at host `i`, and nobody is told."""
        for other in range(len(self.names)):
            self.part(i, other)

    def join_again(self, i: int) -> None:
        for other in range(len(self.names)):
            self._tell("join", i, other)

    def part(self, i: int, other: int) -> None:
        """Nothing goes between these two, and neither is told."""
        self._tell("part", i, other)

    def start(self, i: int, scripts: Scripts, *args: str, **env: str) -> Running:
        """``python ARGS`` on host `i`, which is named h0, h1, ..."""
        launch = """
import os, sys
namespace, name = sys.argv[1:3]
os.execvp("ip", ["ip", "netns", "exec", namespace, "unshare", "--uts", "sh", "-c",
                 'hostname "$0"; exec "$@"', name, *sys.argv[3:]])
"""
        return scripts.command("-c", launch, self.names[i], f"h{i}", sys.executable, *args, **env)

    def close(self) -> None:
        if self._router is not None:
            self._router.communicate()  # its input ends, and so does it
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)

    def _tell(self, *words: object) -> None:
        assert self._router is not None and self._router.stdin is not None
        print(*words, file=self._router.stdin, flush=True)
        self._answer()

    def _answer(self) -> None:
        assert self._router is not None and self._router.stdout is not None
        readable, _, _ = select.select([self._router.stdout], [], [], LONG)
        if not readable or self._router.stdout.readline() != "ok\n":
            raise RuntimeError("the router between the hosts does not answer")


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


# --- the router's process -----------------------------------------------------------------------------------


def _interface(namespace: str) -> int:
    """The other end of a new interface eth0 there."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/run/netns/{namespace}") as file:
        if libc.setns(file.fileno(), _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {namespace}")
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH", b"eth0", _IFF_TUN_NO_PI))
    return tun


class _Router:
    def __init__(self, delay: float, loss: float, namespaces: Sequence[str]) -> None:
        self._delay, self._loss = delay, loss
        self._tuns = [_interface(name) for name in namespaces]
        self._parted: set[frozenset[int]] = set()
        self._under_way: list[tuple[float, int, int, bytes]] = []
        self._random = random.Random(1)
        self._count = 0

    def run(self) -> None:
        os.nice(-10)  # a network does not wait for the hosts' processors
        print("ok", flush=True)
        while True:
            late = self._under_way[0][0] - monotonic() if self._under_way else None
            readable, _, _ = select.select([sys.stdin, *self._tuns], [], [], None if late is None else max(0.0, late))
            for i, tun in enumerate(self._tuns):
                if tun in readable:
                    self._take(i, tun)
            while self._under_way and self._under_way[0][0] <= monotonic():
                _, _, to, packet = heapq.heappop(self._under_way)
                self._deliver(to, packet)
            if sys.stdin in readable:
                words = sys.stdin.readline().split()
                if not words:
                    return
                pair = frozenset(int(word) for word in words[1:])
                self._parted.add(pair) if words[0] == "part" else self._parted.discard(pair)
                print("ok", flush=True)

    def _take(self, i: int, tun: int) -> None:
        for _ in range(64):
            try:
                packet = os.read(tun, 65536)
            except BlockingIOError:
                return
            if packet[0] >> 4 != 4:
                continue
            to = packet[19] - 1
            known = packet[16:19] == bytes([10, 99, 0]) and to < len(self._tuns)
            if known and frozenset((i, to)) not in self._parted and self._random.random() >= self._loss:
                self._count += 1
                heapq.heappush(self._under_way, (monotonic() + self._delay, self._count, to, packet))

    def _deliver(self, to: int, packet: bytes) -> None:
        try:
            os.write(self._tuns[to], packet)
        except OSError:  # its interface is not up, or full: lost, as packets are
            pass


if __name__ == "__main__":
    _Router(float(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]).run()
