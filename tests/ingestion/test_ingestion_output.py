"""The summary and the hints."""

from __future__ import annotations

from dataclasses import replace

import pytest
from datasync_ingestion.output import Hints, Summary
from datasync_monitor.database import DatabaseSettings

HOST, CONTAINER = Hints(), Hints(in_container=True)
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


def test_summary_of_load() -> None:
    assert list(SUMMARY.lines()) == [
        "Finished.",
        "  events in the table     20,000 (15,000 new)",
        "  events in the API       20,000",
        "  rejected events         3",
        "  duration                30 s",
        "  throughput              500 events/s",
        "  query them with         psql",
        "  full log                .run/log/x.log",
        "The sandbox keeps running; `sh run-ingestion.sh --stop-sandbox` stops it.",
    ]


def test_summary_omits_values_without_meaning() -> None:
    changes = {"rows_before": 20_000, "total_events": None, "query": None, "sandbox_runs": False}
    assert list(replace(SUMMARY, **changes).lines()) == [
        "Finished.",
        "  events in the table     20,000 (0 new)",
        "  events in the API       not reported",
        "  rejected events         3",
        "  duration                30 s",
        "  full log                .run/log/x.log",
    ]


def test_summary_reports_restarts_and_missing_events() -> None:
    output = "\n".join(replace(SUMMARY, total_events=20_001, restarts=2).lines())
    assert "restarts                2" in output
    assert "The API reports 1 event more than the table contains" in output


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
