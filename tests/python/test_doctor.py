"""``betterbox doctor``: each check made to find something, and the whole on buses that work and that do not."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from betterbox import _core, _doctor, _doctor_bus, _doctor_host, _settings
from betterbox._doctor import OK, PROBLEM, WARNING, Finding
from helpers import Running, Scripts, wait_until
from test_hosts import _namespaces_work, on_host

MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
server:/home /home nfs4 rw,vers=4.2 0 0
server:/old /home/old nfs rw,vers=3,nolock 0 0
lfs /scratch lustre rw,localflock 0 0
server:/odd /with\\040space nfs rw 0 0
"""


def state_of(found: Finding) -> str:
    """Its state; whatever is not well comes with advice."""
    assert (found.state == OK) == (found.advice == ""), found
    return found.state


# --- this host --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "state"), [(0o700, OK), (0o750, WARNING), (0o770, PROBLEM), (0o777, PROBLEM)])
def test_a_folder_that_others_may_change_is_a_problem(tmp_path: Path, mode: int, state: str) -> None:
    tmp_path.chmod(mode)
    found = _doctor_host.private_folder("home folder", str(tmp_path), "elsewhere")
    assert state_of(found) == state
    if state != OK:
        assert "chmod 700" in found.found + found.advice


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a folder away")
def test_somebody_elses_folder_is_a_problem(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, 12345)
    found = _doctor_host.private_folder("home folder", str(tmp_path), "set it")
    os.chown(tmp_path, 0, 0)
    assert isinstance(found, Finding)
    assert found.state == PROBLEM and "belongs to user 12345" in found.found


@pytest.mark.parametrize(
    ("folder", "state", "said"),
    [
        ("/var/me", OK, "ext4"),
        ("/home/me", OK, "which other hosts share"),
        ("/homeless", OK, "on / (ext4)"),
        ("/home/old/me", WARNING, "nolock"),
        ("/scratch/me", WARNING, "localflock"),
        ("/with space/me", OK, "/with space (nfs)"),
    ],
)
def test_a_shared_file_system_whose_locks_are_local_is_told(folder: str, state: str, said: str) -> None:
    found = _doctor_host.file_system(folder, MOUNTS)
    assert state_of(found) == state
    assert said in found.found


def test_locks_that_are_not_there_or_do_not_hold_are_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert state_of(_doctor_host.locks(str(tmp_path))) == OK
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    assert state_of(_doctor_host.locks(str(tmp_path))) == PROBLEM

    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    assert state_of(_doctor_host.locks(str(tmp_path))) == PROBLEM
    assert state_of(_doctor_host.locks(str(tmp_path / "nowhere"))) == PROBLEM
    assert list(tmp_path.iterdir()) == []


def test_a_bus_file_that_is_none_or_open_to_others_is_a_problem(tmp_path: Path) -> None:
    file = tmp_path / "bus.json"
    assert state_of(_doctor_host.bus_file(str(file))) == OK
    file.write_text("nonsense")
    file.chmod(0o600)
    assert "no bus file" in _doctor_host.bus_file(str(file)).found
    file.chmod(0o640)
    found = _doctor_host.bus_file(str(file))
    assert state_of(found) == PROBLEM
    assert "chmod 600" in found.found


