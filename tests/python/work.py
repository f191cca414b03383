"""Functions and classes that tests send to slots."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from betterbox import Box, SandBox, concurrent, private


def noop(x: Any) -> Any:
    return x


def double(x: int) -> int:
    return 2 * x


def add(a: Any, b: Any) -> Any:
    return a + b


def join(*parts: Any, sep: str = "-") -> str:
    return sep.join(str(part) for part in parts)


def raise_at(x: int, bad: int) -> int:
    if x == bad:
        raise ValueError(f"bad {x}")
    return x


def exit_at(x: int, bad: int) -> int:
    if x == bad:
        os._exit(7)
    return x


def segfault_at(x: int, bad: int) -> int:
    if x == bad:
        os.write(2, b"about to fall\n")
        os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(60)
    return x


def system_exit(x: int) -> None:
    raise SystemExit(x)


def unpicklable_at(x: int, bad: int) -> Any:
    return (y for y in ()) if x == bad else x


class StrangeError(Exception):
    """Cannot be rebuilt by a call with its args."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def raise_strange(_: Any) -> None:
    raise StrangeError(1, 2)


def raise_unpicklable(_: Any) -> None:
    error = ValueError("holds a generator")
    error.detail = (x for x in ())  # type: ignore[attr-defined]
    raise error


def wait_for_file(path: str) -> str:
    while not Path(path).exists():
        time.sleep(0.01)
    return path


def hold_memory(mebibytes: int, path: str) -> int:
    taken = bytearray(b"x") * (mebibytes << 20)
    wait_for_file(path)
    return len(taken) >> 20


def touch_and_wait(path: str) -> None:
    Path(path).touch()
    while True:
        time.sleep(0.01)


def pid(_: Any = None) -> int:
    return os.getpid()


def draw(_: Any) -> float:
    import random

    return random.random()


class Tester(Box):
    """A box that does whatever a test needs."""

    def __init__(self) -> None:
        self.log: list[Any] = []

    def name(self) -> str:
        return "MyBox"

    def pid(self) -> int:
        return os.getpid()

    def echo(self, *args: Any, **kwargs: Any) -> Any:
        return args[0] if len(args) == 1 and not kwargs else (args, kwargs)

    def append_to(self, seen: list[Any], item: Any) -> int:
        seen.append(item)
        return len(seen)

    def note(self, value: Any) -> None:
        self.log.append(value)

    def notes(self) -> list[Any]:
        return self.log

    def fail(self, text: str) -> None:
        raise KeyError(text)

    def die(self) -> None:
        os._exit(3)

    def leave(self) -> None:
        raise SystemExit(3)

    def wait(self, path: str) -> str:
        return wait_for_file(path)

    @concurrent
    def beside(self) -> int:
        return len(self.log)

    async def later(self, value: Any) -> Any:
        import asyncio

        await asyncio.sleep(0)
        return value

    def energy(self, x: float, temperature: float = 0.0) -> float:
        return x + temperature

    @private
    def hidden(self) -> None: ...


class Sand(SandBox):
    def own(self) -> str:
        return "own"


def log_after(item: tuple[str, str, str]) -> None:
    """Notes that it began; ends once there is a file `gate`."""
    text, log, gate = item
    with open(log, "a") as stream:
        stream.write(text + "\n")
    while not os.path.exists(gate):
        time.sleep(0.001)
    time.sleep(0.0005)


def alone(path: str) -> bool:
    """True if nobody else is in here with the same path."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    time.sleep(0.005)
    os.unlink(path)
    return True


def devices_after_a_moment(_: int) -> tuple[str, int]:
    time.sleep(0.01)
    return os.environ.get("CUDA_VISIBLE_DEVICES", ""), os.getpid()


def hang_once_at_399(item: tuple[int, str]) -> int:
    """The last item hangs where it runs first."""
    x, hung = item
    time.sleep(0.002)
    if x == 399:
        try:
            os.close(os.open(hung, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return x
        time.sleep(600)
    return x
