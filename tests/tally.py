"""Adds up JUnit reports: ``python3 tests/tally.py FOLDER``; the last line is ``N passed, N failed``.

The exit code is 0 if something passed and nothing failed. A report that cannot be read counts as a failure.
"""

from __future__ import annotations

import collections
import pathlib
import sys
import xml.etree.ElementTree as ElementTree


def outcome(case: ElementTree.Element) -> str:
    """passed, failed or skipped: CTest writes a status, pytest only elements."""
    if case.find("failure") is not None or case.find("error") is not None or case.get("status") == "fail":
        return "failed"
    if case.find("skipped") is not None or case.get("status") in ("notrun", "disabled"):
        return "skipped"
    return "passed"


class Tally:
    """Names of the test cases of one report, and why some were skipped."""

    def __init__(self, report: pathlib.Path) -> None:
        self.passed: list[str] = []
        self.failed: list[str] = []
        self.skipped: list[str] = []
        self.reasons: collections.Counter[str] = collections.Counter()
        try:
            cases = list(ElementTree.parse(report).getroot().iter("testcase"))
        except (ElementTree.ParseError, OSError) as error:
            self.failed.append(f"{report.name}: {error}")
            return
        for case in cases:
            getattr(self, outcome(case)).append(f"{case.get('classname', '')}::{case.get('name', '')}")
            skipped = case.find("skipped")
            if skipped is not None and case.get("status") is None:  # with a reason: CTest may have found no program
                self.reasons[skipped.get("message", "")] += 1
        if not self.passed and not self.failed and not self.reasons:
            self.failed.append(f"{report.name}: no test was run")


def main(folder: str) -> int:
    passed = failed = 0
    for report in sorted(pathlib.Path(folder).glob("*.xml")):
        found = Tally(report)
        passed += len(found.passed)
        failed += len(found.failed)
        skipped = f", {len(found.skipped)} skipped" if found.skipped else ""
        print(f"  {report.stem:<14} {len(found.passed)} passed, {len(found.failed)} failed{skipped}")
        for name in found.failed:
            print(f"    failed: {name}")
        for reason, count in found.reasons.items():
            print(f"    skipped: {count}: {reason}")
    if passed == 0 and failed == 0:
        print("no test was run")
    print(f"{passed} passed, {failed} failed")
    return 0 if passed > 0 and failed == 0 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
