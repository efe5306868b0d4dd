"""Lines that are copied, records that the SDK transforms, the stock executable: the same rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from target_config.errors import TargetError
from target_config.sink import CheckpointSink
from target_helpers import (
    STREAMS,
    Database,
    Make,
    event,
    lines,
    page_row,
    record,
    rejection,
    schemas,
    start,
    state_message,
    states,
    stdin,
)

if TYPE_CHECKING:
    from pathlib import Path


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


@pytest.mark.parametrize(
    ("settings", "query", "expected"),
    [
        (
            {"stream_maps": {"events": {"user_id": "md5(user_id)"}}},
            "SELECT length(user_id) FROM events",
            [(32,)],
        ),
        (
            {"stream_maps": {"events": {"__alias__": "renamed"}}},
            "SELECT id FROM renamed",
            [("event-1",)],
        ),
        (
            {"stream_maps": {"copied": {"__source__": "events"}}},
            "SELECT e.id FROM events AS e JOIN copied USING (id)",
            [("event-1",)],
        ),
        ({"stream_maps": {"events": {"__filter__": "id == 'x'"}}}, "SELECT id FROM events", []),
        ({"stream_maps": {"events": None}}, "SELECT id FROM events", []),
        ({"stream_maps": {"__else__": None}}, "SELECT id FROM events", []),
        (
            {"stream_maps": {"pages": {"retries": "__NULL__"}}},
            "SELECT id FROM events",
            [("event-1",)],
        ),
        (
            {"add_record_metadata": True},
            "SELECT id FROM events WHERE _sdc_batched_at IS NOT NULL",
            [("event-1",)],
        ),
        ({"sanitize_null_text_characters": True}, "SELECT name FROM events", [("a\ufffdb",)]),
    ],
    ids=str,
)
def test_settings_that_change_records_are_applied(
    database: Database,
    make_target: Make,
    settings: dict[str, Any],
    query: str,
    expected: list[tuple[Any, ...]],
) -> None:
    name = "a\0b" if "sanitize_null_text_characters" in settings else "name"
    messages = [*schemas(), record("events", event(1, name=name)), state_message(1)]
    make_target(**settings).load(stdin(messages))
    assert database.rows(query) == expected
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
    make_target().load(
        stdin(
            [
                before,
                record("events", event(1)),
                after,
                record("events", event(2, country="FR")),
                state_message(2),
            ]
        )
    )
    assert database.rows("SELECT id, country FROM events ORDER BY id") == [
        ("event-1", None),
        ("event-2", "FR"),
    ]
