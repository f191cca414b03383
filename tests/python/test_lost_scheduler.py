"""A scheduler that is killed: another one starts, and what was under way goes on."""

from __future__ import annotations

import concurrent.futures
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any, NoReturn

import betterbox
import pytest
import work
from betterbox import BusError, LocalCluster, _bus, _functions, _promise
from helpers import LONG, Scripts, processes_of, wait_until


def raised(error: BaseException) -> NoReturn:
    raise error


def schedulers(home: Path) -> list[int]:
    found = processes_of(home).items()
    return [pid for pid, command in found if command.split()[0].endswith("betterbox-scheduler")]


def test_submissions_each_have_their_one_outcome_though_their_scheduler_is_killed(home: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    settled = [betterbox.submit(work.double, i) for i in range(300)]
    assert [promise.result(LONG) for promise in settled] == [2 * i for i in range(300)]
    heard: list[int] = []
    blocking = [betterbox.submit(work.wait_for_file, str(gate)) for _ in range(os.cpu_count() or 1)]
    under_way = [betterbox.submit(work.double, i) for i in range(300)]
    for promise in under_way:
        promise.add_done_callback(lambda done: heard.append(done.result()))
    killed = schedulers(home)
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    meanwhile = [betterbox.submit(work.double, i) for i in range(300, 600)]
    gate.touch()
    assert [promise.result(LONG) for promise in under_way + meanwhile] == [2 * i for i in range(600)]
    assert [promise.result(LONG) for promise in blocking] == [str(gate)] * len(blocking)
    wait_until(lambda: len(heard) == 300, lambda: f"each callback ran once, but {len(heard)} did")
    assert sorted(heard) == [2 * i for i in range(300)]
    assert killed and not set(killed) & set(schedulers(home))


def test_calls_made_while_a_named_bus_has_no_scheduler_wait_for_the_next_one(
    home: Path, scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = str(home / "bus.json")
    scheduler = scripts.cli("scheduler", "--interface", "none")
    wait_until((home / "bus.json").exists, "a bus")
    monkeypatch.setenv("BETTERBOX_BUS", bus)
    scripts.cli("worker", "--slots", "1")
    assert betterbox.submit(work.double, 1).result(LONG) == 2
    scheduler.process.kill()
    scheduler.wait()
    wait_until(lambda: not _bus._connections[bus].client.connected(), "a client that knows")
    wait_until(lambda: not os.path.exists(bus), "a bus file that is gone")
    promises = betterbox.submit(work.double, 2), betterbox.map(work.double, [3]), betterbox.submit(len, betterbox.put([1]))
    future = betterbox.Executor().submit(work.double, 4)

    def box() -> str:
        with betterbox.deploy(work.Tester, 8090):
            return str(betterbox.RemoteBox.connect(8090).echo("x").result())

    def served() -> str:
        with betterbox.serve(work.Tester, 8091):
            return str(betterbox.RemoteBox.connect(8091).echo("y").result())

    with concurrent.futures.ThreadPoolExecutor() as threads:
        deployed, serving = threads.submit(box), threads.submit(served)
        scripts.cli("scheduler", "--interface", "none")
        assert [promise.result(LONG) for promise in promises] == [4, [6], 1]
        assert future.result(LONG) == 8 and deployed.result(LONG) == "x" and serving.result(LONG) == "y"


def test_a_question_is_asked_again_where_its_scheduler_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    class Connection:
        info: object = 1
        is_connected = True

        def connected(self) -> bool:
            return self.is_connected

    connection: Any = Connection()
    connection.client = connection
    monkeypatch.setattr(_bus, "current", lambda: connection)

    def reached() -> Any:
        connection.is_connected = True
        return connection

    monkeypatch.setattr(_bus, "reached", reached)
    asked: list[bool] = []

    def ask(_: object, new: bool) -> str:
        asked.append(new)
        if len(asked) == 1:
            connection.is_connected = False
        elif len(asked) == 2:
            connection.info = 2  # lost, and there again
        else:
            return "answer"
        raise BusError("lost")

    assert _bus.answered(ask) == "answer" and asked == [False, True, True]
    with pytest.raises(BusError, match="no"):
        _bus.answered(lambda connection, new: raised(BusError("no")))


def test_a_worker_told_to_end_does_not_wait_for_a_scheduler_that_is_away(
    home: Path, scripts: Scripts, tmp_path: Path
) -> None:
    scheduler = scripts.cli("scheduler")
    wait_until((home / "bus.json").exists, "a bus")
    worker = scripts.cli("worker", "--slots", "1", "--drain", "1000")
    begun = tmp_path / "begun"
    user = """
        import sys, time, betterbox
        def begin(path):
            open(path, "w").close()
            time.sleep(1000)
        betterbox.submit(begin, sys.argv[1]).result()
    """
    scripts.start("user.py", user, str(begun), BETTERBOX_BUS=str(home / "bus.json"))
    wait_until(begun.exists, "an item that runs")
    scheduler.process.kill()
    scheduler.wait()
    worker.process.terminate()
    assert worker.wait() == 0, worker.output


def test_a_wait_outlasts_a_scheduler_that_does_not_answer_whether_anybody_works(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gate, asked = tmp_path / "gate", []

    def silent(connection: object) -> bool:
        asked.append(connection)
        if len(asked) == 3:
            gate.touch()
        raise BusError("the scheduler did not answer")

    monkeypatch.setattr(_functions, "_has_worker", silent)
    monkeypatch.setattr(_functions, "_CHECK_SECONDS", 0.0)
    monkeypatch.setattr(_promise, "_LOOK_SECONDS", 0.02)
    with LocalCluster(slots=1):
        assert betterbox.map(work.wait_for_file, [str(gate)]).result(LONG) == [str(gate)]


def test_a_scheduler_outlives_connections_that_take_all_its_descriptors(home: Path, scripts: Scripts) -> None:
    most = 160
    code = f"import os, resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, ({most}, {most})); os.execv(sys.argv[1], sys.argv[1:])"
    scheduler = scripts.command("-c", code, sys.executable, "-m", "betterbox", "scheduler", "--interface", "lo")
    wait_until((home / "bus.json").exists, "a bus")
    bus = json.loads((home / "bus.json").read_text())
    at = ("127.0.0.1", int(bus["network_endpoint"].rpartition(":")[2]))
    silent = [socket.create_connection(at) for _ in range(2 * most)]
    wait_until(lambda: len(os.listdir(f"/proc/{bus['pid']}/fd")) == most, "a scheduler without a free descriptor")
    with socket.socket(socket.AF_UNIX) as local:
        local.connect(bus["endpoint"].removeprefix("ipc://"))
        for connection in silent:
            connection.close()
        assert scripts.cli("status").wait() == 0
    assert scheduler.end() == 0, scheduler.output
