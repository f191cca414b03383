#!/usr/bin/python3
"""Kills and stops processes of a bus, several at once, while scripts use it: nothing may hang, be lost or be wrong.

    ./dev py tests/bursts.py [--minutes 1] [--seed 1]

A bus with a scheduler, workers, a server of boxes and scripts, each started again by its keeper when it dies. A burst takes one to
four of them, or of their slots and templates, and kills or stops each; stopped ones go on after up to 9 s, some of them after
everybody else has given them up. Scripts check every result. After the last burst all must come to their ends by themselves, and
leave no process and no socket. The seed draws victims and times; what the machine makes of them is not repeated exactly.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

GRACE = 120.0  # seconds: more than any liveness bound and reconnect grace together
KINDS = {"slot": 8, "worker": 3, "template": 2, "scheduler": 2, "script": 2, "server": 2}  # with their weights

COMM = {"slot": "betterbox-slot", "template": "betterbox-tmpl"}  # what /proc calls those that no keeper has


# --- the scripts that use the bus -------------------------------------------------------------------


def use_the_bus(folder: Path, seed: int) -> None:
    """Jobs until the file `stop` is there, each with a result that is known; a line in `done-PID` for each."""
    import faulthandler
    import warnings

    import betterbox
    from betterbox import RemoteBox

    faulthandler.register(signal.SIGUSR1, all_threads=True)
    warnings.simplefilter("ignore")
    draw = random.Random(seed)
    patient = {"retries": 1_000_000}

    def work(x: int, seconds: float) -> int:
        time.sleep(seconds)
        return 3 * x

    def blob(x: int) -> bytes:
        return bytes([x % 251]) * 300_000

    def nested(n: int) -> int:
        return sum(betterbox.map(abs, range(-n, 0), **patient).result())

    def spread_out() -> None:
        n = draw.choice((1, 30, 300))
        assert betterbox.map(work, range(n), [draw.choice((0.0, 0.003))] * n, **patient).result() == [3 * x for x in range(n)]

    def generated() -> None:
        assert list(betterbox.map(work, (x for x in range(200)), (0.0 for _ in range(200)), **patient)) == [3 * x for x in range(200)]

    def folded() -> None:
        assert betterbox.map(abs, range(500), reduce=lambda a, b: a + b, **patient).result() == sum(range(500))

    def submitted() -> None:
        promises = [betterbox.options(**patient).submit(work, x, 0.0) for x in range(100)]
        assert [promise.result() for promise in promises] == [3 * x for x in range(100)]

    def large() -> None:
        assert [value[0] for value in betterbox.map(blob, range(8), **patient)] == list(range(8))

    def deep() -> None:
        assert betterbox.map(nested, [2, 5], **patient).result() == [3, 15]

    def cancelled() -> None:
        promise = betterbox.map(work, range(100), [0.05] * 100, **patient)
        time.sleep(draw.random() * 0.2)
        promise.cancel()
        for x, outcome in enumerate(promise.all(return_exceptions=True)):
            assert outcome == 3 * x or isinstance(outcome, betterbox.CallCancelledError), outcome

    def boxes() -> None:
        try:
            box = RemoteBox.connect(8090, timeout=20)
            for x in range(50):
                assert box.double(x).result() == 2 * x
        except (betterbox.NoBoxFoundError, betterbox.BoxLostError):
            pass

    jobs: list[Callable[[], None]] = [spread_out, generated, folded, submitted, large, deep, cancelled, boxes]
    with open(folder / f"done-{os.getpid()}", "a", buffering=1) as done:
        while not (folder / "stop").exists():
            job = draw.choice(jobs)
            done.write(f"begin {job.__name__}\n")
            try:
                job()
            except betterbox.BusError as error:
                done.write(f"bus {job.__name__}: {error}\n")
                continue
            except BaseException as error:
                (folder / "wrong").write_text(f"{job.__name__}: {type(error).__name__}: {error}\n")
                raise
            done.write(f"end {job.__name__}\n")


# --- who keeps them up, and who takes them down -----------------------------------------------------


class Kept:
    """A process that is started again whenever it ends, until it may end."""

    def __init__(self, kind: str, command: list[str], folder: Path) -> None:
        self.kind, self._command, self._folder = kind, command, folder
        self._ends = False
        self.deaths = 0
        self.process = self._start()
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()

    def _start(self) -> subprocess.Popen[bytes]:
        with open(self._folder / f"{self.kind}.log", "ab") as log:
            return subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def _keep(self) -> None:
        while True:
            self.process.wait()
            if self._ends:
                return
            self.deaths += 1
            time.sleep(0.2)
            self.process = self._start()

    def may_end(self) -> None:
        self._ends = True

    def ended(self) -> bool:
        return self.process.poll() is not None


def members(home: str) -> dict[int, str]:
    """Processes of the bus that are no zombies, each with its name."""
    found = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            if f"BETTERBOX_HOME={home}\0".encode() in Path(f"/proc/{entry}/environ").read_bytes() and int(entry) != os.getpid():
                found[int(entry)] = Path(f"/proc/{entry}/comm").read_text().strip()
        except OSError:
            pass
    return found


class Chaos:
    """Draws bursts, and carries them out."""

    def __init__(self, home: str, seed: int, kept: list[Kept]) -> None:
        self._home, self._draw, self._kept = home, random.Random(seed), kept
        self.counts: Counter[str] = Counter()
        self._stopped: dict[int, float] = {}  # pid: when it goes on

    def burst(self) -> None:
        for _ in range(self._draw.choice((1, 1, 2, 3, 4))):
            kind = self._draw.choices(list(KINDS), list(KINDS.values()))[0]
            victims = self._victims(kind)
            if not victims:
                continue
            pid = self._draw.choice(victims)
            action = self._draw.choice(("kill", "kill", "stop"))
            self.counts[f"{action} {kind}"] += 1
            self._send(pid, signal.SIGKILL if action == "kill" else signal.SIGSTOP)
            if action == "stop":
                self._stopped[pid] = time.monotonic() + self._draw.uniform(0.1, 9.0)

    def _victims(self, kind: str) -> list[int]:
        if kind in COMM:
            return sorted(pid for pid, name in members(self._home).items() if name == COMM[kind])
        return [kept.process.pid for kept in self._kept if kept.kind == kind]

    def let_go_on(self, now: float) -> None:
        for pid in [pid for pid, when in self._stopped.items() if when <= now]:
            del self._stopped[pid]
            self._send(pid, signal.SIGCONT)

    @staticmethod
    def _send(pid: int, number: int) -> None:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


SERVER = """
from betterbox import Box, serve_box
@serve_box(8090)
class Doubler(Box):
    def double(self, x): return 2 * x
