"""What calls MPI is compiled once, by the mpicc that is here: who makes it, who waits, what is refused, and what is said."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from betterbox import BusError, _doctor, _doctor_host, _gangs, _mpi_build
from helpers import Running, Scripts, wait_until
from mpi_jobs import MPICC, needs_mpi, start

pytestmark = needs_mpi


class Wrapper:
    """An mpicc of a test's own, which notes how it was called."""

    def __init__(self, folder: Path, before: str = "") -> None:
        folder.mkdir(exist_ok=True)
        self.path = folder / "mpicc"
        self.calls = folder / "calls"
        self.path.write_text(f'#!/bin/sh\necho "$1" >> "{self.calls}"\n[ "$1" = -show ] && exec {MPICC} -show\n{before}\nexec {MPICC} "$@"\n')
        self.path.chmod(0o755)

    @property
    def compiled(self) -> int:
        return self.calls.read_text().count("-shared") if self.calls.exists() else 0


@pytest.fixture
def wrapper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wrapper:
    """The compiler wrapper, as BETTERBOX_MPICC names it."""
    made = Wrapper(tmp_path / "bin")
    monkeypatch.setenv("BETTERBOX_MPICC", str(made.path))
    return made


def left(home: Path) -> list[str]:
    return sorted(os.listdir(home / "mpi"))


def test_it_is_compiled_once_and_found_without_a_program(wrapper: Wrapper, home: Path) -> None:
    os.umask(before := os.umask(0))
    try:
        os.umask(0)
        shim = _mpi_build.find(None)
    finally:
        os.umask(before)
    said = wrapper.calls.read_text()
    assert wrapper.compiled == 1
    assert _mpi_build.find(None) == _mpi_build.find(str(wrapper.path)) == shim
    assert wrapper.calls.read_text() == said
    assert all(stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 for path in (home / "mpi").rglob("*"))
    assert left(home) == [Path(shim).parent.name]


def test_a_changed_wrapper_or_source_gets_its_own(wrapper: Wrapper, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = _mpi_build.find(None)
    os.utime(wrapper.path, (1, 1))
    second = _mpi_build.find(None)
    sources = _mpi_build.read_sources()
    monkeypatch.setattr(_mpi_build, "read_sources", lambda: [sources[0] + b"\n", sources[1]])
    third = _mpi_build.find(None)
    assert len({first, second, third}) == 3 == wrapper.compiled
    monkeypatch.undo()
    assert len(left(home)) == 3


def test_without_a_compiler_it_says_what_to_do(scripts: Scripts, tmp_path: Path) -> None:
    missing = str(tmp_path / "none" / "mpicc")
    script = scripts.write("job.py", "print('begun')")
    jobs = [
        scripts.cli("mpi", str(script), PATH="/nowhere", BETTERBOX_MPICC=""),
        scripts.cli("mpi", "--mpicc", missing, str(script)),
        scripts.cli("mpi", "--build", BETTERBOX_MPICC=missing),
    ]
    for job, name in zip(jobs, ("no mpicc on the path", f"no program {missing}", f"no program {missing}"), strict=True):
        assert job.wait() == 1 and "begun" not in job.output
        for word in (name, "module load openmpi", "BETTERBOX_MPICC or --mpicc", "betterbox mpi --build"):
            assert word in job.output
        assert "Traceback" not in job.output


def test_a_host_without_a_compiler_takes_what_another_has_made(
    wrapper: Wrapper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shim = _mpi_build.find(None)
    second = Wrapper(tmp_path / "other")
    other = _mpi_build.find(str(second.path))
    wrapper.path.unlink()
    assert _mpi_build.find(None) == shim  # it is named
    monkeypatch.delenv("BETTERBOX_MPICC")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(BusError, match=f"several MPIs.*BETTERBOX_MPICC.*{wrapper.path}"):
        _mpi_build.find(None)
    shutil.rmtree(Path(other).parent)
    assert _mpi_build.find(None) == shim
    with pytest.raises(BusError, match="no mpicc on the path"):
        _mpi_build.build(None)


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ("echo 'mpi.h: No such file' >&2; exit 3", ["mpi.h: No such file", "exit code 3", "-shared -fPIC", "headers of that MPI"]),
        ("kill -9 $$", ["ended by signal 9"]),
        ("echo nothing > shim.so; exit 0", ["does not load", "LD_LIBRARY_PATH"]),
        ("exit 0", ["does not load"]),
        ("echo 'int none;' > x.c && exec gcc -shared -fPIC -o shim.so x.c", ["is no part of BetterBox"]),
    ],
    ids=["fails", "killed", "garbage", "nothing", "other"],
)
def test_a_broken_compiler_is_told_and_leaves_nothing(before: str, said: list[str], tmp_path: Path, home: Path) -> None:
    broken = Wrapper(tmp_path / "bin", before)
    with pytest.raises(BusError) as raised:
        _mpi_build.find(str(broken.path))
    assert all(word in str(raised.value) for word in [*said, str(broken.path)])
    assert left(home) == []


