"""What Slurm has given to this process: cores, memory, and for how long."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass

_MB = 1 << 20
_LONGEST = 1e8
"""Seconds, of which the worker program takes no more: without a limit Slurm's end is a date in the next century."""


@dataclass(frozen=True)
class Allocation:
    """The part of a job that is on this host; what is not said is ``None``."""

    cores: int | None = None
    memory: int | None = None
    ends_in: float | None = None
    """Seconds."""

    def worker_arguments(self) -> list[str]:
        """What the worker program is told of its end."""
        return [] if self.ends_in is None else ["--ends-in", f"{self.ends_in:.1f}"]


def read_allocation(env: Mapping[str, str] = os.environ) -> Allocation:
    """What the environment of a job says, and once Slurm itself where that has no end time.

    Examples
    --------
    >>> read_allocation({})
    Allocation(cores=None, memory=None, ends_in=None)
    >>> read_allocation({"SLURM_JOB_ID": "1", "SLURM_CPUS_ON_NODE": "8", "SLURM_MEM_PER_CPU": "512", \
"SLURM_JOB_END_TIME": "1"})
    Allocation(cores=8, memory=4294967296, ends_in=1.0)
    """
    job = env.get("SLURM_JOB_ID", "")
    if not job:
        return Allocation()
    on_node = _number(env, "SLURM_CPUS_ON_NODE")
    cores = _number(env, "SLURM_CPUS_PER_TASK") or on_node
    per_node, per_cpu = _number(env, "SLURM_MEM_PER_NODE"), _number(env, "SLURM_MEM_PER_CPU")
    memory = per_node or (per_cpu * (on_node or cores or 1) if per_cpu else None)
    return Allocation(cores, memory * _MB if memory else None, _time_left(env, job))


def _number(env: Mapping[str, str], name: str) -> int | None:
    text = env.get(name, "")
    return int(text) if text.isdecimal() and int(text) > 0 else None


def _time_left(env: Mapping[str, str], job: str) -> float | None:
    end = _number(env, "SLURM_JOB_END_TIME")
    if end is not None:
        return min(max(1.0, end - time.time()), _LONGEST)
    try:
        asked = subprocess.run(
            ["squeue", "--noheader", f"--jobs={job}", "--format=%L"], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return parse_time_left(asked.stdout)


def parse_time_left(text: str) -> float | None:
    """Seconds of ``[days-][hours:]minutes:seconds``; ``None`` for UNLIMITED and the like.

    Examples
    --------
    >>> parse_time_left("1-02:03:04"), parse_time_left("9:59"), parse_time_left("UNLIMITED")
    (93784.0, 599.0, None)
    """
    days, dash, clock = text.strip().rpartition("-")
    parts = clock.split(":")
    if not all(part.isdecimal() for part in parts) or (dash and not days.isdecimal()):
        return None
    seconds = 0.0
    for part in parts:
        seconds = seconds * 60 + int(part)
    return min(seconds + 86400 * int(days or 0), _LONGEST)
