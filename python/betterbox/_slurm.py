"""``betterbox slurm``: an sbatch file with a bus in it, and worker jobs that come and go by demand."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import shlex
import sys
import time
from typing import Any

from betterbox import _settings
from betterbox._arguments import MOST_SLOTS, UsageError, add_verb, check_script, filled, seconds, whole
from betterbox._errors import BetterBoxError, BusError
from betterbox._labels import host_name

# What every file that Slurm runs begins with: sbatch starts it in another environment than this one.
_ENVIRONMENT = """\
set -u
unset XDG_RUNTIME_DIR  # the one of the host where this was submitted
export PYTHONPATH={package}${{PYTHONPATH:+:$PYTHONPATH}}
"""

_JOB = """
# One folder for each job, on the file system that all nodes share: its bus file, its keys and its logs.
export BETTERBOX_HOME={home}/slurm-"$SLURM_JOB_ID"
export BETTERBOX_BUS="$BETTERBOX_HOME/bus.json"
mkdir -p -m 700 "$BETTERBOX_HOME" || exit 1
rm -f "$BETTERBOX_BUS"  # of a run before this job was queued again
betterbox() {{ {python} -m betterbox "$@"; }}

# Workers read the end of their allocation here; asked once for all of them where Slurm does not say it.
if [ -z "${{SLURM_JOB_END_TIME:-}}" ]; then
  end=$(date -d "$(squeue -h -j "$SLURM_JOB_ID" -o %e)" +%s 2>/dev/null) && export SLURM_JOB_END_TIME="$end"
fi

scheduler= workers= script= interrupted=0
alive() {{ [ -n "$1" ] && kill -0 "$1" 2>/dev/null; }}
await() {{  # PID SECONDS: until it has ended
  local left=$(($2 * 10))
  while alive "$1" && [ "$left" -gt 0 ]; do sleep 0.1; left=$((left - 1)); done
}}
finish() {{  # workers end with their scheduler
  trap '' TERM INT
  trap - EXIT
  alive "$script" && kill -TERM "$script" && await "$script" 5
  if alive "$scheduler"; then
    kill -TERM "$scheduler"
  else  # it was killed: they would look for another one
    for _ in 1 2; do scancel --signal=TERM "$SLURM_JOB_ID.0" 2>/dev/null && await "$workers" 2; done
  fi
  await "$workers" 15
  for pid in $script $workers $scheduler; do alive "$pid" && kill -TERM "$pid"; done
  await "$scheduler" 5
  for pid in $script $workers $scheduler; do alive "$pid" && kill -KILL "$pid"; done
}}
drain() {{  # the time is nearly over, or the job was cancelled: items that run may end, then the script is told
  interrupted=1
  trap '' TERM INT
  scancel --signal=USR1 "$SLURM_JOB_ID.0" 2>/dev/null  # the first step: the workers
  (await "$workers" {drain}; alive "$script" && kill -TERM "$script") &
}}
trap finish EXIT
trap drain TERM INT

{python} -m betterbox scheduler --with-parent --bus "$BETTERBOX_BUS"{interface} &
scheduler=$!
srun --overlap --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --wait=0 --kill-on-bad-exit=0 \\
  {python} -m betterbox slurm node{interface}{slots} &
workers=$!
betterbox slurm wait --workers "$SLURM_JOB_NUM_NODES" --timeout {wait} --pids "$scheduler,$workers" &
wait $! || exit 1  # a signal ends this, too

{command} &
script=$!
wait "$script"
code=$?
while [ "$interrupted" = 1 ]; do  # wait was interrupted, and what it gave is no exit code
  interrupted=0
  wait "$script"
  code=$?
