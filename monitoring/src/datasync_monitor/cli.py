"""The command `datasync-monitor`."""

from __future__ import annotations

import importlib.util
import math
import os
import socket
import sys
import time
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import click

from datasync_monitor import __version__
from datasync_monitor.database import (
    DatabaseSettings,
    DatabaseUnavailable,
    ReconnectingConnection,
)
from datasync_monitor.progress import STALL_TIMEOUT, State, read_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EXIT_UNHEALTHY = 1
EXIT_CONFIGURATION = 2
EXIT_INTERRUPTED = 130
_EXTRAS = {"streamlit": "web", "prometheus_client": "metrics"}
# Streamlit without telemetry and without requests to other hosts.
_STREAMLIT_OPTIONS = {
    "server.headless": "true",  # or it opens a browser and asks for an e-mail address
    "server.fileWatcherType": "none",
    "server.showEmailPrompt": "false",
    "browser.gatherUsageStats": "false",
    "runner.magicEnabled": "false",
    "client.toolbarMode": "minimal",
    "client.showErrorDetails": "none",
    "theme.base": "light",
    "theme.primaryColor": "#2563eb",
}

_EPILOG = """
\b
Environment:
  DB_HOST, DB_PORT, DB_USER, DB_PASSWORD or DB_PASSWORD_FILE, DB_NAME
      The database. The port is 5432 by default, and without a password libpq
      looks for one (~/.pgpass). Without DB_HOST, it is the sandbox's that
      .sandbox/env of the current directory names.
"""


def _seconds_option(name: str, default: float, text: str) -> Callable[..., Any]:
    """Return an option that takes a number of seconds and passes a timedelta."""

    def convert(_: click.Context, __: click.Parameter, value: float) -> timedelta:
        if not (math.isfinite(value) and value > 0):
            message = "must be a number of seconds, more than 0"
            raise click.BadParameter(message)
        return timedelta(seconds=value)

    return click.option(
        name,
        type=float,
        metavar="SECONDS",
        default=default,
        show_default=True,
        callback=convert,
        help=text,
    )


def _port_option(default: int) -> Callable[..., Any]:
    return click.option(
        "--port",
        type=click.IntRange(1, 65535),
        metavar="NUMBER",
        default=default,
        show_default=True,
        help="Port to listen on.",
    )


_host_option = click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on."
)
_schema_option = click.option(
    "--schema", default="public", show_default=True, help="Schema of the tables."
)
_stall_timeout_option = _seconds_option(
    "--stall-timeout",
    STALL_TIMEOUT.total_seconds(),
    "Time without progress, beyond every announced wait, after which a load is stuck.",
)


@click.group(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(version)s")
def cli() -> None:
    """Show a load of events. All commands read PostgreSQL, and write nothing."""


@cli.command()
@_schema_option
@_stall_timeout_option
@_seconds_option("--interval", 1, "Time between two readings.")
@click.option("--follow", is_flag=True, help="Continue after the end of a scan, until Ctrl-C.")
def watch(schema: str, stall_timeout: timedelta, interval: timedelta, follow: bool) -> None:  # noqa: FBT001
    """Show the progress of a load that runs elsewhere."""
    from datasync_monitor import terminal  # noqa: PLC0415 - `check` starts faster without rich

    terminal.watch(
        _settings(schema),
        stall_timeout=stall_timeout,
        pause=lambda: time.sleep(interval.total_seconds()),
        follow=follow,
    )


@cli.command()
@_schema_option
@_stall_timeout_option
@click.pass_context
def check(context: click.Context, schema: str, stall_timeout: timedelta) -> None:
    """Check the load: one line, exit code 0 (healthy) or 1."""
    try:
        with ReconnectingConnection(DatabaseSettings.from_environment(schema=schema)) as database:
            progress = database.run(lambda connection: read_progress(connection, stall_timeout))
    except (DatabaseUnavailable, ValueError) as error:
        # A container's health check may exit with 0 or 1 only.
        click.echo(error)
        context.exit(EXIT_UNHEALTHY)
    click.echo(progress.headline)
    context.exit(EXIT_UNHEALTHY if progress.state is State.STUCK else 0)


@cli.command()
@_schema_option
@_stall_timeout_option
@_host_option
@_port_option(8501)
@_seconds_option("--interval", 2, "Time between two refreshes of the page.")
def web(schema: str, stall_timeout: timedelta, host: str, port: int, interval: timedelta) -> None:
    """Serve the dashboard."""
    settings = _settings(schema)
    with _listening(host, port):
        if importlib.util.find_spec("streamlit") is None:
            raise ModuleNotFoundError(name="streamlit")
        # Fail on a port that is taken with a shorter message than Streamlit's.
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            # As servers do: connections to the previous one may still be closing.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    click.echo(f"Dashboard of {settings.location}: http://{host}:{port}")
    options = {
        **_STREAMLIT_OPTIONS,
        "server.address": host,
        "server.port": port,
        # Or a request with this address as its origin makes the server look up its public address.
        "browser.serverAddress": host,
    }
    command = [
        *(sys.executable, "-m", "streamlit", "run", str(Path(__file__).parent / "web" / "app.py")),
        *(f"--{name}={value}" for name, value in options.items()),
        "--",
        *(schema, str(interval.total_seconds()), str(stall_timeout.total_seconds())),
    ]
    # Streamlit replaces this process, so that signals reach it directly, and reads the settings
    # again: the password stays in the environment.
    os.execv(command[0], command)  # noqa: S606 - this interpreter, without a shell


@cli.command()
@_schema_option
@_stall_timeout_option
@_host_option
@_port_option(9464)
def metrics(schema: str, stall_timeout: timedelta, host: str, port: int) -> None:
    """Serve the numbers to Prometheus, at /metrics."""
    settings = _settings(schema)
    with _listening(host, port):
        from datasync_monitor.metrics import serve  # noqa: PLC0415 - needs the extra `metrics`

        serve(settings, host=host, port=port, stall_timeout=stall_timeout)
    click.echo(f"Metrics of {settings.location}: http://{host}:{port}/metrics")
    Event().wait()


def _settings(schema: str) -> DatabaseSettings:
    try:
        return DatabaseSettings.from_environment(schema=schema)
    except ValueError as error:
        raise click.ClickException(str(error)) from None


@contextmanager
def _listening(host: str, port: int) -> Iterator[None]:
    """Report an address that cannot be used, or a package that is not installed."""
    try:
        yield
    except OSError as error:
        message = f"Cannot listen on {host}:{port}: {error.strerror}."
        raise click.ClickException(message) from None
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get(error.name or "")
        if extra is None:
            raise
        message = (
            f"{error.name} is not installed: use `meltano invoke datasync-monitor:{extra}`, "
            f"or install it with `pip install './monitoring[{extra}]'`."
        )
        raise click.ClickException(message) from None


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return the exit code."""
    try:
        return cli.main(arguments, "datasync-monitor", standalone_mode=False) or 0
    except click.Abort:
        return EXIT_INTERRUPTED
    except click.ClickException as error:
        error.show()
        return EXIT_CONFIGURATION


if __name__ == "__main__":
    sys.exit(main())
