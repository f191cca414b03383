"""Ways to the bus: addresses, ports, IPv6, keys at every entry, many at once, few descriptors, clocks that differ."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import betterbox
import pytest
from betterbox import BusError, _core
from helpers import Running, Scripts, wait_until
from test_hosts import _namespaces_work, on_host

far_hosts = pytest.mark.skipif(not _namespaces_work(), reason="hosts need namespaces, and those need root")


def start_bus(scripts: Scripts, file: Path, *args: str, **env: str) -> dict[str, object]:
    """A scheduler by hand; the fields of its bus file."""
    file.parent.mkdir(mode=0o700, exist_ok=True)
    scripts.cli("scheduler", "--bus", str(file), *args, **env)
    wait_until(file.exists, "a bus file")
    return dict(json.loads(file.read_text()))


@pytest.fixture
def bus(home: Path, scripts: Scripts, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bus with a network, on the loopback."""
    file = home / "bus.json"
    start_bus(scripts, file, "--interface", "lo")
    monkeypatch.setenv("BETTERBOX_BUS", str(file))
    return file


# --- addresses and ports ----------------------------------------------------------------------------


def test_addresses_of_this_host_are_taken_in_any_spelling() -> None:
    assert _core.advertised_address("127.0.0.1", "") == "127.0.0.1"
    with contextlib.suppress(socket.gaierror):  # a bare system may not know that name
        socket.getaddrinfo("localhost", None)
        assert _core.advertised_address("localhost", "") in ("127.0.0.1", "[::1]")
    if ("lo", "[::1]") in _core.interfaces():
        assert {_core.advertised_address(name, "") for name in ("::1", "[::1]", "0:0:0:0:0:0:0:1")} == {"[::1]"}


@pytest.mark.parametrize(
    ("interface", "said"),
    [
        ("ib7", "no interface or address ib7"),
        ("no-such-name.invalid", "no name like that resolves"),
        ("203.0.113.9", "is no address of this host"),
    ],
)
def test_an_interface_that_is_none_is_named_beside_those_that_are(interface: str, said: str) -> None:
    with pytest.raises(BusError) as caught:
        _core.advertised_address(interface, "")
    assert said in str(caught.value)
    assert "lo (127.0.0.1)" in str(caught.value)


def test_a_peer_whose_name_does_not_resolve_is_told_so(bus: Path) -> None:
    with pytest.raises(BusError, match="does not resolve"):
        _core.advertised_address("", "tcp://no-such-name.invalid:4711")
    info = json.loads(bus.read_text())
    info.update(host="elsewhere", boot_id="another", network_endpoint="tcp://no-such-name.invalid:4711")
    copy = bus.parent / "copy.json"
    copy.write_text(json.dumps(info))
    copy.chmod(0o600)
    with pytest.raises(BusError, match="does not resolve"):
        _core.find_or_start_bus(str(copy), [], "", 1.0)


def test_a_port_that_is_taken_is_told_with_what_to_do(scripts: Scripts) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        scheduler = scripts.cli("scheduler", "--interface", "lo", "--port", str(taken.getsockname()[1]))
        assert scheduler.wait() == 1
    assert "--port" in scheduler.output
    assert "in use" in scheduler.output


def test_a_worker_whose_interface_is_not_there_does_not_start(bus: Path, scripts: Scripts) -> None:
    worker = scripts.cli("worker", "--slots", "1", "--interface", "ib7")
    assert worker.wait() == 1
    assert "no interface or address ib7" in worker.output


NEW_NETWORK = r"""
ip link set lo up && ip addr add fd7a:b0b::1/128 dev lo nodad
ip link add bb-near type veth peer name bb-down && ip link set bb-near up  # has a link-local address at most
ip link add bb-both type veth peer name bb-peer && ip link set bb-both up && ip addr add 10.77.0.1/24 dev bb-both
ip addr add 10.77.0.2/24 dev bb-both && ip addr add fd7a:b0b:1::1/64 dev bb-both nodad
exec "$@"
"""


