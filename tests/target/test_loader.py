"""COPY, the upsert of existing rows, and the encoding of COPY text."""

from __future__ import annotations

import io
import json
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import BIGINT, TEXT
from target_config import sink
from target_config.errors import InvalidDataError
from target_config.sink import CheckpointSink, CopyEncoder
from target_helpers import (
    Database,
    Make,
    event,
    lines,
    record,
    schemas,
    state_message,
    stdin,
)

PLAIN = ""
PARTITIONED = """
    CREATE TABLE events (
        id TEXT PRIMARY KEY, session_id TEXT, user_id TEXT, type TEXT, name TEXT, properties JSONB,
        timestamp TIMESTAMPTZ, session JSONB, ingested_at TIMESTAMPTZ DEFAULT now()
    ) PARTITION BY HASH (id);
    CREATE TABLE events_0 PARTITION OF events FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE events_1 PARTITION OF events FOR VALUES WITH (MODULUS 2, REMAINDER 1);
"""

VERSIONS = "SELECT id, name, ctid::text, xmin::text, ingested_at FROM events ORDER BY id"


def page(number: int, *rows: dict[str, Any]) -> list[dict[str, Any]]:
    return [*(record("events", row) for row in rows), state_message(number)]


def pages(*keys: tuple[int, ...]) -> list[dict[str, Any]]:
    """Return a page for each group of keys; the name of an event is its page."""
    messages = schemas()
    for number, group in enumerate(keys):
        messages += page(number, *(event(key, name=f"page {number}") for key in group))
    return messages


@pytest.mark.parametrize("ddl", [PLAIN, PARTITIONED], ids=["plain", "partitioned"])
class TestUpsert:
    """On a plain table and on one that was partitioned by the key beforehand."""

    def test_unchanged_row_is_not_written(
        self, database: Database, make_target: Make, ddl: str
    ) -> None:
        database.execute(ddl)
        messages = [*schemas(), *page(1, *(event(number) for number in range(20)))]
        make_target().load(stdin(messages))
        before = database.rows(VERSIONS)
        make_target().load(stdin(messages))
        assert database.rows(VERSIONS) == before
        assert len(before) == 20

    def test_changed_row_is_updated_and_keeps_ingested_at(
        self, database: Database, make_target: Make, ddl: str
    ) -> None:
        database.execute(ddl)
        make_target().load(stdin([*schemas(), *page(1, event(1), event(2))]))
        before = database.rows(VERSIONS)
        changed = event(1, name="changed", properties=None)
        make_target().load(stdin([*schemas(), *page(2, changed, event(2), event(3))]))
        after = database.rows(VERSIONS)
        assert [row[:2] for row in after] == [
            ("event-1", "changed"),
            ("event-2", event(2)["name"]),
            ("event-3", event(3)["name"]),
        ]
        assert after[0][4] == before[0][4]
        assert after[1] == before[1]
        assert database.value("SELECT properties IS NULL FROM events WHERE id = 'event-1'")

    def test_last_row_of_a_key_wins(self, database: Database, make_target: Make, ddl: str) -> None:
        """Within a page, between pages, and for a page that was copied directly before."""
        database.execute(ddl)
        make_target().load(stdin(pages((1,), (2, 3, 2), (3, 4, 3), (5, 5))))
        assert database.rows("SELECT id, name FROM events ORDER BY id") == [
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
    assert database.rows("SELECT count(*), (SELECT count(*) FROM checkpoint) FROM events") == [
        (100, 0)
    ]


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
        (b'{"id": "a", "properties": {"x": "\\u0000"}}', "unsupported Unicode escape sequence"),
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
    assert caught.value.exit_code == 3
    assert database.rows(
        "SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM checkpoint)"
    ) == [(0, 0)]


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
