"""Settings from the environment, from `.env` and from files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from datasync_monitor.environment import read_env_file, read_settings

if TYPE_CHECKING:
    from pathlib import Path


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
