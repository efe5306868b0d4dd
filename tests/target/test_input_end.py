"""However the input ends: what is printed is committed, and no traceback."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from target_config.failures import InputError
from target_helpers import (
    Database,
    event,
    lines,
    raw_stdin,
    record,
    start,
    state,
    states,
    stdin,
    walk,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from target_config.target import TargetPostgresCheckpoint

    Make = Callable[..., TargetPostgresCheckpoint]


def test_rows_after_the_last_state_are_written(
    database: Database, make_target: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    """A tap that dies between messages: its rows are kept, its last STATE stays the last."""
    make_target().listen(stdin([*walk(2), record("events", event(900))]))
    assert states(capsys.readouterr().out)[-1] == state(20, 20, done=True)
    assert database.rows("SELECT count(*), (SELECT events_seen FROM checkpoint) FROM events") == [
        (21, 20)
    ]


@pytest.mark.parametrize(
    "last", [b'{"type": "RECORD", "stream": "ev', b'{"type": "STATE", "value": {"a": 1}', b"{"]
)
def test_a_message_that_was_cut_off_is_dropped(
    database: Database, make_target: Make, capsys: pytest.CaptureFixture[str], last: bytes
) -> None:
    """A tap that is killed while it writes: one sentence; what the last STATE covers is there."""
    with pytest.raises(InputError, match=r"ends in the middle of a message \(line 28\)") as caught:
        make_target().listen(raw_stdin(lines(walk(2)) + last))
    assert caught.value.exit_code == 1
    assert [
        value["bookmarks"]["events"]["events_seen"] for value in states(capsys.readouterr().out)
    ] == [10, 20]
    assert database.rows("SELECT count(*), (SELECT events_seen FROM checkpoint) FROM events") == [
        (20, 20)
    ]


def test_a_whole_message_without_newline_counts(database: Database, make_target: Make) -> None:
    """Only the newline is missing: the message is complete."""
    make_target().listen(raw_stdin(lines(walk(1)).rstrip(b"\n")))
    assert database.value("SELECT events_seen FROM checkpoint") == 10


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b"Traceback (most recent call last):", "Line 1 of the input is not JSON"),
        (b"[1]", "Line 1 of the input is JSON, but not an object"),
        (b'{"type": "STATE", "value": {"a": NaN}}', "Line 1 of the input is not JSON"),
        (b"[" * 100_000, "Line 1 of the input is not JSON"),
    ],
)
def test_what_is_no_message_is_named_by_its_line(
    make_target: Make, line: bytes, sentence: str
) -> None:
    """The line itself stays out of the sentence: it may hold anything."""
    with pytest.raises(InputError, match=sentence):
        make_target().listen(raw_stdin(line + b"\n"))


def test_the_process_says_it_in_one_sentence(database: Database, tmp_path: Path) -> None:
    """Exit code 1, one ERROR line, no traceback."""
    loader = start(database, tmp_path)
    output, errors = loader.communicate(lines(walk(1)) + b'{"type": "REC')
    assert loader.returncode == 1
    assert len(states(output)) == 1
    assert b"Traceback" not in errors
    assert errors.count(b"ERROR") == 1