@pytest.mark.skipif(
    subprocess.run(["unshare", "--net", *"ip link add bb-one type veth peer name bb-two".split()], capture_output=True).returncode != 0,
    reason="a network of its own needs root, unshare, ip and veth",
)
def test_interfaces_without_an_address_or_with_several(scripts: Scripts) -> None:
    script = scripts.write(
        "addresses.py",
        """
        import sys
        from betterbox import _core
        for name in sys.argv[1:]:
            try:
                print(_core.advertised_address(name, ""))
            except Exception as error:
                print(error)
        """,
    )
    launch = "import os, sys; os.execvp('unshare', ['unshare', '--net', 'sh', '-c', *sys.argv[1:]])"
    names = ["bb-near", "bb-down", "bb-both", "10.77.0.2", "fd7a:b0b:1::1"]
    asked = scripts.command("-c", launch, NEW_NETWORK, "sh", sys.executable, str(script), *names)
    assert asked.wait() == 0, asked.output
    near, down, both, second, other = asked.output.splitlines()
    assert near.startswith("the interface bb-near is down, or has no address that other hosts can use")
    assert down.startswith("the interface bb-down is down, or has no address")
    assert "bb-both (10.77.0.1)" in down
    assert (both, second, other) == ("10.77.0.1", "10.77.0.2", "[fd7a:b0b:1::1]")


@far_hosts
@pytest.mark.skipif(("lo", "[::1]") not in _core.interfaces(), reason="this machine has no IPv6")
def test_a_bus_over_ipv6_serves_functions_and_boxes(home: Path, scripts: Scripts, monkeypatch: pytest.MonkeyPatch) -> None:
    info = start_bus(scripts, home / "bus.json", "--interface", "::1")
    assert str(info["network_endpoint"]).startswith("tcp://[::1]:")
    monkeypatch.setenv("BETTERBOX_BUS", str(home / "bus.json"))
    on_host(scripts, "far1", "-m", "betterbox", "worker", "--slots", "1")
    box = """
        import socket
        from betterbox import Box, serve_box
        @serve_box(8090)
        class ABox(Box):
            def where(self):
                return socket.gethostname()
    """
    on_host(scripts, "far2", str(scripts.write("server.py", box)))
    out = scripts.run(
        "use.py",
        """
        import socket
        import betterbox
        print(betterbox.submit(socket.gethostname).result(20), betterbox.RemoteBox.connect(8090, timeout=10).where().result(20))
        """,
    )
    assert out.split() == ["far1", "far2"]


# --- keys -------------------------------------------------------------------------------------------

EXECUTED = "print('exe' + 'cuted')"


def forge(bus: Path, **changes: object) -> Path:
    """A copy of a bus file with other keys."""
    copy = bus.parent / f"forged-{len(list(bus.parent.iterdir()))}.json"
    copy.write_text(json.dumps({**json.loads(bus.read_text()), **changes}))
    copy.chmod(0o600)
    return copy


@far_hosts
def test_wrong_keys_open_no_entry(bus: Path, scripts: Scripts, tmp_path: Path) -> None:
    stranger = start_bus(scripts, tmp_path / "other" / "bus.json", "--interface", "lo")
    theirs = {name: stranger[name] for name in ("public_key", "secret_key", "incarnation")}
    ours = json.loads(bus.read_text())
    files = {
        "another bus's": forge(bus, **theirs),
        "another secret": forge(bus, secret_key=theirs["secret_key"]),
        "none": forge(bus, public_key="", secret_key=""),
        "no keys": forge(bus, public_key="x" * 40, secret_key=ours["secret_key"]),
        "only the address": ours["network_endpoint"],
    }
    scripts.write("mod.py", "from betterbox import Box\nclass ABox(Box):\n    def f(self):\n        " + EXECUTED)
    client = scripts.write(
        "client.py",
        f"""
        import betterbox
        def work():
            {EXECUTED}
        try:
            betterbox.submit(work).result(10)
        except betterbox.BusError as error:
            print(error)
            raise SystemExit(1)
        """,
    )
    entries = {
        "worker": ("-m", "betterbox", "worker", "--slots", "1"),
        "serve": ("-m", "betterbox", "serve", "mod:ABox", "--port", "8091"),
        "run": ("-m", "betterbox", "run", str(client)),
        "script": (str(client),),
        "status": ("-m", "betterbox", "status"),
        "doctor": ("-m", "betterbox", "doctor"),
    }
    trials = {
        (keys, name): on_host(scripts, "thief", *args, BETTERBOX_BUS=str(file))
        for keys, file in files.items()
        for name, args in entries.items()
        if keys == "another bus's" or name in ("status", "worker", "script")
    }
    for (keys, name), trial in trials.items():
        assert trial.wait() == 1, (keys, name, trial.output)
        assert "executed" not in trial.output
        assert "Traceback" not in trial.output
        assert "key" in trial.output, (keys, name, trial.output)
    peers = _core.Client(str(ours["endpoint"]), "look", True, None, str(bus)).status(5.0)["peers"]
    assert [peer["name"] for peer in peers] == ["look"]


