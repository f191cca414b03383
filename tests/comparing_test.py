"""The comparison with other libraries, with peers that are made up: one that works, one that fails, one that hangs, one
that is not there. And the comparison of instructions, with counts that are made up. Nothing here measures."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import instructions  # noqa: E402
import peers  # noqa: E402
from comparing import harness, processes, registry, report  # noqa: E402
from comparing.cases import CASES, Case  # noqa: E402
from comparing.harness import Outcome  # noqa: E402
from comparing.registry import Spec  # noqa: E402

LONG = 60.0  # seconds: longer than anything takes that works
SHORT = 2.0  # seconds that a peer may hang
SPEED = {"step_s": 1e-7, "quantum_s": 1e-4}
US = Spec(registry.US, "made_up_peers:Works")
WORKS = Spec("works", "made_up_peers:Works")
FAILS = Spec("fails", "made_up_peers:Fails")
HANGS = Spec("hangs", "made_up_peers:Hangs")
DIES = Spec("dies", "made_up_peers:Dies")
ABSENT = Spec("absent", "made_up_peers:Absent")


@pytest.fixture(autouse=True)
def marks(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The marks of all peers that were started; at the end no process has one of them."""
    made: list[str] = []
    begin = harness.Runner.__init__

    def remember(self: harness.Runner, spec: Spec, slots: int, mark: str, place: str) -> None:
        begin(self, spec, slots, mark, place)
        made.append(mark)

    monkeypatch.setattr(harness.Runner, "__init__", remember)
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    yield made
    left = {pid: processes.title(pid) for mark in made for pid in processes.marked(mark)}
    for mark in made:
        processes.end(mark)
    assert left == {}


def run(case: Case, specs: list[Spec], rounds: int = 2) -> dict[str, Outcome]:
    with harness.Harness(specs, 2, lambda _: None) as running:
        return running.run(case, harness.sized(case, True, SPEED), rounds)


def case(name: str, limit: float = LONG) -> Case:
    return replace(CASES[name], limit=limit, quick={**CASES[name].quick, "calls": 20, "items": 20, "seconds": 0.01})


def test_a_peer_that_works_has_a_figure_of_every_round() -> None:
    outcome = run(case("submissions"), [WORKS])["works"]
    assert outcome.status == "ok" and len(outcome.values("per submission")) == 2


def test_a_peer_that_fails_is_shown_with_its_reason_and_the_others_go_on() -> None:
    outcomes = run(case("submissions"), [FAILS, WORKS, DIES])
    assert outcomes["fails"].status == "failed" and outcomes["fails"].reason == "RuntimeError: it broke in two lines"
    assert outcomes["dies"].status == "failed" and "its process ended" in outcomes["dies"].reason
    assert len(outcomes["works"].rounds) == 2


def test_a_peer_that_hangs_is_ended_at_the_limit_with_all_that_it_started(marks: list[str]) -> None:
    one = case("submissions", SHORT)
    with harness.Harness([HANGS], 2, lambda _: None) as running:
        outcome = running.run(one, harness.sized(one, True, SPEED), 2)["hangs"]
        assert (outcome.status, outcome.reason) == ("failed", f"not done after {SHORT:g} s")
        assert len(marks) == 1 and processes.marked(marks[0]) == [], "ended at once, not with the run"


@pytest.mark.parametrize("name", ["Hides", "HidesAndDies"])
def test_daemons_that_hide_where_they_came_from_end_with_their_peer(name: str) -> None:
    with harness.Harness([Spec("hides", f"made_up_peers:{name}")], 2, lambda _: None) as running:
        running.run(case("submissions"), harness.sized(case("submissions"), True, SPEED), 1)
        place = running.place
    assert [pid for pid in os.listdir("/proc") if pid.isdigit() and _works_in(pid, place)] == []


def _works_in(pid: str, place: str) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/cwd").startswith(place)
    except OSError:
        return False


def test_a_peer_that_failed_is_started_afresh_for_the_next_case(marks: list[str]) -> None:
    with harness.Harness([FAILS], 2, lambda _: None) as running:
        first = running.run(case("submissions"), harness.sized(case("submissions"), True, SPEED), 3)
        after = running.run(case("roundtrip"), harness.sized(case("roundtrip"), True, SPEED), 1)
    assert first["fails"].status == "failed" and after["fails"].status == "ok"
    assert len(marks) == 2, "one that failed is not asked again in the same case"


def test_a_peer_that_is_not_there_is_absent_in_every_case_and_tried_once(marks: list[str]) -> None:
    with harness.Harness([ABSENT], 2, lambda _: None) as running:
        for name in ("submissions", "call", "map"):
            outcome = running.run(case(name), harness.sized(case(name), True, SPEED), 1)["absent"]
            assert (outcome.status, outcome.reason) == ("absent", "No module named 'nobody_has_this'")
    assert len(marks) == 1


