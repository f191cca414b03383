"""`LocalCluster`: what it starts, it ends."""

from __future__ import annotations

import errno
import gc
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import betterbox
import pytest
import work
from betterbox import Box, BusError, LocalCluster, RemoteBox, _settings, serve
from helpers import LONG, Scripts, processes_of, wait_until


def test_it_leaves_nothing_behind(home: Path) -> None:
    with LocalCluster(slots=2) as cluster:
        assert os.environ["BETTERBOX_BUS"] == cluster.bus
        assert betterbox.map(work.double, range(10)).compute(sum) == 90
        assert processes_of(home)
    assert "BETTERBOX_BUS" not in os.environ
    assert not os.path.exists(os.path.dirname(cluster.bus))
    wait_until(lambda: not processes_of(home), "all have ended")


def test_closing_twice_is_closing_once() -> None:
    cluster = LocalCluster(slots=1)
    cluster.close()
    cluster.close()


@pytest.mark.parametrize("slots", [0, -1, True, "2", 1.5])
def test_slots_are_whole_numbers_from_one(slots: object) -> None:
    with pytest.raises(ValueError, match="slots"):
        LocalCluster(slots=slots)  # type: ignore[arg-type]


def test_calls_fail_once_it_is_closed() -> None:
    with LocalCluster(slots=1):
        promise = betterbox.submit(work.wait_for_file, "/nonexistent/never")
    with pytest.raises(BusError):
        promise.result(10)


def test_many_slots_on_few_cores() -> None:
    with LocalCluster(slots=40):
        assert betterbox.map(work.double, range(400)).compute(sum) == sum(2 * x for x in range(400))


