"""Settings from the environment, from `.env`, from files, and from the sandbox."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from datasync_monitor.database import DatabaseSettings
from datasync_monitor.environment import read_env_file, read_settings

if TYPE_CHECKING:
    from pathlib import Path

SANDBOX = (
    "API_KEY=k\nDB_HOST=127.0.0.1\nDB_PORT=4321\nDB_USER=datasync\nDB_PASSWORD=p\nDB_NAME=events\n"
)


def write_sandbox_env(directory: Path, content: str) -> None:
    (directory / ".sandbox").mkdir()
    (directory / ".sandbox/env").write_text(content)


@pytest.mark.parametrize(
    ("environ", "env_file", "expected"),
    [
        (
            {"DB_HOST": "h", "DB_PORT": "1", "DB_USER": "u", "DB_PASSWORD": "p", "DB_NAME": "n"},
            "",
            DatabaseSettings("h", 1, "u", "p", "n", "s"),
        ),
        # Only the host is required.
        (
            {"DB_HOST": "db.test", "DB_PORT": ""},
            "",
            DatabaseSettings("db.test", 5432, "datasync", "", "events", "s"),
        ),
        # The environment wins over `.env`, unless it is empty.
        (
            {"DB_PORT": "5433", "DB_USER": ""},
            "API_KEY=k\nDB_HOST=db.test\nDB_PORT=1\nDB_USER=loader\nDB_PASSWORD='a ${b} \\'c'\n",
            DatabaseSettings("db.test", 5433, "loader", "a ${b} 'c", "events", "s"),
        ),
        # Without a host, nothing but the sandbox counts.
        (
            {"DB_PORT": "5432"},
            "DB_HOST=\nDB_PORT=1\n",
            DatabaseSettings("127.0.0.1", 4321, "datasync", "p", "events", "s"),
        ),
    ],
)
def test_the_database_is_named_by_the_environment_the_env_file_or_the_sandbox(
    tmp_path: Path, environ: dict[str, str], env_file: str, expected: DatabaseSettings
) -> None:
    write_sandbox_env(tmp_path, SANDBOX)
    (tmp_path / ".env").write_text(env_file)
    settings = DatabaseSettings.from_environment(environ, directory=tmp_path, schema="s")
    assert settings == expected


@pytest.mark.parametrize("content", [None, "", "API_KEY=k\n"])
def test_without_a_host_and_a_sandbox_the_message_names_both(
    tmp_path: Path, content: str | None
) -> None:
    if content is not None:
        write_sandbox_env(tmp_path, content)
    with pytest.raises(ValueError, match=r"set DB_HOST .* in \.env, or start the sandbox"):
        DatabaseSettings.from_environment({}, directory=tmp_path)


@pytest.mark.parametrize("port", ["0", "65536", "-1", "5432.0", "four", "9" * 5000])
def test_a_port_is_a_number_from_1_to_65535(tmp_path: Path, port: str) -> None:
    environ = {"DB_HOST": "db.test", "DB_PORT": port}
    with pytest.raises(ValueError, match="DB_PORT must be a port number from 1 to 65535, not '"):
        DatabaseSettings.from_environment(environ, directory=tmp_path)


def test_single_quoted_values_in_env_file_are_literal(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text(
        "A='p${HOME}$x \"#'\n"
        'export B="a b${X}"  # a comment\n'
        "X=1\n"
        "C=${X}'s\n"
        "NO_VALUE\n"
        "DB_PASSWORD='it\\'s'\n"
    )
    values = read_env_file(path)
    assert values == {
        "A": 'p${HOME}$x "#',
        "B": "a b",
        "X": "1",
        "C": "1's",
        "DB_PASSWORD": "it's",
    }
    assert read_env_file(tmp_path / "missing") == {}


def test_unreadable_env_file_is_named(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"A=\xff\n")
    with pytest.raises(ValueError, match=r"\.env cannot be read"):
        read_env_file(tmp_path / ".env")


def test_the_first_source_that_has_a_setting_wins() -> None:
    first = {"DB_HOST": "a", "DB_PORT": " ", "DB_NAME": " n "}
    second = {"DB_HOST": "b", "DB_PORT": "1", "UNKNOWN": "x"}
    names = ("DB_HOST", "DB_PORT", "DB_USER", "DB_NAME")
    assert read_settings(names, first, second) == {"DB_HOST": "a", "DB_PORT": "1", "DB_NAME": "n"}


def test_a_secret_may_be_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(" it's $secret\n")
    from_file = {"DB_PASSWORD_FILE": str(file)}
    for environ, expected in (
        (from_file, " it's $secret"),
        ({**from_file, "DB_PASSWORD": ""}, " it's $secret"),
        ({**from_file, "DB_PASSWORD": "set"}, "set"),
    ):
        assert read_settings(["DB_PASSWORD"], environ) == {"DB_PASSWORD": expected}
    missing = {"DB_PASSWORD_FILE": str(tmp_path / "missing")}
    assert read_settings(["DB_PASSWORD"], from_file, missing), "not read without need"


@pytest.mark.parametrize(
    ("content", "problem"),
    [(None, "No such file or directory"), (b"\n", "is empty"), (b"\xff", "not a text file")],
)
def test_a_file_of_a_secret_that_cannot_be_used_is_named(
    tmp_path: Path, content: bytes | None, problem: str
) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=f"DB_PASSWORD_FILE: {file} .*{problem}"):
        read_settings(["DB_PASSWORD"], {"DB_PASSWORD_FILE": str(file)})
