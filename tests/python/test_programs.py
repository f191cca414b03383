"""The programs of the documentation, as processes of their own, and how scripts that serve begin and end."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import betterbox
import pytest
from betterbox import BusError
from helpers import Scripts, processes_of, wait_until

SERVER = """
from betterbox import Box, serve_box

@serve_box(8090)
class ABox(Box):
    def name(self) -> str:
        return 'MyBox'
"""

CLIENT = """
from betterbox import RemoteBox, use_box

@use_box(8090)
class OtherBox(RemoteBox):
    def __init__(self):
        print(f'I m {self.name().any()}')
"""

RELAY = """
from betterbox import RemoteBox, serve_box, use_box

@serve_box(9090)
@use_box(8090)
class OtherBox(RemoteBox):
    def __init__(self):
        print(f'I m {self.name().any()}')
"""

KEEPER = """
from betterbox import Box, persist, serve_box

@serve_box(8090)
@persist('abox')
class ABox(Box):
    data: str
"""

ASK_RELAY = """
from betterbox import RemoteBox
print(RemoteBox.connect(9090, timeout=20).name().result())
"""

READY = "\nprint('ready')\n"


def start_server(scripts: Scripts, name: str = "server.py", more: str = READY):  # type: ignore[no-untyped-def]
    running = scripts.start(name, SERVER + more)
    running.wait_for("ready")
    return running


def test_server_and_client(scripts: Scripts) -> None:
    server = start_server(scripts)
    assert scripts.run("client.py", CLIENT) == "I m MyBox\n"
    assert server.end(signal.SIGINT) == 0
    assert server.output == "ready\n"


def test_the_relay_answers_for_its_box(scripts: Scripts) -> None:
    server = start_server(scripts)
    relay = scripts.start("relay.py", RELAY)
    assert scripts.run("ask.py", ASK_RELAY) == "MyBox\n"
    assert relay.end() == 0 and relay.output == "I m MyBox\n"
    assert server.end() == 0


def test_the_programs_as_they_stand_wait_for_a_signal(scripts: Scripts, home: Path) -> None:
    server = scripts.start("server.py", SERVER)
    assert scripts.run("client.py", CLIENT.replace("8090)", "8090, timeout=20)")) == "I m MyBox\n"
    assert server.process.poll() is None
    assert server.end(signal.SIGTERM) == 0 and server.output == ""


WRITE = """
from betterbox import RemoteBox, SandBox
import sys
box = RemoteBox.connect(8090, timeout=20)
"""

STATEFUL = """
from betterbox import Box, persist, serve_box

@serve_box(8090)
@persist('abox', autosave=0.05)
class ABox(Box):
    data: str = 'nothing'

    def put(self, data: str) -> None:
        self.data = data

    def get(self) -> str:
        return self.data
print('ready')
"""


def test_state_survives_stop_and_start(scripts: Scripts, home: Path) -> None:
    keeper = scripts.start("keeper.py", STATEFUL)
    keeper.wait_for("ready")
    scripts.run("put.py", WRITE + "box.put('kept').result()")
    assert keeper.end() == 0
    assert (home / "boxes/abox/current").exists()
    again = scripts.start("keeper.py", STATEFUL)
    again.wait_for("ready")
    assert scripts.run("get.py", WRITE + "print(box.get().result())") == "kept\n"


def test_state_survives_a_kill_followed_at_once_by_a_start(scripts: Scripts, home: Path) -> None:
    keeper = scripts.start("keeper.py", STATEFUL)
    keeper.wait_for("ready")
    scripts.run("put.py", WRITE + "box.put('kept').result()")
    current = home / "boxes/abox/current"
    wait_until(lambda: current.exists() and b"kept" in current.read_bytes(), "it was saved by itself")
    keeper.process.kill()
    again = scripts.start("keeper.py", STATEFUL)
    again.wait_for("ready")
    assert scripts.run("get.py", WRITE + "print(box.get().result())") == "kept\n"
    keeper.wait()


def test_keeper_as_it_stands(scripts: Scripts, home: Path) -> None:
    keeper = scripts.start("keeper.py", KEEPER)
    wait_until((home / "boxes/abox/lock").exists, "it owns its state")
    scripts.run("look.py", "from betterbox import RemoteBox\nRemoteBox.connect(8090, timeout=20)")
    assert keeper.end() == 0
    assert (home / "boxes/abox/current").exists()


def test_a_second_owner_is_refused(scripts: Scripts) -> None:
    first = scripts.start("keeper.py", STATEFUL)
    first.wait_for("ready")
    second = scripts.start("second.py", STATEFUL.replace("8090", "8091"))
    assert second.wait() == 1
    assert f"pid {first.pid} on" in second.output and "StateError" in second.output


# --- failover -------------------------------------------------------------------------------------------

PIDS = """
import os
from betterbox import Box, serve_box

