"""The template: a worker's warm interpreter, from which slots are forked.

A worker starts it with the user's interpreter (worker/template_process.cc). It imports what every slot needs, and runs
the native loop that forks (worker/template_loop.h) until its worker is gone.
"""

from __future__ import annotations

import gc
import importlib
import os
import struct
import sys
import traceback
from typing import NoReturn

from betterbox import _core, _registry, _surroundings

_BROKEN = struct.Struct("IIIiiiQ")  # worker/template_messages.h: TemplateReport, of which only the kind is said
_KIND_BROKEN = 4
_MOST_TEXT = 1024


def run(control: str, bell: str, version: str, interpreter: str, follow: str, socket: str, preload: str) -> None:
    """Run the template; returns in each slot once that has ended.

    Parameters
    ----------
    control, bell : str
        Descriptors: the socket to the worker, and what slots ring.
    version : str
        The worker's.
    interpreter : str
        The key by which calls name this interpreter (see `_interpreter.identity`); 0: not told.
    follow : str
        Not empty: slots have all of their client's environment and limits, where it is on this host.
    socket : str
        The worker's socket, removed when the worker is gone; may be empty.
    preload : str
        Modules that slots start with, with commas between them.
    """
    with open("/proc/thread-self/comm", "w") as comm:  # what ps calls it
        comm.write("betterbox-tmpl")
    control_fd, bell_fd = int(control), int(bell)
    for descriptor in (control_fd, bell_fd):
        os.set_inheritable(descriptor, False)
    if version != _core.version:
        _give_up(control_fd, f"{sys.executable} has betterbox {_core.version}, and the worker is {version}")
    _clear_main()
    for name in _surroundings.THREAD_COUNTS:  # before anything that reads them is imported
        os.environb.setdefault(name, b"1")
    _surroundings.begin(int(interpreter), bool(follow))
    _registry.recording = True  # modules that are preloaded must not serve
    try:
        import cloudpickle  # noqa: F401

        from betterbox import _slot  # noqa: F401
    except BaseException as error:
        traceback.print_exc()
        _give_up(control_fd, f"the worker's Python, {sys.executable}, lacks what slots need: {type(error).__name__}: {error}")
    _preload([name for name in preload.split(",") if name])
    if _threads() > 1:
        if not preload:
            _give_up(control_fd, f"a thread was started while {sys.executable} imported betterbox")
        _start_over(control_fd, bell_fd)
    # What is here stays for as long as the slot: the collector of a slot need not walk it, nor write to its pages.
    gc.freeze()
    if _core.template_main(control_fd, bell_fd, socket):
        os._exit(0)


def _clear_main() -> None:
    """What user code finds in ``__main__`` is as in a script that does nothing."""
    main = sys.modules["__main__"].__dict__
    for name in [name for name in main if not name.startswith("__")]:
        del main[name]
    sys.argv[:] = ["betterbox-slot"]


def _preload(names: list[str]) -> None:
    for name in names:
        try:
            importlib.import_module(name)
        except BaseException:
            print(f"betterbox-worker: preload of {name} failed", file=sys.stderr)
            traceback.print_exc()


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))


def _start_over(control_fd: int, bell_fd: int) -> NoReturn:
    """A process with threads cannot be forked safely: the same again, without preloaded modules."""
    print("betterbox-worker: a preloaded module started a thread; slots start without preload", file=sys.stderr, flush=True)
    command = list(sys.orig_argv)
    command[-1] = ""
    for descriptor in (control_fd, bell_fd):
        os.set_inheritable(descriptor, True)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        _give_up(control_fd, f"the template cannot be started again without preload: {error.strerror}")


def _give_up(control_fd: int, text: str) -> NoReturn:
    """Nothing was said on the socket before, so it takes this at once."""
    os.write(control_fd, _BROKEN.pack(_KIND_BROKEN, 0, 0, 0, 0, 0, 0) + text.encode(errors="replace")[:_MOST_TEXT])
    os._exit(1)
