"""What user code forks or starts in a slot: it never speaks for the slot, and takes signals as everywhere."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import betterbox
import pytest
from betterbox import Box, LocalCluster, RemoteBox, concurrent, deploy
from helpers import LONG, Scripts

LEFT_TO_THE_WORKER = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def raised(error: BaseException) -> NoReturn:
    raise error


def fork_and(child: Callable[[], Any]) -> tuple[str, int]:
    """The child comes back, from as deep as it is; the parent tells how it ended."""
    pid = os.fork()
    if pid == 0:
        child()
        return "child", 0
    return "parent", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def fork_and_fold(a: int, b: int) -> int:
    if sys.argv != ["betterbox-slot"]:  # a client joins what slots have folded
        return a + b
    return -1000 if fork_and(lambda: None)[0] == "child" else a + b


class Forking(Box):
    def fork(self, code: int) -> tuple[str, int]:
        return fork_and(lambda: sys.exit(code))

    @concurrent
    def fork_beside(self, *code: int) -> tuple[str, int]:
        return fork_and(lambda: code and sys.exit(*code))

    async def fork_in_a_loop(self, *code: int) -> tuple[str, int]:
        return fork_and(lambda: code and sys.exit(*code))

    def pool(self) -> list[int]:
        return pool_of(0)


def pool_of(_: int) -> list[int]:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map(abs, [-1, 2])


def executor_of(_: int) -> list[int]:
    with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as executor:
        return list(executor.map(abs, [-1, 2]))


def what_children_heed(_: int) -> dict[str, list[int]]:
    """By the way of starting: the signals of the worker that the child does not take by default."""
    script = f"""
