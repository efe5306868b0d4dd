"""Parsing of Meltano's log: exit codes, error messages, and lines of any form."""

from __future__ import annotations

import json
from typing import Any

import pytest
from datasync_ingestion.meltano import AttemptSummary, LogLine, parse_line

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
REFUSED = {**PAGE, "level": "critical", "event": "The API refuses the key."}
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
INVALID_SETTING = {
    "event": "[<class 'decimal.ConversionSyntax'>]",
    "level": "error",
    "exception": [
        {"exc_type": "FileNotFoundError", "frames": [{"name": "_run_cli"}]},
        {"exc_type": "InvalidOperation", "frames": [{"name": "cast_value", "lineno": 506}]},
    ],
}


def summarize(*lines: dict[str, Any]) -> AttemptSummary:
    summary = AttemptSummary()
    for line in lines:
        summary.add(parse_line(json.dumps(line) + "\n"))
    return summary


def test_formats_line_with_source_and_without_internal_fields() -> None:
    line = parse_line(json.dumps(PAGE))
    assert (line.source, line.level, line.text) == ("tap-datasync", "info", "Page 1")
    assert str(line) == "2026-11-23T13:21:43.016486Z info     tap-datasync    Page 1"


def test_formats_line_with_additional_fields() -> None:
    line = parse_line(json.dumps({**PAGE, "metric_info": {"value": 3}}))
    assert str(line).endswith('Page 1  {"metric_info": {"value": 3}}')


@pytest.mark.parametrize(
    "text",
    [
        "Traceback (most recent call last):",
        "",
        "[1, 2]",
        '{"event": 5}',
        '{"broken',
        "null",
        "[" * 100_000,
    ],
)
def test_uses_unparsed_line_as_message(text: str) -> None:
    line = parse_line(text + "\n")
    assert (line.text, line.source) == (text, "meltano")
    AttemptSummary().add(line)


def test_finds_exit_code_and_last_error() -> None:
    summary = summarize(PAGE, REFUSED, {"event": "Extractor failed", "level": "error"}, FAILED)
    assert summary.exit_codes == {"tap-datasync": 3}
    assert summary.message == "The API refuses the key."


def test_finds_both_exit_codes() -> None:
    summary = summarize({**FAILED, "exit_codes": {"extractors": 1, "loaders": 2}})
    assert summary.exit_codes == {"tap-datasync": 1, "target-postgres": 2}


def test_finds_exit_code_of_target_after_broken_pipe() -> None:
    """Meltano reports no exit codes then; the target has logged its own."""
    fatal = {
        **PAGE,
        "name": "target-postgres",
        "level": "critical",
        "event": "The role may not write.",
        "exit_code": 2,
    }
    summary = summarize(fatal, {"event": "[Errno 32] Broken pipe", "level": "error"})
    assert summary.exit_codes == {"target-postgres": 2}
    assert summary.message == "The role may not write."


def test_finds_exit_code_of_discovery_in_text() -> None:
    message = {**PAGE, "type": "discovery", "event": "The setting is wrong."}
    summary = summarize({**message, "event": "Beginning"}, message, DISCOVERY)
    assert summary.exit_codes == {"tap-datasync": 2}
    assert summary.message == "The setting is wrong."


def test_ignores_exit_code_in_output_of_tap() -> None:
    error = DISCOVERY["err"] + " GET /events returned 503 with stderr\n"  # type: ignore[operator]
    assert summarize({**DISCOVERY, "err": error}).exit_codes == {"tap-datasync": 2}
    error = "Catalog discovery failed: it returned 7"
    assert summarize({**DISCOVERY, "err": error}).exit_codes == {}


def test_messages_of_a_successful_discovery_are_not_errors() -> None:
    message = {**PAGE, "type": "discovery", "event": "Skipping parse of env var settings..."}
    assert summarize(message, {**FAILED, "exit_codes": {"loaders": 1}}).message is None


def test_recognises_setting_that_meltano_cannot_read() -> None:
    assert summarize(INVALID_SETTING).invalid_setting == "not a number"
    other: dict[str, Any] = {**INVALID_SETTING, "exception": [{"frames": [{"name": "connect"}]}]}
    for line in (other, {**other, "exception": "text"}, {**other, "exception": [None, {}]}):
        assert summarize(line).invalid_setting is None


def test_reports_first_line_of_error() -> None:
    summary = summarize({"event": "Cannot start plugin\n  File x\n", "level": "error"})
    assert summary.message == "Cannot start plugin"


def test_attempt_without_error_has_no_message() -> None:
    assert summarize(PAGE, {"event": "Block run completed", "level": "info"}).message is None


def test_offer_of_support_is_noise() -> None:
    assert LogLine("Need help fixing this problem? Visit https://melta.no/").is_noise
    assert not LogLine("Page 1").is_noise
