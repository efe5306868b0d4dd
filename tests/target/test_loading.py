"""Rows: COPY, the upsert of existing rows, COPY text, and records that the SDK transforms."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import BIGINT, TEXT
from target_config import sink
from target_config.errors import InvalidDataError, TargetError
from target_config.sink import CheckpointSink, CopyEncoder

from tests.target.target_helpers import (
    NOW,
    STREAMS,
    Make,
    event,
    lines,
    page,
    page_row,
    record,
    schemas,
    start,
    state_message,
    states,
    stdin,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.helpers import Database

PARTITIONED = """
    CREATE TABLE events (
        id TEXT PRIMARY KEY, session_id TEXT, user_id TEXT, type TEXT, name TEXT, properties JSONB,
        timestamp TIMESTAMPTZ, session JSONB, ingested_at TIMESTAMPTZ DEFAULT now()
    ) PARTITION BY HASH (id);
    CREATE TABLE events_0 PARTITION OF events FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE events_1 PARTITION OF events FOR VALUES WITH (MODULUS 2, REMAINDER 1);
"""

VERSIONS = "SELECT id, name, ctid::text, xmin::text, ingested_at FROM events ORDER BY id"


def pages(*keys: tuple[int, ...]) -> list[dict[str, Any]]:
    """Return a page for each group of keys; the name of an event is its page."""
    messages = schemas()
    for number, group in enumerate(keys):
        messages += page(number, *(event(key, name=f"page {number}") for key in group))
    return messages


@pytest.fixture(params=["", PARTITIONED], ids=["plain", "partitioned"])
def any_database(database: Database, request: pytest.FixtureRequest) -> Database:
    """With a plain table, and with one that was partitioned by the key beforehand."""
    database.execute(request.param)
    return database


def test_changed_row_is_updated_and_unchanged_row_is_not_written(
    any_database: Database, make_target: Make
) -> None:
    make_target().load(stdin([*schemas(), *page(1, event(1), event(2))]))
    before = any_database.rows(VERSIONS)
    changed = event(1, name="changed", properties=None)
    messages = [*schemas(), *page(2, changed, event(2), event(3))]
    make_target().load(stdin(messages))
    after = any_database.rows(VERSIONS)
    assert [row[:2] for row in after] == [
        ("event-1", "changed"),
        ("event-2", event(2)["name"]),
        ("event-3", event(3)["name"]),
    ]
    assert after[0][4] == before[0][4], "ingested_at stays"
    assert after[1] == before[1]
    assert any_database.value("SELECT properties IS NULL FROM events WHERE id = 'event-1'")
    make_target().load(stdin(messages))
    assert any_database.rows(VERSIONS) == after


def test_last_row_of_a_key_wins(any_database: Database, make_target: Make) -> None:
    """Within a page, between pages, and for a page that was copied directly before."""
    make_target().load(stdin(pages((1,), (2, 3, 2), (3, 4, 3), (5, 5))))
    assert any_database.rows("SELECT id, name FROM events ORDER BY id") == [
        ("event-1", "page 0"),
        ("event-2", "page 1"),
        ("event-3", "page 2"),
        ("event-4", "page 2"),
        ("event-5", "page 3"),
    ]


def test_pages_of_new_rows_are_copied_into_the_table(database: Database, make_target: Make) -> None:
    """A direct COPY that fails on an existing key loses no row, and is not retried at once."""
    messages = schemas()
    for number, keys in enumerate([(1, 2), (3, 4), (5, 1), (6, 2), (7, 8), (9, 10), (11,)]):
        messages += page(number, *map(event, keys))
    make_target().load(stdin(messages))
    rows = database.rows(
        "SELECT substr(id, 7)::int, (ctid::text::point)[1]::int FROM events ORDER BY ctid"
    )
    # A COPY that failed leaves dead rows, so the positions show what was tried: (5, 1) directly;
    # (6, 2), and (7, 8), which is without conflict, through the staging table.
    direct = [(3, 3), (4, 4), (9, 11), (10, 12), (11, 13)]
    staged = [(1, 1), (2, 2), (5, 7), (6, 8), (7, 9), (8, 10)]
    assert rows == sorted(direct + staged, key=lambda row: row[1])


def test_handles_key_conflict_reported_as_internal_error(
    database: Database, make_target: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Citus, a COPY that violates the key fails with XX000 instead of 23505."""
    copy = CheckpointSink._copy

    def copy_on_citus(self: CheckpointSink, connection: Any, statement: Any, rows: Any) -> None:
        try:
            copy(self, connection, statement, rows)
        except psycopg.errors.UniqueViolation as error:
            raise psycopg.errors.InternalError_(str(error)) from error

    monkeypatch.setattr(CheckpointSink, "_copy", copy_on_citus)
    make_target().load(stdin(pages((1,), (2,), (2, 3))))
    assert database.rows("SELECT id, name FROM events ORDER BY id") == [
        ("event-1", "page 0"),
        ("event-2", "page 2"),
        ("event-3", "page 2"),
    ]


