"""`datasync-ingest`: the command line behind `run-ingestion.sh`."""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from datasync_ingestion.console import complain, say
from datasync_ingestion.errors import FAILED, OK, USAGE, IngestionError, UsageError
from datasync_ingestion.interrupts import Interrupts, StoppedError
from datasync_ingestion.supervisor import Options, Supervisor

if TYPE_CHECKING:
    from collections.abc import Sequence

HELP = Path(__file__).with_name("help.txt")

# Options of `datasync-sandbox up` that make no sense in a load, which needs both stand-ins and
# knows where they are.
_FOR_THE_SANDBOX_ALONE = ("--api-only", "--db-only", "--dir", "--list-malformed", "--list-faults")


class _Parser(argparse.ArgumentParser):
    """Shows `help.txt`, which `run-ingestion.sh` shows before anything is installed."""

    def format_help(self) -> str:
        return HELP.read_text()

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{message[:1].upper()}{message[1:]}; see `sh run-ingestion.sh --help`.\n")


def parse(arguments: Sequence[str]) -> tuple[Options, bool]:
    """Read the command line.

    Returns:
        The options, and whether only to stop the sandbox.
    """
    # No abbreviations: what is no option here is one of the sandbox.
    parser = _Parser(prog="run-ingestion.sh", allow_abbrev=False)
    parser.add_argument("--bulk", action="store_true")
    parser.add_argument("--full-refresh", action="store_true")
    parser.add_argument("--no-restart", action="store_true")
    parser.add_argument("--stop", action="store_true")
    parser.add_argument("--verbose", action="store_true")
    known, rest = parser.parse_known_args(arguments)
    if known.stop and len(arguments) > 1:
        parser.error("--stop goes with no other option")
    for word in rest:
        if word.partition("=")[0] in _FOR_THE_SANDBOX_ALONE:
            parser.error(f"'{word}' is an option of .venv/bin/datasync-sandbox alone")
    options = Options(
        bulk=known.bulk,
        full_refresh=known.full_refresh,
        restart=not known.no_restart,
        verbose=known.verbose,
        sandbox=tuple(rest),
    )
    return options, known.stop


def main() -> None:
    """Run `datasync-ingest` in a checkout of the project."""
    options, only_stop = parse(sys.argv[1:])
    interrupts = Interrupts()
    interrupts.install()
    try:
        code = _run(options, interrupts, only_stop=only_stop)
    except OSError as error:
        message = (
            f"The run has to end: {error}. "
            "What is loaded stays, and the next run goes on from there."
        )
        # The output itself may be what has gone, and with a terminal comes its SIGHUP.
        with suppress(OSError):
            complain(message)
        code = StoppedError(interrupts.received).exit_code if interrupts.received else FAILED
    sys.exit(code)


def _run(options: Options, interrupts: Interrupts, *, only_stop: bool) -> int:
    """Run it; returns the exit code."""
    root = Path.cwd()
    try:
        if not (root / "meltano.yml").is_file():
            message = f"There is no meltano.yml in {root}: run this through run-ingestion.sh."
            raise UsageError(message)
        supervisor = Supervisor(root, options, interrupts)
        if not only_stop:
            return supervisor.run()
        say(supervisor.stop_standins())
    except IngestionError as error:
        complain(error)
        return error.exit_code
    except StoppedError as stopped:
        return stopped.exit_code
    return OK
