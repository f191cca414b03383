"""State on disk: generations, checksums, owners."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from betterbox import Box, SerializationError, StateError
from betterbox._persist import Store


class Holder(Box):
    value: Any


def saved(store: Store, value: Any) -> None:
    box = Holder()
    box.value = value
    store.save(box)


def loaded(store: Store) -> Any:
    box = Holder()
    assert store.load_into(box)
    return box.value


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_a_new_name_has_no_state() -> None:
    store = Store("fresh")
    assert not store.load_into(Holder())
    store.close()


def test_state_survives_its_owner(home: Path) -> None:
    first = Store("a")
    saved(first, {"n": 1})
    first.close()
    second = Store("a")
    assert loaded(second) == {"n": 1}
    second.close()


def test_the_previous_generation_stands_in_for_a_damaged_one(home: Path) -> None:
    store = Store("a")
    saved(store, 1)
    saved(store, 2)
    damage(home / "boxes/a/current")
    with pytest.warns(RuntimeWarning, match="previous generation"):
        assert loaded(store) == 1
    store.close()


@pytest.mark.parametrize("cut", [0, 7, 47, 50])
def test_a_truncated_state_is_noticed(home: Path, cut: int) -> None:
    store = Store("a")
    saved(store, 1)
    saved(store, 2)
    path = home / "boxes/a/current"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.warns(RuntimeWarning):
        assert loaded(store) == 1
    store.close()


def test_two_damaged_generations_are_an_error(home: Path) -> None:
    store = Store("a")
    saved(store, 1)
    saved(store, 2)
    damage(home / "boxes/a/current")
    damage(home / "boxes/a/previous")
    with pytest.raises(StateError, match="damaged.*backup"):
        store.load_into(Holder())
    store.close()


def test_a_full_disk_leaves_the_old_state(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store("a")
    saved(store, 1)

    def full(fd: int, data: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(StateError, match="No space left"):
            saved(store, 2)
    assert loaded(store) == 1
    assert not (home / "boxes/a/next").exists()
    store.close()


def test_a_second_owner_is_refused_by_name() -> None:
    first = Store("a")
    with pytest.raises(StateError, match=f"pid {os.getpid()} on {os.uname().nodename}"):
        Store("a", wait=0.05)
    first.close()
    Store("a", wait=0).close()


def test_a_forked_child_does_not_keep_the_state() -> None:
    first = Store("a")
    pid = os.fork()
    if pid == 0:
        while True:
            signal.pause()  # until it is killed below
    try:
        first.close()
        Store("a", wait=5).close()
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def test_unpicklable_state_names_the_culprit() -> None:
    store = Store("a")
    with pytest.raises(SerializationError, match=r"Holder state\['value'\]"):
        saved(store, (x for x in ()))
    store.close()


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "x" * 300])
def test_names_that_are_no_folder_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError):
        Store(name)


def test_getstate_and_setstate_are_used() -> None:
    class Custom(Box):
        def __init__(self) -> None:
            self.n = 1

        def __getstate__(self) -> Any:
            return ["n", self.n]

        def __setstate__(self, state: Any) -> None:
            self.n = state[1] * 10

    store = Store("a")
    store.save(Custom())
    box = Custom()
    store.load_into(box)
    assert box.n == 10
    store.close()


class Trap:
    """Unpickled, it tells."""

    sprung = 0

    def __reduce__(self) -> Any:
        return _spring, ()


def _spring() -> None:
    Trap.sprung += 1


def _give_away(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to give a file away")
    os.chown(path, 12345, 12345, follow_symlinks=False)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: folder.chmod(0o777), "chmod 700"),
        (lambda folder: folder.chmod(0o770), "chmod 700"),
        (lambda folder: folder.parent.chmod(0o777), "chmod 700"),
        (lambda folder: folder.parent.parent.chmod(0o777), "chmod 700"),
        (lambda folder: (folder / "current").chmod(0o666), "chmod 600"),
        (lambda folder: os.link(folder / "current", folder / "more"), "2 names"),
        (lambda folder: _give_away(folder / "current"), "belongs to user 12345"),
        (lambda folder: _give_away(folder), "belongs to user 12345"),
        (lambda folder: _give_away(folder.parent.parent), "belongs to user 12345"),
        (lambda folder: (folder / "current").rename(folder / "it") and (folder / "current").symlink_to("it"), "is a link"),
        (lambda folder: (folder / "lock").unlink() or (folder / "lock").symlink_to("it"), "is a link"),
    ],
)
def test_state_that_others_may_have_written_is_not_unpickled(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Any, said: str
) -> None:
    monkeypatch.setenv("BETTERBOX_HOME", str(tmp_path / "spoilt"))
    store = Store("a")
    saved(store, Trap())
    store.close()
    spoil(Path(store.folder))
    Trap.sprung = 0
    with pytest.raises(StateError, match=said):
        again = Store("a", wait=0)
        try:
            again.load_into(Holder())
        finally:
            again.close()
    assert Trap.sprung == 0


def test_killed_at_any_moment_of_a_save_one_generation_is_whole(home: Path) -> None:
    """Kills a saver at each of its system calls that change the folder."""
    program = """
import os, sys
from betterbox import Box
from betterbox._persist import Store
class Holder(Box): pass
step, calls = int(sys.argv[1]), [0]
store = Store("a")
box = Holder()
box.value = 1
store.save(box)
def killing(name):
    real = getattr(os, name)
    def call(*args, **kwargs):
        calls[0] += 1
        if calls[0] == step:
            os.kill(os.getpid(), 9)
        return real(*args, **kwargs)
    setattr(os, name, call)
for name in ("open", "write", "fsync", "rename", "unlink", "close"):
    killing(name)
box.value = 2
store.save(box)
print("saved")
"""
    outcomes = []
    for step in range(1, 30):
        done = subprocess.run([sys.executable, "-c", program, str(step)], capture_output=True, text=True)
        store = Store("a", wait=5)
        outcomes.append(loaded(store))
        store.close()
        if "saved" in done.stdout:
            break
        assert done.returncode == -9, done.stderr
    assert outcomes[0] == 1 and outcomes[-1] == 2 and set(outcomes) == {1, 2}


def test_classes_of_the_script_that_are_in_a_state_are_its_own_in_the_next_run(scripts: Scripts) -> None:
    text = """
        import dataclasses, enum, sys
        from betterbox import Box, RemoteBox, LocalCluster, persist, serve

        class Phase(enum.Enum):
            COLD = 1
            WARM = 2

        @dataclasses.dataclass
        class Point:
            x: int = 1

        @persist("holder")
        class Holder(Box):
            def __init__(self):
                self.kept = None

            def keep(self):
                self.kept = [Point(5), Phase.WARM]

            def look(self):
                point, phase = self.kept
                return isinstance(point, Point) and phase is Phase.WARM and dataclasses.asdict(point) == {"x": 5}

        with LocalCluster(slots=1), serve(Holder, 8090):
            box = RemoteBox.connect(8090)
            if sys.argv[1] == "keep":
                box.keep().result(20)
            print(box.look().result(20))
        """
    assert scripts.run("holder.py", text, "keep") == "True\n"
    assert scripts.run("holder.py", text, "look") == "True\n"
