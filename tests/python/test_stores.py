"""Values between hosts: each host here is a process with a /dev/shm of its own, which needs root."""

from __future__ import annotations

import functools
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import betterbox
import numpy as np
import pytest
from betterbox import _bus
from helpers import Running, Scripts, needs_own_store, wait_until

BIG = 1 << 17  # float64: a megabyte

WORKER = """
    import os, sys
    worker = [sys.executable, "-m", "betterbox", "worker", "--slots", "2", "--name", sys.argv[1]]
    worker += ["--resource", sys.argv[1] + "=2"]
    mount = 'mount -t tmpfs -o size=64m tmpfs /dev/shm && exec "$@"'
    os.execvp("unshare", ["unshare", "--mount", "sh", "-c", mount, "sh", *worker])
"""


def total(data: Any) -> float:
    return float(np.sum(data))


def inside(box: dict[str, Any]) -> float:
    return float(np.sum(box["ref"].get(30)))


def plus(data: Any, item: float) -> float:
    return float(np.sum(data)) + item


def files_there(_: Any = None) -> list[str]:
    return sorted(os.listdir("/dev/shm"))


def status() -> dict[str, Any]:
    report: dict[str, Any] = _bus.current().client.status(10.0)
    return report


def store_of(_: Any) -> int:
    return os.stat("/dev/shm").st_dev


def value_of(ref: Any) -> dict[str, Any]:
    [value] = [each for each in status()["values"] if each["name"] == ref._place.name] or [{}]
    return value


def names() -> set[str]:
    return {peer["name"] for peer in status()["peers"] if peer["connected"] and peer["slots"] > 0}


