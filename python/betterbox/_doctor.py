"""``betterbox doctor``: looks at everything that can keep a bus from working, and says what to do.

The checks are plain functions that return a `Finding` or a few: of this host in `_doctor_host`, of the bus in
`_doctor_bus`. Looking starts nothing, and the file or socket that a check makes is gone when it returns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

from betterbox._printable import printable

OK, WARNING, PROBLEM = "ok", "warning", "problem"


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one check found: its name, its state, and what to do unless all is well."""

    check: str
    state: str
    found: str
    advice: str = ""


Check = Callable[[], Finding | Iterable[Finding]]


def ok(check: str, found: str) -> Finding:
    """All is well."""
    return Finding(check, OK, found)


def warning(check: str, found: str, advice: str) -> Finding:
    """It works, but may not everywhere or not always."""
    return Finding(check, WARNING, found, advice)


def problem(check: str, found: str, advice: str) -> Finding:
    """Something will not work."""
    return Finding(check, PROBLEM, found, advice)


def run_check(name: str, check: Check) -> list[Finding]:
    """The findings of a check; one that breaks is a warning, for the others may still tell what is wrong."""
    try:
        found = check()
    except Exception as error:
        return [warning(name, f"could not be checked: {type(error).__name__}: {error}", "look at it by hand")]
    return [found] if isinstance(found, Finding) else list(found)


def examine(bus: str, named: bool) -> list[Finding]:
    """All findings about this host and a bus."""
    from betterbox import _doctor_bus, _doctor_host

    looked = _doctor_bus.look(bus, named)
    checks: list[tuple[str, Check]] = [*_doctor_host.checks(bus, looked), *_doctor_bus.checks(looked)]
    return [finding for name, check in checks for finding in run_check(name, check)]


def worst(findings: Iterable[Finding]) -> str:
    """``"problem"``, ``"warning"`` or ``"ok"``."""
    states = {finding.state for finding in findings}
    return next((state for state in (PROBLEM, WARNING) if state in states), OK)


def as_text(findings: Iterable[Finding]) -> str:
    """For people: a line for each finding, and one for what to do."""
    findings = list(findings)
    width = max(len(finding.check) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.state:8} {finding.check:{width}}  {printable(finding.found, None)}")
        if finding.advice:
            lines.append(f"{'':8} {'':{width}}  -> {printable(finding.advice, None)}")
    counts = [sum(finding.state == state for finding in findings) for state in (PROBLEM, WARNING)]
    lines.append(f"{counts[0]} problem{'s' * (counts[0] != 1)}, {counts[1]} warning{'s' * (counts[1] != 1)}")
    return "\n".join(lines)


def as_json(findings: Iterable[Finding]) -> dict[str, Any]:
    """For scripts."""
    findings = list(findings)
    return {"state": worst(findings), "checks": [dataclasses.asdict(finding) for finding in findings]}
