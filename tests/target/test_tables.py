"""Tables are created from the SQL files, and compared with them before a load."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest
from target_config import tables
from target_config.errors import SettingsError

from tests.target.target_helpers import (
    NOW,
    event,
    lines,
    page,
    scan,
    schemas,
    state,
    state_message,
    stdin,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.helpers import Database
    from tests.target.target_helpers import Make

TABLES = {
    "events": """
        id text, session_id text, user_id text, type text, name text, properties jsonb,
        timestamp timestamptz, session jsonb, ingested_at timestamptz now()
    """,
    "checkpoint": """
        id integer 1, next_cursor text, total_events integer, updated_at timestamptz now(),
        state jsonb, cursor_expires_at timestamptz, scan_in_progress boolean,
        scan_newest_at timestamptz, scan_oldest_at timestamptz, high_watermark timestamptz,
        events_seen bigint, events_emitted bigint, events_expected bigint,
        loaded_range_count integer
    """,
    "rejected_events": """
        rejection_id text, event_id text, errors jsonb, raw_event text, sync_id text, page integer,
        rejected_at timestamptz
    """,
    "pages": """
        sync_id text, page integer, requested_at timestamptz, received_at timestamptz,
        response_bytes bigint, events integer, emitted integer, skipped integer, rejected integer,
        retries jsonb, rate_limit_wait_seconds numeric, rate_limit integer,
        rate_limit_remaining integer, rate_limit_reset_seconds integer,
        cursor_expires_at timestamptz, oldest_event_at timestamptz, newest_event_at timestamptz,
        events_seen bigint, events_expected bigint, total_events bigint, incremental_to timestamptz
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


def test_columns_match_documentation(database: Database, make_target: Make) -> None:
    """Name, type, default and order of every column, after a load."""
    make_target().load(stdin(scan(1)))
    for table in TABLES:
        assert columns(database, table) == expected(table)
    assert set(tables.tables()) == set(TABLES)


def test_every_table_and_column_has_a_comment(database: Database, make_target: Make) -> None:
    make_target().load(stdin([]))
    assert (
        database.rows(
            "SELECT c.oid::regclass, a.attname FROM pg_class AS c JOIN pg_attribute AS a "
            "ON a.attrelid = c.oid AND a.attnum > 0 WHERE c.relnamespace = 'public'::regnamespace "
            "AND c.relkind = 'r' AND (col_description(c.oid, a.attnum) IS NULL "
            "OR obj_description(c.oid, 'pg_class') IS NULL)"
        )
        == []
    )


def test_second_start_writes_nothing_and_takes_no_lock(
    database: Database, make_target: Make
) -> None:
    """It succeeds where writing is not possible and every table is locked."""
    make_target().load(stdin([]))
    with database.connect() as other, other.transaction():
        for table in TABLES:
            other.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE".encode())
        database.execute(
            f"ALTER DATABASE {database.name} SET lock_timeout = '1s';"
            f"ALTER DATABASE {database.name} SET default_transaction_read_only = on"
        )
        make_target().load(stdin([]))


