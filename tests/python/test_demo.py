"""The demo on small folders: right results, also when a slot is killed; odd files; clear refusals."""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers import Scripts, processes_of, wait_until

DEMO = Path(__file__).parents[2] / "examples" / "demo.py"


def make_files(folder: Path, count: int, size: int) -> None:
    """Files of words: deterministic, compressible, of unequal sizes, some of them below the top."""
    draw = random.Random(7)
    words = [f"{draw.random():.4f}" for _ in range(300)]
    for number in range(count):
        place = folder / f"d{number % 5}"
        place.mkdir(parents=True, exist_ok=True)
        length = 1 + size * (1 + number % 7) // 7
        (place / f"f{number}").write_text(" ".join(draw.choice(words) for _ in range(length // 7)))


def expected(folder: Path) -> dict[str, Any]:
    """What the demo must find, computed in the plain way."""
    lines, size, compressed = [], 0, 0
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            data = path.read_bytes()
            size += len(data)
            compressed += len(lzma.compress(data))
            lines.append(os.fsencode(path.relative_to(folder)) + b" " + hashlib.sha256(data).hexdigest().encode() + b"\n")
    digest = hashlib.sha256(b"".join(sorted(lines))).hexdigest()
    return {"files": len(lines), "bytes": size, "compressed_bytes": compressed, "digest": digest}


def demo(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(DEMO), "--slots", "2", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=100)


def test_finds_what_the_plain_way_finds_and_reports_the_balance(tmp_path: Path) -> None:
    make_files(tmp_path / "in", 40, 4_000)
    done = demo("in", "--json", "out.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    wanted = expected(tmp_path / "in")
    assert {key: found[key] for key in wanted} == wanted
    assert sum(found["items_per_slot"]) == 40 and len(found["items_per_slot"]) == 2
    assert found["makespan_over_greedy"] > 0.5 and found["speedup"] > 0
    assert "most compressible" in done.stdout and "slot 1" in done.stdout and wanted["digest"] in done.stdout
    assert "2 slots: 100 %" in done.stderr, "plain lines where there is no terminal"


def test_a_slot_that_is_killed_changes_nothing(scripts: Scripts, home: Path, tmp_path: Path) -> None:
    make_files(tmp_path / "in", 40, 300_000)

    def slots() -> list[int]:
        def is_slot(pid: int) -> bool:
            try:
                return Path(f"/proc/{pid}/comm").read_text() == "betterbox-slot\n"
            except OSError:
                return False

        return [pid for pid in processes_of(home) if is_slot(pid)]

    running = scripts.command(str(DEMO), "in", "--slots", "2", "--json", "out.json")
    running.wait_for("2 slots: 20 %")
    wait_until(lambda: len(slots()) >= 2, "two slots")
    os.kill(slots()[0], signal.SIGKILL)
    assert running.wait(100) == 0, running.output
    found = json.loads((tmp_path / "out.json").read_text())
    wanted = expected(tmp_path / "in")
    assert {key: found[key] for key in wanted} == wanted
    assert sum(found["items_per_slot"]) == 40


def test_only_regular_files_count_whatever_they_are_called(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "x").write_text("x" * 2000)
    (folder / "empty").touch()
    (folder / "link").symlink_to("x")
    (folder / "dangling").symlink_to("nowhere")
    (folder / "loop").symlink_to(".")
    os.mkfifo(folder / "fifo")
    with open(os.fsencode(folder) + b"/not\xff utf-8\n", "wb") as file:
        file.write(b"data")
    done = demo("in", "--json", "out.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["files"] == 3 and found["digest"] == expected(folder)["digest"]


def test_an_empty_folder_has_nothing_in_it(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    done = demo("in", "--json", "out.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["files"] == 0 and found["digest"] == hashlib.sha256(b"").hexdigest()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["nowhere"], "there is no folder nowhere"),
        (["file"], "file is no folder"),
        ([".", "--slots", "0"], "--slots must be 1 or more"),
        ([".", "--limit", "-1"], "--limit must be more than 0"),
        ([".", "--json", "nowhere/out.json"], "nowhere/out.json cannot be written"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, arguments: list[str], text: str) -> None:
    (tmp_path / "file").touch()
    done = demo(*arguments, cwd=tmp_path)
    assert done.returncode != 0 and text in done.stderr and "Traceback" not in done.stderr
