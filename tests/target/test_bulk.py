"""The bulk lane: the same rows as the record lane, from files that do not stay."""

from __future__ import annotations

import gzip
import io
import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import BIGINT, TEXT
from target_config import batchfiles, copytext
from target_config.copytext import CopyText
from target_config.failures import DatabaseError, InputError, SettingsError
from target_helpers import (
    STREAMS,
    Database,
    batch,
    event,
    page_row,
    record,
    rejection,
    schemas,
    state_message,
    states,
    stdin,
    write_batch,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from target_config.target import TargetPostgresCheckpoint

    Make = Callable[..., TargetPostgresCheckpoint]

AWKWARD = [
    event(
        1, name="back\\slash", user_id="tab\there", session_id="line\nbreak", type="return\rhere"
    ),
    event(2, name=r"\N", user_id="NULL", session_id="null", type=""),
    event(
        3,
        name=None,
        user_id=None,
        session_id=None,
        type=None,
        timestamp=None,
        properties=None,
        session=None,
    ),
    event(4, properties={"q": 'tab\t quote" back\\slash \\n line\nbreak', "\\": "\\\\"}),
    event(5, properties={"ü": "€ 🎉", "empty": {}, "list": [1, None, True, "x"], "null": None}),
    event(6, name="\u2028 \x7f \x1f \x0b", properties={"c": "\x01\x1f"}),
    event(7, timestamp="2026-01-27T19:20:12.369Z"),
    event(8, timestamp="0001-01-01T00:00:00Z"),
]


def test_equal_to_the_record_lane(database: Database, make_target: Make, tmp_path: Path) -> None:
    """Row by row and column by column, special characters and nulls included."""
    rows = [*AWKWARD, *(event(number) for number in range(10, 60))]
    others = [
        record("rejected_events", rejection(1)),
        record("pages", page_row(1, 58)),
        state_message(58),
    ]
    make_target(default_target_schema="records").listen(
        stdin([*schemas(), *(record("events", row) for row in rows), *others])
    )
    file = write_batch(tmp_path, "page", rows)
    make_target(default_target_schema="bulk").listen(stdin([*schemas(), batch(file), *others]))
    for table in ("events", "rejected_events", "pages"):
        query = f"SELECT to_jsonb(t) - 'ingested_at' FROM {{}}.{table} AS t ORDER BY 1"
        assert database.rows(query.format("bulk")) == database.rows(query.format("records"))
    assert database.value("SELECT count(*) FROM bulk.events") == len(rows)
    assert database.value("SELECT count(*) FROM bulk.events WHERE ingested_at IS NULL") == 0
    assert not file.exists()


@pytest.mark.parametrize(
    "text", ["0.12345678901234567890123", "1e400", "-0.10", "123456789012345678901234567890"]
)
def test_numbers_keep_every_digit(
    database: Database, make_target: Make, tmp_path: Path, text: str
) -> None:
    """The JSON text is never taken apart."""
    file = write_batch(tmp_path, "page", [event(1, properties={"n": "@"})])
    file.write_text(file.read_text().replace('"@"', text))
    make_target().listen(stdin([*schemas(), batch(file), state_message(1)]))
    assert database.value(f"SELECT (properties ->> 'n') = '{text}'::numeric::text FROM events")


def test_twice_the_same_id_is_one_row(
    database: Database, make_target: Make, tmp_path: Path
) -> None:
    """In one file, in two files, and in a table that has it: the first one stays, untouched."""
    first = write_batch(
        tmp_path, "page-1", [event(1, name="first"), event(2), event(1, name="second")]
    )
    target = make_target()
    target.listen(stdin([*schemas(), batch(first), state_message(2)]))
    versions = "SELECT id, name, ctid::text, xmin::text, xmax::text FROM events ORDER BY id"
    before = database.rows(versions)
    again = [
        write_batch(tmp_path, f"page-{number}", [event(2), event(1, name="third")])
        for number in (2, 3)
    ]
    make_target().listen(stdin([*schemas(), batch(*again), state_message(3)]))
    assert database.rows(versions) == before
    assert [row[:2] for row in before] == [("event-1", "first"), ("event-2", event(2)["name"])]


def test_files_without_a_conflict_are_copied_straight_into_the_table(
    database: Database, make_target: Make, tmp_path: Path
) -> None:
    """A straight COPY that meets a key loses no row, and is not tried again right after it."""
    files = [
        write_batch(tmp_path, f"page-{number}", [event(key, name=f"page {number}") for key in keys])
        for number, keys in enumerate([(1, 2), (3, 4), (5, 1), (6, 2), (7, 8), (9, 7, 9), (10,)])
    ]
    make_target().listen(stdin([*schemas(), batch(*files), state_message(7)]))
    rows = database.rows(
        "SELECT substr(id, 7)::int, substr(name, 6)::int, (ctid::text::point)[1]::int FROM events"
        " ORDER BY ctid"
    )
    assert [row[:2] for row in rows] == [
        *((1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (6, 3), (7, 4), (8, 4), (9, 5), (10, 6))
    ]
    # A COPY that failed leaves its rows as dead ones, so the places tell what was tried: nothing
    # before page 2, both rows of page 2, none of page 3, which came after a conflict, and the
    # three rows of page 5.
    places = [place for _, _, place in rows]
    assert places == [1, 2, 3, 4, 7, 8, 9, 10, 14, 15]


def test_unknown_and_missing_keys(database: Database, make_target: Make, tmp_path: Path) -> None:
    """What the schema does not know is left out, what the line does not have is NULL."""
    file = write_batch(tmp_path, "page", [{"id": "a", "more": {"x": 1}}])
    make_target().listen(stdin([*schemas(), batch(file), state_message(1)]))
    assert database.rows("SELECT id, name, properties, ingested_at IS NOT NULL FROM events") == [
        ("a", None, None, True)
    ]


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_a_large_file_is_read_in_chunks(
    database: Database,
    make_target: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    compression: str,
) -> None:
    """Lines that lie across chunks, lines longer than one, no newline at the end, empty lines."""
    monkeypatch.setattr(copytext, "CHUNK_BYTES", 64)
    rows = [event(number, properties={"long": "x" * (number % 7) * 50}) for number in range(40)]
    file = write_batch(tmp_path, "page", rows)
    text = file.read_text().rstrip("\n").replace("\n", "\n\n", 3)
    if compression == "gzip":
        file.write_bytes(gzip.compress(text.encode()))
    else:
        file.write_text(text)
    make_target().listen(
        stdin([*schemas(), batch(file, compression=compression), state_message(40)])
    )
    assert database.rows("SELECT count(*), sum(length(properties ->> 'long')) FROM events") == [
        (40, sum(number % 7 * 50 for number in range(40)))
    ]


def test_an_empty_file_moves_the_state(
    make_target: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A page that emits nothing."""
    file = write_batch(tmp_path, "page", [])
    make_target().listen(stdin([*schemas(), batch(file), state_message(1)]))
    assert len(states(capsys.readouterr().out)) == 1
    assert not file.exists()


@pytest.mark.parametrize(
    ("line", "failure"),
    [
        ('{"id": 5}', (InputError, r"does not fit its schema: Expected `str \| null`")),
        ('{"id": "a"', (InputError, "does not fit its schema")),
        # No UTF-8, in a column of text and in one that stays JSON.
        ('{"id": "\udcff"}', (InputError, "does not fit its schema")),
        ('{"id": "a", "properties": {"x": "\udcff"}}', (InputError, "does not fit its schema")),
        (
            '{"id": null}',
            (
                DatabaseError,
                'refused the batch file page.jsonl of "events": null value in column "id"',
            ),
        ),
        (
            '{"id": "a", "timestamp": "soon"}',
            (DatabaseError, "invalid input syntax for type timestamp"),
        ),
        (
            '{"id": "a", "properties": {"x": "\\u0000"}}',
            (DatabaseError, "unsupported Unicode escape sequence"),
        ),
    ],
)
def test_a_file_that_fails_leaves_nothing_behind_but_itself(
    database: Database,
    make_target: Make,
    tmp_path: Path,
    line: str,
    failure: tuple[type[Exception], str],
) -> None:
    """No row of it, no checkpoint, no STATE; the file stays for whoever looks into it."""
    file = write_batch(tmp_path, "page", [event(1)])
    file.write_bytes(file.read_bytes() + line.encode(errors="surrogateescape") + b"\n")
    error, sentence = failure
    with pytest.raises(error, match=sentence):
        make_target().listen(stdin([*schemas(), batch(file), state_message(2)]))
    assert database.rows(
        "SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM checkpoint)"
    ) == [(0, 0)]
    assert file.exists()


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("s3://bucket/page.jsonl", "is not a local file"),
        ("file://elsewhere/page.jsonl", "is not a local file"),
        ("page.jsonl", "is not a local file"),
        ("file:///nowhere/page.jsonl", "cannot be read: No such file or directory"),
    ],
)
def test_a_file_that_is_not_here(make_target: Make, url: str, sentence: str) -> None:
    """One sentence with its name."""
    with pytest.raises(InputError, match=sentence):
        make_target().listen(stdin([*schemas(), batch(url), state_message(1)]))


def test_other_formats_are_refused(make_target: Make, tmp_path: Path) -> None:
    """Nothing is guessed."""
    file = write_batch(tmp_path, "page", [event(1)])
    with pytest.raises(InputError, match="format jsonl, compression zstd are not supported"):
        make_target().listen(stdin([*schemas(), batch(file, compression="zstd"), state_message(1)]))


@pytest.mark.parametrize(
    "setting",
    [
        {"stream_maps": {"events": {"user_id": "md5(user_id)"}}},
        {"stream_maps": {"events": {"__alias__": "renamed"}}},
        {"stream_maps": {"copied": {"__source__": "events"}}},
        {"stream_maps": {"events": None}},
        {"stream_maps": {"__else__": None}},
        {"add_record_metadata": True},
    ],
    ids=str,
)
def test_rows_that_are_to_be_changed_are_not_loaded_from_files(
    database: Database, make_target: Make, tmp_path: Path, setting: dict[str, Any]
) -> None:
    """They would go in as they are: a user_id that is to be hashed would be stored plain."""
    file = write_batch(tmp_path, "page", [event(1)])
    with pytest.raises(SettingsError, match="stream maps and flattening need the default lane"):
        make_target(**setting).listen(stdin([*schemas(), batch(file), state_message(1)]))
    assert database.value("SELECT count(*) FROM events") == 0
    assert file.exists()


def test_rows_that_are_to_be_flattened_are_not_loaded_from_files(
    database: Database, make_target: Make, tmp_path: Path
) -> None:
    """The columns of the table would be other ones than those of the file."""
    deep = {"type": "object", "properties": {"a": {"type": ["string", "null"]}}}
    schema = {
        "type": "SCHEMA",
        "stream": "others",
        "schema": {"type": "object", "properties": {"id": {"type": "string"}, "deep": deep}},
        "key_properties": ["id"],
    }
    file = write_batch(tmp_path, "page", [{"id": "1", "deep": {"a": "b"}}])
    target = make_target(flattening_enabled=True, flattening_max_depth=1)
    with pytest.raises(SettingsError, match="stream maps and flattening need the default lane"):
        target.listen(stdin([schema, batch(file) | {"stream": "others"}, state_message(1)]))
    assert database.rows("SELECT id, deep__a FROM others") == []
    assert file.exists()


def test_files_of_a_stream_without_a_map_are_loaded(
    database: Database, make_target: Make, tmp_path: Path
) -> None:
    """A map of another stream changes nothing in them."""
    file = write_batch(tmp_path, "page", [event(1)])
    maps = {"pages": {"retries": "__NULL__"}}
    make_target(stream_maps=maps).listen(stdin([*schemas(), batch(file), state_message(1)]))
    assert database.rows("SELECT id FROM events") == [("event-1",)]


class TestLeftovers:
    """Files of a killed run go at the next start; everything else stays."""

    def test_older_files_of_the_same_kind_go(self, make_target: Make, tmp_path: Path) -> None:
        left = [write_batch(tmp_path, f"old-{number}", [event(number)]) for number in range(3)]
        others = [left[0].parent / "notes.txt", left[0].parent / "page.jsonl.gz"]
        for path in (*left, *others):
            path.touch()
            os.utime(path, ns=(1, 1))
        first = write_batch(tmp_path, "new-1", [event(10)])
        waiting = write_batch(tmp_path, "new-2", [event(11)])
        target = make_target()
        target.listen(stdin([*schemas(), batch(first), state_message(1)]))
        assert sorted(first.parent.iterdir()) == sorted([*others, waiting])
        # Only the first file of a run looks around.
        os.utime(waiting, ns=(1, 1))
        target.clean_up_beside(waiting)
        assert waiting.exists()

    def test_links_and_directories_stay(self, tmp_path: Path) -> None:
        first = write_batch(tmp_path, "first", [])
        outside = tmp_path / "outside.jsonl"
        outside.touch()
        (first.parent / "link.jsonl").symlink_to(outside)
        (first.parent / "folder.jsonl").mkdir()
        for path in (outside, first.parent / "folder.jsonl"):
            os.utime(path, ns=(1, 1))
        os.utime(first.parent / "link.jsonl", ns=(1, 1), follow_symlinks=False)
        assert batchfiles.remove_leftovers(first) == []
        assert outside.exists()

    def test_a_directory_that_others_can_write_is_left_alone(self, tmp_path: Path) -> None:
        old, first = write_batch(tmp_path, "old", []), write_batch(tmp_path, "first", [])
        os.utime(old, ns=(1, 1))
        first.parent.chmod(0o755)
        assert batchfiles.remove_leftovers(first) == []
        first.parent.chmod(0o700)
        assert batchfiles.remove_leftovers(first) == [old]

    def test_a_directory_that_is_a_link_is_left_alone(self, tmp_path: Path) -> None:
        old, first = write_batch(tmp_path, "old", []), write_batch(tmp_path, "first", [])
        os.utime(old, ns=(1, 1))
        (tmp_path / "link").symlink_to(first.parent)
        assert batchfiles.remove_leftovers(tmp_path / "link" / first.name) == []


TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)


@given(
    st.lists(st.tuples(st.none() | TEXTS, VALUES, st.none() | st.integers() | TEXTS), max_size=5)
)
@settings(deadline=None, max_examples=200)
def test_copy_text_says_what_the_json_said(
    rows: list[tuple[str | None, Any, int | str | None]],
) -> None:
    """Any string, any JSON value and a property of two types come out as they went in."""
    properties = {
        "a b": {"type": ["string", "null"]},
        "json": {"type": ["object", "null"]},
        "class": {"type": ["integer", "string", "null"]},
    }
    writer = CopyText(properties, {"a b": TEXT(), "json": JSONB(), "class": TEXT()})
    text = "\n".join(
        json.dumps(dict(zip(properties, row, strict=True)), ensure_ascii=False) for row in rows
    )
    chunks = list(writer.chunks(io.BytesIO(text.encode())))
    assert sum(count for count, _ in chunks) == len(rows)
    written = [line.split("\t") for _, chunk in chunks for line in chunk.decode().split("\n")[:-1]]
    for (string, value, mixed), fields in zip(rows, written, strict=True):
        raw = [_read(field) for field in fields]
        assert raw[0] == string
        assert (None if raw[1] is None else json.loads(raw[1])) == value
        assert raw[2] == (None if mixed is None else str(mixed))


def _read(field: str) -> str | None:
    """Read a field of COPY text, as PostgreSQL's documentation says."""
    if field == r"\N":
        return None
    characters = iter(field)
    escapes = {"t": "\t", "n": "\n", "r": "\r", "\\": "\\"}
    return "".join(
        escapes[next(characters)] if character == "\\" else character for character in characters
    )


def test_integers_and_numbers_stay_text() -> None:
    """A number is handed over digit by digit."""
    writer = CopyText({"n": {"type": "number"}}, {"n": BIGINT()})
    assert list(writer.chunks(io.BytesIO(b'{"n": 1e400}\n{"n": null}\n{}\n'))) == [
        (3, b"1e400\n\\N\n\\N\n")
    ]


def test_properties_come_from_the_schema_message() -> None:
    """The lane knows no stream: `pages` would go through it as well."""
    _, properties = STREAMS["pages"]
    types = {
        name: JSONB() if "object" in definition["type"] else TEXT()
        for name, definition in properties.items()
    }
    [(count, text)] = CopyText(properties, types).chunks(
        io.BytesIO(json.dumps(page_row(1, 5)).encode())
    )
    assert count == 1
    assert text.decode().rstrip("\n").split("\t")[:2] == ["run-1", "1"]
