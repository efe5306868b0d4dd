"""Rows are committed, then the checkpoint, then the STATE is printed; at any moment."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

import pytest
from target_config import checkpoint
from target_config.failures import SettingsError
from target_helpers import (
    Database,
    batch,
    event,
    lines,
    page_row,
    record,
    schemas,
    start,
    state,
    state_message,
    states,
    stdin,
    walk,
    write_batch,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from target_config.target import TargetPostgresCheckpoint

    Make = Callable[..., TargetPostgresCheckpoint]


def seen(value: dict[str, Any]) -> int:
    number: int = value["bookmarks"]["events"]["events_seen"]
    return number


def test_state_is_handed_on_while_the_tap_goes_on(database: Database, tmp_path: Path) -> None:
    """With stdin open the STATE comes back after its page; rows and checkpoint are there then."""
    with start(database, tmp_path) as loader:
        assert loader.stdin
        assert loader.stdout
        for page in range(2):
            rows = [record("events", event(page * 10 + number)) for number in range(10)]
            head = schemas() if page == 0 else []
            loader.stdin.write(lines([*head, *rows, state_message((page + 1) * 10)]))
            loader.stdin.flush()
            # Blocks until the loader has printed: the pipe is open, nothing else can wake it.
            assert states(loader.stdout.readline()) == [state((page + 1) * 10)]
            assert database.rows(
                "SELECT count(*), (SELECT events_seen FROM checkpoint) FROM events"
            ) == [((page + 1) * 10, (page + 1) * 10)]
        # A page that emits nothing still moves the STATE.
        loader.stdin.write(lines([state_message(30)]))
        loader.stdin.flush()
        assert states(loader.stdout.readline()) == [state(30)]
        assert database.value("SELECT events_seen FROM checkpoint") == 30
        output, _ = loader.communicate()
    assert loader.returncode == 0
    assert states(output) == []


def test_order_of_the_three_steps(
    database: Database, make_target: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the checkpoint is written, others see the rows; when it is printed, they see both."""
    found: list[tuple[str, int, int | None]] = []

    def look(step: str) -> None:
        rows = database.value("SELECT count(*) FROM events")
        found.append((step, rows, database.value("SELECT max(events_seen) FROM checkpoint")))

    save, hand_on = checkpoint.save, checkpoint.hand_on

    def looking_save(*args: Any) -> None:
        look("save")
        save(*args)

    def looking_hand_on(*args: Any) -> None:
        look("hand on")
        hand_on(*args)

    monkeypatch.setattr(checkpoint, "save", looking_save)
    monkeypatch.setattr(checkpoint, "hand_on", looking_hand_on)
    make_target().listen(stdin(walk(2)))
    assert found == [("save", 10, None), ("hand on", 10, 10), ("save", 20, 10), ("hand on", 20, 20)]


def test_all_commits_are_synchronous(database: Database, make_target: Make) -> None:
    """Rows too, whatever the default of the database is: a crash must not take them back."""
    name = database.value("SELECT current_database()")
    database.execute(f'ALTER DATABASE "{name}" SET synchronous_commit TO off')
    database.execute(
        "CREATE TABLE seen (who TEXT, setting TEXT);"
        "CREATE FUNCTION note() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN INSERT INTO seen "
        "VALUES (TG_TABLE_NAME, current_setting('synchronous_commit')); RETURN NULL; END $$"
    )
    target = make_target()
    target.prepare()
    for table in ("events", "checkpoint"):
        database.execute(f"CREATE TRIGGER note AFTER INSERT ON {table} EXECUTE FUNCTION note()")
    target.listen(stdin(walk(1)))
    assert sorted(set(database.rows("SELECT who, setting FROM seen"))) == [
        ("checkpoint", "on"),
        ("events", "on"),
    ]


