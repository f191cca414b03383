"""`import betterbox` is light, and every public name is there."""

from __future__ import annotations

import subprocess
import sys

import betterbox


def test_every_public_name_loads() -> None:
    for name in betterbox.__all__:
        assert getattr(betterbox, name) is not None


def test_importing_loads_nothing_slow() -> None:
    program = "import sys; before = set(sys.modules); import betterbox; print(*(set(sys.modules) - before))"
    loaded = set(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split())
    slow = {"asyncio", "cloudpickle", "numpy", "concurrent.futures", "argparse", "multiprocessing", "logging", "subprocess"}
    assert not loaded & slow


def test_the_classes_of_a_server_load_nothing_slow() -> None:
    program = "import sys; before = set(sys.modules); from betterbox import Box, RemoteBox, serve_box, use_box; print(*(set(sys.modules) - before))"
    loaded = set(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split())
    slow = {"asyncio", "cloudpickle", "numpy", "concurrent.futures", "argparse", "multiprocessing", "logging", "subprocess"}
    assert not loaded & slow


def test_errors_are_also_what_the_standard_library_calls_them() -> None:
    import concurrent.futures

    assert issubclass(betterbox.CallTimeoutError, TimeoutError)
    assert issubclass(betterbox.CallCancelledError, concurrent.futures.CancelledError)
    for name in betterbox.__all__:
        if name.endswith("Error"):
            assert issubclass(getattr(betterbox, name), betterbox.BetterBoxError)