@serve_box(8090)
class Pid(Box):
    def pid(self) -> int:
        return os.getpid()

    def die(self) -> None:
        os._exit(1)
print('ready')
"""


def test_a_remote_box_picks_another_when_its_box_dies(scripts: Scripts) -> None:
    servers = [scripts.start(f"server{i}.py", PIDS) for i in range(2)]
    for server in servers:
        server.wait_for("ready")
    output = scripts.run(
        "client.py",
        """
        from betterbox import BoxLostError, NoBoxFoundError, RemoteBox
        box = RemoteBox.connect(8090, require=2)
        first = box.pid().result()
        try:
            box.die().result()
        except BoxLostError as error:
            print("lost")
        second = box.pid().result()
        print(first != second)
        try:
            box.die().result()
        except BoxLostError as error:
            print("lost")
        try:
            box.pid()
        except NoBoxFoundError:
            print("nobody left")
        """,
    )
    assert output == "lost\nTrue\nlost\nnobody left\n"


def test_a_group_goes_on_with_one(scripts: Scripts) -> None:
    servers = [scripts.start(f"server{i}.py", PIDS) for i in range(2)]
    for server in servers:
        server.wait_for("ready")
    client = scripts.start(
        "client.py",
        """
        import sys, time
        from betterbox import GroupBox
        box = GroupBox.connect(8090, require=2)
        print(len(box.pid().result()), flush=True)
        while len(pids := box.pid().all(return_exceptions=True)) == 2:
            time.sleep(0.01)
        print(pids)
        """,
    )
    client.wait_for("2\n")
    servers[0].process.kill()
    servers[0].wait()
    assert client.wait() == 0
    assert client.output == f"2\n[{servers[1].pid}]\n"


# --- how scripts end --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ending", "code"),
    [("raise ValueError('x')", 1), ("import sys; sys.exit(3)", 3), ("raise SystemExit(4)", 4), ("import sys; sys.exit()", 0)],
)
def test_a_script_that_raised_or_exited_does_not_stay_up(scripts: Scripts, ending: str, code: int) -> None:
    assert scripts.start("server.py", SERVER + "\n" + ending + "\n").wait() == code


def test_a_caught_exit_does_not_count(scripts: Scripts) -> None:
    more = "import sys\ntry:\n    sys.exit(3)\nexcept SystemExit:\n    pass\nprint('ready')\n"
    server = start_server(scripts, more=more)
    assert scripts.run("client.py", CLIENT) == "I m MyBox\n"
    assert server.end() == 0


def test_with_block_false_nothing_waits(scripts: Scripts) -> None:
    assert scripts.start("server.py", SERVER.replace("8090)", "8090, block=False)")).wait() == 0


def test_an_interactive_interpreter_does_not_wait(scripts: Scripts) -> None:
    path = scripts.write("server.py", SERVER)
    assert scripts.command("-i", str(path)).wait() == 0


def test_a_with_block_serves_for_its_body(scripts: Scripts) -> None:
    text = """
    from betterbox import Box, RemoteBox, serve
    class ABox(Box):
        def name(self): return 'MyBox'
    with serve(ABox, 8090):
        print(RemoteBox.connect(8090).name().result())
    """
    assert scripts.run("with.py", text) == "MyBox\n"


def test_a_term_during_the_script_stops_cleanly_and_saves(scripts: Scripts, home: Path) -> None:
    more = "\nimport time\ntime.sleep(60)\n"
    text = STATEFUL.replace(", autosave=0.05", "") + more
    keeper = scripts.start("keeper.py", text)
    keeper.wait_for("ready")
    assert keeper.end() == 0
    assert (home / "boxes/abox/current").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_does_not_wait_for_the_running_call(scripts: Scripts, number: signal.Signals) -> None:
    hanging = """
    def hang(self) -> None:
        import signal, threading, time
        print("hanging")
        while getattr(signal.getsignal(signal.SIGINT), "__name__", "") == "stop":
            time.sleep(0.01)  # the first signal gives it back
        print("stopping")
        threading.Event().wait()
