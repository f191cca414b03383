"""What a call finds around it: the client's environment, folders, limits and interpreter, whatever ran there before."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import betterbox
import pytest
import work
from betterbox import _surroundings
from helpers import Scripts, processes_of


def look() -> dict[str, Any]:
    """What a child process would inherit, and what items leave behind."""
    mask = os.umask(0)
    os.umask(mask)
    return {
        "environ": {n: v for n, v in os.environ.items() if n not in NOT_CARRIED and not n.startswith("BETTERBOX_")},
        "path": [os.path.abspath(entry) for entry in sys.path],
        "folder": os.getcwd(),
        "umask": mask,
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "cpus": os.sched_getaffinity(0),
        "core": resource.getrlimit(resource.RLIMIT_CORE)[0],
        "executable": sys.executable,
    }


NOT_CARRIED = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "COLUMNS", "LINES")
"""The last two readline sets, which pytest imports: children have them, and `os.environ` here does not know."""


def environment(name: str) -> str | None:
    return os.environ.get(name)


def test_a_slot_is_as_a_child_process_would_be(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert betterbox.submit(look).result() == look()
    monkeypatch.setenv("DATASET", "large")
    monkeypatch.delenv("SHELL", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    before = os.umask(0o027), os.sched_getaffinity(0), resource.getrlimit(resource.RLIMIT_CORE)
    try:
        os.sched_setaffinity(0, [min(before[1])])
        resource.setrlimit(resource.RLIMIT_CORE, (0, before[2][1]))
        assert betterbox.map(lambda _: look(), [0]).result() == [look()]
    finally:
        os.umask(before[0])
        os.sched_setaffinity(0, before[1])
        resource.setrlimit(resource.RLIMIT_CORE, before[2])
    assert betterbox.map(lambda _: look(), [0]).result() == [look()]


def test_each_submission_sees_the_environment_of_its_moment(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("a", "b", "c"):
        monkeypatch.setenv("DATASET", value)
        assert betterbox.submit(environment, "DATASET").result() == value
    monkeypatch.delenv("DATASET")
    assert betterbox.submit(environment, "DATASET").result() is None


def test_variables_that_count_at_the_start_get_a_slot_of_their_own(
    cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seen(_: int) -> tuple[str | None, int]:
        return os.environ.get("OMP_NUM_THREADS"), os.getpid()

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    [(threads, first)] = betterbox.map(seen, [0]).result()
    assert threads == "1"  # slots are the parallelism
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    [(threads, second)] = betterbox.map(seen, [0]).result()
    assert threads == "3" and second != first


def leave_a_mess(folder: str) -> None:
    os.chdir(folder)
    os.umask(0)
    os.environ["DATASET"] = "left"
    os.environ.pop("HOME", None)
    sys.path.insert(0, "/left")
    signal.signal(signal.SIGUSR2, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    signal.setitimer(signal.ITIMER_REAL, 0.3)


def handlers() -> tuple[Any, ...]:
    status = Path("/proc/self/status").read_text().splitlines()
    return tuple(line for line in status if line.startswith(("SigCgt", "SigIgn", "SigBlk")))


def test_what_an_item_leaves_behind_is_not_there_for_later_calls(home: Path, tmp_path: Path) -> None:
    with betterbox.LocalCluster(slots=1):
        before = betterbox.submit(handlers).result()
        for _ in range(2):
            betterbox.submit(leave_a_mess, str(tmp_path)).result()
            assert betterbox.submit(look).result() == look()
            assert betterbox.submit(handlers).result() == before
        betterbox.submit(leave_a_mess, str(tmp_path)).result()
        assert betterbox.map(lambda _: os.getcwd(), range(2)).result() == [os.getcwd()] * 2
        betterbox.submit(time.sleep, 0.4).result()  # the timer does not end it


def test_submissions_of_one_function_do_not_meet(home: Path, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()

    def enter_sub() -> str:
        found = os.environ.get("DATASET", "")
        os.chdir("sub")
        os.environ["DATASET"] = found + "x"
        sys.path.append("x")
        return found + str(sys.path.count("x")) + oct(os.umask(0o7))

    here = os.getcwd()
    os.chdir(tmp_path)
    try:
        with betterbox.LocalCluster(slots=1):
            assert [p.result() for p in [betterbox.submit(enter_sub) for _ in range(20)]] == ["1" + oct(look()["umask"])] * 20
    finally:
        os.chdir(here)


def narrow() -> dict[str, Any]:
    """What is found, before it is changed in ways that Python does not keep."""
    found = look()
    found["files"] = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    found["timer"] = signal.getitimer(signal.ITIMER_REAL)[0]
    found["handler"] = signal.getsignal(signal.SIGUSR2)
    found["shell"] = subprocess.run(["/bin/sh", "-c", "echo $DATASET"], capture_output=True, text=True).stdout
    os.putenv("DATASET", "put")
    os.environ = {"DATASET": "replaced"}  # type: ignore[assignment]
    sys.path = ["/replaced", *sys.path]
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
    for which in (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE):
        resource.setrlimit(which, (60, resource.getrlimit(which)[1]))
    signal.signal(signal.SIGUSR2, lambda *_: None)
    signal.alarm(60)
    return found


def test_each_submission_finds_what_no_variable_of_python_tells_of(home: Path) -> None:
    more = {"files": resource.getrlimit(resource.RLIMIT_NOFILE)[0], "timer": 0.0, "handler": signal.SIG_DFL, "shell": "\n"}
    with betterbox.LocalCluster(slots=1):
        for _ in range(3):
            assert betterbox.submit(narrow).result() == look() | more
        assert betterbox.map(lambda _: narrow(), [0]).result() == [look() | more]
        os.putenv("DATASET", "of the client")  # a child process would have it
        try:
            assert betterbox.submit(environment, "DATASET").result() == "of the client"
        finally:
            os.unsetenv("DATASET")
        assert betterbox.submit(environment, "DATASET").result() is None


def slow_folder(_: int = 0) -> str:
    time.sleep(0.002)
    return os.getcwd()


def test_a_call_that_is_loaded_while_another_runs_does_not_move_that(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = os.getcwd()
    with betterbox.LocalCluster(slots=1):
        betterbox.map(slow_folder, range(50)).result()  # now the slot gets calls ahead of time
        for _ in range(4):
            calls = [betterbox.map(slow_folder, range(30)), betterbox.map(slow_folder, range(30))]
            singles = [betterbox.submit(slow_folder) for _ in range(30)]
            monkeypatch.chdir(tmp_path)
            moved = betterbox.map(slow_folder, range(10))
            monkeypatch.chdir(here)
            assert {each for call in calls for each in call.result()} == {here}
            assert {promise.result() for promise in singles} == {here}
            assert set(moved.result()) == {str(tmp_path)}


class Wanderer(betterbox.Box):
    def __init__(self) -> None:
        self.born = os.getcwd(), os.environ.get("DATASET")

    def go(self, folder: str) -> None:
        os.chdir(folder)

    def here(self, _: int = 0) -> tuple[str, Any]:
        return os.getcwd(), self.born


def test_a_box_is_born_like_its_client_and_keeps_what_it_does(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATASET", "large")
    born = os.getcwd(), "large"
    with betterbox.deploy(Wanderer, 8090):
        box = betterbox.SpreadBox.connect(8090)
        assert box.here().result() == [(os.getcwd(), born)]
        box.go(str(tmp_path)).result()
        assert box.here(betterbox.spread([1])).result() == [(str(tmp_path), born)]


SHOW = """
    import os, sys, betterbox
    def look():
        mask = os.umask(0)
        os.umask(mask)
        return (os.environ.get("DATASET"), os.environ.get("OMP_NUM_THREADS"), mask, os.sched_getaffinity(0),
                os.getpriority(os.PRIO_PROCESS, 0), sys.executable, sys.prefix)
    inside, own = betterbox.submit(look).result(), look()
    print("same" if inside == own else f"slot {inside}, client {own}")
    """


def test_the_first_script_narrows_nobody_but_itself(scripts: Scripts, home: Path, tmp_path: Path) -> None:
    """On the bus that starts itself: another environment, mask, cores, and a virtual environment."""
    script = str(scripts.write("show.py", SHOW))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--system-site-packages", tmp_path / "venv"], check=True)
    cpu = str(min(os.sched_getaffinity(0)))
    narrow = ["/bin/sh", "-c", f'umask 077; ulimit -S -t 1000; exec nice -n 3 taskset -c {cpu} "$@"', "sh"]
    package = str(Path(betterbox.__file__).parent.parent)
    for command, env in (
        ([*narrow, sys.executable], {"DATASET": "small", "OMP_NUM_THREADS": "1"}),
        ([sys.executable], {"DATASET": "large", "OMP_NUM_THREADS": "2"}),
        ([str(tmp_path / "venv" / "bin" / "python")], {"OMP_NUM_THREADS": "2", "PYTHONPATH": package}),
    ):
        full = {**os.environ, "PYTHONPATH": package, "BETTERBOX_IDLE_TIMEOUT": "5", **env}
        done = subprocess.run([*command, script], env=full, capture_output=True, text=True, timeout=60)
        assert done.stdout == "same\n", done
    daemons = [pid for pid, name in processes_of(home).items() if "/_bin/betterbox-" in name]
    assert len(daemons) >= 2
    for pid in daemons:
        assert os.sched_getaffinity(pid) == os.sched_getaffinity(0)
        assert resource.prlimit(pid, resource.RLIMIT_CPU)[0] == resource.getrlimit(resource.RLIMIT_CPU)[0]
        assert os.getpriority(os.PRIO_PROCESS, pid) == 0 or os.geteuid() != 0  # lowering it needs a privilege


def test_what_is_the_workers_stays() -> None:
    place = _surroundings.Place(0, False)
    place.environ = {b"PATH": b"/worker", b"OMP_NUM_THREADS": b"4", b"SLURM_JOB_ID": b"7", b"HOSTNAME": b"node"}
    place.assigned = {b"CUDA_VISIBLE_DEVICES": b"1"}
    theirs = {b"PATH": b"/client", b"OMP_NUM_THREADS": b"2", b"SLURM_JOB_ID": b"8", b"DATASET": b"large"}
    theirs.update({b"CUDA_VISIBLE_DEVICES": b"0", b"PMI_RANK": b"3", b"BETTERBOX_BUS": b"other", b"TMPDIR": b"/x"})
    facts = _surroundings.look()._replace(environ=theirs)
    threads = {b"OPENBLAS_NUM_THREADS": b"1", b"MKL_NUM_THREADS": b"1"}
    assert place.environ_for(facts, follows=False) == {
        b"PATH": b"/client",
        b"OMP_NUM_THREADS": b"4",
        b"SLURM_JOB_ID": b"7",
        b"HOSTNAME": b"node",
        b"DATASET": b"large",
        b"CUDA_VISIBLE_DEVICES": b"1",
        **threads,
    }
    assert place.environ_for(facts, follows=True) == {
        b"PATH": b"/client",
        b"OMP_NUM_THREADS": b"2",
        b"SLURM_JOB_ID": b"8",
        b"DATASET": b"large",
        b"CUDA_VISIBLE_DEVICES": b"1",
        b"TMPDIR": b"/x",
        **threads,
    }


def test_surroundings_are_made_once_and_named_by_their_content(monkeypatch: pytest.MonkeyPatch) -> None:
    first = _surroundings.current()
    assert _surroundings.current() is first
    monkeypatch.setenv("DATASET", "large")
    assert _surroundings.current() is not first and _surroundings.current().wire[:8] == first.wire[:8]
    monkeypatch.setenv("OMP_NUM_THREADS", "9")
    assert _surroundings.current().wire[:8] != first.wire[:8]  # a slot is started with it
    there, rest = _surroundings.split(_surroundings.current().wire + b"rest")
    assert there.facts == _surroundings.look() and bytes(rest) == b"rest"
    assert _surroundings.split(there.wire)[0] is there


# --- what the items of one call share -------------------------------------------------------------------


def test_each_item_gets_what_all_share_as_it_was(cluster: Any) -> None:
    import functools

    import numpy

    array = numpy.zeros(20_000)  # travels through shared memory, and is mapped

    def tally(seen: list[int], item: int, *, more: Any = (), big: Any = None) -> tuple[int, int, float]:
        seen.append(item)
        if more:
            more[0].append(item)
        if big is not None:
            big[0] += 1
        return len(seen), len(more[0]) if more else 0, 0.0 if big is None else float(big[0])

    fixed = functools.partial(tally, [], more=([],), big=array)
    assert betterbox.map(fixed, range(20)).result() == [(1, 1, 1.0)] * 20
    assert array[0] == 0
    with betterbox.deploy(work.Tester, 8090, slots=2):
        box = betterbox.SpreadBox.connect(8090)
        assert box.append_to([], betterbox.spread(range(20))).result() == [1] * 20


def test_each_submission_calls_its_object_as_it_was(cluster: Any) -> None:
    import functools

    class Adder:
        def __init__(self) -> None:
            self.seen: list[int] = []

        def __call__(self, x: int) -> list[int]:
            self.seen.append(x)
            return self.seen

        add = __call__

    for fn in (Adder(), Adder().add, functools.partial(lambda seen, x: [*seen, seen.append(x)], [])):  # type: ignore
        for _ in range(2):
            assert len(betterbox.options(retries=0).submit(fn, 1).result()) == 1, fn
            assert len(betterbox.Executor().submit(fn, 1).result()) == 1, fn


def test_what_cannot_change_is_made_once() -> None:
    import decimal
    import functools
    import operator

    from betterbox._changeable import is_changeable

    fixed = (1, "a", None, (1, (2.0,)), frozenset([1]), decimal.Decimal(1), Path("/"), look, functools.partial(pow, 2))
    assert not is_changeable(*fixed, operator.itemgetter(1), signal.SIGINT)
    for obj in ([], {}, set(), bytearray(), ([],), functools.partial(pow, []), [].append, object(), Wanderer):
        assert is_changeable(obj) == (obj is not Wanderer), obj