done
finish
exit "$code"
"""

_WORKER_JOB = """
export BETTERBOX_HOME={home}
exec {python} -m betterbox worker --bus {bus} --name "slurm-$SLURM_JOB_ID"{interface}{slots}
"""


def add_parser(parser: argparse.ArgumentParser) -> None:
    """The verbs behind ``betterbox slurm``."""
    verbs = parser.add_subparsers(dest="slurm_verb", metavar="VERB", required=True)
    script = add_verb(
        verbs,
        "script",
        "print an sbatch file: scheduler, a worker per node, and a script",
        "betterbox slurm script --nodes 4 --time 1:00:00 -- script.py --its --own options > job.sh && sbatch job.sh",
    )
    _add_job_options(script)
    script.add_argument("--nodes", type=whole(1), default=1, metavar="N", help="nodes (default: 1)")
    script.add_argument(
        "--home", type=filled, metavar="FOLDER", help="where on the shared file system (default: BETTERBOX_HOME)"
    )
    script.add_argument(
        "--wait", type=whole(1), default=120, metavar="SECONDS", help="for all workers to be there (default: 120)"
    )
    script.add_argument(
        "command", nargs=argparse.REMAINDER, metavar="-- SCRIPT", help="the script and its arguments; none: hold the bus"
    )
    script.set_defaults(run=lambda args: _print(job_script(args)))

    scale = add_verb(
        verbs,
        "scale",
        "submit and retire worker jobs by demand, until SIGINT or SIGTERM",
        "betterbox slurm scale --bus /shared/me/bus.json --max 16 --slots-per-node 32 --time 4:00:00",
    )
    _add_job_options(scale)
    scale.add_argument(
        "--bus", type=filled, metavar="FILE", help="the bus file, on the shared file system (default: BETTERBOX_BUS)"
    )
    scale.add_argument("--min", type=whole(0), default=0, metavar="N", help="jobs that are always there (default: 0)")
    scale.add_argument("--max", type=whole(0), required=True, metavar="N", help="the most jobs at a time")
    scale.add_argument(
        "--idle", type=seconds(0), default=60, metavar="SECONDS", help="a worker idle for so long is retired (default: 60)"
    )
    scale.add_argument("--interval", type=seconds(0.01), default=2, metavar="SECONDS", help="between looks (default: 2)")
    scale.add_argument("--dry-run", action="store_true", help="print what would be submitted, and end")
    scale.set_defaults(run=_scale)

    wait = add_verb(
        verbs,
        "wait",
        "wait until so many workers are on the bus; exit code 0 if at least one has come",
        "BETTERBOX_BUS=/shared/me/bus.json betterbox slurm wait --workers 4",
    )
    wait.add_argument("--workers", type=whole(0), required=True, metavar="N", help="how many")
    wait.add_argument("--timeout", type=seconds(0), default=120, metavar="SECONDS", help="at most so long (default: 120)")
    wait.add_argument("--pids", default="", metavar="A,B", help="processes without which there is no point in waiting")
    wait.set_defaults(run=_wait)

    node = add_verb(
        verbs,
        "node",
        "be the worker of this node of a job, as soon as the bus file is there",
        "srun --overlap --ntasks-per-node=1 betterbox slurm node",
    )
    node.add_argument("--slots", type=whole(1, MOST_SLOTS), metavar="N", help="slots (default: the cores of the job here)")
    node.add_argument("--interface", type=filled, metavar="NAME", help="as of betterbox worker")
    node.set_defaults(run=_node)


def _add_job_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--slots-per-node", type=whole(1, MOST_SLOTS), metavar="N", help="slots, and cores (default: whole nodes)"
    )
    for name in ("time", "partition", "account", "job-name", "output", "mem", "qos", "constraint"):
        parser.add_argument(
            f"--{name}", type=filled, metavar=name.upper().replace("-", "_"), help=f"as of sbatch --{name}"
        )
    parser.add_argument(
        "--sbatch",
        type=filled,
        action="append",
        default=[],
        metavar="OPTION",
        help='any other, as in --sbatch="--exclude=n7"',
    )
    parser.add_argument(
        "--interface", type=filled, metavar="NAME", help="the interface by which the nodes reach each other"
    )


def _print(text: str) -> int:
    print(text, end="")
    return 0


def _directives(args: argparse.Namespace, **others: Any) -> str:
    options = {name: getattr(args, name.replace("-", "_")) for name in ("time", "partition", "account", "output")}
    options |= {name: getattr(args, name) for name in ("mem", "qos", "constraint")}
    options["job-name"] = args.job_name or "betterbox"
    options["cpus-per-task"] = args.slots_per_node
    options |= others
    lines = [f"--{name}={shlex.quote(str(value))}" for name, value in options.items() if value]
    if not args.slots_per_node:
        lines.append("--exclusive")
    lines += [option if option.startswith("-") else f"--{option}" for option in args.sbatch]
    for line in lines:
        if "\n" in line:
            raise UsageError(f"an option of sbatch is one line, not {line!r}")
    return "".join(f"#SBATCH {line}\n" for line in lines)


def _places(args: argparse.Namespace) -> dict[str, str]:
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return {
        "package": shlex.quote(package),
        "python": shlex.quote(sys.executable),
        "interface": f" --interface {shlex.quote(args.interface)}" if args.interface else "",
        "slots": f" --slots {args.slots_per_node}" if args.slots_per_node else "",
    }


def job_script(args: argparse.Namespace) -> str:
    """The text of an sbatch file that runs a script with a bus of its own on all nodes of a job."""
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if command:
        check_script(command[0])
    places = _places(args)
    if command:
        shown = " ".join([places["python"], *map(shlex.quote, [os.path.abspath(command[0]), *command[1:]])])
    else:
        shown = 'tail --pid="$workers" -f /dev/null'
    home = os.path.abspath(args.home) if args.home else _settings.home()
    head = _directives(args, nodes=args.nodes, **{"ntasks-per-node": 1, "signal": "B:TERM@60"})
    body = (_ENVIRONMENT + _JOB).format(home=shlex.quote(home), command=shown, wait=args.wait, drain=28, **places)
    return f"#!/bin/bash\n{head}{body}"


def worker_script(args: argparse.Namespace, bus: str) -> str:
    """The text of an sbatch file for one worker of a bus."""
    args.job_name = args.job_name or job_name(bus)
    args.output = args.output or os.path.join(_settings.log_folder(), "slurm-%j.out")
    head = _directives(args, nodes=1, ntasks=1)
    body = (_ENVIRONMENT + _WORKER_JOB).format(home=shlex.quote(_settings.home()), bus=shlex.quote(bus), **_places(args))
    return f"#!/bin/bash\n{head}{body}"


def job_name(bus: str) -> str:
    """By which a scaler knows the jobs of its bus again."""
    return "betterbox-" + hashlib.sha256(bus.encode()).hexdigest()[:10]


def bus_status(bus: str) -> dict[str, Any]:
    """What is on a bus."""
    from betterbox import _core

    if not os.path.exists(bus):
        raise BusError(f"there is no bus at {bus}; start one: betterbox scheduler --bus {bus}")
    endpoint = _core.find_or_start_bus(bus, [], "", 5.0)["endpoint"]
    client = _core.Client(endpoint, "betterbox slurm", True, None, bus)
    try:
        return client.status(5.0)
    finally:
        client.close()


def workers_in(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Its workers that are there."""
    return [peer for peer in report["peers"] if peer["role"] == "worker" and peer["connected"]]


