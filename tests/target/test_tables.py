"""The tables are exactly those of the design, whatever was there before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from target_config import sql
from target_config.failures import SettingsError
from target_helpers import (
    NOW,
    event,
    lines,
    raw_stdin,
    record,
    schemas,
    state,
    state_message,
    stdin,
    walk,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from target_config.target import TargetPostgresCheckpoint
    from target_helpers import Database

    Make = Callable[..., TargetPostgresCheckpoint]

TABLES = {
    "events": """
        id text, session_id text, user_id text, type text, name text, properties jsonb,
        timestamp timestamptz, session jsonb, ingested_at timestamptz now()
    """,
    "checkpoint": """
        id integer 1, next_cursor text, total_events integer, updated_at timestamptz now(),
        state jsonb, cursor_expires_at timestamptz, walk_open boolean, walk_newest timestamptz,
        walk_oldest timestamptz, complete_to timestamptz, events_seen bigint,
        events_emitted bigint, loaded_spans integer
    """,
    "rejected_events": """
        rejection_id text, event_id text, reasons jsonb, raw text, run_id text, page integer,
        rejected_at timestamptz
    """,
    "pages": """
        run_id text, page integer, requested_at timestamptz, received_at timestamptz,
        bytes bigint, events integer, emitted integer, skipped integer, rejected integer,
        retries jsonb, waited numeric, budget_limit integer, budget_remaining integer,
        budget_reset integer, cursor_expires_at timestamptz, oldest timestamptz,
        newest timestamptz, events_seen bigint, total_events bigint
    """,
}


def expected(table: str) -> list[str]:
    return [" ".join(column.split()) for column in TABLES[table].split(",")]


def columns(database: Database, table: str, schema: str = "public") -> list[str]:
    """Return name, type and default of each column, in order."""
    rows = database.rows(
        "SELECT column_name, replace(data_type, 'timestamp with time zone', 'timestamptz'), "
        "column_default FROM information_schema.columns "
        f"WHERE (table_schema, table_name) = ('{schema}', '{table}') ORDER BY ordinal_position"
    )
    return [" ".join(filter(None, row)) for row in rows]


@pytest.mark.parametrize("table", TABLES)
def test_columns_are_those_of_the_design(database: Database, make_target: Make, table: str) -> None:
    """Name, type, default and order of every column, also after a load through the stock sink."""
    make_target().listen(stdin(walk(1)))
    assert columns(database, table) == expected(table)


def test_values_arrive_in_utc_to_the_millisecond(database: Database, make_target: Make) -> None:
    """A session in another time zone reads the same instant."""
    make_target().listen(stdin([*schemas(), record("events", event(1)), state_message(1)]))
    assert database.value("SELECT timestamp = '2026-01-27 19:00:01.369+00' FROM events")
    assert database.value("SELECT now() - ingested_at < interval '1 minute' FROM events")


def test_applying_again_changes_nothing(database: Database, make_target: Make) -> None:
    """The second time nothing is altered, and no lock waits for a transaction that is writing."""
    make_target().prepare()
    catalog = """
        SELECT 'column', attrelid::regclass::text, attnum, xmin::text FROM pg_attribute
         WHERE attrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace)
        UNION ALL SELECT 'trigger', tgname, oid::int, xmin::text FROM pg_trigger
        UNION ALL SELECT 'comment', objoid::text, objsubid, xmin::text FROM pg_description
    """
    before = database.rows(catalog)
    database.execute(f"ALTER DATABASE {database.name} SET lock_timeout = '1s'")
    with database.connect() as writer, writer.transaction():
        for table in TABLES:
            # What a running load, and an autovacuum, hold at most.
            writer.execute(f"LOCK TABLE {table} IN SHARE UPDATE EXCLUSIVE MODE".encode())
            writer.execute(f"LOCK TABLE {table} IN ROW EXCLUSIVE MODE".encode())
        make_target().prepare()
    assert sorted(database.rows(catalog)) == sorted(before)


def test_replay_writes_no_row(database: Database, make_target: Make) -> None:
    """The same page again: no row version is made, and ingested_at stays."""
    versions = "SELECT id, ctid::text, xmin::text, ingested_at FROM events ORDER BY id"
    make_target().listen(stdin(walk(2)))
    before = database.rows(versions)
    make_target().listen(stdin(walk(2)))
    assert database.rows(versions) == before
    assert len(before) == 20


def test_a_page_is_joined_by_the_key_and_no_table_is_read_as_a_whole(
    database: Database, make_target: Make
) -> None:
    """PostgreSQL's own choice for a table of this size would read all of it, twice a page."""
    target = make_target()
    target.prepare()
    database.execute(
        "INSERT INTO events (id, name) SELECT 'old-' || n, n FROM generate_series(1, 5000) AS n;"
        "CREATE TABLE scans (whole BIGINT, by_key BIGINT);"
        "CREATE FUNCTION note() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN"
        " INSERT INTO scans SELECT seq_scan, idx_scan FROM pg_stat_xact_user_tables"
        " WHERE relid = TG_RELID; RETURN NULL; END $$;"
        "CREATE TRIGGER note AFTER INSERT OR UPDATE ON events EXECUTE FUNCTION note()"
    )
    target.listen(stdin(walk(1)))
    inserted, updated = database.rows("SELECT whole, by_key FROM scans ORDER BY by_key")
    assert inserted == (0, 10)
    assert updated == (0, 20)


