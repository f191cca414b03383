"""Runs cases over peers: each peer in a process group of its own, each case within its limit, rounds interleaved.

Whatever a peer does, the run goes on: one that cannot be imported is absent, one that raises, ends or takes longer than
the limit has failed, with its reason, and every process that it started is ended. After a failure the peer is started
afresh for the next case; the case that failed is not tried again.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from balancing import items
from comparing import processes
from comparing.cases import Case, Figures
from comparing.registry import Spec

BENCHMARKS = Path(__file__).resolve().parents[1]
STOP_LIMIT = 8.0  # seconds for a peer to stop by itself
REASON = 160  # characters of a reason
SETTLE = 0.1  # seconds after a peer goes on that had been stopped
SINGLE_THREADED = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}


def search_path() -> str:
    """Where a peer finds adapters and work, and what is on this process's path: not relative to a folder."""
    given = [os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(":") if path]
    return ":".join([str(BENCHMARKS), *given])


def short(reason: str) -> str:
    """A reason on one line."""
    words = " ".join(reason.split())
    return words if len(words) <= REASON else words[: REASON - 3] + "..."


class Failed(Exception):
    """A run of a case that gave no figure."""


class Absent(Exception):
    """The library is not there."""


@dataclass
class Outcome:
    """What a peer did in a case: its figures of every round, or why there are none."""

    rounds: list[Figures] = field(default_factory=list)
    status: str = "ok"  # ok, failed, absent, not offered
    reason: str = ""

    def values(self, metric: str) -> list[float]:
        return [figures[metric] for figures in self.rounds if metric in figures]


class Runner:
    """The process of one peer."""

    def __init__(self, spec: Spec, slots: int, mark: str, place: str) -> None:
        self.spec = spec
        self.mark = mark
        self.folder = Path(tempfile.mkdtemp(dir=place))
        self.log = self.folder / "log"
        read_fd, write_fd = os.pipe()
        try:
            with open(self.log, "wb") as log:
                self.process = subprocess.Popen(
                    [spec.python, "-m", "comparing.runner", spec.target, str(slots), str(write_fd)],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    pass_fds=(write_fd,),
                    env=self._environment(),
                    cwd=self.folder,
                    start_new_session=True,
                )
        finally:
            os.close(write_fd)
        self.answers_fd = read_fd
        self.paused = False

    def _environment(self) -> dict[str, str]:
        (self.folder / "run").mkdir(mode=0o700)
        environment = {**os.environ, **SINGLE_THREADED, processes.MARK: self.mark, "PYTHONPATH": search_path()}
        environment |= {"BETTERBOX_HOME": str(self.folder / "home"), "XDG_RUNTIME_DIR": str(self.folder / "run")}
        environment["PATH"] = f"{Path(self.spec.python).parent}:{os.environ.get('PATH', os.defpath)}"
        environment.pop("BETTERBOX_BUS", None)
        return environment

    def ask(self, case: Case, size: dict[str, Any]) -> Figures | None:
        """Figures of one run, or None if the library has nothing for the case."""
        self.go_on()
        answer = self._exchange({"do": "case", "case": case.name, "size": size}, case.limit)
        if "absent" in answer:
            raise Absent(short(answer["absent"]))
        if "error" in answer:
            raise Failed(short(answer["error"]))
        if "not_offered" in answer:
            return None
        figures: Figures = answer["figures"]
        return figures

    def _exchange(self, command: dict[str, Any], limit: float) -> dict[str, Any]:
        assert self.process.stdin is not None
        deadline = time.monotonic() + limit
        try:
            self.process.stdin.write(json.dumps(command).encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            raise Failed(f"its process is gone{self._last_words()}") from None
        text = b""
        while not text.endswith(b"\n"):
            readable, _, _ = select.select([self.answers_fd], [], [], max(0.0, deadline - time.monotonic()))
            if not readable:
                raise Failed(f"not done after {limit:g} s")
            piece = os.read(self.answers_fd, 65536)
            if not piece:
                raise Failed(f"its process ended{self._last_words()}")
            text += piece
        answer: dict[str, Any] = json.loads(text)
        return answer

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return f": {short(lines[-1])}" if lines else ""

    def pause(self) -> None:
        if self.spec.stirs and not self.paused:
            processes.send(processes.marked(self.mark), signal.SIGSTOP)
            self.paused = True

    def go_on(self) -> None:
        if self.paused:
            processes.send(processes.marked(self.mark), signal.SIGCONT)
            self.paused = False
            time.sleep(SETTLE)

    def end(self, ask: bool = True) -> None:
        """Stops the peer, by itself if it can, and ends what is left of it."""
        self.go_on()
        assert self.process.stdin is not None
        try:
            if ask:
                self.process.stdin.write(b'{"do": "stop"}\n')
            self.process.stdin.close()
        except OSError:
            pass
        if ask:
            try:
                self.process.wait(STOP_LIMIT)
            except subprocess.TimeoutExpired:
                pass
        processes.end(self.mark)
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.answers_fd)
        shutil.rmtree(self.folder, ignore_errors=True)