@pytest.fixture
def bus(home: Path, scripts: Scripts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A bus without workers."""
    file = tmp_path / "bus.json"
    scheduler = scripts.cli("scheduler", "--bus", str(file))
    wait_until(file.exists, "the bus is up")
    monkeypatch.setenv("BETTERBOX_BUS", str(file))
    yield file
    for running in scripts.running:
        if running is not scheduler and running.process.poll() is None:
            running.process.terminate()
            running.wait()
    _bus.close(str(file))


@pytest.fixture
def other_store(bus: Path, scripts: Scripts) -> Callable[[str], Running]:
    """Starts a worker with a /dev/shm of its own."""

    def start(name: str) -> Running:
        running = scripts.start(f"{name}.py", WORKER, name)
        wait_until(lambda: name in names(), f"{name} has joined: {running.output}")
        return running

    return start


@needs_own_store
def test_a_value_goes_to_a_worker_with_another_store_and_is_freed_there(other_store: Callable[[str], Running]) -> None:
    other_store("far")
    ref = betterbox.put(np.ones(BIG))
    assert betterbox.submit(total, ref).result(30) == BIG
    assert betterbox.submit(inside, {"ref": ref}).result(30) == BIG
    name = ref._place.name
    assert name in betterbox.submit(files_there).result(30)
    assert value_of(ref)["copies"] == 1 and value_of(ref)["stores"] == 2
    ref.release()
    wait_until(lambda: name not in betterbox.submit(files_there).result(30), "the copy is gone")


@needs_own_store
def test_large_fixed_arguments_go_to_a_worker_with_another_store(other_store: Callable[[str], Running]) -> None:
    other_store("far")
    data = np.ones(BIG)
    assert betterbox.map(functools.partial(plus, data), [1.0, 2.0, 3.0]).result(30) == [BIG + 1, BIG + 2, BIG + 3]


@needs_own_store
def test_what_was_put_in_another_store_comes_back(other_store: Callable[[str], Running]) -> None:
    other_store("far")
    ref = betterbox.submit(betterbox.put, np.full(BIG, 2.0)).result(30)
    assert ref.get(30).sum() == 2 * BIG


@needs_own_store
def test_stores_give_to_each_other(other_store: Callable[[str], Running]) -> None:
    other_store("far")
    other_store("farther")
    ref = betterbox.options(resources={"far": 1}).submit(betterbox.put, np.full(BIG, 2.0)).result(30)
    assert betterbox.options(resources={"farther": 1}).submit(total, ref).result(30) == 2 * BIG


@needs_own_store
def test_a_call_prefers_workers_that_have_its_values(other_store: Callable[[str], Running], scripts: Scripts) -> None:
    scripts.cli("worker", "--slots", "2", "--name", "near")
    wait_until(lambda: "near" in names(), "near has joined")
    other_store("far")
    here = store_of(None)
    with betterbox.put(np.ones(BIG)) as ref:
        assert [betterbox.submit(store_of, ref).result(30) for _ in range(8)] == [here] * 8
        assert value_of(ref)["stores"] == 1


@needs_own_store
def test_a_value_without_room_in_another_store_fails_the_item_alone(other_store: Callable[[str], Running]) -> None:
    other_store("far")  # with 64 MB
    with betterbox.put(np.ones(80 << 17)) as ref:
        with pytest.raises(betterbox.ValueLostError, match="no room in this host's shared memory"):
            betterbox.submit(total, ref).result(30)
    assert betterbox.submit(total, [1.0]).result(30) == 1.0


@needs_own_store
def test_a_value_outlives_its_owner_on_the_workers_that_keep_it(
    other_store: Callable[[str], Running], scripts: Scripts
) -> None:
    other_store("far")
    owner = scripts.start(
        "owner.py",
        """
        import pickle, signal
        import betterbox, numpy as np
        from betterbox import _bus
        ref = betterbox.put(np.ones(1 << 17), replicas=1)
        with open("ref", "wb") as file:
            pickle.dump(ref, file)
        print("ready", flush=True)
        signal.pause()
        """,
    )
    owner.wait_for("ready")
    ref = pickle.loads((scripts.folder / "ref").read_bytes())
    owner.process.kill()
    owner.wait()
    assert betterbox.submit(total, ref).result(30) == BIG


def test_replicas_are_kept_on_different_workers_and_restored(bus: Path, scripts: Scripts) -> None:
    ref = betterbox.put(np.ones(BIG), replicas=2)
    assert value_of(ref)["copies"] == 0
    workers = [scripts.cli("worker", "--slots", "1", "--name", f"w{i}") for i in range(3)]
    wait_until(lambda: value_of(ref)["copies"] == 2, lambda: str(value_of(ref)))
    wait_until(lambda: len(names()) == 3, "all workers have joined")
    for gone in (0, 1):
        workers[gone].process.kill()
        workers[gone].wait()
        left = 2 - gone
        wait_until(lambda: len(names()) == left, f"{left} workers are left")
        wait_until(lambda: value_of(ref)["copies"] == min(2, left), lambda: str(value_of(ref)))
    assert betterbox.submit(total, ref).result(30) == BIG
    scripts.cli("worker", "--slots", "1", "--name", "w3")
    wait_until(lambda: value_of(ref)["copies"] == 2, lambda: str(value_of(ref)))
    ref.release()
    wait_until(lambda: status()["values"] == [], "nobody keeps it any more")


@needs_own_store
def test_replicas_go_to_other_stores(other_store: Callable[[str], Running]) -> None:
    ref = betterbox.put(np.ones(BIG), replicas=2)
    other_store("far")
    killed = other_store("farther")
    wait_until(lambda: value_of(ref)["copies"] == 2, lambda: str(value_of(ref)))
    assert value_of(ref)["stores"] == 3
    killed.process.kill()
    killed.wait()
    wait_until(lambda: value_of(ref)["copies"] == 1, lambda: str(value_of(ref)))
    other_store("farthest")
    wait_until(lambda: value_of(ref)["copies"] == 2, lambda: str(value_of(ref)))
    assert betterbox.submit(total, ref).result(30) == BIG


def test_status_shows_values(bus: Path, scripts: Scripts) -> None:
    with betterbox.put(np.ones(BIG), replicas=2):
        shown = scripts.cli("status")
        assert shown.wait() == 0
        assert "ndarray" in shown.output and "0/2" in shown.output
