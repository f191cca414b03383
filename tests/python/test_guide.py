"""docs/guide.md is a program: it runs from top to bottom and prints what it says."""

from __future__ import annotations

import re
from pathlib import Path

from helpers import Scripts

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guide.md"


def test_the_guide_prints_what_it_says(scripts: Scripts) -> None:
    text = GUIDE.read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    program = "\n".join(blocks)
    printed = scripts.run("guide.py", program).splitlines()
    assert printed == re.findall(r"# -> (.*)$", program, re.MULTILINE)
