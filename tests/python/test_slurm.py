"""`betterbox slurm` on a real Slurm of four nodes."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import betterbox
import pytest
from betterbox import _slurm, _slurm_scale
from betterbox._allocation import read_allocation
from betterbox._slurm_scale import Plan, Seen, plan
from helpers import Running, Scripts, wait_until
from slurm_cluster import NODES, SlurmCluster, why_not

WHY_NOT = why_not()
real_slurm = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
PACKAGE = str(Path(betterbox.__file__).parent.parent)
DEMO = Path(__file__).parent.parent.parent / "examples" / "demo.py"


@pytest.fixture(scope="module")
def slurm() -> Iterator[SlurmCluster]:
    """Four nodes, idle, with nothing in the queue."""
    cluster = SlurmCluster()
    yield cluster
    cluster.close()


@pytest.fixture
def shared(slurm: SlurmCluster, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder of this test on the file system that all nodes share; the queue must be empty at the end."""
    folder = slurm.shared / request.node.name[:60]
    folder.mkdir()
    yield folder
    try:
        slurm.wait_until(lambda: slurm.queue() == [], "an empty queue", 10)
    finally:
        slurm.run("scancel", "--user=root")


def environment(slurm: SlurmCluster, shared: Path) -> dict[str, str]:
    """Of a shell on the login node."""
    return {**slurm.env, "PYTHONPATH": PACKAGE, "BETTERBOX_HOME": str(shared / "home"), "PYTHONUNBUFFERED": "1"}


def cli(slurm: SlurmCluster, shared: Path, *args: str, **env: str) -> str:
    """What ``betterbox ARGS`` prints on the login node."""
    done = subprocess.run(
        [sys.executable, "-m", "betterbox", *args], env=environment(slurm, shared) | env, cwd=shared,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def start(slurm: SlurmCluster, shared: Path, output: str, *args: str, **env: str) -> Running:
    """Start a command on the login node."""
    return Running(list(args), shared / output, environment(slurm, shared) | env, shared)


def submit(slurm: SlurmCluster, shared: Path, *args: str) -> str:
    """Submit what ``betterbox slurm script ARGS`` prints; the job's number."""
    text = cli(slurm, shared, "slurm", "script", "--interface", "lo", "--output", str(shared / "out"), *args)
    (shared / "job.sh").write_text(text)
    bare = {name: slurm.env[name] for name in ("PATH", "SLURM_CONF", "HOME") if name in slurm.env}
    made = subprocess.run(["sbatch", "--parsable", str(shared / "job.sh")], env=bare, cwd="/", capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


def script(**options: str | int) -> list[str]:
    return [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]


# --- without a Slurm --------------------------------------------------------------------------------


def test_the_sbatch_file_is_bash_and_names_everything_by_absolute_path(scripts: Scripts, tmp_path: Path) -> None:
    scripts.write("with space.py", "pass")
    made = scripts.cli(
        "slurm", "script", *script(nodes=3, slots_per_node=8, time="1:00:00", partition="fast", account="me", job_name="it's mine"),
        "--sbatch=--exclude=n7", "--", "with space.py", "a'b", "$HOME",
    )  # fmt: skip
    assert made.wait() == 0, made.output
    text = made.output
    for line in ("--nodes=3", "--cpus-per-task=8", "--time=1:00:00", "--partition=fast", "--account=me", "--exclude=n7"):
        assert f"#SBATCH {line}\n" in text
    assert "#SBATCH --job-name='it'\"'\"'s mine'\n" in text
    assert f"'{tmp_path}/with space.py' 'a'\"'\"'b' '$HOME' &" in text
    assert f"{sys.executable} -m betterbox scheduler" in text
    checked = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True)
    assert checked.returncode == 0, checked.stderr
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "-S", "error", "-"], input=text, text=True, check=True)


