"""The virtual environment of peers that the system's packages do not hold: made on demand, each installed on its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from comparing.registry import Spec

INSTALL_LIMIT = 300.0  # seconds for each


def prepare(folder: Path, specs: Sequence[Spec]) -> tuple[list[Spec], dict[str, str]]:
    """The specs with the interpreter that has them, and why those are absent that cannot be installed."""
    python = folder / "bin" / "python"
    problem = "" if python.exists() else _run([sys.executable, "-m", "venv", str(folder)])
    ready, absent = [], {}
    for spec in specs:
        if spec.pypi:
            problem_here = problem or _install(folder, python, spec)
            if problem_here:
                absent[spec.name] = problem_here
            spec = replace(spec, python=str(python))
        ready.append(spec)
    return ready, absent


def _install(folder: Path, python: Path, spec: Spec) -> str:
    """Installs once; what went wrong, or nothing."""
    done = folder / f"{spec.name}.installed"
    if done.exists():
        return ""
    print(f"installing {' '.join(spec.pypi)}", file=sys.stderr)
    problem = _run([str(python), "-m", "pip", "install", "-q", "--prefer-binary", *spec.pypi])
    if not problem:
        done.touch()
    return problem


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_LIMIT)
    except subprocess.TimeoutExpired:
        return f"not installed after {INSTALL_LIMIT:g} s"
    except OSError as error:
        return str(error)
    words = (done.stderr.strip() or done.stdout.strip() or "?").splitlines()[-1]
    return "" if done.returncode == 0 else f"not installed: {words[:200]}"
