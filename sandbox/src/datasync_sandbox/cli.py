"""``datasync-sandbox``: the command line."""

from __future__ import annotations

import asyncio
import json
import shlex
import signal
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from datasync_sandbox.background import BackgroundApi, fetch_stats
from datasync_sandbox.cli_db import db, directory_option
from datasync_sandbox.cli_options import api_options, fault_help, feed_options
from datasync_sandbox.errors import SandboxError
from datasync_sandbox.options import ApiOptions
from datasync_sandbox.policy import HOST
from datasync_sandbox.postgres import Cluster
from datasync_sandbox.rows import row_fields

if TYPE_CHECKING:
    from pathlib import Path

    from datasync_sandbox.background import ApiProcess
    from datasync_sandbox.server import ApiServer


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="datasync-sandbox")
def main() -> None:
    """Stand-ins for a laptop: the DataSync API and a real PostgreSQL, on loopback."""


main.add_command(db)


@main.command(epilog=fault_help())
@click.option(
    "--host",
    default=HOST,
    show_default=True,
    help="Address to listen on; 0.0.0.0 lets other machines, or other containers, in.",
)
@api_options
def api(host: str, **options: Any) -> None:
    """Serve the DataSync API in the foreground; Ctrl-C ends it.

    Prints its URL as a line. GET /__sandbox__/stats, outside the API, returns what happened:
    requests, pages, 429s, faults, arrival times.
    """
    # The web framework takes long to load, and no other command needs it.
    from datasync_sandbox.server import ApiServer  # noqa: PLC0415

    chosen = ApiOptions(**options)
    try:
        model = chosen.make_model(started=time.time())
        asyncio.run(_serve(ApiServer(model, chosen.port, host)))
    except (ValueError, SandboxError) as error:
        raise click.ClickException(str(error)) from error


@main.command()
@click.option(
    "--arrived", type=click.IntRange(0), default=0, help="Events that have arrived at the head."
)
@feed_options
def feed(arrived: int, **options: Any) -> None:
    """Print the rows that a table should hold, newest first, as JSON lines; timestamps in UTC.

    Rows without an id are left out: they never reach the table.
    """
    try:
        events = ApiOptions(**options).make_feed()
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    events.arrive(arrived)
    for row in events.rows():
        if row.id is not None:
            click.echo(json.dumps(row_fields(row), separators=(",", ":")))


@main.command()
@directory_option
@click.option(
    "--db-port", type=click.IntRange(0, 65535), help="Port of the database; 0 picks a free one."
)
@click.option("--api-only", is_flag=True, help="Start the API alone.")
@click.option("--db-only", is_flag=True, help="Start the database alone.")
@api_options
def up(
    directory: Path,
    db_port: int | None,
    *,
    api_only: bool,
    db_only: bool,
    **options: Any,
) -> None:
    """Start API and database in the background, wait until both answer, write DIRECTORY/env.

    What already runs is left alone. An API that runs with other options is started anew;
    without any option for the API, one that runs is taken as it is, but for its key when the
    environment has another. DIRECTORY/env says how to reach what runs.
    """
    _check_only(api_only=api_only, db_only=db_only)
    context = click.get_current_context()
    sources = {name: context.get_parameter_source(name) for name in options}
    asked = ParameterSource.COMMANDLINE in sources.values()
    keyed = sources["key"] is ParameterSource.ENVIRONMENT
    try:
        if not db_only:
            _api_up(BackgroundApi(directory), ApiOptions(**options), asked=asked, keyed=keyed)
        if not api_only:
            _db_up(Cluster(directory / "pg"), db_port)
    except (ValueError, SandboxError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"Written:  {_write_environment(directory)}")


@main.command()
@directory_option
@click.option("--api-only", is_flag=True, help="Stop the API alone.")
@click.option("--db-only", is_flag=True, help="Stop the database alone.")
def down(directory: Path, *, api_only: bool, db_only: bool) -> None:
    """Stop API and database; the data stays."""
    _check_only(api_only=api_only, db_only=db_only)
    try:
        if not db_only:
            click.echo(
                f"API:      {'stopped' if BackgroundApi(directory).stop() else 'was not running'}"
            )
        if not api_only:
            click.echo(
                f"Database: {'stopped' if Cluster(directory / 'pg').stop() else 'was not running'}"
            )
    except SandboxError as error:
        raise click.ClickException(str(error)) from error
    _write_environment(directory)


@main.command()
@directory_option
@click.pass_context
def status(context: click.Context, directory: Path) -> None:
    """Say what runs; exit code 3 when not both do."""
    running, cluster = BackgroundApi(directory).find(), Cluster(directory / "pg")
    stats = fetch_stats(running.url) if running else None
    if running and stats:
        click.echo(
            f"API:      {running.url} (pid {running.pid}, "
            f"{stats['total']} events, {stats['requests']} requests)"
        )
    else:
        click.echo(
            "API:      not running"
            if running is None
            else f"API:      pid {running.pid} does not answer"
        )
    pid = cluster.pid()
    click.echo(f"Database: {cluster.url} (pid {pid})" if pid else "Database: not running")
    context.exit(0 if stats and pid else 3)


async def _serve(server: ApiServer) -> None:
    """Serve until a signal says stop."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    await server.start()
    click.echo(server.url)
    await stop.wait()
    await server.stop()


def _check_only(*, api_only: bool, db_only: bool) -> None:
    """Refuse what would be neither of the two."""
    if api_only and db_only:
        message = "--api-only and --db-only exclude each other; leave both out for both."
        raise click.UsageError(message)


def _api_up(background: BackgroundApi, options: ApiOptions, *, asked: bool, keyed: bool) -> None:
    """Start the API, or find it running.

    Args:
        background: The API.
        options: Its options, for one that is started.
        asked: Whether one of them is from the command line.
        keyed: Whether the key is from the environment.
    """
    options.make_model()  # a wrong option is told here, not in a log
    running = background.find()
    if running:
        other_options = asked and running.args != options.to_args()
        other_key = (asked or keyed) and running.key != options.key
        if not (other_options or other_key):
            click.echo(f"API:      {running.url} (already running, pid {running.pid})")
            return
        if not asked:
            options = replace(_options_of(running), key=options.key)
        background.stop()
        click.echo("API:      stopped, to start it with other options")
    running = background.start(options)
    click.echo(f"API:      {running.url} (pid {running.pid}, log {background.log})")


def _options_of(running: ApiProcess) -> ApiOptions:
    """Read the options of an API that runs, but for its key."""
    values = api.make_context("api", list(running.args)).params
    return ApiOptions(**{name: value for name, value in values.items() if name != "host"})


def _db_up(cluster: Cluster, port: int | None) -> None:
    """Start the database, or find it running."""
    word = "started" if cluster.start(port) else "already running"
    click.echo(f"Database: {cluster.url} ({word}, pid {cluster.pid()})")


def _write_environment(directory: Path) -> Path:
    """Write how to reach what runs; no file when nothing does."""
    path, cluster = directory / "env", Cluster(directory / "pg")
    values: dict[str, str] = {}
    if running := BackgroundApi(directory).find():
        values |= {"API_BASE_URL": running.url, "API_KEY": running.key}
    if cluster.pid():
        values |= {
            "DB_HOST": cluster.host,
            "DB_PORT": str(cluster.port),
            "DB_USER": cluster.user,
            "DB_PASSWORD": cluster.password,
            "DB_NAME": cluster.database,
        }
    if values:
        path.touch(mode=0o600)
        path.write_text("".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items()))
    else:
        path.unlink(missing_ok=True)
    return path
