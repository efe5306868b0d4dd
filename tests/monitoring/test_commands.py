"""The commands: exit codes, one line, a live view on a pseudo terminal."""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING
from unittest.mock import Mock

import pytest
from datasync_monitor import terminal
from datasync_monitor.cli import main
from datasync_monitor.database import DatabaseSettings

from tests.monitoring.monitoring_helpers import environment, write_load

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.monitoring.monitoring_helpers import TableWriter

UNUSED = DatabaseSettings("127.0.0.1", port=1)

extras = pytest.mark.parametrize(
    ("command", "package"), [("web", "streamlit"), ("metrics", "prometheus_client")]
)


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Return a function that runs a command on a database."""

    def run(settings: DatabaseSettings, *arguments: str) -> tuple[int, str, str]:
        for name, value in environment(settings).items():
            monkeypatch.setenv(name, value)
        code = main(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.mark.parametrize(
    ("state", "exit_code", "text"),
    [
        ("idle", 0, "idle: nothing loaded yet"),
        ("running", 0, "running: 85,000 of 100,000 events, 85.0 %, 3 of 10 requests left"),
        ("waiting", 0, "waiting: 50,000 of 100,000 events, 50.0 %, waiting "),
        ("stuck", 1, "stuck: 65,000 of 100,000 events, 65.0 %, no progress for 15 min"),
        ("finished", 0, "finished: 100,000 events in the last scan, loaded up to 2026-01-27 19:00"),
    ],
)
def test_check_reports_each_state_in_one_line(  # noqa: PLR0913 - three fixtures, three parameters
    settings: DatabaseSettings, writer: TableWriter, run, *, state: str, exit_code: int, text: str
) -> None:
    write_load(writer, state)
    code, out, err = run(settings, "check")
    assert (code, err) == (exit_code, "")
    assert out.startswith(text)
    assert out.count("\n") == 1


def test_check_without_a_database_exits_with_1(run) -> None:
    assert run(UNUSED, "check") == (
        1,
        "Cannot connect to the database events at 127.0.0.1:1: Connection refused.\n",
        "",
    )


@pytest.mark.parametrize(
    ("privilege", "name"), [("SELECT ON", "table pages"), ("USAGE ON SCHEMA", "schema public")]
)
def test_check_of_tables_that_may_not_be_read_exits_with_1(
    settings: DatabaseSettings, writer: TableWriter, run, privilege: str, name: str
) -> None:
    writer.connection.execute(f"REVOKE {privilege} {name.split()[1]} FROM CURRENT_USER")
    code, out, err = run(settings, "check")
    assert (code, err) == (1, "")
    assert out == (
        f"The database {settings.location} refuses the statement: permission denied for {name}.\n"
    )


def test_the_tables_may_be_in_another_schema(
    settings: DatabaseSettings, writer: TableWriter, run
) -> None:
    write_load(writer, "running")
    writer.connection.execute('ALTER SCHEMA public RENAME TO "odd name"; CREATE SCHEMA public')
    assert run(settings, "check")[1] == "idle: nothing loaded yet\n"
    assert run(settings, "check", "--schema", "odd name")[1].startswith(
        "running: 85,000 of 100,000"
    )


def test_the_stall_timeout_is_an_option(
    settings: DatabaseSettings, writer: TableWriter, run
) -> None:
    write_load(writer, "stuck")
    assert run(settings, "check", "--stall-timeout", "3600")[0] == 0


@pytest.mark.parametrize(("command", "code"), [("check", 1), ("watch", 2), ("metrics", 2)])
def test_an_invalid_setting_is_named(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    code: int,
) -> None:
    monkeypatch.setenv("DB_HOST", "127.0.0.1")
    monkeypatch.setenv("DB_PORT", "four")
    assert main([command]) == code
    captured = capsys.readouterr()
    message = "DB_PORT must be a port number from 1 to 65535, not 'four'."
    assert message in captured.out + captured.err


@pytest.mark.parametrize(
    "arguments",
    [
        *(("check", f"--stall-timeout={value}") for value in ("0", "-1", "nan", "inf", "soon")),
        *((command, f"--port={port}") for command in ("web", "metrics") for port in ("0", "65536")),
    ],
)
def test_an_invalid_option_is_named(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, str]
) -> None:
    assert main(list(arguments)) == 2
    assert f"Invalid value for '{arguments[1].split('=')[0]}'" in capsys.readouterr().err


@extras
def test_a_port_that_is_taken_is_named(run, command: str, package: str) -> None:
    pytest.importorskip(package, reason=f"the extra `{command}` is not installed")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run(UNUSED, command, "--port", str(port)) == (
            2,
            "",
            f"Error: Cannot listen on 127.0.0.1:{port}: Address already in use.\n",
        )


@extras
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, run, command: str, package: str
) -> None:
    monkeypatch.delitem(sys.modules, "datasync_monitor.metrics", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    code, _, err = run(UNUSED, command)
    assert code == 2
    assert err.startswith(f"Error: {package} is not installed: use ")
    assert f"`meltano invoke datasync-monitor:{command}`" in err


def test_interrupting_exits_with_130(monkeypatch: pytest.MonkeyPatch, run) -> None:
    monkeypatch.setattr(terminal, "watch", Mock(side_effect=KeyboardInterrupt))
    assert run(UNUSED, "watch")[0] == 130