def _bus_file() -> str:
    bus, _ = _settings.bus_name()
    if _settings.is_address(bus):
        raise BusError(f"nodes find the bus by its file, not by an address: --bus FILE (BETTERBOX_BUS is {bus})")
    return bus


def _ended(pid: str) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stream:
            return stream.read().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def _wait(args: argparse.Namespace) -> int:
    bus = _bus_file()
    deadline = time.monotonic() + args.timeout
    found, why = 0, "no bus yet"
    while time.monotonic() < deadline:
        if any(_ended(pid) for pid in args.pids.split(",") if pid):
            why = "the scheduler or the workers have ended; their messages are above"
            break
        try:
            found = len(workers_in(bus_status(bus)))
            why = f"{found} of {args.workers} workers have come"
        except (BetterBoxError, OSError) as error:
            why = str(error)
        if found >= args.workers:
            return 0
        time.sleep(0.2)
    print(f"betterbox slurm: {why} (bus {bus})", file=sys.stderr)
    return 0 if found else 1


def _node(args: argparse.Namespace) -> int:
    name = os.environ.get("SLURMD_NODENAME") or host_name()
    command = [sys.executable, "-m", "betterbox", "worker", "--name", name]
    if args.slots:
        command += ["--slots", str(args.slots)]
    if args.interface:
        command += ["--interface", args.interface]
    bus = _bus_file()
    deadline = time.monotonic() + 60
    while not os.path.exists(bus) and time.monotonic() < deadline:  # the scheduler starts at the same time
        with contextlib.suppress(OSError):
            os.listdir(os.path.dirname(bus))  # makes network file systems look again
        time.sleep(0.1)
    os.execv(command[0], command)


def _scale(args: argparse.Namespace) -> int:
    from betterbox._slurm_scale import Scaler

    if args.bus:
        os.environ["BETTERBOX_BUS"] = args.bus
    bus = _bus_file()
    if args.min > args.max:
        raise UsageError(f"--min {args.min} --max {args.max}: MIN is at most MAX")
    script = worker_script(args, bus)
    if args.dry_run:
        return _print(script)
    return Scaler(bus, script, args).run()
