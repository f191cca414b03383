"""The entry `dev`: what it promises about verbs, `py` and the tally. It is tried in a copy, with stand-ins for what is built."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
VERBS = "demo test build bench sim py wheel lint format docs clean".split()
PROGRAMS = ("_bin/betterbox-scheduler", "_bin/betterbox-worker", "_core.cpython-3-test.so")


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A copy of `dev` in a folder with spaces, as if built: the package is one file."""
    house = tmp_path / "a house"
    package = house / "build" / "release" / "python" / "betterbox"
    (package / "_bin").mkdir(parents=True)
    shutil.copy(ROOT / "dev", house / "dev")
    for name in PROGRAMS:
        (package / name).touch()
    (package / "__init__.py").write_text("marker = 'built'\n")
    return house


def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)  # type: ignore[call-overload,no-any-return]


def test_alone_it_lists_its_verbs_with_a_line_each(house: Path) -> None:
    done = run([str(house / "dev")])
    assert done.returncode == 0 and done.stderr == ""
    listed = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")]
    assert listed == VERBS


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in ("py", "sim")])
def test_every_verb_answers_help_without_doing_anything(house: Path, verb: str) -> None:
    done = run([str(house / "dev"), verb, "--help"])
    assert done.returncode == 0 and done.stdout.startswith(f"usage: ./dev {verb}")


def test_an_unknown_verb_is_refused(house: Path) -> None:
    for words in (["fly"], ["help", "fly"]):
        done = run([str(house / "dev"), *words])
        assert done.returncode == 2 and "no verb fly" in done.stderr


@pytest.mark.parametrize("words", [["build", "--fast"], ["lint", "--tidy", "x"], ["docs", "x"], ["clean", "x"], ["format", "x"]])
def test_an_argument_that_would_be_ignored_is_refused(house: Path, words: list[str]) -> None:
    done = run([str(house / "dev"), *words])
    assert done.returncode == 2 and done.stderr.startswith(f"dev: {words[0]} takes no {words[-1]} ") and not done.stdout


def test_py_becomes_python_in_the_callers_folder(house: Path, tmp_path: Path) -> None:
    code = "import os, sys, betterbox; print(os.getpid(), os.getcwd(), betterbox.marker, sys.argv[1:], sys.executable)"
    process = subprocess.Popen(
        [str(house / "dev"), "py", "-c", code, "a b", "*"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    out, err = process.communicate(timeout=60)
    assert (out, err) == (f"{process.pid} {tmp_path} built ['a b', '*'] /usr/bin/python3\n", "")


def test_py_works_through_links_and_on_path(house: Path, tmp_path: Path) -> None:
    (tmp_path / "first").symlink_to("a house/dev")
    (tmp_path / "second").symlink_to(tmp_path / "first")
    done = run(["./second", "py", "-c", "import betterbox"], cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    done = run(["dev", "py", "-c", "import betterbox"], env={**os.environ, "PATH": f"{house}:/usr/bin:/bin", "CDPATH": "/"})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_py_hands_on_exit_codes_and_signals(house: Path) -> None:
    assert run([str(house / "dev"), "py", "-c", "raise SystemExit(7)"]).returncode == 7
    process = subprocess.Popen(
        [str(house / "dev"), "py", "-c", "print(1, flush=True); import signal; signal.pause()"], stdout=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.readline() == b"1\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == -signal.SIGTERM
    process.stdout.close()


def test_many_may_start_at_once(house: Path) -> None:
    processes = [subprocess.Popen([str(house / "dev"), "py", "-c", "import betterbox"]) for _ in range(20)]
    assert [process.wait(60) for process in processes] == [0] * 20


@pytest.mark.parametrize("missing", PROGRAMS)
@pytest.mark.parametrize("verb", ["py", "sim"])
def test_what_is_not_built_is_one_clear_line(house: Path, verb: str, missing: str) -> None:
    (house / "build" / "release" / "python" / "betterbox" / missing).unlink()
    done = run([str(house / "dev"), verb, "-c", "print(1)"])
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "dev build first" in done.stderr


def tally(folder: Path) -> tuple[int, str]:
    done = run([sys.executable, str(ROOT / "tests" / "tally.py"), str(folder)])
    return done.returncode, done.stdout.splitlines()[-1]


def test_the_tally_adds_reports_up(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text('<testsuite><testcase name="x"/><testcase name="y" status="run"/></testsuite>')
    (tmp_path / "b.xml").write_text(
        '<testsuites><testsuite><testcase name="z"/><testcase name="s"><skipped/></testcase></testsuite></testsuites>'
    )
    assert tally(tmp_path) == (0, "3 passed, 0 failed")
    (tmp_path / "c.xml").write_text('<testsuite><testcase name="f"><failure/></testcase></testsuite>')
    assert tally(tmp_path) == (1, "3 passed, 1 failed")


def test_what_was_skipped_for_a_reason_is_no_failure_and_what_could_not_start_is_one(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text('<testsuite><testcase name="x"/></testsuite>')
    (tmp_path / "b.xml").write_text('<testsuite><testcase name="s"><skipped message="no root"/></testcase></testsuite>')
    done = run([sys.executable, str(ROOT / "tests" / "tally.py"), str(tmp_path)])
    assert done.returncode == 0 and "skipped: 1: no root" in done.stdout and tally(tmp_path) == (0, "1 passed, 0 failed")
    (tmp_path / "b.xml").write_text('<testsuite><testcase name="s" status="notrun"><skipped/></testcase></testsuite>')
    assert tally(tmp_path) == (1, "1 passed, 1 failed")


def test_no_test_is_a_failure_and_so_is_a_broken_report(tmp_path: Path) -> None:
    assert tally(tmp_path) == (1, "0 passed, 0 failed")
    (tmp_path / "a.xml").write_text("<testsuite></testsuite>")
    assert tally(tmp_path) == (1, "0 passed, 1 failed")
    (tmp_path / "a.xml").write_text("<testsuite")
    assert tally(tmp_path) == (1, "0 passed, 1 failed")


def test_the_matrix_knows_interpreters_by_their_version() -> None:
    def tag(program: str) -> str:
        return run(["bash", "-c", f'. "{ROOT}/tests/pythons.bash"; python_tag "$1"', "", program]).stdout.strip()

    own = f"{sys.version_info.major}.{sys.version_info.minor}{sys.abiflags}"
    assert tag(sys.executable) in (own, "")  # none without its headers
    assert tag("/bin/false") == tag("/no/such/python") == ""
