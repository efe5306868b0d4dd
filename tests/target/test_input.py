"""The command line, its settings and its exit codes; the messages on stdin and their end."""

from __future__ import annotations

import gc
import io
import json
import logging
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from target_config import reader
from target_config.errors import (
    InvalidDataError,
    SettingsError,
    TruncatedInputError,
    redact,
    summarize,
)
from target_config.target import TargetPostgresCheckpoint, main
from target_postgres.target import TargetPostgres

from tests.target.target_helpers import (
    Make,
    event,
    exchange,
    lines,
    page,
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
    from collections.abc import Iterator
    from pathlib import Path

    from tests.helpers import Database


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
        main(["--config", str(file), *arguments])
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
            main(arguments)
        assert end.value.code == 2


@pytest.mark.parametrize("option", ["--version", "--about", "--help"])
def test_version_help_and_about_need_no_settings(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """They print to stdout, with exit code 0."""
    with pytest.raises(SystemExit) as end:
        main([option])
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


def test_reads_input_file_of_command_line(
    tmp_path: Path, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "input.jsonl"
    source.write_bytes(lines(scan(2)))
    assert run(tmp_path, database.config, "--input", str(source)) == 0
    assert len(states(capsys.readouterr().out)) == 2


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


def test_rows_after_the_last_state_are_written(
    database: Database, make_target: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are committed, and the checkpoint stays at the last STATE."""
    make_target().load(stdin([*scan(2), record("events", event(900))]))
    assert states(capsys.readouterr().out)[-1] == state(20, 20, done=True)
    assert database.progress() == (21, 20)


@pytest.mark.parametrize(
    "last", [b'{"type": "RECORD", "stream": "ev', b'{"type": "STATE", "value": {"a": 1}', b"{"]
)
def test_interrupted_message_is_dropped(
    database: Database, make_target: Make, capsys: pytest.CaptureFixture[str], last: bytes
) -> None:
    """A tap that is killed while it writes: exit code 1; what the last STATE covers is written."""
    with pytest.raises(TruncatedInputError, match="ends within a message") as caught:
        make_target().load(io.BytesIO(lines(scan(2)) + last))
    assert caught.value.exit_code == 1
    assert states(capsys.readouterr().out) == [state(10, 20), state(20, 20, done=True)]
    assert database.progress() == (20, 20)


@pytest.mark.parametrize(
    "text",
    [
        lines(scan(1)).rstrip(b"\n"),
        lines(scan(1)).replace(b"\n", b"\n\n"),
        lines(scan(1)).replace(b"\n", b"\r\n"),
        b"".join(json.dumps(m, separators=(",", ":")).encode() + b"\n" for m in scan(1)),
        b"".join(json.dumps(m, sort_keys=True).encode() + b"\n" for m in scan(1)),
        b"".join(b"  " + json.dumps(m).encode() + b"\n" for m in scan(1)),
    ],
    ids=["no last newline", "empty lines", "CRLF", "compact", "other order", "indented"],
)
def test_every_spelling_of_the_messages_is_loaded(
    database: Database, make_target: Make, text: bytes
) -> None:
    make_target().load(io.BytesIO(text))
    assert database.rows(
        "SELECT count(*), count(DISTINCT session ->> 'id'), (SELECT events_seen FROM checkpoint), "
        "(SELECT count(*) FROM pages) FROM events"
    ) == [(10, 1, 10, 1)]


def test_lines_may_be_longer_than_a_block(
    database: Database, make_target: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "BLOCK_BYTES", 64)
    rows = [event(number, properties={"long": "x" * (number % 7) * 50}) for number in range(40)]
    make_target().load(stdin([*schemas(), *page(40, *rows)]))
    assert database.rows("SELECT count(*), sum(length(properties ->> 'long')) FROM events") == [
        (40, sum(number % 7 * 50 for number in range(40)))
    ]


def test_line_without_an_end_is_refused(make_target: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded whatever arrives on stdin."""
    monkeypatch.setattr(reader, "MAX_LINE_BYTES", 2**20)
    with pytest.raises(InvalidDataError, match="is longer than 1 MiB"):
        make_target().load(io.BytesIO(b"x" * 2**22))


def test_input_that_cannot_be_read_ends_in_one_message(make_target: Make, tmp_path: Path) -> None:
    with (
        (tmp_path / "input").open("wb") as unreadable,
        pytest.raises(Exception, match="The input cannot be read"),
    ):
        make_target().load(unreadable)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"Traceback (most recent call last):", "is not JSON"),
        (b"[1]", "is not a Singer message"),
        (b'{"type": "STATUS"}', "is not a Singer message"),
        (b'{"type": "STATE"}', "is not a Singer message"),
        (b'{"type": "STATE", "value": {"a": NaN}}', "is not JSON"),
        (b'{"type": "STATE", "value": {"a": "\xff"}}', "is not JSON"),
        (b'{"type": "RECORD", "stream": "unknown", "record": {}}', "precedes the schema"),
        (b"[" * 100_000, "is not JSON"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else value[:40].decode("latin1"),
)
def test_invalid_message_ends_load(make_target: Make, line: bytes, message: str) -> None:
    """Exit code 3. The line is not quoted, because it may contain anything."""
    with pytest.raises(InvalidDataError, match=message) as caught:
        make_target().load(io.BytesIO(lines(schemas()) + line + b"\n"))
    assert len(str(caught.value)) < 150


@pytest.mark.parametrize("row", [event(1, name=5), {"name": "no id"}])
def test_record_that_fails_validation_ends_the_load(make_target: Make, row: dict[str, Any]) -> None:
    with pytest.raises(InvalidDataError, match='A record of "events" does not match its schema'):
        make_target(validate_records=True).load(stdin([*schemas(), *page(1, row)]))


def test_batch_message_is_refused(make_target: Make) -> None:
    """One message that names the setting, exit code 2."""
    batch = {"type": "BATCH", "stream": "events", "encoding": {}, "manifest": []}
    with pytest.raises(SettingsError, match="remove the setting batch_config of the tap"):
        make_target().load(stdin([*schemas(), batch]))


def test_version_messages_are_accepted(database: Database, make_target: Make) -> None:
    """Ignored without metadata columns; with them, rows of earlier versions are deleted."""
    version = {"type": "ACTIVATE_VERSION", "stream": "events", "version": 2}
    make_target().load(stdin([*schemas(), record("events", event(1)), version, state_message(1)]))
    assert database.rows("SELECT id FROM events") == [("event-1",)]
    versioned = {**record("events", event(2)), "version": 2}
    settings = {"add_record_metadata": True, "activate_version": True, "hard_delete": True}
    make_target(**settings).load(stdin([*schemas(), versioned, version, state_message(2)]))
    assert database.rows("SELECT id FROM events") == [("event-2",)]


def test_stdin_is_drained_while_rows_are_written(database: Database, tmp_path: Path) -> None:
    """The tap can write several pages while PostgreSQL blocks the first one."""
    with start(database, tmp_path) as target, database.connect() as other:
        assert exchange(target, [*schemas(), *page(1)]) == state(1)
        with other.transaction():
            other.execute("LOCK TABLE events IN SHARE MODE")
            # More than a pipe holds: it would block here if the target did not read.
            for number in range(1, 5):
                rows = (event(number * 10_000 + row) for row in range(5000))
                page_lines = lines(page(number, *rows))
                assert len(page_lines) > reader.PIPE_BYTES
                target.stdin.write(page_lines)
        output, errors = target.communicate()
    assert target.returncode == 0, errors
    assert len(states(output)) == 3
    assert database.value("SELECT count(*) FROM events") == 20_001
