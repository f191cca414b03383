"""A persistent box's state on disk: atomic, checksummed, two generations, one owner.

A generation is a file: 8 bytes magic, 32 bytes SHA-256 of the rest, 8 bytes length (little-endian), the pickle.
``current`` is replaced by a rename, after what it held has become ``previous``; so whenever a process is killed, one of
the two is whole. Nothing is unpickled that another user may have written: folder and files are checked when they are
opened (runtime/own_files.h). The owner holds a lock on ``lock``, in which it writes its host and pid; the kernel gives it back when
the owner dies.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import pickle
import re
import weakref
from time import monotonic, sleep
from typing import Any

from betterbox import _core, _pickling, _settings, _warned
from betterbox._errors import BusError, StateError
from betterbox._labels import host_name

__tracebackhide__ = True  # pytest shows the user's lines

MAGIC = b"BBSTATE1"
LIVENESS_BOUND = 5.0  # seconds: kLivenessBound in runtime/limits.h
_HEADER = len(MAGIC) + 32 + 8
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_MISSING = object()
_open_stores: weakref.WeakSet[Store] = weakref.WeakSet()


def check_name(name: object) -> None:
    """Raise unless `name` can name a folder of state."""
    if not isinstance(name, str):
        raise TypeError(f"persist needs a name, @persist('mybox'), not {name!r}")
    if not _NAME.fullmatch(name) or len(name) > 200:
        raise ValueError(f"{name!r} cannot name a box's state: use letters, digits, '.', '-' and '_'")


class Store:
    """The state under one name, owned by this process until `close`.

    Parameters
    ----------
    name : str
        See `persist`.
    wait : float
        Seconds to wait for another owner to be gone.

    Raises
    ------
    StateError
        If somebody else owns it, or the folder cannot be used.
    """

    def __init__(self, name: str, wait: float = LIVENESS_BOUND) -> None:
        check_name(name)
        self.name = name
        self.folder = os.path.join(_settings.home_path(), "boxes", name)
        self._saved_digest = b""
        self._lock_fd = -1
        try:
            _settings.own_folder("boxes", name)
            self._lock_fd = _core.open_own_file(self._path("lock"), os.O_RDWR | os.O_CREAT)
        except (BusError, OSError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise StateError(f"the state of box {name!r} in {self.folder} cannot be used: {why}") from None
        try:
            self._take_lock(wait)
        except BaseException:
            self.close()
            raise
        _open_stores.add(self)

    def _take_lock(self, wait: float) -> None:
        deadline = monotonic() + wait
        while True:
            try:
                fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if monotonic() >= deadline:
                    raise StateError(
                        f"the state of box {self.name!r} ({self.folder}) belongs to {self._owner()}; "
                        f"stop that process, or use another name"
                    ) from None
                sleep(0.02)  # the kernel tells nobody when a lock is free
        os.ftruncate(self._lock_fd, 0)
        os.pwrite(self._lock_fd, f"{host_name()} {os.getpid()}\n".encode(), 0)

    def _owner(self) -> str:
        text = os.pread(self._lock_fd, 300, 0).decode(errors="replace").split()
        return f"pid {text[1]} on {text[0]}" if len(text) == 2 else "another process"

    def _path(self, file: str) -> str:
        return os.path.join(self.folder, file)

    # --- loading ---

    def load_into(self, box: Any) -> bool:
        """Give `box` its state; False if there is none yet.

        Raises
        ------
        StateError
            If neither generation is whole, or the state cannot be unpickled.
        """
        state = self._load()
        if state is _MISSING:
            return False
        if hasattr(type(box), "__setstate__"):
            box.__setstate__(state)
        elif isinstance(state, tuple) and len(state) == 2:
            vars(box).update(state[0] or {})
            for slot, value in (state[1] or {}).items():
                setattr(box, slot, value)
        elif state:
            vars(box).update(state)
        return True

    def _load(self) -> Any:
        problems = []
        for file in ("current", "previous"):
            try:
                data = self._read(file)
            except FileNotFoundError:
                continue
            except BusError as error:
                raise StateError(f"the state of box {self.name!r} is not loaded, for others may have written it: {error}") from None
            except (OSError, ValueError) as error:
                problems.append(f"{file}: {error}")
                continue
            try:
                state = _loaded(data)
            except Exception as error:
                raise StateError(
                    f"the state of box {self.name!r} ({self._path(file)}) is whole but cannot be unpickled here: "
                    f"{type(error).__name__}: {error}"
                ) from error
            if problems:
                _warned.warn(
                    f"the state of box {self.name!r} was damaged ({'; '.join(problems)}); "
                    f"the previous generation was loaded",
                    RuntimeWarning,
                )
            return state
        if problems:
            raise StateError(
                f"the state of box {self.name!r} in {self.folder} is damaged ({'; '.join(problems)}); "
                f"restore the folder from a backup, or remove it to begin anew"
            )
        return _MISSING

    def _read(self, file: str) -> bytes:
        with open(_core.open_own_file(self._path(file), os.O_RDONLY), "rb") as stream:
            content = stream.read()
        if len(content) < _HEADER or content[:8] != MAGIC:
            raise ValueError("it is no state file")
        digest, length, data = content[8:40], int.from_bytes(content[40:48], "little"), content[48:]
        if len(data) != length:
            raise ValueError(f"it holds {len(data)} of {length} bytes")
        if hashlib.sha256(content[40:]).digest() != digest:
            raise ValueError("its checksum is wrong")
        return data

    # --- saving ---

    def save(self, box: Any) -> None:
        """Write the box's state as the new current generation, if it has changed.

        Raises
        ------
        SerializationError
            If the state cannot be pickled.
        StateError
            If it cannot be written; what was saved before stays.
        """
        data = _pickling.dumps(state_of(box), f"{type(box).__qualname__} state")
        body = len(data).to_bytes(8, "little") + data
        digest = hashlib.sha256(body).digest()
        if digest == self._saved_digest:
            return
        try:
            self._write(MAGIC + digest + body)
        except (OSError, BusError) as error:
            self._remove("next")
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise StateError(
                f"the state of box {self.name!r} could not be saved in {self.folder}: {why}; "
                f"what was saved before is still there"
            ) from error
        self._saved_digest = digest

    def _write(self, content: bytes) -> None:
        self._remove("next")
        fd = _core.open_own_file(self._path("next"), os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        try:
            os.rename(self._path("current"), self._path("previous"))
        except FileNotFoundError:
            pass  # the first save; or the one before was killed right here
        os.rename(self._path("next"), self._path("current"))
        folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _remove(self, file: str) -> None:
        try:
            os.unlink(self._path(file))
        except FileNotFoundError:
            pass

    def close(self) -> None:
        """Give up ownership. Idempotent."""
        fd, self._lock_fd = self._lock_fd, -1
        if fd >= 0:
            os.close(fd)
        _open_stores.discard(self)


def state_of(box: Any) -> Any:
    """What is saved of a box: ``__getstate__()`` if its class has one, else its attributes."""
    for kind in type(box).__mro__:
        if kind is not object and "__getstate__" in kind.__dict__:
            return box.__getstate__()
    return {name: value for name, value in vars(box).items() if name != "_betterbox_link"}


def _after_fork() -> None:
    for store in list(_open_stores):
        store.close()  # a child must not keep its parent's ownership alive


os.register_at_fork(after_in_child=_after_fork)


def _loaded(data: bytes) -> Any:
    if b"betterbox._by_value" not in data:
        return pickle.loads(data)
    from betterbox._by_value import loads_of_an_earlier_run

    return loads_of_an_earlier_run(data)
