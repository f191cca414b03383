"""The processes of a peer: those whose environment holds its mark, whatever session or parent they have.

A mark is ``RUN.NUMBER.``; ``RUN.`` finds the processes of all peers of a run. Run as a program, with a run's mark as its
first argument, it is that run's guard: when its input ends, because the run has, it ends what is left of all peers, those
that were stopped included, and removes the run's folder, its second.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path

MARK = "COMPARING_MARK"


def marked(mark: str) -> list[int]:
    """Processes that inherited a mark that begins so, in the order of their ids."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                environment = Path(f"/proc/{entry}/environ").read_bytes()
            except OSError:
                continue
            if any(variable.startswith(wanted) for variable in environment.split(b"\0")):
                found.append(int(entry))
    return sorted(found)


def send(pids: list[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except OSError:
            pass


def end(mark: str, patience: float = 2.0) -> list[int]:
    """Ends what is left of a peer: asked once, then killed. Result: what had been left."""
    left = first = marked(mark)
    if left:
        send(left, signal.SIGTERM)
        send(left, signal.SIGCONT)
    deadline = time.monotonic() + patience
    while (left := marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.02)
    while left:  # what they start meanwhile has the mark, too
        send(left, signal.SIGKILL)
        time.sleep(0.02)
        left = marked(mark)
        if time.monotonic() > deadline + 5 * patience:
            break
    return first


def cpu_seconds(pids: list[int]) -> dict[int, float]:
    """What all threads of each process have used so far, to the nanosecond; those that have ended are left out."""
    used = {}
    for pid in pids:
        try:
            threads = os.listdir(f"/proc/{pid}/task")
            used[pid] = sum(_nanoseconds(pid, thread) for thread in threads) / 1e9
        except OSError:
            pass
    return used


def _nanoseconds(pid: int, thread: str) -> int:
    try:
        return int(Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[0])
    except OSError:  # it has just ended
        return 0


def title(pid: int) -> str:
    """The program of a process, short."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return "?"
    words = [Path(word).name for word in words if word and not word.startswith("-")]
    return " ".join(words[:3])[:60] or "?"


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: for the run, whose end follows
    sys.stdin.read()
    end(sys.argv[1])
    shutil.rmtree(sys.argv[2], ignore_errors=True)
