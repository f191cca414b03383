"""The processes of a peer: those whose environment holds its mark, and all that descend from them.

A mark is ``RUN.NUMBER.``; ``RUN.`` finds the processes of all peers of a run. A program may write over its environment, as
those do that set a title of their own, and leave its parent: so the process in which a peer lives adopts what its
descendants leave behind (`adopt_orphans`), and the peer's processes stay one tree under it.

Run as a program, with a run's mark as its first argument, this is that run's guard: when its input ends, because the run
has, it ends what is left of all peers, those that were stopped included, and removes the run's folder, its second.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import sys
import time
from collections.abc import Container, Iterator
from pathlib import Path

MARK = "COMPARING_MARK"
_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Descendants of this process whose parents end become its children."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def marked(mark: str) -> list[int]:
    """Processes of peers whose mark begins so, in the order of their ids."""
    return sorted(_parents(mark))


def _parents(mark: str) -> dict[int, int]:
    """The processes of peers, each with its parent."""
    wanted = f"{MARK}={mark}".encode()
    parents = dict(_living())
    found = {pid: parent for pid, parent in parents.items() if _holds(pid, wanted)}
    while more := {pid: parent for pid, parent in parents.items() if parent in found and pid not in found}:
        found |= more
    return found


def _living() -> Iterator[tuple[int, int]]:
    """Each process that has not ended, with its parent."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                state, parent = Path(f"/proc/{entry}/stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
            except OSError:
                continue
            if state not in "ZX":
                yield int(entry), int(parent)


def _holds(pid: int, wanted: bytes) -> bool:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False
    return any(variable.startswith(wanted) for variable in environment.split(b"\0"))


def send(pids: list[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except OSError:
            pass


def end(mark: str, patience: float = 2.0) -> None:
    """Ends what is left of a peer: asked once, then killed. The root of its tree, which holds the others together, ends last."""
    below, roots = _below(mark)
    send(below, signal.SIGTERM)
    send(below, signal.SIGCONT)
    deadline = time.monotonic() + patience
    while below and time.monotonic() < deadline:
        time.sleep(0.02)
        below, roots = _below(mark)
    while (below or roots) and time.monotonic() < deadline + 5 * patience:
        send(below or roots, signal.SIGKILL)
        time.sleep(0.02)
        below, roots = _below(mark)


def end_orphans(own: Container[int]) -> None:
    """Kills the children of this process that are not its own: what a process that died had started, and theirs."""
    while orphans := [pid for pid, parent in _living() if parent == os.getpid() and pid not in own]:
        send(orphans, signal.SIGKILL)
        for pid in orphans:
            os.waitpid(pid, 0)


def _below(mark: str) -> tuple[list[int], list[int]]:
    """A peer's processes that have a parent among them, and those that have none."""
    parents = _parents(mark)
    return [pid for pid in parents if parents[pid] in parents], [pid for pid in parents if parents[pid] not in parents]


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
