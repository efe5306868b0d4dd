"""Meltano's log is read for what it tells, and stands any line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from datasync_ingestion.logs import Account, LogLine, is_noise, parse, prune

if TYPE_CHECKING:
    from pathlib import Path

# Lines of Meltano 4.4.1, shortened.
PAGE = {
    "stdio": "stderr",
    "string_id": "tap-datasync",
    "cmd_type": "elb",
    "pid": 17221,
    "thread_name": "MainThread",
    "name": "tap-datasync",
    "event": "Page 1",
    "run_id": "01a2",
    "level": "info",
    "timestamp": "2026-11-23T13:21:43.016486Z",
    "_logger": "<x>",
}
FAILED = {
    "success": False,
    "err": "Extractor failed",
    "exit_codes": {"extractors": 3},
    "event": "Block run completed",
    "level": "error",
}
DISCOVERY = {
    "err": "Cannot start plugin tap-datasync: Catalog discovery failed: command "
    "['/a b/tap-datasync', '--discover'] returned 2 with stderr:\n The setting is wrong.\n",
    "exit_codes": {},
    "event": "Block run completed",
    "level": "error",
}


def account(*lines: dict[str, Any]) -> Account:
    found = Account()
    for line in lines:
        found.note(parse(json.dumps(line) + "\n"))
    return found


def test_a_line_is_shown_with_who_says_it_and_without_plumbing() -> None:
    line = parse(json.dumps(PAGE))
    assert (line.source, line.level, line.text) == ("tap-datasync", "info", "Page 1")
    assert str(line) == "2026-11-23T13:21:43.016486Z info     tap-datasync    Page 1"


def test_what_else_a_line_holds_is_kept() -> None:
    line = parse(json.dumps({**PAGE, "metric_info": {"value": 3}}))
    assert str(line).endswith('Page 1  {"metric_info": {"value": 3}}')


@pytest.mark.parametrize(
    "text", ["Traceback (most recent call last):", "", "[1, 2]", '{"event": 5}', '{"broken', "null"]
)
def test_any_other_line_is_taken_as_it_stands(text: str) -> None:
    line = parse(text + "\n")
    assert (line.text, line.source) == (text, "meltano")
    Account().note(line)


def test_exit_codes_and_the_last_complaint_are_found() -> None:
    complaint = {**PAGE, "level": "critical", "event": "The API refuses the key."}
    found = account(PAGE, complaint, {"event": "Extractor failed", "level": "error"}, FAILED)
    assert (found.tap, found.loader) == (3, None)
    assert found.reason == "The API refuses the key."


def test_both_exit_codes_are_found() -> None:
    found = account({**FAILED, "exit_codes": {"extractors": 1, "loaders": 2}})
    assert (found.tap, found.loader) == (1, 2)


def test_a_tap_that_fails_before_the_run_begins_is_found_too() -> None:
    """Meltano tells its exit code only in a text then, and its words without their level."""
    said = {**PAGE, "type": "discovery", "event": "The setting is wrong."}
    found = account({**said, "event": "Beginning"}, said, DISCOVERY)
    assert found.tap == 2
    assert found.reason == "The setting is wrong."


def test_the_exit_code_is_not_looked_for_in_what_the_tap_said() -> None:
    said = DISCOVERY["err"] + " GET /events returned 503 with stderr\n"
    assert account({**DISCOVERY, "err": said}).tap == 2
    assert account({**DISCOVERY, "err": "Catalog discovery failed: it returned 7"}).tap is None


def test_what_a_good_discovery_says_is_no_complaint() -> None:
    said = {**PAGE, "type": "discovery", "event": "Skipping parse of env var settings..."}
    assert account(said, {**FAILED, "exit_codes": {"loaders": 1}}).reason is None


def test_a_complaint_of_many_lines_is_shown_by_its_first() -> None:
    found = account({"event": "Cannot start plugin\n  File x\n", "level": "error"})
    assert found.reason == "Cannot start plugin"


def test_a_run_without_a_complaint_has_no_reason() -> None:
    assert account(PAGE, {"event": "Block run completed", "level": "info"}).reason is None


def test_advertisement_is_noise() -> None:
    assert is_noise(LogLine("Need help fixing this problem? Visit https://melta.no/"))
    assert not is_noise(LogLine("Page 1"))


def test_old_logs_are_deleted_and_nothing_else(tmp_path: Path) -> None:
    for day in range(1, 8):
        (tmp_path / f"2026010{day}T000000Z.log").touch()
    (tmp_path / "20250101T000000Z.txt").touch()
    prune(tmp_path, keep=3)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [
        "20250101T000000Z.txt",
        "20260105T000000Z.log",
        "20260106T000000Z.log",
        "20260107T000000Z.log",
    ]
