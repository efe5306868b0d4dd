"""Spellings of Singer messages, and the end of the input."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest
from target_config import reader
from target_config.errors import InvalidDataError, SettingsError, TruncatedInputError
from target_helpers import (
    Database,
    Make,
    event,
    lines,
    record,
    scan,
    schemas,
    start,
    state,
    state_message,
    states,
    stdin,
)

if TYPE_CHECKING:
    from pathlib import Path


def test_rows_after_the_last_state_are_written(
    database: Database, make_target: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are committed, and the checkpoint stays at the last STATE."""
    make_target().load(stdin([*scan(2), record("events", event(900))]))
    assert states(capsys.readouterr().out)[-1] == state(20, 20, done=True)
    assert database.rows("SELECT count(*), (SELECT events_seen FROM checkpoint) FROM events") == [
        (21, 20)
    ]


@pytest.mark.parametrize(
    "last", [b'{"type": "RECORD", "stream": "ev', b'{"type": "STATE", "value": {"a": 1}', b"{"]
)
def test_interrupted_message_is_dropped(
    database: Database, make_target: Make, capsys: pytest.CaptureFixture[str], last: bytes
) -> None:
    """A tap that is killed while it writes: exit code 1; what the last STATE covers is written."""
    with pytest.raises(TruncatedInputError, match="ends within a message") as caught:
        make_target().load(io.BytesIO(lines(scan(2)) + last))
    assert caught.value.exit_code == 1
    assert [
        value["bookmarks"]["events"]["events_seen"] for value in states(capsys.readouterr().out)
    ] == [10, 20]
    assert database.rows("SELECT count(*), (SELECT events_seen FROM checkpoint) FROM events") == [
        (20, 20)
    ]


@pytest.mark.parametrize(
    "text",
    [
        lines(scan(1)).rstrip(b"\n"),
        lines(scan(1)).replace(b"\n", b"\n\n"),
        lines(scan(1)).replace(b"\n", b"\r\n"),
        b"".join(json.dumps(m, separators=(",", ":")).encode() + b"\n" for m in scan(1)),
        b"".join(json.dumps(m, sort_keys=True).encode() + b"\n" for m in scan(1)),
        b"".join(b"  " + json.dumps(m).encode() + b"\n" for m in scan(1)),
    ],
    ids=["no last newline", "empty lines", "CRLF", "compact", "other order", "indented"],
)
def test_every_spelling_of_the_messages_is_loaded(
    database: Database, make_target: Make, text: bytes
) -> None:
    make_target().load(io.BytesIO(text))
    assert database.rows(
        "SELECT count(*), count(DISTINCT session ->> 'id'), (SELECT events_seen FROM checkpoint), "
        "(SELECT count(*) FROM pages) FROM events"
    ) == [(10, 1, 10, 1)]


def test_lines_may_be_longer_than_a_block(
    database: Database, make_target: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "BLOCK_BYTES", 64)
    rows = [event(number, properties={"long": "x" * (number % 7) * 50}) for number in range(40)]
    messages = [*schemas(), *(record("events", row) for row in rows), state_message(40)]
    make_target().load(stdin(messages))
    assert database.rows("SELECT count(*), sum(length(properties ->> 'long')) FROM events") == [
        (40, sum(number % 7 * 50 for number in range(40)))
    ]


def test_line_without_an_end_is_refused(make_target: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded whatever arrives on stdin."""
    monkeypatch.setattr(reader, "MAX_LINE_BYTES", 2**20)
    with pytest.raises(InvalidDataError, match="is longer than 1 MiB"):
        make_target().load(io.BytesIO(b"x" * 2**22))


def test_input_that_cannot_be_read_ends_in_one_message(make_target: Make, tmp_path: Path) -> None:
    with (
        (tmp_path / "input").open("wb") as unreadable,
        pytest.raises(Exception, match="The input cannot be read"),
    ):
        make_target().load(unreadable)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"Traceback (most recent call last):", "is not JSON"),
        (b"[1]", "is not a Singer message"),
        (b'{"type": "STATUS"}', "is not a Singer message"),
        (b'{"type": "STATE"}', "is not a Singer message"),
        (b'{"type": "STATE", "value": {"a": NaN}}', "is not JSON"),
        (b'{"type": "STATE", "value": {"a": "\xff"}}', "is not JSON"),
        (b'{"type": "RECORD", "stream": "unknown", "record": {}}', "precedes the schema"),
        (b"[" * 100_000, "is not JSON"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else value[:40].decode("latin1"),
)
def test_invalid_message_ends_load(make_target: Make, line: bytes, message: str) -> None:
    """Exit code 3. The line is not quoted, because it may contain anything."""
    with pytest.raises(InvalidDataError, match=message) as caught:
        make_target().load(io.BytesIO(lines(schemas()) + line + b"\n"))
    assert len(str(caught.value)) < 150


@pytest.mark.parametrize("row", [event(1, name=5), {"name": "no id"}])
def test_record_that_fails_validation_ends_the_load(make_target: Make, row: dict[str, Any]) -> None:
    messages = [*schemas(), record("events", row), state_message(1)]
    with pytest.raises(InvalidDataError, match='A record of "events" does not match its schema'):
        make_target(validate_records=True).load(stdin(messages))


def test_batch_message_is_refused(make_target: Make) -> None:
    """One message that names the setting, exit code 2."""
    batch = {"type": "BATCH", "stream": "events", "encoding": {}, "manifest": []}
    with pytest.raises(SettingsError, match="remove the setting batch_config of the tap"):
        make_target().load(stdin([*schemas(), batch]))


def test_version_messages_are_accepted(database: Database, make_target: Make) -> None:
    """Ignored without metadata columns; with them, rows of earlier versions are deleted."""
    version = {"type": "ACTIVATE_VERSION", "stream": "events", "version": 2}
    make_target().load(stdin([*schemas(), record("events", event(1)), version, state_message(1)]))
    assert database.rows("SELECT id FROM events") == [("event-1",)]
    versioned = {**record("events", event(2)), "version": 2}
    settings = {"add_record_metadata": True, "activate_version": True, "hard_delete": True}
    make_target(**settings).load(stdin([*schemas(), versioned, version, state_message(2)]))
    assert database.rows("SELECT id FROM events") == [("event-2",)]


def test_stdin_is_drained_while_rows_are_written(database: Database, tmp_path: Path) -> None:
    """The tap can write several pages while PostgreSQL blocks the first one."""
    with start(database, tmp_path) as target, database.connect() as other:
        assert target.stdin
        assert target.stdout
        target.stdin.write(lines([*schemas(), record("events", event(0)), state_message(1)]))
        target.stdin.flush()
        assert states(target.stdout.readline()) == [state(1)]
        with other.transaction():
            other.execute("LOCK TABLE events IN SHARE MODE")
            # More than a pipe holds: it would block here if the target did not read.
            for page in range(1, 5):
                rows = [event(page * 10_000 + number) for number in range(5000)]
                page_lines = lines([*(record("events", row) for row in rows), state_message(page)])
                assert len(page_lines) > reader.PIPE_BYTES
                target.stdin.write(page_lines)
        output, errors = target.communicate()
    assert target.returncode == 0, errors
    assert len(states(output)) == 3
    assert database.value("SELECT count(*) FROM events") == 20_001


def test_reads_input_file_of_command_line(database: Database, tmp_path: Path) -> None:
    source = tmp_path / "input.jsonl"
    source.write_bytes(lines(scan(2)))
    target = start(database, tmp_path, "--input", str(source))
    output, errors = target.communicate()
    assert target.returncode == 0, errors
    assert len(states(output)) == 2