def test_changed_event_is_updated_and_keeps_its_first_time(
    database: Database, make_target: Make
) -> None:
    """An event that comes with other content is written over; ingested_at is of the first time."""
    make_target().listen(stdin(walk(1)))
    first = database.value("SELECT ingested_at FROM events WHERE id = 'event-3'")
    make_target().listen(
        stdin([*schemas(), record("events", event(3, type="scroll")), state_message(1)])
    )
    assert database.rows("SELECT type, ingested_at FROM events WHERE id = 'event-3'") == [
        ("scroll", first)
    ]


def test_null_object_is_sql_null(database: Database, make_target: Make) -> None:
    """A field that the tap could not read is NULL, not the JSON value null."""
    make_target().listen(
        stdin([*schemas(), record("events", event(1, properties=None)), state_message(1)])
    )
    assert database.value("SELECT properties IS NULL FROM events")


@pytest.mark.parametrize(
    "text", ["0.12345678901234567890123", "1e400", "-0.10", "123456789012345678901234567890"]
)
def test_numbers_keep_every_digit(database: Database, make_target: Make, text: str) -> None:
    """JSONB holds numbers exactly; nothing on the way makes floats of them."""
    message = record("events", event(1, properties={"n": "@"}))
    text_of_messages = lines([*schemas(), message, state_message(1)])
    make_target().listen(raw_stdin(text_of_messages.replace(b'"@"', text.encode())))
    assert database.value(f"SELECT (properties ->> 'n') = '{text}'::numeric::text FROM events")


def test_checkpoint_while_a_walk_is_open(database: Database, make_target: Make) -> None:
    """The columns say what the STATE says: cursor, expiry, span and progress."""
    make_target().listen(stdin([state_message(40, 100)]))
    assert database.rows(
        "SELECT id, next_cursor, total_events, cursor_expires_at = '2026-02-01 00:00:00.125+00', "
        "walk_open, walk_newest IS NOT NULL, walk_oldest = '2026-01-01+00', complete_to, "
        "events_seen, events_emitted, loaded_spans FROM checkpoint"
    ) == [(1, "cursor-40", 100, True, True, True, True, None, 40, 40, 0)]
    assert database.value("SELECT state FROM checkpoint") == state(40, 100)


def test_checkpoint_after_a_finished_walk(database: Database, make_target: Make) -> None:
    """No cursor, no open walk, complete up to the newest event; one row still."""
    make_target().listen(stdin([state_message(40, 100), state_message(100, 100, done=True)]))
    assert database.rows(
        "SELECT next_cursor, total_events, cursor_expires_at, walk_open, walk_newest, walk_oldest, "
        f"complete_to = '{NOW}', events_seen FROM checkpoint"
    ) == [(None, 100, None, False, None, None, True, 100)]


