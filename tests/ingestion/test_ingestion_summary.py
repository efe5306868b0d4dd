"""The summary says what there is, what was expected, and how to look at it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from datasync_ingestion.settings import Database
from datasync_ingestion.summary import Summary

SUMMARY = Summary(
    in_table=20_000,
    before=5_000,
    reported=20_000,
    rejected=3,
    seconds=30.0,
    restarts=0,
    database=Database("127.0.0.1", 54329, "datasync", "sandbox", "events"),
    embedded=True,
    log=Path(".run/log/x.log"),
)


def text(summary: Summary) -> str:
    return "\n".join(summary.lines())


def test_numbers_and_the_way_to_look() -> None:
    said = text(SUMMARY)
    assert "events in the table     20,000 (15,000 new)" in said
    assert "events the API reports  20,000" in said
    assert "rejected events         3" in said
    assert "duration                30 s" in said
    assert "speed                   500 events/s" in said
    assert "datasync-sandbox db psql" in said
    assert "psql postgresql://datasync:sandbox@127.0.0.1:54329/events" in said
    assert ".run/log/x.log" in said
    assert "--stop" in said
    assert "more than the table holds" not in said
    assert "restarts" not in said


def test_a_run_that_found_nothing_new_has_no_speed() -> None:
    assert "speed" not in text(replace(SUMMARY, before=20_000))


def test_events_that_are_missing_are_said_to_be() -> None:
    said = text(replace(SUMMARY, reported=20_001, restarts=2))
    assert "The API reports 1 event more than the table holds." in said
    assert "restarts                2" in said


def test_a_database_of_the_users_own_is_shown_without_its_password() -> None:
    theirs = Database("db.test", 5432, "loader", "hunter2", "sales")
    said = text(replace(SUMMARY, database=theirs, embedded=False, reported=None))
    assert "psql -h db.test -p 5432 -U loader sales" in said
    assert "hunter2" not in said
    assert "sandbox" not in said
    assert "events the API reports  not told" in said
