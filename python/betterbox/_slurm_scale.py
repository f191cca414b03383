"""The process behind ``betterbox slurm scale``: worker jobs by demand.

A job holds one worker, called ``slurm-JOBID``. All jobs of a bus have one name, by which a scaler that starts again
finds them. What `plan` decides is a function of what was seen; `Scaler` looks and acts, at most `_RATE` jobs at a time.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from betterbox._errors import BetterBoxError
from betterbox._slurm import bus_status, job_name, workers_in

_RATE = 8  # jobs submitted or retired in one look
_PATIENCE = 60.0  # seconds between two tries at most, when Slurm refuses
_COMMAND_TIMEOUT = 30.0


@dataclass
class Seen:
    """What one look has shown."""

    items: int
    """Items of plain functions that have no result yet."""
    other_slots: int
    """Slots of workers that are not ours."""
    pending: list[str] = field(default_factory=list)
    running: list[str] = field(default_factory=list)
    """Jobs, by id; those that end already are in neither."""
    idle_since: dict[str, float] = field(default_factory=dict)
    """Of the running jobs, those whose worker does nothing."""


@dataclass
class Plan:
    """What is to be done."""

    submit: int = 0
    cancel: list[str] = field(default_factory=list)
    retire: list[str] = field(default_factory=list)


def plan(seen: Seen, now: float, *, least: int, most: int, slots: int, idle: float) -> Plan:
    """Jobs to submit, pending jobs to cancel, idle ones to retire.

    Examples
    --------
    >>> plan(Seen(items=5, other_slots=0), 0.0, least=0, most=4, slots=2, idle=9.0)
    Plan(submit=3, cancel=[], retire=[])
    >>> plan(Seen(0, 0, ["7"], ["5"], {"5": 0.0}), 10.0, least=0, most=4, slots=2, idle=9.0)
    Plan(submit=0, cancel=['7'], retire=['5'])
    """
    wanted = min(most, max(least, -(-max(0, seen.items - seen.other_slots) // slots)))
    if seen.items > 0 and seen.other_slots == 0:
        wanted = max(wanted, min(1, most))
    surplus = len(seen.pending) + len(seen.running) - wanted
    if surplus < 0:
        return Plan(submit=min(-surplus, _RATE))
    cancel = sorted(seen.pending, key=int, reverse=True)[: min(surplus, _RATE)]
    ripe = [job for job, since in seen.idle_since.items() if now - since >= idle]
    ripe.sort(key=lambda job: (seen.idle_since[job], int(job)))
    return Plan(cancel=cancel, retire=ripe[: min(surplus - len(cancel), _RATE)])


class Scaler:
    """Looks at the bus and at Slurm's queue, and acts on what `plan` says, until it is told to end."""

    def __init__(self, bus: str, script: str, args: argparse.Namespace) -> None:
        self._bus = bus
        self._script = script
        self._args = args
        self._name = args.job_name or job_name(bus)
        self._stop = threading.Event()
        self._idle_since: dict[str, float] = {}
        self._slots = args.slots_per_node or 1
        self._not_before = 0.0  # after a refusal
        self._refusals = 0
        self._told = ""

    def run(self) -> int:
        """Until SIGINT or SIGTERM; then its jobs are told to drain and end, too."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self._stop.set())
        bus_status(self._bus)  # a bus that is not there is told at once, and so is a host without Slurm
        self._jobs()
        self._say(f"jobs are called {self._name}; {self._args.min} to {self._args.max} of them for {self._bus}")
        while not self._stop.is_set():
            try:
                self._step()
            except (BetterBoxError, OSError, subprocess.SubprocessError) as error:
                self._tell_once(str(error))
            self._stop.wait(self._args.interval)
        return self._end()

    def _step(self) -> None:
        jobs = self._jobs()
        report = bus_status(self._bus)
        now = time.monotonic()
        todo = plan(
            self._see(report, jobs, now),
            now,
            least=self._args.min,
            most=self._args.max,
            slots=self._slots,
            idle=self._args.idle,
        )
        if todo.submit and now >= self._not_before:
            self._submit(todo.submit)
        if todo.cancel:
            self._slurm("scancel", "--state=PENDING", *todo.cancel)
            self._say(f"cancelled {' '.join(todo.cancel)}: not needed any more")
        if todo.retire:
            self._slurm("scancel", "--batch", "--signal=USR1", *todo.retire)
            self._say(f"retired {' '.join(todo.retire)}: idle for {self._args.idle:g} s")
            for job in todo.retire:
                self._idle_since[job] = now  # told again if it is still there after as long
        self._told = ""

    def _jobs(self) -> dict[str, str]:
        """Ours that are not over: id and state."""
        lines = self._slurm("squeue", "--me", "--noheader", f"--name={self._name}", "--format=%A %T").splitlines()
        return {words[0]: words[1] for words in map(str.split, lines) if len(words) == 2 and words[0].isdecimal()}

    def _see(self, report: dict[str, Any], jobs: dict[str, str], now: float) -> Seen:
        items = sum(call["total"] - call["settled"] for call in report["calls"] if not call["port"])
        workers = {worker["name"]: worker for worker in workers_in(report)}
        ours = {job: workers.pop(f"slurm-{job}", None) for job in jobs}
        for worker in ours.values():
            if worker is not None:
                self._slots = max(1, worker["slots"])
        idle = [job for job, worker in ours.items() if worker is not None and not worker["leased_items"]]
        self._idle_since = {job: self._idle_since.get(job, now) for job in idle}
        return Seen(
            items,
            sum(worker["slots"] for worker in workers.values()),
            [job for job, state in jobs.items() if state == "PENDING"],
            [job for job, state in jobs.items() if state in ("RUNNING", "CONFIGURING")],
            dict(self._idle_since),
        )

    def _submit(self, count: int) -> None:
        made: list[str] = []
        try:
            for _ in range(count):
                made.append(self._slurm("sbatch", "--parsable", stdin=self._script).strip())
        except BetterBoxError as error:
            if made:
                self._say(f"submitted {' '.join(made)}")
            self._refusals += 1
            pause = min(_PATIENCE, self._args.interval * 2**self._refusals)
            self._not_before = time.monotonic() + pause
            raise BetterBoxError(f"{error}; the next try comes in {pause:g} s") from None
        self._refusals = 0
        self._say(f"submitted {' '.join(made)}")

    def _end(self) -> int:
        try:
            jobs = self._jobs()
            running = [job for job, state in jobs.items() if state == "RUNNING"]
            others = [job for job, state in jobs.items() if state in ("PENDING", "CONFIGURING")]
            if others:
                self._slurm("scancel", *others)
            if running:
                self._slurm("scancel", "--batch", "--signal=USR1", *running)
            self._say(f"ends; {len(running)} jobs drain, {len(others)} that waited are cancelled")
        except (BetterBoxError, OSError, subprocess.SubprocessError) as error:
            self._say(f"could not end its jobs: {error}. By hand: scancel --name={self._name}")
            return 1
        return 0

    def _slurm(self, *command: str, stdin: str = "") -> str:
        try:
            done = subprocess.run(
                command, input=stdin, capture_output=True, text=True, errors="replace", timeout=_COMMAND_TIMEOUT
            )
        except FileNotFoundError:
            raise BetterBoxError(f"there is no {command[0]} here: run this where Slurm's commands are") from None
        except subprocess.TimeoutExpired:
            raise BetterBoxError(
                f"{command[0]} did not end within {_COMMAND_TIMEOUT:g} s: see whether Slurm's controller answers (scontrol ping)"
            ) from None
        over = "Invalid job id" in done.stderr or "already complet" in done.stderr  # it has ended by itself
        if done.returncode != 0 and not over:
            raise BetterBoxError(f"{command[0]} failed ({done.returncode}): {done.stderr.strip() or 'it said nothing'}")
        return done.stdout

    def _say(self, text: str) -> None:
        print(f"betterbox slurm scale: {text}", flush=True)

    def _tell_once(self, text: str) -> None:
        if text != self._told:
            self._told = text
            self._say(text)