@pytest.mark.parametrize(
    "value",
    [
        {},
        {
            "bookmarks": {
                "events": {"cursor_expires_at": "soon", "total_events": "many", "loaded": 3}
            }
        },
        {"a": 1.5},
    ],
)
def test_a_state_of_another_tap_never_stops_the_load(
    database: Database, make_target: Make, value: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot be derived is NULL; the STATE is stored and printed as it came."""
    make_target().listen(stdin([{"type": "STATE", "value": value}]))
    assert database.rows("SELECT state, cursor_expires_at, total_events FROM checkpoint") == [
        (value, None, None)
    ]
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_two_accounts_in_two_schemas(database: Database, make_target: Make) -> None:
    """Each schema has tables, trigger and checkpoint of its own; a name may need quotes."""
    make_target().listen(stdin(walk(1)))
    make_target(default_target_schema="Second account").listen(
        stdin([*walk(2)[:-1], state_message(7)])
    )
    assert database.rows("SELECT events_seen FROM checkpoint") == [(10,)]
    assert database.rows('SELECT events_seen, walk_open FROM "Second account".checkpoint') == [
        (7, True)
    ]
    assert database.value('SELECT count(*) FROM "Second account".events') == 20
    assert columns(database, "events", "Second account") == expected("events")


@pytest.mark.parametrize("value", [None, ""])
def test_no_schema_is_the_default_one(
    database: Database, make_target: Make, value: str | None
) -> None:
    """Rows and checkpoint, though a schema of the user's own comes first in the search path."""
    database.execute("CREATE SCHEMA AUTHORIZATION CURRENT_USER")
    make_target(default_target_schema=value).listen(stdin(walk(1)))
    assert database.rows(
        "SELECT DISTINCT schemaname FROM pg_tables WHERE schemaname !~ '^(pg_|information_schema)'"
    ) == [("public",)]
    assert database.rows(
        "SELECT count(*), (SELECT events_seen FROM public.checkpoint) FROM public.events"
    ) == [(10, 10)]


def test_tables_of_the_stock_target_are_converted(
    database: Database, make_target: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """Columns that the stock target made are converted without loss, and the log says so."""
    database.execute(
        "CREATE TABLE events (id TEXT PRIMARY KEY, session_id TEXT, user_id UUID, "
        "type VARCHAR(20), name TEXT, properties JSONB, timestamp TIMESTAMP, session JSONB);"
        "INSERT INTO events (id, timestamp) VALUES ('old', '2026-01-27 19:20:12.369');"
        "CREATE TABLE checkpoint (id INTEGER PRIMARY KEY DEFAULT 1, next_cursor TEXT, "
        "total_events INTEGER, updated_at TIMESTAMPTZ DEFAULT now())"
    )
    database.execute(f"ALTER DATABASE {database.name} SET timezone TO 'Asia/Tokyo'")
    make_target().listen(stdin(walk(1)))
    assert columns(database, "events") == expected("events")
    assert columns(database, "checkpoint") == expected("checkpoint")
    assert database.rows(
        "SELECT timestamp = '2026-01-27 19:20:12.369+00', ingested_at FROM events WHERE id = 'old'"
    ) == [(True, None)]
    assert "Column timestamp of table events is converted" in caplog.text


@pytest.mark.parametrize(
    ("ddl", "sentence"),
    [
        (
            "CREATE TABLE events (id TEXT PRIMARY KEY, timestamp TEXT)",
            "Column timestamp of table events has type text",
        ),
        (
            "CREATE TABLE events (id TEXT, type TEXT)",
            "Table events has the primary key none where (id) is needed",
        ),
    ],
)
def test_a_table_that_cannot_be_converted_is_refused(
    database: Database, make_target: Make, ddl: str, sentence: str
) -> None:
    """One sentence that says what to do, and nothing is changed."""
    database.execute(ddl)
    before = columns(database, "events")
    with pytest.raises(SettingsError, match="rename or drop that table") as caught:
        make_target().prepare()
    assert sentence in str(caught.value)
    assert columns(database, "events") == before


def test_sql_is_found_in_a_wheel_and_in_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wheel carries the files inside the package; a checkout has them at target-config/sql."""
    visible = [file.name for file in sql.files()]
    assert visible == sorted(visible)
    assert "10_events.sql" in visible
    (tmp_path / "sql").mkdir()
    (tmp_path / "sql" / "01_packed.sql").touch()
    monkeypatch.setattr("target_config.sql.resources.files", lambda _: tmp_path)
    assert [file.name for file in sql.files()] == ["01_packed.sql"]
