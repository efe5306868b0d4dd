"""``datasync-sandbox db``: the database on the command line."""

from __future__ import annotations

import os
from pathlib import Path

import click

from datasync_sandbox import binaries
from datasync_sandbox.errors import SandboxError
from datasync_sandbox.postgres import DEFAULT_DB_PORT, Cluster

directory_option = click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".sandbox"),
    show_default=True,
    help="Directory of the sandbox; the database is in its pg.",
)


@click.group()
def db() -> None:
    """A real PostgreSQL 18 of the sandbox's own, on 127.0.0.1."""


@db.command()
@directory_option
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help=f"Port on 127.0.0.1; 0 picks a free one; default: the last one, or {DEFAULT_DB_PORT}.",
)
def start(directory: Path, port: int | None) -> None:
    """Start it and leave it running; make it first when it is new."""
    cluster = Cluster(directory / "pg")
    try:
        started = cluster.start(port)
    except SandboxError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{'Started' if started else 'Already running'}: {cluster.url}")


@db.command()
@directory_option
def stop(directory: Path) -> None:
    """Stop it; the data stays."""
    try:
        stopped = Cluster(directory / "pg").stop()
    except SandboxError as error:
        raise click.ClickException(str(error)) from error
    click.echo("Stopped." if stopped else "Was not running.")


@db.command()
@directory_option
@click.pass_context
def status(context: click.Context, directory: Path) -> None:
    """Say whether it runs; exit code 3 when not."""
    cluster = Cluster(directory / "pg")
    pid = cluster.pid()
    click.echo(f"Running: {cluster.url} (pid {pid})" if pid else "Not running.")
    context.exit(0 if pid else 3)


@db.command()
@directory_option
def url(directory: Path) -> None:
    """Print the connection URL."""
    click.echo(Cluster(directory / "pg").url)


@db.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@directory_option
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def psql(directory: Path, arguments: tuple[str, ...]) -> None:
    """Open the psql that comes with it; ARGUMENTS go to psql, e.g. -c 'SELECT 1'."""
    cluster = Cluster(directory / "pg")
    if cluster.pid() is None:
        message = "The database is not running; start it with: datasync-sandbox db start"
        raise click.ClickException(message)
    try:
        program = binaries.bin_directory() / "psql"
    except SandboxError as error:
        raise click.ClickException(str(error)) from error
    # psql takes the place of this process, and with it the terminal.
    os.execve(program, [str(program), *arguments], cluster.environment())  # noqa: S606