def test_what_a_library_lacks_is_not_offered_and_no_failure() -> None:
    assert run(case("call"), [WORKS])["works"].status == "not offered"


def test_a_fresh_case_starts_the_peer_anew_in_each_round(marks: list[str]) -> None:
    pytest.importorskip("numpy")
    small = replace(case("start"), quick={"megabytes": 1})
    outcome = run(small, [WORKS])["works"]
    assert outcome.reason == "" and len(outcome.values("array cold")) == 2 and len(marks) == 2


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("start", "import", "call", "idle")])
def test_every_case_runs_with_a_peer_that_does_the_work_in_its_own_process(name: str) -> None:
    pytest.importorskip("numpy")
    one = replace(case(name), quick={**case(name).quick, "megabytes": 1, "times": 1})
    outcome = run(one, [Spec("alone", "made_up_peers:Alone")], 1)["alone"]
    assert outcome.reason == "" and all(outcome.values(metric) for metric in one.metrics)


def test_table_and_json_name_figures_ratios_failures_and_the_absent() -> None:
    specs = [US, WORKS, FAILS, ABSENT]
    one = CASES["submissions"]
    metric = "per submission"
    results = {
        one.name: {
            US.name: Outcome([{metric: 2.0}, {metric: 9.0}, {metric: 3.0}]),
            "works": Outcome([{metric: 8.0}, {metric: 9.0}, {metric: 6.0}]),
            "fails": Outcome([], "failed", "it broke"),
            "absent": Outcome([], "absent", "No module named 'x'"),
        }
    }
    rows = json.loads(json.dumps(report.rows(results, [one], specs)))
    by_peer = {row["peer"]: row for row in rows}
    assert by_peer["works"]["median"] == 8.0 and by_peer["works"]["betterbox_over_peer"] == 0.5
    assert by_peer["fails"]["status"] == "failed" and by_peer["absent"]["reason"] == "No module named 'x'"
    text = "\n".join(report.table(rows, [one], specs))
    assert "failed: it broke" in text and "0.500" in text and "absent: No module named 'x'" in text


def test_every_case_has_a_limit_and_says_what_it_gives() -> None:
    metrics = [metric for one in CASES.values() for metric in one.metrics]
    assert len(metrics) == len(set(metrics)) >= len(CASES)
    for one in CASES.values():
        assert 0 < one.limit <= 60 and one.what and set(one.sizes) <= set(one.quick)


@pytest.mark.parametrize("spec", [*registry.SYSTEM, *registry.LIMITS, *registry.PYPI], ids=lambda spec: str(spec.name))
def test_every_adapter_loads_without_its_library(spec: Spec) -> None:
    module, _, name = spec.target.partition(":")
    adapter = getattr(importlib.import_module(module), name)(2)
    assert spec.limit or adapter.imports


def test_help_names_cases_and_peers(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        peers.main(["--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0 and text.startswith("usage: ./dev bench peers")
    for word in ("--cases", "--peers", "--rounds", "--quick", "--json", "--with-pypi", "pareto", "ProcessPool", "ray"):
        assert word in text


@pytest.mark.parametrize("wrong", [["--cases", "flying"], ["--peers", "nobody"]])
def test_unknown_names_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        peers.main(wrong)
    assert ended.value.code == 2 and wrong[1] in capsys.readouterr().err


def test_instructions_that_grew_by_more_than_a_twentieth_are_named() -> None:
    lines, grown = instructions.compare({"a": 100.0, "b": 100.0, "c": 100.0}, {"a": 105.0, "b": 105.2, "c": 50.0, "d": 1.0})
    assert grown == ["b"] and len(lines) == 5


def test_comparing_without_a_baseline_says_how_to_get_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert instructions.main(["compare", "--file", str(tmp_path / "none.json")]) == 1
    assert "./dev bench baseline" in capsys.readouterr().err


def test_the_baseline_holds_every_hot_path() -> None:
    stored = json.loads(instructions.BASELINE.read_text())["instructions"]
    assert set(stored) == set(instructions.HOT_PATHS) and all(count > 0 for count in stored.values())


def test_a_run_that_is_killed_leaves_no_process_not_even_a_stopped_one() -> None:
    code = (
        "import os, signal, sys; sys.path.insert(0, sys.argv[1]);"
        "from comparing import harness, registry, cases;"
        "spec = registry.Spec('stirs', 'made_up_peers:Works', stirs=True);"
        "h = harness.Harness([spec], 2, lambda _: None).__enter__();"
        "outcome = h.run(cases.CASES['roundtrip'], {'calls': 1, 'seconds': 1}, 1)['stirs'];"
        "assert outcome.status == 'ok' and h.runners['stirs'].paused, outcome;"
        "print(h.mark, h.place, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    command = [sys.executable, "-c", code, str(ROOT / "benchmarks")]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=LONG)
    mark, place = done.stdout.split()
    while processes.marked(mark) or os.path.exists(place):  # the test's own time limit is the deadline
        os.sched_yield()
