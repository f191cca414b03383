"""Tests of the Python package with real processes.

Every test has a home and a runtime folder of its own; at its end no process that it started may be left, nor a file in
the runtime folder.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import betterbox
import pytest

HERE = Path(__file__).parent
for folder in (str(HERE), str(HERE.parent.parent)):  # slots import what tests define from there, too
    if folder not in sys.path:
        sys.path.insert(0, folder)

from helpers import Scripts, processes_of, wait_until  # noqa: E402

# Whoever starts this in the background of a shell makes it ignore Ctrl-C, which tests send to themselves and others.
signal.signal(signal.SIGINT, signal.default_int_handler)


def end(pid: int, how: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # it was about to end
        os.kill(pid, how)


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A fresh BETTERBOX_HOME and runtime folder, checked at the end."""
    folder = Path(tempfile.mkdtemp(prefix="bb-", dir="/tmp"))
    runtime = folder / "run"
    runtime.mkdir(mode=0o700)
    place = folder / "home"
    monkeypatch.setenv("BETTERBOX_HOME", str(place))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.delenv("BETTERBOX_BUS", raising=False)
    yield place
    if "betterbox._serving" in sys.modules:
        sys.modules["betterbox._serving"].stop_all()
    if "betterbox._bus" in sys.modules:
        sys.modules["betterbox._bus"].close(str(place / "bus.json"))
    for pid, command in processes_of(place).items():
        if "betterbox-scheduler" in command:  # a bus that started itself
            end(pid, signal.SIGTERM)
    try:
        wait_until(lambda: not processes_of(place), lambda: f"these have ended: {processes_of(place)}", 10)
        left = [str(path) for path in runtime.rglob("*") if not path.is_dir()]
        assert left == [], "files in the runtime folder"
    finally:
        for pid in processes_of(place):
            end(pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def scripts(home: Path, tmp_path: Path) -> Iterator[Scripts]:
    """Starts scripts; those still running at the end are stopped with SIGTERM."""
    made = Scripts(tmp_path)
    yield made
    made.end()


@pytest.fixture
def cluster(home: Path) -> Iterator[betterbox.LocalCluster]:
    """A private bus with two slots."""
    with betterbox.LocalCluster(slots=2) as made:
        yield made