def test_wrong_keys_are_no_way_in_on_the_schedulers_host_either(bus: Path, scripts: Scripts, tmp_path: Path) -> None:
    stranger = start_bus(scripts, tmp_path / "other" / "bus.json", "--interface", "lo")
    theirs = {name: stranger[name] for name in ("public_key", "secret_key")}
    for changes in (theirs, {"secret_key": theirs["secret_key"]}, {"public_key": "", "secret_key": ""}):
        file = forge(bus, **changes)
        trials = [scripts.cli(*args, BETTERBOX_BUS=str(file)) for args in (("status",), ("worker", "--slots", "1"))]
        for trial in trials:
            assert trial.wait() == 1, trial.output
            assert "key" in trial.output and "copy it again" in trial.output, trial.output


# --- many at once, and few descriptors --------------------------------------------------------------


def connect_at_once(endpoint: str, file: Path, count: int) -> tuple[list[_core.Client], list[str]]:
    """(clients, refusals) of `count` connections that are opened by eight threads."""
    clients: list[_core.Client] = []
    refusals: list[str] = []

    def come(numbers: range) -> None:
        for number in numbers:
            try:
                clients.append(_core.Client(endpoint, f"peer-{number}", True, None, str(file)))
            except BusError as error:
                refusals.append(str(error))

    threads = [threading.Thread(target=come, args=(range(first, count, 8),)) for first in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return clients, refusals


@pytest.fixture
def closing() -> Iterator[Callable[[list[_core.Client]], None]]:
    """Clients given to it are closed at the end."""
    kept: list[_core.Client] = []
    yield kept.extend
    for client in kept:
        client.close()


def test_two_hundred_peers_that_come_at_once_are_all_let_in(
    bus: Path, closing: Callable[[list[_core.Client]], None]
) -> None:
    info = json.loads(bus.read_text())
    clients, refusals = connect_at_once(info["network_endpoint"], bus, 200)
    closing(clients)
    assert refusals == []
    assert len(clients[0].status(10.0)["peers"]) == 200


def with_descriptors(scripts: Scripts, most: int, *args: str, **env: str) -> Running:
    """Start ``betterbox ARGS`` under a hard limit."""
    launch = f"import os, resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, ({most}, {most})); os.execv(sys.executable, [sys.executable, '-m', 'betterbox', *sys.argv[1:]])"
    return scripts.command("-c", launch, *args, **env)


def test_a_scheduler_with_few_descriptors_refuses_peers_and_serves_those_it_has(
    home: Path, scripts: Scripts, closing: Callable[[list[_core.Client]], None]
) -> None:
    home.mkdir(mode=0o700)
    scheduler = with_descriptors(scripts, 160, "scheduler", "--interface", "lo")
    file = home / "bus.json"
    wait_until(file.exists, "a bus file")
    info = json.loads(file.read_text())
    for endpoint in (info["network_endpoint"], info["endpoint"]):
        clients, refusals = connect_at_once(endpoint, file, 100)
        closing(clients)
        assert 5 < len(clients) < 95
        assert all("160 descriptors" in text and "ulimit -Hn" in text and "LimitNOFILE" in text for text in refusals)
        assert len(clients[0].status(10.0)["peers"]) == len(clients)
        for client in clients:
            client.close()
    again, refusals = connect_at_once(info["endpoint"], file, 1)
    closing(again)
    assert refusals == []
    assert scheduler.output.count("peers are refused") < 20
    assert scheduler.process.poll() is None


def test_who_cannot_have_enough_descriptors_does_not_start(bus: Path, scripts: Scripts) -> None:
    worker = with_descriptors(scripts, 500, "worker", "--slots", "100")
    other = with_descriptors(scripts, 100, "scheduler", "--bus", str(bus.parent / "other.json"))
    assert worker.wait() == 1
    assert "a worker with 100 slots needs" in worker.output
    assert other.wait() == 1
    for refused in (worker, other):
        assert "LimitNOFILE" in refused.output


def test_the_soft_limit_is_raised_to_the_hard_one(bus: Path, scripts: Scripts) -> None:
    pid = json.loads(bus.read_text())["pid"]
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    assert soft == min(hard, 65536)
    out = scripts.run(
        "soft.py",
        """
        import resource
        import betterbox
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
        with betterbox.LocalCluster(slots=1):
            slot = betterbox.submit(resource.getrlimit, resource.RLIMIT_NOFILE).result(20)
        print(slot[0], resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(hard, 65536))
        """,
        BETTERBOX_BUS="",
    )
    assert out.split() == ["200", "True"]  # user code in a slot has the limits that its worker was started with


def test_a_client_without_descriptors_says_so(bus: Path, scripts: Scripts) -> None:
    out = scripts.run(
        "few.py",
        """
        import os, resource
        import betterbox
        from betterbox import _core
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        kept = [os.dup(0) for _ in range(64 - len(os.listdir("/proc/self/fd")) - 6)]
        try:
            betterbox.submit(print, "executed").result(10)
        except betterbox.BusError as error:
            print(error)
        """,
    )
    assert "more descriptors" in out
    assert "LimitNOFILE" in out
    assert "executed" not in out


# --- clocks -----------------------------------------------------------------------------------------

SHIFTED = ["unshare", "--uts", "--time", "--monotonic", "1000000", "--boottime", "1000000", "--fork", "--kill-child=SIGTERM"]


@pytest.mark.skipif(
    subprocess.run([*SHIFTED, "true"], capture_output=True).returncode != 0,
    reason="another clock needs root, unshare and a kernel with time namespaces",
)
def test_a_host_whose_clock_is_days_ahead_works_like_any_other(bus: Path, scripts: Scripts) -> None:
    launch = f"import os, sys; os.execvp('unshare', {SHIFTED!r} + ['sh', '-c', 'hostname far1; exec \"$@\"', *sys.argv])"
    scripts.command("-c", launch, sys.executable, "-m", "betterbox", "worker", "--slots", "2")
    out = scripts.run(
        "use.py",
        """
        import time
        import betterbox

        def nap(seconds):
            time.sleep(seconds)
            return time.monotonic()

        began = time.monotonic()
        calls = betterbox.map(nap, [0.01] * 50)
        there = calls.result(20)
        took = time.monotonic() - began
        print(min(there) - began > 900_000)
        told = calls.explain()
        print(0.25 <= told.makespan_s <= took, 0.5 <= told.busy_s <= 2 * took)
        print(all(0 <= agent["seats"][0]["first_s"] <= agent["seats"][0]["last_s"] <= took for agent in told.agents))
        value = betterbox.put(b"x" * 300_000)
        print(betterbox.submit(len, value).result(20))
        print(betterbox.options(timeout=20).submit(nap, 0.01).result(20) > began)
        try:
            betterbox.options(timeout=0.2).submit(nap, 30).result(20)
        except betterbox.CallTimeoutError:
            print("timeout")
        """,
    )
    assert out.split() == ["True", "True", "True", "True", "300000", "True", "timeout"]
