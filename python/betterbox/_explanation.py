"""What `Promise.explain` gives: a dict that prints as a report."""

from __future__ import annotations

from typing import Any

from betterbox._printable import printable

_SHOWN_AGENTS, _SHOWN_SLOTS = 20, 16
_LONGEST_LINE = 1000


class Explanation(dict[str, Any]):
    """Who did what in a call, how good that was, and where the rest went. Keys can be read as attributes, too.

    All times are in seconds.

    Attributes
    ----------
    name : str
        What the call was named by its options, else what it calls.
    total : int or None
        Items; None while a generator still runs.
    known, settled, pending : int
        Items sent so far, items that have an outcome, items that nobody was given.
    waiting : str
        Why what waits is waiting; empty if nothing does.
    policy : str
        How ranges are cut.
    agents : list of dict
        Per worker (or process with boxes): ``name``, ``host``, ``pid``, ``slots``, ``items``, ``busy_s``, ``share`` (of
        the time of its slots that was busy), ``retries``, ``steals``, ``outstanding`` (items it holds now) and
        ``seats``: per slot ``slot``, ``items``, ``busy_s``, ``longest_s``, ``first_s``, ``last_s`` (when its first and
        last outcome arrived), ``share``.
    gangs : list of dict
        Per item of a call with ``ranks=`` that runs or has its turn to get ranks: ``size``, and the ``ranks`` that have come.
    leases, splits : int
        Ranges granted; how many of them were cut while they ran, for somebody else.
    steals, retries : int
        Ranges that came from another worker or slot; items run again because their process died.
    copies, copies_won : int
        Items that ran twice at a time; how often the copy was first.
    makespan_s, busy_s, longest_s : float
        From the first grant to the last outcome (so far); time in items, all slots together; the longest item.
    ideal_s, greedy_s : float or None
        The work evenly over all slots, or the longest item; what self-scheduling at no cost takes for the measured times
        (None if that was not computed).
    makespan_over_ideal, makespan_over_greedy : float or None
        The same as ratios.
    loss : dict
        Where the time of slots went that was not busy: ``startup_s`` (before a slot's first item), ``gaps_s`` (between
        items), ``tail_s`` (after its last), ``unused_s`` (slots that got nothing), ``wasted_s`` (work whose outcome was
        not wanted), ``total_s`` (all of it).
    """

    def __init__(self, fields: dict[str, Any]) -> None:
        super().__init__(fields)
        agents = self.setdefault("agents", [])
        self.setdefault("gangs", [])
        makespan = fields.get("makespan_s", 0.0)
        for agent in agents:
            agent["slots"] = max(agent.get("slots", 0), len(agent.get("seats", ())))
            agent["share"] = _share(agent.get("busy_s", 0.0), makespan * agent["slots"])
            for seat in agent.get("seats", ()):
                seat["share"] = _share(seat["busy_s"], makespan)
        slots = sum(agent["slots"] for agent in agents)
        busy, longest = fields.get("busy_s", 0.0), fields.get("longest_s", 0.0)
        ideal = fields.get("ideal_s") or (max(busy / slots, longest) if slots else 0.0)
        greedy = fields.get("greedy_s") or None
        self["slots"] = slots
        self["ideal_s"] = ideal
        self["greedy_s"] = greedy
        self["makespan_over_ideal"] = makespan / ideal if ideal > 0 else None
        self["makespan_over_greedy"] = makespan / greedy if greedy else None
        self["steals"] = sum(agent.get("steals", 0) for agent in agents)
        self["retries"] = sum(agent.get("retries", 0) for agent in agents)
        self["loss"] = _loss(agents, makespan, fields.get("wasted_s", 0.0))

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"an explanation has no {name!r}; it has {', '.join(self)}", name=name) from None

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """IPython shows the report; `repr` is that of the dict."""
        printer.text("Explanation(...)" if cycle else str(self))

    def __str__(self) -> str:
        known, settled = self.get("known", 0), self.get("settled", 0)
        open_end = "" if self.get("total") is not None else " so far"
        policy = f", policy {self['policy']}" if self.get("policy") else ""
        name = f"{self['name']}: " if self.get("name") else ""
        lines = [f"{name}{settled} of {known} items settled{open_end}{policy}"]
        if self.get("waiting"):
            lines.append(f"waiting: {self['waiting']}")
        for gang in self["gangs"][:_SHOWN_AGENTS]:
            ranks = ", ".join(str(rank) for rank in gang["ranks"]) or "none yet"
            lines.append(f"gang of {gang['size']} on ranks: {ranks}")
        if self.get("makespan_s"):
            lines += self._time_lines()
        lines += self._count_lines()
        agents = self["agents"]
        for agent in agents[:_SHOWN_AGENTS]:
            lines += _agent_lines(agent)
        if len(agents) > _SHOWN_AGENTS:
            lines.append(f"and {len(agents) - _SHOWN_AGENTS} more")
        return "\n".join(printable(line, _LONGEST_LINE) for line in lines)

    def _time_lines(self) -> list[str]:
        ratios = [
            f"{self[over]:.3f} of {what} ({self[key]:.3f} s)"
            for over, what, key in (
                ("makespan_over_greedy", "greedy self-scheduling", "greedy_s"),
                ("makespan_over_ideal", "the ideal", "ideal_s"),
            )
            if self[over]
        ]
        lines = [f"makespan {self['makespan_s']:.3f} s" + (": " + ", ".join(ratios) if ratios else "")]
        lines[0] += f"; longest item {self.get('longest_s', 0.0):.3f} s"
        loss, all_time = self["loss"], self["makespan_s"] * self["slots"]
        if all_time > 0:
            parts = [
                f"{word} {loss[key]:.3f} s"
                for word, key in (
                    ("start-up", "startup_s"),
                    ("gaps", "gaps_s"),
                    ("tail", "tail_s"),
                    ("unused slots", "unused_s"),
                    ("wasted", "wasted_s"),
                )
                if loss[key] >= 0.0005
            ]
            lines.append(
                f"slots busy {100 * _share(self.get('busy_s', 0.0), all_time):.1f} % of {all_time:.3f} s"
                + (f"; lost: {', '.join(parts)}" if parts else "")
            )
        return lines

    def _count_lines(self) -> list[str]:
        counts = [
            _count(self[key], one, many)
            for key, one, many in (
                ("leases", "lease", "leases"),
                ("splits", "of them split", "of them split"),
                ("steals", "steal", "steals"),
                ("retries", "retry", "retries"),
                ("copies", "copy", "copies"),
                ("copies_won", "of them first", "of them first"),
                ("pending", "item waiting", "items waiting"),
            )
            if self.get(key)
        ]
        return [", ".join(counts)] if counts else []


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0


