"""The program `betterbox`."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import betterbox
import pytest
from helpers import Scripts, processes_of, wait_until

MODULE = """
from betterbox import Box, serve_box

class ABox(Box):
    def name(self):
        return 'MyBox'

@serve_box(8090)
class Decorated(Box):
    def name(self):
        return 'decorated'

class Plain:
    pass
"""


def test_every_verb_has_help(scripts: Scripts) -> None:
    verbs = ["", "scheduler", "worker", "serve", "run", "status", "mpi", "slurm", "doctor"]
    for verb in [*verbs, *(f"slurm {verb}" for verb in ("script", "scale", "wait", "node"))]:
        running = scripts.cli(*verb.split(), "--help")
        assert running.wait() == 0
        assert "usage: betterbox" in running.output and ("example" in running.output or not verb)


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["nosuch"],
        ["serve", "m:C"],
        ["serve", "m:C", "--port", "0"],
        ["serve", "m:C", "--port", "70000"],
        ["worker", "--slots", "0"],
        ["worker", "--slots", "99999"],
        ["worker", "--gpus", "-1"],
        ["worker", "--memory", ""],
        ["scheduler", "--bus", ""],
        ["run"],
        ["slurm", "script", "--nodes", "0"],
        ["slurm", "script", "--slots-per-node", "-2"],
        ["slurm", "script", "--sbatch", ""],
        ["slurm", "scale", "--min", "2", "--max", "1"],
        ["slurm", "scale", "--max", "1", "--interval", "0"],
        ["slurm", "wait", "--workers", "1", "--timeout", "nan"],
    ],
)
def test_wrong_usage_is_exit_code_2(scripts: Scripts, args: list[str]) -> None:
    running = scripts.cli(*args)
    assert running.wait() == 2 and "Traceback" not in running.output


def test_status_without_a_bus_starts_none(scripts: Scripts, home: Path) -> None:
    running = scripts.cli("status")
    assert running.wait() == 1
    assert running.output.count("\n") == 1 and "there is no bus" in running.output
    assert not processes_of(home)


def start_bus(scripts: Scripts, bus: Path) -> None:
    scripts.cli("scheduler", "--bus", str(bus))
    wait_until(bus.exists, "the bus file is there")


@pytest.mark.parametrize("wrong", [["--memory", "lots"], ["--cpus", "-1"], ["--resource", "cpus=2"], ["--resource", "a=b"]])
def test_a_worker_with_a_capacity_that_makes_no_sense_is_refused(scripts: Scripts, home: Path, wrong: list[str]) -> None:
    running = scripts.cli("worker", *wrong)
    assert running.wait() == 2 and "Traceback" not in running.output
    assert wrong[1].split("=")[0] in running.output and not home.exists()


def test_scheduler_worker_and_status(scripts: Scripts, home: Path, tmp_path: Path) -> None:
    bus = tmp_path / "bus.json"
    start_bus(scripts, bus)
    assert bus.stat().st_mode & 0o777 == 0o600
    scripts.cli("worker", "--bus", str(bus), "--slots", "2", "--name", "tester")
    text = "import betterbox, os\nprint(betterbox.map(abs, [-1, -2]).result(), betterbox.submit(os.getenv, 'BETTERBOX_BUS').result())"
    assert scripts.run("client.py", text, BETTERBOX_BUS=str(bus)) == f"[1, 2] {bus}\n"
    running = scripts.cli("status", "--bus", str(bus), "--json")
    assert running.wait() == 0, running.output
    report = json.loads(running.output)
    [worker] = [peer for peer in report["peers"] if peer["name"] == "tester"]
    assert worker["slots"] == 2 and worker["capacity"]["cpus"] == 2 and worker["capacity"]["resources"] == {}
    assert worker["load"]["busy_slots"] == 0 and not worker["load"]["paused"]
    running = scripts.cli("status", BETTERBOX_BUS=str(bus))
    assert running.wait() == 0
    assert "tester" in running.output and "ready" in running.output and "boxes: none" in running.output


def test_a_scheduler_ends_with_its_parent_if_it_was_told_to(scripts: Scripts, home: Path) -> None:
    code = "import subprocess, sys; subprocess.call([sys.executable, '-m', 'betterbox', 'scheduler', '--with-parent'])"
    parent = scripts.command("-c", code)
    wait_until((home / "bus.json").exists, "a bus")
    parent.process.kill()
    wait_until(lambda: not processes_of(home), "no scheduler any more")
    assert not (home / "bus.json").exists()


def test_a_second_scheduler_on_one_bus_file_is_refused(scripts: Scripts, home: Path, tmp_path: Path) -> None:
    bus = tmp_path / "bus.json"
    start_bus(scripts, bus)
    second = scripts.cli("scheduler", "--bus", str(bus))
    assert second.wait() == 1 and "Traceback" not in second.output
    assert scripts.cli("status", "--bus", str(bus)).wait() == 0


def test_serve_hosts_instances(scripts: Scripts, home: Path) -> None:
    scripts.write("mymodule.py", MODULE)
    server = scripts.cli("serve", "mymodule:ABox", "--port", "8090", "--slots", "3")
    text = "from betterbox import GroupBox\nprint(GroupBox.connect(8090, timeout=20, require=3).name().result())"
    assert scripts.run("client.py", text) == "['MyBox', 'MyBox', 'MyBox']\n"
    assert server.end(signal.SIGINT) == 0, server.output


def test_serve_only_records_decorators(scripts: Scripts, home: Path) -> None:
    scripts.write("mymodule.py", MODULE)
    server = scripts.cli("serve", "mymodule:Decorated", "--port", "8091")
    text = "from betterbox import GroupBox\nprint(GroupBox.connect(8091, timeout=20).name().result())"
    assert scripts.run("client.py", text) == "['decorated']\n"
    text = "from betterbox import GroupBox\nGroupBox.connect(8090, timeout=0.2)"
    assert "NoBoxFoundError" in (lambda run: (run.wait(), run.output)[1])(scripts.start("none.py", text))
    assert server.end() == 0, server.output


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("nomodule:ABox", "nomodule"),
        ("mymodule:Nope", "no class 'Nope'"),
        ("mymodule:Plain", "Box"),
        ("mymodule", "module:Class"),
    ],
)
def test_serve_says_what_is_wrong_with_its_target(scripts: Scripts, target: str, text: str) -> None:
    scripts.write("mymodule.py", MODULE)
    running = scripts.cli("serve", target, "--port", "8090")
    assert running.wait() == 1
    assert text in running.output and "Traceback" not in running.output


SCRIPT = """
import sys
import betterbox