def build_at_once(scripts: Scripts, wrapper: Wrapper, count: int, **env: str) -> list[Running]:
    return [scripts.cli("mpi", "--build", BETTERBOX_MPICC=str(wrapper.path), **env) for _ in range(count)]


def test_of_many_on_a_host_one_compiles(scripts: Scripts, wrapper: Wrapper, home: Path) -> None:
    jobs = build_at_once(scripts, wrapper, 6)
    assert [job.wait() for job in jobs] == [0] * 6, [job.output for job in jobs]
    assert wrapper.compiled == 1 and len(left(home)) == 1


def test_hosts_that_compile_at_once_agree(scripts: Scripts, tmp_path: Path, home: Path) -> None:
    both = tmp_path / "bin" / "calls"
    wrapper = Wrapper(tmp_path / "bin", f'while [ "$(grep -c shared "{both}")" -lt 2 ]; do sleep 0.01; done')
    jobs = []
    for host in ("a", "b"):  # a lock is of one host
        runtime = home.parent / host
        runtime.mkdir(mode=0o700)
        jobs += build_at_once(scripts, wrapper, 1, XDG_RUNTIME_DIR=str(runtime))
    assert [job.wait() for job in jobs] == [0, 0], [job.output for job in jobs]
    assert wrapper.compiled == 2 and len(left(home)) == 1
    assert len({job.output.split(": ")[0] for job in jobs}) == 1


def test_what_a_killed_process_was_compiling_is_compiled_by_the_next(scripts: Scripts, tmp_path: Path, home: Path) -> None:
    hold = tmp_path / "hold"
    hold.touch()
    wrapper = Wrapper(tmp_path / "bin", f'while [ -e "{hold}" ]; do sleep 0.01; done')
    first = build_at_once(scripts, wrapper, 1)[0]
    wait_until(lambda: wrapper.compiled == 1, "it compiles")
    os.utime(home / "mpi" / left(home)[0], (1, 1))
    second = build_at_once(scripts, wrapper, 1)[0]
    first.end(signal.SIGKILL)
    wait_until(lambda: wrapper.compiled == 2, "the next one does")
    hold.unlink()
    assert second.wait() == 0, second.output
    assert len(left(home)) == 1


def test_what_a_killed_process_has_said_is_nothing(home: Path) -> None:
    (home / "mpi").mkdir(mode=0o700, parents=True)
    folder = home / "mpi" / "abc"
    lock = Path(_mpi_build._core.runtime_folder()) / "mpi-abc.lock"
    lock.write_text("it failed")
    lock.chmod(0o600)
    _mpi_build._make_once(str(folder), folder.mkdir)
    assert folder.exists() and not lock.exists()


