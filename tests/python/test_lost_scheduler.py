"""A scheduler that is killed: another one starts, and what was under way goes on."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import betterbox
import work
from helpers import LONG, Scripts, processes_of, wait_until


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
