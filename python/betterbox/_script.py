"""A script or a module that runs as ``__main__``, as ``python SCRIPT`` and ``python -m MODULE`` run it."""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType
from typing import Any

from betterbox._errors import BetterBoxError


class Program:
    """What ``betterbox run`` and ``betterbox mpi`` run.

    Parameters
    ----------
    name : str
        The path of the script, or the name of the module (of a package: its ``__main__``).
    arguments : list of str
        ``sys.argv[1:]`` of the program.
    module : bool
        Whether `name` is a module's.

    Raises
    ------
    BetterBoxError
        There is no such module, or none that could run.
    """

    def __init__(self, name: str, arguments: list[str], module: bool = False) -> None:
        self.name = name
        self._arguments = arguments
        self._spec: ModuleSpec | None = None
        sys.path[0:1] = [os.getcwd() if module else os.path.dirname(os.path.abspath(name))]
        if module:
            sys.argv = ["-m", *arguments]
            self._spec = _find_module(name)
        self._file = name if self._spec is None else self._spec.origin or self._spec.name

    def run(self) -> None:
        """Run it; its module stays as ``__main__``, for what it has left running. What it raises is raised."""
        sys.argv = [self._file, *self._arguments]
        main = ModuleType("__main__")
        main.__file__ = self._file
        main.__dict__["__builtins__"] = __builtins__
        if self._spec is not None:
            main.__spec__, main.__package__, main.__loader__ = self._spec, self._spec.parent, self._spec.loader
        code = self._code()
        sys.modules["__main__"] = main
        exec(code, main.__dict__)

    def _code(self) -> CodeType:
        if self._spec is not None:
            return _code_of(self._spec)
        with open(self.name, "rb") as stream:
            code: CodeType = compile(stream.read(), self.name, "exec")
        return code

    def show_error(self, error: BaseException) -> None:
        """As Python shows what a program has raised: from its own first line on."""
        frames = error.__traceback__
        while frames is not None and frames.tb_frame.f_code.co_filename != self._file:
            frames = frames.tb_next
        sys.excepthook(type(error), error.with_traceback(frames), frames)


def _code_of(spec: ModuleSpec) -> CodeType:
    loader: Any = spec.loader
    code: CodeType | None = loader.get_code(spec.name)
    if code is None:
        raise ImportError(f"{spec.name} has no code that could run", name=spec.name)
    return code


def _find_module(name: str) -> ModuleSpec:
    """A module that ``-m`` may name; the packages above it are imported."""
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            name = f"{name}.__main__"
            spec = importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        raise BetterBoxError(f"there is no module {name}: {error}") from error
    except ValueError as error:
        raise BetterBoxError(f"{name!r} names no module: {error}") from error
    except Exception as error:
        raise BetterBoxError(f"the packages around {name} cannot be imported: {type(error).__name__}: {error}") from error
    if spec is None:
        raise BetterBoxError(f"there is no module {name} in this folder or on the path of {sys.executable}")
    if not hasattr(spec.loader, "get_code"):
        raise BetterBoxError(f"{name} is no module of Python code, so it cannot run")
    return spec
