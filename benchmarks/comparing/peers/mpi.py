"""mpi4py.futures: an executor over processes that MPI spawns."""

from __future__ import annotations

import os
from concurrent.futures import Executor
from typing import Any

from comparing.peers.standard import Futures

# One machine, more processes than cores, perhaps as root: what Open MPI wants to be told.
SETTINGS = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "OMPI_MCA_btl_base_warn_component_unused": "0",
}


class MpiFutures(Futures):
    imports = "import mpi4py.futures; from mpi4py import MPI"

    def make(self) -> Executor:
        os.environ.update(SETTINGS)
        from mpi4py.futures import MPIPoolExecutor

        pool: Any = MPIPoolExecutor(self.slots)
        return pool  # type: ignore[no-any-return]