def test_several_workers_share_the_work_and_more_may_come(tmp_path: Path) -> None:
    gate = str(tmp_path / "gate")
    with LocalCluster(slots=1, workers=2) as cluster:
        held = betterbox.map(work.wait_for_file, [gate] * 3)
        wait_until(lambda: len(held.explain().agents) == 2, lambda: str(held.explain()))
        cluster.add_worker()
        wait_until(lambda: len(held.explain().agents) == 3, lambda: str(held.explain()))
        Path(gate).touch()
        assert held.result() == [gate] * 3
        assert sorted(agent["name"] for agent in held.explain().agents) == ["local-0", "local-1", "local-2"]
    with pytest.raises(BusError, match="closed"):
        cluster.add_worker()


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"workers": 0}, "workers must be"),
        ({"cpus": "all"}, "cpus must be"),
        ({"memory": "lots"}, "memory must be"),
        ({"gpus": [0, 0]}, "gpus must be"),
        ({"resources": {"gpus": 1}}, "an option of its own"),
    ],
)
def test_capacities_that_make_no_sense_are_refused(given: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        LocalCluster(1, **given)  # type: ignore[arg-type]


def test_a_worker_that_cannot_start_is_an_error_with_its_reason() -> None:
    with pytest.raises(BusError, match="did not start: --gpus takes at most 64 devices"):
        LocalCluster(1, gpus=100)


HOLD = """
import time, betterbox
cluster = betterbox.LocalCluster(slots=2)
promise = betterbox.submit(time.sleep, 1000)
print('up', flush=True)
"""


def test_workers_of_a_scheduler_that_cannot_start_end(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    program = _settings.program
    monkeypatch.setattr(_settings, "program", lambda name: "/bin/false" if name == "betterbox-scheduler" else program(name))
    with pytest.raises(BusError, match=r"the scheduler of the local cluster ended at once \(exit code 1\)"):
        LocalCluster(slots=1)
    wait_until(lambda: not processes_of(home), "all have ended")
    assert "there is no bus file" not in capfd.readouterr().err, "only the scheduler is to blame"


@pytest.mark.parametrize("victim", ["client", "betterbox-scheduler", "betterbox-worker"])
def test_whoever_is_killed_nothing_is_left(scripts: Scripts, home: Path, victim: str) -> None:
    """The fixture checks what is left; the client, if it lives, ends by Ctrl-C."""
    running = scripts.start("hold.py", HOLD + "try:\n    promise.result()\nexcept BaseException as e:\n    print(type(e).__name__)\n")
    running.wait_for("up")
    if victim == "client":
        running.process.kill()
    else:
        os.kill(next(pid for pid, command in processes_of(home).items() if victim in command), signal.SIGKILL)
        running.process.send_signal(signal.SIGINT)
    running.wait()
    wait_until(lambda: not processes_of(home), f"all have ended: {processes_of(home)}")


def test_a_script_that_forgets_to_close_it_leaves_nothing(scripts: Scripts, home: Path) -> None:
    scripts.run("forget.py", "import betterbox\ncluster = betterbox.LocalCluster(slots=1)\nbetterbox.submit(abs, -1).result()")
    wait_until(lambda: not processes_of(home), "all have ended")


class Echo(Box):
    def echo(self, value: int) -> int:
        return value


def kill(home: Path, program: str) -> None:
    [victim] = [pid for pid in processes_of(home) if Path(f"/proc/{pid}/comm").read_text().startswith(program)]
    os.kill(victim, signal.SIGKILL)


def test_a_worker_that_was_killed_is_replaced(home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gate = tmp_path / "gate"
    with LocalCluster(slots=1):
        promise = betterbox.submit(work.wait_for_file, str(gate))
        wait_until(lambda: promise.explain().agents, lambda: str(promise.explain()))
        kill(home, "betterbox-worke")
        gate.touch()
        assert promise.result(30) == str(gate)
    assert "the worker local of the local cluster" in caplog.text and "killed by SIGKILL" in caplog.text


def test_a_worker_that_cannot_be_replaced_is_an_error(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    with LocalCluster(slots=1):
        promise = betterbox.submit(work.wait_for_file, "/nonexistent/never")
        monkeypatch.setattr(betterbox._cluster_watch.subprocess, "Popen", refuse)
        kill(home, "betterbox-worke")
        with pytest.raises(BusError, match="its successor did not start: .*Cannot allocate memory"):
            promise.result(30)


def test_workers_that_go_on_dying_are_an_error(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(betterbox._cluster, "_MOST_RESTARTS", 0)
    with LocalCluster(slots=1):
        promise = betterbox.submit(work.wait_for_file, "/nonexistent/never")
        kill(home, "betterbox-worke")
        with pytest.raises(BusError, match="the worker local .* was killed by SIGKILL .* no more are started"):
            promise.result(20)
        with pytest.raises(BusError, match="no more are started"):
            betterbox.submit(abs, -1).result(20)


def test_a_cluster_without_its_scheduler_is_an_error_at_once(home: Path) -> None:
    with LocalCluster(slots=1):
        promise = betterbox.submit(work.wait_for_file, "/nonexistent/never")
        kill(home, "betterbox-sched")
        with pytest.raises(BusError, match="the scheduler of the local cluster .* was killed by SIGKILL"):
            promise.result(8)  # less than a lost scheduler is looked for elsewhere


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_cluster_that_has_ended_leaves_no_descriptors(home: Path) -> None:
    def use_one() -> int:
        with LocalCluster(slots=1):
            assert betterbox.map(abs, [-1, -2]).result() == [1, 2]
            assert betterbox.submit(abs, -3).result() == 3
        gc.collect()
        return open_descriptors()

    use_one()
    before = use_one()
    assert [use_one() for _ in range(3)] == [before] * 3


def test_a_box_that_was_served_leaves_no_descriptors(home: Path) -> None:
    def use_one() -> int:
        with serve(Echo, 8090):
            box = RemoteBox.connect(8090)
            assert [box.echo(i).result() for i in range(5)] == list(range(5))
        gc.collect()
        return open_descriptors()

    for _ in range(3):
        use_one()
    before = use_one()
    wait_until(lambda: use_one() <= before, lambda: f"no more than {before}")


def test_a_cluster_that_a_script_leaves_open_is_closed_when_it_ends(scripts: Scripts) -> None:
    script = scripts.start(
        "script.py",
        """
        import os, sys, betterbox
        cluster = betterbox.LocalCluster(slots=1)
        if os.fork() == 0:
            sys.exit()  # a child leaves its parent's cluster alone
        os.wait()
        print(cluster.bus, betterbox.submit(abs, -1).result())
        raise KeyError("on purpose")
        """,
    )
    assert script.wait() == 1
    assert script.output.count("Traceback") == 1 and script.output.endswith("KeyError: 'on purpose'\n"), script.output
    bus = next(line for line in script.output.splitlines() if "bus.json" in line).split()[0]
    assert not Path(bus).parent.exists()


def test_the_process_that_forks_slots_may_be_killed_at_any_time(home: Path) -> None:
    def templates() -> list[int]:
        return [pid for pid in processes_of(home) if Path(f"/proc/{pid}/comm").read_text() == "betterbox-tmpl\n"]

    killed = []

    def kill_the_first() -> None:
        wait_until(templates, "a worker starts one")
        killed.extend(templates())
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_the_first)
    killer.start()
    with LocalCluster(slots=1):
        killer.join()
        assert betterbox.map(abs, [-1, -2]).result(LONG) == [1, 2]
        wait_until(lambda: templates() and templates() != killed, "another one")
        for pid in templates():
            os.kill(pid, signal.SIGKILL)
        assert betterbox.map(abs, [-1, -2]).result(LONG) == [1, 2]


def test_who_does_not_read_what_slots_print_keeps_no_other_call_waiting(home: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import betterbox, sys\n"
        "with betterbox.LocalCluster(slots=2):\n"
        "    printing = betterbox.submit(lambda: [print('x' * 99) for _ in range(20_000)] and 'printed')\n"
        "    others = [betterbox.submit(abs, -i).result(30) for i in range(100)]\n"
        "    open(sys.argv[1], 'w').write(str(sum(others)))\n"
        "    print(printing.result(30))\n"
    )
    told = tmp_path / "told"
    env = {**os.environ, "PYTHONPATH": str(Path(betterbox.__file__).parent.parent)}
    with subprocess.Popen([sys.executable, str(script), str(told)], stdout=subprocess.PIPE, text=True, env=env) as running:
        wait_until(lambda: told.exists() and told.read_text() == "4950", "the other calls are done")
        output = running.communicate(timeout=LONG)[0]
    assert output.count("x" * 99) == 20_000
    assert "printed" in output