def test_changed_sql_is_applied_to_an_existing_database(
    database: Database, make_target: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For example a changed comment or function; the rows are kept."""
    make_target().load(stdin(scan(1)))
    changed = tables.script() + "COMMENT ON TABLE events IS 'changed';"
    monkeypatch.setattr(tables, "script", lambda: changed)
    make_target().load(stdin([]))
    assert database.rows("SELECT obj_description('events'::regclass), count(*) FROM events") == [
        ("changed", 10)
    ]


def test_dropped_table_and_trigger_are_created_again(database: Database, make_target: Make) -> None:
    make_target().load(stdin([]))
    database.execute("DROP TABLE pages; DROP TRIGGER checkpoint_from_state ON checkpoint")
    make_target().load(stdin(scan(1)))
    assert columns(database, "pages") == expected("pages")
    assert database.value("SELECT events_seen FROM checkpoint") == 10


@pytest.mark.parametrize(
    ("ddl", "message"),
    [
        (
            "CREATE TABLE events (id TEXT PRIMARY KEY, timestamp TIMESTAMPTZ)",
            "Table public.events has no column session_id",
        ),
        ("CREATE VIEW pages AS SELECT 1 AS page", "Table public.pages is not a table"),
        (
            "ALTER TABLE events DROP CONSTRAINT events_pkey",
            "Table public.events has no primary key instead of (id)",
        ),
        (
            "ALTER TABLE events DROP CONSTRAINT events_pkey, ADD PRIMARY KEY (id, name)",
            "has the primary key (id, name) instead of (id)",
        ),
        (
            "ALTER TABLE events ALTER timestamp TYPE TIMESTAMP",
            "timestamp of type timestamp without time zone instead of timestamp with time zone",
        ),
        (
            "ALTER TABLE events ALTER ingested_at DROP DEFAULT",
            "Table public.events has column ingested_at without a default",
        ),
        (
            "ALTER TABLE checkpoint RENAME scan_in_progress TO scan_open",
            "Table public.checkpoint has no column scan_in_progress",
        ),
    ],
)
def test_other_table_of_the_same_name_is_refused(
    database: Database, make_target: Make, ddl: str, message: str
) -> None:
    """One message that names table and column, exit code 2, and nothing is changed."""
    if ddl.startswith("ALTER"):
        make_target().load(stdin([]))
    database.execute(ddl)
    relations = (
        "SELECT oid::regclass::text FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    )
    before = database.rows(relations)
    with pytest.raises(
        SettingsError, match="change, rename or drop it, then start again"
    ) as caught:
        make_target().load(stdin([]))
    assert message in str(caught.value)
    assert caught.value.exit_code == 2
    assert database.rows(relations) == before


def test_accepts_additional_columns(database: Database, make_target: Make) -> None:
    make_target().load(stdin([]))
    database.execute("ALTER TABLE events ADD COLUMN mine TEXT DEFAULT 'x'")
    make_target().load(stdin(scan(1)))
    assert database.value("SELECT count(*) FROM events WHERE mine = 'x'") == 10


@pytest.mark.parametrize(
    ("privileges", "schema"), [("CREATE, USAGE ON SCHEMA public", "public"), (None, "other")]
)
def test_missing_create_privilege_is_reported_with_the_grant(
    database: Database, make_target: Make, privileges: str | None, schema: str
) -> None:
    """Once the tables are there, the privilege is not needed."""
    privileges = privileges or f"CREATE ON DATABASE {database.name}"
    user = database.cluster.user
    revoke = f"REVOKE {privileges.replace(', USAGE', '')} FROM {user}"
    grant = f"GRANT {privileges} TO {user};"
    database.execute(revoke)
    try:
        with pytest.raises(SettingsError) as caught:
            make_target(default_target_schema=schema).load(stdin(scan(1)))
        assert f"Run as its owner: {grant}" in str(caught.value)
        database.execute(grant)
        make_target(default_target_schema=schema).load(stdin([]))
        database.execute(revoke)
        make_target(default_target_schema=schema).load(stdin(scan(1)))
    finally:
        database.execute(grant)
    assert database.value(f"SELECT count(*) FROM {schema}.events") == 10


def test_database_of_another_encoding_is_refused(database: Database, make_target: Make) -> None:
    database.execute("DROP DATABASE IF EXISTS ascii")
    database.execute("CREATE DATABASE ascii TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'")
    with pytest.raises(SettingsError, match="has the encoding SQL_ASCII: create it with ENCODING"):
        make_target(database="ascii").load(stdin([]))


def test_values_keep_their_precision(database: Database, make_target: Make) -> None:
    """A timestamp to the millisecond, in UTC."""
    make_target().load(stdin([*schemas(), *page(1)]))
    assert database.value("SELECT timestamp = '2026-01-27 19:00:01.369+00' FROM events")
    assert database.value("SELECT now() - ingested_at < interval '1 minute' FROM events")


@pytest.mark.parametrize("settings", [{}, {"use_copy": False}], ids=["lines", "records"])
def test_numbers_keep_every_digit(
    database: Database, make_target: Make, settings: dict[str, Any]
) -> None:
    """JSONB stores numbers exactly; nothing on the way converts them to floats."""
    numbers = ["0.12345678901234567890123", "1e400", "-0.10", "123456789012345678901234567890"]
    rows = [event(index, properties={"n": f"@{index}"}) for index in range(len(numbers))]
    text = lines([*schemas(), *page(1, *rows)])
    for index, number in enumerate(numbers):
        text = text.replace(f'"@{index}"'.encode(), number.encode())
    make_target(**settings).load(io.BytesIO(text))
    stored = database.rows("SELECT properties ->> 'n' FROM events ORDER BY id")
    assert stored == [database.rows(f"SELECT '{number}'::numeric::text")[0] for number in numbers]


def test_checkpoint_during_scan(database: Database, make_target: Make) -> None:
    """The columns are those of the STATE."""
    make_target().load(stdin([state_message(40, 100)]))
    assert database.rows(
        "SELECT id, next_cursor, total_events, cursor_expires_at = '2026-02-01 00:00:00.125+00', "
        "scan_in_progress, scan_newest_at IS NOT NULL, scan_oldest_at = '2026-01-01+00', "
        "high_watermark, events_seen, events_emitted, events_expected, loaded_range_count "
        "FROM checkpoint"
    ) == [(1, "cursor-40", 100, True, True, True, True, None, 40, 40, 100, 0)]
    assert database.value("SELECT state FROM checkpoint") == state(40, 100)


def test_checkpoint_after_finished_scan(database: Database, make_target: Make) -> None:
    """No cursor, no scan in progress, the high watermark at the newest event; still one row."""
    make_target().load(stdin([state_message(40, 100), state_message(100, 100, done=True)]))
    assert database.rows(
        "SELECT next_cursor, total_events, cursor_expires_at, scan_in_progress, scan_newest_at, "
        f"scan_oldest_at, high_watermark = '{NOW}', events_seen FROM checkpoint"
    ) == [(None, 100, None, False, None, None, True, 100)]


def test_checkpoint_counts_loaded_ranges(database: Database, make_target: Make) -> None:
    """A scan is in progress as soon as it has emitted a page, also without a cursor."""
    value = state(1)
    value["bookmarks"]["events"] |= {"cursor": None, "loaded_ranges": [{}, {}]}
    make_target().load(stdin([{"type": "STATE", "value": value}]))
    assert database.rows("SELECT loaded_range_count, scan_in_progress FROM checkpoint") == [
        (2, True)
    ]


@pytest.mark.parametrize(
    "bookmark",
    [
        None,
        {"cursor_expires_at": "soon", "total_events": "many", "loaded_ranges": 3},
        {"total_events": 10**30, "events_seen": 0.5, "high_watermark": {}},
        [],
    ],
    ids=str,
)
def test_state_of_another_tap_does_not_stop_the_load(
    database: Database,
    make_target: Make,
    bookmark: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Columns that cannot be derived are NULL; the STATE is stored and printed unchanged."""
    value = {"bookmarks": {"events": bookmark}}
    make_target().load(stdin([{"type": "STATE", "value": value}]))
    assert database.rows("SELECT state, cursor_expires_at, total_events FROM checkpoint") == [
        (value, None, None)
    ]
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_two_accounts_load_into_two_schemas(database: Database, make_target: Make) -> None:
    """Each schema has tables, trigger and checkpoint of its own; a name may need quotes."""
    make_target().load(stdin(scan(1)))
    make_target(default_target_schema="Second account").load(stdin([*scan(2), state_message(7)]))
    assert database.rows("SELECT events_seen FROM checkpoint") == [(10,)]
    assert database.rows(
        'SELECT events_seen, scan_in_progress FROM "Second account".checkpoint'
    ) == [(7, True)]
    assert database.value('SELECT count(*) FROM "Second account".events') == 20
    assert columns(database, "events", "Second account") == expected("events")


@pytest.mark.parametrize("value", [None, ""])
def test_null_or_empty_schema_means_default(
    database: Database, make_target: Make, value: str | None
) -> None:
    """Rows and checkpoint are in public even if another schema is first in the search path."""
    database.execute("CREATE SCHEMA AUTHORIZATION CURRENT_USER")
    make_target(default_target_schema=value).load(stdin(scan(1)))
    assert database.rows(
        "SELECT DISTINCT schemaname FROM pg_tables WHERE schemaname !~ '^(pg_|information_schema)'"
    ) == [("public",)]
    assert database.rows(
        "SELECT count(*), (SELECT events_seen FROM public.checkpoint) FROM public.events"
    ) == [(10, 10)]


def test_sql_is_found_in_a_wheel_and_in_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wheel contains the files inside the package; a checkout has them at target-config/sql."""
    read = tables.script.__wrapped__
    assert "CREATE TABLE IF NOT EXISTS events (" in read()
    monkeypatch.setattr("target_config.tables.resources.files", lambda _: tmp_path)
    (tmp_path / "sql").mkdir()
    with pytest.raises(FileNotFoundError, match="the installation is broken"):
        read()
    (tmp_path / "sql" / "02_later.sql").write_text("second")
    (tmp_path / "sql" / "01_packed.sql").write_text("first")
    assert read() == "first\nsecond"
