"""What `Promise.explain` gives: a dict that prints as a report."""

from __future__ import annotations

from typing import Any


class Explanation(dict[str, Any]):
    """Who did what in a call.

    Keys are ``total`` (None while a generator still runs), ``known``, ``settled``, ``makespan_s``, ``busy_s``, ``longest_s`` (seconds), ``ideal_s``,
    ``makespan_over_ideal``, ``waiting`` (why what waits is waiting) and ``agents``: per worker ``name``, ``host``,
    ``pid``, ``slots``, ``retries``, ``steals`` and ``seats`` (``slot``, ``items``, ``busy_s``).
    """

    def __init__(self, fields: dict[str, Any]) -> None:
        super().__init__(fields)
        slots = sum(max(agent.get("slots", 0), len(agent.get("seats", ()))) for agent in self.get("agents", ()))
        makespan, busy, longest = (fields.get(name, 0.0) for name in ("makespan_s", "busy_s", "longest_s"))
        ideal = max(busy / slots, longest) if slots else 0.0
        self["ideal_s"] = ideal
        self["makespan_over_ideal"] = makespan / ideal if ideal > 0 else None

    def __str__(self) -> str:
        lines = [f"{self.get('settled', 0)} of {self.get('known', 0)} items settled"]
        if self.get("makespan_s"):
            over = self["makespan_over_ideal"]
            ratio = f", {over:.3f} of the ideal" if over else ""
            lines.append(f"makespan {self['makespan_s']:.3f} s{ratio}; longest item {self.get('longest_s', 0.0):.3f} s")
        for agent in self.get("agents", ()):
            lines.append(
                f"{agent.get('name') or 'worker'} (pid {agent.get('pid')} on {agent.get('host')}): "
                f"{agent.get('retries', 0)} retries, {agent.get('steals', 0)} steals"
            )
            for seat in agent.get("seats", ()):
                lines.append(f"  slot {seat['slot']}: {seat['items']} items, busy {seat.get('busy_s', 0.0):.3f} s")
        if self.get("waiting"):
            lines.append(f"waiting {self['waiting']}")
        return "\n".join(lines)
