"""Which interpreter a slot is: the client's own, in its environment and with its options."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import betterbox
import pytest
from betterbox import _settings
from helpers import Scripts, processes_of, wait_until

WHO = """
    import os
    import sys
    import betterbox

    def who():
        seeded = hash("seed") if "PYTHONHASHSEED" in os.environ else 0
        return sys.executable, sys.prefix, sys.flags.optimize, sys.flags.dev_mode, seeded, __debug__

    def nested():
        return betterbox.submit(who).result()

    if __name__ == "__main__":
        found = [betterbox.submit(who).result(), betterbox.submit(nested).result(), *betterbox.map(lambda _: who(), range(3))]
        print("same" if found == [who()] * 5 else found)
"""


def make_environment(folder: Path) -> str:
    """A virtual environment that sees the packages of this interpreter, which may be of one, too."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--system-site-packages", folder], check=True)
    (site,) = folder.glob("lib/python3*/site-packages")
    (site / "packages.pth").write_text("".join(f"{each}\n" for each in sys.path if each.endswith("-packages")))
    return str(folder / "bin" / "python")


def templates(home: Path) -> list[int]:
    return [pid for pid in processes_of(home) if Path(f"/proc/{pid}/comm").read_text() == "betterbox-tmpl\n"]


def test_each_client_of_a_bus_has_slots_of_its_own_interpreter(scripts: Scripts, home: Path, tmp_path: Path) -> None:
    venv = make_environment(tmp_path / "venv")
    script = str(scripts.write("who.py", WHO))
    for python, *options in ([sys.executable], [sys.executable, "-O"], [venv], [venv, "-X", "dev"], [sys.executable]):
        run = scripts.command(*options, script, python=python)
        assert (run.wait(), run.output) == (0, "same\n")
    assert len(templates(home)) == 4


def test_templates_that_nobody_uses_are_few(scripts: Scripts, home: Path) -> None:
    for seed in range(1, 9):
        assert scripts.run("who.py", WHO, PYTHONHASHSEED=str(seed)) == "same\n"
    wait_until(lambda: len(templates(home)) <= 6, "those that were used longest ago have ended")


def test_an_interpreter_that_cannot_be_started_is_told_with_the_one_that_is_there(scripts: Scripts, home: Path) -> None:
    assert scripts.run("who.py", WHO) == "same\n"
    text = scripts.run(
        "lost.py",
        """
        import sys
        sys.executable = "/nowhere/python"
        import betterbox
        for _ in range(2):
            try:
                betterbox.submit(int).result(20)
            except betterbox.BetterBoxError as error:
                print(error)
        """,
    )
    assert text.count("/nowhere/python (Python 3.") == 2 and text.count(sys.executable) == 2, text
    assert "/nowhere/python cannot be started: No such file or directory" in (home / "logs" / "worker.log").read_text()
    assert scripts.run("who.py", WHO) == "same\n"


def test_a_worker_may_be_given_another_interpreter(scripts: Scripts, tmp_path: Path) -> None:
    chosen = [make_environment(tmp_path / "venv")]
    if os.path.exists(os.path.join(os.path.dirname(_settings.__file__), "_bin", "betterbox-python")):
        chosen.append("embedded")
    for python in chosen:
        bus = str(tmp_path / f"{len(python)}.json")
        scripts.cli("scheduler", "--bus", bus)
        wait_until(lambda: os.path.exists(bus), "the scheduler")
        scripts.cli("worker", "--bus", bus, "--slots", "1", "--python", python)
        text = scripts.run(
            "which.py",
            "import sys, betterbox; print(betterbox.submit(lambda: sys.executable).result(), betterbox.map(len, ['a', 'bc']).result())",
            BETTERBOX_BUS=bus,
        )
        assert text.endswith("betterbox-python [1, 2]\n" if python == "embedded" else f"{python} [1, 2]\n")


def test_what_is_no_interpreter_is_refused_before_anything_starts(home: Path) -> None:
    for python, says in (("/nowhere/python", "cannot be started"), ("/bin/true", "is no Python"), ("/", "cannot be started")):
        with pytest.raises(betterbox.BusError, match=f"--python {python} {says}"):
            _settings.worker_command("bus.json", slots=1, name="w", python=python)
