"""The summary and the hints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from datasync_ingestion.output import Hints, Summary
from datasync_monitor.database import DatabaseSettings

HOST, CONTAINER = Hints(), Hints(in_container=True)
LOG = Path(".run/log/x.log")
SUMMARY = Summary(
    rows=20_000,
    rows_before=5_000,
    total_events=20_000,
    rejected=3,
    seconds=30.0,
    restarts=0,
    query="psql",
    log=".run/log/x.log",
    sandbox_runs=True,
)


def text(summary: Summary) -> str:
    return "\n".join(summary.lines())


def test_summary_of_load() -> None:
    output = text(SUMMARY)
    assert "events in the table     20,000 (15,000 new)" in output
    assert "events in the API       20,000" in output
    assert "rejected events         3" in output
    assert "duration                30 s" in output
    assert "throughput              500 events/s" in output
    assert "query them with         psql" in output
    assert "full log                .run/log/x.log" in output
    assert "--stop-sandbox" in output
    assert "more than the table contains" not in output
    assert "restarts" not in output


def test_summary_omits_values_without_meaning() -> None:
    output = text(
        replace(SUMMARY, rows_before=20_000, total_events=None, query=None, sandbox_runs=False)
    )
    assert "throughput" not in output
    assert "query them" not in output
    assert "sandbox" not in output
    assert "events in the API       not reported" in output


def test_summary_reports_missing_events() -> None:
    output = text(replace(SUMMARY, total_events=20_001, restarts=2))
    assert "The API reports 1 event more than the table contains" in output
    assert "restarts                2" in output


@pytest.mark.parametrize(
    ("hints", "host", "embedded", "expected"),
    [
        (HOST, "127.0.0.1", True, ".venv/bin/datasync-sandbox db psql"),
        (HOST, "db.test", False, "psql -h db.test -p 5432 -U 'my user' -d 'sa'\"'\"'les'"),
        (HOST, "/run/pg", False, "psql -h /run/pg -p 5432 -U 'my user' -d 'sa'\"'\"'les'"),
        (
            CONTAINER,
            "postgres",
            False,
            "docker compose exec postgres psql --username 'my user' 'sa'\"'\"'les'",
        ),
        (CONTAINER, "db.test", False, None),
    ],
)
def test_query_hint_is_quoted_and_contains_no_password(
    hints: Hints,
    host: str,
    embedded: bool,  # noqa: FBT001 - a case of the table
    expected: str | None,
) -> None:
    settings = DatabaseSettings(host, 5432, "my user", "hunter2", "sa'les")
    assert hints.query(settings, embedded=embedded) == expected


def test_hints_in_container_use_compose() -> None:
    assert Hints.from_environment({"DATASYNC_CONTAINER": "1"}) == CONTAINER
    assert Hints.from_environment({}) == HOST
    assert HOST.log(LOG) == ".run/log/x.log"
    assert CONTAINER.log(LOG) == "docker compose cp ingestion:/app/.run/log ."
    assert "Ctrl-C" in HOST.stop
    assert "docker compose stop ingestion" in CONTAINER.stop
    assert "rm -r .sandbox" in HOST.removal(embedded=True)
    assert HOST.removal(embedded=False) == ""
