"""Command line: every error is reported as one line and an exit code."""

from __future__ import annotations

import gc
import os
import signal
import sys
import textwrap
from typing import TYPE_CHECKING, NoReturn

import click

from target_config.errors import TargetError
from target_config.target import TargetPostgresCheckpoint

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_MESSAGE_LENGTH = 300
"""Characters of an unexpected error that are logged: it may quote a whole Singer message."""

GARBAGE_THRESHOLD = 50_000
"""Objects created between two runs of the garbage collector."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run `target-postgres-checkpoint`.

    Exit codes: 0 all input is loaded; 1 try again; 2 settings, privileges or tables; 3 invalid
    data; 75 another load is running; 128 + signal.
    """
    command = TargetPostgresCheckpoint.cli
    logger = TargetPostgresCheckpoint.logger
    # Rows hold no cycles and live until they are written. With its default threshold the collector
    # visits them, and all imported modules, for a sixth of the time.
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD)
    try:
        code = command.main(
            arguments, prog_name="target-postgres-checkpoint", standalone_mode=False
        )
    except SystemExit as end:
        if isinstance(end.code, int) and end.code > 128:  # noqa: PLR2004
            name = signal.Signals(end.code - 128).name
            logger.warning("Stopped by %s; everything up to the last STATE is committed.", name)
            # At its own end the interpreter would let the next signal kill it.
            os._exit(end.code)
        raise
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except TargetError as error:
        logger.critical("%s", error, extra={"exit_code": error.exit_code})
        sys.exit(error.exit_code)
    except Exception as error:
        message = textwrap.shorten(str(error), MAX_MESSAGE_LENGTH, placeholder=" ...")
        logger.critical(
            "Unexpected error: %s: %s", type(error).__name__, message, extra={"exit_code": 1}
        )
        logger.debug("Traceback:", exc_info=True)
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)