def _agent_lines(agent: dict[str, Any]) -> list[str]:
    counts = (("steals", "steal", "steals"), ("retries", "retry", "retries"))
    more = [_count(agent[key], one, many) for key, one, many in counts if agent.get(key)]
    if agent.get("outstanding"):
        more.append(f"holds {agent['outstanding']}")
    lines = [
        f"{printable(agent.get('name') or 'worker')} (pid {agent.get('pid')} on {printable(agent.get('host'))}): "
        + ", ".join([_count(agent.get("items", 0), "item", "items"), f"busy {agent.get('busy_s', 0.0):.3f} s", *more])
    ]
    seats = agent.get("seats", ())
    for seat in seats[:_SHOWN_SLOTS]:
        lines.append(
            f"  slot {seat['slot']}: {_count(seat['items'], 'item', 'items')}, "
            f"busy {seat['busy_s']:.3f} s ({100 * seat['share']:.1f} %)"
        )
    if len(seats) > _SHOWN_SLOTS:
        lines.append(f"  and {len(seats) - _SHOWN_SLOTS} more slots")
    return lines


def _loss(agents: list[dict[str, Any]], makespan: float, wasted: float) -> dict[str, float]:
    """The time of slots that was not busy, by when it was. When a slot's first item began is not reported: it is taken
    to have lasted as long as the slot's mean item."""
    startup = gaps = tail = unused = 0.0
    for agent in agents:
        seats = [(seat, 1) for seat in agent.get("seats", ()) if seat["items"]]
        if not seats and agent.get("items"):  # calls over very many slots: all slots of a worker as one
            seats = [(agent, agent["slots"])]
        unused += makespan * (agent["slots"] - sum(width for _, width in seats))
        for seat, width in seats:
            lost = max(0.0, makespan * width - seat["busy_s"])
            after = min(lost, max(0.0, makespan - seat["last_s"]) * width)
            # Where several items came at once, the first of them had ended long ago.
            before = min(lost - after, max(0.0, seat["first_s"] - seat["busy_s"] / seat["items"]) * width)
            between = lost - after - before
            startup, gaps, tail = startup + before, gaps + between, tail + after
    in_gaps = min(wasted, gaps)  # a slot that works for nothing has a gap in what it delivers
    return {
        "startup_s": startup,
        "gaps_s": gaps - in_gaps,
        "tail_s": tail,
        "unused_s": unused,
        "wasted_s": in_gaps,
        "total_s": startup + gaps + tail + unused,
    }