"""


def run(minutes: float, seed: int, folder: Path) -> str:
    """A run; what was wrong, or nothing."""
    home = str(folder / "home")
    for name in ("home", "run"):
        (folder / name).mkdir(mode=0o700)
    os.environ |= {"BETTERBOX_HOME": home, "XDG_RUNTIME_DIR": str(folder / "run"), "BETTERBOX_BUS": f"{home}/bus.json"}
    (folder / "server.py").write_text(SERVER)
    program = [sys.executable, "-m", "betterbox"]
    kept = [Kept("scheduler", [*program, "scheduler"], folder)]
    while not os.path.exists(f"{home}/bus.json"):
        time.sleep(0.01)
    kept += [Kept("worker", [*program, "worker", "--slots", "2", "--name", f"w{i}"], folder) for i in range(3)]
    kept += [Kept("server", [sys.executable, str(folder / "server.py")], folder)]
    kept += [Kept("script", [sys.executable, __file__, "--use", str(folder), "--seed", str(seed + i)], folder) for i in range(3)]
    chaos = Chaos(home, seed, kept)
    draw = random.Random(seed)
    end, next_burst = time.monotonic() + 60 * minutes, 0.0
    while (now := time.monotonic()) < end and not (folder / "wrong").exists():
        if now >= next_burst:
            chaos.burst()
            next_burst = now + draw.uniform(0.2, 4.0)
        chaos.let_go_on(now)
        time.sleep(0.02)
    chaos.let_go_on(float("inf"))
    problem = _come_to_the_end(kept, folder, home)
    ended = sum(text.count("\nend ") for text in (path.read_text() for path in folder.glob("done-*")))
    refused = sum(text.count("\nbus ") for text in (path.read_text() for path in folder.glob("done-*")))
    faults = ", ".join(f"{name} {count}" for name, count in sorted(chaos.counts.items()))
    print(f"seed {seed}: {ended} jobs ended, {refused} had a BusError; {sum(chaos.counts.values())} faults: {faults}")
    if not problem and ended == 0:
        problem = "no job ended"
    return problem


def _come_to_the_end(kept: list[Kept], folder: Path, home: str) -> str:
    if (folder / "wrong").exists():
        return (folder / "wrong").read_text().strip()
    for kind in ("script", "server", "worker", "scheduler"):
        if kind == "script":
            (folder / "stop").touch()
        for one in (one for one in kept if one.kind == kind):
            one.may_end()
            if kind != "script":
                one.process.terminate()
        deadline = time.monotonic() + GRACE
        while not all(one.ended() for one in kept if one.kind == kind):
            if time.monotonic() > deadline:
                return _what_hangs(kind, kept, home)
            time.sleep(0.02)
    if (folder / "wrong").exists():
        return (folder / "wrong").read_text().strip()
    deadline = time.monotonic() + GRACE
    while left := members(home):
        if time.monotonic() > deadline:
            return f"processes are left: {left}"
        time.sleep(0.05)
    sockets = [str(path) for path in (folder / "run").rglob("*") if not path.is_dir()]
    return f"files are left: {sockets}" if sockets else ""


def _what_hangs(kind: str, kept: list[Kept], home: str) -> str:
    status = subprocess.run([sys.executable, "-m", "betterbox", "status"], capture_output=True, text=True, timeout=60)
    hung = [one.process.pid for one in kept if one.kind == kind and not one.ended()]
    for pid in hung:
        os.kill(pid, signal.SIGUSR1 if kind == "script" else 0)
    time.sleep(0.5)
    return f"{kind} {hung} did not end in {GRACE:g} s\n{status.stdout}{status.stderr}\n{members(home)}"


def main() -> int:
    parser = argparse.ArgumentParser(usage="./dev py tests/bursts.py [--minutes M] [--seed S]", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--use", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.use is not None:
        use_the_bus(args.use, args.seed)
        return 0
    folder = Path(tempfile.mkdtemp(prefix="bbb", dir="/tmp"))
    problem = run(args.minutes, args.seed, folder)
    for pid in members(str(folder / "home")):
        os.kill(pid, signal.SIGKILL)
    if problem:
        print(f"FAILED: {problem}\nlogs and jobs: {folder}")
        return 1
    shutil.rmtree(folder)
    print("ok")
    return 0


if __name__ == "__main__":
    sys.exit(main())