"""
    server = scripts.start("server.py", SERVER + hanging + READY)
    server.wait_for("ready")
    client = scripts.start("hang.py", "from betterbox import RemoteBox\nRemoteBox.connect(8090).hang().any()\n")
    server.wait_for("hanging")
    server.process.send_signal(number)
    server.wait_for("stopping")
    assert server.end(number) == 1
    assert "asked twice to stop" in server.output and "Traceback" not in server.output
    assert client.wait() == 1


@pytest.mark.parametrize("numbers", ["TERM TERM", "INT INT", "INT TERM", "TERM INT INT TERM"])
def test_signals_that_come_together_stop_an_idle_box_cleanly(scripts: Scripts, home: Path, numbers: str) -> None:
    text = STATEFUL.replace(", autosave=0.05", "")
    keeper = scripts.start("keeper.py", text)
    keeper.wait_for("ready")
    for number in numbers.split():
        keeper.process.send_signal(signal.Signals[f"SIG{number}"])
    assert keeper.wait() == 0, keeper.output
    assert "Traceback" not in keeper.output and (home / "boxes/abox/current").exists()


def test_a_signal_that_comes_while_the_interpreter_ends_leaves_the_exit_code(scripts: Scripts) -> None:
    server = scripts.start(
        "server.py",
        """
        import os, signal
        from betterbox import Box, serve_box
        class Last:
            def __del__(self, kill=os.kill, process=os.getpid(), numbers=(signal.SIGINT, signal.SIGTERM)):
                for number in numbers:
                    kill(process, number)
        last = Last()
        @serve_box(8090)
        class ABox(Box):
            pass
        print('ready')
        """,
    )
    server.wait_for("ready")
    assert server.end(signal.SIGTERM) == 0, server.output


def test_an_async_box_that_stops_ends_its_calls_without_a_word(scripts: Scripts) -> None:
    server = scripts.start(
        "server.py",
        """
        import asyncio
        from betterbox import Box, serve_box
        @serve_box(8090)
        class Service(Box):
            async def fetch(self, x):
                await asyncio.sleep(0.01)
                return x
            async def sleep(self):
                try:
                    await asyncio.sleep(60)
                finally:
                    asyncio.ensure_future(asyncio.sleep(60))  # one more that nobody waits for
            async def stay(self):
                while True:
                    try:
                        await asyncio.sleep(60)
                    except asyncio.CancelledError:
                        pass
        print('ready')
        """,
    )
    server.wait_for("ready")
    client = scripts.start(
        "client.py",
        """
        from betterbox import BoxLostError, RemoteBox
        box = RemoteBox.connect(8090)
        waiting = [box.sleep(), box.stay()]
        promises = [box.fetch(i) for i in range(1000)]
        promises[20].result()
        print("called")
        ended = [promise.exception(20) for promise in [*waiting, *promises]]
        assert {type(error) for error in ended} <= {type(None), BoxLostError}, ended
        assert type(ended[0]) is type(ended[1]) is BoxLostError
        """,
    )
    client.wait_for("called")
    assert server.end() == 0
    assert server.output.split("\n") == ["ready", ""]
    assert client.wait() == 0, client.output


@pytest.mark.parametrize("flush", [1, 2])  # the interpreter's own at the end of the script, and ours before the wait
def test_a_term_between_the_script_and_the_wait_is_not_lost(scripts: Scripts, flush: int) -> None:
    ending = f"""
import os, signal, sys

class Stream:
    flushed = 0

    def write(self, text):
        return len(text)

    def flush(self):
        self.flushed += 1
        if self.flushed == {flush}:
            os.kill(os.getpid(), signal.SIGTERM)