def test_unchanged_state_is_written_once_and_its_rows_are_not_kept_waiting(
    database: Database,
    make_target: Make,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same STATE again: its rows are committed, but no second checkpoint and no second line."""
    saves: list[Any] = []
    monkeypatch.setattr(checkpoint, "save", lambda _engine, _schema, value: saves.append(value))
    first = [*schemas(), record("events", event(1)), state_message(1)]
    again = [record("events", event(2)), state_message(1)]
    make_target().listen(stdin([*first, *again]))
    assert database.value("SELECT count(*) FROM events") == 2
    assert saves == [state(1)]
    assert states(capsys.readouterr().out) == [state(1)]


def test_no_state_is_printed_when_the_checkpoint_fails(
    database: Database, make_target: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    """A failure ends the run before the next step."""
    target = make_target()
    target.prepare()
    database.execute("DROP TABLE checkpoint")
    with pytest.raises(
        SettingsError, match=r'refused the checkpoint: relation "public\.checkpoint"'
    ):
        target.listen(stdin(walk(1)))
    assert capsys.readouterr().out == ""
    assert database.value("SELECT count(*) FROM events") == 10


def test_no_checkpoint_is_written_when_the_rows_fail(
    database: Database, make_target: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows that PostgreSQL refuses are of no checkpoint."""
    target = make_target()
    target.prepare()
    database.execute("ALTER TABLE events ADD CHECK (id <> 'event-5')")
    with pytest.raises(Exception, match='refused a batch of "events"'):
        target.listen(stdin(walk(1)))
    assert capsys.readouterr().out == ""
    assert database.value("SELECT count(*) FROM checkpoint") == 0


@pytest.mark.parametrize(("lane", "seed"), [("record", 1), ("record", 2), ("bulk", 3), ("bulk", 4)])
def test_killed_at_any_moment(database: Database, tmp_path: Path, lane: str, seed: int) -> None:
    """SIGKILL: what was printed is in the checkpoint, and what that covers is in the rows."""
    chance = random.Random(seed)
    pages, size = 60, 100
    messages = schemas()
    for page in range(1, pages + 1):
        rows = [event(number) for number in range((page - 1) * size, page * size)]
        if lane == "bulk":
            messages.append(batch(write_batch(tmp_path, f"page-{page}", rows)))
        else:
            messages += [record("events", row) for row in rows]
        messages.append(record("pages", page_row(page, page * size)))
        messages.append(state_message(page * size, pages * size))
    source = tmp_path / "input.jsonl"
    source.write_bytes(lines(messages))
    with source.open("rb") as file, start(database, tmp_path, stdin=file) as loader:
        assert loader.stdout
        first = b"".join(loader.stdout.readline() for _ in range(chance.randrange(1, 12)))
        time.sleep(chance.uniform(0, 0.03))  # lands anywhere in a page: the moment is the test
        loader.kill()
        output = first + loader.stdout.read()
    printed = [seen(value) for value in states(output.rpartition(b"\n")[0])]
    rows, saved = database.rows(
        "SELECT count(*), (SELECT events_seen FROM checkpoint) FROM events"
    )[0]
    assert printed == [size * number for number in range(1, len(printed) + 1)]
    assert printed[-1] <= saved <= rows
    # Each page up to the checkpoint is whole.
    assert (
        database.value(f"SELECT count(*) FROM events WHERE split_part(id, '-', 2)::int < {saved}")
        == saved
    )


def test_closed_stdout_ends_in_one_sentence(database: Database, tmp_path: Path) -> None:
    """Whoever reads the STATE is gone: no traceback; rows and checkpoint are committed."""
    with start(database, tmp_path) as loader:
        assert loader.stdout
        loader.stdout.close()
        loader.stdout = None
        _, errors = loader.communicate(lines(walk(2)))
    assert loader.returncode == 1
    assert b"Traceback" not in errors
    assert errors.count(b"ERROR") == 1
    assert b"stdout is closed" in errors
    assert database.value("SELECT events_seen FROM checkpoint") == 10


def test_output_is_nothing_but_states(database: Database, tmp_path: Path) -> None:
    """Meltano reads every line of stdout as a STATE."""
    loader = start(database, tmp_path)
    output, errors = loader.communicate(lines(walk(3)))
    assert loader.returncode == 0, errors
    assert [seen(value) for value in states(output)] == [10, 20, 30]
