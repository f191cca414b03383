"""The program ``betterbox``: scheduler, worker, serve, run, status, mpi, slurm, doctor."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from typing import Any, NoReturn

from betterbox import __version__, _script, _settings
from betterbox._arguments import (
    MOST_SLOTS,
    Parser,
    UsageError,
    add_script,
    add_verb,
    amount,
    check_script,
    devices,
    filled,
    network_port,
    port,
    whole,
)
from betterbox._errors import BetterBoxError, BusError
from betterbox._labels import host_name
from betterbox._printable import printable, printable_lines

OK, FAILED, USAGE = 0, 1, 2


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="betterbox",
        description="Python objects served on a bus, and work spread over them.",
        epilog="BETTERBOX_BUS names the bus (a bus file or an address); unset, it is ~/.betterbox/bus.json, "
        "and the bus starts by itself. Exit codes: 0 ok, 1 failed, 2 usage.",
    )
    parser.add_argument("--version", action="version", version=f"betterbox {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    _scheduler_parser(verbs)
    _worker_parser(verbs)
    _serve_parser(verbs)
    _run_parser(verbs)
    _status_parser(verbs)
    _mpi_parser(verbs)
    _doctor_parser(verbs)
    _slurm_parser(verbs)
    return parser


def _add_bus(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--bus", type=filled, metavar="FILE", help="the bus file (default: BETTERBOX_BUS, else the one in BETTERBOX_HOME)"
    )


def _add_interface(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--interface",
        type=filled,
        metavar="NAME",
        help="the interface, or the address of this host, that other hosts are to use; none: this host only "
        "(default: BETTERBOX_INTERFACE, else by the routes)",
    )


def _scheduler_parser(verbs: Any) -> None:
    parser = add_verb(
        verbs,
        "scheduler",
        "run a scheduler, by hand, until SIGINT or SIGTERM",
        "betterbox scheduler\nbetterbox scheduler --bus /scratch/me/bus.json",
    )
    _add_bus(parser)
    _add_interface(parser)
    parser.add_argument("--port", type=network_port, metavar="N", help="the TCP port for other hosts (default: any that is free)")
    parser.add_argument("--with-parent", action="store_true", help="end when the process that starts it ends, however")
    parser.set_defaults(run=_scheduler)


def _worker_parser(verbs: Any) -> None:
    parser = add_verb(
        verbs,
        "worker",
        "give the bus a worker for plain functions, until SIGINT or SIGTERM",
        "betterbox worker --slots 4\nbetterbox worker --memory 64G --gpus 2 --resource licence=1\n"
        "BETTERBOX_BUS=/scratch/me/bus.json betterbox worker",
    )
    _add_bus(parser)
    _add_worker_options(parser)
    parser.add_argument("--slots", type=whole(1, MOST_SLOTS), metavar="N", help="slots (default: one per CPU)")
    parser.add_argument(
        "--cpus", type=float, metavar="N", help="cores that items may take at a time (default: one per slot)"
    )
    parser.add_argument(
        "--memory", type=filled, metavar="SIZE", help='memory for items, in bytes or as in "64G" (default: what this machine has)'
    )
    parser.add_argument(
        "--gpus", type=devices, metavar="N|LIST", help="devices: how many, or which, as in 0,2 (default: none)"
    )
    parser.add_argument(
        "--resource",
        type=amount,
        action="append",
        default=[],
        metavar="NAME=AMOUNT",
        help="something else that items may ask for; may come several times",
    )
    parser.add_argument(
        "--drain",
        type=whole(1),
        metavar="SECONDS",
        help="what runs when it is told to end, or its allocation ends, may take so long (default: 25)",
    )
    parser.set_defaults(run=_worker)


def _add_worker_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", metavar="NAME", help="what status calls it (default: host-pid)")
    _add_interface(parser)
    parser.add_argument(
        "--python",
        type=filled,
        metavar="PATH",
        help="the interpreter that slots are; embedded: one that was built with BetterBox (default: the one that runs this)",
    )
    parser.add_argument("--preload", metavar="A,B", help="modules to import once, before slots are forked")
    parser.add_argument("--echo", action="store_true", help="show what slots print here, tagged")


def _serve_parser(verbs: Any) -> None:
    parser = add_verb(
        verbs,
        "serve",
        "host instances of a box in processes of their own",
        "betterbox serve mymodule:ABox --port 8090\nbetterbox serve mymodule:ABox --port 8090 --slots 4",
    )
    parser.add_argument("target", metavar="MODULE:CLASS", help="the class, importable from here")
    parser.add_argument("--port", type=port, required=True, metavar="P", help="1 to 65535")
    parser.add_argument("--slots", type=whole(1, MOST_SLOTS), default=1, metavar="N", help="instances (default: 1)")
    _add_bus(parser)
    _add_worker_options(parser)
    parser.set_defaults(run=_serve)


def _run_parser(verbs: Any) -> None:
    parser = add_verb(
        verbs,
        "run",
        "run a script with a private scheduler and worker (or on the bus that BETTERBOX_BUS names)",
        "betterbox run script.py\nbetterbox run --slots 4 script.py --its --own options\nbetterbox run -m package.module",
    )
    parser.add_argument("--slots", type=whole(1, MOST_SLOTS), metavar="N", help="slots of the private worker (default: one per CPU)")
    add_script(parser, "run", "[--slots N]")
    parser.set_defaults(run=_run)


def _mpi_parser(verbs: Any) -> None:
    parser = add_verb(
        verbs,
        "mpi",
        "run a script under MPI: rank 0 runs it, the other ranks are its workers",
        "mpirun -n 4 betterbox mpi script.py\nmpirun -n 4 betterbox mpi script.py --its --own options\n"
        "mpirun -n 4 betterbox mpi -m package.module\nbetterbox mpi --build",
    )
    parser.add_argument(
        "--mpicc",
        type=filled,
        metavar="PATH",
        help="the compiler wrapper of the MPI that mpirun belongs to (default: BETTERBOX_MPICC, else mpicc on the path)",
    )
    script = add_script(parser, "mpi", "[--mpicc PATH]")

    class Build(argparse.Action):
        """Needs no script."""

        def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
            script.required = False
            namespace.build = True

    parser.add_argument(
        "--build",
        action=Build,
        nargs=0,
        default=False,
        help="run nothing: compile what calls MPI, as the first job of each MPI does by itself, and tell where it is",
    )
    parser.set_defaults(run=_mpi)


def _slurm_parser(verbs: Any) -> None:
    from betterbox import _slurm

    parser = add_verb(
        verbs,
        "slurm",
        "print an sbatch file with a bus in it, or keep worker jobs by demand",
        "betterbox slurm script --nodes 4 --time 1:00:00 -- script.py --its --own options > job.sh && sbatch job.sh\n"
        "betterbox slurm scale --bus /shared/me/bus.json --max 16 --slots-per-node 32",
    )
    _slurm.add_parser(parser)


def _status_parser(verbs: Any) -> None:
    parser = add_verb(
        verbs, "status", "show who is on the bus and what is under way", "betterbox status\nbetterbox status --json"
    )
    _add_bus(parser)
    parser.add_argument("--json", action="store_true", help="for scripts")
    parser.set_defaults(run=_status)


def _doctor_parser(verbs: Any) -> None:
    parser = add_verb(
        verbs,
        "doctor",
        "look for what keeps this host or its bus from working, and say what to do",
        "betterbox doctor\nbetterbox doctor --bus /scratch/me/bus.json --json",
    )
    _add_bus(parser)
    parser.add_argument("--json", action="store_true", help="for scripts")
    parser.set_defaults(run=_doctor)


# --- verbs ------------------------------------------------------------------------------------------


def _use_bus(args: argparse.Namespace) -> tuple[str, bool]:
    if args.bus:
        os.environ["BETTERBOX_BUS"] = args.bus
    return _settings.bus_name()


def _exec(command: list[str]) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os.execv(command[0], command)


def _end_with_parent() -> None:
    """SIGTERM to this process, also after it has become another program, when its parent ends."""
    import ctypes

    parent_death_signal = 1  # PR_SET_PDEATHSIG
    if ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGTERM, 0, 0, 0) != 0:
        print("betterbox scheduler: --with-parent has no effect on this system", file=sys.stderr)


def _scheduler(args: argparse.Namespace) -> int:
    bus, named = _use_bus(args)
    if not named:
        _settings.home()
    if _settings.is_address(bus):
        raise BusError(f"a scheduler needs a bus file, not an address: --bus FILE (BETTERBOX_BUS is {bus})")
    command = [_settings.program("betterbox-scheduler"), "--bus", bus, "--python", _settings.python_version()]
    if interface := args.interface or _settings.interface():
        command += ["--interface", interface]
    if args.port is not None:
        command += ["--port", str(args.port)]
    if args.with_parent:
        _end_with_parent()
    _exec(command)


def _worker_command(args: argparse.Namespace, slots: int) -> list[str]:
    from betterbox._bus import find_bus

    if args.interface:
        os.environ["BETTERBOX_INTERFACE"] = args.interface
    bus, named = _use_bus(args)
    # Of a step on several nodes each would start a bus of its own, and all but one would find the file taken.
    find_bus(bus, named or os.environ.get("SLURM_STEP_NUM_TASKS", "1") != "1")
    command = _settings.worker_command(bus, slots=slots, name=args.name or f"{host_name()}-{os.getpid()}", python=args.python)
    if args.preload:
        command += ["--preload", args.preload]
    if args.echo:
        command += ["--echo"]
    return command


def _worker(args: argparse.Namespace) -> int:
    from betterbox._allocation import read_allocation
    from betterbox._resources import worker_arguments

    allocation = read_allocation()
    memory = args.memory or (str(allocation.memory) if allocation.memory else None)
    try:
        capacity = worker_arguments(args.cpus, memory, args.gpus, dict(args.resource))
    except ValueError as error:
        raise UsageError(str(error)) from error
    slots = args.slots or min(_settings.cpu_count(), allocation.cores or _settings.cpu_count())
    drain = ["--drain", str(args.drain)] if args.drain else []
    _exec([*_worker_command(args, slots), *capacity, *allocation.worker_arguments(), *drain])


def _serve(args: argparse.Namespace) -> int:
    from betterbox import _registry
    from betterbox._allocation import read_allocation
    from betterbox._deploy import find_class, make_payload

    sys.path.insert(0, os.getcwd())
    _registry.recording = True
    find_class(args.target, on_slot=False)  # a mistake is better told here than by each slot
    payload = make_payload(args.target)
    fd = os.memfd_create("betterbox-payload", 0)
    with open(fd, "wb", closefd=False) as stream:
        stream.write(payload)
    os.lseek(fd, 0, os.SEEK_SET)
    command = [*_worker_command(args, 0), *read_allocation().worker_arguments()]
    _exec([*command, "--host-fd", str(fd), "--port", str(args.port), "--host-slots", str(args.slots)])


def _run(args: argparse.Namespace) -> int:
    if not args.module:
        check_script(args.script)
    program = _script.Program(args.script, args.args, args.module)
    if os.environ.get("BETTERBOX_BUS"):
        if args.slots:
            raise BetterBoxError("--slots is for a private worker, but BETTERBOX_BUS names a bus; unset one of them")
        return _run_main(program)
    from betterbox._cluster import LocalCluster

    with LocalCluster(args.slots):
        if _run_main(program) != OK:
            return FAILED
        serving = sys.modules.get("betterbox._serving")
        if serving is not None:
            serving.flush_standard_streams()
            serving.wait_for_stop()
    return OK


def _mpi(args: argparse.Namespace) -> int:
    from betterbox import _mpi, _mpi_build

    if args.build:
        if args.script:
            raise UsageError("--build runs no script; leave one of them out")
        return _mpi_build.build(args.mpicc)
    return _mpi.main(args.script, args.args, args.module, args.mpicc)


def _run_main(program: _script.Program) -> int:
    """Run it; what it raises is its own and is shown as Python does."""
    try:
        program.run()
    except Exception as error:
        program.show_error(error)
        return FAILED
    return OK


def _status(args: argparse.Namespace) -> int:
    from betterbox import _core
    from betterbox._bus import find_bus

    bus, named = _use_bus(args)
    # Looking does not start anything.
    if _settings.is_address(bus):
        endpoint, file = find_bus(bus, named)["endpoint"], ""
    else:
        if not os.path.exists(bus):
            raise BusError(f"there is no bus at {bus}" + ("" if named else "; it starts when the first script needs it"))
        endpoint, file = _core.find_or_start_bus(bus, [], "", 5.0)["endpoint"], bus
    client = _core.Client(endpoint, "betterbox status", True, None, file)
    try:
        report = client.status(5.0)
    finally:
        client.close()
    if args.json:
        json.dump(report, sys.stdout, indent=2, default=str)
        print()
    else:
        print(status_text(bus, report))
    return OK


def _doctor(args: argparse.Namespace) -> int:
    from betterbox import _doctor

    findings = _doctor.examine(*_use_bus(args))
    print(json.dumps(_doctor.as_json(findings), indent=2) if args.json else _doctor.as_text(findings))
    return FAILED if _doctor.worst(findings) == _doctor.PROBLEM else OK


def status_text(bus: str, report: dict[str, Any]) -> str:
    """The report of `_core.Client.status`, for people."""
    scheduler = report["scheduler"]
    uptime = report["uptime_s"]
    lines = [f"bus {printable(bus, None)}: scheduler pid {scheduler['pid']} on {printable(scheduler['host'])}, up {uptime:.0f} s"]
    lines += _table(
        "peers",
        ("role", "name", "pid", "host", "slots", "items", "log"),
        [
            (
                f"{p['role']}{'' if p['connected'] else ' (gone)'}",
                p["name"],
                p["pid"],
                p["host"],
                p["slots"],
                p["leased_items"],
                p["log_folder"],
            )
            for p in report["peers"]
        ],
    )
    lines += _table(
        "workers",
        ("name", "slots", "busy", "cpus", "others", "memory", "taken", "gpus", "resources", "state"),
        [_worker_row(p) for p in report["peers"] if p["role"] == "worker"],
    )
    lines += _table(
        "boxes",
        ("port", "class", "pid", "host", "methods"),
        [(b["port"], b["class"], b["pid"], b["host"], _short_list(b["methods"])) for b in report["boxes"]],
    )
    lines += _table(
        "calls",
        ("port", "method", "name", "settled", "running"),
        [
            (c["port"] or "functions", c["method"], c["name"], f"{c['settled']}/{c['total']}", c["running"])
            for c in report["calls"]
        ],
    )
    lines += _table(
        "values",
        ("what", "size", "put by", "holders", "copies", "stores"),
        [
            (
                value["label"] or "-",
                _size(value["bytes"]),
                f"{value['owner_pid']} on {value['owner_host']}" if value["owner_pid"] else "-",
                value["holders"],
                f"{value['copies']}/{value['replicas']}" if value["replicas"] > 1 else value["copies"],
                value["stores"],
            )
            for value in report["values"]
        ],
    )
    counters = ", ".join(f"{printable(name)} {value}" for name, value in report["counters"].items() if value)
    if counters:
        lines.append(f"counters: {counters}")
    return "\n".join(lines)


def _worker_row(peer: dict[str, Any]) -> tuple[Any, ...]:
    """What a worker has, and how it is."""
    capacity, load = peer["capacity"], peer["load"]
    named = ", ".join(f"{name} {amount:g}" for name, amount in capacity["resources"].items())
    return (
        peer["name"],
        peer["slots"],
        load["busy_slots"],
        f"{capacity['cpus']:g}",
        f"{load['others_cpus']:.1f}",
        "any" if capacity["memory"] is None else _size(capacity["memory"]),
        _size(load["memory"]),
        f"{capacity['gpus']:g}",
        named or "-",
        _state_of(peer["connected"], load),
    )


def _state_of(connected: bool, load: dict[str, Any]) -> str:
    if not connected:
        return "gone"
    state = "ending" if load["ending"] else "paused: little memory is left" if load["paused"] else "ready"
    waiting = load["waiting_slots"]
    return state + (f", {waiting} more wait for calls of their own" if waiting else "")


def _size(amount: float) -> str:
    for unit in ("", "K", "M", "G"):
        if amount < 1024:
            return f"{amount:.4g}{unit}"
        amount /= 1024
    return f"{amount:.4g}T"


def _short_list(names: list[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")


def _table(title: str, head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> list[str]:
    if not rows:
        return [f"{title}: none"]
    cells = [head, *[tuple(printable(value) if name != "log" else printable(value, None) for name, value in zip(head, row)) for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    return [f"{title}:", *["  " + "  ".join(c.ljust(w) for c, w in zip(row, widths)).rstrip() for row in cells]]


def main(argv: list[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    verb = ""
    try:
        args = _parser().parse_args(argv)
        verb = f" {args.verb}"
        reconfigure = getattr(sys.stdout, "reconfigure", None)
        if reconfigure is not None and args.verb not in ("run", "mpi"):  # whose output is the script's
            reconfigure(errors="backslashreplace")  # names of files need not be text
        code: int = args.run(args)
        if sys.stdout is not None:  # None: it was closed before we began
            sys.stdout.flush()
        return code
    except BetterBoxError as error:
        print(f"betterbox{verb}: {printable_lines(error)}", file=sys.stderr)
        return USAGE if isinstance(error, UsageError) else FAILED
    except OSError as error:  # above all of an output that is full, or that nobody reads any more
        if not isinstance(error, BrokenPipeError):
            print(f"betterbox{verb}: {printable_lines(error)}", file=sys.stderr)
        if sys.stdout is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        return 130