def test_rows_are_written_without_a_state_when_they_take_too_much_memory(
    database: Database, make_target: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tap that sends no STATE: memory is bounded, and there is no checkpoint."""
    monkeypatch.setattr("target_config.target.MAX_BUFFERED_BYTES", 2000)
    sizes = []
    write_lines = CheckpointSink.write_lines

    def count(self: CheckpointSink, rows: list[bytes]) -> None:
        sizes.append(len(rows))
        write_lines(self, rows)

    monkeypatch.setattr(CheckpointSink, "write_lines", count)
    messages = [*schemas(), *(record("events", event(number)) for number in range(100))]
    make_target().load(stdin(messages))
    assert max(sizes) < 20
    assert database.progress() == (100, None)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"id": 5}', r'"events" does not match its schema: Expected `str \| null`'),
        # Invalid UTF-8, in a column of text and in one that stays JSON.
        (b'{"id": "\xff"}', "does not match its schema"),
        (b'{"id": "a", "properties": {"x": "\xff"}}', "does not match its schema"),
        (b'{"id": "a", "properties": {"x": nope}}', "does not match its schema"),
        (b'{"id": null}', 'refused a batch of "events": null value in column "id"'),
        (b'{"id": "a", "timestamp": "soon"}', "invalid input syntax for type timestamp"),
        (b'{"id": "a", "properties": {"x": "secret\\u0000"}}', "unsupported Unicode escape"),
        (
            b'{"id": "a", "name": "secret\\u0000"}',
            'PostgreSQL refused a batch of "events": invalid',
        ),
    ],
)
def test_invalid_record_ends_the_load_and_nothing_of_its_page_is_written(
    database: Database, make_target: Make, line: bytes, message: str
) -> None:
    """No row, no checkpoint, no STATE; the value is not quoted."""
    head = lines([*schemas(), record("events", event(1, name="secret"))])
    bad = b'{"type": "RECORD", "stream": "events", "record": ' + line + b"}\n"
    with pytest.raises(InvalidDataError, match=message) as caught:
        make_target().load(io.BytesIO(head + bad + lines([state_message(2)])))
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3
    assert database.progress() == (0, None)


TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)


def encode(encoder: CopyEncoder, rows: list[dict[str, Any]]) -> list[list[str | None]]:
    """Encode rows and read the COPY text as PostgreSQL's documentation describes it."""
    messages = [
        json.dumps({"type": "RECORD", "record": row}, ensure_ascii=False).encode() for row in rows
    ]
    text = b"".join(encoder.encode(messages)).decode()
    return [[_read(field) for field in line.split("\t")] for line in text.split("\n")[:-1]]


def _read(field: str) -> str | None:
    if field == r"\N":
        return None
    characters = iter(field)
    escapes = {"t": "\t", "n": "\n", "r": "\r", "\\": "\\"}
    return "".join(
        escapes[next(characters)] if character == "\\" else character for character in characters
    )


@given(
    st.lists(st.tuples(st.none() | TEXTS, VALUES, st.none() | st.integers() | TEXTS), max_size=7)
)
@settings(deadline=None, max_examples=200)
def test_copy_text_keeps_every_value(
    rows: list[tuple[str | None, Any, int | str | None]],
) -> None:
    """Any string, any JSON value and a property of two types; names that are not identifiers."""
    columns = {
        "a b": {"type": ["string", "null"]},
        "json": {"type": ["object", "null"]},
        "class": {"type": ["integer", "string", "null"]},
    }
    encoder = CopyEncoder("s", columns, {"a b": TEXT(), "json": JSONB(), "class": TEXT()}, ["a b"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sink, "ROWS_PER_CHUNK", 3)
        written = encode(encoder, [dict(zip(columns, row, strict=True)) for row in rows])
    assert len(written) == len(rows)
    for (string, value, mixed), fields in zip(rows, written, strict=True):
        assert fields[0] == string
        assert (None if fields[1] is None else json.loads(fields[1])) == value
        assert fields[2] == (None if mixed is None else str(mixed))


def test_keeps_last_line_of_each_composite_key() -> None:
    columns = {"a": {"type": "string"}, "b": {"type": "integer"}}
    encoder = CopyEncoder("s", columns, {"a": TEXT(), "b": BIGINT()}, ["a", "b"])
    messages = [
        b'{"record": {"a": "x", "b": 1, "c": 1}}',
        b'{"record": {"a": "x", "b": 2}}',
        b'{"record": {"a": "x", "b": 1, "c": 2}}',
    ]
    assert encoder.last_of_each_key(messages) == [messages[2], messages[1]]


SPECIAL = [
    event(
        1, name="back\\slash", user_id="tab\there", session_id="line\nbreak", type="return\rhere"
    ),
    event(2, name=r"\N", user_id="NULL", session_id="null", type=""),
    {"id": "only-an-id"},
    event(4, properties={"q": 'tab\t quote" back\\slash \\n line\nbreak', "\\": "\\\\"}),
    event(5, properties={"ü": "€ 🎉", "empty": {}, "list": [1, None, True, "x"], "null": None}),
    event(6, name="\u2028 \x7f \x1f \x0b", properties={"c": "\x01\x1f", "n": 0.125}),
    event(7, timestamp="2026-01-27T19:20:12.369Z"),
    event(8, timestamp="0001-01-01T00:00:00Z", session={}),
    event(9, name="first"),
    event(10, unknown="property"),
    event(11, properties=None, session=None),
    event(9, name="last"),
]


def rejection(number: int) -> dict[str, Any]:
    return {
        "rejection_id": f"{number:064x}",
        "errors": ["id is missing", "type is missing"],
        "raw_event": '{"name": "a\\u0000b"}',
        "page": number,
        "rejected_at": NOW,
    }


MESSAGES = [
    *schemas(),
    *(record("events", row) for row in [*SPECIAL, *(event(number) for number in range(20, 60))]),
    *(record("rejected_events", rejection(number)) for number in range(3)),
    record("rejected_events", {**rejection(3), "errors": None}),
    record("pages", page_row(1, 50)),
    state_message(50),
    # A second page, with rows of the first: changed, unchanged and new ones.
    record("events", event(9, name="changed")),
    record("events", event(20)),
    record("events", event(99)),
    record("pages", page_row(2, 53)),
    state_message(53),
]


def contents(database: Database, schema: str) -> dict[str, list[tuple[Any, ...]]]:
    return {
        table: database.rows(
            f"SELECT to_jsonb(t) - 'ingested_at' FROM \"{schema}\".{table} AS t ORDER BY 1"
        )
        for table in STREAMS
    }


IDENTITY_MAPS = {stream: {keys[0]: keys[0]} for stream, (keys, _) in STREAMS.items()}


@pytest.mark.parametrize(
    "settings",
    [{"validate_records": True}, {"use_copy": False}, {"stream_maps": IDENTITY_MAPS}],
    ids=lambda settings: next(iter(settings)),
)
def test_copied_lines_and_transformed_records_are_the_same_rows(
    database: Database, make_target: Make, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    """Row by row and column by column, special characters and nulls included."""
    make_target(default_target_schema="lines").load(stdin(MESSAGES))
    monkeypatch.setattr(CheckpointSink, "write_lines", lambda *_: pytest.fail("lines were copied"))
    make_target(default_target_schema="records", **settings).load(stdin(MESSAGES))
    assert contents(database, "records") == contents(database, "lines")
    for schema in ("lines", "records"):
        nulls = f"SELECT id FROM {schema}.events WHERE properties IS NULL AND session IS NULL"
        assert ("event-11",) in database.rows(nulls), "SQL NULL, not the JSON value"
        nulls = f"SELECT count(*) FROM {schema}.rejected_events WHERE errors IS NULL"
        assert database.value(nulls) == 1
    assert database.value("SELECT count(*) FROM lines.events WHERE ingested_at IS NULL") == 0
    assert database.rows("SELECT name FROM lines.events WHERE id = 'event-9'") == [("changed",)]


def test_stock_target_loads_the_same_rows(
    database: Database, make_target: Make, tmp_path: Path
) -> None:
    """The unchanged executable, into tables that `--apply-sql` created.

    It writes an object that is null as the JSON value null, and the first of two equal keys last.
    """
    messages = [
        message
        for message in MESSAGES
        if message["type"] != "RECORD" or None not in _objects(message["record"])
    ]
    make_target(default_target_schema="stock").load(stdin([]))
    columns = (
        "SELECT table_name, column_name, data_type, column_default FROM information_schema.columns"
        " WHERE table_schema = 'stock' ORDER BY 1, 2"
    )
    before = database.rows(columns)
    target = start(
        database,
        tmp_path,
        program="target-postgres",
        default_target_schema="stock",
        use_copy=True,
        add_record_metadata=False,
        activate_version=False,
        validate_records=False,
    )
    output, errors = target.communicate(lines(messages))
    assert target.returncode == 0, errors
    assert len(states(output)) == 1
    assert database.rows(columns) == before
    make_target(default_target_schema="ours").load(stdin(messages))
    assert contents(database, "stock") == contents(database, "ours")


def _objects(row: dict[str, Any]) -> list[Any]:
    return [row.get(name, {}) for name in ("properties", "session", "errors")]


COUNT = "SELECT count(*) FROM events"


@pytest.mark.parametrize(
    ("settings", "query", "expected"),
    [
        (
            {"stream_maps": {"events": {"user_id": "md5(user_id)"}}},
            "SELECT length(user_id) FROM events",
            32,
        ),
        (
            {"stream_maps": {"events": {"__alias__": "renamed"}}},
            "SELECT count(*) FROM renamed",
            1,
        ),
        (
            {"stream_maps": {"copied": {"__source__": "events"}}},
            "SELECT count(*) FROM events JOIN copied USING (id)",
            1,
        ),
        ({"stream_maps": {"events": {"__filter__": "id == 'x'"}}}, COUNT, 0),
        ({"stream_maps": {"events": None}}, COUNT, 0),
        ({"stream_maps": {"__else__": None}}, COUNT, 0),
        ({"stream_maps": {"pages": {"retries": "__NULL__"}}}, COUNT, 1),
        ({"add_record_metadata": True}, "SELECT count(_sdc_batched_at) FROM events", 1),
        ({"sanitize_null_text_characters": True}, "SELECT name FROM events", "a\ufffdb"),
    ],
    ids=str,
)
def test_settings_that_change_records_are_applied(
    database: Database, make_target: Make, settings: dict[str, Any], query: str, expected: object
) -> None:
    name = "a\0b" if "sanitize_null_text_characters" in settings else "name"
    make_target(**settings).load(stdin([*schemas(), *page(1, event(1, name=name))]))
    assert database.value(query) == expected
    assert database.value("SELECT events_seen FROM checkpoint") == 1


def test_nested_objects_are_flattened(database: Database, make_target: Make) -> None:
    nested = {"type": "object", "properties": {"a": {"type": ["string", "null"]}}}
    schema = {
        "type": "SCHEMA",
        "stream": "others",
        "schema": {"type": "object", "properties": {"id": {"type": "string"}, "deep": nested}},
        "key_properties": ["id"],
    }
    messages = [schema, record("others", {"id": "1", "deep": {"a": "b"}}), state_message(1)]
    make_target(flattening_enabled=True, flattening_max_depth=1).load(stdin(messages))
    assert database.rows("SELECT id, deep__a FROM others") == [("1", "b")]


@pytest.mark.parametrize(
    ("keys", "rows"), [([], 2), (["id"], 1), (["id", "tag"], 1)], ids=["none", "one", "all columns"]
)
def test_unknown_stream_gets_a_table(
    database: Database, make_target: Make, keys: list[str], rows: int
) -> None:
    """The stock sink creates the table; without a key every row is inserted."""
    properties = {"id": {"type": "string"}, "tag": {"type": "string"}}
    schema = {"type": "SCHEMA", "stream": "others", "schema": {"properties": properties}}
    row = record("others", {"id": "1", "tag": "a"})
    messages = [{**schema, "key_properties": keys}, row, state_message(1), row, state_message(2)]
    make_target().load(stdin(messages))
    assert database.rows("SELECT id, tag FROM others") == [("1", "a")] * rows


def test_other_key_than_that_of_the_table_is_refused(database: Database, make_target: Make) -> None:
    """No row is lost: the upsert needs the key, an insert without a key meets it."""
    for keys, message in (([], "duplicate key"), (["name"], "no unique or exclusion constraint")):
        events = {**schemas()[0], "key_properties": keys}
        rows = [record("events", event(1)), record("events", event(1))]
        with pytest.raises(TargetError, match=message):
            make_target().load(stdin([events, *rows, state_message(1)]))
    assert database.value("SELECT count(*) FROM checkpoint") == 0


def test_new_property_of_a_stream_becomes_a_column(database: Database, make_target: Make) -> None:
    """A SCHEMA in the middle of a load applies to the records after it."""
    before, *_ = schemas()
    after = {
        **before,
        "schema": {"properties": {**STREAMS["events"][1], "country": {"type": "string"}}},
    }
    messages = [before, record("events", event(1)), after, *page(2, event(2, country="FR"))]
    make_target().load(stdin(messages))
    assert database.rows("SELECT id, country FROM events ORDER BY id") == [
        ("event-1", None),
        ("event-2", "FR"),
    ]