def test_a_script_that_is_not_there_is_told_before_anything_is_submitted(scripts: Scripts) -> None:
    for name, told in (("nothing.py", "there is no script nothing.py"), (".", ". is a folder")):
        made = scripts.cli("slurm", "script", "--", name)
        assert made.wait() == 1
        assert told in made.output


def test_a_host_without_slurm_and_a_bus_that_is_an_address_are_told_at_once(scripts: Scripts, home: Path) -> None:
    address = {"BETTERBOX_BUS": "tcp://127.0.0.1:1"}
    for verb in (["scale", "--max=1"], ["wait", "--workers=1"], ["node"]):
        told = scripts.cli("slurm", *verb, **address)
        assert told.wait() == 1 and "by its file, not by an address" in told.output, told.output
    scripts.cli("scheduler")
    wait_until((home / "bus.json").exists, "a bus")
    scaler = scripts.cli("slurm", "scale", "--max=1", PATH="/nowhere", BETTERBOX_BUS=str(home / "bus.json"))
    assert scaler.wait() == 1 and "there is no squeue here" in scaler.output


def test_workers_of_one_step_start_no_bus_each(scripts: Scripts, home: Path) -> None:
    worker = scripts.cli("worker", SLURM_STEP_NUM_TASKS="2")
    assert worker.wait() == 1 and "start one: betterbox scheduler" in worker.output
    assert not (home / "bus.json").exists()


def test_an_allocation_is_read_from_the_environment() -> None:
    job = {"SLURM_JOB_ID": "1", "SLURM_JOB_END_TIME": "1"}
    assert read_allocation({}) == read_allocation({"SLURM_CPUS_ON_NODE": "9"})  # no job
    assert read_allocation(job | {"SLURM_CPUS_ON_NODE": "8", "SLURM_MEM_PER_NODE": "100"}).memory == 100 << 20
    assert read_allocation(job | {"SLURM_CPUS_ON_NODE": "8", "SLURM_MEM_PER_CPU": "2"}).memory == 16 << 20
    assert read_allocation(job | {"SLURM_CPUS_ON_NODE": "8", "SLURM_CPUS_PER_TASK": "2"}).cores == 2
    assert read_allocation(job | {"SLURM_MEM_PER_NODE": "0"}).memory is None


def workers(home: Path) -> list[str]:
    """Names of those that are on the bus."""
    return sorted(worker["name"] for worker in _slurm.workers_in(_slurm.bus_status(str(home / "bus.json"))))


LONG_ITEMS = """
    import os, sys, time
    from pathlib import Path
    import betterbox

    folder, count, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])

    def item(n):
        (folder / f"{n}-{time.time_ns()}-{os.getpid()}").touch()
        time.sleep(seconds)
        return n * n

    promise = betterbox.map(item, range(count))
    print("started", flush=True)
    assert promise.result(60) == [n * n for n in range(count)]
    runs = sorted(int(path.name.split("-")[0]) for path in folder.iterdir())
    print("runs", "each once" if runs == list(range(count)) else runs, flush=True)
"""


