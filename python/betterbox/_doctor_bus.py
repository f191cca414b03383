"""What `betterbox doctor` looks at on the bus: its scheduler, the way to it, the clocks, the other hosts."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import ipaddress
import os
import time
from pathlib import Path
from typing import Any

from betterbox import _core, _settings
from betterbox._doctor import Check, Finding, ok, problem, warning
from betterbox._labels import host_name

ANSWER_SECONDS = 5.0
REACH_SECONDS = 2.0
CLOCK_SECONDS = 2.0  # of difference that are worth telling
HOSTS_LOOKED_AT = 64
RESERVED_DESCRIPTORS = 64  # with which a scheduler lets nobody in (runtime/limits.h)
PEERS_TO_COME = 192  # that should still find some


@dataclasses.dataclass
class Bus:
    """A bus as it was found."""

    name: str
    named: bool
    info: dict[str, Any] | None = None  # the bus file's fields
    endpoint: str = ""  # where it answered
    report: dict[str, Any] | None = None  # its status
    took_s: float = 0.0  # to answer
    clock_s: float = 0.0  # this host's clock when it answered
    error: str = ""  # why it did not

    @property
    def answers(self) -> bool:
        return self.report is not None


def look(name: str, named: bool) -> Bus:
    """Ask a bus for its status, and start nothing."""
    bus = Bus(name, named)
    file = "" if _settings.is_address(name) else name
    try:
        if file:
            bus.info = _core.read_bus_file(file)
            if bus.info is None:
                return bus
            bus.endpoint = _core.find_or_start_bus(file, [], "", ANSWER_SECONDS)["endpoint"]
        else:
            bus.endpoint = name
        bus.report, bus.took_s, bus.clock_s = ask(bus.endpoint, file)
    except Exception as error:
        bus.error = str(error)
    return bus


def ask(endpoint: str, file: str) -> tuple[dict[str, Any], float, float]:
    """(status, how long it took, this host's clock in the middle of it) of the scheduler at an endpoint."""
    client = _core.Client(endpoint, "betterbox doctor", True, None, file)
    try:
        began = time.time()
        report = client.status(ANSWER_SECONDS)
        ended = time.time()
    finally:
        client.close()
    return report, ended - began, (began + ended) / 2


def checks(bus: Bus) -> list[tuple[str, Check]]:
    """The checks of a bus."""
    return [
        ("scheduler", lambda: scheduler(bus)),
        ("its descriptors", lambda: its_descriptors(bus, "/proc")),
        ("network", lambda: network(bus)),
        ("versions", lambda: versions(bus)),
        ("clock", lambda: clock(bus)),
        ("boxes", lambda: boxes(bus)),
    ]


def scheduler(bus: Bus) -> Finding:
    """It answers."""
    if bus.report is not None:
        told = bus.report["scheduler"]
        peers = len(bus.report["peers"]) - 1  # without this one
        return ok(
            "scheduler",
            f"pid {told['pid']} on {told['host']} answers at {bus.endpoint} in {bus.took_s * 1e3:.1f} ms; {peers} peers, "
            f"up {bus.report['uptime_s']:.0f} s",
        )
    if bus.error:
        return problem("scheduler", bus.error, _what_to_do(bus))
    if bus.named:
        return problem("scheduler", f"there is no bus file {bus.name}", "start it: betterbox scheduler; or correct BETTERBOX_BUS")
    return ok("scheduler", "none runs; it starts with the first script that needs it")


def _what_to_do(bus: Bus) -> str:
    endpoint = str((bus.info or {}).get("network_endpoint", ""))
    here = (bus.info or {}).get("host") == host_name()
    if not endpoint or here or not _core.network_answers(endpoint, REACH_SECONDS):
        return "see what its text says; the scheduler's log is in BETTERBOX_HOME/logs"
    return (
        f"{endpoint} takes connections, so this bus file has other keys than the scheduler there, or that runs another "
        "version of BetterBox: copy the file again; a scheduler makes new keys each time it starts"
    )


def its_descriptors(bus: Bus, proc: str) -> list[Finding]:
    """A scheduler that has few left lets nobody in; seen on its own host only."""
    if bus.report is None or bus.report["scheduler"]["host"] != host_name():
        return []
    process = Path(proc) / str(bus.report["scheduler"]["pid"])
    try:
        used = len(os.listdir(process / "fd"))
        limits = (process / "limits").read_text()
    except OSError:
        return []  # in another container, or another user's
    most = next(int(line.split()[3]) for line in limits.splitlines() if line.startswith("Max open files"))
    found = f"the scheduler has {used} of {most} descriptors open"
    if most - used > RESERVED_DESCRIPTORS + PEERS_TO_COME:
        return [ok("its descriptors", found)]
    advice = "start it where the hard limit is higher: ulimit -Hn, LimitNOFILE= of a systemd unit"
    if most - used > RESERVED_DESCRIPTORS:
        return [warning("its descriptors", f"{found}: soon nobody will be let in", advice)]
    return [problem("its descriptors", f"{found}: nobody is let in any more", advice)]


def network(bus: Bus) -> Finding:
    """Other hosts reach the scheduler at one port, under the keys of the bus file."""
    if bus.info is None or bus.report is None:
        return ok("network", "not looked at: there is no scheduler to reach")
    endpoint = str(bus.info["network_endpoint"])
    if not endpoint:
        return ok("network", "this bus serves its own host only (others: betterbox scheduler --interface NAME)")
    if not _core.network_answers(endpoint, REACH_SECONDS):
        return problem(
            "network",
            f"{endpoint} takes no connection from here",
            f"let the firewall of {bus.info['host']} pass this port (a fixed one: --port), or name another --interface there",
        )
    try:
        _, took_s, _ = ask(endpoint, bus.name)
    except Exception as error:
        return problem("network", f"{endpoint} takes connections but does not answer: {error}", "copy the bus file again: these are not its keys")
    if ipaddress.ip_address(endpoint.partition("://")[2].rpartition(":")[0].strip("[]")).is_loopback:
        return warning(
            "network", f"{endpoint} answers, but other hosts cannot reach a loopback", "betterbox scheduler --interface NAME"
        )
    return ok("network", f"{endpoint} answers in {took_s * 1e3:.1f} ms, encrypted under the keys of the bus file")


def versions(bus: Bus) -> Finding:
    """Code by value is of one minor version of Python; all of a bus run the same BetterBox."""
    here = _settings.python_version()
    there = str((bus.info or {}).get("python", "")) or here
    product = str((bus.info or {}).get("version", "")) or _core.version
    if product != _core.version:
        return warning(
            "versions",
            f"here it is BetterBox {_core.version}, the bus was started by {product}",
            "install the same version everywhere; those that speak other protocols refuse each other",
        )
    if there != here:
        return warning(
            "versions",
            f"here it is Python {here}, the bus was started by {there}",
            "none where slots are their client's Python (a bus that starts itself, LocalCluster); workers that were started by hand, and "
            "boxes, take functions and classes of another minor version only from modules that both can import",
        )
    return ok("versions", f"Python {here}, BetterBox {product}" + (", here and on the bus" if bus.info else ""))


def clock(bus: Bus) -> Finding:
    """Nothing in BetterBox compares clocks of two hosts, but logs, certificates and file systems do."""
    if bus.report is None or bus.report["clock_s"] is None:
        return ok("clock", "not compared: no scheduler has told its time")
    ahead = bus.clock_s - bus.report["clock_s"]
    found = f"this host's is {abs(ahead):.3f} s {'ahead of' if ahead > 0 else 'behind'} the scheduler's (to {bus.took_s / 2:.3f} s)"
    if abs(ahead) - bus.took_s / 2 <= CLOCK_SECONDS:
        return ok("clock", found)
    return warning("clock", f"{found}; BetterBox does not mind, but the times in logs will not match", "run chrony or ntpd on all hosts")


def boxes(bus: Bus) -> list[Finding]:
    """Direct calls go straight to the host of a box."""
    if bus.report is None:
        return []
    here = host_name()
    elsewhere = {box["network_endpoint"]: box for box in bus.report["boxes"] if box["host"] != here}
    silent = [box for endpoint, box in elsewhere.items() if not endpoint]
    found = []
    if silent:
        found.append(
            warning(
                "boxes",
                f"those on {silent[0]['host']} serve their own host only",
                "start the scheduler with --interface, and the worker there without --interface none",
            )
        )
    endpoints = [endpoint for endpoint in elsewhere if endpoint][:HOSTS_LOOKED_AT]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        reached = list(pool.map(lambda endpoint: _core.network_answers(endpoint, REACH_SECONDS), endpoints))
    closed = [endpoint for endpoint, is_open in zip(endpoints, reached) if not is_open]
    if closed:
        box = elsewhere[closed[0]]
        found.append(
            warning(
                "boxes",
                f"{len(closed)} of {len(endpoints)} processes with boxes cannot be reached from here, as {closed[0]} on {box['host']}",
                "let the firewall there pass connections among the hosts of the bus, or name another --interface there",
            )
        )
    return found or [ok("boxes", f"{len(endpoints)} of {len(endpoints)} processes with boxes on other hosts can be reached")]
