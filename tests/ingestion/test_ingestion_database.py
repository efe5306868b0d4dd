"""What the supervisor reads from PostgreSQL, and what it says when it cannot."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from datasync_ingestion import database, runs
from datasync_ingestion.database import Door
from datasync_ingestion.errors import IngestionError, UsageError
from ingestion_helpers import nowhere, place

if TYPE_CHECKING:
    from datasync_sandbox.testing import Cluster


def test_a_refused_connection_is_told_from_one_that_fails(empty: Cluster) -> None:
    """By the cause, which is the first line; below it libpq guesses at reasons."""
    wrong = replace(place(empty), name="nope")
    with pytest.raises(UsageError, match=r'FATAL:  database "nope" does not exist\.$'):
        Door(wrong, lambda _: None).ask(database.now)
    away = nowhere()
    with pytest.raises(IngestionError, match=r"Connection refused\.$") as caught:
        Door(away, lambda _: None).ask(database.now, attempts=1)
    assert not isinstance(caught.value, UsageError)
    assert f"events at 127.0.0.1:{away.port}: connection to server" in str(caught.value)


@pytest.mark.parametrize(
    ("said", "refused"),
    [
        ('FATAL:  role "u" does not exist', True),
        ("FATAL:  password authentication failed for user", True),
        ("server does not support SSL, but SSL was required", True),
        ('FATAL:  permission denied for database "events"', True),
        # It may come up yet: its socket, or the file that holds it.
        ('"/run/postgresql/.s.PGSQL.5432" failed: No such file, it does not exist', False),
        ('"/run/postgresql/.s.PGSQL.5432" failed: permission denied', False),
        ("FATAL:  the database system is starting up", False),
    ],
)
def test_words_of_a_server_that_will_go_on_refusing(said: str, refused: bool) -> None:  # noqa: FBT001
    assert bool(database._REFUSED.search(f"connection failed: {said}\n\tA hint")) is refused


def loaded(connection: Any) -> None:
    connection.execute("UPDATE checkpoint SET updated_at = clock_timestamp()")


def test_a_run_counts_as_a_source_when_it_has_loaded_something(empty: Cluster, door: Door) -> None:
    """Whatever its end, and also when all that came was in the table already."""

    def begin(source: str) -> runs.Run:
        return door.ask(lambda connection: runs.begin(connection, source))

    first = begin("a")
    assert door.ask(runs.last_source) is None
    empty.sql("CREATE TABLE checkpoint (id INT PRIMARY KEY DEFAULT 1, updated_at TIMESTAMPTZ)")
    empty.sql("INSERT INTO checkpoint VALUES (1, clock_timestamp())")
    assert door.ask(runs.last_source) == "a"
    door.ask(lambda connection: runs.end(connection, first, "failed"))
    # Killed before it had loaded anything.
    begin("b")
    assert door.ask(runs.last_source) == "a"
    # Events that were there already: not one row more.
    second = begin("c")
    door.ask(loaded)
    door.ask(lambda connection: runs.end(connection, second, "failed"))
    assert door.ask(runs.last_source) == "c"
    # Rows of a page whose checkpoint was not reached.
    third = begin("d")
    empty.sql("CREATE TABLE events (id TEXT PRIMARY KEY); INSERT INTO events VALUES ('e')")
    door.ask(lambda connection: runs.end(connection, third, "failed"))
    assert door.ask(runs.last_source) == "d"
