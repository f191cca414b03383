"""The process in which one peer lives: does what the harness asks, a line of JSON each, until its input ends.

Commands come by standard input, answers leave by the descriptor that the harness names: whatever a library prints goes
to the log. Its end is the peer's end: whatever the library has left behind ends before it does.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from typing import Any

from comparing import processes
from comparing.adapter import NotOffered, Peer
from comparing.cases import CASES


def load(target: str, slots: int) -> Peer:
    module, _, name = target.partition(":")
    made: Peer = getattr(importlib.import_module(module), name)(slots)
    return made


def perform(peer: Peer, case: str, size: dict[str, Any], started: bool) -> dict[str, Any]:
    """Runs a case; the answer to it."""
    own = getattr(peer, "case_" + case.replace("-", "_"), None)
    if own is None and case == "start":
        return CASES[case].run(peer, size)
    if not started:
        peer.start()
    return own(size) if own is not None else CASES[case].run(peer, size)


def main(argv: list[str]) -> int:
    processes.adopt_orphans()
    target, slots, answers_fd = argv[0], int(argv[1]), int(argv[2])
    # The programs of a virtual environment's packages are found as if it had been activated (Parsl starts some).
    os.environ["PATH"] = os.pathsep.join((os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)))
    commands = os.fdopen(os.dup(0), encoding="utf-8")
    os.set_inheritable(answers_fd, False)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    answers = os.fdopen(answers_fd, "w", encoding="utf-8")
    peer: Peer | None = None
    started = False
    for line in commands:
        command = json.loads(line)
        if command["do"] == "stop":
            break
        try:
            peer = peer or load(target, slots)
            answer = {"figures": perform(peer, command["case"], command["size"], started)}
            started = True
        except NotOffered:
            started = True
            answer = {"not_offered": True}
        except ModuleNotFoundError as error:
            answer = {"absent": f"{error}"}
        except BaseException as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    try:
        if peer is not None:
            peer.stop()
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    processes.end(os.environ[processes.MARK])  # this process too: its threads must not hold it up


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
