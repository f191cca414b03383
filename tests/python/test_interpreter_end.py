"""The end of the interpreter: work is done or refused in every stage, and the process ends."""

from __future__ import annotations

import signal
from pathlib import Path

import betterbox
import pytest
from helpers import LONG, Running, Scripts, wait_until

pytestmark = pytest.mark.usefixtures("cluster")

REFUSED = "RuntimeError: cannot schedule new futures after interpreter shutdown"

# Each way in, as a closure: in the last stage names of modules are None.
WAYS_IN = """
import builtins
import betterbox

class ABox(betterbox.Box): ...

def ways_in(errors=(betterbox.BetterBoxError, RuntimeError), write=os.write, submit=betterbox.submit, map=betterbox.map,
            options=betterbox.options(retries=1), Executor=betterbox.Executor, old=OLD, put=betterbox.put,
            connect=betterbox.RemoteBox.connect, deploy=betterbox.deploy, serve=betterbox.serve, ABox=ABox,
            LocalCluster=betterbox.LocalCluster):
    ways = (
        lambda: submit(abs, -1).result(20),
        lambda: submit(lambda: 1).result(20),
        lambda: submit(abs, submit(abs, -1)).result(20),
        lambda: options.submit(abs, -1).result(20),
        lambda: map(abs, [-1, -2]).result(20),
        lambda: map(abs, (-i for i in range(3))).result(20),
        lambda: Executor().submit(abs, -1).result(20),
        lambda: old.submit(abs, -1).result(20) if old else Executor(),
        lambda: list(old.map(abs, [-1])) if old else Executor(),
        lambda: put(b"x" * 200_000).get(),
        lambda: connect(9, timeout=0.01),
        lambda: deploy(ABox, 8091).close(),
        lambda: serve(ABox, 8092).close(),
        lambda: LocalCluster(slots=1).close(),
    )
    for way in ways:
        try:
            way()
            write(1, b"done\\n")
        except errors as error:
            write(1, f"{type(error).__name__}: {error}\\n".encode())

class AtTheEnd:
    def __del__(self, act=ways_in):
        act()
"""
USED = WAYS_IN.replace("OLD", "betterbox.Executor()") + "betterbox.submit(abs, -1).result()\n"
UNUSED = WAYS_IN.replace("OLD", "None")
COUNT = WAYS_IN.count("        lambda: ")

STAGES = {
    # hooks run from the last that was registered to the first: these after ours, those before it
    "late hook": "atexit.register(lambda: ways_in())\n" + USED,
    "late hook, unused": "atexit.register(lambda: ways_in())\n" + UNUSED,
    "imported in a hook": f"def hook():\n    exec({UNUSED!r}, globals())\n    ways_in()\natexit.register(hook)\n",
    "hook": USED + "atexit.register(ways_in)\n",
    "hook of threads": USED + "threading._register_atexit(ways_in)\n",
    "thread": USED + "threading.Thread(target=lambda: (threading.main_thread().join(), ways_in())).start()\n",
    "finalisation": USED + "builtins.kept = AtTheEnd()\n",
    "finalisation, unused": UNUSED + "builtins.kept = AtTheEnd()\n",
    "last finalisation": USED + "sys.kept = AtTheEnd()\n",
    "forked child": USED + "if os.fork() == 0:\n    ways_in()\nelse:\n    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))\n",
    "child of an unused one": UNUSED + "if os.fork() == 0:\n    ways_in()\nelse:\n    sys.exit(os.wait()[1])\n",
}
ALL_REFUSED = {"late hook", "late hook, unused", "imported in a hook"} | {name for name in STAGES if "finalisation" in name}


def start(scripts: Scripts, name: str, text: str) -> Running:
    scripts.write(name, "import atexit, os, sys, threading\n" + text)
    return scripts.command("-W", "ignore::DeprecationWarning", name)  # of forks with threads, from Python 3.12 on


def test_every_way_in_is_done_or_refused_in_every_stage(scripts: Scripts) -> None:
    names = list(STAGES)
    for some in (names[:4], names[4:8], names[8:]):
        running = {name: start(scripts, f"stage_{names.index(name)}.py", STAGES[name]) for name in some}
        for name, script in running.items():
            assert script.wait() == 0, (name, script.output)
            said = script.output.splitlines()
            assert len(said) == COUNT, (name, said)
            if name in ALL_REFUSED:
                assert set(said) == {REFUSED}, (name, said)
            elif name == "forked child":
                assert {line.partition(":")[0] for line in said} <= {"BusError", "done"}, said  # LocalCluster, Executor()
            else:
                assert "done" in said, (name, said)
                others = [line for line in said if line not in ("done", REFUSED)]
                assert all(line.startswith("NoBoxFoundError") for line in others), (name, others)


def test_daemon_threads_that_use_the_bus_to_the_last_do_no_harm(scripts: Scripts) -> None:
    text = """
        import threading, betterbox
        def forever():
            while True:
                try:
                    betterbox.submit(lambda: 1).result(20)
                    betterbox.map(abs, (i for i in range(3))).result(20)
                except (RuntimeError, betterbox.BetterBoxError):
                    pass
        betterbox.submit(abs, -1).result()
        for _ in range(3):
            threading.Thread(target=forever, daemon=True).start()
    """
    for each in [scripts.start(f"daemons_{i}.py", text) for i in range(4)]:
        assert each.wait() == 0, each.output


@pytest.mark.parametrize("how", ["submit", "shutdown", "map", "dependent"])
def test_python_ends_when_the_work_of_executors_and_its_callbacks_are_done(
    scripts: Scripts, tmp_path: Path, how: str
) -> None:
    text = """
        import os, sys, time, betterbox
        from pathlib import Path
        def late(gate):
            while not os.path.exists(gate):
                time.sleep(0.01)
            return "done"
        how, gate = sys.argv[1:]
        executor = betterbox.Executor()
        if how == "map":
            executor.map(late, [gate])
        else:
            future = executor.submit(late, betterbox.submit(str, gate) if how == "dependent" else gate)
            future.add_done_callback(lambda done: (time.sleep(0.1), os.write(1, done.result().encode())))
        if how == "shutdown":
            executor.shutdown(wait=False)
        del executor
        os.write(1, b"at the end ")
    """
    gate = tmp_path / "gate"
    script = scripts.start(f"{how}.py", text, how, str(gate))
    script.wait_for("at the end")
    assert script.process.poll() is None
    gate.touch()
    assert script.wait() == 0
    assert script.output == ("at the end " if how == "map" else "at the end done")


def test_ctrl_c_ends_the_wait_for_the_work_of_executors(scripts: Scripts) -> None:
    text = """
        import threading, time, betterbox
        from betterbox import _executor
        betterbox.Executor().submit(time.sleep, 1000)
        def tell():
            while not _executor._interpreter_ends:
                time.sleep(0.01)
            print("at the end")
        threading.Thread(target=tell).start()
    """
    script = scripts.start("interrupted.py", text)
    script.wait_for("at the end")
    assert script.end(signal.SIGINT) == 0
    assert "interrupted at the end" in script.output and "Traceback" not in script.output


def test_promises_that_are_under_way_are_settled_and_not_waited_for(scripts: Scripts) -> None:
    text = """
        import os, time, betterbox
        promise = betterbox.submit(time.sleep, 1000)
        promise.add_done_callback(lambda done: done.result())
        promise.add_done_callback(lambda done: os.write(1, b"called"))
    """
    script = scripts.start("promise.py", text)
    assert script.wait() == 0
    assert "closed its connection" in script.output and script.output.endswith("called")
