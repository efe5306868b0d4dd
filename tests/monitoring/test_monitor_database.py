"""The one door to PostgreSQL: which database it leads to, and what is said when it stays shut."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
import yaml
from datasync_monitor.database import Settings, Unreachable, connect
from datasync_monitor.history import read_totals
from datasync_monitor.reader import Reader

if TYPE_CHECKING:
    from scribe import Scribe

ROOT = Path(__file__).parents[2]
NAMES = ("DB_HOST", "DB_PORT", "DB_USER", "DB_PASSWORD", "DB_NAME")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Give an environment in which no database is named."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_with_nothing_set_it_is_the_sandbox(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("DB_HOST", "")
    assert Settings.from_environment() == Settings("127.0.0.1", 54329, "datasync", "sandbox")


def test_another_host_gets_neither_port_nor_password_of_the_sandbox(
    environment: pytest.MonkeyPatch,
) -> None:
    environment.setenv("DB_HOST", "db.test")
    assert Settings.from_environment() == Settings("db.test", 5432, "datasync", "", "events")


def test_what_is_set_is_taken(environment: pytest.MonkeyPatch) -> None:
    for name, value in zip(NAMES, ("h", "1", "u", "p", "n"), strict=True):
        environment.setenv(name, value)
    assert Settings.from_environment(schema="s") == Settings("h", 1, "u", "p", "n", "s")


@pytest.mark.parametrize("port", ["0", "65536", "-1", "5432.0", "fivefour"])
def test_a_port_is_a_number_from_1_to_65535(environment: pytest.MonkeyPatch, port: str) -> None:
    environment.setenv("DB_PORT", port)
    with pytest.raises(ValueError, match=f"DB_PORT is '{port}', not a port number."):
        Settings.from_environment()


def test_meltano_hands_over_what_is_set_and_nothing_else() -> None:
    """A value of its own would be a port or a password that nobody has set."""
    plugins = yaml.safe_load((ROOT / "meltano.yml").read_text(encoding="utf-8"))["plugins"]
    (monitor,) = plugins["utilities"]
    assert [setting["env"] for setting in monitor["settings"]] == list(NAMES)
    assert [setting for setting in monitor["settings"] if "value" in setting] == []


def test_without_a_password_libpq_finds_one(
    settings: Settings, environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    passwords = tmp_path / "pgpass"
    passwords.write_text(f"*:*:*:*:{settings.password}\n")
    passwords.chmod(0o600)
    nobody = replace(settings, password="")
    with pytest.raises(Unreachable, match="no password supplied"):
        connect(nobody)
    environment.setenv("PGPASSFILE", str(passwords))
    connect(nobody).close()


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
