"""The one door to PostgreSQL: which database it leads to, and what is said when it stays shut."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest
from datasync_monitor.database import Settings, Unreachable, connect
from datasync_monitor.history import read_totals
from datasync_monitor.reader import Reader

if TYPE_CHECKING:
    from scribe import Scribe



def test_the_connection_cannot_write(settings: Settings, scribe: Scribe) -> None:
    scribe.page()
    with connect(settings) as connection, pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        connection.execute("DELETE FROM pages")


def test_a_refused_connection_is_one_sentence_without_the_password() -> None:
    nowhere = Settings(port=1, password="hunter2")  # noqa: S106
    with pytest.raises(Unreachable) as refused:
        connect(nowhere)
    assert str(refused.value).startswith("No database events at 127.0.0.1:1: ")
    assert "hunter2" not in str(refused.value) + repr(nowhere)


def test_a_missing_privilege_is_one_sentence(settings: Settings, scribe: Scribe) -> None:
    scribe.connection.execute("REVOKE SELECT ON pages FROM CURRENT_USER")
    reader = Reader(settings)
    with pytest.raises(Unreachable) as refused:
        reader.read(read_totals)
    reader.close()
    assert str(refused.value) == (
        f"The database {settings.place} refuses: permission denied for table pages."
    )


def test_a_query_that_takes_too_long_is_no_answer_and_no_lost_connection(
    settings: Settings,
) -> None:
    def slow(connection: psycopg.Connection, _: str) -> None:
        connection.execute("SET statement_timeout = '10ms'")
        connection.execute("SELECT pg_sleep(60)")

    reader = Reader(settings)
    with pytest.raises(Unreachable) as refused:
        reader.read(slow)
    reader.close()
    assert str(refused.value) == (
        f"The database {settings.place} did not answer: "
        "canceling statement due to statement timeout."
    )
