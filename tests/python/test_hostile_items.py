"""What a worker answers may be any bytes: the client reads them or says that they are none, and goes on."""

from __future__ import annotations

import json
import os
import random
import socket
import struct
import sys
from pathlib import Path

import pytest

from helpers import Scripts, wait_until

sys.path.insert(0, str(Path(__file__).parents[1] / "decoder"))
from bus_decoder import Peer, page_of  # noqa: E402

pytest.importorskip("numpy")

WORKER_ROLE = 2
BOOT_ID = Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def array(dtype: bytes, shape: list[int], data: bytes) -> bytes:
    """An item with tag kArray (docs/protocol.md, "Pages")."""
    head = struct.pack("<BB", 9, len(dtype)) + dtype + struct.pack(f"<B{len(shape)}Q", len(shape), *shape)
    return head + b"\0" * (-len(head) % 64) + data


GOOD = [array(b"<f8", [2], b"\1" * 16), array(b"|b1", [2, 3], b"\1" * 6), b"\x10\x03<f4" + b"\1" * 4, b"\x05text", b"\x06bytes"]
HOSTILE = [
    array(b"|O", [2], b"\x41" * 16),  # would be two pointers
    array(b"O8", [1], b"\x41" * 8),
    array(b"", [1], b"\x41" * 8),
    array(b"<f8", [1 << 62, 4], b""),
    array(b"<f8", [1 << 30] * 200, b""),
    array(b"<i8, |O", [1], b"\x41" * 16),
    b"\x10\x03|O8" + b"\x41" * 8,
    b"\x10\xff<f4",
    b"\x0c" + b"\xff" * 8,
    b"\x0d" + b"\xff" * 40,
    b"\x08" + b"\xff" * 40,
]


def items() -> list[bytes]:
    drawn = random.Random(7)
    changed = []
    for good in GOOD * 30:
        item = bytearray(good)
        for _ in range(1 + drawn.randrange(3)):
            item[drawn.randrange(len(item))] = drawn.randrange(256)
        if item[0] not in (7, 8, 10):  # pickles are programs
            changed.append(bytes(item))
    return GOOD + HOSTILE + changed


def answer(worker: Peer, outcomes: list[bytes]) -> None:
    """As a worker: each item that comes has one of these outcomes."""
    acknowledged = 0
    while outcomes:
        message = worker.receive(60)
        if message.kind != "Lease":
            continue
        begin, end = message.fields["range"]["begin"], message.fields["range"]["end"]
        acknowledged += 1
        count = end - begin
        worker.send(
            "Outcomes",
            {
                "ack": acknowledged,
                "lease": message.fields["lease"],
                "spans": [{"first": begin, "count": count, "busy_ns": 1000}],
                "seats": [{"seat": 0, "items": count, "busy_ns": 1000, "busy_squares": 100.0, "longest_ns": 10}],
            },
            [page_of([outcomes.pop(0) if outcomes else b"\0" for _ in range(count)])],
        )


CLIENT = """
import json, sys
import betterbox
promises = [betterbox.submit(abs, i) for i in range(int(sys.argv[1]))]
print(json.dumps([type(promise.exception(60)).__name__ for promise in promises]))
"""


def test_outcomes_of_any_bytes_are_read_or_are_errors(scripts: Scripts, tmp_path: Path) -> None:
    bus, outcomes = tmp_path / "bus.json", items()
    scripts.cli("scheduler", "--bus", str(bus))
    wait_until(bus.exists, "the bus file is there")
    with Peer(json.loads(bus.read_text())["endpoint"]) as worker:
        hello = {"role": WORKER_ROLE, "peer": 0x5EED, "session": 1, "python": f"3.{sys.version_info.minor}", "pid": os.getpid()}
        worker.send("Hello", {**hello, "host": socket.gethostname(), "boot_id": BOOT_ID, "name": "any", "endpoint": "ipc:///nowhere/w"})
        worker.expect("Welcome")
        worker.send("Offer", {"function_slots": 4, "capacity": {"cpus_milli": 4000, "memory_bytes": 1 << 30, "gpus_milli": 0, "named": []}})
        client = scripts.start("client.py", CLIENT, str(len(outcomes)), BETTERBOX_BUS=str(bus))
        answer(worker, list(outcomes))
        assert client.wait() == 0, client.output
    kinds = json.loads(client.output)
    assert kinds[: len(GOOD)] == ["NoneType"] * len(GOOD)
    assert all(kind != "NoneType" for kind in kinds[len(GOOD) : len(GOOD) + len(HOSTILE)]), kinds