import signal
status = dict(line.split(":") for line in open("/proc/self/status") if line.startswith("Sig"))
bits = int(status["SigIgn"], 16) | int(status["SigBlk"], 16)
print([n for n in {[int(n) for n in LEFT_TO_THE_WORKER]} if bits >> n - 1 & 1])
"""
    command = [sys.executable, "-c", script]

    def in_fork() -> None:
        odd = [n for n in LEFT_TO_THE_WORKER if signal.getsignal(n) not in (signal.SIG_DFL, signal.default_int_handler)]
        os._exit(len(odd))

    def in_exec() -> None:
        os.execv(command[0], command)

    def output_of(start: Callable[[int], int]) -> list[int]:
        reading, writing = os.pipe()
        os.waitpid(start(writing), 0)
        os.close(writing)
        with open(reading) as stream:
            return list(eval(stream.read()))

    def spawned(writing: int) -> int:
        return os.posix_spawn(command[0], command, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, writing, 1)])

    def executed(writing: int) -> int:
        pid = os.fork()
        if pid == 0:
            os.dup2(writing, 1)
            in_exec()
        return pid

    return {
        "fork": [0] * fork_and(in_fork)[1],
        "subprocess": eval(subprocess.run(command, capture_output=True, text=True, check=True).stdout),
        "posix_spawn": output_of(spawned),
        "exec": output_of(executed),
    }


def children_end_by(number: int) -> list[int]:
    """Exit codes of a forked and of a started child that got this signal."""
    ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(tell, b"x")
        for _ in range(3000):  # in short pieces: a KeyboardInterrupt that comes just before one is seen after it
            time.sleep(0.01)
        os._exit(77)
    child = subprocess.Popen(["sleep", "60"])
    if number == signal.SIGINT:  # Python drops a KeyboardInterrupt that comes while its hooks of a fork run
        os.read(ready, 1)
    os.kill(pid, number)
    child.send_signal(number)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), child.wait(LONG)]


def interrupts_itself(_: int) -> str:
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        return "interrupted"
    return "not heeded"


def hears_nothing_of(number: int) -> bool:
    """The slot itself does not heed what others send it."""
    subprocess.run(["kill", f"-{number}", str(os.getpid())], check=True)
    return True


@pytest.mark.parametrize("slots", [1])
def test_a_child_that_comes_back_ends_without_an_outcome(slots: int) -> None:
    with LocalCluster(slots=slots):
        for child, code in (
            (lambda: None, 0),
            (lambda: sys.exit(), 0),
            (lambda: sys.exit(3), 3),
            (lambda: sys.exit("why"), 1),
            (lambda: raised(ValueError("in the child")), 1),
            (lambda: raised(KeyboardInterrupt()), 1),
        ):
            assert betterbox.submit(fork_and, child).result(LONG) == ("parent", code)
        assert betterbox.map(fork_and, [lambda: None] * 20).result(LONG) == [("parent", 0)] * 20
        assert betterbox.options(reduce=fork_and_fold).map(abs, range(20)).result(LONG) == sum(range(20))
        assert [betterbox.submit(pow, 2, i).result(LONG) for i in range(50)] == [2**i for i in range(50)]


def test_a_child_of_a_box_does_not_answer_its_calls() -> None:
    with LocalCluster(slots=1):
        deploy(Forking, 8090)
        box = RemoteBox.connect(8090)
        for code in (0, 5, 6, 7):  # some of these through a lane
            assert box.fork(code).result(LONG) == ("parent", code)
        for code in ((), (5,)):
            assert box.fork_beside(*code).result(LONG) == ("parent", sum(code))
            assert box.fork_in_a_loop(*code).result(LONG) == ("parent", sum(code))
        assert box.pool().result(LONG) == [1, 2]


def test_a_child_of_a_box_of_a_script_does_not_answer_its_calls(scripts: Scripts) -> None:
    server = scripts.start(
        "server.py",
        """
        import multiprocessing, os, signal, sys, time
        import betterbox

        @betterbox.serve_box(8090)
        class Forking(betterbox.Box):
            def fork(self, code):
                pid = os.fork()
                if pid == 0:
                    sys.exit(code)
                return "parent", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

            def pool(self):
                with multiprocessing.get_context("fork").Pool(2) as pool:
                    return pool.map(abs, [-1, 2])

            def child_ends_by(self, number):
                pid = os.fork()
                if pid == 0:
                    signal.pause()
                    os._exit(77)
                os.kill(pid, number)
                return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

        if os.fork() == 0:  # a child of the script's own ends as any other
            sys.exit(0)
        os.wait()
        print("serving")
        """,
    )
    server.wait_for("serving")
    box = RemoteBox.connect(8090)
    for code in (0, 5, 6, 7):
        assert box.fork(code).result(LONG) == ("parent", code)
    assert box.pool().result(LONG) == [1, 2]
    assert box.child_ends_by(signal.SIGTERM).result(LONG) == -signal.SIGTERM
    assert server.end() == 0


def test_children_take_signals_as_everywhere(cluster: LocalCluster) -> None:
    heeded = betterbox.submit(what_children_heed, 0).result(LONG)
    assert heeded == {"fork": [], "subprocess": [], "posix_spawn": [], "exec": []}
    for number in (signal.SIGTERM, signal.SIGUSR1):
        assert betterbox.submit(children_end_by, number).result(LONG) == [-number, -number]
    # Python's own way with it, in a child that is Python, once it has that back
    forked, started = betterbox.submit(children_end_by, signal.SIGINT).result(LONG)
    assert forked in (1, -signal.SIGINT) and started == -signal.SIGINT
    assert betterbox.map(pool_of, range(5)).result(LONG) == [[1, 2]] * 5
    assert betterbox.submit(executor_of, 0).result(LONG) == [1, 2]
    assert betterbox.submit(interrupts_itself, 0).result(LONG) == "interrupted"
    for number in LEFT_TO_THE_WORKER:
        assert betterbox.submit(hears_nothing_of, int(number)).result(LONG)


def write_over(seed: int) -> str:
    """As a wild pointer would: some words of the memory that the slot shares with its worker."""
    import random

    draw = random.Random(seed)
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "memfd:betterbox-slot" not in line:
            continue
        begin, end = (int(x, 16) for x in line.split()[0].split("-"))
        for _ in range(4):
            at = draw.randrange(0, min(8192, end - begin) - 8) & ~7
            value = draw.choice([0, 1, 0xFF, (1 << 64) - 1, draw.getrandbits(64), 1 << draw.randrange(64)])
            ctypes.memmove(begin + at, value.to_bytes(8, "little"), 8)
    return "survived"


def test_a_slot_that_writes_over_its_memory_leaves_no_call_waiting() -> None:
    with LocalCluster(slots=1):
        for seed in range(40, 52):
            try:
                assert betterbox.options(retries=0).submit(write_over, seed).result(LONG) == "survived"
            except betterbox.PoisonedItemError:
                pass
            assert betterbox.map(abs, [-1, -2]).result(LONG) == [1, 2]