class Local:
    def __init__(self, x): self.x = x

def double(local): return Local(local.x * 2)

if __name__ == '__main__':
    print(sys.argv[1:], [local.x for local in betterbox.map(double, [Local(1), Local(2)])])
"""


def test_run_gives_a_script_a_private_cluster(scripts: Scripts, home: Path) -> None:
    script = scripts.write("script.py", SCRIPT)
    running = scripts.cli("run", "--slots", "2", str(script), "--own", "1")
    assert running.wait() == 0, running.output
    assert running.output == "['--own', '1'] [2, 4]\n"
    assert not (home / "bus.json").exists()


@pytest.mark.parametrize(("ending", "code"), [("raise ValueError('x')", 1), ("raise SystemExit(3)", 3), ("exit()", 0)])
def test_run_ends_as_the_script_does(scripts: Scripts, ending: str, code: int) -> None:
    running = scripts.cli("run", "--slots", "1", str(scripts.write("script.py", ending)))
    assert running.wait() == code
    if code == 1:
        assert "ValueError: x" in running.output and running.output.count("File ") == 1


def test_run_takes_a_module_as_python_does(scripts: Scripts, home: Path) -> None:
    package = scripts.folder / "package"
    package.mkdir()
    package.joinpath("__init__.py").touch()
    package.joinpath("tool.py").write_text("raise SystemExit('ended by itself')")
    scripts.write(
        "package/__main__.py",
        """
        import sys
        import betterbox
        from . import __name__ as name

        class Item:
            value = 20

        def double(item):
            return 2 * item.value

        print(name, __name__, sys.argv[1:], betterbox.submit(double, Item()).result(20))
        """,
    )
    assert "package __main__ ['-m', '--slots', '3'] 40" in scripts.cli_output("run", "--slots", "1", "-m", "package", "-m", "--slots", "3")
    tool = scripts.cli("run", "-m", "package.tool")
    assert tool.wait() == 1 and tool.output == "ended by itself\n"


@pytest.mark.parametrize("module", ["nowhere", "nowhere.below", "package_without_main", ".", "builtins"])
def test_run_says_which_module_it_cannot_run(scripts: Scripts, module: str) -> None:
    scripts.folder.joinpath("package_without_main").mkdir()
    running = scripts.cli("run", "-m", module)
    assert running.wait() == 1 and module in running.output and "Traceback" not in running.output


def test_version_is_the_packages(scripts: Scripts) -> None:
    assert scripts.cli_output("--version") == f"betterbox {betterbox.__version__}\n"


def test_run_shows_where_a_script_failed_though_it_was_an_error_of_ours(scripts: Scripts) -> None:
    script = scripts.write("script.py", "import betterbox\nraise betterbox.BusError('no more')\n")
    running = scripts.cli("run", "--slots", "1", str(script))
    assert running.wait() == 1
    assert f'File "{script}", line 2' in running.output and "BusError: no more" in running.output


def test_an_output_that_is_full_is_one_line(scripts: Scripts) -> None:
    code = "import os, sys; os.dup2(os.open('/dev/full', os.O_WRONLY), 1); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    for words in (["--help"], ["slurm", "script"], ["doctor", "--json"]):
        running = scripts.command("-c", code, "-m", "betterbox", *words)
        assert running.wait() == 1
        assert running.output.count("\n") == 1 and "No space left" in running.output, running.output


def test_an_address_of_the_network_is_told_that_keys_are_needed(scripts: Scripts) -> None:
    for verb in ("status", "worker"):
        running = scripts.cli(verb, "--bus", "tcp://127.0.0.1:1")
        assert running.wait() == 1 and "so name its bus file" in running.output


def test_run_shows_what_slots_print(scripts: Scripts) -> None:
    script = scripts.write("script.py", "import betterbox\nbetterbox.submit(print, 'from a slot').result()")
    running = scripts.cli("run", "--slots", "1", str(script))
    assert running.wait() == 0
    assert "from a slot" in running.output


def test_run_without_a_script_file_fails_clearly(scripts: Scripts) -> None:
    running = scripts.cli("run", "nosuch.py")
    assert running.wait() == 1 and "no script nosuch.py" in running.output and "Traceback" not in running.output


def test_run_serves_until_a_signal(scripts: Scripts) -> None:
    script = scripts.write("script.py", MODULE + "\nprint('ready')\n")
    running = scripts.cli("run", "--slots", "1", str(script))
    running.wait_for("ready")
    assert running.end() == 0, running.output
