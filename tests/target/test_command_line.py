"""The executable: settings, exit codes, one message each."""

from __future__ import annotations

import gc
import json
import logging
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from target_config import target as cli
from target_config.errors import redact, summarize
from target_config.target import TargetPostgresCheckpoint
from target_postgres.target import TargetPostgres

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from target_helpers import Database


@pytest.fixture(autouse=True)
def restore_logging() -> Iterator[None]:
    """The SDK configures logging, and `main` the garbage collector: both are restored."""
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
    ("config", "message"),
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
        ({"sqlalchemy_url": "x", "batch_config": {}}, "The setting batch_config is not supported"),
        ('{"host": ', "The settings cannot be read"),
    ],
)
def test_wrong_settings_are_exit_code_2(
    tmp_path: Path, config: object, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One message without a secret, at level CRITICAL with the exit code for structured logs."""
    assert run(tmp_path, config) == 2
    [entry] = [entry for entry in caplog.records if entry.levelno >= logging.ERROR]
    assert message in entry.getMessage()
    assert (entry.levelname, vars(entry)["exit_code"]) == ("CRITICAL", 2)
    assert not any(secret in caplog.text for secret in ("91827364", "s3cret"))


def test_missing_file_and_wrong_usage_are_exit_code_2() -> None:
    """Click reports both with exit code 2."""
    for arguments in (["--config", "/nowhere/config.json"], ["--no-such-option"]):
        with pytest.raises(SystemExit) as end:
            cli.main(arguments)
        assert end.value.code == 2


@pytest.mark.parametrize("option", ["--version", "--about", "--help"])
def test_version_help_and_about_need_no_settings(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """They print to stdout, with exit code 0."""
    with pytest.raises(SystemExit) as end:
        cli.main([option])
    assert end.value.code == 0
    assert "target-postgres" in capsys.readouterr().out


def test_unexpected_error_is_one_message(
    tmp_path: Path,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its type and message, shortened, without a traceback; exit code 1."""

    def fail(*_: object) -> None:
        raise KeyError("x" * 1000)

    monkeypatch.setattr(TargetPostgresCheckpoint, "load", fail)
    assert run(tmp_path, database.config, "--apply-sql") == 1
    [entry] = [entry for entry in caplog.records if entry.levelno >= logging.ERROR]
    assert entry.exc_info is None
    assert entry.getMessage().startswith("Unexpected error: KeyError")
    assert len(entry.getMessage()) < 400


def test_apply_sql_creates_the_tables_and_reads_nothing(tmp_path: Path, database: Database) -> None:
    assert run(tmp_path, database.config, "--apply-sql") == 0
    assert database.value("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 4


def test_settings_are_those_of_the_stock_target() -> None:
    """None is added and none is missing; the defaults of the stock target itself do not change."""
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


def test_secrets_are_redacted_wherever_settings_hold_them() -> None:
    """Passwords, keys, and the password inside a URL, also as it is escaped there."""
    config = {
        "password": "one",
        "sqlalchemy_url": "postgresql+psycopg://u:t%40wo@h/d",
        "ssh_tunnel": {"private_key": "three", "private_key_password": "four"},
    }
    text = "one t@wo t%40wo three four postgresql+psycopg://u:t%40wo@h/d five"
    text = redact(text, config)
    assert text == "*** *** *** *** *** *** five"


@pytest.mark.parametrize(
    ("message", "summary"),
    [
        ("All failures were:\n- host: h\n- more", "All failures were: - host: h"),
        ('connection failed: FATAL:  role "x"\n does not exist', 'role "x"'),
        ("", "OperationalError"),
    ],
)
def test_error_of_several_lines_is_summarized(message: str, summary: str) -> None:
    assert summarize(psycopg.OperationalError(message)) == summary
