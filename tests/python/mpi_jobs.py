"""Jobs of MPI for tests: the mpirun that is on the path, or the one that BETTERBOX_TEST_MPIRUN names (with BETTERBOX_MPICC).

The shim is compiled once per test process and shared by the homes of its tests; test_mpi_build.py has those that compile.
"""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path

import betterbox
import pytest
from helpers import Running, Scripts

MPIRUN = shutil.which(os.environ.get("BETTERBOX_TEST_MPIRUN", "mpirun"))
MPICC = shutil.which(os.environ.get("BETTERBOX_MPICC", "mpicc"))
needs_mpi = pytest.mark.skipif(
    MPIRUN is None or MPICC is None, reason="there is no mpirun or no mpicc: install openmpi-bin and libopenmpi-dev"
)

ENVIRONMENT = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_btl_base_warn_component_unused": "0",
    "OMPI_MCA_btl": "^tcp",  # all ranks are on this host; without /sys it complains of what it finds there
    # More ranks than cores, as Open MPI 4 and as Open MPI 5 take it; MPICH has no such bound.
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}

RANK = "int(os.environ.get('OMPI_COMM_WORLD_RANK') or os.environ['PMI_RANK'])"
"""In scripts of tests: the rank, as Open MPI or as MPICH gives it."""


@lru_cache
def vendor() -> str:
    """What mpirun says about itself; ``"Open MPI"`` or ``"HYDRA"`` is in it."""
    assert MPIRUN is not None
    return subprocess.run([MPIRUN, "--version"], env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True, check=False).stdout


def is_open_mpi() -> bool:
    return MPIRUN is not None and "Open MPI" in vendor()


def mpirun(scripts: Scripts, ranks: int, script: str, text: str, *args: str, **env: str) -> Running:
    """Write a script and start ``mpirun -n RANKS betterbox mpi SCRIPT ARGS``."""
    return mpirun_file(scripts, ranks, scripts.write(script, text), *args, **env)


def mpirun_file(scripts: Scripts, ranks: int, path: Path, *args: str, before: tuple[str, ...] = (), **env: str) -> Running:
    """`before`: a program, and its arguments, that becomes the rank."""
    share_shim()
    return start(scripts, ranks, *before, sys.executable, "-m", "betterbox", "mpi", str(path), *args, **env)


def start(scripts: Scripts, ranks: int, *command: str, **env: str) -> Running:
    """Start ``mpirun -n RANKS COMMAND``."""
    launch = "import os, sys; os.execvp(sys.argv[1], sys.argv[1:])"
    return scripts.command("-c", launch, str(MPIRUN), "-n", str(ranks), *command, **{**ENVIRONMENT, **env})


def said(job: Running) -> str:
    """What the job printed, without what its launcher says for want of /sys."""
    return "".join(line for line in job.output.splitlines(keepends=True) if not line.startswith(("[hwloc/", "hwloc/")))


@lru_cache
def _shims() -> Path:
    """The folder ``mpi`` of a home in which the shim is made."""
    home = Path(tempfile.mkdtemp(prefix="bb-shim-", dir="/tmp"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    package = str(Path(betterbox.__file__).parent.parent)
    path = os.pathsep.join([package, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    env = {**os.environ, "PYTHONPATH": path, "BETTERBOX_HOME": str(home)}
    subprocess.run([sys.executable, "-m", "betterbox", "mpi", "--build"], env=env, check=True, stdout=subprocess.DEVNULL)
    return home / "mpi"


def share_shim() -> None:
    """The home of this test has the shim."""
    home = Path(os.environ["BETTERBOX_HOME"])
    home.mkdir(mode=0o700, exist_ok=True)
    if not (home / "mpi").exists():
        (home / "mpi").symlink_to(_shims())