def test_sockets_whose_paths_are_too_long_or_whose_folder_is_open_are_a_problem(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    folder = tmp_path / "s"
    assert state_of(_doctor_host.sockets(str(folder))) == OK
    assert state_of(_doctor_host.sockets("/nowhere/" + "x" * 80)) == PROBLEM
    assert state_of(_doctor_host.sockets("/nowhere/" + "x" * 79)) == OK
    folder.mkdir(mode=0o755)
    assert state_of(_doctor_host.sockets(str(folder))) == PROBLEM


def test_shared_memory_that_is_small_full_or_closed_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def of_size(blocks: int, free: int) -> Finding:
        size = os.statvfs_result((4096, 4096, blocks, free, free, 0, 0, 0, 0, 255))
        monkeypatch.setattr(os, "statvfs", lambda _: size)
        return _doctor_host.shared_memory(str(tmp_path))

    assert state_of(of_size(1 << 20, 1 << 19)) == OK
    assert "--shm-size" in of_size(1 << 14, 1 << 14).advice
    assert state_of(of_size(1 << 20, 1 << 10)) == WARNING
    assert state_of(_doctor_host.shared_memory(str(tmp_path / "nowhere"))) == WARNING


def test_what_killed_processes_left_is_counted(tmp_path: Path) -> None:
    name = f"betterbox-{os.geteuid()}-0123456789abcdef-"
    for number in (1, 2):
        (tmp_path / f"{name}{number}").write_bytes(b"x" * 4096)
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(tmp_path / "a-1"))
    dead.close()
    sockets = tmp_path / "sockets"
    sockets.mkdir()
    os.rename(tmp_path / "a-1", sockets / "a-1")
    with open(tmp_path / f"{name}1", "rb") as used:
        fcntl.fcntl(used, fcntl.F_OFD_SETLK, _doctor_host.whole_file(fcntl.F_RDLCK))
        found = _doctor_host.left_behind(str(sockets), str(tmp_path), False)
        assert state_of(found) == WARNING
        assert "1 file(s)" in found.found
        assert "1 socket(s)" in found.found
        under_way = b"\0" * 16 + b"\1" + b"\0" * 4079
        (tmp_path / f"{name}2").write_bytes(under_way)
        assert state_of(_doctor_host.left_behind(str(sockets), str(tmp_path), True)) == OK


def test_limits_are_compared_with_what_the_peers_need() -> None:
    assert state_of(_doctor_host.descriptors(1024, 1 << 20, 1000)) == OK
    assert state_of(_doctor_host.descriptors(1024, -1, 1000)) == OK
    few = _doctor_host.descriptors(1024, 2256, 1000)
    assert state_of(few) == WARNING
    assert "enough for 500" in few.found
    assert state_of(_doctor_host.descriptors(100, 100, 1000)) == PROBLEM
    assert state_of(_doctor_host.processes(-1, 64)) == OK
    assert state_of(_doctor_host.processes(10_000, 64)) == OK
    assert state_of(_doctor_host.processes(100, 64)) == PROBLEM
    assert state_of(_doctor_host.backlog(4096)) == OK
    assert state_of(_doctor_host.backlog(128)) == WARNING


def test_a_host_name_that_does_not_resolve_or_is_a_loopback_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_at(*addresses: str) -> None:
        entries = [(socket.AF_INET, 0, 0, "", (address, 0)) for address in addresses]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_: entries)

    is_at("10.1.2.3")
    assert state_of(_doctor_host.host_name("node7")) == OK
    is_at("127.0.1.1")
    found = _doctor_host.host_name("node7")
    assert state_of(found) == WARNING
    assert "/etc/hosts" in found.advice
    is_at("127.0.1.1", "fe80::1%eth0")
    assert state_of(_doctor_host.host_name("node7")) == OK
    monkeypatch.undo()
    assert "does not resolve" in _doctor_host.host_name("no-such-name.invalid").found


def test_a_host_with_a_loopback_alone_is_a_warning() -> None:
    assert state_of(_doctor_host.addresses([("lo", "127.0.0.1"), ("ib0", "[fd00::7]")])) == OK
    assert state_of(_doctor_host.addresses([("lo", "127.0.0.1"), ("lo", "[::1]")])) == WARNING


def test_the_own_address_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [state_of(found) for found in _doctor_host.own_address("127.0.0.1", "")] == [OK]
    assert [state_of(found) for found in _doctor_host.own_address("none", "")] == [OK]
    wrong = _doctor_host.own_address("ib7", "")[0]
    assert state_of(wrong) == PROBLEM
    assert "ib7" in wrong.found
    monkeypatch.setattr(_core, "advertised_address", lambda *_: "127.0.0.1")
    monkeypatch.setattr(_core, "interfaces", lambda: [("docker0", "127.0.0.1")])
    assert [state_of(found) for found in _doctor_host.own_address("", "")] == [WARNING]
    monkeypatch.setattr(_core, "network_answers", lambda *_: False)
    assert [state_of(found) for found in _doctor_host.own_address("", "")] == [PROBLEM]
    monkeypatch.setattr(_core, "advertised_address", lambda *_: "203.0.113.9")
    assert [state_of(found) for found in _doctor_host.own_address("", "")] == [PROBLEM]


