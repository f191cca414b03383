"""Lanes whose clients are stopped, or write over them; lanes of groups, and of boxes that call boxes."""

from __future__ import annotations

import mmap
import os
import random
import signal
import struct
from pathlib import Path
from typing import Any

import betterbox
import pytest
import work
from betterbox import Box, GroupBox, RemoteBox, deploy, serve
from helpers import LONG, Scripts, wait_until
from test_lanes import lanes, take_a_lane

pytestmark = pytest.mark.usefixtures("cluster")

CLIENT = """
    import sys
    from betterbox import RemoteBox, _bus
    box = RemoteBox.connect(8090)
    while _bus.current().client.lanes == 0:
        box.name().result()
"""


def test_a_client_that_is_stopped_gets_all_replies_when_it_goes_on(scripts: Scripts, tmp_path: Path) -> None:
    """They are more than a lane holds; the box goes on meanwhile."""
    gate = tmp_path / "gate"
    with deploy(work.Tester, 8090):
        box: Any = RemoteBox.connect(8090)
        client = scripts.start(
            "client.py",
            CLIENT
            + f"""
    box.wait({str(gate)!r})
    promises = [box.echo(str(i) + "z" * 3000) for i in range(100)]
    print("called", flush=True)
    print([promise.result(30) for promise in promises] == [str(i) + "z" * 3000 for i in range(100)], box.echo(7).result(30))
    """,
        )
        client.wait_for("called")
        client.process.send_signal(signal.SIGSTOP)
        gate.touch()
        assert [box.echo(i).result(LONG) for i in range(100)] == list(range(100))
        client.process.send_signal(signal.SIGCONT)
        assert client.wait() == 0 and client.output == "called\nTrue 7\n"


def test_a_client_that_writes_over_its_lane_harms_nobody_else(scripts: Scripts) -> None:
    with deploy(work.Tester, 8090):
        box: Any = RemoteBox.connect(8090)
        pid = box.pid().result(LONG)
        for seed in range(3):
            scripts.run(
                f"client-{seed}.py",
                f"""
                import sys
                sys.path.insert(0, {str(Path(__file__).parent)!r})
                import test_lane_troubles
                test_lane_troubles.write_rubbish({seed})
                """,
            )
            assert [box.echo(i).result(LONG) for i in range(50)] == list(range(50))
        assert box.pid().result(LONG) == pid, "it is the same process"


def write_rubbish(seed: int) -> None:
    """Call a box, and write over the lane meanwhile: counters, sizes, records. Ends without a word."""
    draw = random.Random(seed)
    box: Any = RemoteBox.connect(8090)
    take_a_lane(box)
    lane = next(fd for fd in os.listdir("/proc/self/fd") if "betterbox-lane" in _target(fd))
    memory = mmap.mmap(int(lane), 0)
    for _ in range(400):
        box.echo("a" * draw.randrange(2000))
        at = draw.choice([draw.randrange(64) * 8, 4096 + draw.randrange(1 << 16)])
        if draw.random() < 0.5:
            number = draw.choice([0, 1, 7, 1 << 16, 1 << 63, (1 << 64) - 1, draw.getrandbits(64)])
            memory[at : at + 8] = struct.pack("<Q", number)
        else:
            memory[at : at + 20] = draw.randbytes(20)
    os._exit(0)


def _target(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


def test_a_group_is_called_through_lanes() -> None:
    with deploy(work.Tester, 8091), serve(work.Tester(), 8091, block=False):
        group: Any = GroupBox.connect(8091)

        def called() -> bool:
            group.name().result(LONG)
            return lanes() == 2

        wait_until(called, "two lanes")
        promises = [group.echo(i) for i in range(500)]
        assert [list(promise.result(LONG)) for promise in promises] == [[i, i] for i in range(500)]


class Relay(Box):
    """A box that asks another one."""

    def __init__(self) -> None:
        self.behind: Any = RemoteBox.connect(8090)

    def ask(self, value: Any) -> tuple[Any, int]:
        return self.behind.echo(value).result(LONG), lanes()


def test_a_box_calls_a_box_through_a_lane() -> None:
    with deploy(work.Tester, 8090), deploy(Relay, 8092):
        relay: Any = RemoteBox.connect(8092)
        wait_until(lambda: relay.ask(0).result(LONG)[1] == 1 and lanes() == 1, "both have their lanes")
        promises = [relay.ask(i) for i in range(300)]
        assert [promise.result(LONG) for promise in promises] == [(i, 1) for i in range(300)]


def test_a_box_that_is_stopped_while_a_call_waits_ends_it(tmp_path: Path) -> None:
    with deploy(work.Tester, 8090):
        box: Any = RemoteBox.connect(8090)
        take_a_lane(box)
        busy = box.wait(str(tmp_path / "gate"))
        behind = box.echo(1)
    (tmp_path / "gate").touch()
    for promise in (busy, behind):
        try:
            promise.result(LONG)
        except betterbox.BoxLostError:
            pass
