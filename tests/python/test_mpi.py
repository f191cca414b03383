"""Scripts over the ranks of an MPI job, with the real mpirun."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from helpers import Scripts
from mpi_jobs import RANK, mpirun, mpirun_file, needs_mpi, said, share_shim, start

pytestmark = needs_mpi


@pytest.mark.parametrize("ranks", [3, 8])
def test_functions_run_on_the_other_ranks(scripts: Scripts, ranks: int) -> None:
    job = mpirun(
        scripts,
        ranks,
        "work.py",
        """
        import os, sys, time
        import betterbox

        def square(x):
            time.sleep(0.002)
            return x * x, os.getpid()

        done = betterbox.map(square, range(300)).result(60)
        assert [value for value, _ in done] == [x * x for x in range(300)]
        pids = {pid for _, pid in done}
        assert os.getpid() not in pids
        print("ranks", len(pids), "sum", betterbox.submit(sum, [1, 2, 3]).result(30), sys.argv[1:], __name__)
        """,
        "--option",
        "1",
    )
    assert job.wait(120) == 0, job.output
    assert f"ranks {ranks - 1} sum 6 ['--option', '1'] __main__" in job.output


def test_the_whole_interface_gives_over_mpi_what_it_gives_over_zeromq(scripts: Scripts) -> None:
    program = Path(__file__).with_name("api_program.py")
    over_zeromq = scripts.command(str(program), "cluster", "alone")
    assert over_zeromq.wait(60) == 0, over_zeromq.output
    assert over_zeromq.output.endswith("end\n")
    for ranks in (3, 8):
        job = mpirun_file(scripts, ranks, program, "mpi", f"of-{ranks}")
        assert job.wait(60) == 0, job.output
        assert said(job) == over_zeromq.output


def test_the_demo_finds_over_mpi_what_it_finds_alone(scripts: Scripts, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(60):
        (folder / f"{number}.txt").write_text(" ".join(map(str, range(number * 50))))
    demo, found = Path(__file__).parents[2] / "examples" / "demo.py", tmp_path / "found.json"
    job = mpirun_file(scripts, 3, demo, str(folder), "--slots", "2", "--json", str(found))
    assert job.wait(60) == 0, job.output
    result = json.loads(found.read_text())
    assert result["matches_serial"] and result["files"] == 60
    assert len(result["items_per_slot"]) == 2 and all(result["items_per_slot"])


def test_the_script_begins_when_the_slowest_rank_is_on_the_bus(scripts: Scripts) -> None:
    late = scripts.write(
        "sitecustomize.py",
        """
        import os, time
        time.sleep(float(os.environ.get("OMPI_COMM_WORLD_RANK") or os.environ.get("PMI_RANK") or 0))
        """,
    )
    job = mpirun(
        scripts,
        3,
        "at_once.py",
        f"""
        import os
        from betterbox import Box, GroupBox, deploy

        class Where(Box):
            def rank(self):
                return {RANK}

        with deploy(Where, 8090, slots=2):
            print("ranks", sorted(GroupBox.connect(8090, require=2).rank().all(20)))
        """,
        PYTHONPATH=f"{late.parent}:{os.environ['PYTHONPATH']}",
    )
    assert job.wait(60) == 0, job.output
    assert "ranks [1, 2]" in job.output


def test_boxes_live_in_ranks_and_in_the_script(scripts: Scripts) -> None:
    job = mpirun(
        scripts,
        3,
        "boxes.py",
        """
        import os
        from betterbox import Box, GroupBox, RemoteBox, SpreadBox, deploy, serve, spread

        class Counter(Box):
            def __init__(self):
                self.count = 0
            def add(self, n):
                self.count += n
                return self.count
            def pid(self):
                return os.getpid()

        with deploy(Counter, 8090, slots=2):
            one = RemoteBox.connect(8090)
            assert [one.add(n).result(20) for n in (1, 2, 3)] == [1, 3, 6]
            assert len(set(GroupBox.connect(8090, require=2).pid().all(20))) == 2
            many = SpreadBox.connect(8090, require=2)
            assert len(many.add(spread([0] * 1000)).all(20)) == 1000
        with serve(Counter, 9090):
            assert RemoteBox.connect(9090).pid().result(20) == os.getpid()
        print("boxes are fine")
        """,
    )
    assert job.wait(120) == 0, job.output
    assert "boxes are fine" in job.output


@pytest.mark.parametrize(
    ("ending", "code", "text"),
    [("raise ValueError('on purpose')", 1, "on purpose"), ("sys.exit(7)", 7, ""), ("sys.exit('why')", 1, "why")],
)
def test_mpirun_exits_with_the_scripts_code(scripts: Scripts, ending: str, code: int, text: str) -> None:
    job = mpirun(
        scripts,
        3,
        "ends.py",
        f"""
        import sys
        import betterbox
        assert betterbox.submit(abs, -1).result(30) == 1
        {ending}
        """,
    )
    assert job.wait(60) == code, job.output
    assert job.output.count("Traceback") == (1 if "raise" in ending else 0)
    assert text in job.output


def test_a_job_of_one_rank_is_told_to_have_no_workers(scripts: Scripts) -> None:
    job = mpirun(scripts, 1, "alone.py", "print('begun')")
    assert job.wait(60) == 2, job.output
    assert "this job has one rank" in job.output and "begun" not in job.output


def test_a_script_that_is_missing_is_said_once(scripts: Scripts, tmp_path: Path) -> None:
    job = mpirun_file(scripts, 3, tmp_path / "nothing.py")
    assert job.wait(60) == 1, job.output
    assert job.output.count("there is no script") == 1


def test_a_module_runs_as_a_script_does(scripts: Scripts) -> None:
    scripts.write("program.py", "import sys, betterbox\nprint(__name__, sys.argv[1:], betterbox.submit(abs, -3).result(30))")
    job = mpirun_file(scripts, 2, Path("-m"), "program", "--option")
    assert job.wait(60) == 0 and "__main__ ['--option'] 3" in job.output


def test_the_rank_is_the_interpreter_that_mpirun_starts(scripts: Scripts) -> None:
    path = scripts.write(
        "who.py",
        """
        import os, sys
        import betterbox

        def who():
            import sys
            return sys.executable, sys._xoptions.get("mark"), sys.flags.dev_mode, sys.modules["__main__"].__dict__.get("__file__")

        mine = sys.executable, sys._xoptions.get("mark"), sys.flags.dev_mode
        assert mine[1:] == ("yes", True), mine
        there = betterbox.submit(who).result(30)
        assert there[:3] == mine and there[3] is None, there
        if os.fork() == 0:
            sys.exit(5)  # unwinds to the end of the interpreter, and ends no rank
        assert os.waitstatus_to_exitcode(os.wait()[1]) == 5
        print("it is", betterbox.submit(abs, -1).result(30))
        """,
    )
    share_shim()
    job = start(scripts, 3, sys.executable, "-X", "dev", "-X", "mark=yes", "-W", "ignore", "-m", "betterbox", "mpi", str(path))
    assert job.wait(60) == 0 and "it is 1" in job.output, job.output


def test_an_error_of_a_rank_fails_its_item_and_not_the_job(scripts: Scripts) -> None:
    job = mpirun(
        scripts,
        3,
        "errors.py",
        """
        import betterbox

        def inverse(x):
            return 1 / x

        done = betterbox.map(inverse, [1, 0, 2]).all(30, return_exceptions=True)
        assert done[0] == 1.0 and isinstance(done[1], ZeroDivisionError) and done[2] == 0.5
        print("errors are fine")
        """,
    )
    assert job.wait(60) == 0, job.output
    assert "errors are fine" in job.output


def test_the_job_ends_though_a_rank_is_stuck(scripts: Scripts) -> None:
    job = mpirun(
        scripts,
        3,
        "stuck.py",
        """
        import sys, time
        import betterbox
        promise = betterbox.submit(time.sleep, 1000)
        betterbox.submit(abs, -1).result(30)
        sys.exit(3)
        """,
    )
    assert job.wait(60) == 3, job.output


def test_without_a_script_mpi_says_what_is_missing(scripts: Scripts) -> None:
    none = scripts.cli("mpi", "no-such-script.py")
    assert none.wait() == 1
    assert "no-such-script.py" in none.output
    assert os.environ.get("BETTERBOX_BUS") is None
