"""Meltano as a child process: its log, its pipeline followed, stopped and cleaned up, its state."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from datasync_ingestion import meltano
from datasync_ingestion.errors import IngestionError, SignalWatcher
from datasync_ingestion.meltano import (
    PIPELINE_VARIABLE,
    AttemptSummary,
    MeltanoState,
    Pipeline,
    parse_line,
    pipeline_processes,
    reconcile,
    stop_orphaned_pipeline,
)

from tests.helpers import wait_until
from tests.ingestion.ingestion_helpers import is_alive

if TYPE_CHECKING:
    from pathlib import Path

    import psutil

    from tests.ingestion.ingestion_helpers import Checkout

TAP, TARGET = "tap-datasync", "target-postgres"
# Lines of Meltano 4.4.1, shortened.
PAGE = {
    "stdio": "stderr",
    "string_id": TAP,
    "cmd_type": "elb",
    "pid": 17221,
    "thread_name": "MainThread",
    "name": TAP,
    "event": "Page 1",
    "run_id": "01a2",
    "level": "info",
    "timestamp": "2026-11-23T13:21:43.016486Z",
    "_logger": "<x>",
}
REFUSED = {**PAGE, "level": "critical", "event": "The API refuses the key."}
MELTANO_ERROR = {"event": "Extractor failed\n  File x", "level": "error"}
COMPLETED = {"event": "Block run completed", "level": "error", "exit_codes": {}}
DISCOVERY = {**PAGE, "type": "discovery", "event": "The setting is wrong."}
DISCOVERY_FAILED = (
    "Cannot start plugin tap-datasync: Catalog discovery failed: command "
    "['/a b/tap-datasync', '--discover'] returned 2 with stderr:\n The setting is wrong.\n"
)


def summarize(*lines: dict[str, Any]) -> AttemptSummary:
    summary = AttemptSummary()
    for line in lines:
        summary.add(parse_line(json.dumps(line) + "\n"))
    return summary


def test_formats_line_with_source_and_without_internal_fields() -> None:
    line = parse_line(json.dumps(PAGE))
    assert (line.source, line.level, line.text) == (TAP, "info", "Page 1")
    assert str(line) == "2026-11-23T13:21:43.016486Z info     tap-datasync    Page 1"
    line = parse_line(json.dumps({**PAGE, "metric_info": {"value": 3}}))
    assert str(line).endswith('Page 1  {"metric_info": {"value": 3}}')


@pytest.mark.parametrize(
    "text",
    ["Traceback (most recent call last):", "", "[1]", '{"event": 5}', '{"b', "null", "[" * 100_000],
)
def test_uses_unparsed_line_as_message(text: str) -> None:
    line = parse_line(text + "\n")
    assert (line.text, line.source) == (text, "meltano")
    AttemptSummary().add(line)


@pytest.mark.parametrize(
    ("lines", "exit_codes", "message"),
    [
        (
            [PAGE, REFUSED, MELTANO_ERROR, {**COMPLETED, "exit_codes": {"extractors": 3}}],
            {TAP: 3},
            "The API refuses the key.",
        ),
        (
            [{**COMPLETED, "exit_codes": {"extractors": 1, "loaders": 2}}],
            {TAP: 1, TARGET: 2},
            None,
        ),
        # A broken pipe: Meltano reports no exit codes, and the target has logged its own.
        (
            [{**REFUSED, "name": TARGET, "exit_code": 2}, MELTANO_ERROR],
            {TARGET: 2},
            "The API refuses the key.",
        ),
        # The exit code of a discovery is part of a text.
        (
            [
                {**DISCOVERY, "event": "Beginning"},
                DISCOVERY,
                {**COMPLETED, "err": f"{DISCOVERY_FAILED} GET /events returned 503 with stderr\n"},
            ],
            {TAP: 2},
            "The setting is wrong.",
        ),
        ([{**COMPLETED, "err": "Catalog discovery failed: it returned 7"}], {}, None),
        # Messages of a successful discovery are no errors.
        ([DISCOVERY, {**COMPLETED, "exit_codes": {"loaders": 1}}], {TARGET: 1}, None),
        ([MELTANO_ERROR], {}, "Extractor failed"),
        ([PAGE, {"event": "Block run completed", "level": "info"}], {}, None),
    ],
)
def test_finds_exit_codes_and_cause(
    lines: list[dict[str, Any]], exit_codes: dict[str, int], message: str | None
) -> None:
    summary = summarize(*lines)
    assert (summary.exit_codes, summary.message) == (exit_codes, message)


def test_recognises_setting_that_meltano_cannot_read() -> None:
    text = "[<class 'decimal.ConversionSyntax'>]"
    for exception, expected in (
        (
            [{"frames": [{"name": "_run_cli"}]}, {"frames": [{"name": "cast_value"}]}],
            "not a number",
        ),
        ([{"frames": [{"name": "connect"}]}], None),
        ("text", None),
        ([None, {}], None),
    ):
        summary = summarize({"event": text, "level": "error", "exception": exception})
        assert summary.invalid_setting == expected


def start(checkout: Checkout, attempt: dict[str, Any]) -> Pipeline:
    checkout.plan(attempt)
    return Pipeline(checkout.root, {**checkout.env, "API_KEY": "k"})


def start_tap(checkout: Checkout, **options: Any) -> tuple[Pipeline, psutil.Process]:
    running = start(checkout, {"tap": {"seconds": 60, **options}})
    wait_until(lambda: "Page 1" in (running.next_line(0.1) or ""))
    (tap,) = [p for p in pipeline_processes(checkout.root) if meltano._is_tap(p)]
    return running, tap


def configs(checkout: Checkout) -> list[Path]:
    return list((checkout.root / ".meltano" / "run").glob("*/*.config.json"))


def meltano_pid(checkout: Checkout) -> int:
    return int(checkout.calls("run")[0]["pid"])


def test_kills_tap_that_ignores_sigterm(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = ("TAP_STOP_SECONDS", "MELTANO_STOP_SECONDS", "REMAINING_STOP_SECONDS")
    # Docker kills a container after ten seconds.
    assert sum(getattr(meltano, name) for name in steps) < 8
    for name in steps:
        monkeypatch.setattr(meltano, name, 0.2)
    running, tap = start_tap(checkout, ignores_sigterm=True)
    running.stop()
    wait_until(lambda: not is_alive(tap.pid))
    assert pipeline_processes(checkout.root) == []


def test_stops_pipeline_before_tap_has_started(checkout: Checkout) -> None:
    start(checkout, {"tap": {"seconds": 60}}).stop()
    assert pipeline_processes(checkout.root) == []


def test_removes_processes_and_configs_of_killed_meltano(checkout: Checkout) -> None:
    """An old tap must not send requests beside a new one, and no file may contain the key."""
    running, tap = start_tap(checkout)
    assert configs(checkout)
    os.kill(meltano_pid(checkout), signal.SIGKILL)
    # The log ends, although the tap keeps its pipe open.
    wait_until(lambda: running.next_line(0.1) is None)
    assert is_alive(tap.pid)
    assert running.wait() == -signal.SIGKILL
    wait_until(lambda: not is_alive(tap.pid))
    assert configs(checkout) == []


def test_stops_tap_that_outlives_its_run_and_meltano(checkout: Checkout) -> None:
    running, tap = start_tap(checkout)
    os.kill(meltano_pid(checkout), signal.SIGKILL)
    wait_until(lambda: not is_alive(meltano_pid(checkout)))
    assert is_alive(tap.pid)
    assert stop_orphaned_pipeline(checkout.root)
    # A process that is ending has no environment any more, and is not found by it.
    wait_until(lambda: not is_alive(tap.pid))
    assert pipeline_processes(checkout.root) == []
    assert configs(checkout) == []
    running.wait()
    assert not stop_orphaned_pipeline(checkout.root)


def test_does_not_stop_other_pipelines(checkout: Checkout) -> None:
    """A pipeline started by hand, and that of another checkout."""
    tap = [checkout.root / ".venv/bin/tap-datasync", "{}"]
    by_hand = {name: value for name, value in os.environ.items() if name != PIPELINE_VARIABLE}
    elsewhere = {**by_hand, PIPELINE_VARIABLE: f"{checkout.root}-2"}
    others = [
        subprocess.Popen(tap, env=env, stdout=subprocess.PIPE) for env in (by_hand, elsewhere)
    ]
    try:
        for other in others:
            assert other.stdout is not None
            other.stdout.readline()
        assert not stop_orphaned_pipeline(checkout.root)
        assert [other.poll() for other in others] == [None, None]
    finally:
        for other in others:
            other.kill()
            other.communicate()


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (
            [
                {"event": "unable to open database file\nAt: x", "level": "error"},
                {"event": "Need help fixing this problem? Visit x", "level": "info"},
            ],
            "unable to open database file",
        ),
        (["Error: No such option: --x"], "Error: No such option: --x"),
        ([{"event": "Need help fixing this problem? Visit x", "level": "error"}], "exit code 1"),
    ],
)
def test_reports_why_state_cannot_be_read(
    checkout: Checkout, log: list[dict[str, str] | str], reason: str
) -> None:
    lines = [line if isinstance(line, str) else json.dumps(line) for line in log]
    (checkout.root / "state_error.log").write_text("\n".join(lines))
    with pytest.raises(IngestionError) as caught:
        MeltanoState(checkout.root, checkout.env, SignalWatcher()).read()
    assert str(caught.value) == f"`meltano state get` failed: {reason}"


def test_reports_state_that_is_not_json(checkout: Checkout) -> None:
    (checkout.root / "state.json").write_text("{")
    with pytest.raises(IngestionError, match="`meltano state get` failed: its output is not JSON"):
        MeltanoState(checkout.root, checkout.env, SignalWatcher()).read()


def state(cursor: str | None) -> dict[str, Any]:
    return {"bookmarks": {"events": {"cursor": cursor}, "pages": {}}}


@pytest.mark.parametrize(
    ("saved", "committed", "expected", "reason"),
    [
        # A new checkout; then a backup that was restored, or a Meltano that was killed.
        (None, state("a"), state("a"), "is empty, unlike the database's checkpoint"),
        ({}, state("a"), state("a"), "is empty, unlike the database's checkpoint"),
        ({"bookmarks": {"events": {}}}, state("a"), state("a"), "is empty, unlike"),
        (state("b"), state("a"), state("a"), "differs from the database's checkpoint"),
        # A new database.
        (state("a"), None, {}, "has no checkpoint: loading from the beginning"),
        (state("a"), {"bookmarks": {"pages": {}}}, {}, "has no checkpoint"),
    ],
)
def test_checkpoint_replaces_different_state(
    saved: Any, committed: Any, expected: Any, reason: str
) -> None:
    change = reconcile(saved, committed)
    assert change is not None
    assert change[0] == expected
    assert reason in change[1]
    for before in (saved, committed):
        refreshed = reconcile(before, committed, full_refresh=True)
        assert refreshed
        assert refreshed[0] == {}


@pytest.mark.parametrize(
    ("saved", "committed"),
    [
        ({}, None),
        (None, None),
        (state("a"), state("a")),
        # A malformed state counts as empty.
        ({"bookmarks": {}}, {"bookmarks": {"events": None}}),
        ({"bookmarks": [1]}, None),
        ({"bookmarks": {"events": [1]}}, None),
    ],
)
def test_equal_states_are_not_changed(saved: Any, committed: Any) -> None:
    assert reconcile(saved, committed) is None
