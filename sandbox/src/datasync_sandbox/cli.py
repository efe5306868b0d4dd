"""``datasync-sandbox``: the command line."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from datasync_sandbox import SandboxError
from datasync_sandbox.api.model import ApiModel
from datasync_sandbox.data.feed import Feed
from datasync_sandbox.options import (
    HOST,
    ApiOptions,
    FeedOptions,
    api_options,
    feed_options,
    list_faults,
)
from datasync_sandbox.sandbox import Sandbox, fetch_stats

if TYPE_CHECKING:
    from datasync_sandbox.api.server import ApiServer

_INCOMPLETE = 3


class _OptionError(click.ClickException):
    exit_code = 2


class _Commands(click.Group):
    """Commands that end with one message: exit code 2 for a wrong option, else 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ValueError as error:
            raise _OptionError(str(error)) from error
        except SandboxError as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
            raise click.ClickException(message) from error


directory_option = click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".sandbox"),
    show_default=True,
    help="Directory of the sandbox.",
)
api_only_option = click.option("--api-only", is_flag=True, help="Only the API.")
db_only_option = click.option("--db-only", is_flag=True, help="Only the database.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(package_name="datasync-sandbox")
def main() -> None:
    """A local DataSync API with its limits and failure modes, and an embedded PostgreSQL."""


# \b: paragraphs that click does not wrap.
@main.command(epilog="\b\n" + list_faults().replace("\n\n", "\n\n\b\n"))
@click.option(
    "--host",
    default=HOST,
    show_default=True,
    help="Address to listen on; 0.0.0.0 admits other machines and containers.",
)
@api_options
def api(host: str, **options: Any) -> None:
    """Serve the DataSync API in the foreground; Ctrl-C ends it.

    Prints its URL as a line. GET /__sandbox__/stats, outside the API, returns what happened:
    requests, pages, 429s, faults, arrival times.
    """
    # The web framework takes long to load, and no other command needs it.
    from datasync_sandbox.api.server import ApiServer  # noqa: PLC0415

    chosen = ApiOptions(**options)
    model = ApiModel(chosen, started_at=time.time())
    asyncio.run(_serve(ApiServer(model, chosen.port, host)))


@main.command()
@click.option("--arrived", type=click.IntRange(0), default=0, help="Events that have arrived.")
@feed_options
def feed(arrived: int, **options: Any) -> None:
    """Print the rows that a table should hold, newest first, as JSON lines; timestamps in UTC.

    Rows without an id are left out: they never reach the table.
    """
    events = Feed(FeedOptions(**options))
    events.arrive(arrived)
    for row in events.rows():
        if row.id is not None:
            click.echo(json.dumps(row.to_dict(), separators=(",", ":")))


@main.command()
@directory_option
@click.option(
    "--db-port",
    type=click.IntRange(0, 65535),
    help="Port of the database; 0 picks a free one; default: the last one, or 54329.",
)
@api_only_option
@db_only_option
@click.option(
    "--restore",
    is_flag=True,
    help="Start again what ran last and has died, with the same options, key and ports.",
)
@json_option
@api_options
def up(  # noqa: PLR0913 - options
    directory: Path,
    db_port: int | None,
    *,
    api_only: bool,
    db_only: bool,
    restore: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Start API and database in the background, and wait until both reply.

    What runs already is left alone. An API that runs with other options is started again;
    without any option for the API, a running one is taken as it is. DIRECTORY/env holds how to
    reach what runs. A default port that is in use is replaced by a free one.
    """
    halves = _halves(api_only=api_only, db_only=db_only)
    sandbox = Sandbox(directory)
    if restore:
        sandbox.restore(**halves)
    else:
        source = click.get_current_context().get_parameter_source
        defaults = (ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP)
        given = {name for name in options if source(name) not in defaults}
        sandbox.up(ApiOptions(**options), given, **halves, db_port=db_port)
    status = sandbox.status()
    if as_json:
        click.echo(json.dumps(status))
        return
    words = {True: "started", False: "already running"}
    if found := status["api"]:
        click.echo(f"API:      {found['url']} ({words[found['started']]}, pid {found['pid']})")
    if found := status["database"]:
        address = sandbox.database.url
        click.echo(f"Database: {address} ({words[found['started']]}, pid {found['pid']})")
    click.echo(f"Written:  {sandbox.environment_file}")


@main.command()
@directory_option
@api_only_option
@db_only_option
def down(directory: Path, *, api_only: bool, db_only: bool) -> None:
    """Stop API and database; the data stays."""
    halves = _halves(api_only=api_only, db_only=db_only)
    api_ran, database_ran = Sandbox(directory).down(**halves)
    words = {True: "stopped", False: "was not running"}
    if not db_only:
        click.echo(f"API:      {words[api_ran]}")
    if not api_only:
        click.echo(f"Database: {words[database_ran]}")


@main.command()
@directory_option
@json_option
@click.pass_context
def status(context: click.Context, directory: Path, *, as_json: bool) -> None:
    """Show what runs; exit code 3 unless both do."""
    sandbox = Sandbox(directory)
    found = sandbox.status()
    api, database = found["api"], found["database"]
    stats = fetch_stats(api["url"]) if api else None
    if as_json:
        click.echo(json.dumps(found))
    else:
        if api and stats:
            counts = f"{stats['total']} events, {stats['requests']} requests"
            click.echo(f"API:      {api['url']} (pid {api['pid']}, {counts})")
        else:
            problem = f"pid {api['pid']} does not reply" if api else "not running"
            click.echo(f"API:      {problem}")
        reachable = f"{sandbox.database.url} (pid {database['pid']})" if database else "not running"
        click.echo(f"Database: {reachable}")
    context.exit(0 if stats and database else _INCOMPLETE)


@main.group()
def db() -> None:
    """The embedded PostgreSQL; `up --db-only` and `down --db-only` start and stop it."""


@db.command()
@directory_option
def url(directory: Path) -> None:
    """Print the connection URL."""
    click.echo(Sandbox(directory).database.url)


@db.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@directory_option
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def psql(directory: Path, arguments: tuple[str, ...]) -> None:
    """Open the bundled psql; ARGUMENTS go to psql, for example -c 'SELECT 1'."""
    database = Sandbox(directory).database
    if database.pid() is None:
        message = "The database is not running. Start it: datasync-sandbox up --db-only"
        raise SandboxError(message)
    command = database.psql_command(*arguments)
    # psql replaces this process, and inherits its terminal.
    os.execve(command[0], command, database.environment())  # noqa: S606


async def _serve(server: ApiServer) -> None:
    """Serve until SIGINT or SIGTERM."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    await server.start()
    click.echo(server.url)
    await stop.wait()
    await server.stop()


def _halves(*, api_only: bool, db_only: bool) -> dict[str, bool]:
    if api_only and db_only:
        message = "--api-only and --db-only exclude each other; leave both out for both."
        raise click.UsageError(message)
    return {"api": not db_only, "database": not api_only}
