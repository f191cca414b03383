"""What an installed BetterBox must do, run by the Python it is installed for: no tree, no pytest, no compiler.

    python installed_programs.py FOLDER

FOLDER holds README.md, examples/ and api_program.py (tests/wheel_check.sh puts them there). One line for each that works;
exit code 1, and what was printed, at the first that does not.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

GIVEN = Path(sys.argv[1]).resolve()
PATIENCE = 120.0

KILLED = """
import os, sys
import betterbox

def work(x, mark):
    if x == 5:
        try:
            os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            pass
        else:
            os.kill(os.getpid(), 9)
    return x

with betterbox.LocalCluster(slots=2):
    print(betterbox.map(work, range(20), mark=sys.argv[1]).compute(sum), os.path.exists(sys.argv[1]))
"""

CALLS = """
import socket
import betterbox
ref = betterbox.put(list(range(1000)))
print(sorted(set(betterbox.map(lambda _: socket.gethostname(), range(20)).result(60))))
print(betterbox.submit(lambda values: sum(values), ref).result(60))
with betterbox.Executor() as executor:
    print(executor.submit(pow, 2, 10).result(60))
"""


class Fault(Exception):
    pass


class Programs:
    """Programs in a folder and a home of their own, which end with this."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {**os.environ, "BETTERBOX_HOME": str(folder / "home"), "PYTHONUNBUFFERED": "1"}
        self.env.pop("PYTHONPATH", None)
        self._running: list[tuple[subprocess.Popen[bytes], Path]] = []

    def start(self, *command: str) -> tuple[subprocess.Popen[bytes], Path]:
        output = self.folder / f"output-{len(self._running)}"
        with open(output, "wb") as stream:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, env=self.env, cwd=self.folder)
        self._running.append((process, output))
        return self._running[-1]

    def run(self, *command: str) -> str:
        process, output = self.start(*command)
        try:
            code = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise Fault(f"{' '.join(command)} did not end; it printed:\n{output.read_text()}") from None
        if code != 0:
            raise Fault(f"{' '.join(command)} ended with {code}; it printed:\n{output.read_text()}")
        return output.read_text()

    def python(self, text: str, *args: str) -> str:
        script = self.folder / f"script{len(self._running)}.py"
        script.write_text(text)
        return self.run(sys.executable, str(script), *args)

    def end(self) -> None:
        for process, _ in self._running:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process, output in self._running:
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                raise Fault(f"{process.args!r} did not end when asked to; it printed:\n{output.read_text()}") from None


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise Fault(f"timed out: {what}")
        time.sleep(0.02)


def same(got: str, wanted: str) -> None:
    if got.strip() != wanted:
        raise Fault(f"{wanted!r} was to be printed, but it was {got!r}")


# --- what must work -----------------------------------------------------------------------------------------


def the_program_says_its_version(programs: Programs) -> None:
    said = programs.run(betterbox_program(), "--version")
    if not re.search(r"\d+\.\d+", said):
        raise Fault(f"betterbox --version says {said!r}")


def the_readme_runs(programs: Programs) -> None:
    first = re.search(r"```python\n(.*?)```", (GIVEN / "README.md").read_text(), re.DOTALL)
    if first is None:
        raise Fault("README.md has no program")
    same(programs.python(first[1]), str(sum(300.0 * i for i in range(1000))))


def the_four_programs_run(programs: Programs) -> None:
    examples = GIVEN / "examples"
    programs.start(sys.executable, str(examples / "server.py"))
    client = [sys.executable, str(examples / "client.py")]
    wait_until(lambda: subprocess.run(client, env=programs.env, capture_output=True, timeout=PATIENCE).stdout == b"I m MyBox\n", "a box for client.py")
    relay, said = programs.start(sys.executable, str(examples / "relay.py"))
    wait_until(lambda: relay.poll() is not None or "I m MyBox" in said.read_text(), "relay.py")
    same(programs.python("from betterbox import RemoteBox\nprint(RemoteBox.connect(9090, timeout=60).name().result())"), "MyBox")
    same(programs.run(sys.executable, str(examples / "group.py")), "['MyBox']")


def a_kept_box_is_loaded_again(programs: Programs) -> None:
    kept = programs.folder / "home" / "boxes" / "abox"
    for _ in range(2):
        keeper, output = programs.start(sys.executable, str(GIVEN / "examples" / "keeper.py"))
        programs.python("from betterbox import RemoteBox\nRemoteBox.connect(8090, timeout=60)")
        keeper.send_signal(signal.SIGTERM)
        if keeper.wait(PATIENCE) != 0 or not (kept / "current").exists():
            raise Fault(f"keeper.py ended with {keeper.returncode}; it printed:\n{output.read_text()}")


def the_whole_interface_runs(programs: Programs) -> None:
    said = programs.run(sys.executable, str(GIVEN / "api_program.py"), "cluster", "kept")
    if not said.endswith("end\n"):
        raise Fault(f"api_program.py printed:\n{said}")


def an_item_whose_slot_is_killed_runs_again(programs: Programs) -> None:
    same(programs.python(KILLED, str(programs.folder / "mark")), "190 True")


def a_bus_of_two_hosts_works(programs: Programs) -> None:
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "--uts", "true"], capture_output=True).returncode != 0:
        raise NotImplementedError("hosts need namespaces, and those need root")
    bus = programs.folder / "shared" / "bus.json"
    bus.parent.mkdir(mode=0o700)
    programs.start(betterbox_program(), "scheduler", "--bus", str(bus), "--interface", "lo")
    wait_until(bus.exists, "a bus file")
    programs.env.update(BETTERBOX_BUS=str(bus), BETTERBOX_INTERFACE="lo")
    start = ["--uts", "sh", "-c", 'hostname "$0"; exec "$@"', "far", betterbox_program(), "worker", "--slots", "2"]
    programs.start(unshare, *start)
    same(programs.python(CALLS), "['far']\n499500\n1024")


def betterbox_program() -> str:
    """The program beside this Python, or where ``pip install --user`` puts it."""
    places = [Path(sys.executable).parent, Path.home() / ".local" / "bin", Path("/usr/local/bin")]
    found = next((place / "betterbox" for place in places if (place / "betterbox").exists()), None)
    if found is None:
        raise Fault(f"there is no program betterbox in {', '.join(map(str, places))}")
    return str(found)


def main() -> int:
    import betterbox

    print(f"Python {sys.version.split()[0]} of {sys.executable}; {betterbox.__file__}", flush=True)
    for check in (
        the_program_says_its_version,
        the_readme_runs,
        the_four_programs_run,
        a_kept_box_is_loaded_again,
        the_whole_interface_runs,
        an_item_whose_slot_is_killed_runs_again,
        a_bus_of_two_hosts_works,
    ):
        began = time.monotonic()
        name = check.__name__.replace("_", " ")
        with tempfile.TemporaryDirectory(prefix="bb", ignore_cleanup_errors=True) as folder:
            programs = Programs(Path(folder))
            try:
                check(programs)
                programs.end()
            except NotImplementedError as error:
                print(f"  skipped  {name}: {error}", flush=True)
            except Fault as fault:
                print(f"  FAILED   {name}: {fault}", flush=True)
                programs.end()
                return 1
            else:
                print(f"  ok       {name} ({time.monotonic() - began:.1f} s)", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
