"""The same Singer stream through the stock target and through ours gives the same tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from target_helpers import (
    Database,
    event,
    lines,
    page_row,
    raw_stdin,
    record,
    rejection,
    schemas,
    start,
    state_message,
    states,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from target_config.target import TargetPostgresCheckpoint

    Make = Callable[..., TargetPostgresCheckpoint]

TABLES = ("events", "rejected_events", "pages")


def test_stock_and_ours_fill_the_same_tables(
    database: Database, make_target: Make, tmp_path: Path
) -> None:
    """The unchanged executable, into tables that our SQL has made: equal rows, equal types.

    One difference is the stock target's own: an object that is null becomes the JSON value null
    there, and NULL here.
    """
    rows = [event(number) for number in range(25)]
    rows += [
        event(
            100, properties={"q": 'tab\t quote" back\\slash ü €', "n": 0.125, "deep": [{"a": None}]}
        ),
        event(101, name=None, timestamp=None, user_id=""),
        event(102, properties=None, session={}),
        event(3, type="scroll"),
    ]
    stream = lines(
        [
            *schemas(),
            *(record("events", row) for row in rows),
            *(record("rejected_events", rejection(number)) for number in range(3)),
            record("pages", page_row(1, 27)),
            state_message(27),
        ]
    )
    stock: dict[str, Any] = {
        "default_target_schema": "stock",
        "use_copy": True,
        "add_record_metadata": False,
        "activate_version": False,
        "validate_records": False,
    }
    make_target(default_target_schema="stock").prepare()
    loader = start(database, tmp_path, program="target-postgres", **stock)
    output, errors = loader.communicate(stream)
    assert loader.returncode == 0, errors
    assert len(states(output)) == 1
    make_target(default_target_schema="ours").listen(raw_stdin(stream))
    for table in TABLES:
        contents = {
            schema: database.rows(
                f"SELECT to_jsonb(t) - 'ingested_at' FROM {schema}.{table} AS t ORDER BY 1"
            )
            for schema in ("stock", "ours")
        }
        types = {
            schema: database.rows(
                "SELECT column_name, data_type, column_default FROM information_schema.columns "
                f"WHERE (table_schema, table_name) = ('{schema}', '{table}') "
                "ORDER BY ordinal_position"
            )
            for schema in ("stock", "ours")
        }
        assert contents["stock"] == contents["ours"]
        assert types["stock"] == types["ours"]
        assert contents["ours"]
    null = "SELECT properties IS NULL FROM {}.events WHERE id = 'event-102'"
    assert (database.value(null.format("stock")), database.value(null.format("ours"))) == (
        False,
        True,
    )
