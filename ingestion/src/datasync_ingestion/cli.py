"""`datasync-ingest`: the command line behind `run-ingestion.sh`."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import click
from typing_extensions import override

from datasync_ingestion.errors import EXIT_RETRY, IngestionError, Interrupted, SignalWatcher

HELP = Path(__file__).with_name("help.txt")

# Options of `datasync-sandbox up` that a run sets itself, or that print instead of starting.
_SANDBOX_ONLY = (
    *("--api-only", "--db-only", "--dir", "--json", "--restore"),
    *("--list-faults", "--list-malformed"),
)


class _Command(click.Command):
    """Prints `help.txt`, which `run-ingestion.sh` prints before anything is installed."""

    @override
    def get_help(self, ctx: click.Context) -> str:
        return HELP.read_text(encoding="utf-8").rstrip("\n")

    @override
    def get_usage(self, ctx: click.Context) -> str:
        return HELP.read_text(encoding="utf-8").partition("\n")[0]


@click.command(
    cls=_Command,
    context_settings={
        "help_option_names": ["-h", "--help"],
        # Options that are not defined here are passed to the sandbox.
        "ignore_unknown_options": True,
    },
)
@click.option("--full-refresh", is_flag=True)
@click.option("--no-restart", is_flag=True)
@click.option("--stop-sandbox", is_flag=True)
@click.option("--verbose", is_flag=True)
@click.argument("sandbox_options", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def command(
    signals: SignalWatcher,
    /,
    *,
    stop_sandbox: bool,
    sandbox_options: tuple[str, ...],
    **flags: bool,
) -> None:
    """Check the options and run."""
    if stop_sandbox and (sandbox_options or any(flags.values())):
        message = "--stop-sandbox cannot be combined with other options."
        raise click.UsageError(message)
    for option in sandbox_options:
        name = option.partition("=")[0]
        if name in _SANDBOX_ONLY:
            message = f"{name} is an option of .venv/bin/datasync-sandbox only."
            raise click.UsageError(message)
    # The import takes half a second, and signals have to be handled before it.
    from datasync_ingestion.ingestion import Ingestion  # noqa: PLC0415

    ingestion = Ingestion(Path.cwd(), signals, sandbox_options, **flags)
    sys.exit(ingestion.stop_sandbox() if stop_sandbox else ingestion.run())


def main() -> NoReturn:
    """Run `datasync-ingest` in a checkout of the project."""
    signals = SignalWatcher()
    signals.install()
    try:
        command.main(prog_name="run-ingestion.sh", obj=signals)
    except Interrupted as interrupted:
        code = interrupted.exit_code
    except IngestionError as error:
        _print_error(error)
        code = error.exit_code
    except OSError as error:
        _print_error(f"The run failed: {error}.")
        # A closed terminal fails before its SIGHUP is checked for.
        code = Interrupted(signals.received).exit_code if signals.received else EXIT_RETRY
    sys.exit(code)


def _print_error(message: object) -> None:
    # The terminal may be closed.
    with suppress(OSError):
        click.echo(message, err=True)