sys.stdout = Stream()
"""
    server = scripts.start("server.py", SERVER + ending)
    assert server.wait() == 0
    assert server.output == ""


@pytest.mark.skipif((3, 12) <= sys.version_info < (3, 12, 3), reason="Python 3.12.0 to 3.12.2 starts no thread once a script has ended")
def test_methods_may_use_threads_until_the_end(scripts: Scripts) -> None:
    server = scripts.start(
        "server.py",
        """
        from concurrent.futures import ThreadPoolExecutor
        from betterbox import Box, serve_box
        pool = ThreadPoolExecutor(1)
        @serve_box(8090)
        class ABox(Box):
            def work(self):
                return pool.submit(lambda: 5).result()
            async def later(self):
                import asyncio
                return await asyncio.to_thread(lambda: 6)
        print('ready')
        """,
    )
    server.wait_for("ready")
    output = scripts.run(
        "client.py",
        "from betterbox import RemoteBox\nbox = RemoteBox.connect(8090)\nprint(box.work().result(), box.later().result())",
    )
    assert output == "5 6\n"
    assert server.end() == 0, server.output


def test_a_script_may_call_its_own_box(scripts: Scripts) -> None:
    more = "\nfrom betterbox import RemoteBox\nprint(RemoteBox.connect(8090).name().result())\n"
    server = scripts.start("server.py", SERVER + more)
    server.wait_for("MyBox")
    assert server.end() == 0


def test_output_is_flushed_before_the_wait(scripts: Scripts) -> None:
    server = scripts.start("server.py", SERVER + "\nprint('buffered')\n", PYTHONUNBUFFERED="")
    server.wait_for("buffered")
    assert server.end() == 0


# --- the bus that starts by itself ---------------------------------------------------------------------------


def test_two_first_users_start_one_bus(scripts: Scripts, home: Path) -> None:
    servers = [scripts.start(f"server{i}.py", SERVER + READY) for i in range(4)]
    for server in servers:
        server.wait_for("ready")

    def schedulers() -> list[str]:
        names = [Path(f"/proc/{pid}/comm").read_text() for pid in processes_of(home)]
        return [name for name in names if name.startswith("betterbox-sched")]

    wait_until(lambda: len(schedulers()) == 1, lambda: f"one scheduler, not {schedulers()}", 10)  # a sweeper gets its name late


def test_a_bus_whose_file_is_gone_ends_with_its_workers(scripts: Scripts, home: Path) -> None:
    script = scripts.start("script.py", "import betterbox\nprint(betterbox.submit(abs, -1).result())\n")
    assert script.wait() == 0
    assert processes_of(home)
    (home / "bus.json").unlink()
    wait_until(lambda: not processes_of(home), lambda: f"these have ended: {processes_of(home)}")


def test_a_bus_that_nobody_uses_ends(scripts: Scripts, home: Path) -> None:
    server = scripts.start("server.py", SERVER + READY, BETTERBOX_IDLE_TIMEOUT="0.2")
    server.wait_for("ready")
    assert server.end() == 0
    wait_until(lambda: not processes_of(home), "the scheduler has ended")
    assert not (home / "bus.json").exists()


def test_the_first_function_or_deployment_starts_a_worker(scripts: Scripts, home: Path) -> None:
    maps = "import betterbox\nprint(betterbox.map(abs, [-1, -2]).result())"
    deploys = """
        from betterbox import Box, RemoteBox, deploy
        class ABox(Box):
            def numbers(self):
                return [1, 2]
        with deploy(ABox, 8090):
            print(RemoteBox.connect(8090).numbers().result())
        """
    first = scripts.start("first.py", deploys, BETTERBOX_IDLE_TIMEOUT="0.5")
    for run in [first, *(scripts.start(f"client{i}.py", maps, BETTERBOX_IDLE_TIMEOUT="0.5") for i in range(2))]:
        assert run.wait() == 0, run.output
        assert run.output == "[1, 2]\n"


def test_a_named_bus_is_never_started(scripts: Scripts, home: Path) -> None:
    client = scripts.start("client.py", CLIENT, BETTERBOX_BUS=str(home.parent / "other.json"))
    assert client.wait() == 1
    assert "BusError" in client.output and "other.json" in client.output


def test_no_box_at_the_port(scripts: Scripts) -> None:
    client = scripts.start("client.py", CLIENT.replace("8090", "8090, timeout=0.2"))
    assert client.wait() == 1
    assert "NoBoxFoundError: no box answers at port 8090" in client.output


def test_a_lock_that_cannot_be_opened_is_an_error_that_names_it(home: Path) -> None:
    home.mkdir(mode=0o700, parents=True)
    (home / "bus.json.worker.lock").mkdir(mode=0o700)
    with pytest.raises(BusError, match=r"no worker can be started: its lock .*worker\.lock cannot be opened: Is a directory"):
        betterbox.submit(len, []).result(30)
