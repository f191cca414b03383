"""What came out: medians, ratios to BetterBox, a table for people and one JSON object."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from comparing.cases import Case
from comparing.harness import Outcome
from comparing.registry import US, Spec

Results = dict[str, dict[str, Outcome]]  # by case and peer


def median_ratio(ours: Outcome, theirs: Outcome, metric: str) -> float | None:
    """The median over the rounds of BetterBox's figure over the peer's of the same round."""
    pairs = [
        mine[metric] / other[metric]
        for mine, other in zip(ours.rounds, theirs.rounds)
        if metric in mine and other.get(metric, 0) > 0
    ]
    return statistics.median(pairs) if pairs else None


def rows(results: Results, cases: Sequence[Case], specs: Sequence[Spec]) -> list[dict[str, Any]]:
    """One row for each metric and peer."""
    found = []
    limits = {spec.name: spec.limit for spec in specs}
    for case in cases:
        outcomes = results[case.name]
        for metric, unit in case.metrics.items():
            for name, outcome in outcomes.items():
                values = outcome.values(metric)
                row: dict[str, Any] = {"case": case.name, "metric": metric, "unit": unit, "peer": name}
                row |= {"limit": limits[name], "status": outcome.status, "reason": outcome.reason}
                if values:
                    row |= {"median": statistics.median(values), "min": min(values), "max": max(values), "rounds": values}
                    details = [figures["detail"] for figures in outcome.rounds if "detail" in figures]
                    row |= {"detail": details} if details else {}
                    if name != US and US in outcomes:
                        row["betterbox_over_peer"] = median_ratio(outcomes[US], outcome, metric)
                elif outcome.status == "ok":
                    row["status"] = "not offered"
                found.append(row)
    return found


def table(every: Sequence[dict[str, Any]], cases: Sequence[Case], specs: Sequence[Spec]) -> list[str]:
    """Per metric a line for each peer that has a figure or failed; below, who is absent and why."""
    lines = ["median of the rounds (lowest to highest); ratio: BetterBox / peer in the same round: below 1 it is ahead"]
    for case in cases:
        for metric, unit in case.metrics.items():
            some = [row for row in every if row["case"] == case.name and row["metric"] == metric]
            shown = [line for row in some if (line := _line(row))]
            if shown:
                lines += ["", f"{metric}, {unit}  ({case.what})", *shown]
    absent = {row["peer"]: row["reason"] for row in every if row["status"] == "absent"}
    if absent:
        lines += ["", "absent:", *[f"  {name}: {reason}" for name, reason in absent.items()]]
    return lines


def _line(row: dict[str, Any]) -> str:
    name = f"  {'limit: ' if row['limit'] else ''}{row['peer']}"
    if "median" not in row:
        return f"{name:24} failed: {row['reason']}" if row["status"] == "failed" else ""
    spread = f"({number(row['min'])} to {number(row['max'])})"
    ratio = row.get("betterbox_over_peer")
    note = f"  {ratio:8.3f}" if ratio is not None else "          "
    if row["metric"] == "per submission":
        note += f"   {1e6 / row['median']:,.0f} a second"
    if row["status"] == "failed":
        note += f"   then failed: {row['reason']}"
    return f"{name:24} {number(row['median']):>9} {spread:24}{note}".rstrip()


def number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 0.01 or value == 0 else f"{value:.4f}"
