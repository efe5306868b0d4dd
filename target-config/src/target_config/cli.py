"""The executable: every failure ends in one plain sentence and an exit code."""

from __future__ import annotations

import gc
import signal
import sys
import textwrap
from typing import TYPE_CHECKING, NoReturn

import click

from target_config.failures import LoaderError
from target_config.target import TargetPostgresCheckpoint

if TYPE_CHECKING:
    from collections.abc import Sequence

LONGEST_MESSAGE = 300
"""Characters of a foreign error that are shown: the SDK quotes whole messages, with their data."""

GARBAGE_THRESHOLD = 50_000
"""Objects that are made before the collector looks at them; a page of records makes fewer."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run `target-postgres-checkpoint`.

    Exit codes: 0 all input is loaded; 1 failed, trying again may help; 2 bad settings or usage;
    143 or 130 stopped by SIGTERM or SIGINT.
    """
    command = TargetPostgresCheckpoint.cli
    logger = TargetPostgresCheckpoint.logger
    # The records of a batch live until it is written, and hold no cycles. With its default of 700
    # the collector walks through them, and through all that was imported, for a sixth of the time.
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD)
    try:
        code = command.main(
            arguments, prog_name="target-postgres-checkpoint", standalone_mode=False
        )
    except SystemExit as end:
        if end.code in {128 + signal.SIGTERM, 128 + signal.SIGINT}:
            logger.warning("Stopped by a signal; everything up to the last STATE is committed.")
        raise
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except LoaderError as error:
        logger.error("%s", error)  # noqa: TRY400 - a sentence, no traceback
        sys.exit(error.exit_code)
    except Exception as error:
        said = textwrap.shorten(str(error), LONGEST_MESSAGE, placeholder=" ...")
        logger.error("The load stopped: %s: %s", type(error).__name__, said)  # noqa: TRY400
        logger.debug("Where it happened:", exc_info=True)
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)
