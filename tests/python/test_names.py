"""Names that others chose, and numbers from the environment: what is shown of them, and what is refused."""

from __future__ import annotations

import json
from typing import Any
from unittest.mock import Mock

import pytest
from betterbox import BusError
from betterbox import _cli, _doctor, _printable, _progress, _remote, _settings
from betterbox._deferred import FailedCall
from betterbox._explanation import Explanation
from betterbox._promise import Promise

EVIL = "\x1b]0;title\x07\x1b[2Kx\nworker    forged\r\u202e\u200b\x9b31m"
RAW = ("\x1b", "\x07", "\nworker    forged", "\r", "\u202e", "\u200b", "\x9b")


def assert_harmless(text: str) -> None:
    assert not [mark for mark in RAW if mark in text]
    assert "\\x1b" in text  # it is told


def test_what_is_visible_is_shown_as_it_is() -> None:
    for name in ("energy", "Grüße", "日本", "a b-c/d.e[0]"):
        assert _printable.printable(name) == name
    assert len(_printable.printable("x" * 10_000)) <= _printable.LONGEST_NAME
    assert _printable.printable("half \ud800 character") == "half \\ud800 character"


def test_status_shows_no_control_characters_of_any_name() -> None:
    load = {"busy_slots": 0, "waiting_slots": 0, "others_cpus": 0.0, "memory": 0, "paused": False, "ending": False}
    capacity = {"cpus": 1.0, "memory": None, "gpus": 0.0, "resources": {EVIL: 1.0}}
    peer = {"role": "worker", "name": EVIL, "pid": 1, "host": EVIL, "slots": 1, "leased_items": 0, "log_folder": EVIL}
    report: dict[str, Any] = {
        "scheduler": {"pid": 1, "host": EVIL},
        "uptime_s": 1.0,
        "peers": [{**peer, "connected": True, "capacity": capacity, "load": load}],
        "boxes": [{"port": 1, "class": EVIL, "pid": 1, "host": EVIL, "methods": [EVIL]}],
        "calls": [{"port": 0, "method": EVIL, "name": EVIL, "settled": 0, "total": 1, "running": 0}],
        "values": [{"label": EVIL, "bytes": 1, "owner_pid": 1, "owner_host": EVIL, "holders": 1, "copies": 0, "replicas": 1, "stores": 1}],
        "counters": {EVIL: 1},
    }
    text = _cli.status_text("/tmp/" + EVIL, report)
    assert_harmless(text)
    report["peers"][0]["name"] = "w-1"
    assert "\nworker" not in text.replace("\nworkers:", "")
    assert json.loads(json.dumps(report))["boxes"][0]["class"] == EVIL  # for programs it stays as it is


def test_explanations_bars_and_findings_show_none_either(capsys: pytest.CaptureFixture[str]) -> None:
    seat = {"slot": 0, "items": 1, "busy_s": 1.0, "longest_s": 1.0, "first_s": 0.0, "last_s": 1.0}
    agent = {"name": EVIL, "host": EVIL, "pid": 1, "slots": 1, "items": 1, "busy_s": 1.0, "seats": [seat]}
    explanation = Explanation({"known": 1, "settled": 1, "waiting": EVIL, "policy": EVIL, "agents": [agent]})
    assert_harmless(str(explanation))
    assert_harmless(repr(Promise(Mock(), EVIL, "single").start(lambda: FailedCall(ValueError()))))
    assert explanation["agents"][0]["name"] == EVIL
    _progress.Bar(EVIL).show(1, 1, True)
    assert_harmless(capsys.readouterr().err)
    assert_harmless(_doctor.as_text([_doctor.Finding("boxes", _doctor.WARNING, EVIL, EVIL)]))


@pytest.mark.parametrize("given", ["nan", "inf", "-inf", "-1", "1e400", "ten", "1e10", "0x10", "\x1b[2J"])
def test_an_idle_timeout_that_is_no_time_is_refused_by_name(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BETTERBOX_IDLE_TIMEOUT", given)
    with pytest.raises(BusError, match="BETTERBOX_IDLE_TIMEOUT") as raised:
        _settings.check_environment()
    assert "\x1b" not in str(raised.value)


@pytest.mark.parametrize(("given", "seconds"), [("0", 0.0), ("0.5", 0.5), (" 60 ", 60.0), ("", None), ("1e3", 1000.0)])
def test_an_idle_timeout_is_a_number_of_seconds(given: str, seconds: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BETTERBOX_IDLE_TIMEOUT", given)
    assert _settings.idle_timeout() == seconds


@pytest.mark.parametrize("given", ["-1", "1e9", "nan", "1" * 30, "٣"])
def test_shared_bytes_that_are_none_are_refused_by_name(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BETTERBOX_SHARED_BYTES", given)
    with pytest.raises(BusError, match="BETTERBOX_SHARED_BYTES"):
        _settings.check_environment()


def test_errors_of_the_system_quote_names_and_last_words_visibly() -> None:
    words = EVIL.replace("\n", "")
    for code in range(1, 11):
        error = _remote.lost_error(code, 0, 9, 0, 1, 0, EVIL, f"last\n{words}", words, EVIL, 8090)
        if code != 7:  # what the box itself says of a method
            assert_harmless(str(error))
    assert _remote.lost_error(1, 0, 9, 0, 1, 0, EVIL, f"last\n{EVIL}", "", "f", 0).host == EVIL  # type: ignore[attr-defined]