@pytest.mark.parametrize("why", ["SIGTERM", "SIGUSR1", "the end of its time"])
def test_a_worker_that_drains_loses_nothing_and_runs_nothing_twice(
    scripts: Scripts, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    scripts.cli("scheduler")
    monkeypatch.setenv("BETTERBOX_BUS", str(home / "bus.json"))
    wait_until((home / "bus.json").exists, "a bus")
    given = {} if why.startswith("SIG") else {"SLURM_JOB_ID": "1", "SLURM_JOB_END_TIME": str(int(time.time()) + 8)}
    leaving = scripts.cli("worker", "--slots", "2", "--name", "leaving", "--drain", "5", **given)
    wait_until(lambda: workers(home) == ["leaving"], "a worker")
    (tmp_path / "runs").mkdir()
    client = scripts.start("items.py", LONG_ITEMS, str(tmp_path / "runs"), "24", "0.3")
    wait_until(lambda: len(list((tmp_path / "runs").iterdir())) >= 2, "items that run")
    scripts.cli("worker", "--slots", "2", "--name", "staying")
    wait_until(lambda: "staying" in workers(home), "another worker")
    if why.startswith("SIG"):
        leaving.process.send_signal(getattr(signal, why))
    assert client.wait() == 0, client.output
    assert "runs each once" in client.output
    assert leaving.wait() == 0, leaving.output


def test_a_second_sigterm_ends_a_worker_at_once(
    scripts: Scripts, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts.cli("scheduler")
    monkeypatch.setenv("BETTERBOX_BUS", str(home / "bus.json"))
    wait_until((home / "bus.json").exists, "a bus")
    worker = scripts.cli("worker", "--slots", "1", "--drain", "1000")
    (tmp_path / "runs").mkdir()
    scripts.start("items.py", LONG_ITEMS, str(tmp_path / "runs"), "1", "1000")
    wait_until(lambda: list((tmp_path / "runs").iterdir()), "an item that runs")
    worker.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "may end" in "".join(log.read_text() for log in (home / "logs").glob("worker*.log")), "a drain")
    assert worker.end() == 0


def test_demand_decides_what_is_submitted_cancelled_and_retired() -> None:
    def planned(seen: Seen) -> Plan:
        return plan(seen, 100.0, least=1, most=20, slots=4, idle=10.0)

    assert planned(Seen(0, 0)) == Plan(submit=1)  # the least
    assert planned(Seen(9, 0)) == Plan(submit=3)
    assert planned(Seen(10**6, 0)) == Plan(submit=8)  # not all at once
    assert planned(Seen(9, 5, ["1"])) == Plan()  # others take some
    assert planned(Seen(0, 0, ["8", "9", "10"], ["7"], {"7": 0.0})) == Plan(cancel=["10", "9", "8"])
    assert planned(Seen(0, 0, [], ["5", "6", "7"], {"5": 85.0, "6": 80.0, "7": 95.0})) == Plan(retire=["6", "5"])


def test_a_command_of_slurm_that_hangs_is_told_and_what_was_submitted_before_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sbatch = tmp_path / "sbatch"
    sbatch.write_text(f"#!/bin/sh\n[ -e {tmp_path}/once ] && exec sleep 60\ntouch {tmp_path}/once\necho 71\n")
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(_slurm_scale, "_COMMAND_TIMEOUT", 1.0)
    scaler = _slurm_scale.Scaler("", "", argparse.Namespace(job_name="one", slots_per_node=1, interval=1))
    with pytest.raises(betterbox.BetterBoxError, match=r"sbatch did not end within 1 s: .*scontrol ping.* the next try"):
        scaler._submit(2)
    assert "submitted 71" in capsys.readouterr().out


def test_a_refusal_of_sbatch_is_told_and_tried_again(scripts: Scripts, home: Path, tmp_path: Path) -> None:
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, text in {
        "squeue": "true",
        "sbatch": f"[ -e {tmp_path}/open ] || {{ echo 'no such partition' >&2; exit 1; }}; touch {tmp_path}/made; echo 77",
        "scancel": "true",
    }.items():
        (commands / name).write_text(f"#!/bin/sh\n{text}\n")
        (commands / name).chmod(0o755)
    scripts.cli("scheduler")
    wait_until((home / "bus.json").exists, "a bus")
    scale = script(min=1, max=1, interval=0.05)
    scaler = scripts.cli("slurm", "scale", *scale, PATH=f"{commands}:/usr/bin:/bin", BETTERBOX_BUS=str(home / "bus.json"))
    scaler.wait_for("sbatch failed (1): no such partition; the next try comes in")
    (tmp_path / "open").touch()
    scaler.wait_for("submitted 77")
    assert scaler.end() == 0, scaler.output


# --- on four nodes ----------------------------------------------------------------------------------


@real_slurm
def test_the_demo_runs_over_four_nodes_in_a_submitted_job(slurm: SlurmCluster, shared: Path) -> None:
    demo = ["--", str(DEMO), "--slots", "8", "--limit", "1", "--preset", "1", "--json", str(shared / "demo.json")]
    job = submit(slurm, shared, *script(nodes=4, time=5), *demo)
    state = slurm.wait_for_job(job)
    output = (shared / "out").read_text()
    assert (state["JobState"], state["ExitCode"], state["NumNodes"]) == ("COMPLETED", "0:0", "4"), output
    told = json.loads((shared / "demo.json").read_text())
    assert told["matches_serial"] and told["hosts"] == list(NODES), told
    slurm.wait_until(lambda: slurm.queue() == [], "an empty queue")
    folder = shared / "home" / f"slurm-{job}"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700 and not (folder / "bus.json").exists()


@real_slurm
def test_a_client_on_the_login_node_attaches_and_the_scripts_exit_code_is_the_jobs(
    slurm: SlurmCluster, shared: Path
) -> None:
    (shared / "hold.py").write_text(
        "import pathlib, sys, time\n"
        "while not pathlib.Path(sys.argv[1]).exists(): time.sleep(0.05)\n"
        "print('held', sys.argv[2:])\nsys.exit(7)\n"
    )
    job = submit(slurm, shared, *script(nodes=2, time=5), "--", str(shared / "hold.py"), str(shared / "go"), "a 'b'")
    bus = shared / "home" / f"slurm-{job}" / "bus.json"
    slurm.wait_until(lambda: bus.exists() and "held" not in (shared / "out").read_text(), "a bus")
    cli(slurm, shared, "slurm", "wait", "--workers", "2", "--timeout", "30", BETTERBOX_BUS=str(bus))
    (shared / "attach.py").write_text(
        "import betterbox, socket\n"
        "hosts = set()\n"
        "while hosts != {'n1', 'n2'}: hosts |= set(betterbox.map(lambda _: socket.gethostname(), range(8)).result(20))\n"
    )
    attached = start(slurm, shared, "attached", sys.executable, str(shared / "attach.py"), BETTERBOX_BUS=str(bus))
    assert attached.wait() == 0, attached.output
    (shared / "go").touch()
    assert slurm.wait_for_job(job)["ExitCode"] == "7:0"
    assert "held [\"a 'b'\"]" in (shared / "out").read_text()


@real_slurm
def test_a_cancelled_job_ends_its_script_and_leaves_nothing(slurm: SlurmCluster, shared: Path) -> None:
    (shared / "long.py").write_text("import time\nprint('runs', flush=True)\ntime.sleep(1000)\n")
    job = submit(slurm, shared, *script(nodes=1, time=5), "--", str(shared / "long.py"))
    slurm.wait_until(lambda: (shared / "out").exists() and "runs" in (shared / "out").read_text(), "the script")
    slurm.run("scancel", job)
    slurm.wait_for_job(job)
    assert not (shared / "home" / f"slurm-{job}" / "bus.json").exists()


@pytest.fixture
def login_bus(slurm: SlurmCluster, shared: Path) -> Iterator[Path]:
    """A bus on the login node, for workers on nodes."""
    bus = shared / "home" / "bus.json"
    scheduler = start(slurm, shared, "scheduler", sys.executable, "-m", "betterbox", "scheduler", "--interface", "lo")
    wait_until(bus.exists, "a bus")
    yield bus
    assert scheduler.end() == 0, scheduler.output


@real_slurm
def test_srun_starts_a_worker_on_each_node(slurm: SlurmCluster, shared: Path, login_bus: Path) -> None:
    srun = str(shutil.which("srun"))
    step = start(
        slurm, shared, "srun", srun, "-N4", "--exclusive", "--time=5", sys.executable, "-m", "betterbox", "worker",
        "--interface", "lo", BETTERBOX_BUS=str(login_bus),
    )  # fmt: skip
    cli(slurm, shared, "slurm", "wait", "--workers", "4", "--timeout", "30")
    report = json.loads(cli(slurm, shared, "status", "--json"))
    workers = [peer for peer in report["peers"] if peer["role"] == "worker"]
    assert {worker["host"] for worker in workers} == set(NODES)
    assert slurm.queue()

    def told() -> bool:
        peers = json.loads(cli(slurm, shared, "status", "--json"))["peers"]
        left = [peer["load"]["time_left"] for peer in peers if peer["role"] == "worker"]
        return all(each is not None and 200 < each < 300 for each in left)

    slurm.wait_until(told, "workers that have told how much of five minutes is left")
    (job,) = {line.split()[0] for line in slurm.queue()}
    slurm.run("scancel", "--signal=TERM", job, check=True)
    assert step.wait() == 0, step.output


@real_slurm
def test_a_cancelled_worker_job_gives_back_what_it_has_not_begun(
    slurm: SlurmCluster, shared: Path, login_bus: Path
) -> None:
    scale = ["slurm", "scale", "--max=1", "--slots-per-node=2", "--interface=lo", "--time=5", "--dry-run"]
    (shared / "job.sh").write_text(cli(slurm, shared, *scale))
    jobs = [slurm.run("sbatch", "--parsable", str(shared / "job.sh"), check=True).strip() for _ in range(2)]
    cli(slurm, shared, "slurm", "wait", "--workers", "2", "--timeout", "30")
    (shared / "runs").mkdir()
    (shared / "items.py").write_text(textwrap.dedent(LONG_ITEMS))
    client = start(
        slurm, shared, "client", sys.executable, str(shared / "items.py"), str(shared / "runs"), "24", "0.3",
        BETTERBOX_BUS=str(login_bus),
    )  # fmt: skip
    wait_until(lambda: len(list((shared / "runs").iterdir())) >= 4, "items that run")
    slurm.run("scancel", jobs[0], check=True)
    assert slurm.wait_for_job(jobs[0])["JobState"] == "CANCELLED"
    assert client.wait() == 0, client.output
    assert "runs each once" in client.output
    slurm.run("scancel", jobs[1], check=True)


@real_slurm
def test_workers_are_submitted_by_demand_and_retired_without_it(
    slurm: SlurmCluster, shared: Path, login_bus: Path
) -> None:
    (shared / "runs").mkdir()
    (shared / "gate.py").write_text(
        "import betterbox, pathlib, socket, sys, time\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "def item(n):\n"
        "    (folder / f'{n}-{socket.gethostname()}').touch()\n"
        "    while len({path.name.split('-')[1] for path in folder.iterdir()}) < 4: time.sleep(0.02)\n"
        "    return n\n"
        "assert betterbox.map(item, range(16)).result(60) == list(range(16))\n"
    )
    scale = [sys.executable, "-m", "betterbox", "slurm", "scale", *script(min=0, max=4, idle=0.5, interval=0.2, interface="lo")]
    env = {"BETTERBOX_BUS": str(login_bus), "PATH": slurm.env["PATH"]}
    scaler = start(slurm, shared, "scaler", *scale, "--slots-per-node", "2", **env)
    scaler.wait_for("jobs are called")
    assert slurm.queue() == []
    client = start(slurm, shared, "client", sys.executable, str(shared / "gate.py"), str(shared / "runs"), **env)
    slurm.wait_until(lambda: sum("RUNNING" in job for job in slurm.queue()) == 4, "four jobs")
    assert scaler.end(signal.SIGKILL) != 0
    again = start(slurm, shared, "again", *scale, "--slots-per-node", "2", **env)  # finds its jobs
    assert client.wait() == 0, client.output
    slurm.wait_until(lambda: slurm.queue() == [], "no jobs")
    assert again.end() == 0, again.output
    assert "scale: submitted" not in again.output and "retired" in again.output