def test_programs_of_batch_systems_are_told_only_where_some_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    there: set[str] = set()
    monkeypatch.setattr(_doctor_host.shutil, "which", lambda name: f"/usr/bin/{name}" if name in there else None)
    assert state_of(_doctor_host.slurm()) == OK
    assert state_of(_doctor_host.mpi()) == OK
    there |= {"srun"}
    assert state_of(_doctor_host.slurm()) == WARNING
    there |= {"sbatch", "squeue", "scancel"}
    assert state_of(_doctor_host.slurm()) == OK


# --- the bus ----------------------------------------------------------------------------------------


def made_up(**changes: Any) -> _doctor_bus.Bus:
    """A bus that answered."""
    report = {
        "scheduler": {"pid": 7, "host": "node1"},
        "peers": [{}],
        "boxes": [],
        "uptime_s": 1.0,
        "clock_s": 1000.0,
    }
    info = {"network_endpoint": "", "host": "node1", "python": _settings.python_version(), "version": _core.version}
    fields = {"name": "/b.json", "named": True, "info": info, "endpoint": "e", "report": report, "clock_s": 1000.0}
    return _doctor_bus.Bus(**{**fields, **changes})


def test_clocks_that_differ_are_a_warning() -> None:
    assert state_of(_doctor_bus.clock(made_up())) == OK
    ahead, behind = (_doctor_bus.clock(made_up(clock_s=clock, took_s=0.01)) for clock in (1010.0, 900.0))
    assert state_of(ahead) == state_of(behind) == WARNING
    assert "10.000 s ahead of" in ahead.found
    assert "100.000 s behind" in behind.found
    assert state_of(_doctor_bus.clock(made_up(clock_s=1003.0, took_s=4.0))) == OK  # it may be the way
    assert state_of(_doctor_bus.clock(made_up(report=None))) == OK


def test_another_python_and_another_betterbox_are_warnings() -> None:
    assert state_of(_doctor_bus.versions(made_up())) == OK
    assert state_of(_doctor_bus.versions(made_up(info=None))) == OK
    assert state_of(_doctor_bus.versions(made_up(info={"python": "3.9"}))) == WARNING
    assert state_of(_doctor_bus.versions(made_up(info={"python": _settings.python_version(), "version": "99.1"}))) == WARNING


def test_a_scheduler_that_is_not_there_is_a_problem_where_somebody_named_it() -> None:
    gone = made_up(info=None, report=None)
    assert state_of(_doctor_bus.scheduler(gone)) == PROBLEM
    gone.named = False
    assert state_of(_doctor_bus.scheduler(gone)) == OK
    gone.error = "no permission"
    assert state_of(_doctor_bus.scheduler(gone)) == PROBLEM


def test_a_scheduler_whose_descriptors_are_used_up_is_told_on_its_host(tmp_path: Path) -> None:
    bus = made_up()
    assert bus.report is not None
    assert _doctor_bus.its_descriptors(bus, str(tmp_path)) == []  # node1 is another host
    bus.report["scheduler"]["host"] = os.uname().nodename
    assert _doctor_bus.its_descriptors(bus, str(tmp_path)) == []  # another container's
    (tmp_path / "7" / "fd").mkdir(parents=True)
    for number in range(30):
        (tmp_path / "7" / "fd" / str(number)).touch()

    def with_limit(most: int) -> str:
        text = f"Limit  Soft Limit  Hard Limit  Units\nMax open files            {most}                 {most}   files\n"
        (tmp_path / "7" / "limits").write_text(text)
        return state_of(_doctor_bus.its_descriptors(bus, str(tmp_path))[0])

    assert with_limit(20_000) == OK
    assert with_limit(200) == WARNING
    assert with_limit(90) == PROBLEM


