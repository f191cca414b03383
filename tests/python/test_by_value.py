"""Classes, errors and paths of a script: what goes out and comes home is the script's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import Scripts

HERE = Path(__file__).parent


@pytest.mark.parametrize("program", ["classes_program.py", "errors_program.py"])
def test_what_a_script_defines_makes_its_trips_unharmed(scripts: Scripts, program: str) -> None:
    running = scripts.command(str(HERE / program))
    assert running.wait() == 0, running.output
    assert running.output == "ok\n"
