"""A bus of several hosts: peers in UTS namespaces of their own have other host names and so take the network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import Running, Scripts, wait_until


def _namespaces_work() -> bool:
    unshare = shutil.which("unshare")
    return unshare is not None and subprocess.run([unshare, "--uts", "true"], capture_output=True).returncode == 0


pytestmark = pytest.mark.skipif(not _namespaces_work(), reason="hosts need namespaces, and those need root")

SERVER = """
    import socket
    from betterbox import Box, serve_box

    @serve_box(8090)
    class ABox(Box):
        def where(self):
            return socket.gethostname()
        def size(self, data):
            return len(data)
"""
USER = """
    from betterbox import RemoteBox
    box = RemoteBox.connect(8090, timeout=10)
    print(box.where().result(20), box.size(b"x" * 5_000_000).result(20))
"""


def on_host(scripts: Scripts, name: str, *args: str, **env: str) -> Running:
    """Start ``python ARGS`` on another host."""
    launch = """
import os, sys
os.execvp("unshare", ["unshare", "--uts", "sh", "-c", 'hostname "$0"; exec "$@"', *sys.argv[1:]])
"""
    return scripts.command("-c", launch, name, sys.executable, *args, **env)


@pytest.fixture
def bus(home: Path, scripts: Scripts, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bus with a network, on the loopback."""
    monkeypatch.setenv("BETTERBOX_INTERFACE", "lo")
    scripts.cli("scheduler")
    file = home / "bus.json"
    wait_until(file.exists, "a bus file")
    monkeypatch.setenv("BETTERBOX_BUS", str(file))
    return file


def test_the_bus_file_holds_the_keys_and_is_for_its_owner_alone(bus: Path) -> None:
    info = json.loads(bus.read_text())
    assert info["network_endpoint"].startswith("tcp://127.0.0.1:")
    assert len(info["public_key"]) == len(info["secret_key"]) == 40
    assert bus.stat().st_mode & 0o777 == 0o600


def test_a_worker_and_a_box_on_other_hosts_are_used(bus: Path, scripts: Scripts) -> None:
    on_host(scripts, "far1", "-m", "betterbox", "worker", "--slots", "2")
    server = str(scripts.write("server.py", SERVER))
    on_host(scripts, "far2", server)
    out = scripts.run(
        "use.py",
        """
        import socket
        import betterbox
        print(sorted(set(betterbox.map(lambda _: socket.gethostname(), range(20)).result(20))))
        """,
    )
    assert out.split("\n")[0] == "['far1']"
    assert scripts.run("client.py", USER).split() == ["far2", "5000000"]
    third = on_host(scripts, "far3", str(scripts.write("third.py", USER)))
    assert third.wait() == 0
    assert third.output.split() == ["far2", "5000000"]


def test_the_keys_of_another_bus_get_nothing(bus: Path, scripts: Scripts, tmp_path: Path) -> None:
    info = json.loads(bus.read_text())
    on_host(scripts, "far1", "-m", "betterbox", "worker", "--slots", "1")
    other = tmp_path / "other"
    other.mkdir()
    stranger = scripts.cli("scheduler", "--bus", str(other / "bus.json"))
    wait_until((other / "bus.json").exists, "another bus")
    keys = json.loads((other / "bus.json").read_text())
    forged = tmp_path / "forged.json"
    for name in ("public_key", "secret_key"):
        info[name] = keys[name]
    forged.write_text(json.dumps(info))
    forged.chmod(0o600)
    thief = on_host(
        scripts,
        "thief",
        str(
            scripts.write(
                "thief.py",
                """
                import betterbox
                try:
                    betterbox.submit(print, "executed").result(10)
                except betterbox.BusError as error:
                    print("refused:", error)
                """,
            )
        ),
        BETTERBOX_BUS=str(forged),
    )
    assert thief.wait() == 0
    assert thief.output.startswith("refused:"), thief.output
    assert "executed" not in thief.output
    stranger.end()


def test_a_bus_file_that_others_can_read_is_refused_with_advice(bus: Path, scripts: Scripts) -> None:
    bus.chmod(0o644)
    status = scripts.cli("status")
    assert status.wait() == 1
    assert "chmod 600" in status.output
    bus.chmod(0o600)


def test_a_bus_that_serves_its_own_host_says_so_elsewhere(home: Path, scripts: Scripts) -> None:
    scripts.cli("scheduler", "--interface", "none")
    wait_until((home / "bus.json").exists, "a bus file")
    far = on_host(scripts, "far1", "-m", "betterbox", "status")
    assert far.wait() == 1
    # The machine is the same, so its boot id is: what a container with another name sees.
    assert "no scheduler answers" in far.output or "its own host only" in far.output


def test_an_interface_that_is_not_there_is_named_beside_those_that_are(home: Path, scripts: Scripts) -> None:
    wrong = scripts.cli("scheduler", "--interface", "ib7")
    assert wrong.wait() == 1
    assert "ib7" in wrong.output
    assert "lo (127.0.0.1)" in wrong.output


def test_workers_elsewhere_find_a_scheduler_that_was_killed_and_started_again(
    bus: Path, home: Path, scripts: Scripts
) -> None:
    keys = json.loads(bus.read_text())["public_key"]
    on_host(scripts, "far1", "-m", "betterbox", "worker", "--slots", "1")
    client = scripts.start(
        "client.py",
        """
        import socket
        import betterbox
        print(betterbox.submit(socket.gethostname).result(20), flush=True)
        import os, sys, time
        before = open(sys.argv[1]).read()
        while not os.path.exists(sys.argv[1]) or open(sys.argv[1]).read() == before:
            time.sleep(0.02)
        print(betterbox.submit(socket.gethostname).result(30), flush=True)
        """,
        str(bus),
    )
    client.wait_for("far1")
    scripts.running[0].process.kill()
    scripts.running[0].wait()
    again = scripts.cli("scheduler")
    assert client.wait() == 0, client.output
    assert client.output.split() == ["far1", "far1"]
    assert json.loads(bus.read_text())["public_key"] != keys
    assert again.process.poll() is None
    assert os.path.exists(bus)
