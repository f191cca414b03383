"""Large fixed arguments over the ranks of an MPI job, with the real mpirun: ranks that share a store, and such that do not."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import Running, Scripts
from helpers import needs_own_store as needs_mounts
from mpi_jobs import is_open_mpi, mpirun_file, needs_mpi

pytestmark = needs_mpi


def needs_own_store(test):  # type: ignore[no-untyped-def]
    """MPICH keeps what its ranks share in /dev/shm itself, and cannot be told another place."""
    only = pytest.mark.skipif(not is_open_mpi(), reason="only Open MPI can keep its own files outside of /dev/shm")
    return needs_mounts(only(test))


# MPI itself keeps the shared one; which ranks get one of their own is the condition on $OMPI_COMM_WORLD_RANK.
OWN_STORE = (
    'if [ {condition} ]; then mount --bind /dev/shm "$MPI_SHM" && mount -t tmpfs -o size={megabytes}m tmpfs /dev/shm; '
    'else mount --bind /dev/shm "$MPI_SHM"; fi && exec "$@"'
)

SCRIPT = """
    import os, sys, time
    import numpy as np
    import betterbox
    from betterbox import Box, GroupBox, SpreadBox, _bus, deploy, spread

    RANKS = int(sys.argv[1])

    class Reader(Box):
        def store(self):
            return os.stat("/dev/shm").st_dev
        def files(self):
            return len([name for name in os.listdir("/dev/shm") if name.startswith("betterbox-")])
        def total(self, data, more=0):
            return int(data.sum()) + more
        def total_for(self, data, item):
            return int(data.sum()) + item

    def broadcasts():
        counters = _bus.current().client.status(10.0)["counters"]
        return counters["values_broadcast"]

    def wait_until(condition, what):
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, what
            time.sleep(0.01)
"""


def mpirun(scripts: Scripts, tmp_path: Path, ranks: int, text: str, condition: str = "", megabytes: int = 64) -> Running:
    """Start a script on ranks; those for which `condition` holds have a store of their own."""
    path = scripts.write("job.py", SCRIPT + text)
    own: tuple[str, ...] = ()
    env = {"MPI_SHM": str(tmp_path / "shm")}
    (tmp_path / "shm").mkdir()
    if condition:
        for parameter in ("btl_vader", "btl_sm", "osc_sm"):  # btl_vader is btl_sm since Open MPI 5
            env[f"OMPI_MCA_{parameter}_backing_directory"] = env["MPI_SHM"]
        own = ("unshare", "--mount", "sh", "-c", OWN_STORE.format(condition=condition, megabytes=megabytes), "sh")
    return mpirun_file(scripts, ranks, path, str(ranks - 1), before=own, **env)


CALLS = """
    with deploy(Reader, 8090, slots=RANKS):
        group, every = GroupBox.connect(8090, require=RANKS), SpreadBox.connect(8090, require=RANKS)
        stores = len({os.stat("/dev/shm").st_dev, *group.store().all(30)})
        for size in (1 << 20, (1 << 20) + 4097, 9_000_001):
            data = np.arange(size, dtype=np.uint8)
            whole = int(data.sum())
            done = every.total_for(data, spread(range(RANKS)))
            data[:] = 0  # the call has it as it was
            assert done.all(30) == [whole + item for item in range(RANKS)], size
            data = np.arange(size, dtype=np.uint8)
            before = broadcasts()
            assert group.total(data, 5).all(30) == [whole + 5] * RANKS, size
            assert broadcasts() > before or stores == 1
        ref = betterbox.put(np.ones(1 << 20))
        assert group.total(ref).all(30) == [1 << 20] * RANKS
        ref.release()
        small = broadcasts()
        assert group.total(np.ones(1000)).all(30) == [1000] * RANKS
        assert broadcasts() == small
        wait_until(lambda: not _bus.current().client.status(10.0)["values"], "all values are forgotten")
        print("stores", stores, "broadcasts", broadcasts())
"""


@needs_own_store
def test_fixed_arguments_are_broadcast_to_ranks_with_stores_of_their_own(scripts: Scripts, tmp_path: Path) -> None:
    job = mpirun(scripts, tmp_path, 3, CALLS, condition="1 = 1")
    assert job.wait(60) == 0, job.output
    assert "stores 3" in job.output


@needs_own_store
def test_some_of_eight_ranks_share_a_store(scripts: Scripts, tmp_path: Path) -> None:
    job = mpirun(scripts, tmp_path, 8, CALLS, condition="$OMPI_COMM_WORLD_RANK -gt 4")
    assert job.wait(100) == 0, job.output
    assert "stores 4" in job.output


def test_in_one_store_nothing_is_sent(scripts: Scripts, tmp_path: Path) -> None:
    job = mpirun(scripts, tmp_path, 3, CALLS)
    assert job.wait(60) == 0, job.output
    assert "stores 1 broadcasts 0" in job.output


WITHOUT_ROOM = """
    with deploy(Reader, 8090, slots=RANKS):
        group = GroupBox.connect(8090, require=RANKS)
        data = np.ones(80 << 20, dtype=np.uint8)
        done = group.total(data).all(30, return_exceptions=True)
        good = [each for each in done if not isinstance(each, Exception)]
        bad = [each for each in done if isinstance(each, Exception)]
        assert good == [80 << 20] and len(bad) == 1, done
        assert "no room in this host's shared memory" in str(bad[0]), bad
        assert group.total(np.ones(2 << 20, dtype=np.uint8)).all(30) == [2 << 20] * 2
        print("the others went on")
"""


@needs_own_store
def test_a_rank_without_room_fails_its_items_and_holds_up_nobody(scripts: Scripts, tmp_path: Path) -> None:
    job = mpirun(scripts, tmp_path, 3, WITHOUT_ROOM, condition="$OMPI_COMM_WORLD_RANK = 2")
    assert job.wait(60) == 0, job.output
    assert "the others went on" in job.output


LEAVES = """
    deploy(Reader, 8090, slots=RANKS)
    group = GroupBox.connect(8090, require=RANKS)
    promises = [group.total(np.ones(megabytes << 20, dtype=np.uint8)) for megabytes in (32, 16)]
    sys.exit(5)
"""


@needs_own_store
def test_a_script_may_end_while_its_arguments_are_under_way(scripts: Scripts, tmp_path: Path) -> None:
    job = mpirun(scripts, tmp_path, 4, LEAVES, condition="1 = 1")
    assert job.wait(60) == 5, job.output
    assert "MPI_ABORT" not in job.output
