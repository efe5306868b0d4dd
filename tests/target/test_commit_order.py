"""The order of a commit: rows, then the checkpoint, then the STATE."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

import pytest
from target_config import target
from target_config.errors import InvalidDataError
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
    from collections.abc import Callable
    from pathlib import Path


def seen(value: dict[str, Any]) -> int:
    number: int = value["bookmarks"]["events"]["events_seen"]
    return number


def test_state_is_printed_while_the_tap_is_running(database: Database, tmp_path: Path) -> None:
    """With stdin open the STATE comes back after its page; rows and checkpoint are there then."""
    with start(database, tmp_path) as target:
        assert target.stdin
        assert target.stdout
        for page in range(2):
            rows = [record("events", event(page * 10 + number)) for number in range(10)]
            head = schemas() if page == 0 else []
            target.stdin.write(lines([*head, *rows, state_message((page + 1) * 10)]))
            target.stdin.flush()
            # Blocks until the target has printed, because the pipe stays open.
            assert states(target.stdout.readline()) == [state((page + 1) * 10)]
            assert database.rows(
                "SELECT count(*), (SELECT events_seen FROM checkpoint) FROM events"
            ) == [((page + 1) * 10, (page + 1) * 10)]
        # A page that emits nothing still moves the STATE.
        target.stdin.write(lines([state_message(30)]))
        target.stdin.flush()
        assert states(target.stdout.readline()) == [state(30)]
        assert database.value("SELECT events_seen FROM checkpoint") == 30
        output, _ = target.communicate()
    assert target.returncode == 0
    assert states(output) == []


def test_commits_rows_then_checkpoint_then_prints_state(
    database: Database, make_target: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others see the rows when the checkpoint is written, and both when the STATE is printed."""
    found: list[tuple[str, int, int | None]] = []

    def recording(step: str, function: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            rows = database.value("SELECT count(*) FROM events")
            found.append((step, rows, database.value("SELECT max(events_seen) FROM checkpoint")))
            function(*arguments)

        return call

    for owner, step in (
        (target.TargetPostgresCheckpoint, "_save_checkpoint"),
        (target, "_print_state"),
    ):
        monkeypatch.setattr(owner, step, recording(step, getattr(owner, step)))
    make_target().load(stdin(scan(2)))
    assert found == [
        ("_save_checkpoint", 10, None),
        ("_print_state", 10, 10),
        ("_save_checkpoint", 20, 10),
        ("_print_state", 20, 20),
    ]


def test_repeated_state_is_written_once_and_its_rows_are_committed(
    database: Database, make_target: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    make_target().load(
        stdin(
            [
                *schemas(),
                record("events", event(1)),
                state_message(1),
                record("events", event(2)),
                state_message(1),
            ]
        )
    )
    assert database.value("SELECT count(*) FROM events") == 2
    assert states(capsys.readouterr().out) == [state(1)]


@pytest.mark.parametrize("settings", [{}, {"validate_records": True}], ids=["lines", "records"])
def test_failed_step_prevents_later_steps(
    database: Database,
    make_target: Make,
    capsys: pytest.CaptureFixture[str],
    settings: dict[str, Any],
) -> None:
    """If PostgreSQL rejects rows or checkpoint, neither checkpoint nor STATE follows."""
    make_target(**settings).load(stdin(schemas()))
    database.execute("ALTER TABLE checkpoint ADD CHECK (events_seen < 15)")
    with pytest.raises(InvalidDataError, match="refused the checkpoint: new row for relation"):
        make_target(**settings).load(stdin(scan(2)))
    assert states(capsys.readouterr().out) == [state(10, 20)]
    assert database.rows("SELECT count(*), (SELECT events_seen FROM checkpoint) FROM events") == [
        (20, 10)
    ]
    database.execute("TRUNCATE checkpoint; ALTER TABLE events ADD CHECK (id <> 'event-25')")
    with pytest.raises(InvalidDataError, match='refused a batch of "events"'):
        make_target(**settings).load(stdin(scan(2, first=20)))
    assert capsys.readouterr().out.count("\n") == 0
    assert database.rows("SELECT count(*), (SELECT count(*) FROM checkpoint) FROM events") == [
        (20, 0)
    ]


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("settings", [{}, {"validate_records": True}], ids=["lines", "records"])
def test_kill_at_any_time_leaves_consistent_tables(
    database: Database, tmp_path: Path, settings: dict[str, Any], seed: int
) -> None:
    """After SIGKILL the checkpoint covers each printed STATE, and the rows the checkpoint."""
    chance = random.Random(seed)
    pages, size = 60, 100
    messages = scan(pages, size)
    source = tmp_path / "input.jsonl"
    source.write_bytes(lines(messages))
    with source.open("rb") as file, start(database, tmp_path, stdin=file, **settings) as target:
        assert target.stdout
        first = b"".join(target.stdout.readline() for _ in range(chance.randrange(1, 12)))
        time.sleep(chance.uniform(0, 0.03))  # anywhere in a page
        target.kill()
        output = first + target.stdout.read()
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


def test_closed_stdout_ends_in_one_message(database: Database, tmp_path: Path) -> None:
    """No traceback; rows and checkpoint are committed."""
    with start(database, tmp_path) as target:
        assert target.stdout
        target.stdout.close()
        target.stdout = None
        _, errors = target.communicate(lines(scan(2)))
    assert target.returncode == 1
    assert b"Traceback" not in errors
    assert errors.count(b"CRITICAL") == 1
    assert b"stdout is closed" in errors
    assert database.value("SELECT events_seen FROM checkpoint") == 10