class Harness:
    """A run: cases, one after the other; in each, rounds; in each round every peer once, in turn."""

    def __init__(self, specs: Sequence[Spec], slots: int, tell: Callable[[str], None]) -> None:
        self.specs = specs
        self.slots = slots
        self.tell = tell
        self.runners: dict[str, Runner] = {}
        self.absent: dict[str, str] = {}
        self.mark = f"{uuid.uuid4().hex}."
        self.started = 0

    def __enter__(self) -> Harness:
        processes.adopt_orphans()
        self.place = tempfile.mkdtemp(prefix="peers-", dir="/tmp")
        guard = [sys.executable, "-m", "comparing.processes", self.mark, self.place]
        self.guard = subprocess.Popen(guard, stdin=subprocess.PIPE, cwd=BENCHMARKS, start_new_session=True)
        return self

    def __exit__(self, *_: object) -> None:
        assert self.guard.stdin is not None
        try:
            for name in list(self.runners):
                self._end(self.runners.pop(name))
        finally:
            self.guard.stdin.close()
            self.guard.wait()

    def _start(self, spec: Spec) -> Runner:
        self.started += 1
        return Runner(spec, self.slots, f"{self.mark}{self.started}.", self.place)

    def run(self, case: Case, size: dict[str, Any], rounds: int) -> dict[str, Outcome]:
        outcomes = {spec.name: Outcome() for spec in self.specs}
        for number in range(min(rounds, case.rounds)):
            # Every second round the other way round: whoever comes after a heavy peer does so only half of the time.
            for spec in self.specs[:: 1 if number % 2 == 0 else -1]:
                outcome = outcomes[spec.name]
                if outcome.status == "ok":
                    self._turn(spec, case, size, outcome)
        return outcomes

    def _turn(self, spec: Spec, case: Case, size: dict[str, Any], outcome: Outcome) -> None:
        self.tell(f"{case.name}: {spec.name}")
        if spec.name in self.absent:
            outcome.status, outcome.reason = "absent", self.absent[spec.name]
            return
        try:
            figures = self._figures(spec, case, size)
        except Absent as error:
            self.absent[spec.name] = outcome.reason = str(error)
            outcome.status = "absent"
            self._drop(spec)
        except Failed as error:
            outcome.status, outcome.reason = "failed", str(error)
            self._drop(spec)
        else:
            if figures is None:
                outcome.status = "not offered"
            else:
                outcome.rounds.append(figures)

    def _figures(self, spec: Spec, case: Case, size: dict[str, Any]) -> Figures | None:
        if case.name == "import":
            return import_time(spec, case.limit, size["times"])
        if case.fresh:
            runner = self._start(spec)
            try:
                return runner.ask(case, size)
            finally:
                self._end(runner)
        if spec.name not in self.runners:
            self.runners[spec.name] = self._start(spec)
        runner = self.runners[spec.name]
        try:
            return runner.ask(case, size)
        finally:
            runner.pause()

    def _drop(self, spec: Spec) -> None:
        runner = self.runners.pop(spec.name, None)
        if runner is not None:
            self._end(runner, ask=False)

    def _end(self, runner: Runner, ask: bool = True) -> None:
        runner.end(ask)
        processes.end_orphans({self.guard.pid, *(other.process.pid for other in self.runners.values())})


def import_time(spec: Spec, limit: float, times: int) -> Figures | None:
    """Its import in a new interpreter, less a new interpreter that imports nothing, one beside the other."""
    code = "import importlib, sys; m, _, n = sys.argv[1].partition(':'); print(getattr(importlib.import_module(m), n).imports)"
    environment = {**os.environ, "PYTHONPATH": search_path()}

    def run(program: str, *arguments: str) -> tuple[float, str]:
        begin = time.perf_counter()
        try:
            done = subprocess.run(
                [spec.python, "-c", program, *arguments], capture_output=True, text=True, timeout=limit, env=environment
            )
        except subprocess.TimeoutExpired:
            raise Failed(f"not done after {limit:g} s") from None
        if done.returncode != 0:
            words = (done.stderr.strip().splitlines() or ["?"])[-1]
            raise (Absent if words.startswith("ModuleNotFoundError") else Failed)(words)
        return time.perf_counter() - begin, done.stdout.strip()

    statement = run(code, spec.target)[1]
    if not statement:
        return None
    run(statement)  # files are in memory, byte code is written
    over = [run(statement)[0] - run("pass")[0] for _ in range(times)]
    return {"import": 1e3 * max(0.0, statistics.median(over))}


def calibrate() -> dict[str, float]:
    """Counted work in seconds, measured here while nothing else of this run works."""
    count = 2000
    best = min(_seconds(count) for _ in range(50))
    return {"step_s": best / count, "quantum_s": items.seconds_per_quantum()}


def _seconds(count: int) -> float:
    begin = time.perf_counter()
    items.steps(count)
    return time.perf_counter() - begin


def sized(case: Case, quick: bool, speed: dict[str, float]) -> dict[str, Any]:
    """How much of a case, with the length of its items as counted work of this machine."""
    size = dict(case.quick if quick else case.sizes)
    if "item_s" in size:
        size["steps"] = max(1, round(size["item_s"] / speed["step_s"]))
    return {**size, "quantum_s": speed["quantum_s"]}


def say(text: str) -> None:
    """What happens now, on a line that is written over."""
    if sys.stderr.isatty():
        print(f"\r{text:60}", end="", file=sys.stderr, flush=True)
