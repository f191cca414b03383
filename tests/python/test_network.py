"""A bus whose hosts have a network between them that is slow, loses packets, or is cut."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import network
import pytest
from helpers import Scripts, wait_until
from network import Network

_PROBLEM = network.why_not()
pytestmark = pytest.mark.skipif(bool(_PROBLEM), reason=_PROBLEM)

SERVER = """
    import socket
    from betterbox import Box, serve_box

    @serve_box(8090)
    class ABox(Box):
        def where(self):
            return socket.gethostname()
        def size(self, data):
            return len(data)
        def kill(self):
            import os
            os._exit(3)
"""


@pytest.fixture
def hosts(home: Path, scripts: Scripts, monkeypatch: pytest.MonkeyPatch) -> Iterator[Network]:
    """Three hosts, 20 ms from each other and back, that lose packets; the first has the scheduler."""
    made = Network(3, delay=0.01, loss=0.01)
    try:
        made.start(0, scripts, "-m", "betterbox", "scheduler")
        file = home / "bus.json"
        wait_until(file.exists, "a bus file")
        monkeypatch.setenv("BETTERBOX_BUS", str(file))
        assert json.loads(file.read_text())["network_endpoint"].startswith("tcp://10.99.0.1:")
        yield made
        scripts.end()  # while they reach each other
    finally:
        made.close()


def test_calls_to_a_box_that_cannot_be_reached_go_through_the_scheduler(hosts: Network, scripts: Scripts) -> None:
    hosts.start(1, scripts, str(scripts.write("server.py", SERVER)))
    hosts.part(2, 1)
    user = """
        import betterbox
        from betterbox import RemoteBox, GroupBox
        box = RemoteBox.connect(8090, timeout=20)
        print(box.where().result(20), box.size(b"x" * 5_000_000).result(20))
        print(sum(p.result(20) for p in [box.size(b"y" * i) for i in range(300)]))
        print(GroupBox.connect(8090).where().result(20))
        try:
            box.kill().result(20)
        except betterbox.BoxLostError as error:
            print("lost")
    """
    client = hosts.start(2, scripts, str(scripts.write("user.py", user)))
    assert client.wait() == 0, client.output
    assert client.output.splitlines() == ["h1 5000000", str(sum(range(300))), "['h1']", "lost"]


def test_a_box_whose_socket_lies_in_another_container_is_reached_over_the_network(
    hosts: Network, scripts: Scripts
) -> None:
    hosts.start(1, scripts, str(scripts.write("server.py", SERVER)))
    user = """
        import socket
        import betterbox
        assert socket.gethostname() == "h1"  # where the box says that it is
        box = betterbox.RemoteBox.connect(8090, timeout=20)
        print([box.size(b"x" * i).result(20) for i in (1, 1_000_000)])
    """
    apart = """
import os, sys
os.execvp("unshare", ["unshare", "--mount", "sh", "-c", 'hostname h1; mount -t tmpfs none "$XDG_RUNTIME_DIR"; exec "$@"', *sys.argv])
"""
    client = hosts.start(2, scripts, "-c", apart, sys.executable, str(scripts.write("user.py", user)))
    assert client.wait() == 0, client.output
    assert client.output.split("\n")[0] == "[1, 1000000]"
    status = hosts.start(0, scripts, "-m", "betterbox", "status", "--json")
    assert status.wait() == 0
    assert json.loads(status.output)["counters"]["messages_relayed"] == 0


@pytest.mark.parametrize("cut_off", [1, 2], ids=["the box's", "the caller's"])
def test_calls_through_the_scheduler_end_once_when_a_host_is_cut_off_and_work_when_it_is_back(
    hosts: Network, scripts: Scripts, tmp_path: Path, cut_off: int
) -> None:
    ran = tmp_path / "ran"
    server = f"""
        import time
        from betterbox import Box, serve_box

        @serve_box(8090)
        class ABox(Box):
            def square(self, i):
                time.sleep(0.01)
                with open({str(ran)!r}, "ab", buffering=0) as file:
                    file.write(b"%d\\n" % i)
                return i * i
    """
    hosts.start(1, scripts, str(scripts.write("server.py", server)))
    hosts.part(2, 1)
    user = """
        import betterbox
        box = betterbox.RemoteBox.connect(8090, timeout=20)
        print("connected", box.square(0).result(20))
        promises = [box.square(i) for i in range(1, 300)]
        for i, promise in enumerate(promises, 1):
            try:
                assert promise.result(60) == i * i
            except betterbox.BoxLostError:
                pass
        print("over", flush=True)
        while True:
            try:
                assert box.square(300).result(60) == 300 * 300
                break
            except (betterbox.BoxLostError, betterbox.NoBoxFoundError):
                pass
        print("works again", flush=True)
    """
    client = hosts.start(2, scripts, str(scripts.write("user.py", user)))
    wait_until(lambda: ran.exists() and len(ran.read_bytes().splitlines()) > 20, "calls are under way")
    hosts.cut_off(cut_off)
    cut = monotonic()
    wait_until(lambda: monotonic() - cut > 5, "the cut lasts")
    hosts.join_again(cut_off)
    hosts.part(2, 1)
    client.wait_for("works again")
    runs = [int(line) for line in ran.read_bytes().split()]
    once = [i for i in runs if i < 300]
    assert len(once) == len(set(once)), "a call ran twice"
    assert runs.count(300) >= 1


def test_a_host_that_is_cut_off_and_comes_back_loses_nothing(hosts: Network, scripts: Scripts, tmp_path: Path) -> None:
    for i in (1, 2):
        hosts.start(i, scripts, "-m", "betterbox", "worker", "--slots", "2")
    ran = tmp_path / "ran"
    user = f"""
        import socket, time
        import betterbox

        def run(i):
            time.sleep(0.02)
            with open({str(ran)!r}, "ab", buffering=0) as file:
                file.write(b"%d %s\\n" % (i, socket.gethostname().encode()))
            return i * i

        assert betterbox.map(run, range(1200)).result(100) == [i * i for i in range(1200)]
        print("right")
        while True:  # until the host is used again
            betterbox.map(run, range(100)).result(100)
    """
    client = hosts.start(0, scripts, str(scripts.write("user.py", user)))

    def hosts_used(since: int = 0) -> set[bytes]:
        return {line.split()[1] for line in ran.read_bytes()[since:].splitlines()[1:-1]} if ran.exists() else set()

    wait_until(lambda: hosts_used() == {b"h1", b"h2"}, "both hosts work")
    hosts.cut_off(2)
    cut = monotonic()
    wait_until(lambda: monotonic() - cut > 5, "the cut lasts")
    hosts.join_again(2)
    back = ran.stat().st_size
    client.wait_for("right")
    wait_until(lambda: b"h2" in hosts_used(back), "the host works again")