def test_who_waits_too_long_is_told_for_whom(wrapper: Wrapper, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        with pytest.raises(BusError, match=r"has been compiling for .*mpi-abc\.lock"):
            _mpi_build._make_once(str(home / "mpi" / "abc"), lambda: None)
        raise BusError("on purpose")

    monkeypatch.setattr(_mpi_build, "WAITING", 0.05)
    with pytest.raises(BusError, match="on purpose"):
        _mpi_build._make_once(str(home / "mpi" / "abc"), fails)


@pytest.mark.parametrize("whose", ["group", "everybody", "others"])
def test_what_others_could_have_put_there_is_refused(whose: str, wrapper: Wrapper, home: Path) -> None:
    shim = Path(_mpi_build.find(None))
    if whose == "group":
        shim.chmod(0o770)
    elif whose == "everybody":
        shim.parent.chmod(0o777)
    elif os.geteuid() == 0:
        os.chown(shim, 12345, -1)
    else:
        pytest.skip("only root can give a file away")
    with pytest.raises(BusError, match="belongs to user 12345" if whose == "others" else "can be changed by others"):
        _mpi_build.find(None)
    assert _doctor_host.mpi().state == _doctor.PROBLEM
    shutil.rmtree(shim.parent)
    assert _mpi_build.find(None) == str(shim)


def test_a_folder_that_is_not_whole_is_told(wrapper: Wrapper) -> None:
    shim = Path(_mpi_build.find(None))
    shim.unlink()
    with pytest.raises(BusError, match=f"remove {shim.parent}"):
        _mpi_build.find(None)


def test_build_tells_what_it_made(scripts: Scripts, wrapper: Wrapper, home: Path) -> None:
    before = _doctor_host.mpi()  # the wrapper of this test lies in another folder than mpirun
    assert before.state == _doctor.WARNING and "the first job compiles" in before.found
    for how in ("made", "was there"):
        text = scripts.cli_output("mpi", "--mpicc", str(wrapper.path), "--build")
        assert f"shim.so: {how}, by {wrapper.path}, for " in text and str(home) in text
    assert str(home) in _doctor_host.mpi().found
    both = scripts.cli("mpi", "--build", "script.py")
    assert both.wait() == 2 and "runs no script" in both.output


def test_the_first_job_compiles_for_all_its_ranks(scripts: Scripts, wrapper: Wrapper) -> None:
    script = scripts.write("job.py", "import betterbox\nprint('all', betterbox.map(abs, [-1, -2]).result(30))")
    job = start(scripts, 3, sys.executable, "-m", "betterbox", "mpi", str(script), BETTERBOX_MPICC=str(wrapper.path))
    assert job.wait(60) == 0 and "all [1, 2]" in job.output, job.output
    assert wrapper.compiled == 1


def test_one_rank_tells_why_none_could_be_compiled(scripts: Scripts, tmp_path: Path) -> None:
    broken = Wrapper(tmp_path / "bin", "echo 'it is broken' >&2; exit 1")
    script = scripts.write("job.py", "print('begun')")
    job = start(scripts, 3, sys.executable, "-m", "betterbox", "mpi", str(script), BETTERBOX_MPICC=str(broken.path))
    assert job.wait(60) == 1
    assert 1 <= job.output.count("it is broken") <= broken.compiled, job.output
    assert "begun" not in job.output


def test_mpi4py_of_another_mpi_is_refused_before_it_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, mine, other = tmp_path / "x.c", tmp_path / "mine.so", tmp_path / "other.so"
    source.write_text("int MPI_Get_library_version(char *text, int *length) { return 0; }")
    for library in (mine, other):
        assert os.system(f"gcc -shared -fPIC -o {library} {source}") == 0
    monkeypatch.setattr(_gangs._core, "mpi_library", lambda shim: "Some MPI v1")
    monkeypatch.setattr(_gangs.importlib.util, "find_spec", lambda name: SimpleNamespace(origin=str(other)))
    job = SimpleNamespace(shim=str(mine), rank=0)
    with pytest.raises(_gangs.BetterBoxError, match=r"linked with another MPI than this job's \(Some MPI v1\)"):
        _gangs.check_mpi4py(job)
    _gangs.check_mpi4py(SimpleNamespace(shim=str(other), rank=0))
