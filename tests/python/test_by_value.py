"""Classes, errors and paths of a script: what goes out and comes home is the script's own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import betterbox
import pytest
from betterbox import BetterBoxError, SerializationError, _by_value
from betterbox._deploy import find_class, init_failure, make_payload
from helpers import Scripts

HERE = Path(__file__).parent


@pytest.mark.parametrize("program", ["classes_program.py", "errors_program.py", "paths_program.py"])
def test_what_a_script_defines_makes_its_trips_unharmed(scripts: Scripts, program: str) -> None:
    running = scripts.command(str(HERE / program))
    assert running.wait() == 0, running.output
    assert running.output == "ok\n"


def test_proxies_of_a_manager_work_in_slots_and_bring_proxies(scripts: Scripts) -> None:
    text = """
        import multiprocessing
        import betterbox

        def use(shared, queue, outer, key):
            shared[key] = key * key
            outer[0]["inner"] = "written"
            queue.put(key)
            return shared

        if __name__ == "__main__":
            with multiprocessing.Manager() as manager, betterbox.LocalCluster(slots=2):
                shared, queue, event = manager.dict(), manager.Queue(), manager.Event()
                inner = manager.dict()
                outer = manager.list([inner])
                back = betterbox.map(use, [shared] * 3, [queue] * 3, [outer] * 3, [1, 2, 3]).all(20)
                assert dict(shared) == dict(back[0]) == {1: 1, 2: 4, 3: 9}
                assert sorted(queue.get() for _ in range(3)) == [1, 2, 3] and inner["inner"] == "written"
                betterbox.submit(lambda: event.set()).result(20)
                assert event.is_set()
                class Box(betterbox.Box):
                    def set(self, shared):
                        shared["box"] = 1
                with betterbox.serve(Box, 8090), betterbox.deploy(Box, 8091):
                    for port in (8090, 8091):
                        betterbox.RemoteBox.connect(port).set(shared).result(20)
                        assert shared.pop("box") == 1
            print("ok")
        """
    assert scripts.run("proxies.py", text) == "ok\n"


@pytest.mark.parametrize("how", ["names that are no UTF-8", "an ASCII locale", "no standard descriptors"])
def test_names_of_the_system_and_closed_descriptors_do_no_harm(scripts: Scripts, home: Path, how: str) -> None:
    folder = os.fsencode(home.parent) + b"/caf\xe9"
    os.mkdir(folder)
    script = folder + b"/caf\xe9.py"
    text = """
        import os, sys, betterbox

        def look(x, **named):
            return x, sorted(named), os.getcwd()

        look.__name__ = "caf\\udce9"
        with betterbox.LocalCluster(slots=1):
            assert betterbox.submit(look, 1, **{"k\\udce9": 2}).result(20) == (1, ["k\\udce9"], os.getcwd())
            assert betterbox.map(look, [1]).result(20) == [(1, [], os.getcwd())]
            try:
                betterbox.submit(open, "/nope/caf\\udce9").result(20)
            except FileNotFoundError as error:
                assert error.filename == "/nope/caf\\udce9"
            class Box(betterbox.Box):
                def look(self, **named):
                    return list(named)
            with betterbox.serve(Box, 8090):
                assert betterbox.RemoteBox.connect(8090).look(**{"k\\udce9": 1}).result(20) == ["k\\udce9"]
        os.write(int(sys.argv[1]), b"ok")
        """
    with open(script, "w") as file:
        file.write(textwrap.dedent(text))
    environment = {**os.environb, b"PYTHONPATH": os.fsencode(Path(betterbox.__file__).parent.parent)}
    if how != "no standard descriptors":
        environment[b"BETTERBOX_HOME"] = environment[b"XDG_RUNTIME_DIR"] = folder
    os.chmod(folder, 0o700)
    if how == "an ASCII locale":
        environment.update({b"LC_ALL": b"C", b"PYTHONUTF8": b"0"})
    closing = "exec 0<&- 1>&- 2>&-; " if how == "no standard descriptors" else ""
    ready, done = os.pipe()
    command = ["sh", "-c", closing + 'exec "$0" "$@"', sys.executable, script, str(done)]
    process = subprocess.Popen(command, env=environment, cwd=folder, pass_fds=[done])
    os.close(done)
    try:
        with open(ready, "rb") as stream:
            said = stream.read()
    finally:
        code = process.wait()
    assert (code, said) == (0, b"ok")


def test_code_of_another_python_is_refused_by_name(cluster: betterbox.LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Byte code of another minor version may crash its interpreter."""
    monkeypatch.setattr(_by_value, "_PYTHON", "3.9")
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    with pytest.raises(SerializationError, match=f"of Python 3.9, and what it came to runs Python {here}"):
        betterbox.submit(lambda x: x, 1).result()
    with pytest.raises(SerializationError, match="of Python 3.9"):
        betterbox.map(abs, [lambda: 1]).result()
    assert betterbox.submit(abs, -1).result() == 1, "what has a name needs no code"


def test_a_class_that_cannot_be_served_is_told_why_and_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, text, told in (
        ("raises", "raise ValueError('no data yet')", r"raises cannot be imported: ValueError: no data yet \(.*raises.py, line 1\)"),
        ("indirect", "import raises", r"indirect cannot be imported: ValueError: .*raises.py, line 1"),
        ("leaves", "import sys\nsys.exit(4)", r"leaves ended the program .*leaves.py, line 2\): SystemExit\(4\)"),
        ("wrong", "def f(:", r"wrong cannot be imported: SyntaxError: .*wrong.py, line 1"),
        ("lacks", "import nowhere", r"lacks cannot be imported: ModuleNotFoundError: .*'nowhere' \(.*lacks.py, line 1"),
        ("other", "import betterbox\nclass Thingy(betterbox.Box): pass", r"other.py\) has no class 'Thing'; did you mean 'Thingy'"),
        ("plain", "class Thing: pass", r"plain:Thing cannot be served: .*derived from Box"),
        ("odd", "import sys\nclass Odd:\n def __getattr__(self, _): 1 / 0\nsys.modules['odd'] = Odd()", r"^module odd .* has no"),
        ("gone", None, r"^there is no module gone in "),
        ("./plain.py", None, r"^./plain.py is no name of a module"),
    ):
        if text is not None:
            (tmp_path / f"{name}.py").write_text(text)
        with pytest.raises(BetterBoxError, match=told) as caught:
            find_class(f"{name}:Thing", on_slot=False)
        assert "slot" not in str(caught.value) and "ship=" not in str(caught.value)
        sys.modules.pop(name, None)
    try:
        exec(compile("raise ValueError('no data yet')", "box.py", "exec"))
    except ValueError as error:
        told = init_failure(make_payload("box:Thing"), error)
        assert str(told) == "box:Thing cannot be served: ValueError: no data yet (box.py, line 1)"
        assert init_failure(make_payload(error), error) is error


def test_pytest_shows_none_of_our_frames(cluster: betterbox.LocalCluster) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: betterbox.submit(divmod, 1, 0).result(),
        lambda: betterbox.map(divmod, [1], [0]).result(),
        lambda: betterbox.submit(abs, (x for x in ())),
        lambda: betterbox.map(abs, [(x for x in ())]),
        lambda: betterbox.submit(None),
    ]
    for call in calls:
        with pytest.raises(Exception) as caught:  # noqa: B017
            call()
        shown = [str(entry.path) for entry in caught.traceback if not entry.frame.f_globals.get("__tracebackhide__")]
        assert set(shown) == {__file__}, shown
