"""Direct calls through lanes of shared memory: order, bounds, ends of processes, and nothing left behind."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import betterbox
import pytest
import work
from betterbox import BoxLostError, CallCancelledError, CallTimeoutError, NoBoxFoundError, RemoteBox, deploy, serve
from helpers import LONG, Scripts, wait_until

pytestmark = pytest.mark.usefixtures("cluster")

SERVER = f"""
    import sys, threading
    import betterbox
    sys.path.insert(0, {str(Path(__file__).parent)!r})
    import work
    serving = betterbox.serve(work.Tester(), 8090, block=False)
    print("serving", flush=True)
    threading.Event().wait()
"""


def lanes() -> int:
    from betterbox import _bus

    return _bus.current().client.lanes


def take_a_lane(box: Any) -> None:
    """Call until calls go through a lane."""

    def called() -> bool:
        box.name().result()
        return lanes() > 0

    wait_until(called, "a lane")


@pytest.fixture(params=["a thread of this script", "a slot of a worker"])
def box(request: pytest.FixtureRequest, cluster: Any) -> Iterator[Any]:
    """A Tester that is called through a lane."""
    serving = serve(work.Tester(), 8090, block=False) if "thread" in request.param else deploy(work.Tester, 8090)
    with serving:
        remote = RemoteBox.connect(8090)
        take_a_lane(remote)
        yield remote


def lane_files(pid: int | str = "self") -> list[str]:
    """Lanes that a process has open or mapped."""
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return [line for line in maps if "betterbox-lane" in line]


def test_calls_keep_their_order_whatever_their_size(box: Any) -> None:
    for i in range(600):
        box.note(i if i % 50 else "x" * 100_000)
    notes = box.notes().result(LONG)
    assert notes == [i if i % 50 else "x" * 100_000 for i in range(600)]


def test_values_larger_than_a_lane_come_back(box: Any) -> None:
    for size in (10, 20_000, 32_768, 60_000, 70_000, 1_000_000):
        assert box.echo("y" * size).result(LONG) == "y" * size


def test_many_calls_from_several_threads(box: Any) -> None:
    wrong: list[Any] = []

    def call(thread: int) -> None:
        for i in range(2500):
            if box.echo((thread, i)).result(LONG) != (thread, i):
                wrong.append((thread, i))

    threads = [threading.Thread(target=call, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_more_calls_at_once_than_a_lane_holds(box: Any) -> None:
    promises = [box.echo("z" * 1000 + str(i)) for i in range(3000)]
    assert [p.result(LONG)[1000:] for p in promises] == [str(i) for i in range(3000)]


def test_callbacks_come_though_nobody_waits(box: Any) -> None:
    for _ in range(20):
        called = threading.Event()
        box.name().add_done_callback(lambda _: called.set())
        assert called.wait(LONG)


def test_a_promise_can_be_awaited(box: Any) -> None:
    import asyncio

    async def ask() -> list[Any]:
        return list(await asyncio.gather(*(box.echo(i) for i in range(100))))

    assert asyncio.run(ask()) == list(range(100))


def test_what_has_not_begun_can_be_cancelled(box: Any, tmp_path: Path) -> None:
    busy = box.wait(str(tmp_path / "gate"))
    dropped = [box.note(i) for i in range(5)]
    kept = box.note("kept")
    assert all(promise.cancel() for promise in dropped)
    (tmp_path / "gate").touch()
    busy.result(LONG)
    kept.result(LONG)
    assert box.notes().result(LONG) == ["kept"]
    with pytest.raises(CallCancelledError):
        dropped[0].result()


def test_a_timeout_ends_the_call_and_the_lane_goes_on(box: Any, tmp_path: Path) -> None:
    with pytest.raises(CallTimeoutError):
        box.wait(str(tmp_path / "gate")).result(timeout=0.05)
    late = box.note.options(timeout=0.05)("late")
    with pytest.raises(CallTimeoutError):
        late.result(LONG)
    (tmp_path / "gate").touch()
    assert box.notes().result(LONG) == []


def test_the_concurrent_ones_run_beside(box: Any, tmp_path: Path) -> None:
    busy = box.wait(str(tmp_path / "gate"))
    assert box.beside().result(LONG) == 0
    assert box.later("x").result(LONG) == "x"
    (tmp_path / "gate").touch()
    busy.result(LONG)


def test_an_interrupt_ends_a_wait(box: Any, tmp_path: Path) -> None:
    busy = box.wait(str(tmp_path / "gate"))
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        busy.result(LONG)
    (tmp_path / "gate").touch()
    busy.result(LONG)


def test_a_forked_child_takes_no_replies_of_its_parent(box: Any, tmp_path: Path) -> None:
    done, busy = box.name(), box.wait(str(tmp_path / "gate"))
    behind = [box.echo(i) for i in range(20)]
    child = os.fork()
    if child == 0:
        refused = 0
        for promise in (done, busy, behind[0]):
            try:
                promise.result(2)
            except betterbox.BusError:
                refused += 1
            except BaseException:
                pass
        os._exit(refused)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    (tmp_path / "gate").touch()
    busy.result(LONG)
    assert [promise.result(LONG) for promise in behind] == list(range(20))


def another_life(pid: int) -> bool:
    """Whether a box answers at the port that is not the one with this process."""
    try:
        box: Any = RemoteBox.connect(8090, timeout=LONG)
        return bool(box.pid().result(LONG) != pid)
    except (BoxLostError, NoBoxFoundError):
        return False


def test_a_box_that_is_killed_ends_its_calls(cluster: Any, tmp_path: Path) -> None:
    with deploy(work.Tester, 8090):
        box: Any = RemoteBox.connect(8090)
        take_a_lane(box)
        pid = box.pid().result()
        busy, behind = box.wait(str(tmp_path / "never")), box.note(1)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(BoxLostError, match="SIGKILL"):
            busy.result(LONG)
        with pytest.raises(BoxLostError):
            behind.result(LONG)
        wait_until(lambda: lane_files() == [], "the lane is given up")
        wait_until(lambda: another_life(pid), "another life")


def test_a_script_that_is_killed_ends_its_calls(scripts: Scripts, tmp_path: Path) -> None:
    server = scripts.start("server.py", SERVER)
    server.wait_for("serving\n")
    box: Any = RemoteBox.connect(8090)
    take_a_lane(box)
    busy = box.wait(str(tmp_path / "never"))
    os.kill(server.pid, signal.SIGKILL)
    with pytest.raises(BoxLostError):
        busy.result(LONG)
    wait_until(lambda: lane_files() == [], "the lane is given up")


def test_a_client_that_is_killed_leaves_nothing(scripts: Scripts, tmp_path: Path) -> None:
    with serve(work.Tester(), 8090, block=False):
        client = scripts.start(
            "client.py",
            """
            from betterbox import RemoteBox, _bus
            box = RemoteBox.connect(8090)
            while _bus.current().client.lanes == 0:
                box.name().result()
            print("lane", flush=True)
            while True:
                box.note(1).result()
            """,
        )
        client.wait_for("lane")
        wait_until(lambda: lane_files() != [], "the box has its lane")
        client.end(signal.SIGKILL)
        wait_until(lambda: lane_files() == [], "the box drops its lane")


def test_the_last_calls_of_a_client_that_leaves_are_run(scripts: Scripts) -> None:
    with serve(work.Tester(), 8090, block=False):
        scripts.run(
            "client.py",
            """
            from betterbox import RemoteBox, _bus
            box = RemoteBox.connect(8090)
            while _bus.current().client.lanes == 0:
                box.name().result()
            for i in range(50):
                box.note(i)
            """,
        )
        box: Any = RemoteBox.connect(8090)
        wait_until(lambda: box.notes().result(LONG) == list(range(50)), "the notes")
        wait_until(lambda: len(lane_files()) <= 2, "the lane is dropped")
