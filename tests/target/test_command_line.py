"""The executable: settings, exit codes, one sentence each."""

from __future__ import annotations

import gc
import json
import logging
from typing import TYPE_CHECKING, Any

import pytest
from target_config import cli
from target_config.failures import in_one_line, secrets_of, without
from target_config.target import TargetPostgresCheckpoint
from target_postgres.target import TargetPostgres

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from target_helpers import Database


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The SDK sets up logging when the command is made, and `main` the collector: undo both."""
    root = logging.getLogger()
    handlers, level, capture = root.handlers[:], root.level, logging.captureWarnings
    threshold = gc.get_threshold()
    yield
    gc.set_threshold(*threshold)
    gc.unfreeze()
    root.handlers[:] = handlers
    root.setLevel(level)
    capture(False)  # noqa: FBT003


def run(tmp_path: Path, config: object, *arguments: str) -> int:
    file = tmp_path / "config.json"
    file.write_text(config if isinstance(config, str) else json.dumps(config))
    with pytest.raises(SystemExit) as end:
        cli.main(["--config", str(file), *arguments])
    assert isinstance(end.value.code, int)
    return end.value.code


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (
            {"host": "127.0.0.1"},
            "Need either the sqlalchemy_url to be set or host, port, user, password",
        ),
        (
            {"host": "h", "user": "u", "database": "d", "password": 91827364},
            "*** is not of type 'string'",
        ),
        ({"sqlalchemy_url": "s3cret-nonsense"}, "sqlalchemy_url is not the URL of a database"),
        (
            {"sqlalchemy_url": "postgresql+psycopg2://u:s3cret@h/d"},
            "has to begin with postgresql+psycopg://",
        ),
        ('{"host": ', "The settings cannot be read"),
    ],
)
def test_wrong_settings_are_exit_code_2(
    tmp_path: Path, config: object, sentence: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One sentence, and no secret in it."""
    assert run(tmp_path, config) == 2
    said = [entry.getMessage() for entry in caplog.records if entry.levelno >= logging.ERROR]
    assert len(said) == 1
    assert sentence in said[0]
    assert not any(secret in caplog.text for secret in ("91827364", "s3cret"))


def test_missing_file_and_wrong_usage_are_exit_code_2() -> None:
    """Whatever is wrong with the command itself."""
    for arguments in (["--config", "/nowhere/config.json"], ["--no-such-option"]):
        with pytest.raises(SystemExit) as end:
            cli.main(arguments)
        assert end.value.code == 2


@pytest.mark.parametrize("option", ["--version", "--about", "--help"])
def test_questions_need_no_settings(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    """They are answered on stdout, with exit code 0."""
    with pytest.raises(SystemExit) as end:
        cli.main([option])
    assert end.value.code == 0
    assert "target-postgres" in capsys.readouterr().out


def test_what_nobody_thought_of_is_one_sentence(
    tmp_path: Path,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Any other error: its kind and its words, cut to a length, no traceback; exit code 1."""

    def fail(_: object) -> None:
        raise KeyError("x" * 1000)

    monkeypatch.setattr(TargetPostgresCheckpoint, "prepare", fail)
    assert run(tmp_path, database.config) == 1
    said = [entry for entry in caplog.records if entry.levelno >= logging.ERROR]
    assert [entry.exc_info for entry in said] == [None]
    assert said[0].getMessage().startswith("The load stopped: KeyError")
    assert len(said[0].getMessage()) < 400


def test_apply_sql_makes_the_tables_and_reads_nothing(tmp_path: Path, database: Database) -> None:
    """`--apply-sql` is for the stock target: it finds the right tables afterwards."""
    assert run(tmp_path, database.config, "--apply-sql") == 0
    assert database.value("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 4


def test_settings_are_those_of_the_stock_target() -> None:
    """None is added and none is missing; defaults differ, and the stock's stay what they are."""
    stock: dict[str, Any] = TargetPostgres.config_jsonschema
    TargetPostgres.append_builtin_config(stock)
    ours = TargetPostgresCheckpoint.config_jsonschema["properties"]
    assert set(ours) == set(stock["properties"])
    differing = {name for name in ours if ours[name] != stock["properties"][name]}
    assert differing == {
        "default_target_schema",
        "use_copy",
        "add_record_metadata",
        "activate_version",
        "validate_records",
        "batch_size_rows",
    }


def test_secrets_are_found_wherever_settings_hold_them() -> None:
    """Passwords, keys, and the password inside a URL, also as it is escaped there."""
    config = {
        "password": "one",
        "sqlalchemy_url": "postgresql+psycopg://u:t%40wo@h/d",
        "ssh_tunnel": {"private_key": "three", "private_key_password": "four"},
    }
    secrets = secrets_of(config)
    text = without(secrets, "one t@wo t%40wo three four postgresql+psycopg://u:t%40wo@h/d five")
    assert text == "*** *** *** *** *** *** five"


def test_errors_of_many_lines_become_one() -> None:
    """Of a list of failed addresses the first failure is shown with its heading."""
    said = in_one_line(
        OSError("Multiple connection attempts failed. All failures were:\n- host: h\n- more")
    )
    assert said == "Multiple connection attempts failed. All failures were: - host: h"