def test_boxes_that_cannot_be_reached_are_told_with_their_host() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        boxes = [
            {"host": "far1", "network_endpoint": f"tcp://127.0.0.1:{listener.getsockname()[1]}"},
            {"host": "far2", "network_endpoint": "tcp://127.0.0.1:1"},
            {"host": "far3", "network_endpoint": ""},
            {"host": os.uname().nodename, "network_endpoint": ""},
        ]
        bus = made_up()
        assert bus.report is not None
        bus.report["boxes"] = boxes[:1]
        assert [state_of(found) for found in _doctor_bus.boxes(bus)] == [OK]
        bus.report["boxes"] = boxes
        silent, closed = _doctor_bus.boxes(bus)
    assert state_of(silent) == state_of(closed) == WARNING
    assert "far3" in silent.found
    assert "far2" in closed.found


# --- the whole --------------------------------------------------------------------------------------


def test_a_check_that_breaks_is_a_warning_and_the_others_go_on() -> None:
    def breaks() -> Finding:
        raise RuntimeError("no /proc here")

    (found,) = _doctor.run_check("limits", breaks)
    assert state_of(found) == WARNING
    assert "no /proc here" in found.found
    assert _doctor.worst([found, _doctor.ok("other", "fine")]) == WARNING


def told(doctor: Running) -> dict[str, dict[str, str]]:
    """The findings of `betterbox doctor --json`, by check; its exit code says whether one is a problem."""
    code = doctor.wait()
    report = json.loads(doctor.output)
    assert code == (1 if report["state"] == PROBLEM else 0)
    return {found["check"]: found for found in report["checks"]}


def test_a_host_without_a_bus_is_looked_at_and_nothing_is_started(home: Path, scripts: Scripts) -> None:
    plain = scripts.cli("doctor")
    found = told(scripts.cli("doctor", "--json"))
    assert found["scheduler"]["state"] == OK
    assert "starts with the first script" in found["scheduler"]["found"]
    assert not any(home.iterdir())
    assert plain.wait() in (0, 1)
    assert plain.output.splitlines()[-1].split()[1].startswith("problem")
    missing = told(scripts.cli("doctor", "--json", BETTERBOX_BUS=str(home / "none.json")))
    assert missing["scheduler"]["state"] == PROBLEM
    assert scripts.cli("doctor", "--nonsense").wait() == 2


@pytest.mark.skipif(not _namespaces_work(), reason="hosts need namespaces, and those need root")
def test_a_bus_is_looked_at_from_its_host_and_from_another(home: Path, scripts: Scripts) -> None:
    scripts.cli("scheduler", "--interface", "lo")
    file = home / "bus.json"
    wait_until(file.exists, "a bus file")
    near = scripts.cli("doctor", "--json", BETTERBOX_BUS=str(file))
    far = on_host(scripts, "far1", "-m", "betterbox", "doctor", "--json", BETTERBOX_BUS=str(file))
    for doctor, carrier in ((near, "ipc://"), (far, "tcp://")):
        found = told(doctor)
        assert found["scheduler"]["state"] == OK
        assert f"answers at {carrier}" in found["scheduler"]["found"]
        assert "other hosts cannot reach a loopback" in found["network"]["found"]
        assert (found["clock"]["state"], found["versions"]["state"]) == (OK, OK)
        assert "behind" in found["clock"]["found"] or "ahead" in found["clock"]["found"]
    info = json.loads(file.read_text())
    info["network_endpoint"] = "tcp://127.0.0.1:1"
    copy = home / "copy.json"
    copy.write_text(json.dumps(info))
    copy.chmod(0o600)
    blocked = scripts.cli("doctor", "--json", BETTERBOX_BUS=str(copy))
    cut_off = on_host(scripts, "far2", "-m", "betterbox", "doctor", "--json", BETTERBOX_BUS=str(copy))
    assert "takes no connection" in told(blocked)["network"]["found"]
    assert "firewall" in told(cut_off)["scheduler"]["found"] or "no scheduler answers" in told(cut_off)["scheduler"]["found"]
